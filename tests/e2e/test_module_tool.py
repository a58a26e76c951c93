"""`criu-pac keys`, `module install` and the check of `module verify`, run inside an arm64 machine."""

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, NAME, TOOLS, WORK, Container
from harness.guest.criu import Criu, CriuRun
from harness.guest.engine import DockerEngine
from harness.guest.workload import RunningWorkload
from harness.key_module.build import PLUGIN_NAME, build_check, build_plugin, check_key, plugin_key
from harness.key_module.cpu_names import algorithm_name, cpu_name
from harness.key_module.keyfile import parse_key_file
from harness.machines.protocol import check
from harness.provision.context import Provision
from harness.provision.guest_image import Part
from harness.pytest_plugin import RunScenario
from harness.scenario.lab import Lab
from harness.scenario.run import ScenarioRun
from support.arm_host import Installation

KEY_FILE = f"{IMAGES}/pac-keys.img"
SAVED = f"{WORK}/saved-keys"
PLACE = "/opt"
IN_CONTAINER = Installation(
    python=f"{TOOLS}/python", site=f"{TOOLS}/site", harness=f"{PLACE}/harness", cache=f"{PLACE}/cache"
)


def soon(what: str) -> Deadline:
    return Deadline.after(60, what)


class LabWithPython(Lab):
    """Its machines have, among their tools, a whole Python with what the harness imports.

    The container's own is minimal, and to send another takes an emulated machine half a minute.
    """

    def __init__(self, provision: Provision, python: Path) -> None:
        super().__init__(provision)
        self._python = python

    def tools(self, builds: Iterable[CriuBuild]) -> list[Part]:
        names = ("python", "site")
        parts = [Part(place=name, path=self._python / name, digest=self._python.name) for name in names]
        return [*super().tools(builds), *parts]


@pytest.fixture(scope="session")
def lab(provision: Provision, guest_python: Path) -> Iterator[Lab]:
    with LabWithPython(provision, guest_python) as made:
        yield made


@pytest.fixture(scope="session")
def compiled(provision: Provision) -> dict[str, Path]:
    """The compiled parts of the module in the cache, by their kind."""
    store = provision.cache
    return {
        "key-module": store.artifact(
            "key-module", plugin_key()[:32], lambda work: _built(build_plugin, work / PLUGIN_NAME, store.root)
        ),
        "key-module-check": store.artifact(
            "key-module-check", check_key()[:32], lambda work: _built(build_check, work / "check", store.root)
        ),
    }


def _built(build: Callable[[Path, Path], object], output: Path, cache: Path) -> None:
    build(output, cache / "zig")


def send(container: Container, archive: bytes, *, place: str) -> None:
    unpack = f"mkdir -p {place} && tar -xz -C {place}"
    check(container.machine, ["bash", "-c", unpack], Deadline.after(180, "sending files"), stdin=archive)


def in_container(container: Container, *words: str) -> str:
    result = container.run(
        IN_CONTAINER.command(*words), Deadline.after(90, f"criu-pac {words[0]} in the machine")
    )
    assert result.returncode == 0, result.error_text
    return result.text


def put_harness(container: Container, *archives: bytes) -> None:
    """Unpack what of IN_CONTAINER the tools do not hold."""
    with contextlib.closing(DockerEngine(container.machine)) as engine:
        for archive in archives:
            engine.insert(NAME, PLACE, archive)


class LeaveStopped(Criu):
    """Restores into stopped tasks, gives them the saved keys by ptrace, and lets them run."""

    pid = 0
    said = ""

    def restore(self, deadline: Deadline, *, cycle: int) -> CriuRun:
        result = super().restore(deadline, cycle=cycle)
        type(self).said = in_container(self._container, "keys", "load", str(self.pid), SAVED)
        resume = [*self._container.prefix, "bash", "-c", f"kill -CONT {self.pid}"]
        check(self._container.machine, resume, soon("SIGCONT"))
        return result


@pytest.mark.parametrize("workload", ["c-threads-own-keys"])
def test_keys_by_ptrace_keep_a_process_alive_without_the_plugin(
    run_scenario: RunScenario, harness_archive: bytes, workload: str
) -> None:
    class ByHand(ScenarioRun):
        def criu(self, container: Container, *, restoring: bool) -> Criu:
            options = ("--leave-stopped",) if restoring else ()
            return LeaveStopped(
                container, self.scenario.criu_dump, self.scenario.module, restore_options=options
            )

        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            self.seen.carrier = True  # this test is
            put_harness(container, harness_archive)
            LeaveStopped.pid = running.pid
            said = in_container(container, "keys", "save", str(running.pid), "-o", SAVED)
            assert f"saved in {SAVED}" in said
            look = check(container.machine, ["stat", "-c", "%a", SAVED], soon("mode of the saved keys"))
            assert look.text == "600\n"

    result = run_scenario(KeyModule.NONE, workload=workload, runner=ByHand)
    assert result.outcome is Outcome.SURVIVED, result.reason
    assert result.keys_equal is True
    assert "threads loaded" in LeaveStopped.said


def test_verify_says_beforehand_what_the_module_says_at_a_restore(
    run_scenario: RunScenario, compiled: dict[str, Path]
) -> None:
    checker = (compiled["key-module-check"] / "check").read_bytes()
    program = f"{WORK}/check"
    seen: dict[str, tuple[int, str]] = {}

    class Verifies(ScenarioRun):
        def between(self, container: Container, cycle: int) -> None:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w:gz") as archive:
                member = tarfile.TarInfo("check")
                member.size, member.mode = len(checker), 0o755
                archive.addfile(member, io.BytesIO(checker))
            send(container, packed.getvalue(), place=WORK)
            for name, damage in {
                "good": "true",
                "changed": f"printf x | dd of={KEY_FILE} bs=1 seek=200 conv=notrunc status=none",
                "missing": f"rm {KEY_FILE}",
            }.items():
                check(container.machine, ["bash", "-c", damage], soon("damage"))
                answer = container.run([program, IMAGES], soon("the check"))
                seen[name] = (answer.returncode, answer.text)

    run_scenario(KeyModule.PLUGIN, runner=Verifies)
    assert seen["good"] == (0, "pac-key-module: keys of 1 threads will be loaded\n")
    assert seen["changed"] == (
        1,
        "pac-key-module: error: pac-keys.img is damaged: wrong checksum; restore refused\n",
    )
    assert seen["missing"][0] == 0
    assert seen["missing"][1].startswith("pac-key-module: warning: no pac-keys.img")


def test_a_key_file_tells_cpu_kernel_and_algorithm(run_scenario: RunScenario) -> None:
    files = []

    class Reads(ScenarioRun):
        def between(self, container: Container, cycle: int) -> None:
            files.append(parse_key_file(container.machine.read_file(KEY_FILE, soon("the key file"))))

    run_scenario(KeyModule.PLUGIN, runner=Reads, workload="c-threads-own-keys")
    (file,) = files
    assert (cpu_name(file.midr), file.kernel_release[:4]) == ("Neoverse V1", "6.1.")
    assert algorithm_name(file.address_probe) == "IMPDEF (QEMU)"
    assert file.generic_probe
    assert len({one.fingerprint(b"") for one in file.threads}) == len(file.threads) == 5


class ByDefault(Criu):
    """CRIU as people call it: it loads plugins from its own directory."""

    def command_line(self, action: str, *, pid: int | None = None, cycle: int) -> tuple[str, ...]:
        words = list(super().command_line(action, pid=pid, cycle=cycle))
        at = words.index("--libdir")
        return (*words[:at], *words[at + 2 :])


@pytest.fixture(scope="session")
def cache_archive(compiled: dict[str, Path]) -> bytes:
    """The compiled parts of the module as a cache."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for kind, path in compiled.items():
            archive.add(path, f"cache/artifacts/{kind}/{path.name}")
    return packed.getvalue()


def test_an_installed_module_is_found_by_criu_itself(
    run_scenario: RunScenario, harness_archive: bytes, cache_archive: bytes
) -> None:
    said: dict[str, str] = {}

    class Installs(ScenarioRun):
        def criu(self, container: Container, *, restoring: bool) -> Criu:
            return ByDefault(container, self.scenario.criu_dump, self.scenario.module)

        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            put_harness(container, harness_archive, cache_archive)
            said["install"] = in_container(container, "module", "install", "--policy", "warn")

        def between(self, container: Container, cycle: int) -> None:
            said["verify"] = in_container(container, "module", "verify", IMAGES)
            said["uninstall"] = in_container(container, "module", "uninstall", "--dry-run")

    result = run_scenario(KeyModule.PLUGIN, runner=Installs)
    assert result.outcome is Outcome.SURVIVED, result.reason
    assert result.keys_equal is True
    directory = "/usr/lib/criu"
    files = [f"{directory}/{PLUGIN_NAME}", f"{directory}/pac-key-module.conf"]
    assert said["install"].splitlines() == [f"write {name}" for name in files]
    assert said["verify"] == "pac-key-module: keys of 1 threads will be loaded\n"
    assert said["uninstall"].splitlines() == [f"would remove {name}" for name in files]
