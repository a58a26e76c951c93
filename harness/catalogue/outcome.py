"""What can happen to a scenario, what it is worth, and the premises it rests on."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What happened."""

    SURVIVED = "survived"
    SIGNED_PC_FAULT = "signed_pc_fault"  # SIGSEGV, PC or LR carries PAC bits
    FPAC_FAULT = "fpac_fault"  # SIGILL from authentication
    STATE_LOST = "state_lost"  # alive, but keys, mask or witness differ
    CRASHED_OTHER = "crashed_other"
    DUMP_FAILED = "dump_failed"
    RESTORE_REFUSED = "restore_refused"  # non-zero with a reason
    HUNG = "hung"
    INVALID = "invalid"  # a premise was not observed as declared: nothing was proven
    INFRA_ERROR = "infra_error"

    @property
    def is_pac_fault(self) -> bool:
        """Whether the restored task died of pointer authentication."""
        return self in {Outcome.SIGNED_PC_FAULT, Outcome.FPAC_FAULT}

    @property
    def is_fault(self) -> bool:
        """Whether the restored task died."""
        return self.is_pac_fault or self is Outcome.CRASHED_OTHER

    @property
    def is_conclusive(self) -> bool:
        """Whether it says something about CRIU, rather than about the attempt."""
        return self not in {Outcome.INVALID, Outcome.INFRA_ERROR}

    @property
    def damage(self) -> int:
        """How bad a conclusive outcome is for the task, 0 (none) to 4.

        A refusal leaves the task or its images usable, lost state does not, a dead task is
        worse and a hang, which holds locks as well, is the worst. Undefined (-1) for an
        inconclusive outcome.
        """
        if not self.is_conclusive:
            return -1
        return 3 if self.is_fault else _DAMAGE[self]


_DAMAGE = {
    Outcome.SURVIVED: 0,
    Outcome.DUMP_FAILED: 1,
    Outcome.RESTORE_REFUSED: 1,
    Outcome.STATE_LOST: 2,
    Outcome.HUNG: 4,
}


class Verdict(Enum):
    """What an outcome means against its prediction."""

    AS_PREDICTED = "as_predicted"
    KNOWN_ISSUE = "known_issue"
    REGRESSION = "regression"
    FIXED = "fixed"
    INVALID = "invalid"
    ERROR = "error"

    @property
    def is_green(self) -> bool:
        """Whether a run may end with exit code 0 over it."""
        return self in {Verdict.AS_PREDICTED, Verdict.KNOWN_ISSUE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Premise:
    """One thing a scenario rests on: ``declared`` before the run, ``observed`` in it.

    None declared: the premise has no meaning in this scenario. None observed: it was not
    seen either way, which never fulfils a declaration.
    """

    name: str
    declared: bool | None
    observed: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether it was observed as declared."""
        return self.declared is self.observed
