"""What tests of this project have in common; fixtures and markers of criu-pac-harness come by themselves."""

import pytest

from harness.scenario.result import ScenarioResult


@pytest.fixture
def checked(cell_result: ScenarioResult) -> ScenarioResult:
    """Return the result of the test's cell, its premises seen to hold: else it would prove nothing."""
    assert [premise.name for premise in cell_result.premises if not premise.holds] == []
    return cell_result
