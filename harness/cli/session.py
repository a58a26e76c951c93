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

from harness.cli import backend
from harness.core import rundir
from harness.provision.context import Provision

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
    rundir.sweep(undo=backend.put_back)
    with _logging(verbosity), _interruptible():
        yield


@contextmanager
def provisioned(verbosity: int) -> Iterator[Provision]:
    """Run a command as ``session`` does, with what it provisions with; raises UsageError.

    What killed commands left half built in the cache is removed.
    """
    with session(verbosity), Provision.from_environment() as provision:
        provision.cache.sweep()
        yield provision


class _Hold:
    """Whether an interrupt has to wait, and whether one does."""

    on = False
    came = False


_hold = _Hold()


@contextmanager
def held() -> Iterator[None]:
    """Put the interrupt of ``session`` off to the end of the context, which has to be short.

    For what must not be left half done: a thread whose start is interrupted runs all the same,
    and nobody can tell.
    """
    _hold.on = True
    try:
        yield
    finally:
        _hold.on = False
        if _hold.came:
            _hold.came = False
            raise KeyboardInterrupt


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
            if not _hold.on:
                raise KeyboardInterrupt
            _hold.came = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
