"""Arithmetic on signed pointers."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.parsing import pac

WORDS = st.integers(min_value=0, max_value=(1 << 64) - 1)
FIELDS = st.sampled_from([pac.field(va_bits) for va_bits in pac.VA_BITS])


@pytest.mark.parametrize(
    ("va_bits", "mask", "bits"),
    [(39, 0x007FFF8000000000, 16), (48, 0x007F000000000000, 7), (52, 0x0070000000000000, 3)],
)
def test_field_reaches_from_bit_54_down_to_the_address(va_bits: int, mask: int, bits: int) -> None:
    assert pac.field(va_bits) == mask
    assert pac.width(mask) == bits


def test_field_of_an_unknown_address_size_is_refused() -> None:
    with pytest.raises(ValueError, match="47 bits"):
        pac.field(47)


def test_the_program_counter_of_the_report_is_dirty() -> None:
    mask = pac.field(48)
    assert pac.pac_bits(0x003EFFFFA159E4DC, mask) == 0x003E000000000000
    assert pac.strip(0x003EFFFFA159E4DC, mask) == 0x0000FFFFA159E4DC
    assert pac.pac_bits(0x0000FFFFA159E4DC, mask) == 0


@given(st.sampled_from(pac.VA_BITS), st.data())
def test_stripping_gives_back_any_user_address_whatever_its_code(va_bits: int, data: st.DataObject) -> None:
    address = data.draw(st.integers(min_value=0, max_value=(1 << va_bits) - 1))
    mask = pac.field(va_bits)
    signed = address | (data.draw(WORDS) & mask)
    assert pac.strip(signed, mask) == address
    assert pac.pac_bits(signed, mask) | address == signed


@given(st.sampled_from(pac.VA_BITS), st.data())
def test_stripping_gives_back_any_kernel_address(va_bits: int, data: st.DataObject) -> None:
    low = data.draw(st.integers(min_value=0, max_value=(1 << va_bits) - 1))
    mask = pac.field(va_bits)
    address = (1 << 64) - (1 << va_bits) + low
    assert pac.strip(address & ~(data.draw(WORDS) & mask), mask) == address


@given(WORDS, FIELDS)
def test_strip_is_idempotent_and_leaves_the_rest_alone(pointer: int, mask: int) -> None:
    once = pac.strip(pointer, mask)
    assert pac.strip(once, mask) == once
    assert once & ~mask == pointer & ~mask
    assert 0 <= once < 1 << 64


@given(WORDS)
def test_sign_extend_copies_bit_55_over_the_tag(pointer: int) -> None:
    extended = pac.sign_extend(pointer)
    assert extended & ((1 << 56) - 1) == pointer & ((1 << 56) - 1)
    assert extended >> 56 == (0xFF if pointer >> 55 & 1 else 0)
    assert pac.sign_extend(extended) == extended


@pytest.mark.parametrize(
    ("value", "bit", "result"), [(0x80, 7, 0xFFFFFFFFFFFFFF80), (0x7F, 7, 0x7F), (1 << 63, 63, 1 << 63)]
)
def test_sign_extend_at_a_given_bit(value: int, bit: int, result: int) -> None:
    assert pac.sign_extend(value, bit) == result


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_what_is_no_unsigned_64_bit_number_is_refused(value: int) -> None:
    broken: list[Callable[[], int]] = [
        lambda: pac.pac_bits(value, 0),
        lambda: pac.pac_bits(0, value),
        lambda: pac.strip(value, 0),
        lambda: pac.strip(0, value),
        lambda: pac.sign_extend(value),
        lambda: pac.width(value),
    ]
    for call in broken:
        with pytest.raises(ValueError, match="unsigned 64-bit"):
            call()
    with pytest.raises(ValueError, match="bit 64"):
        pac.sign_extend(0, 64)


def test_chance_of_passing_falls_with_every_frame() -> None:
    assert pac.chance(7, 1) == 1 / 128
    assert pac.chance(3, 2) == 1 / 64
    assert pac.chance(7, 0) == 1.0
    assert pac.chance(0, 9) == 1.0
    assert pac.chance(7, 1000) == 0.0
    with pytest.raises(ValueError, match="negative"):
        pac.chance(7, -1)
