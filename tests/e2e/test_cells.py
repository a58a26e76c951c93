"""The cells of the matrix as tests: `pytest tests/e2e/test_cells.py --selection smoke`, say."""

from harness.scenario.result import ScenarioResult


def test_the_cell_does_what_is_expected(cell_result: ScenarioResult) -> None:
    expected = cell_result.known_issue or cell_result.prediction.outcome.value
    said = f"{cell_result.outcome.value} where {expected} was expected: {cell_result.reason}"
    assert cell_result.verdict.is_green, said
