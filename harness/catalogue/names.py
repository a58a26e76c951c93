"""Look-up by name, the same for every catalogue: an unknown name lists the near ones."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from harness.core.errors import UsageError

T = TypeVar("T")


def named(mapping: Mapping[str, T], kind: str, name: str) -> T:
    """Return ``mapping[name]``; raise UsageError naming ``kind`` and what comes near otherwise."""
    try:
        return mapping[name]
    except KeyError:
        raise UsageError(f"unknown {kind} {name!r}", hint=suggestion(name, mapping)) from None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ..." with the near names, or the whole list when nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(names) or 'none'}"
