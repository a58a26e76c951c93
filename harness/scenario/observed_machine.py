"""A machine that the catalogue does not know, as one of it shows itself: observed, never assumed."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalogue.cpus import CPUS, CpuModel, PacAlgorithm, UnseenCpu
from harness.catalogue.kernels import Kernel
from harness.catalogue.names import suggestion
from harness.catalogue.scenario import MachineSpec
from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import HostError, MachineError, NetworkError, UsageError
from harness.guest.probe import PROBE
from harness.guest.probe_results import MachineFacts, parse
from harness.key_module.cpu_names import cpu_name
from harness.machines.protocol import check
from harness.machines.template import TemplateSpec
from harness.provision.guest_image import GUEST_GROUP, content_key
from harness.scenario.qemu_program import check_cpu

if TYPE_CHECKING:
    from harness.scenario.lab import Lab

_KIND, _FACTS = "machine-facts", "facts.json"
_LOOK_SECONDS = 30.0
_CODE_END = 55  # the first bit above a code: it selects the half of the address space
_WITHOUT_LVA = 48


def machine_of(lab: "Lab", cpu: CpuModel | UnseenCpu, kernel: Kernel) -> MachineSpec:
    """Return the machine of a CPU and a kernel, booted and looked at once unless both are in the catalogue.

    Raises UsageError for a CPU that QEMU does not know, MachineError for a machine that does not show
    how it signs, and what a boot raises.
    """
    if isinstance(cpu, CpuModel) and not kernel.path:
        return MachineSpec(cpu=cpu, kernel=kernel)
    if isinstance(cpu, UnseenCpu):
        _check(lab, cpu)
    return machine_seen(cpu, kernel, machine_facts(lab, cpu, kernel))


def machine_facts(lab: "Lab", cpu: CpuModel | UnseenCpu, kernel: Kernel) -> MachineFacts:
    """Return what a machine of this CPU and kernel offers: one was booted for it, once per cache.

    Raises what a boot raises.
    """
    files = lab.files(kernel, GUEST_GROUP, ())
    # An artifact's directory is named by the digest of what it was made from.
    names = [one.parent.name for one in (files.kernel, files.initramfs, files.root, files.tools)]
    key = content_key(*lab.qemu.key_of(cpu), *names)
    spec = TemplateSpec(
        key=key, program=lab.qemu.command, cpu=cpu.qemu, files=files, kernel_arguments=cpu.boot
    )

    def look(work: Path) -> None:
        with (
            steps.step(f"look at {cpu.name} with kernel {kernel.name}"),
            tempfile.TemporaryDirectory(dir=work) as directory,
        ):
            machine = lab.boot(spec, Path(directory))
            try:
                answer = check(
                    machine, [PROBE, "machine"], Deadline.after(_LOOK_SECONDS, "probe of the machine")
                )
                (work / _FACTS).write_text(answer.text, "utf-8")
            finally:
                lab.release(machine)

    path = lab.provision.cache.artifact(_KIND, key, look)
    return parse(MachineFacts, "machine", (path / _FACTS).read_text("utf-8"))


def _check(lab: "Lab", cpu: UnseenCpu) -> None:
    try:
        program = lab.qemu
    except NetworkError as error:
        # Most likely a slip in a name of the catalogue.
        raise UsageError(
            f"unknown CPU {cpu.name!r}",
            hint=f"{suggestion(cpu.name, CPUS)}; QEMU, which may know more, cannot be had: {error}",
        ) from error
    check_cpu(program, cpu.qemu)


def machine_seen(cpu: CpuModel | UnseenCpu, kernel: Kernel, facts: MachineFacts) -> MachineSpec:
    """Return the machine that shows these facts; raises MachineError when they do not say how it signs."""
    where = f"CPU {cpu.name} with kernel {facts.release}"
    if facts.paca != facts.signed_lr:
        raise MachineError(
            f"{where}: HWCAP_PACA is {facts.paca} but signing changes a pointer: {facts.signed_lr}"
        )
    if facts.algorithm is None or facts.fpac is None:
        raise MachineError(f"{where}: the kernel does not show the ID registers (HWCAP_CPUID)")
    algorithm = PacAlgorithm(facts.algorithm) if facts.algorithm != "none" else None
    bits = _address_bits(where, facts) if facts.paca else None
    if (algorithm is not None) is not facts.paca:
        raise MachineError(f"{where}: HWCAP_PACA is {facts.paca} and the algorithm {facts.algorithm}")
    base = cpu if isinstance(cpu, CpuModel) else None
    # Where nothing signs, the size of addresses decides nothing.
    lva = bits > _WITHOUT_LVA if bits else base is not None and base.lva
    model = CpuModel(
        name=cpu.name,
        qemu=cpu.qemu,
        pac=facts.paca,
        fpac=facts.fpac,
        algorithm=algorithm,
        lva=lva,
        core_of=base.core_of if base else "",
        note=base.note if base else "not in the catalogue: observed in a machine",
        boot=cpu.boot,
    )
    if bits and kernel.path:
        kernel = replace(kernel, va_bits=bits)
    seen = MachineSpec(cpu=model, kernel=kernel)
    if bits and seen.va_bits != bits:
        raise MachineError(f"{where}: addresses have {bits} bits, and {seen.va_bits} were expected")
    return seen


def host_seen(facts: MachineFacts) -> MachineSpec:
    """Return the machine that a host of these facts is, its CPU named by MIDR; raises HostError."""
    cpu = UnseenCpu(name=re.sub(r"[^a-z0-9]+", "-", cpu_name(facts.midr or 0).lower()))
    series = re.match(r"\d+\.\d+", facts.release)
    if series is None:
        raise HostError(f"the kernel's release {facts.release!r} begins with no version")
    try:
        bits = _address_bits("this host", facts) if facts.paca else _WITHOUT_LVA
        kernel = Kernel(name=series.group(), suite="", package_group="", modules=(), va_bits=bits)
        return machine_seen(cpu, kernel, facts)
    except MachineError as error:
        raise HostError(error.message) from error


def _address_bits(where: str, facts: MachineFacts) -> int:
    """Return the first bit of a code: those of an address lie below."""
    mask = facts.insn_mask or 0
    bits = (mask & -mask).bit_length() - 1
    if not mask or mask != (1 << _CODE_END) - (1 << bits):
        raise MachineError(f"{where}: the mask of codes is 0x{mask:016x}, not bits up to {_CODE_END - 1}")
    return bits
