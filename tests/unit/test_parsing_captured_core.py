"""A core of the real thing: Python on neoverse-v1, killed by a signed PC after a stock restore."""

import struct
from pathlib import Path

import pytest

from harness.guest.probe_results import CoreReport, parse
from harness.parsing import pac
from harness.parsing.core_notes import (
    NT_ARM_PACA_KEYS,
    NT_ARM_PACG_KEYS,
    blank_keys,
    key_fingerprints,
    parse_core,
)
from harness.parsing.kernel_fault import parse_faults

DATA = Path(__file__).parents[1] / "data"
CORE = (DATA / "core-segv-neoverse-v1").read_bytes()
KEY_NOTES = {NT_ARM_PACA_KEYS: 64, NT_ARM_PACG_KEYS: 16}
PC = 0x0069FFFFB754E4DC


def key_place(core: bytes, kind: int) -> int:
    """Return where the key note of this type has its keys, found by its header alone."""
    header = struct.pack("<III", 6, KEY_NOTES[kind], kind) + b"LINUX\0\0\0"
    assert core.count(header) == 1
    return core.index(header) + len(header)


def with_keys(core: bytes) -> bytes:
    """Return ``core`` with patterns where the keys were."""
    planted = bytearray(core)
    for kind, size in KEY_NOTES.items():
        place = key_place(core, kind)
        planted[place : place + size] = bytes(range(1, size + 1))
    return bytes(planted)


def test_the_sample_holds_no_keys() -> None:
    for kind, size in KEY_NOTES.items():
        place = key_place(CORE, kind)
        assert CORE[place : place + size] == bytes(size)


def test_registers_signal_and_masks() -> None:
    core = parse_core(CORE)
    (thread,) = core.threads
    assert (thread.signal, thread.pc, thread.lr) == (11, PC, PC)
    assert (thread.sp, thread.pstate) == (0x0000FFFFD6B78230, 0x80001000)
    assert thread.registers["x8"] == 0x73  # clock_nanosleep: it died on its way back from sleeping
    assert thread.data_mask == thread.insn_mask == pac.field(48)
    assert thread.has_address_keys
    assert thread.has_generic_key
    assert thread.has_enabled_keys
    assert core.siginfo is not None
    assert (core.siginfo.signal, core.siginfo.code, core.siginfo.address) == (11, 1, PC)


def test_the_dirty_bits_are_those_of_an_authentication_code() -> None:
    (thread,) = parse_core(CORE).threads
    assert thread.insn_mask is not None
    assert pac.pac_bits(thread.pc, thread.insn_mask) == 0x0069000000000000
    assert pac.strip(thread.pc, thread.insn_mask) == 0x0000FFFFB754E4DC


def test_core_core_handler_and_kernel_log_tell_the_same_death() -> None:
    (thread,) = parse_core(CORE).threads
    report = parse(CoreReport, "core", (DATA / "core-segv-neoverse-v1.json").read_text("utf-8"))
    (fault,) = parse_faults((DATA / "dmesg-segv-neoverse-v1.txt").read_text("utf-8"))
    told = report.threads[0]
    assert (thread.pc, thread.lr, thread.sp, thread.pstate) == (told.pc, told.lr, told.sp, told.pstate)
    assert (fault.pc, fault.lr, fault.sp, fault.pstate) == (told.pc, told.lr, told.sp, told.pstate)
    assert thread.insn_mask == told.insn_mask
    assert fault.pid == report.pid
    assert fault.registers == {name: thread.registers[name] for name in fault.registers}


def test_blanking_a_blanked_core_changes_nothing() -> None:
    assert blank_keys(CORE) == CORE


def test_blanking_finds_the_keys_of_a_real_core_and_touches_nothing_else() -> None:
    planted = with_keys(CORE)
    assert planted != CORE
    assert blank_keys(planted) == CORE
    (pid,) = key_fingerprints(planted, b"salt")
    assert key_fingerprints(planted, b"salt")[pid] != key_fingerprints(CORE, b"salt")[pid]


@pytest.mark.parametrize("keep", [0, 63, 120, 400, 2000, len(CORE) - 1])
def test_a_real_core_that_was_cut_is_refused(keep: int) -> None:
    for read in (parse_core, blank_keys):
        with pytest.raises(ValueError, match=r"ELF|truncated|cut off|damaged"):
            read(CORE[:keep])
