"""Arithmetic on signed pointers; every pointer and mask is an unsigned 64-bit number.

A user pointer's authentication code sits in bits 54 down to the size of the virtual address
space; bit 55 selects the half of the address space and bits 63 to 56 are tag bits (Linux
Documentation/arch/arm64/pointer-authentication.rst). A mask should come from the task
(NT_ARM_PAC_MASK), not from ``field``.
"""

_WORD = 1 << 64
_SELECT = 55
VA_BITS = (39, 48, 52)


def field(va_bits: int) -> int:
    """Return the mask of the code in a pointer of ``va_bits`` (39, 48 or 52) address bits."""
    if va_bits not in VA_BITS:
        raise ValueError(f"{va_bits} bits of virtual address: expected one of {VA_BITS}")
    return (1 << _SELECT) - (1 << va_bits)


def pac_bits(pointer: int, mask: int) -> int:
    """Return the bits of ``pointer`` inside ``mask``: non-zero in a user pointer that is not clean."""
    return _unsigned(pointer) & _unsigned(mask)


def strip(pointer: int, mask: int) -> int:
    """Return ``pointer`` with the bits of ``mask`` as in an unsigned one: all equal to bit 55."""
    if _unsigned(pointer) >> _SELECT & 1:
        return pointer | _unsigned(mask)
    return pointer & ~_unsigned(mask)


def sign_extend(pointer: int, bit: int = _SELECT) -> int:
    """Return ``pointer`` with every bit above ``bit`` equal to it: without tag, for the default."""
    if not 0 <= bit < 64:  # noqa: PLR2004 -- the width of a pointer
        raise ValueError(f"bit {bit} is outside a 64-bit pointer")
    low = _unsigned(pointer) & ((1 << (bit + 1)) - 1)
    return low | (_WORD - (1 << (bit + 1))) if low >> bit else low


def width(mask: int) -> int:
    """Return the number of bits of the code."""
    return _unsigned(mask).bit_count()


def chance(bits: int, frames: int) -> float:
    """Return the probability that ``frames`` wrongly signed frames all pass: 2^-(bits x frames).

    ``frames`` counts independently signed ones, distinct in (LR, SP).
    """
    if bits < 0 or frames < 0:
        raise ValueError(f"{bits} bits, {frames} frames: neither can be negative")
    return 2.0 ** -(bits * frames)


def _unsigned(value: int) -> int:
    if not 0 <= value < _WORD:
        raise ValueError(f"{value:#x} is no unsigned 64-bit number")
    return value
