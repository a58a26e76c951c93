"""What the doctor says in the end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from harness.core.errors import ExitCode


class Conclusion(Enum):
    """The answer. Unknown comes before safe: what was not seen is never good news."""

    AFFECTED = "affected"
    CANNOT_TELL = "cannot tell"
    SAFE = "safe"

    @property
    def exit_code(self) -> int:
        """Return what a command ends with: 0 safe, 1 affected, 3 nothing was proven."""
        return _EXITS[self]


_EXITS = {
    Conclusion.SAFE: ExitCode.OK,
    Conclusion.AFFECTED: ExitCode.REGRESSION,
    Conclusion.CANNOT_TELL: ExitCode.INVALID,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Something to do, what it costs, and the command that shows it on an emulated machine."""

    what: str
    cost: str
    cell: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A conclusion with everything it rests on; ``not_seen`` is what could not be looked at."""

    conclusion: Conclusion
    reasons: tuple[str, ...]
    remedies: tuple[Remedy, ...]
    not_seen: tuple[str, ...]
    facts: Mapping[str, object]

    def record(self) -> dict[str, object]:
        """Return it as one JSON object (docs/doctor.md)."""
        return {
            "conclusion": self.conclusion.value,
            "reasons": list(self.reasons),
            "remedies": [{"what": one.what, "cost": one.cost, "cell": one.cell} for one in self.remedies],
            "not_seen": list(self.not_seen),
            "facts": dict(self.facts),
        }


def worst(conclusions: Iterable[Conclusion]) -> Conclusion:
    """Return the worst of several; without any, nothing can be told."""
    found = set(conclusions)
    return next((one for one in Conclusion if one in found), Conclusion.CANNOT_TELL)
