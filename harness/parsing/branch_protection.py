"""Whether an aarch64 program or library is really built with return-address signing."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.parsing.elf_notes import notes, open_aarch64

# Instruction words (Arm ARM, C6.2): hints in the NOP space, so that CPUs without PAC run them.
_PACIASP = 0xD503233F
_PACIBSP = 0xD503237F
_AUTIASP = 0xD50323BF
_AUTIBSP = 0xD50323FF
# The combined forms are undefined on CPUs without PAC.
_RETAA = 0xD65F0BFF
_RETAB = 0xD65F0FFF
SIGNS = (_PACIASP, _PACIBSP)
AUTHENTICATES = (_AUTIASP, _AUTIBSP, _RETAA, _RETAB)

_SHF_EXECINSTR = 0x4
_PF_X = 0x1
_NT_GNU_PROPERTY_TYPE_0 = 5
_AARCH64_FEATURE_1_AND = 0xC0000000
_FEATURE_BTI = 0x1
_FEATURE_PAC = 0x2


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchProtection:
    """What a file declares (its GNU property note) and what its code holds (instruction counts)."""

    pac_note: bool
    bti_note: bool
    paciasp: int
    pacibsp: int
    signed_returns: int  # autiasp, autibsp, retaa, retab

    @property
    def protected(self) -> bool:
        """Whether functions sign and authenticate; the note alone is a declaration, not a fact.

        One hand-written object without the marking is enough for a linker to drop the note
        from a whole file full of signing code.
        """
        return self.paciasp + self.pacibsp > 0 and self.signed_returns > 0


def branch_protection(data: bytes) -> BranchProtection:
    """Return the branch protection of the ELF file ``data``; raise ValueError when it is no aarch64 file."""
    elf = open_aarch64(data)
    try:
        code = list(_code(elf))
        features = _features(elf, data)
    except ELFError as error:
        raise ValueError(f"damaged ELF file: {error}") from error
    if not any(code):
        raise ValueError("ELF file without executable code: nothing to look at")

    def total(*words: int) -> int:
        return sum(count_words(chunk, word) for chunk in code for word in words)

    return BranchProtection(
        pac_note=bool(features & _FEATURE_PAC),
        bti_note=bool(features & _FEATURE_BTI),
        paciasp=total(_PACIASP),
        pacibsp=total(_PACIBSP),
        signed_returns=total(*AUTHENTICATES),
    )


def count_words(code: bytes, word: int) -> int:
    """Return how often the instruction ``word`` stands at an aligned place of ``code``.

    Searching bytes and checking the few hits for alignment beats looking at every word: 6 MB
    of code take milliseconds.
    """
    pattern = struct.pack("<I", word)
    count = 0
    position = code.find(pattern)
    while position >= 0:
        aligned = position % 4 == 0
        count += aligned
        position = code.find(pattern, position + (4 if aligned else 1))
    return count


def _code(elf: ELFFile) -> Iterator[bytes]:
    sections = [section for section in elf.iter_sections() if section["sh_flags"] & _SHF_EXECINSTR]
    if sections:
        # A separate debug file keeps the headers of its code as SHT_NOBITS, which occupy no bytes.
        yield from (section.data() for section in sections if section["sh_type"] == "SHT_PROGBITS")
        return
    for segment in elf.iter_segments():  # section headers can be stripped
        if segment["p_type"] == "PT_LOAD" and segment["p_flags"] & _PF_X:
            yield segment.data()


def _features(elf: ELFFile, data: bytes) -> int:
    """Return the FEATURE_1_AND bits of the GNU property note (AArch64 ELF ABI), 0 without one."""
    for segment in elf.iter_segments():
        if segment["p_type"] != "PT_NOTE":
            continue
        start, align = segment["p_offset"], 8 if segment["p_align"] == 8 else 4  # noqa: PLR2004
        for note in notes(data, start, start + segment["p_filesz"], align=align):
            if note.name == "GNU" and note.type == _NT_GNU_PROPERTY_TYPE_0:
                return _feature_1_and(note.desc)
    return 0


def _feature_1_and(desc: bytes) -> int:
    position = 0
    while position + 8 <= len(desc):
        kind, size = struct.unpack_from("<II", desc, position)
        if kind == _AARCH64_FEATURE_1_AND and position + 12 <= len(desc):
            (features,) = struct.unpack_from("<I", desc, position + 8)
            return int(features)
        position += 8 + -(-size // 8) * 8
    return 0
