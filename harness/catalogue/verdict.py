"""From an outcome and what was expected to a verdict."""

from harness.catalogue.known_issues import KnownIssue
from harness.catalogue.outcome import Outcome, Verdict


def judge(predicted: Outcome, known_issue: KnownIssue | None, actual: Outcome) -> Verdict:
    """Return what ``actual`` means where ``predicted`` or, if given, ``known_issue`` was expected.

    A known issue is compared by equality: any other outcome, the predicted one included,
    makes the run red, so that the entry goes when its cause is gone.
    """
    if actual is Outcome.INFRA_ERROR:
        return Verdict.ERROR
    if actual is Outcome.INVALID:
        return Verdict.INVALID
    expected = predicted if known_issue is None else known_issue.outcome
    if actual is expected:
        return Verdict.AS_PREDICTED if known_issue is None else Verdict.KNOWN_ISSUE
    # Another way to fail that is no less harmful is no fix: SIGILL where SIGSEGV was predicted
    # means that the rules do not understand the machine.
    return Verdict.FIXED if actual.damage < expected.damage else Verdict.REGRESSION
