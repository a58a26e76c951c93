"""How a restored task died: its core and what the kernel logged of it, looked for in its whole tree."""

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


def observe_death(machine: Machine, pid: int, seen: Observation, deadline: Deadline) -> None:
    """Put the death of the process ``pid``, or of one that was dumped with it, into ``seen``.

    Ids are those of the innermost pid namespace. Of several dead ones the first is taken: another may have
    ended because of it, as a client does whose server is gone. Raises MachineError.
    """
    given_up = seen.restore is not None and bool(seen.restore.returncode)
    tree = {pid, *(seen.held.processes if seen.held else ())}
    found, torn = _cores(machine, deadline)
    cores = [core for core in found if core.nspid in tree]
    if torn and not cores and not given_up:
        raise torn[0]
    faults = parse_faults(read_kernel_log(machine))
    if cores:
        # Where the log does not order them, the process that was started comes first.
        cores.sort(key=lambda core: (_position(core, faults), core.nspid != pid))
        seen.core = cores[0]
        at = _position(seen.core, faults)
        seen.fault = faults[at] if at < len(faults) else None
    elif given_up:
        # CRIU kills what it gives up, and a task that is dying then leaves no core. The kernel
        # has logged its registers; nothing else has faulted in this clone.
        # Of several threads any may be first; the log of some may be torn by the others'.
        logged = [one for one in faults if one.pc is not None]
        seen.fault = max(logged, key=lambda one: _bits_in_pc(one, seen.insn_mask), default=None)


def _cores(machine: Machine, deadline: Deadline) -> tuple[list[CoreReport], list[MachineError]]:
    """Return the cores, and the errors of those that a SIGKILL cut off while the kernel was writing them.

    CRIU kills what it gives up, and the kernel a pid namespace whose first process has died.
    """
    found: list[CoreReport] = []
    torn: list[MachineError] = []
    names = check(machine, ["bash", "-c", f"cd {CORES} && echo *.json"], deadline).text.split()
    for name in names:
        if name != "*.json":
            text = machine.read_file(f"{CORES}/{name}", deadline).decode()
            try:
                found.append(parse(CoreReport, "core", text))
            except MachineError as error:
                torn.append(error)
    return found, torn


def _position(core: CoreReport, faults: Sequence[KernelFault]) -> int:
    """Return where the log tells of the fault that the core is of; its length if nowhere."""
    dead = core.threads[0]
    ids = {dead.tid, core.pid}  # the kernel logs the thread's
    own = [at for at, one in enumerate(faults) if one.pid in ids and one.pc == dead.pc]
    return own[-1] if own else len(faults)


def _bits_in_pc(fault: KernelFault, mask: int | None) -> int:
    return width(pac_bits(fault.pc, mask)) if mask and fault.pc is not None else 0
