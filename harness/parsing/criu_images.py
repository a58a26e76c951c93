"""CRIU's image files, as far as their names and first bytes tell (criu/include/magic.h)."""

import re
import struct
from collections.abc import Iterable
from enum import Enum

_IMG_COMMON_MAGIC = 0x54564319
_IMG_SERVICE_MAGIC = 0x55105940
_HEAD = struct.Struct("<II")

# core-452.img
_CORE = re.compile(r"core-([1-9]\d*)\.img")


class ImageKind(Enum):
    """What an image holds; OTHER is one that the harness has no use for."""

    CORE = "core"
    INVENTORY = "inventory"
    PSTREE = "pstree"
    OTHER = "other"


_KINDS = {0x55053847: ImageKind.CORE, 0x58313116: ImageKind.INVENTORY, 0x50273030: ImageKind.PSTREE}


def thread_ids(names: Iterable[str]) -> tuple[int, ...]:
    """Return the thread ids, sorted, that have a core-<tid>.img among the file ``names``."""
    return tuple(sorted(int(found[1]) for found in map(_CORE.fullmatch, names) if found))


def image_kind(head: bytes) -> ImageKind:
    """Return what the image that starts with ``head`` (8 bytes or more) holds.

    Raises ValueError when it is not a CRIU image of format 1.1 (CRIU 1.6 and later).
    """
    if len(head) < _HEAD.size:
        raise ValueError(f"{len(head)} bytes are too few for the head of a CRIU image")
    common, kind = _HEAD.unpack_from(head)
    if common not in {_IMG_COMMON_MAGIC, _IMG_SERVICE_MAGIC}:
        raise ValueError(f"magic {common:#010x} is not that of a CRIU image")
    return _KINDS.get(kind, ImageKind.OTHER)
