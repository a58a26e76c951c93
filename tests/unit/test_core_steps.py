"""Steps: names nest, threads inherit on request, and failure is an event of its own."""

import contextvars
import threading
from collections.abc import Callable

import pytest

from harness.core import steps
from harness.core.steps import StepEvent


def _shape(events: list[StepEvent]) -> list[tuple[str, str]]:
    return [("/".join(event.path), event.kind) for event in events]


def test_steps_nest_and_end_from_the_inside_out() -> None:
    events: list[StepEvent] = []
    with steps.subscribed(events.append), steps.step("arm"):
        with steps.step("clone"):
            pass
        with steps.step("dump"):
            pass
    assert _shape(events) == [
        ("arm", "start"),
        ("arm/clone", "start"),
        ("arm/clone", "end"),
        ("arm/dump", "start"),
        ("arm/dump", "end"),
        ("arm", "end"),
    ]
    assert [event.seconds is None for event in events] == [event.kind == "start" for event in events]
    assert all(event.seconds is None or event.seconds >= 0 for event in events)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_step_that_raises_fails_and_so_does_what_holds_it(error: BaseException) -> None:
    events: list[StepEvent] = []
    with steps.subscribed(events.append):
        with pytest.raises(type(error)), steps.step("arm"), steps.step("dump"):
            raise error
        with steps.step("next"):
            pass
    assert _shape(events) == [
        ("arm", "start"),
        ("arm/dump", "start"),
        ("arm/dump", "fail"),
        ("arm", "fail"),
        ("next", "start"),
        ("next", "end"),
    ]


def test_progress_and_notes_belong_to_the_current_step() -> None:
    events: list[StepEvent] = []
    with steps.subscribed(events.append):
        steps.note("outside of any")
        with steps.step("download"):
            steps.progress(10, 100, "a.deb")
            steps.progress(100, None)
            steps.note("a mirror is old")
    noted, _, first, second, inside, _ = events
    assert (noted.path, noted.kind, noted.text) == ((), "note", "outside of any")
    assert (first.path, first.kind, first.done, first.total, first.text) == (
        ("download",),
        "progress",
        10,
        100,
        "a.deb",
    )
    assert (second.done, second.total) == (100, None)
    assert (inside.path, inside.text) == (("download",), "a mirror is old")


def test_nobody_hears_after_the_end_of_a_subscription() -> None:
    first: list[StepEvent] = []
    second: list[StepEvent] = []
    with steps.subscribed(first.append):
        with pytest.raises(KeyError), steps.subscribed(second.append):
            raise KeyError
        with steps.step("late"):
            pass
    with steps.step("later"):
        pass
    assert _shape(first) == [("late", "start"), ("late", "end")]
    assert second == []


def _in_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(5)


def test_another_thread_starts_outside_of_the_current_step_unless_given_its_context() -> None:
    events: list[StepEvent] = []

    def work() -> None:
        with steps.step("work"):
            pass

    with steps.subscribed(events.append), steps.step("arm"):
        _in_thread(work)
        context = contextvars.copy_context()
        _in_thread(lambda: context.run(work))
    assert _shape(events)[1:-1] == [
        ("work", "start"),
        ("work", "end"),
        ("arm/work", "start"),
        ("arm/work", "end"),
    ]
