"""What a program of CRIU says of itself, from its bytes: nothing is run."""

import re
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from harness.parsing.branch_protection import AUTHENTICATES, SIGNS, count_words
from harness.parsing.elf_needs import exported_size, needed_libraries
from harness.parsing.elf_notes import open_aarch64

_SHF_EXECINSTR = 0x4
_LIST_HEAD = 16  # cr_plugin_ctl: a list of the plugins and one per hook (criu/include/plugin.h)
# CRIU_VERSION, a string of its own among the constants: 3.17.1, 4.2. Four numbers are 127.0.0.1.
_VERSION = re.compile(rb"(?<=\0)\d+\.\d+(?:\.\d+)?(?=\0)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CriuProgram:
    """See CriuBuild for the first four; ``needed`` are the libraries it names, its loader first.

    ``loader`` is the path of that as the program has it. ``reads_gnu_hash``: it understands the vDSO
    of Linux 6.11 and later.
    """

    version: str
    native_keys: bool
    restorer_protected: bool
    plugin_hooks: int
    reads_gnu_hash: bool
    loader: str = ""
    needed: tuple[str, ...] = ()


def criu_program(data: bytes) -> CriuProgram:
    """Return what the bytes of a program say; raise ValueError saying why it is no CRIU for arm64."""
    elf = open_aarch64(data)
    try:
        table = exported_size(data, "cr_plugin_ctl")
        if table is None:
            raise ValueError("no CRIU: it exports no table of plugins (cr_plugin_ctl)")
        needed = needed_libraries(data)
        loader = _interpreter(elf)
        constants = elf.get_section_by_name(".rodata")
        versions = sorted(set(_VERSION.findall(constants.data() if constants else b"")))
        blobs = _constants(elf)
        native = exported_size(data, "arch_ptrace_restore") is not None
    except ELFError as error:
        raise ValueError(f"damaged ELF file: {error}") from error
    if loader is None or not needed:
        raise ValueError("linked statically: it cannot load a plugin")
    if len(versions) != 1:
        found = b", ".join(versions).decode() or "none"
        raise ValueError(f"no CRIU: its constants hold {found} where one version is expected")
    return CriuProgram(
        version=versions[0].decode(),
        native_keys=native,
        # The parasite and the restorer are code among the constants, compiled with one set of flags.
        restorer_protected=any(
            count_words(blob, word) for blob in blobs for word in (*SIGNS, *AUTHENTICATES)
        ),
        plugin_hooks=table // _LIST_HEAD - 1,
        loader=loader,
        needed=tuple(dict.fromkeys((loader.rpartition("/")[2], *needed))),
        reads_gnu_hash=b"DT_GNU_HASH" in data,
    )


def is_aarch64(data: bytes) -> bool:
    """Whether these are the first bytes of an ELF file for arm64."""
    try:
        open_aarch64(data)
    except ValueError:
        return False
    return True


def _interpreter(elf: ELFFile) -> str | None:
    """Return the loader a program asks for, a path."""
    for segment in elf.iter_segments():
        if isinstance(segment, InterpSegment):
            return str(segment.get_interp_name())
    return None


def _constants(elf: ELFFile) -> list[bytes]:
    sections = (elf.get_section_by_name(name) for name in (".rodata", ".data"))
    return [one.data() for one in sections if one is not None and not one["sh_flags"] & _SHF_EXECINSTR]
