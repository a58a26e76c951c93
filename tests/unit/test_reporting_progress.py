"""Progress: quiet lines without a terminal, bars with one."""

import io
import threading

import pytest
from rich.console import Console

from harness.core import steps
from harness.core.steps import StepEvent
from harness.reporting.progress import LiveProgress, Story, shown


def end(*path: str, seconds: float = 1.0, kind: str = "end") -> StepEvent:
    return StepEvent(path=path, kind=kind, seconds=seconds)


def test_outer_steps_and_long_inner_ones_get_a_line() -> None:
    story = Story()
    assert story.line(StepEvent(path=("stock",), kind="start")) is None
    assert story.line(end("stock", "clone", seconds=0.3)) is None
    assert story.line(end("stock", "dump", seconds=0.61)) == "   0.61 s  stock / dump"
    assert story.line(end("stock", seconds=0.1)) == "   0.10 s  stock"
    assert Story(every_step=True).line(end("stock", "clone", seconds=0.3)) == "   0.30 s  stock / clone"


def test_a_download_tells_its_size_once() -> None:
    story = Story()
    packages = ("packages criu",)
    for done in (0, 5_000_000):
        moved = StepEvent(path=packages, kind="progress", done=done, total=37_700_000, text="bytes")
        assert story.line(moved) is None
    assert story.line(end(*packages)) == "   1.00 s  packages criu (37.7 MB)"
    assert story.line(end(*packages)) == "   1.00 s  packages criu"


def test_a_failure_is_told_once_where_it_happened() -> None:
    story = Story()
    assert story.line(end("a", "b", "c", kind="fail", seconds=0.1)) == "   0.10 s  a / b / c: FAILED"
    assert story.line(end("a", "b", kind="fail")) is None
    assert story.line(end("a", kind="fail")) is None
    assert story.line(end("a", kind="fail")) == "   1.00 s  a: FAILED"


def test_without_a_terminal_there_are_lines_on_the_stream_only(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with shown(stream=stream):
        with steps.step("boot"), steps.step("quick"):
            steps.note("the mirror is slow")
        with pytest.raises(ZeroDivisionError), steps.step("broken"):
            1 / 0  # noqa: B018 -- the step has to fail
    lines = stream.getvalue().splitlines()
    assert lines[0] == "note: the mirror is slow"
    assert lines[1].endswith(" s  boot")
    assert lines[2].endswith(" s  broken: FAILED")
    assert len(lines) == 3
    assert capsys.readouterr().out == ""
    with steps.step("afterwards"):
        pass
    assert "afterwards" not in stream.getvalue()


def test_a_closed_stream_does_not_stop_the_run() -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    with shown(stream=Closed()), steps.step("boot"):
        pass


def live() -> tuple[LiveProgress, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    return LiveProgress(Story(), console), stream


def visible(progress: LiveProgress) -> list[str]:
    return [task.description for task in progress.bars.tasks if task.visible]


def test_bars_are_those_of_the_innermost_running_steps() -> None:
    progress, stream = live()
    with steps.subscribed(progress):
        with steps.step("stock"):
            assert visible(progress) == ["stock"]
            with steps.step("dump"):
                assert visible(progress) == ["stock / dump"]
                steps.progress(10, 40, "bytes")
                (task,) = (task for task in progress.bars.tasks if task.visible)
                assert (task.completed, task.total) == (10, 40)
            assert visible(progress) == ["stock"]
        assert visible(progress) == []
    assert "s  stock\n" in stream.getvalue()


def test_arms_in_threads_have_bars_of_their_own() -> None:
    progress, _ = live()
    both = threading.Barrier(2)
    seen: list[list[str]] = []

    def arm(name: str) -> None:
        with steps.step(name):
            both.wait(5)
            seen.append(sorted(visible(progress)))
            both.wait(5)

    with steps.subscribed(progress):
        threads = [threading.Thread(target=arm, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert seen == [["a", "b"], ["a", "b"]]


def test_bars_are_drawn_with_amounts() -> None:
    progress, stream = live()
    with progress.bars, steps.subscribed(progress), steps.step("packages guest-root"):
        steps.progress(12_100_000, 37_700_000, "bytes")
        progress.bars.refresh()
        steps.progress(3, 10, "items")
        progress.bars.refresh()
    text = stream.getvalue()
    assert "12.1 MB / 37.7 MB" in text
    assert "3 / 10" in text
    assert "packages guest-root" in text


def test_progress_outside_any_step_is_ignored() -> None:
    progress, _ = live()
    with steps.subscribed(progress):
        steps.progress(1, 2, "bytes")
    assert visible(progress) == []
