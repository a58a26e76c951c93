"""Dumps that the key module has to fail: the task runs on, nobody can restore half a checkpoint."""

from pathlib import Path

import pytest

from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, WORK, Container
from harness.guest.criu import KEY_MODULE, Criu
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import check
from harness.provision.context import Provision
from harness.provision.toolchain import AARCH64_LINUX, compile_c
from harness.pytest_plugin import RunScenario
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun

HERE = Path(__file__).parent
OLD = pytest.param("3.17.1", marks=pytest.mark.machine(kernel="6.1", criu=["3.17.1"]))
STAND_IN = pytest.param(
    "4.1.1-nopac",
    marks=pytest.mark.machine(kernel="6.12", criu=["4.1.1-nopac", "4.2.1", "4.2.1-nopac"]),
)
BUILDS = pytest.mark.parametrize("criu", [OLD, STAND_IN])
LIBRARIES = f"{WORK}/libraries"
HOOK = f"{WORK}/hook"
READ_ONLY = "/opt/criu-pac/plugins/none"


def soon(what: str) -> Deadline:
    return Deadline.after(30, what)


def in_guest(container: Container, text: str) -> str:
    return check(container.machine, ["bash", "-ec", text], soon("a test's script")).text


def left_in_images(container: Container) -> list[str]:
    return in_guest(container, f"ls -A {IMAGES}").split()


def nothing_to_restore(names: list[str]) -> bool:
    return not [name for name in names if name.startswith("pac-keys.img") or name == "inventory.img"]


class FailedDump(ScenarioRun):
    """Afterwards the task has to run on, and no usable images may be there."""

    dump_options: tuple[str, ...] = ()
    left: tuple[str, ...]

    def criu(self, container: Container, *, restoring: bool) -> Criu:
        cell = self.scenario
        return Criu(container, cell.criu_dump, cell.module, dump_options=self.dump_options)

    def after_failed_dump(self, container: Container, running: RunningWorkload) -> None:
        type(self).left = tuple(left_in_images(container))
        before = running.ticks(soon("ticks after the failed dump"))
        after = running.wait_progress(before + 3, Deadline.after(30, "three more ticks"))
        assert not after.exits, "the task outlives the failed dump"
        assert after.ticks >= before + 3, "and goes on"


def failed(result: ScenarioResult, run: type[FailedDump], words: str) -> None:
    assert result.outcome is Outcome.DUMP_FAILED, result.reason
    assert words in result.reason
    assert nothing_to_restore(list(run.left)), run.left


# What CRIU 3.17.1 makes of the sleeper: the log and its images; test_how_many_files... looks at it.
FILES_OF_3_17_1 = 14


@BUILDS
def test_no_space_for_the_key_file(run_scenario: RunScenario, criu: str) -> None:
    """A file system with no inode left for one file more."""
    # From 4.0 on the key file comes first, right after the log; in 3.17.1 only stats-dump comes later.
    more = FILES_OF_3_17_1 - 1 if criu == "3.17.1" else 1

    class NoSpace(FailedDump):
        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            used = int(in_guest(container, f"set -- $(stat -f -c '%c %d' {WORK}); echo $(($1 - $2))"))
            in_guest(container, f"mount -o remount,nr_inodes={used + more} {WORK}")

    result = run_scenario(KeyModule.PLUGIN, criu=criu, runner=NoSpace)
    failed(result, NoSpace, "cannot write pac-keys.img: No space left on device")


@pytest.mark.machine(kernel="6.1", criu=["3.17.1"])
def test_how_many_files_a_dump_of_the_sleeper_makes(run_scenario: RunScenario) -> None:
    counts = []

    class Counts(ScenarioRun):
        def between(self, container: Container, cycle: int) -> None:
            names = left_in_images(container)
            assert "pac-keys.img" in names
            counts.append(len(names) - 1)

    run_scenario(KeyModule.PLUGIN, runner=Counts)
    assert counts == [FILES_OF_3_17_1]


@BUILDS
def test_a_read_only_images_directory(run_scenario: RunScenario, criu: str) -> None:
    class ReadOnly(FailedDump):
        dump_options = ("-D", READ_ONLY, "-W", IMAGES)

    result = run_scenario(KeyModule.PLUGIN, criu=criu, runner=ReadOnly)
    failed(result, ReadOnly, "Read-only file system")


@BUILDS
def test_ptrace_refused(run_scenario: RunScenario, criu: str) -> None:
    """Nobody may trace from the moment CRIU has tried what the kernel can."""

    class Refused(FailedDump):
        dump_options = ("--action-script", HOOK)

        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            action = '[ "$CRTOOLS_SCRIPT_ACTION" != pre-dump ] || echo 3 > /proc/sys/kernel/yama/ptrace_scope'
            in_guest(container, f"printf '#!/bin/bash\\n%s\\n' '{action}' > {HOOK}; chmod 755 {HOOK}")

    result = run_scenario(KeyModule.PLUGIN, criu=criu, runner=Refused)
    words = "cannot try the key registers on a traced child of CRIU: Operation not permitted"
    failed(result, Refused, words)


@pytest.fixture(scope="session")
def other_plugin(provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """Another plugin, for CRIUs with 10 and with 12 hooks."""
    directory = tmp_path_factory.mktemp("other-plugin")
    built = {
        hooks: compile_c(
            [HERE / "other_plugin.c"],
            directory / f"other-{hooks}.so",
            target=AARCH64_LINUX,
            flags=["-shared", "-fPIC", "-O2", "-std=gnu11", f"-DHOOKS={hooks}"],
            cache_root=provision.cache.root / "zig",
        )
        for hooks in (10, 12)
    }
    return {hooks: path.read_bytes() for hooks, path in built.items()}


class WithOtherPlugin(Criu):
    """Both plugins in one directory, the other one told by ``environment`` what to do."""

    def prepare(self, other: bytes, *environment: str, first: str = "other_plugin.so") -> None:
        """Put them there; a tmpfs lists what came last first."""
        machine = self._container.machine
        self._command = ("env", *environment, *self._command)
        write = f"rm -rf {LIBRARIES}; mkdir -p {LIBRARIES}; cat > {WORK}/other_plugin.so"
        check(machine, ["bash", "-c", write], soon("the other plugin"), stdin=other)
        copies = [f"cp {KEY_MODULE}/pac_key_plugin.so {LIBRARIES}", f"cp {WORK}/other_plugin.so {LIBRARIES}"]
        if first != "other_plugin.so":
            copies.reverse()
        check(machine, ["bash", "-ec", "\n".join(copies)], soon("the plugins"))


@BUILDS
def test_a_task_killed_during_its_dump(
    run_scenario: RunScenario, other_plugin: dict[int, bytes], criu: str
) -> None:
    """Killed when all tasks are stopped: there is nothing left to dump, and no key file of it either."""
    left: list[str] = []
    pids: list[int] = []

    class Killed(ScenarioRun):
        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            pids.append(running.pid)

        def criu(self, container: Container, *, restoring: bool) -> Criu:
            cell = self.scenario
            made = WithOtherPlugin(
                container, cell.criu_dump, cell.module, dump_options=("--libdir", LIBRARIES)
            )
            made.prepare(other_plugin[min(12, cell.criu_dump.plugin_hooks)], f"OTHER_KILL={pids[0]}")
            return made

        def after_failed_dump(self, container: Container, running: RunningWorkload) -> None:
            left.extend(left_in_images(container))
            assert running.wait_exit(soon("the end of the task")) == 9

    result = run_scenario(KeyModule.PLUGIN, criu=criu, runner=Killed)
    assert result.outcome is Outcome.DUMP_FAILED, result.reason
    assert nothing_to_restore(left), left


@pytest.mark.machine(kernel="6.1", criu=["3.17.1"])
@pytest.mark.parametrize("first", ["other_plugin.so", "pac_key_plugin.so"])
def test_a_plugin_that_ends_the_late_hook_is_refused_if_it_comes_first(
    run_scenario: RunScenario, other_plugin: dict[int, bytes], first: str
) -> None:
    class Ahead(ScenarioRun):
        def criu(self, container: Container, *, restoring: bool) -> Criu:
            if not restoring:
                return super().criu(container, restoring=False)
            cell = self.scenario
            made = WithOtherPlugin(
                container, cell.criu_restore, cell.module, restore_options=("--libdir", LIBRARIES)
            )
            made.prepare(other_plugin[10], "OTHER_LATE=1", first=first)
            return made

    result = run_scenario(KeyModule.PLUGIN, runner=Ahead)
    if first == "pac_key_plugin.so":
        assert result.outcome is Outcome.SURVIVED, result.reason
    else:
        assert result.outcome is Outcome.RESTORE_REFUSED, result.reason
        assert "another plugin in this directory has a late hook and was loaded first" in result.reason
        assert result.signal is None, "nothing was restored"


@pytest.mark.machine(kernel="6.1", criu=["3.17.1"])
def test_a_dump_that_fails_at_its_end_under_runc(run_scenario: RunScenario) -> None:
    """runc asks by RPC: it gets an error, and its container goes on."""

    class FailsAtTheEnd(FailedDump):
        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            in_guest(container, f"mkdir -p {IMAGES}/pac-keys.img.tmp")

    result = run_scenario(KeyModule.PLUGIN, driver="runc", runner=FailsAtTheEnd)
    assert result.outcome is Outcome.DUMP_FAILED, result.reason
    assert "pac-key-module: error: cannot write pac-keys.img: File exists" in result.reason
    assert "inventory.img" not in FailsAtTheEnd.left
    assert "pac-keys.img" not in FailsAtTheEnd.left
