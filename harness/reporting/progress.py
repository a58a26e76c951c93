"""Progress for people, on stderr: live bars on a terminal, otherwise one line for each finished step."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from harness.core import steps
from harness.core.steps import StepEvent

_INTERESTING = 0.5  # seconds from which a step inside another one gets a line of its own
_BAR_WIDTH = 20
_BYTES = "bytes"


class Story:
    """Which events are worth a line of text, and that line.

    Outermost steps always are, inner ones when they took long (with ``every_step``: always), a
    failure once, where it happened. Any thread may ask.
    """

    def __init__(self, *, every_step: bool = False) -> None:
        self._every_step = every_step
        self._sizes: dict[tuple[str, ...], int] = {}
        self._failed: set[tuple[str, ...]] = set()
        self._mutex = threading.Lock()

    def line(self, event: StepEvent) -> str | None:
        """Return the line that tells ``event``, or None when nobody needs it."""
        with self._mutex:
            if event.kind == "note":
                return f"note: {event.text}"
            if event.kind == "progress" and event.text == _BYTES:
                self._sizes[event.path] = event.total or event.done or 0
            if event.kind == "end":
                return self._end(event)
            if event.kind == "fail":
                return self._failure(event)
            return None

    def _end(self, event: StepEvent) -> str | None:
        size = self._sizes.pop(event.path, 0)
        seconds = event.seconds or 0.0
        if len(event.path) > 1 and seconds < _INTERESTING and not self._every_step:
            return None
        amount = f" ({decimal(size)})" if size else ""
        return f"{seconds:7.2f} s  {' / '.join(event.path)}{amount}"

    def _failure(self, event: StepEvent) -> str | None:
        # The steps around a failed one fail with it: one line is enough.
        inner = {path for path in self._failed if path[: len(event.path)] == event.path}
        self._failed -= inner
        if len(event.path) > 1:
            self._failed.add(event.path)
        return None if inner else f"{event.seconds or 0.0:7.2f} s  {' / '.join(event.path)}: FAILED"


@contextmanager
def shown(*, verbose: bool = False, stream: IO[str] | None = None) -> Iterator[None]:
    """Show every step of the context on ``stream`` (default: stderr).

    Bars need a terminal on both output streams, so that results in a pipe come with quiet
    lines; ``verbose`` means lines for every step, since a log and bars do not mix.
    """
    target = stream or sys.stderr
    story = Story(every_step=verbose)
    if not verbose and target.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        live = LiveProgress(story, Console(file=target))
        with live.bars, steps.subscribed(live):
            yield
        return

    def show(event: StepEvent) -> None:
        if line := story.line(event):
            with contextlib.suppress(OSError):  # a closed stderr stops the chatter, not the run
                target.write(f"{line}\n")
                target.flush()

    with steps.subscribed(show):
        yield


class LiveProgress:
    """A subscriber that draws a bar for each innermost running step, and the story above them."""

    def __init__(self, story: Story, console: Console) -> None:
        self._story = story
        self._running: dict[tuple[str, ...], TaskID] = {}
        self._mutex = threading.Lock()
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            _Bar(),
            _Amount(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            expand=True,
            redirect_stdout=False,  # results never wait for a bar, nor change their stream
        )

    def __call__(self, event: StepEvent) -> None:
        """Take one event, in whatever thread it happens."""
        if line := self._story.line(event):
            self.bars.console.print(Text(line), soft_wrap=True)
        with self._mutex:
            if event.kind == "start":
                self._start(event.path)
            elif event.kind == "progress" and event.path in self._running:
                self.bars.update(
                    self._running[event.path], total=event.total, completed=event.done or 0, unit=event.text
                )
            elif event.kind in {"end", "fail"}:
                self._end(event.path)

    def _start(self, path: tuple[str, ...]) -> None:
        if path in self._running:
            return
        if path[:-1] in self._running:
            self.bars.update(self._running[path[:-1]], visible=False)
        self._running[path] = self.bars.add_task(" / ".join(path), total=None, unit="")

    def _end(self, path: tuple[str, ...]) -> None:
        if path not in self._running:
            return
        self.bars.remove_task(self._running.pop(path))
        parent = path[:-1]
        if parent in self._running and not any(other[:-1] == parent for other in self._running):
            self.bars.update(self._running[parent], visible=True)


class _Bar(ProgressColumn):
    """A bar where a step can tell how far it is, and nothing where it cannot."""

    def render(self, task: Task) -> RenderableType:
        if task.total is None:
            return Text("")
        return ProgressBar(total=task.total, completed=task.completed, width=_BAR_WIDTH)


class _Amount(ProgressColumn):
    """Bytes or items: "12.1 MB / 37.7 MB", "3 / 10"."""

    def render(self, task: Task) -> RenderableType:
        if task.total is None:
            return Text("")
        amounts = int(task.completed), int(task.total)
        unit = decimal if task.fields.get("unit") == _BYTES else str
        return Text(" / ".join(unit(amount) for amount in amounts))
