"""Which QEMU machines run on: the provided bundle, or one the user names, if it can do what is needed."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.process import run
from harness.provision.bundle import host_tools
from harness.provision.context import Provision

_PROGRAM = "qemu-system-aarch64"
# QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)
_VERSION = re.compile(r"QEMU emulator version (?P<version>(?P<major>\d+)\.[\d.]+)")
_LEAST_MAJOR = 11  # hostfwd=unix:, which keeps the guest's engine off every TCP port


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuProgram:
    """How to start QEMU; ``key`` identifies the program, because a saved state fits only its own."""

    command: tuple[str, ...]
    version: str
    key: str


def bundled_qemu(provision: Provision) -> QemuProgram:
    """Return QEMU from the package archive, run with its own loader; raises as ``host_tools``."""
    tools = host_tools(provision)
    command = (*tools.command(_PROGRAM), "-L", str(tools.data("usr/share/qemu")))
    return QemuProgram(command=command, version=_checked_version(command, _PROGRAM), key=tools.root.name)


def qemu_at(path: Path) -> QemuProgram:
    """Return the user's QEMU; HostError that says what it lacks."""
    if not path.is_file():
        raise HostError(f"--qemu {path}: no such file")
    command = (str(path.resolve()),)
    version = _checked_version(command, str(path))
    stat = path.stat()
    identity = f"{path.resolve()}\0{version}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return QemuProgram(
        command=command, version=version, key=hashlib.sha256(identity.encode()).hexdigest()[:32]
    )


def _checked_version(command: tuple[str, ...], name: str) -> str:
    deadline = Deadline.after(20, f"{name} --version")
    said = run([*command, "--version"], deadline)
    found = _VERSION.search(said.text)
    if not found:
        raise HostError(f"{name} does not say a QEMU version: {(said.text or said.error_text)[:120]!r}")
    if int(found["major"]) < _LEAST_MAJOR:
        raise HostError(
            f"{name} is QEMU {found['version']}: version {_LEAST_MAJOR} or later is needed for "
            "hostfwd=unix: and exit-with-parent",
            hint="leave --qemu out to use the provided one",
        )
    # An older CPU list or a build without aarch64's "virt" shows here, not in the middle of a run.
    machines = run([*command, "-machine", "help"], deadline)
    if not re.search(r"^virt\b", machines.text, re.MULTILINE):
        raise HostError(f"{name} has no machine type virt", hint="leave --qemu out to use the provided one")
    return found["version"]
