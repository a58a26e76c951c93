"""Known issues: the strict table of scenarios that do not do what the rules predict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownIssue:
    """One entry: the scenarios it ``matches`` end in ``outcome``, not in the predicted one.

    ``since`` and ``until`` say in which versions (of what, in words); ``url`` is the upstream
    report or fix.
    """

    id: str
    title: str
    url: str
    matches: Callable[[Scenario], bool]
    outcome: Outcome
    since: str | None
    until: str | None


# Kernel commit 48f6430505c0 ("arm64/vdso: Remove --hash-style=sysv") left DT_GNU_HASH only, and kerndat of
# 3.17.1 asks for DT_HASH.
_VDSO_WITHOUT_DT_HASH = (6, 11)


def _vdso_without_dt_hash(scenario: Scenario) -> bool:
    return scenario.criu_dump.name == "3.17.1" and scenario.source.kernel.version >= _VDSO_WITHOUT_DT_HASH


KNOWN_ISSUES: tuple[KnownIssue, ...] = (
    KnownIssue(
        id="vdso-dt-hash",
        title="CRIU 3.17.1 cannot read a vDSO without DT_HASH: kerndat fails and so does every dump",
        url="https://github.com/checkpoint-restore/criu/pull/2570",
        matches=_vdso_without_dt_hash,
        outcome=Outcome.DUMP_FAILED,
        since="kernel 6.11",
        until=None,
    ),
)


def known_issue(scenario: Scenario, table: Sequence[KnownIssue] = KNOWN_ISSUES) -> KnownIssue | None:
    """Return the entry that matches ``scenario``; raise ValueError when the table contradicts itself."""
    found = [entry for entry in table if entry.matches(scenario)]
    if len(found) > 1:
        raise ValueError(f"{scenario.id} matches {' and '.join(entry.id for entry in found)}")
    return found[0] if found else None
