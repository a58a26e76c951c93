"""An arm64 machine as a host of its own: a clone of a template, with a Python and this harness in it."""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalogue.criu_builds import CRIU_BUILDS
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
from harness.provision.prepared_base import PreparedBase
from harness.provision.settings import Settings, host_architecture
from harness.scenario.lab import Lab, MachineKind

CHECKOUT = Path(__file__).parents[2]
BUILDS = ("3.17.1", "4.1.1", "4.2.1")  # of CRIU, in the disk
BASES = ("debian-13", "debian-12")  # likewise
# Not imported by the commands that tests run there; the compiler is only asked for its version.
NOT_NEEDED = ("ziglang", "pytest-xdist")
_TRIXIE = (Suite(name="trixie"),)
_COMPILER = PackageGroup(
    name="python-of-the-host",
    distribution="debian",
    suites=_TRIXIE,
    architecture=host_architecture(),
    roots=("libpython3.13-stdlib", "python3.13-minimal"),
    locked=False,
)
_CLIENT = PackageGroup(  # the guest system has the daemon only: the harness speaks to its socket
    name="docker-client",
    distribution="debian",
    suites=_TRIXIE,
    architecture="arm64",
    roots=("docker-cli",),
    locked=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Where in a machine Python, what the harness imports, the harness and its cache are."""

    python: str
    site: str
    harness: str
    cache: str

    def interpreter(self, *words: str) -> list[str]:
        """Return the argv of a Python that can import the harness."""
        settings = {
            "PYTHONHOME": f"{self.python}/usr",
            "PYTHONPATH": f"{self.harness}:{self.site}",
            "LD_LIBRARY_PATH": f"{self.python}/usr/lib/aarch64-linux-gnu",
            "CRIU_PAC_CACHE": self.cache,
            "CRIU_PAC_OFFLINE": "1",
        }
        return [
            "env",
            *(f"{name}={value}" for name, value in settings.items()),
            f"{self.python}/usr/bin/python3.13",
            *words,
        ]

    def command(self, *words: str) -> list[str]:
        """Return the argv of `criu-pac` with ``words``."""
        return self.interpreter("-m", "harness", *words)


_PLACE = "/opt/host"
_DISK = f"{_PLACE}/disk"
DOCKER_CLIENT = f"{_DISK}/bin"  # a directory for PATH
ON_HOST = Installation(
    python=f"{_DISK}/python", site=f"{_DISK}/site", harness=f"{_PLACE}/harness", cache=f"{_PLACE}/cache"
)
# What a run with --machine native changes and puts back.
SETTINGS = {
    "kernel/core_pattern": "core.%p",
    "kernel/core_pipe_limit": "3",
    "debug/exception-trace": "0",
    "kernel/print-fatal-signals": "0",
}
# The disk of a guest's tools has become the host's: its driver has to look at its size again.
# /var/run: a maintainer script of Debian's links it to /run, and none has run here.
_AS_A_HOST = f"""
umount {WORK} {TOOLS}
rm -r {WORK}
device=$(basename $(readlink -f /sys/block/vdb/device))
cd /sys/bus/virtio/drivers/virtio_blk && echo $device > unbind && echo $device > bind
mkdir -p {_DISK} {ON_HOST.cache} && mount -t erofs -o ro /dev/vdb {_DISK}
mkdir -p /tmp/upper /tmp/work
mount -t overlay -o lowerdir={_DISK}/cache,upperdir=/tmp/upper,workdir=/tmp/work cache {ON_HOST.cache}
tar -xz -C {_PLACE}
ln -s /run/docker.sock /var/run/docker.sock
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """An emulated machine with the harness in it."""

    machine: QemuMachine

    def run(self, words: str, seconds: float) -> CommandResult:
        """Run `criu-pac` with ``words`` to its end."""
        limit = Deadline.after(seconds, f"criu-pac {words}")
        return self.machine.run(ON_HOST.command(*words.split()), limit)


def packages_of_tests() -> Provision:
    """Return what provides the package groups of tests besides the harness's own; close it."""
    groups = {**GROUPS, **{one.name: one for one in (_COMPILER, _CLIENT)}}
    return Provision(Settings.from_environment(), groups=groups)


def guest_python(packages: Provision) -> Path:
    """Return a directory with Python for arm64 and what the harness imports, compiled.

    Under emulation compiling takes minutes; here it is done once per cache.
    """
    wanted = [one.partition(";")[0] for one in importlib.metadata.requires("criu-pac-harness") or ()]
    wanted = [one for one in wanted if not one.startswith(NOT_NEEDED)]
    library = userland_archive(packages, "python-stdlib-debian-13", whole=False)
    key = hashlib.sha256("\n".join([*wanted, library.parent.name]).encode()).hexdigest()[:32]

    def build(work: Path) -> None:
        with tarfile.open(library) as archive:
            archive.extractall(work / "python", filter="tar")
        platform = ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64"]
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(work / "site"), *platform]
        words += ["--only-binary=:all:", "--python-version", "3.13", "--implementation", "cp", "--no-compile"]
        subprocess.run([*words, *wanted], check=True, capture_output=True, timeout=300)
        _compile(work, packages)

    return packages.cache.artifact("test-python", key, build)


def harness_archive(packages: Provision, directory: Path) -> bytes:
    """Return an archive of this harness, compiled in ``directory``, with what it asks of the compiler.

    It holds one directory, "harness".
    """
    for name in ("harness", "workloads", "containers"):
        subprocess.run(["cp", "-a", str(CHECKOUT / name), str(directory)], check=True)
    installed = Path(str(importlib.metadata.distribution("ziglang").locate_file("")))
    found = next(installed.glob("ziglang-*.dist-info"))
    subprocess.run(["cp", "-a", str(found), str(directory)], check=True)
    _compile(directory, packages)
    directory.chmod(0o755)  # the doctor is called by others than root as well
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(directory, "harness")
    return out.getvalue()


def _compile(directory: Path, packages: Provision) -> None:
    made = bundle(_COMPILER.name, packages)
    words = [*made.command("python3.13"), "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    environment = {**os.environ, "PYTHONHOME": str(made.root / "usr")}
    # Not everything in a distribution compiles: some are templates and tests of what must not.
    subprocess.run([*words, str(directory)], env=environment, timeout=300, check=False)


def host_disk(lab: Lab, bases: Sequence[PreparedBase], python: Path, packages: Provision) -> Path:
    """Return an image with Python, a client of the engine, and a cache for BUILDS and ``bases``."""
    client = bundle(_CLIENT.name, packages)
    return make_disk(lab.provision, python, _artifacts(lab, bases), {"bin/docker": client.program("docker")})


def make_disk(
    provision: Provision, python: Path, cached: Iterable[Path], others: Mapping[str, Path] | None = None
) -> Path:
    """Return an image with Python, with these parts of the cache in "cache", and with ``others``."""
    root = provision.cache.root
    parts = {f"cache/{path.relative_to(root)}": path for path in cached}
    parts |= {name: python / name for name in ("python", "site")} | dict(others or {})
    made_of = [f"{place} {path}" for place, path in sorted(parts.items())]
    key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:32]

    def build(work: Path) -> None:
        # Times as they are: the manifests of the cache tell them.
        with tarfile.open(work / "tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for place, path in parts.items():
                archive.add(path, place)
        make = host_tools(provision).command("mkfs.erofs")
        subprocess.run([*make, "--quiet", "--tar=f", work / "erofs", work / "tar"], check=True, timeout=180)
        (work / "tar").unlink()

    return provision.cache.artifact("test-disk", key, build) / "erofs"


def _artifacts(lab: Lab, bases: Sequence[PreparedBase]) -> Iterator[Path]:
    """Yield the parts of the cache that a run on the host needs of it."""
    paths = [part.path for part in lab.tools(CRIU_BUILDS[name] for name in BUILDS)]
    for base in bases:
        paths += [base.image_archive, *([base.python_layer] if base.python_layer else [])]
    compiled = [one for one in map(load_workload, available_workloads()) if one.language == "c"]
    paths += [lab._compiled(one) for one in compiled]
    root = lab.provision.cache.root / "artifacts"
    yield from {root.joinpath(*path.relative_to(root).parts[:2]) for path in paths}


def on_host(path: Path, provision: Provision) -> str:
    """Return where a file of the cache that is in the disk is on the host."""
    return f"{ON_HOST.cache}/{path.relative_to(provision.cache.root)}"


def make_host(lab: Lab, kind: MachineKind, disk: Path, harness: bytes) -> Host:
    """Return a clone of the template for ``kind`` of which nothing is left as a guest.

    ``disk`` and ``harness`` are from ``host_disk`` and ``harness_archive``.
    """
    template = lab.template(kind)
    files = replace(template.spec.files, tools=disk)
    machine = lab.clone(replace(template, spec=replace(template.spec, files=files)))
    try:
        with contextlib.closing(DockerEngine(machine)) as engine:
            engine.client.containers.get(NAME).remove(force=True)
        settings = [f"echo {value} > /proc/sys/{name}" for name, value in SETTINGS.items()]
        script = "\n".join([*settings, _AS_A_HOST])
        limit = Deadline.after(60, "a machine that is no guest")
        check(machine, ["bash", "-ec", script], limit, stdin=harness)
    except BaseException:
        lab.release(machine)
        raise
    return Host(machine=machine)
