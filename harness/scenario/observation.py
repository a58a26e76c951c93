"""What was seen in one scenario, and the outcome it amounts to.

Nothing here knows predictions: outcome and prediction are computed by code that shares nothing.
"""

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.catalogue.outcome import Outcome, Premise
from harness.guest.criu import CriuRun
from harness.guest.probe_results import CoreReport, KeyFingerprints, MachineFacts, ThreadsReport, WatchReport
from harness.machines.template import Facts
from harness.parsing.kernel_fault import KernelFault
from harness.parsing.pac import chance, pac_bits, width
from harness.scenario.hang import HangEnd
from harness.scenario.result import Registers

# include/uapi/asm-generic/siginfo.h; arch/arm64/kernel/traps.c gives it for FPAC and nothing else,
# ILL_ILLOPC for undefined instructions.
_ILL_ILLOPN = 2


@dataclass(slots=True, kw_only=True)
class Observation:
    """Filled in phase by phase; whatever a phase did not reach stays None.

    ``machine`` and ``template`` are what the machine and its preparation were seen to be.
    ``signed_values`` is how many signed pointers in memory it tells of when it is ready.
    ``held`` is the task before the first dump, ``restored`` after the last restore (a ptrace
    stop), both with all their descendants; ``core`` and ``fault`` are the first death among these.
    ``exit_status`` is the raw wait status of the started task itself. ``carrier``: the scenario has
    something that should carry the keys. ``auth_off``: it should have switched authentication off
    in the restored task.
    """

    premises: dict[str, Premise] = field(default_factory=dict)
    carrier: bool = False
    auth_off: bool = False
    machine: MachineFacts | None = None
    template: Facts = field(default_factory=dict)
    held: ThreadsReport | None = None
    rehearsal: WatchReport | None = None
    signed_values: int = 0
    fresh: KeyFingerprints | None = None
    dump: CriuRun | None = None
    restore: CriuRun | None = None
    hang_end: HangEnd | None = None
    exit_status: int | None = None
    core: CoreReport | None = None
    fault: KernelFault | None = None
    restored: ThreadsReport | None = None
    ticks_before: int = 0
    ticks_after: int = 0
    ticks_wanted: int = 0
    verified: bool | None = None

    @property
    def progressed(self) -> int:
        """Ticks after the last restore."""
        return self.ticks_after - self.ticks_before

    @property
    def missing(self) -> set[int]:
        """Processes that lived before the dump and not when the restored tree was looked at."""
        lives = {thread.nspid for thread in self.restored.threads} if self.restored else set()
        held = self.held.threads if self.held else ()
        return {thread.nspid for thread in held} - lives if lives else set()

    @property
    def core_of_another(self) -> bool:
        """Whether the core is that of another process than the started one, dumped with it."""
        return bool(self.core and self.held and self.core.nspid != self.held.processes[0])

    @property
    def frames(self) -> int:
        """Distinct signed frames returned through in one round of the workload, seen before the dump."""
        if self.rehearsal is None:
            return 0
        return len({(frame.address, frame.lr) for frame in self.rehearsal.returned if frame.signed})

    @property
    def p_chance(self) -> float | None:
        """The probability that wrong keys pass everything signed that was seen live; None without any."""
        mask, live = self.insn_mask, self.frames + self.signed_values
        return chance(width(mask), live) if mask and live else None

    @property
    def others_sign(self) -> list[bool]:
        """For each process but the started one: whether it had a signed frame before the dump."""
        threads = self.held.threads if self.held else ()
        signing = {thread.nspid for thread in threads if thread.frames}
        return [pid in signing for pid in dict.fromkeys(thread.nspid for thread in threads)][1:]

    @property
    def return_addresses(self) -> set[int]:
        """Where the signed frames return to that all threads had before the dump, without their codes."""
        threads = self.held.threads if self.held else ()
        return {frame.stripped for thread in threads for frame in thread.frames or ()}

    @property
    def insn_mask(self) -> int | None:
        """insn_mask of NT_ARM_PAC_MASK: of the restored task, else (no PAC there) of the dumped one."""
        reports = (one for one in (self.core, self.restored, self.held) if one and one.threads)
        return next((one.threads[0].insn_mask for one in reports if one.threads[0].insn_mask), None)

    @property
    def in_own_code(self) -> bool:
        """Whether PC or LR of the dead task, stripped, lies in a mapped file: not in CRIU's restorer."""
        if self.core is None:
            return False
        thread = self.core.threads[0]
        return any(line and "/" in line for line in (thread.pc_mapping, thread.lr_mapping))

    def keys_before(self) -> Mapping[int, KeyFingerprints | None]:
        """Fingerprints of the dumped tasks by thread id in their pid namespace; if one died, of that one."""
        threads = self.held.threads if self.held else ()
        return {
            thread.nstid: thread.keys
            for thread in threads
            if self.core is None or thread.nspid == self.core.nspid
        }

    def keys_after(self) -> Mapping[int, KeyFingerprints | None]:
        """Fingerprints of the restored tasks: from the core of one that died, else from a ptrace stop."""
        if self.core:
            return {thread.nstid: thread.keys for thread in self.core.threads}
        return {thread.nstid: thread.keys for thread in self.restored.threads} if self.restored else {}

    def keys_equal(self) -> bool | None:
        """Whether every thread of the restored task has the keys it was dumped with; None if unread."""
        before, after = self.keys_before(), self.keys_after()
        if not before or before.keys() != after.keys():
            return None
        if any(keys is None for keys in (*before.values(), *after.values())):
            return None
        return before == after

    def masks_equal(self) -> bool | None:
        """Whether every thread has the enabled-keys mask it should have; None if unread or the task died.

        That is the one it was dumped with, or none enabled where authentication should be off.
        """
        if not (self.held and self.restored):
            return None
        wanted = {thread.nstid: 0 if self.auth_off else thread.enabled_keys for thread in self.held.threads}
        return wanted == {thread.nstid: thread.enabled_keys for thread in self.restored.threads}

    def registers(self) -> Registers:
        """Return PC and LR of the dead task with the PAC bits in them, or of the live one."""
        thread = self.core.threads[0] if self.core else None
        pc = thread.pc if thread else (self.fault.pc if self.fault else None)
        lr = thread.lr if thread else (self.fault.lr if self.fault else None)
        mask = self.insn_mask
        if self.signal is None:
            return Registers(pac_mask=mask)
        for name, value in (("pc", pc), ("lr", lr)):
            if value is not None and mask and (bits := pac_bits(value, mask)):
                return Registers(pc=pc, lr=lr, pac_mask=mask, pac_register=name, pac_bits=bits)
        return Registers(pc=pc, lr=lr, pac_mask=mask)

    @property
    def signal(self) -> str | None:
        """Name of the signal that killed the restored task, or the one of its processes judged; or None."""
        number = self.exit_status & 0x7F if self.exit_status is not None else 0
        # Nobody leaves a core at SIGKILL: an engine whose shim panics at a quick end tells of one.
        if number in {0, signals.SIGKILL} or self.core_of_another:
            fault = self.fault.signal if self.fault else None
            number = self.core.signal if self.core else fault or number
        if not number:
            return None
        try:
            return signals.Signals(number).name
        except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX
            return f"SIG{number}"


def decide(seen: Observation) -> tuple[Outcome, str]:
    """Return the outcome and the reason in a sentence; precedence as in the architecture."""
    return _invalid(seen) or _stuck(seen) or _end(seen) or _loss(seen) or _life(seen)


def _invalid(seen: Observation) -> tuple[Outcome, str] | None:
    broken = [
        f"premise {one.name}: declared {_word(one.declared)}, observed {_word(one.observed)}"
        for one in seen.premises.values()
        if not one.holds
    ]
    if not seen.premises:
        broken = ["no premise was observed"]
    elif not broken and seen.dump is None:
        broken = ["nothing was dumped"]
    return (Outcome.INVALID, "; ".join(broken)) if broken else None


def _stuck(seen: Observation) -> tuple[Outcome, str] | None:
    """Judge a dump that failed, or a call of CRIU that did not come back."""
    for name, call in (("dump", seen.dump), ("restore", seen.restore)):
        if call is None:
            return Outcome.INVALID, f"there was no {name}"
        if call.hung:
            last = call.log.last_line
            return Outcome.HUNG, f"the {name} did not end within its deadline; last log line: {last}"
        if name == "dump" and call.returncode != 0:
            return Outcome.DUMP_FAILED, f"dump ended with {call.returncode}: {call.reason}"
    return None


def _end(seen: Observation) -> tuple[Outcome, str] | None:
    """Judge a death of the restored task, whatever restore returned, and a restore that was refused."""
    death = _cut_short(seen) or (_death(seen) if seen.core or seen.exit_status is not None else None)
    if death and death[0].is_pac_fault:
        return death
    if seen.restore and seen.restore.returncode != 0:  # CRIU kills the tasks of a restore it gives up
        why = f"restore ended with {seen.restore.returncode}: {seen.restore.reason}"
        return Outcome.RESTORE_REFUSED, why
    return death


def _cut_short(seen: Observation) -> tuple[Outcome, str] | None:
    """Judge by the kernel's log a death in a restore that CRIU gave up, which left no core."""
    if seen.core or seen.fault is None or not (seen.restore and seen.restore.returncode):
        return None
    registers, fault = seen.registers(), seen.fault
    # There is no core to tell whose code it was: the address has to be one that a frame seen before
    # the dump returns to, so that a fault of CRIU's restorer is not taken for the task's.
    returned_to = registers.lr if fault.is_fpac else registers.pc
    if returned_to is None or (returned_to & ~(seen.insn_mask or 0)) not in seen.return_addresses:
        return None
    where = (
        f"pc {_hex(registers.pc)}, lr {_hex(registers.lr)}, by the kernel's log; then {seen.restore.reason}"
    )
    if fault.is_fpac:
        return Outcome.FPAC_FAULT, f"authentication failed and trapped (FPAC) while CRIU let go: {where}"
    if registers.pac_register == "pc":
        return Outcome.SIGNED_PC_FAULT, f"a fault with PAC bits left in PC while CRIU let go: {where}"
    return None


def _death(seen: Observation) -> tuple[Outcome, str]:
    registers = seen.registers()
    where = f"pc {_hex(registers.pc)}, lr {_hex(registers.lr)}"
    if seen.core and seen.core_of_another:
        where += f", in its process {seen.core.nspid} ({seen.core.comm})"
    if seen.signal is None:
        why = f"the restored task ended by itself, wait status 0x{seen.exit_status or 0:x}"
        return Outcome.CRASHED_OTHER, why
    if not seen.in_own_code:
        why = f"the restored task died of {seen.signal} outside the code it was dumped with: {where}"
        return Outcome.CRASHED_OTHER, why
    if seen.signal == "SIGILL" and _trapped(seen):
        return Outcome.FPAC_FAULT, f"authentication failed and trapped (FPAC) in the restored task: {where}"
    # Between its prologue and its first call a healthy function has a signed LR as well: there
    # the fetch itself has to have failed.
    fetch_failed = (
        seen.core is not None and seen.core.siginfo is not None and (seen.core.siginfo.addr == registers.pc)
    )
    if seen.signal == "SIGSEGV" and registers.pac_bits and (registers.pac_register == "pc" or fetch_failed):
        register = (registers.pac_register or "").upper()
        return Outcome.SIGNED_PC_FAULT, f"SIGSEGV with PAC bits left in {register}: {where}"
    return Outcome.CRASHED_OTHER, f"the restored task died of {seen.signal}: {where}"


def _trapped(seen: Observation) -> bool:
    """Return whether a failed authentication itself raised the signal, by siginfo or the kernel's log.

    Threads that die together tear each other's lines in the log; a core has one siginfo.
    """
    info = seen.core.siginfo if seen.core else None
    told = info is not None and info.code == _ILL_ILLOPN and info.addr == seen.registers().pc
    return told or (seen.fault is not None and seen.fault.is_fpac)


def _loss(seen: Observation) -> tuple[Outcome, str] | None:
    """Judge the end of a process that left no core while the started one lives on."""
    if not seen.missing:
        return None
    which = ", ".join(str(pid) for pid in sorted(seen.missing))
    return Outcome.CRASHED_OTHER, f"the restored task lives on, but these of its processes do not: {which}"


def _life(seen: Observation) -> tuple[Outcome, str]:
    if seen.progressed < seen.ticks_wanted:
        return (
            Outcome.HUNG,
            f"the restored task is alive but showed {seen.progressed} of {seen.ticks_wanted} ticks",
        )
    if seen.verified is False:
        return Outcome.STATE_LOST, "the workload says FAIL about its own state"
    if seen.carrier and any(seen.keys_before().values()) and seen.keys_equal() is None:
        return Outcome.INVALID, "alive, but the keys of the restored task were not read"
    if seen.carrier and seen.keys_equal() is False:
        return Outcome.STATE_LOST, "alive, but with other keys than it was dumped with"
    if seen.carrier and seen.masks_equal() is False:
        return Outcome.STATE_LOST, "alive, but with other enabled keys than it should have"
    return Outcome.SURVIVED, f"it made {seen.progressed} ticks after the restore"


def _word(value: bool | None) -> str:  # noqa: FBT001 -- three-valued, not a switch
    return {True: "yes", False: "no", None: "not seen"}[value]


def _hex(value: int | None) -> str:
    return "unread" if value is None else f"0x{value:016x}"
