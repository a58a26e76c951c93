"""Limits of the phases: wider on a slow machine, never narrower than on an idle one."""

import dataclasses
import time

import pytest

from harness.scenario.fake_observations import criu
from harness.scenario.fake_results import SLEEPER
from harness.scenario.limits import PhaseLimits


def calibrated(monkeypatch: pytest.MonkeyPatch, seconds: float) -> PhaseLimits:
    clock = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    made = PhaseLimits()
    with made.calibration():
        pass
    return made


@pytest.mark.parametrize(("seconds", "slowness"), [(0.01, 1.0), (0.15, 1.0), (0.3, 2.0), (60.0, 8.0)])
def test_slowness(monkeypatch: pytest.MonkeyPatch, seconds: float, slowness: float) -> None:
    made, idle = calibrated(monkeypatch, seconds), PhaseLimits()
    assert made.slowness == pytest.approx(slowness)
    assert made.dump == pytest.approx(idle.dump * slowness)
    assert made.restore(None) == pytest.approx(idle.restore(None) * slowness)
    assert made.watch(SLEEPER) - idle.watch(SLEEPER) == pytest.approx(
        (slowness - 1) * SLEEPER.watch_ticks * 4.0
    )


def test_a_restore_may_take_many_times_its_dump() -> None:
    slow = dataclasses.replace(criu("dump", 0), seconds=10.0)
    assert PhaseLimits().restore(slow) == pytest.approx(200.0)
