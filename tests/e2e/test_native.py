"""`--machine native`: the harness installed inside emulated arm64 machines, which are its host there."""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness.core.deadline import Deadline
from harness.core.process import CommandResult
from harness.guest.container import NAME, TOOLS, WORK
from harness.guest.engine import DockerEngine
from harness.guest.workload import available_workloads, load_workload
from harness.machines.protocol import check
from harness.machines.qemu import QemuMachine
from harness.provision.bundle import bundle, host_tools
from harness.provision.context import Provision
from harness.provision.groups import GROUPS, PackageGroup, Suite
from harness.provision.guest_image import userland_archive
from harness.provision.settings import Settings, host_architecture
from harness.scenario.lab import Lab, MachineKind

CHECKOUT = Path(__file__).parents[2]
PLACE = "/native"
AWAY = "/var/tmp/away"
LONG = 600.0  # seconds; emulated, a run takes 72 s of processor time, 16 of them to start Python
# Not imported by `criu-pac repro`; the compiler is only asked for its version.
NOT_NEEDED = ("ziglang", "pytest", "allure")
COMPILER = PackageGroup(
    name="python-of-the-host",
    distribution="debian",
    suites=(Suite(name="trixie"),),
    architecture=host_architecture(),
    roots=("libpython3.13-stdlib", "python3.13-minimal"),
    locked=False,
)
SETTINGS = {
    "kernel/core_pattern": "core.%p",
    "kernel/core_pipe_limit": "3",
    "debug/exception-trace": "0",
    "kernel/print-fatal-signals": "0",
}


def soon(what: str, seconds: float = 60) -> Deadline:
    return Deadline.after(seconds, what)


@pytest.fixture(scope="session")
def python(provision: Provision) -> Path:
    """The guest's Python with its dependencies, compiled: under emulation that takes minutes."""
    wanted = [one.partition(";")[0] for one in importlib.metadata.requires("criu-pac-harness") or ()]
    wanted = [one for one in wanted if not one.startswith(NOT_NEEDED)]
    library = userland_archive(provision, "python-stdlib-debian-13", whole=False)
    key = hashlib.sha256("\n".join([*wanted, library.parent.name]).encode()).hexdigest()[:32]

    def build(work: Path) -> None:
        with tarfile.open(library) as archive:
            archive.extractall(work / "python", filter="tar")
        platform = ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64"]
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(work / "site"), *platform]
        words += ["--only-binary=:all:", "--python-version", "3.13", "--implementation", "cp", "--no-compile"]
        subprocess.run([*words, *wanted], check=True, capture_output=True, timeout=300)
        compile_all(work)

    return provision.cache.artifact("test-python", key, build)


def compile_all(directory: Path) -> None:
    with Provision(Settings.from_environment(), groups={**GROUPS, COMPILER.name: COMPILER}) as provision:
        made = bundle(COMPILER.name, provision)
        words = [
            *made.command("python3.13"),
            "-m",
            "compileall",
            "-qq",
            "--invalidation-mode",
            "unchecked-hash",
        ]
        environment = {**os.environ, "PYTHONHOME": str(made.root / "usr")}
        # Not everything in a distribution compiles: some are templates and tests of what must not.
        subprocess.run([*words, str(directory)], env=environment, timeout=300, check=False)


@pytest.fixture(scope="session")
def harness_site(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An archive of this harness, compiled, with what it asks of the compiler it does not have there."""
    directory = tmp_path_factory.mktemp("site")
    for name in ("harness", "workloads", "containers"):
        copy = ["cp", "-a", str(CHECKOUT / name), str(directory)]
        subprocess.run(copy, check=True)
    installed = Path(str(importlib.metadata.distribution("ziglang").locate_file("")))
    found = next(installed.glob("ziglang-*.dist-info"))
    subprocess.run(["cp", "-a", str(found), str(directory)], check=True)
    compile_all(directory)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(directory, "harness")
    return out.getvalue()


def artifacts(lab: Lab, kind: MachineKind) -> Iterator[Path]:
    """The parts of the cache that a native run needs of it."""
    lab.build_context(kind)
    paths = [part.path for part in lab.tools(kind.builds)]
    paths += [kind.base.image_archive, *([kind.base.python_layer] if kind.base.python_layer else [])]
    compiled = [one for one in map(load_workload, available_workloads()) if one.language == "c"]
    paths += [lab._compiled(one) for one in compiled]
    root = lab.provision.cache.root / "artifacts"
    yield from {root.joinpath(*path.relative_to(root).parts[:2]) for path in paths}


@dataclass
class Host:
    """An emulated machine with the harness in it."""

    machine: QemuMachine

    def command(self, words: str) -> str:
        settings = {
            "PYTHONHOME": f"{PLACE}/disk/python/usr",
            "PYTHONPATH": f"{PLACE}/harness:{PLACE}/disk/site",
            "LD_LIBRARY_PATH": f"{PLACE}/disk/python/usr/lib/aarch64-linux-gnu",
            "CRIU_PAC_CACHE": f"{PLACE}/cache",
            "CRIU_PAC_OFFLINE": "1",
        }
        exports = " ".join(f"{name}={value}" for name, value in settings.items())
        return f"{exports} exec {PLACE}/disk/python/usr/bin/python3.13 -m harness {words}"

    def run(self, words: str, seconds: float) -> CommandResult:
        return self.machine.run(["bash", "-c", self.command(words)], soon(f"criu-pac {words}", seconds))

    def state(self) -> dict[str, str]:
        """What a native run changes: settings, mounts, containers, images."""
        look = [f"cat /proc/sys/{name}" for name in SETTINGS]
        script = "\n".join([*look, f"ls -d {WORK}", f"grep -c {WORK} /proc/mounts", "ls -a /tmp"])
        found = self.machine.run(["bash", "-c", script], soon("settings")).text.splitlines()
        with contextlib.closing(DockerEngine(self.machine)) as engine:
            client = engine.client
            return {
                "settings": " ".join(found),
                "containers": " ".join(sorted(str(one.name) for one in client.containers.list(all=True))),
                "images": " ".join(sorted(f"{one.id} {one.tags}" for one in client.images.list(all=True))),
            }


def rows(host: Host, results: str) -> list[dict[str, Any]]:
    text = host.machine.read_file(f"{results}/results.jsonl", soon("the results"))
    return [json.loads(line) for line in text.splitlines()]


def disk(lab: Lab, kind: MachineKind, python: Path) -> Path:
    """Return an image with Python and with the cache for ``kind``, times as they are."""
    root = lab.provision.cache.root / "artifacts"
    parts = {f"cache/artifacts/{path.relative_to(root)}": path for path in artifacts(lab, kind)}
    parts |= {name: python / name for name in ("python", "site")}
    key = hashlib.sha256("\n".join([python.name, *sorted(parts)]).encode()).hexdigest()[:32]

    def build(work: Path) -> None:
        with tarfile.open(work / "tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for place, path in parts.items():
                archive.add(path, place)
        make = host_tools(lab.provision).command("mkfs.erofs")
        subprocess.run([*make, "--quiet", "--tar=f", work / "erofs", work / "tar"], check=True, timeout=180)
        (work / "tar").unlink()

    return lab.provision.cache.artifact("test-disk", key, build) / "erofs"


# The disk of a guest's tools has become the test's: its driver has to look at its size again.
AS_A_HOST = f"""
umount {WORK} {TOOLS}
rm -r {WORK}
device=$(basename $(readlink -f /sys/block/vdb/device))
cd /sys/bus/virtio/drivers/virtio_blk && echo $device > unbind && echo $device > bind
mkdir -p {PLACE}/disk {PLACE}/cache && mount -t erofs -o ro /dev/vdb {PLACE}/disk
mkdir -p /tmp/upper /tmp/work
mount -t overlay -o lowerdir={PLACE}/disk/cache,upperdir=/tmp/upper,workdir=/tmp/work cache {PLACE}/cache
tar -xz -C {PLACE}
"""


@pytest.fixture
def new_host(
    lab: Lab, machine_kind: MachineKind, python: Path, harness_site: bytes
) -> Iterator[Callable[[], Host]]:
    """Return what gives the test's machine as a host of its own: nothing of what it is as a guest is left."""
    machines = []

    def make() -> Host:
        template = lab.template(machine_kind)
        files = replace(template.spec.files, tools=disk(lab, machine_kind, python))
        machine = lab.clone(replace(template, spec=replace(template.spec, files=files)))
        machines.append(machine)
        with contextlib.closing(DockerEngine(machine)) as engine:
            engine.client.containers.get(NAME).remove(force=True)
        settings = [f"echo {value} > /proc/sys/{name}" for name, value in SETTINGS.items()]
        script = "\n".join([*settings, AS_A_HOST])
        check(machine, ["bash", "-ec", script], soon("a machine that is no guest"), stdin=harness_site)
        return Host(machine)

    yield make
    for machine in machines:
        lab.release(machine)


@pytest.fixture
def host(new_host: Callable[[], Host]) -> Host:
    return new_host()


def killed_in_the_middle(host: Host) -> None:
    """Kill a run with SIGKILL once its container is there: it puts nothing back."""
    command = host.command("repro --machine native --base debian-13 --results /var/tmp/killed")
    started = check(host.machine, ["bash", "-c", f"({command}) > /dev/null 2>&1 & echo $!"], soon("a start"))
    with contextlib.closing(DockerEngine(host.machine)) as engine:
        seen = soon("a container of the run", LONG).poll(lambda: engine.client.containers.list() or None)
    assert str(seen[0].name).startswith("criu-pac-native-")
    check(host.machine, ["kill", "-9", started.text.strip()], soon("SIGKILL"))


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_appears_and_disappears_on_a_host_where_a_run_was_killed(host: Host) -> None:
    before = host.state()
    killed_in_the_middle(host)
    left = host.state()
    assert all(left[name] != before[name] for name in before)
    assert f"|{WORK}/core-handler" in left["settings"]

    result = host.run("repro --machine native --base debian-13 --results /var/tmp/results", LONG)
    assert result.returncode == 0, result.error_text
    stock, module = rows(host, "/var/tmp/results")
    assert (stock["criu_dump"], stock["cpu"], stock["kernel"]) == ("3.17.1", "neoverse-v1", "6.1")
    assert stock["qemu"] is None
    assert (stock["module"], stock["outcome"], stock["signal"]) == ("none", "signed_pc_fault", "SIGSEGV")
    assert (module["module"], module["outcome"], module["keys_equal"]) == ("plugin", "survived", True)
    assert host.state() == before


@pytest.mark.machine(kernel="6.12", cpu="neoverse-n2", criu=["4.2.1-nopac", "4.2.1"])
def test_a_host_with_fpac_and_a_new_kernel_is_chosen_and_gets_a_pair_that_shows_it(host: Host) -> None:
    before = host.state()
    result = host.run("repro --base debian-13 --results /var/tmp/results", LONG)
    assert result.returncode == 0, result.error_text
    assert "3.17.1 cannot read the vDSO of this kernel (6.12, 6.11 or later)" in result.error_text
    stock, module, native = rows(host, "/var/tmp/results")
    assert (stock["criu_dump"], stock["cpu"], stock["kernel"]) == ("4.2.1-nopac", "neoverse-n2", "6.12")
    assert (stock["module"], stock["outcome"], stock["signal"]) == ("none", "fpac_fault", "SIGILL")
    assert (module["module"], module["outcome"], module["keys_equal"]) == ("plugin", "survived", True)
    assert (native["criu_dump"], native["outcome"], native["keys_equal"]) == ("4.2.1", "survived", True)
    assert host.state() == before


@pytest.mark.machine(kernel="6.1", cpu="neoverse-n1", criu=["3.17.1"])
def test_a_host_without_pac_proves_nothing(host: Host) -> None:
    result = host.run("repro --machine native --base debian-13 --results /var/tmp/results", LONG)
    assert result.returncode == 3
    assert result.error_text.splitlines()[-1].startswith(
        "criu-pac: error: neither the bug nor its cure can be shown here: kernel and CPU of this host"
    )
    assert "--machine qemu" in result.error_text


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_a_checkpoint_goes_from_one_host_to_another(new_host: Callable[[], Host]) -> None:
    first, second = new_host(), new_host()
    dumped = first.run("dump --to /var/tmp/away --module plugin --workload c-frames", LONG)
    assert dumped.returncode == 0, dumped.error_text
    pack = ["bash", "-c", f"stat -c %a {AWAY}/*.* && exec tar -czf - --exclude evidence -C /var/tmp away"]
    modes, _, rest = check(first.machine, pack, soon("a copy")).stdout.partition(b"\n")
    more, _, archive = rest.partition(b"\n")
    assert (modes, more) == (b"600", b"600")

    unpack = ["bash", "-c", "mkdir -p /var/tmp && tar -xzf - -C /var/tmp"]
    check(second.machine, unpack, soon("a copy"), stdin=archive)
    before = second.state()
    restored = second.run(f"restore --from {AWAY} --results /var/tmp/results", LONG)
    assert restored.returncode == 0, restored.error_text
    (row,) = rows(second, "/var/tmp/results")
    assert (row["outcome"], row["keys_equal"], row["criu_dump"]) == ("survived", True, "3.17.1")
    assert row["premises"]["source_pac"] == {"declared": True, "observed": True}
    assert row["ticks_after"] > row["ticks_before"] > 0
    assert second.state() == before
