"""CRIU's images as far as the doctor reads them; the builder here writes what protobuf would."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.parsing.criu_images import core_image, dumped_with_pac, process_tree

ANY, CORE, MM, PSTREE = 0x54564319, 0x55053847, 0x57492820, 0x50273030
SALT = b"salt"
HWCAP_PACA = 1 << 30


def number(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(name: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return number(name << 3) + number(value)
    return number(name << 3 | 2) + number(len(value)) + value


def image(kind: int, *messages: bytes) -> bytes:
    return struct.pack("<II", ANY, kind) + b"".join(struct.pack("<I", len(one)) + one for one in messages)


def core(keys: bytes | None = b"", *, enabled: int = 0xF, mtype: int = 3) -> bytes:
    """An aarch64 core image: with ``keys`` as IA's low half, None for an image without any."""
    info = field(1, 0xFFFF00001234) + field(2, 1)
    if keys is not None:
        address = field(1, int.from_bytes(keys, "little")) + field(9, enabled)
        info += field(5, field(6, address) + field(7, field(1, 5)))
    return image(CORE, field(1, mtype) + field(3, b"task") + field(8, info))


def test_a_core_image_without_keys() -> None:
    found = core_image(core(None), SALT)
    assert (found.architecture, found.keys, found.enabled_keys) == ("aarch64", None, None)


def test_a_core_image_of_criu_4_2_from_a_machine_without_pac() -> None:
    empty = image(CORE, field(1, 3) + field(8, field(1, 0) + field(5, b"")))
    assert core_image(empty, SALT).keys is None


def test_keys_are_told_apart_and_never_shown() -> None:
    one, other, again = (core_image(core(key), SALT) for key in (b"\x11" * 8, b"\x22" * 8, b"\x11" * 8))
    assert one.keys == again.keys != other.keys
    assert "11" * 8 not in repr(one)
    assert one.keys != core_image(core(b"\x11" * 8), b"another").keys


def test_the_mask_of_enabled_keys_is_none_of_the_keys() -> None:
    one, other = (core_image(core(b"\x11" * 8, enabled=mask), SALT) for mask in (0xF, 0x1))
    assert one.keys == other.keys
    assert (one.enabled_keys, other.enabled_keys) == (0xF, 1)


def test_another_architecture() -> None:
    assert core_image(core(None, mtype=1), SALT).architecture == "x86_64"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("hwcap", "pac"), [(HWCAP_PACA | 0xFF, True), (0xFF, False)])
def test_the_auxiliary_vector_tells_of_pac(*, packed: bool, hwcap: int, pac: bool) -> None:
    values = (33, 0xFFFFABCD0000, 16, hwcap, 0, 0)
    if packed:
        vector = field(13, b"".join(map(number, values)))
    else:
        vector = b"".join(field(13, one) for one in values)
    assert dumped_with_pac(image(MM, field(1, 7) + vector)) is pac


def test_no_auxiliary_vector_tells_nothing() -> None:
    assert dumped_with_pac(image(MM, field(1, 7))) is None


def test_a_process_tree() -> None:
    one = field(1, 40) + field(2, 0) + field(5, 40) + field(5, 41)
    assert process_tree(image(PSTREE, one, field(1, 50) + field(5, 50))) == {40: (40, 41), 50: (50,)}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "another magic number"),
        (image(MM, b""), "another magic number"),
        (image(CORE), "without a message"),
        (core()[:-1], "cut short"),
        (core()[:10], "cut short"),
        (image(CORE, b"\x0a\x7f"), "does not fit"),
        (image(CORE, b"\x0b"), "wire type 3"),
        (image(CORE, b"\xff" * 11), "does not end"),
    ],
)
def test_a_damaged_image_is_an_error(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        core_image(data, SALT)


@given(st.binary(max_size=60), st.integers(0, 120))
def test_no_bytes_make_it_fail_otherwise(garbage: bytes, at: int) -> None:
    good = core(b"\x11" * 8)
    for data in (image(CORE, garbage), good[:at] + garbage + good[at:]):
        with contextlib.suppress(ValueError):
            core_image(data, SALT)
