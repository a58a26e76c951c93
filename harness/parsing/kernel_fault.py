"""Faults of user programs as the arm64 kernel logs them.

Two sources, each with registers: debug.exception-trace=1 (arch/arm64/kernel/traps.c,
arm64_show_signal) and kernel.print-fatal-signals=1 (kernel/signal.c, print_fatal_signal).
With both on, one death gives two records, which are merged here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# ESR_ELx exception classes (Arm ARM, ESR_EL1.EC)
EC_FPAC = 0x1C
EC_INSTRUCTION_ABORT_LOWER = 0x20


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFault:
    """One logged fault.

    ``pid`` is that of the thread, in the outermost pid namespace. None where the log does not
    say; ``registers`` holds "x0" to "x29". ``signal`` is known only with print-fatal-signals.
    """

    process: str
    pid: int
    signal: int | None
    esr: int | None
    description: str
    pc: int | None
    lr: int | None
    sp: int | None
    pstate: int | None
    registers: Mapping[str, int]

    @property
    def exception_class(self) -> int | None:
        """The class of the exception: bits 31 to 26 of ESR."""
        return None if self.esr is None else self.esr >> 26 & 0x3F

    @property
    def is_fpac(self) -> bool:
        """Whether a failed authentication itself raised the fault."""
        return self.exception_class == EC_FPAC

    @property
    def fault_address(self) -> int | None:
        """The address that faulted, where it follows: that of an instruction abort is the PC."""
        return self.pc if self.exception_class == EC_INSTRUCTION_ABORT_LOWER else None


# <6>[   42.123456][  T452] python3[452]: ...       (level, time and caller are each optional)
_PREFIX = re.compile(r"^(?:<\d+>)?(?:\[ *\d+\.\d+\])?(?:\[ *[TC]\d+\])? ?")
# python3[452]: unhandled exception: IABT (lower EL), ESR 0x0000000082000004, level 0 translation fault
# python3[452]: unhandled exception: FPAC, ESR 0x0000000072000000, undefined instruction in libc.so.6[...]
# python3[452]: unhandled exception: SP/PC alignment exception
_EXCEPTION = re.compile(
    r"^(?P<process>.+)\[(?P<pid>\d+)\]: unhandled exception: "
    r"(?:(?P<kind>.*?), ESR (?P<esr>0x[0-9a-f]+), )?(?P<what>.*)$"
)
# potentially unexpected fatal signal 11.
# python3/452: potentially unexpected fatal signal 11.
# python3.13: python3: potentially unexpected fatal signal 11.
_SIGNAL = re.compile(r"potentially unexpected fatal signal (?P<signal>\d+)\.")
# CPU: 0 PID: 452 Comm: python3 Not tainted 6.1.0-41-cloud-arm64 #1  Debian 6.1.158-1
# CPU: 1 UID: 0 PID: 452 Comm: python3 Tainted: G        W  6.12.0
_TASK = re.compile(
    r"^CPU: \d+ (?:UID: \d+ )?PID: (?P<pid>\d+) Comm: (?P<process>.+?) (?:Not tainted|Tainted)"
)
# pc : 003effffa159e4dc
# lr : 003effffa159e4dc
# sp : 0000ffffd1ab2c10
# pstate: 60001000 (nZCv daif -PAN -UAO -TCO -DIT +SSBS BTYPE=--)
_SPECIAL = re.compile(r"^(?P<name>pc|lr|sp|pstate) ?: (?P<value>[0-9a-f]{8,16})\b")
# x29: 0000ffffd1ab2c10 x28: 0000000000000000 x27: 0000ffffa1b2c3d4
_GENERAL = re.compile(r"\b(x\d{1,2}) ?: ([0-9a-f]{16})\b")


@dataclass(slots=True, kw_only=True)
class _Record:
    """A fault while its lines are being read."""

    process: str | None = None
    pid: int | None = None
    signal: int | None = None
    esr: int | None = None
    description: str = ""
    special: dict[str, int] = field(default_factory=dict)
    general: dict[str, int] = field(default_factory=dict)

    def frozen(self) -> KernelFault | None:
        if self.process is None or self.pid is None:
            return None
        return KernelFault(
            process=self.process,
            pid=self.pid,
            signal=self.signal,
            esr=self.esr,
            description=self.description,
            pc=self.special.get("pc"),
            lr=self.special.get("lr"),
            sp=self.special.get("sp"),
            pstate=self.special.get("pstate"),
            registers=MappingProxyType(dict(self.general)),
        )

    def absorbs(self, later: "_Record") -> bool:
        """Whether ``later`` is the fatal-signal record of the fault that this one describes.

        The signal comes from the same thread right after the exception, with the same PC;
        a thread that handled a first fault and died of a second has two of its own.
        """
        same = self.pid == later.pid and self.special.get("pc", -1) == later.special.get("pc", -2)
        return same and self.signal is None and later.signal is not None


def parse_faults(dmesg: str) -> tuple[KernelFault, ...]:
    """Return the faults in a kernel log, oldest first; lines that are none of them are skipped."""
    records: list[_Record] = []
    for line in dmesg.splitlines():
        _read(records, _PREFIX.sub("", line.rstrip()))
    merged: list[_Record] = []
    for record in records:
        earlier = next((seen for seen in merged if seen.absorbs(record)), None)
        if earlier is None:
            merged.append(record)
        else:
            earlier.signal = record.signal
    return tuple(fault for fault in (record.frozen() for record in merged) if fault is not None)


def _read(records: list[_Record], line: str) -> None:
    if found := _EXCEPTION.match(line):
        esr = found["esr"]
        description = f"{found['kind']}, {found['what']}" if esr else found["what"]
        records.append(
            _Record(
                process=found["process"],
                pid=int(found["pid"]),
                esr=int(esr, 16) if esr else None,
                description=description,
            )
        )
    elif found := _SIGNAL.search(line):
        records.append(_Record(signal=int(found["signal"])))
    elif not records:
        return
    elif found := _TASK.match(line):
        if records[-1].pid is None:
            records[-1].process, records[-1].pid = found["process"], int(found["pid"])
    elif found := _SPECIAL.match(line):
        # The first value counts: a kernel oops further down prints lines of the same form.
        records[-1].special.setdefault(found["name"], int(found["value"], 16))
    else:
        for name, value in _GENERAL.findall(line):
            records[-1].general.setdefault(name, int(value, 16))
