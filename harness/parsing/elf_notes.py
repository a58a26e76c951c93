"""ELF notes, read strictly: a note that does not fit its segment is an error, never silence."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

_HEADER = struct.Struct("<III")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note: ``offset`` is where ``desc`` starts in what was read. ``desc`` may hold keys."""

    name: str
    type: int
    offset: int
    desc: bytes = field(repr=False)


def open_aarch64(data: bytes) -> ELFFile:
    """Return the ELF reader for ``data``; raise ValueError when it is not a little-endian aarch64 file."""
    try:
        elf = ELFFile(BytesIO(data))
    except (ELFError, OverflowError) as error:
        raise ValueError(f"not an ELF file: {error}") from error
    if elf["e_machine"] != "EM_AARCH64" or not elf.little_endian or elf.elfclass != 64:  # noqa: PLR2004
        raise ValueError(f"not a 64-bit little-endian aarch64 ELF file but {elf['e_machine']}")
    return elf


def notes(data: bytes, start: int, end: int, *, align: int = 4) -> Iterator[Note]:
    """Yield the notes in ``data[start:end]``; raise ValueError when one is cut off."""
    position = start
    if end > len(data):
        raise ValueError(f"notes end at byte {end} of a file of {len(data)}: truncated")
    while position < end:
        if position + _HEADER.size > end:
            raise ValueError(f"note header at byte {position} is cut off")
        name_size, desc_size, kind = _HEADER.unpack_from(data, position)
        name_start = position + _HEADER.size
        # Name and description are padded relative to the start of the notes.
        desc_start = start + _round_up(name_start + name_size - start, align)
        desc_end = desc_start + desc_size
        if desc_end > end:
            raise ValueError(f"note at byte {position} is cut off: {desc_size} bytes of content do not fit")
        name = data[name_start : name_start + name_size].rstrip(b"\0").decode("ascii", "replace")
        yield Note(name=name, type=kind, offset=desc_start, desc=data[desc_start:desc_end])
        position = start + _round_up(desc_end - start, align)


def _round_up(value: int, align: int) -> int:
    return -(-value // align) * align
