"""What can go wrong: one clear line that names the part, the log and the exit code; the cache stays whole."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import harness
from harness.catalogue.cpus import DEFAULT_CPU
from harness.core.deadline import Deadline
from harness.core.errors import (
    EngineError,
    ExitCode,
    HarnessError,
    MachineDiedError,
    MachineError,
    StorageError,
)
from harness.guest.engine import DockerEngine
from harness.machines.protocol import check
from harness.machines.qemu import QemuMachine
from harness.machines.template import TEMPLATE_KIND, TemplateSpec, template
from harness.provision.context import Provision
from harness.provision.settings import Settings
from harness.scenario.lab import Lab, MachineKind

NOWHERE = {
    "CRIU_PAC_MIRROR_DEBIAN": "http://127.0.0.1:9/debian",
    "CRIU_PAC_MIRROR_UBUNTU": "http://127.0.0.1:9/ubuntu",
    "CRIU_PAC_REGISTRY": "http://127.0.0.1:9",
}
# One CPU: the arms of a run take turns, so that the test needs one machine at a time.
COMMAND = f"import os, sys; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); sys.argv[0] = 'x'"
COMMAND += "; from harness.cli import main; sys.exit(main())"


def seconds(count: float) -> Deadline:
    return Deadline.after(count, "a step of the test")


@pytest.fixture
def runtime() -> Iterator[Path]:
    """The runtime directory of the commands of a test, by which their processes are known; empty after it."""
    with tempfile.TemporaryDirectory(prefix="criu-test-") as directory:
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []
        assert list(processes(Path(directory))) == []


@pytest.fixture
def start(
    runtime: Path, tmp_path: Path
) -> Callable[[Path, Mapping[str, str], list[str]], "subprocess.Popen[str]"]:
    """Return a function that starts `criu-pac` with a cache, more environment and arguments."""

    def started(cache: Path, environment: Mapping[str, str], command: list[str]) -> "subprocess.Popen[str]":
        (tmp_path / "work").mkdir(exist_ok=True)
        base = {name: value for name, value in os.environ.items() if not name.startswith("CRIU_PAC_")}
        base |= {
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "CRIU_PAC_CACHE": str(cache),
            "PYTHONPATH": f"{Path(harness.__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}",
        }
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**base, **environment},
            cwd=tmp_path / "work",
        )

    return started


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(start: Callable[..., "subprocess.Popen[str]"]) -> Run:
    """Return a function that runs `criu-pac` to its end: exit code and standard error."""

    def ran(cache: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        child = start(cache, environment, [sys.executable, "-c", COMMAND, *arguments])
        _, errors = child.communicate(timeout=120)
        assert "Traceback" not in errors, errors
        return child.returncode, errors

    return ran


def processes(runtime: Path) -> Iterator[tuple[int, str]]:
    mark = f"XDG_RUNTIME_DIR={runtime}\0".encode()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (directory / "environ").read_bytes():
                yield int(directory.name), (directory / "cmdline").read_text().replace("\0", " ")
        except OSError:  # not ours, or gone in this moment
            continue


def the_error(errors: str, code: int) -> str:
    """Return the one line that is the error; it has to name its exit code."""
    found = [line for line in errors.splitlines() if "error:" in line]
    assert len(found) == 1, errors
    assert found[0] == errors.splitlines()[-1]
    assert found[0].startswith("criu-pac: error: ")
    assert found[0].endswith(f"; exit code {code}")
    return found[0]


def log_of(message: str) -> str:
    """Return what the log says that an error names."""
    named = re.search(r"log: (/\S+\.log)", message)
    assert named, message
    return Path(named[1]).read_text()


@pytest.fixture
def cache(provision: Provision, machine_kind: MachineKind) -> Iterator[Path]:
    """A full cache that may be harmed: its files are links, to be replaced and never written to."""
    with tempfile.TemporaryDirectory(dir=provision.cache.root, prefix=".test-") as directory:
        for part in ("artifacts", "blobs"):
            shutil.copytree(
                provision.cache.root / part,
                Path(directory, part),
                copy_function=os.link,
                symlinks=True,
                ignore=shutil.ignore_patterns(".*.building-*"),
            )
        yield Path(directory)


@pytest.fixture
def harmed_lab(cache: Path) -> Iterator[Lab]:
    """A lab on the cache that may be harmed, offline: what it rebuilds comes from the cache's own files."""
    settings = Settings.from_environment({"CRIU_PAC_CACHE": str(cache), "CRIU_PAC_OFFLINE": "1"})
    with Provision(settings) as provision, Lab(provision) as lab:
        yield lab


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def replace(path: Path, change: Callable[[bytes], bytes], *, like_before: bool = False) -> None:
    """Change a file that may be a link to the real one; ``like_before`` keeps its time."""
    status, content = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(change(content))
    if like_before:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
        + content[middle + 64 :]
    )


@pytest.mark.parametrize("option", ["--cpu", "--criu", "--base", "--workload", "--driver", "--qemu"])
def test_an_unknown_name(run: Run, tmp_path: Path, option: str) -> None:
    code, errors = run(tmp_path / "cache", "repro", option, "unheard-of", CRIU_PAC_OFFLINE="1")

    expected = ExitCode.INFRASTRUCTURE if option == "--qemu" else ExitCode.USAGE
    assert code == expected
    if option != "--qemu":
        assert "unheard-of" in the_error(errors, expected)
        # A CPU may be one that only QEMU knows, so QEMU is looked for.
        assert (tmp_path / "cache").exists() is (option == "--cpu")


def test_no_network_and_an_empty_cache(run: Run, tmp_path: Path) -> None:
    started = time.monotonic()
    code, errors = run(tmp_path / "cache", "repro", CRIU_PAC_OFFLINE="1")
    assert code == ExitCode.INFRASTRUCTURE
    assert "not in the cache and the harness is offline" in the_error(errors, code)

    code, errors = run(tmp_path / "cache", "repro", **NOWHERE)
    assert code == ExitCode.INFRASTRUCTURE
    assert "could not be downloaded: http://127.0.0.1:9/debian" in the_error(errors, code)
    assert "CRIU_PAC_MIRROR_DEBIAN" in errors
    assert time.monotonic() - started < 30
    assert not list((tmp_path / "cache").glob("artifacts/*/*")), "nothing half made"


def test_no_network_and_no_cache_is_an_error_of_a_test_never_a_skip(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("def test_it(run_scenario):\n    run_scenario()\n")
    command = [sys.executable, "-m", "pytest", "-p", "harness.pytest_plugin", "-p", "no:cacheprovider"]
    child = start(tmp_path / "cache", {"CRIU_PAC_OFFLINE": "1"}, [*command, "-rA", str(test)])
    out, _ = child.communicate(timeout=60)
    assert "1 error in" in out
    assert "offline" in out
    assert child.returncode == 1


def test_a_full_cache_needs_no_network(run: Run, provision: Provision, machine_kind: MachineKind) -> None:
    code, errors = run(provision.cache.root, "repro", "--base", "debian-13", CRIU_PAC_OFFLINE="1", **NOWHERE)
    assert code == ExitCode.OK, errors


@pytest.mark.parametrize("change", [flipped, lambda content: content[: len(content) // 2], lambda _: b""])
def test_a_harmed_image_is_made_again(
    harmed_lab: Lab, machine_kind: MachineKind, change: Callable[[bytes], bytes]
) -> None:
    files = harmed_lab._files(machine_kind)
    before = [path.read_bytes() for path in (files.kernel, files.tools)]
    # A second later, as it would be: times are compared in whole seconds.
    for path in (files.kernel, files.tools):
        replace(path, change)
        os.utime(path, (1, 1))
    again = harmed_lab._files(machine_kind)
    assert [path.read_bytes() for path in (again.kernel, again.tools)] == before


@pytest.mark.parametrize("change", [flipped, lambda content: content[:-1]])
def test_a_harmed_package_without_network(
    run: Run, cache: Path, lab: Lab, machine_kind: MachineKind, change: Callable[[bytes], bytes]
) -> None:
    lock = lab.provision.lock[machine_kind.kernel.package_group].packages
    package = max(lock, key=lambda one: one.size)
    blob = cache / "blobs" / package.sha256[:2] / package.sha256
    shutil.rmtree(cache / "artifacts" / "kernel")
    replace(blob, change, like_before=True)

    code, errors = run(cache, "repro", "--base", "debian-13", CRIU_PAC_OFFLINE="1")

    assert code == ExitCode.INFRASTRUCTURE
    message = the_error(errors, code)
    assert f"the cached copy of {package.name}" in message
    assert "damaged" in message
    assert not blob.exists(), "nobody takes it for good again"
    assert not list(cache.glob("artifacts/kernel/*"))


@pytest.mark.parametrize("name", ["state", "facts.json"])
def test_a_harmed_template_with_the_time_of_the_good_one(
    harmed_lab: Lab, machine_kind: MachineKind, name: str
) -> None:
    made = harmed_lab.template(machine_kind)
    replace(made.path / name, lambda content: bytes(64) + content[64:], like_before=True)

    with pytest.raises((MachineError, StorageError)) as caught:
        harmed_lab.release(harmed_lab.clone(harmed_lab.template(machine_kind)))

    assert str(made.path) in str(caught.value)
    assert "criu-pac cache prune" in str(caught.value)
    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE


def space_for_templates(directory: Path) -> list[str]:
    """Return words that run a command with a disk of 80 MB at ``directory``, or skip the test."""
    words = ["unshare", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=80m small "$0" && exec "$@"'
    try:
        subprocess.run([*words, "sh", "-c", mount, str(directory), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs user namespaces to mount a small disk: {error}")
    return [*words, "sh", "-c", mount, str(directory)]


def test_no_space_left_for_a_template(
    start: Callable[..., "subprocess.Popen[str]"], cache: Path, tmp_path: Path
) -> None:
    small = cache / "artifacts" / TEMPLATE_KIND
    shutil.rmtree(small)
    small.mkdir()
    command = [*space_for_templates(small), sys.executable, "-c", COMMAND, "repro", "--base", "debian-13"]
    child = start(cache, {"CRIU_PAC_OFFLINE": "1"}, command)
    _, errors = child.communicate(timeout=120)

    assert child.returncode == ExitCode.INFRASTRUCTURE, errors
    message = the_error(errors, ExitCode.INFRASTRUCTURE)
    assert "no space left for the memory of the machine" in message
    assert "CRIU_PAC_CACHE" in message
    assert "== console" in log_of(message)


def test_qemu_killed_in_the_middle_of_an_arm(
    start: Callable[..., "subprocess.Popen[str]"],
    provision: Provision,
    machine_kind: MachineKind,
    runtime: Path,
) -> None:
    arguments = [sys.executable, "-c", COMMAND, "repro", "--base", "debian-13"]
    child = start(provision.cache.root, {}, arguments)
    killed = set()
    while child.poll() is None:
        for pid, program in list(processes(runtime)):
            if "-incoming defer" in program and pid not in killed:
                time.sleep(1)  # into the run
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.1)
    out, errors = child.communicate(timeout=60)

    assert len(killed) == 2
    assert child.returncode == ExitCode.INFRASTRUCTURE, errors
    assert out.count("infra_error") == 2
    message = the_error(errors, ExitCode.INFRASTRUCTURE)
    assert "QEMU was killed by SIGKILL in the middle" in message
    assert "== console" in log_of(message)


def test_the_guest_kernel_panics(lab: Lab, machine_kind: MachineKind) -> None:
    machine = lab.clone(lab.template(machine_kind))
    try:
        with pytest.raises(MachineDiedError) as caught:
            machine.run(["bash", "-c", "sync; echo c > /proc/sysrq-trigger"], seconds(30))
        message = str(caught.value)
        assert "the guest kernel panicked: sysrq triggered crash" in message
        assert "Kernel panic - not syncing" in log_of(message)
        with pytest.raises(MachineDiedError, match="the guest kernel panicked"):
            machine.run(["true"], seconds(5))
    finally:
        lab.release(machine)
    assert not machine.directory.exists()


def prepared_on_a_broken_guest(lab: Lab, kind: MachineKind, sabotage: str) -> HarnessError:
    """Make a template whose preparation runs ``sabotage`` before it starts dockerd; return its error."""

    def prepare(machine: QemuMachine) -> dict[str, str]:
        check(machine, ["bash", "-c", sabotage], seconds(20))
        engine = DockerEngine(machine)
        try:
            engine.start(seconds(60))
        finally:
            engine.close()
        return {}

    key = f"broken-{time.monotonic_ns()}"
    spec = TemplateSpec(key=key, program=lab.qemu.command, cpu=DEFAULT_CPU.qemu, files=lab._files(kind))
    with pytest.raises(HarnessError) as caught:
        template(lab.provision.cache, spec, prepare)
    assert not list(lab.provision.cache.root.glob(f"artifacts/{TEMPLATE_KIND}/*{key}*")), "nothing half made"
    return caught.value


def test_dockerd_does_not_start(lab: Lab, machine_kind: MachineKind) -> None:
    program = r"#!/bin/bash\necho one\nsleep 1\necho failed to start daemon: no luck today\nexit 1\n"
    sabotage = (
        f"rm $(command -v dockerd); printf '{program}' > /usr/sbin/dockerd; chmod 755 /usr/sbin/dockerd"
    )

    error = prepared_on_a_broken_guest(lab, machine_kind, sabotage)

    assert isinstance(error, EngineError)
    assert error.exit_code == ExitCode.INFRASTRUCTURE
    assert error.message.startswith("dockerd ended while starting: failed to start daemon: no luck today")
    log = log_of(str(error))
    assert "one\nfailed to start daemon: no luck today" in log
    assert "criu-pac: guest ready" in log


def test_a_machine_that_cannot_start(lab: Lab, machine_kind: MachineKind) -> None:
    spec = TemplateSpec(key="never", program=lab.qemu.command, cpu="cray-1", files=lab._files(machine_kind))
    with pytest.raises(MachineDiedError) as caught:
        template(lab.provision.cache, spec, lambda _: {})
    assert "QEMU ended with exit code 1" in str(caught.value)
    assert "cray-1" in str(caught.value)
    assert "cray-1" in log_of(str(caught.value))
