"""What a program needs and what it exports, from its bytes."""

import io

from elftools.elf.dynamic import DynamicSection, DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.hash import GNUHashSection
from elftools.elf.sections import SymbolTableSection


def needed_libraries(data: bytes) -> tuple[str, ...]:
    """Return the DT_NEEDED names of a dynamic program or library, in order; none for a static one."""
    section = ELFFile(io.BytesIO(data)).get_section_by_name(".dynamic")
    if not isinstance(section, DynamicSection):
        return ()
    tags = (tag for tag in section.iter_tags() if tag.entry.d_tag == "DT_NEEDED")
    return tuple(str(getattr(tag, "needed")) for tag in tags)  # noqa: B009 -- added to the class at run time


def exported_size(data: bytes, name: str) -> int | None:
    """Return the size of an exported symbol in bytes; None when it is not exported."""
    elf = ELFFile(io.BytesIO(data))
    hashed = next((one for one in elf.iter_sections() if isinstance(one, GNUHashSection)), None)
    if hashed:  # reads a handful of thousands of symbols, none of them undefined
        symbol = hashed.get_symbol(name)
        return int(symbol["st_size"]) if symbol else None
    table = elf.get_section_by_name(".dynsym")
    found = table.get_symbol_by_name(name) if isinstance(table, SymbolTableSection) else None
    defined = [one for one in found or () if one["st_shndx"] != "SHN_UNDEF"]
    return int(defined[0]["st_size"]) if defined else None


def dynamic_tags(data: bytes) -> frozenset[str]:
    """Return the names of the tags in the dynamic segment, as "DT_HASH"; none without a segment."""
    segments = ELFFile(io.BytesIO(data)).iter_segments()
    return frozenset(
        str(tag.entry.d_tag)
        for segment in segments
        if isinstance(segment, DynamicSegment)
        for tag in segment.iter_tags()
    )
