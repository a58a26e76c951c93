"""What is observed and what is predicted share no code: one mistake cannot be made in both."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREDICTION = ("prediction", "known_issues", "verdict")


def imports(text: str) -> Iterator[str]:
    """Yield the dotted names that a module's text imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports would need resolving"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def knows(text: str, modules: tuple[str, ...]) -> list[str]:
    return [name for name in imports(text) for module in modules if f"{name}.".startswith(f"{module}.")]


def test_the_observer_knows_no_prediction_and_the_prediction_no_observer() -> None:
    observer = (ROOT / "harness/scenario/observation.py").read_text("utf-8")
    assert "def decide(" in observer
    assert knows(observer, tuple(f"harness.catalogue.{name}" for name in PREDICTION)) == []
    for name in PREDICTION:
        text = (ROOT / f"harness/catalogue/{name}.py").read_text("utf-8")
        assert knows(text, ("harness.scenario", "harness.guest", "harness.parsing", "harness.machines")) == []


@pytest.mark.parametrize(
    "line",
    [
        "from harness.catalogue.prediction import predict",
        "from harness.catalogue import prediction",
        "import harness.catalogue.prediction",
        "def f():\n    from harness.catalogue.prediction import Prediction",
    ],
)
def test_knowing_would_be_seen(line: str) -> None:
    assert knows(line, ("harness.catalogue.prediction",)) != []
    assert knows(line.replace("prediction", "outcome"), ("harness.catalogue.prediction",)) == []
