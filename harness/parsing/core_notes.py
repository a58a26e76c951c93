"""The notes of an aarch64 core dump: registers, signal and PAC mask of every thread, never its keys.

Layouts: Linux include/uapi/linux/elf.h, include/linux/elfcore.h (elf_prstatus, aarch64: 392
bytes, registers at byte 112) and arch/arm64/include/uapi/asm/ptrace.h (user_pac_mask).
"""

import hmac
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from elftools.common.exceptions import ELFError

from harness.parsing.elf_notes import Note, notes, open_aarch64

NT_PRSTATUS = 1
NT_SIGINFO = 0x53494749
NT_ARM_PAC_MASK = 0x406
NT_ARM_PACA_KEYS = 0x407
NT_ARM_PACG_KEYS = 0x408
NT_ARM_PAC_ENABLED_KEYS = 0x40A

_KEY_NOTES = (NT_ARM_PACA_KEYS, NT_ARM_PACG_KEYS)
_CURSIG = struct.Struct("<12xh")
_PID = struct.Struct("<32xi")
_REGISTERS = struct.Struct("<112x34Q")  # x0 to x30, sp, pc, pstate
_SIGINFO = struct.Struct("<iii4xQ")  # si_signo, si_errno, si_code, si_addr
_MASKS = struct.Struct("<QQ")  # data_mask, insn_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreThread:
    """One thread: ``registers`` holds "x0" to "x30"; masks are None without NT_ARM_PAC_MASK.

    ``signal`` is the one it was at (0: none); ``pid`` its id in the namespace the core's writer
    saw; the has_* fields tell which key notes the core holds for it.
    """

    pid: int
    signal: int
    registers: Mapping[str, int]
    sp: int
    pc: int
    pstate: int
    data_mask: int | None = None
    insn_mask: int | None = None
    has_address_keys: bool = False
    has_generic_key: bool = False
    has_enabled_keys: bool = False

    @property
    def lr(self) -> int:
        """The link register, x30."""
        return self.registers["x30"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalInfo:
    """Why the process died; ``address`` has a meaning for SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGTRAP."""

    signal: int
    code: int
    address: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreNotes:
    """All threads, the one that died first, and the signal."""

    threads: tuple[CoreThread, ...]
    siginfo: SignalInfo | None


def parse_core(core: bytes) -> CoreNotes:
    """Return what the notes of ``core`` say; raise ValueError when it is damaged or no aarch64 core."""
    threads: list[CoreThread] = []
    siginfo: SignalInfo | None = None
    for note in _core_notes(core):
        if note.type == NT_PRSTATUS:
            threads.append(_thread(note))
        elif note.type == NT_SIGINFO:
            siginfo = _siginfo(note)
        elif threads:
            threads[-1] = _with(threads[-1], note)
    if not threads:
        raise ValueError("core without NT_PRSTATUS: no thread to look at")
    return CoreNotes(threads=tuple(threads), siginfo=siginfo)


def blank_keys(core: bytes) -> bytes:
    """Return ``core`` with the PACA and PACG key notes of every thread zeroed, sizes unchanged.

    Raises ValueError rather than let a damaged core through.
    """
    blanked = bytearray(core)
    for note in _core_notes(core):
        if note.type in _KEY_NOTES:
            blanked[note.offset : note.offset + len(note.desc)] = bytes(len(note.desc))
    return bytes(blanked)


def key_fingerprints(core: bytes, salt: bytes) -> Mapping[int, str]:
    """Return a salted fingerprint of the keys of every thread that has them, by pid.

    It is the first 16 hex digits of HMAC-SHA256(salt, PACA note + PACG note): equal keys are
    seen to be equal within one salt, and nothing leads back to them.
    """
    keys: dict[int, bytes] = {}
    pid = 0
    for note in _core_notes(core):
        if note.type == NT_PRSTATUS:
            pid = _thread(note).pid
        elif note.type in _KEY_NOTES:
            keys[pid] = keys.get(pid, b"") + note.desc
    return MappingProxyType({pid: hmac.digest(salt, key, "sha256").hex()[:16] for pid, key in keys.items()})


def _core_notes(core: bytes) -> Iterator[Note]:
    elf = open_aarch64(core)
    if elf["e_type"] != "ET_CORE":
        raise ValueError(f"not a core but {elf['e_type']}")
    try:
        spans = [
            (segment["p_offset"], segment["p_filesz"])
            for segment in elf.iter_segments()
            if segment["p_type"] == "PT_NOTE"
        ]
    except (ELFError, OverflowError) as error:
        raise ValueError(f"damaged core: {error}") from error
    if not spans:
        raise ValueError("core without notes")
    for offset, size in spans:
        yield from notes(core, offset, offset + size)


def _unpack(layout: struct.Struct, note: Note) -> tuple[int, ...]:
    if len(note.desc) < layout.size:
        raise ValueError(f"note {note.type:#x} has {len(note.desc)} bytes, expected {layout.size} or more")
    return layout.unpack_from(note.desc)


def _thread(note: Note) -> CoreThread:
    (signal,) = _unpack(_CURSIG, note)
    (pid,) = _unpack(_PID, note)
    *general, sp, pc, pstate = _unpack(_REGISTERS, note)
    registers = {f"x{number}": value for number, value in enumerate(general)}
    return CoreThread(
        pid=pid, signal=signal, registers=MappingProxyType(registers), sp=sp, pc=pc, pstate=pstate
    )


def _siginfo(note: Note) -> SignalInfo:
    signal, _errno, code, address = _unpack(_SIGINFO, note)
    return SignalInfo(signal=signal, code=code, address=address)


def _with(thread: CoreThread, note: Note) -> CoreThread:
    if note.type == NT_ARM_PAC_MASK:
        data_mask, insn_mask = _unpack(_MASKS, note)
        return replace(thread, data_mask=data_mask, insn_mask=insn_mask)
    if note.type == NT_ARM_PACA_KEYS:
        return replace(thread, has_address_keys=True)
    if note.type == NT_ARM_PACG_KEYS:
        return replace(thread, has_generic_key=True)
    if note.type == NT_ARM_PAC_ENABLED_KEYS:
        return replace(thread, has_enabled_keys=True)
    return thread
