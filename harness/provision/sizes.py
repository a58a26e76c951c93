"""Sizes as people write them."""

import re

from harness.core.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# 5G, 500 MB, 1.5g, 1048576
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[KMGT]?)B?", re.IGNORECASE)


def size(text: str) -> int:
    """Return the bytes "5G", "500MB" or "1000" stand for (K is 1000); raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is no size", hint="write it like 5G or 500M")
    return int(float(found["number"]) * _UNITS[found["unit"].upper()])
