"""Which QEMU machines run on: the provided bundle, or one the user names, if it can do what is needed."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.catalogue.cpus import CPUS, HOST_CPU, CpuModel, UnseenCpu
from harness.catalogue.names import suggestion
from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.core.process import CommandResult, run
from harness.machines.qemu_config import board, shape, uses_kvm
from harness.provision.bundle import host_tools
from harness.provision.context import Provision

_PROGRAM = "qemu-system-aarch64"
# QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)
_VERSION = re.compile(r"QEMU emulator version (?P<version>(?P<major>\d+)\.[\d.]+)")
# Available CPUs:\n  a64fx\n  arm1026
_CPU_LINE = re.compile(r"^ +([\w.-]+)$", re.MULTILINE)
# qemu-system-aarch64: Invalid CPU model: cortex-m3\nThe valid models are: cortex-a7, cortex-a15
_VALID = re.compile(r"valid models are: (.*)")
_FIRST_CPU = "/machine/unattached/device[0]"
_LEAST_MAJOR = 11  # hostfwd=unix:, which keeps the guest's engine off every TCP port


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuProgram:
    """How to start QEMU; ``key`` identifies the program, because a saved state fits only its own."""

    command: tuple[str, ...]
    version: str
    key: str

    def key_of(self, cpu: CpuModel | UnseenCpu) -> tuple[str, ...]:
        """Return what a saved state is of: this program, the machine it makes, and the host for its CPU."""
        return (self.key, shape(cpu.qemu, cpu.boot), *([_this_host()] if uses_kvm(cpu.qemu) else []))


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


def check_cpu(program: QemuProgram, text: str) -> None:
    """Raise UsageError unless this QEMU has a CPU ``text`` that runs arm64 kernels; it lists near names.

    For the host's own CPU, HostError where there is no KVM to run a machine on it.
    """
    if uses_kvm(text):
        kvm_has_pac(program)
        return
    name = text.partition(",")[0]
    model = run([*program.command, "-cpu", "help"], Deadline.after(20, "QEMU's list of CPUs"))
    known = _CPU_LINE.findall(model.text)
    if name not in known:
        raise UsageError(f"unknown CPU {text!r}", hint=suggestion(name, {*known, *CPUS}))
    look = {"execute": "qom-get", "arguments": {"path": _FIRST_CPU, "property": "aarch64"}}
    tried, answers = _asked(program, text, look)
    if tried.returncode != 0:
        valid = _VALID.search(tried.error_text)
        said = tried.error_text.splitlines()[0].partition(": ")[2] if tried.error_text else "no message"
        raise UsageError(
            f"QEMU refuses --cpu {text}: {said}", hint=f"there are {valid[1]}" if valid else None
        )
    if True not in answers:
        raise UsageError(f"--cpu {text} has 32 bits: no arm64 kernel runs on it")


def kvm_has_pac(program: QemuProgram) -> bool:
    """Return whether machines on this host's own CPU authenticate pointers: KVM is asked, through QEMU.

    ``pauth`` of the expanded model "host" is what KVM lets a guest have (QEMU, docs/system/arm/
    cpu-features.rst): a CPU with PAC is not enough. Raises HostError where KVM cannot be used.
    """
    model = {"type": "full", "model": {"name": HOST_CPU}}
    tried, answers = _asked(program, HOST_CPU, {"execute": "query-cpu-model-expansion", "arguments": model})
    expanded = next(
        (one["model"]["props"] for one in answers if isinstance(one, dict) and "model" in one), None
    )
    if tried.returncode != 0 or expanded is None:
        said = tried.error_text.strip().splitlines() or ["no message"]
        raise HostError(
            f"--cpu {HOST_CPU} needs KVM for arm64, and QEMU cannot use it here: {said[0]}",
            hint="name a CPU to emulate: --cpu neoverse-v1",
        )
    return expanded.get("pauth") is True


def _asked(
    program: QemuProgram, cpu: str, question: Mapping[str, Any]
) -> tuple[CommandResult, Sequence[Any]]:
    """Return how QEMU ended with this CPU, not started, and what it returned over QMP."""
    backend = ("-object", "memory-backend-ram,id=ram,size=128M", "-m", "128M")
    words = (
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        *board(cpu),
        *backend,
        "-S",
        "-qmp",
        "stdio",
    )
    commands = ({"execute": "qmp_capabilities"}, question, {"execute": "quit"})
    tried = run(
        [*program.command, *words],
        Deadline.after(20, f"QEMU with CPU {cpu}"),
        stdin="".join(json.dumps(one) + "\n" for one in commands).encode(),
    )
    said = [json.loads(line) for line in tried.text.splitlines() if line.startswith("{")]
    return tried, [one["return"] for one in said if "return" in one]


def _this_host() -> str:
    """Return a digest of kernel and CPU: what KVM saved on one host is not resumed on another."""
    cpu = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0]
    kernel = os.uname()
    return hashlib.sha256(f"{kernel.release}\0{kernel.version}\0{cpu}".encode()).hexdigest()
