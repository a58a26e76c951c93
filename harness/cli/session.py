"""What every command has around it: leftovers swept, signals, log, progress."""

import contextlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from harness.core import rundir

Verbosity = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, help="Tell more on stderr: -v the story, -vv also every command."
    ),
]

_ONE_INTERRUPT = 5.0  # seconds within which several signals are one
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_STEPS_LOG = "harness.core.steps"
# Libraries whose own output drowns ours.
_CHATTY = ("asyncio", "docker", "filelock", "httpcore", "httpx", "qemu", "urllib3")


class _CurrentStderr(logging.Handler):
    """Writes to what stderr is at the moment: progress bars stand in for it while they are drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{self.format(record)}\n")


@contextmanager
def session(verbosity: int) -> Iterator[None]:
    """Run a command: SIGTERM ends it as Ctrl-C does, and what dead commands left is removed."""
    rundir.sweep()
    with _logging(verbosity), _interruptible():
        yield


@contextmanager
def _logging(verbosity: int) -> Iterator[None]:
    handler = _CurrentStderr()
    handler.setFormatter(logging.Formatter("%(levelname)-7s %(message)s"))
    # Notes are shown by the progress already.
    handler.addFilter(lambda record: (record.name, record.levelno) != (_STEPS_LOG, logging.WARNING))
    root = logging.getLogger()
    before = root.level
    root.setLevel(_LEVELS[min(verbosity, len(_LEVELS) - 1)])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING if verbosity else logging.ERROR)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt, once: what they start must not be cut short.

    SIGINT too, since a shell's background jobs inherit it ignored and Python leaves it at that;
    repeats within a moment are ignored, since a process group and tox both deliver a signal
    more than once.
    """
    last = -math.inf

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _ONE_INTERRUPT:
            last = time.monotonic()
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
