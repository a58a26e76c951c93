"""Observing the death of a restored task: its core, and what the kernel logged."""

from collections.abc import Sequence

from harness.core.deadline import Deadline
from harness.core.errors import MachineError
from harness.guest.container import CORES
from harness.guest.probe_results import CoreReport, parse
from harness.machines.protocol import Machine, check
from harness.parsing.kernel_fault import KernelFault, parse_faults
from harness.parsing.pac import pac_bits, width
from harness.scenario.evidence import read_kernel_log
from harness.scenario.observation import Observation


def observe_death(seen: Observation, machine: Machine, pid: int, deadline: Deadline) -> None:
    """Observe into ``seen`` the core of the task ``pid`` of its pid namespace, and its fault.

    Raises MachineError for a core of it that cannot be read.
    """
    given_up = seen.restore is not None and bool(seen.restore.returncode)
    names = check(machine, ["bash", "-c", f"cd {CORES} && echo *.json"], deadline).text.split()
    for name in names:
        if name != "*.json":
            text = machine.read_file(f"{CORES}/{name}", deadline).decode()
            try:
                report = parse(CoreReport, "core", text)
            except MachineError:
                if not given_up:
                    raise
                continue  # CRIU's SIGKILL came while the kernel was writing it
            if report.nspid == pid:
                seen.core = report
    faults = parse_faults(read_kernel_log(machine))
    seen.fault = (
        _of_core(faults, seen.core) if seen.core else _of_task_given_up(faults, seen, given_up=given_up)
    )


def _of_core(faults: Sequence[KernelFault], core: CoreReport) -> KernelFault | None:
    dead = core.threads[0]
    ids = {dead.tid, core.pid}  # the kernel logs the thread's
    own = [one for one in faults if one.pid in ids and one.pc == dead.pc]
    return own[-1] if own else None


def _of_task_given_up(
    faults: Sequence[KernelFault], seen: Observation, *, given_up: bool
) -> KernelFault | None:
    """Return the fault of a task that CRIU killed while it was dying, which leaves no core.

    The kernel has logged its registers; nothing else has faulted in this clone. Of several threads
    any may be first; the log of some may be torn by the others'.
    """
    mask = seen.insn_mask

    def bits_in_pc(fault: KernelFault) -> int:
        return width(pac_bits(fault.pc, mask)) if mask and fault.pc is not None else 0

    logged = [one for one in faults if one.pc is not None] if given_up else []
    return max(logged, key=bits_in_pc, default=None)
