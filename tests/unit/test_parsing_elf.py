"""Core notes and branch protection, on ELF files built here."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.parsing import core_notes
from harness.parsing.branch_protection import branch_protection, count_words
from harness.parsing.core_notes import blank_keys, key_fingerprints, parse_core
from harness.parsing.elf_notes import notes

ET_DYN, ET_CORE = 3, 4
PT_LOAD, PT_NOTE = 1, 4
EM_AARCH64, EM_X86_64 = 183, 62
RET = 0xD65F03C0
PACIASP, PACIBSP, AUTIASP, RETAA, RETAB = 0xD503233F, 0xD503237F, 0xD50323BF, 0xD65F0BFF, 0xD65F0FFF
# Patterns, not keys: nothing here ever signed anything.
FAKE_PACA, FAKE_PACG = bytes(range(1, 65)), bytes(range(101, 117))
LEADER_PC = 0x003EFFFFA159E4DC


def _elf(kind: int, segments: list[tuple[int, int, bytes, int]], *, machine: int = EM_AARCH64) -> bytes:
    """Return an ELF file without sections; each segment is (type, flags, content, alignment)."""
    offset = 64 + 56 * len(segments)
    headers, body = b"", b""
    for type_, flags, content, align in segments:
        padding = -(offset + len(body)) % align
        body += bytes(padding)
        place, size = offset + len(body), len(content)
        headers += struct.pack("<IIQQQQQQ", type_, flags, place, place, place, size, size, align)
        body += content
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    return identity + header + headers + body


def _note(name: str, kind: int, desc: bytes) -> bytes:
    raw = name.encode() + b"\0"
    return (
        struct.pack("<III", len(raw), len(desc), kind)
        + raw
        + bytes(-len(raw) % 4)
        + desc
        + bytes(-len(desc) % 4)
    )


def _prstatus(pid: int, signal: int, pc: int) -> bytes:
    head = struct.pack("<iiihxxQQiiii", signal, 0, 0, signal, 0, 0, pid, 1, pid, pid).ljust(112, b"\0")
    registers = struct.pack(
        "<34Q", *(0x1000 + number for number in range(31)), 0xFFFFD1AB2C10, pc, 0x60001000
    )
    return head + registers + bytes(8)


def _core(*, keys: bool = True) -> bytes:
    content = _note("CORE", core_notes.NT_PRSTATUS, _prstatus(452, 11, LEADER_PC))
    content += _note(
        "CORE", core_notes.NT_SIGINFO, struct.pack("<iiixxxxQ", 11, 0, 1, LEADER_PC).ljust(128, b"\0")
    )
    content += _note(
        "LINUX", core_notes.NT_ARM_PAC_MASK, struct.pack("<QQ", 0x7F000000000000, 0x7F000000000000)
    )
    content += _note("LINUX", core_notes.NT_ARM_PAC_ENABLED_KEYS, struct.pack("<Q", 0xF))
    if keys:
        content += _note("LINUX", core_notes.NT_ARM_PACA_KEYS, FAKE_PACA)
        content += _note("LINUX", core_notes.NT_ARM_PACG_KEYS, FAKE_PACG)
    content += _note("CORE", core_notes.NT_PRSTATUS, _prstatus(453, 0, 0xFFFFA159E000))
    if keys:
        content += _note("LINUX", core_notes.NT_ARM_PACA_KEYS, FAKE_PACA[::-1])
    return _elf(ET_CORE, [(PT_NOTE, 0, content, 4), (PT_LOAD, 6, b"stack", 16)])


def test_threads_signal_and_mask_of_a_core() -> None:
    core = parse_core(_core())
    leader, other = core.threads
    assert (leader.pid, leader.signal, leader.pc, leader.sp) == (452, 11, LEADER_PC, 0xFFFFD1AB2C10)
    assert leader.lr == leader.registers["x30"] == 0x101E
    assert leader.pstate == 0x60001000
    assert (leader.data_mask, leader.insn_mask) == (0x7F000000000000, 0x7F000000000000)
    assert leader.has_address_keys
    assert leader.has_generic_key
    assert leader.has_enabled_keys
    assert (other.pid, other.signal, other.insn_mask) == (453, 0, None)
    assert other.has_address_keys
    assert not other.has_generic_key
    assert core.siginfo is not None
    assert (core.siginfo.signal, core.siginfo.code, core.siginfo.address) == (11, 1, LEADER_PC)


def test_no_key_leaves_the_parser() -> None:
    shown = repr(parse_core(_core()))
    assert FAKE_PACA[:8].hex() not in shown
    assert repr(FAKE_PACA)[2:20] not in shown


def test_blanking_removes_the_keys_of_every_thread_and_nothing_else() -> None:
    core = _core()
    assert FAKE_PACA in core
    blanked = blank_keys(core)
    for secret in (FAKE_PACA, FAKE_PACA[::-1], FAKE_PACG):
        assert secret in core
        assert secret[:4] not in blanked
    assert len(blanked) == len(core)
    assert parse_core(blanked) == parse_core(core)
    changed = [index for index, pair in enumerate(zip(core, blanked, strict=True)) if pair[0] != pair[1]]
    assert len(changed) == len(FAKE_PACA) * 2 + len(FAKE_PACG)


def test_fingerprints_compare_threads_under_one_salt_only() -> None:
    one, again, salted = (key_fingerprints(_core(), salt) for salt in (b"a", b"a", b"b"))
    assert one == again
    assert set(one) == {452, 453}
    assert one[452] != one[453]
    assert one[452] != salted[452]
    assert key_fingerprints(_core(keys=False), b"a") == {}


@pytest.mark.parametrize("cut", [1, 40, 200, 500, 900])
def test_a_truncated_core_is_refused_rather_than_blanked_in_part(cut: int) -> None:
    core = _core()[: -cut - len(b"stack") - 16]
    for read in (parse_core, blank_keys):
        with pytest.raises(ValueError, match=r"truncated|cut off"):
            read(core)


@given(st.integers(min_value=0, max_value=1200), st.binary(min_size=1, max_size=8))
def test_a_damaged_core_gives_a_result_or_a_value_error(position: int, junk: bytes) -> None:
    core = _core()
    damaged = core[:position] + junk + core[position + len(junk) :]
    try:
        parse_core(damaged)
        blank_keys(damaged)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an ELF"),
        (b"#!/bin/sh\n", "not an ELF"),
        (_elf(ET_CORE, [], machine=EM_X86_64), "EM_X86_64"),
        (_elf(ET_DYN, []), "not a core"),
        (_elf(ET_CORE, [(PT_LOAD, 6, b"stack", 16)]), "without notes"),
        (_elf(ET_CORE, [(PT_NOTE, 0, _note("LINUX", 0x406, bytes(16)), 4)]), "no thread"),
        (_elf(ET_CORE, [(PT_NOTE, 0, _note("CORE", 1, bytes(100)), 4)]), "expected 384"),
    ],
)
def test_what_is_no_aarch64_core_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_core(data)


def test_a_note_longer_than_its_segment_is_an_error() -> None:
    note = _note("CORE", 1, b"x" * 8)
    assert [found.desc for found in notes(note, 0, len(note))] == [b"x" * 8]
    with pytest.raises(ValueError, match="cut off"):
        list(notes(note, 0, len(note) - 4))
    with pytest.raises(ValueError, match="cut off"):
        list(notes(note + b"1234", 0, len(note) + 4))


def _property_note(*properties: tuple[int, bytes]) -> bytes:
    desc = b"".join(
        struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in properties
    )
    return _note("GNU", 5, desc)


def _program(words: list[int], note: bytes | None = None, *, machine: int = EM_AARCH64) -> bytes:
    segments = [(PT_LOAD, 5, struct.pack(f"<{len(words)}I", *words), 4)]
    if note is not None:
        segments.append((PT_NOTE, 4, note, 8))
    # Data that looks like signing code must not count.
    segments.append((PT_LOAD, 6, struct.pack("<II", PACIASP, RETAA), 8))
    return _elf(ET_DYN, segments, machine=machine)


PAC_AND_BTI = _property_note((0xC0000000, struct.pack("<I", 3)))


def test_signing_code_is_counted_by_kind() -> None:
    found = branch_protection(_program([PACIASP, AUTIASP, RET, PACIBSP, RETAB, PACIASP, RETAA], PAC_AND_BTI))
    assert (found.paciasp, found.pacibsp, found.signed_returns) == (2, 1, 3)
    assert found.pac_note
    assert found.bti_note
    assert found.protected


def test_a_note_without_the_instructions_is_no_protection() -> None:
    found = branch_protection(_program([RET, RET], PAC_AND_BTI))
    assert found.pac_note
    assert not found.protected


def test_instructions_without_the_note_are() -> None:
    found = branch_protection(_program([PACIASP, RETAA]))
    assert not found.pac_note
    assert found.protected


def test_signing_without_authenticating_is_no_protection() -> None:
    assert not branch_protection(_program([PACIASP, RET])).protected


def test_the_feature_is_found_behind_other_properties() -> None:
    other = (0xC0008002, struct.pack("<I", 1))
    note = _property_note(other, (0xC0000000, struct.pack("<I", 1)))
    found = branch_protection(_program([RET], note))
    assert (found.bti_note, found.pac_note) == (True, False)


def test_a_word_across_two_instructions_does_not_count() -> None:
    word = struct.pack("<I", PACIASP)
    assert count_words(word, PACIASP) == 1
    for shift in (1, 2, 3):
        assert count_words(bytes(shift) + word + bytes(4 - shift), PACIASP) == 0


@given(st.lists(st.sampled_from([PACIASP, RETAA, 0x3F3F3F3F, 0x3F233FD5, 0xD503D503]), max_size=60))
def test_counting_agrees_with_looking_at_every_word(words: list[int]) -> None:
    code = struct.pack(f"<{len(words)}I", *words)
    for word in set(words) | {PACIASP}:
        assert count_words(code, word) == words.count(word)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"MZ", "not an ELF"),
        (_program([RET], machine=EM_X86_64), "EM_X86_64"),
        (_elf(ET_DYN, [(PT_LOAD, 6, b"data", 4)]), "without executable code"),
    ],
)
def test_what_has_no_aarch64_code_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        branch_protection(data)
