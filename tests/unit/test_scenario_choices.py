"""From typed words to values: the same for the command line and the pytest plugin."""

import dataclasses
from pathlib import Path

import pytest

from harness.catalogue.scenario import Driver, KeyModule
from harness.core.errors import UsageError
from harness.scenario.choices import dimensions, part
from harness.scenario.matrix import Dimensions

WORKLOAD = """
name = "own"
argv = ["./own"]
language = "c"
ready = 'READY'
progress = 'tick'
tick_seconds = 0.2
watch_ticks = 3
"""


def test_nothing_typed_is_nothing_given() -> None:
    assert dimensions({}) == dimensions({"cpu": [], "cycles": ()}) == Dimensions()


def test_every_dimension(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "workload.toml").write_text(WORKLOAD)
    typed = {
        "criu": ["3.17.1", "3.17.1:4.2.1"],
        "kernel": ["6.1:6.12"],
        "cpu": ["neoverse-n1", "neoverse-v1", "neoverse-n1"],
        "module": ["plugin", "none"],
        "driver": ["runc"],
        "base": ["debian-12"],
        "workload": ["own", "c-tree"],
        "cycles": ["5", "1"],
    }
    found = dimensions(typed, tmp_path)
    assert typed.keys() == {field.name for field in dataclasses.fields(Dimensions)}
    assert [(one.name, other.name) for one, other in found.criu] == [("3.17.1",) * 2, ("3.17.1", "4.2.1")]
    assert [(one.name, other.name) for one, other in found.kernel] == [("6.1", "6.12")]
    assert [one.name for one, _ in found.cpu] == ["neoverse-n1", "neoverse-v1"], "in the order typed, once"
    assert found.module == (KeyModule.PLUGIN, KeyModule.NONE)
    assert found.driver == (Driver.RUNC,)
    assert [one.name for one in found.base] == ["debian-12"]
    assert [one.spelled for one in found.workload] == [str(tmp_path / "own"), "c-tree"]
    assert found.cycles == (5, 1)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("criu", "3.17.1:3.18", "unknown CRIU '3.18'"),
        ("kernel", "6.l", "unknown kernel '6.l'; did you mean 6.1"),
        ("module", "plugn", "unknown module 'plugn'; did you mean plugin"),
        ("driver", "dokcer", "unknown driver 'dokcer'; did you mean docker"),
        ("base", "debian-31", "unknown base 'debian-31'; did you mean debian-13"),
        ("workload", "c-frame", "unknown workload 'c-frame'; did you mean c-frames"),
        ("cycles", "0", "--cycles 0: must be a number of at least 1"),
        ("cycles", "x", "--cycles x: must be a number of at least 1"),
    ],
)
def test_an_unknown_value_is_answered_with_the_near_ones(name: str, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        dimensions({name: [text]})


def test_the_parts_are_the_whole() -> None:
    items = list(range(10))
    parts = [part(items, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(item for one in parts for item in one) == items
    assert {len(one) for one in parts} == {3, 4}
    assert part(items, None) == items


@pytest.mark.parametrize("shard", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.5/2"])
def test_a_part_that_is_none(shard: str) -> None:
    with pytest.raises(UsageError, match="write it like 1/4"):
        part([1], shard)
