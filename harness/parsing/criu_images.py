"""What CRIU's images tell of pointer authentication: the architecture, PAC at the dump, keys or none.

Source: CRIU's images/core.proto, core-aarch64.proto and mm.proto, and its criu/include/magic.h.
Messages are protocol buffers; three fields of them are looked at, so no schema is compiled.
"""

import hmac
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("<II")  # magic of all images, magic of the kind; then messages, each after its size
_SIZE = struct.Struct("<I")
_ANY, _CORE, _MM, _PSTREE = 0x54564319, 0x55053847, 0x57492820, 0x50273030

# Fields of core_entry, and of the thread_info_aarch64 in it.
_MTYPE, _INFO = 1, 8
_PAC_KEYS = 5
_ADDRESS_KEYS, _ENABLED = 6, 9  # of pac_keys, and of the pac_address_keys in it
_PID, _THREADS = 1, 5  # of pstree_entry
_ARCHITECTURES = {1: "x86_64", 2: "arm", 3: "aarch64", 4: "ppc64", 5: "s390x"}
_SAVED_AUXV = 13  # of mm_entry
_AT_HWCAP = 16
_HWCAP_PACA = 1 << 30  # Linux Documentation/arch/arm64/elf_hwcaps.rst
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BITS = 7
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreImage:
    """One thread's core-<tid>.img.

    ``keys`` is a fingerprint of the keys that CRIU itself saved, good only for comparing threads
    with the same ``salt``, ``enabled_keys`` their mask; both None without keys.
    """

    architecture: str
    keys: str | None
    enabled_keys: int | None


def core_image(data: bytes, salt: bytes) -> CoreImage:
    """Return what a core image holds; raise ValueError for anything else or a damaged one."""
    fields = list(_fields(_one_message(data, _CORE)))
    mtype = next((value for number, value in fields if number == _MTYPE), 0)
    # Without PAC, CRIU 4.2 writes a pac_keys with nothing in it.
    keys = [one for info in _inner(fields, _INFO) for one in _inner(_fields(info), _PAC_KEYS) if one]
    digest, enabled = hmac.new(salt, digestmod="sha256"), None
    for part in (part for one in keys for part in _fields(one)):
        number, content = part
        if number == _ADDRESS_KEYS and isinstance(content, bytes):
            for name, value in _fields(content):
                if name == _ENABLED and isinstance(value, int):
                    enabled = value
                else:
                    digest.update(f"{name} {value!r}".encode())
        else:
            digest.update(f"{part!r}".encode())
    return CoreImage(
        architecture=_ARCHITECTURES.get(mtype, "unknown") if isinstance(mtype, int) else "unknown",
        keys=digest.hexdigest() if keys else None,
        enabled_keys=enabled,
    )


def process_tree(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the thread ids of each process of a pstree.img, by its id; raises as ``core_image``."""
    tree = {}
    for message in _messages(data, _PSTREE):
        fields = list(_fields(message))
        ids = _numbers(fields, _PID)
        if len(ids) != 1:
            raise ValueError("a damaged image: a process without an id")
        tree[ids[0]] = tuple(_numbers(fields, _THREADS))
    return tree


def dumped_with_pac(data: bytes) -> bool | None:
    """Return whether an arm64 process's mm-<pid>.img says that its CPU authenticated pointers.

    It is AT_HWCAP of the process's saved auxiliary vector; None when there is none. Raises
    ValueError for what is no mm image or a damaged one.
    """
    values = _numbers(_fields(_one_message(data, _MM)), _SAVED_AUXV)
    auxv = dict(zip(values[::2], values[1::2], strict=False))
    return bool(auxv[_AT_HWCAP] & _HWCAP_PACA) if _AT_HWCAP in auxv else None


def _one_message(data: bytes, kind: int) -> bytes:
    message = next(_messages(data, kind), None)
    if message is None:
        raise ValueError("an image without a message")
    return message


def _messages(data: bytes, kind: int) -> Iterator[bytes]:
    if data[: _HEADER.size] != _HEADER.pack(_ANY, kind):
        raise ValueError("not the image it is named after: another magic number")
    position = _HEADER.size
    while position < len(data):
        if position + _SIZE.size > len(data):
            raise ValueError(f"an image cut short at byte {position}")
        (size,) = _SIZE.unpack_from(data, position)
        position += _SIZE.size + size
        if position > len(data):
            raise ValueError(f"an image cut short: it has {len(data)} bytes, a message ends at {position}")
        yield data[position - size : position]


def _inner(fields: Iterable[tuple[int, int | bytes]], wanted: int) -> list[bytes]:
    return [value for number, value in fields if number == wanted and isinstance(value, bytes)]


def _numbers(fields: Iterable[tuple[int, int | bytes]], wanted: int) -> list[int]:
    """Return a repeated number, written one by one or packed."""
    values: list[int] = []
    for number, value in fields:
        if number == wanted:
            values += [value] if isinstance(value, int) else _varints(value)
    return values


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            number, position = _varint(message, position)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a damaged image: wire type {kind} at byte {position}")
        if position + size > len(message):
            raise ValueError(f"a damaged image: a field of {size} bytes at byte {position} does not fit")
        yield tag >> 3, message[position : position + size]
        position += size


def _varints(packed: bytes) -> list[int]:
    values, position = [], 0
    while position < len(packed):
        value, position = _varint(packed, position)
        values.append(value)
    return values


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for at, byte in enumerate(data[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (_VARINT_BITS * at)
        if byte < 1 << _VARINT_BITS:
            return value, position + at + 1
    raise ValueError(f"a damaged image: a number at byte {position} does not end")
