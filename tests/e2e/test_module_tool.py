"""`criu-pac keys`, `module install` and the check of `module verify`, run inside an arm64 machine."""

import contextlib
import importlib.metadata
import io
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, NAME, WORK, Container
from harness.guest.criu import Criu, CriuRun
from harness.guest.engine import DockerEngine
from harness.guest.workload import RunningWorkload
from harness.key_module.build import PLUGIN_NAME, build_check, build_plugin, check_key, plugin_key
from harness.key_module.cpu_names import algorithm_name, cpu_name
from harness.key_module.keyfile import parse_key_file
from harness.machines.protocol import check
from harness.provision.context import Provision
from harness.provision.guest_image import userland_archive
from harness.pytest_plugin import RunScenario
from harness.scenario.run import ScenarioRun

CHECKOUT = Path(__file__).parents[2]
KEY_FILE = f"{IMAGES}/pac-keys.img"
SITE, PYTHON = "/opt/site", "/opt/python"
SAVED = f"{WORK}/saved-keys"
COMPILER = "ziglang"  # 80 MB that nothing inside the machine needs; what is compiled with it is sent
CACHE = "/opt/cache"


def soon(what: str) -> Deadline:
    return Deadline.after(60, what)


@pytest.fixture(scope="session")
def checker(provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("check") / "check"
    return build_check(output, provision.cache.root / "zig").read_bytes()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The harness and what it imports, for the Python of the container, as an archive of its root."""
    directory = tmp_path_factory.mktemp("site")
    wanted = [one.partition(";")[0] for one in importlib.metadata.requires("criu-pac-harness") or ()]
    wanted = [one for one in wanted if not one.startswith(COMPILER)]
    platform = ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64"]
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(directory), *platform]
    words += ["--only-binary=:all:", "--python-version", "3.13", "--implementation", "cp", *wanted]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    packed = io.BytesIO()
    installed = Path(str(importlib.metadata.distribution(COMPILER).locate_file("")))
    named = installed.glob(f"{COMPILER}-*.dist-info")  # its version is part of the names in the cache
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in (*directory.iterdir(), *named, CHECKOUT / "harness"):
            archive.add(path, f"{SITE[1:]}/{path.name}")
    return packed.getvalue()


@pytest.fixture(scope="session")
def standard_library(provision: Provision) -> bytes:
    """What the container's minimal Python lacks."""
    return userland_archive(provision, "python-stdlib-debian-13", whole=False).read_bytes()


def send(container: Container, archive: bytes, *, place: str) -> None:
    unpack = f"mkdir -p {place} && tar -xz -C {place}"
    check(container.machine, ["bash", "-c", unpack], Deadline.after(180, "sending files"), stdin=archive)


def in_container(container: Container, *words: str) -> str:
    settings = {
        "PYTHONHOME": f"{PYTHON}/usr",
        "PYTHONPATH": SITE,
        "LD_LIBRARY_PATH": f"{PYTHON}/usr/lib/aarch64-linux-gnu",
        "CRIU_PAC_CACHE": CACHE,
        "CRIU_PAC_OFFLINE": "1",
    }
    python = " ".join(f"{name}={value}" for name, value in settings.items())
    command = f"{python} exec {PYTHON}/usr/bin/python3.13 -m harness {shlex.join(words)}"
    result = container.run(["bash", "-c", command], Deadline.after(90, f"criu-pac {words[0]} in the machine"))
    assert result.returncode == 0, result.error_text
    return result.text


def put_harness(container: Container, *archives: bytes) -> None:
    """Put the harness into the container, and a whole Python beside its own, which the workload has mapped.

    ``archives``: the standard library last, the others of the root.
    """
    with contextlib.closing(DockerEngine(container.machine)) as engine:
        check(container.machine, [*container.prefix, "mkdir", "-p", PYTHON], soon("a directory"))
        engine.insert(NAME, PYTHON, archives[-1])
        for archive in archives[:-1]:
            engine.insert(NAME, "/", archive)


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
    run_scenario: RunScenario, site: bytes, standard_library: bytes, workload: str
) -> None:
    class ByHand(ScenarioRun):
        def criu(self, container: Container, *, restoring: bool) -> Criu:
            options = ("--leave-stopped",) if restoring else ()
            return LeaveStopped(
                container, self.scenario.criu_dump, self.scenario.module, restore_options=options
            )

        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            self.seen.carrier = True  # this test is
            put_harness(container, site, standard_library)
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
    run_scenario: RunScenario, checker: bytes
) -> None:
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
def built(provision: Provision) -> bytes:
    """The compiled parts of the module in a cache of their own, as an archive of the root."""
    store, packed = provision.cache, io.BytesIO()
    made = [
        store.artifact(
            "key-module", plugin_key()[:32], lambda work: _built(build_plugin, work / PLUGIN_NAME, store.root)
        ),
        store.artifact(
            "key-module-check", check_key()[:32], lambda work: _built(build_check, work / "check", store.root)
        ),
    ]
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in made:
            archive.add(path, f"{CACHE[1:]}/{path.relative_to(store.root)}")
    return packed.getvalue()


def _built(build: Callable[[Path, Path], object], output: Path, cache: Path) -> None:
    build(output, cache / "zig")


def test_an_installed_module_is_found_by_criu_itself(
    run_scenario: RunScenario, site: bytes, built: bytes, standard_library: bytes
) -> None:
    said: dict[str, str] = {}

    class Installs(ScenarioRun):
        def criu(self, container: Container, *, restoring: bool) -> Criu:
            return ByDefault(container, self.scenario.criu_dump, self.scenario.module)

        def before_dump(self, container: Container, running: RunningWorkload) -> None:
            put_harness(container, site, built, standard_library)
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
