"""Every entry of the table of known issues, shown by a scenario that it matches."""

from collections.abc import Mapping

import pytest

from harness.catalogue.known_issues import KNOWN_ISSUES
from harness.catalogue.outcome import Verdict
from harness.catalogue.scenario import KeyModule
from harness.pytest_plugin import RunScenario

# What these say of a CRIU build or of machines needs more than one run, and is shown in files of its own.
ELSEWHERE: Mapping[str, str] = {
    "criu-2709": "test_criu_build.py",
    "criu-2824": "test_across_machines.py",
    "per-thread-keys": "test_thread_keys.py",
}


def shown(issue: str, *, cpu: str = "neoverse-v1", kernel: str, criu: list[str]) -> object:
    machine = pytest.mark.machine(cpu=cpu, kernel=kernel, criu=criu)
    return pytest.param(issue, marks=machine, id=issue)


CASES = [
    shown("vdso-dt-hash", kernel="6.12", criu=["4.2.1", "3.17.1"]),
    shown("vdso-dt-hash-restore", kernel="6.1:6.12", criu=["3.17.1"]),
    shown("droppable-memory", kernel="6.12:6.1", criu=["4.2.1"]),
    shown("key-mask-regset", kernel="5.10", criu=["4.2.1"]),
    shown("image-too-new", kernel="6.1", criu=["3.17.1", "4.2.1"]),
    shown("per-thread-keys-fpac", cpu="neoverse-n2", kernel="6.12", criu=["4.2.1"]),
]
CRIU = {"vdso-dt-hash": "3.17.1", "image-too-new": "4.2.1:3.17.1"}
WORKLOADS = {"per-thread-keys-fpac": "c-threads-own-keys"}


def test_no_entry_is_forgotten() -> None:
    here = {str(case.id) for case in CASES if isinstance(case, type(pytest.param()))}
    assert here | ELSEWHERE.keys() == {issue.id for issue in KNOWN_ISSUES}


@pytest.mark.parametrize("issue", CASES)
@pytest.mark.parametrize("module", [KeyModule.NONE, KeyModule.PLUGIN])
def test_it_is_there(run_scenario: RunScenario, issue: str, module: KeyModule) -> None:
    build = {"criu": CRIU[issue]} if issue in CRIU else {}
    result = run_scenario(module, workload=WORKLOADS.get(issue, "python-sleeper"), **build)
    broken = [one for one in result.premises if not one.holds]
    assert not broken, broken
    if issue == "per-thread-keys-fpac" and module.loaded:
        assert (result.known_issue, result.verdict) == (None, Verdict.AS_PREDICTED), result.reason
    else:
        assert (result.known_issue, result.verdict) == (issue, Verdict.KNOWN_ISSUE), result.reason
