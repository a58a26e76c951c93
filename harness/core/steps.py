"""Named, nested steps published as events; reporters subscribe, nobody else knows them."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """One change of one step.

    ``path`` is the chain of names from the outermost step; ``seconds`` is None when it starts;
    ``done``/``total`` are bytes or items of a step that can tell how far it is.
    """

    path: tuple[str, ...]
    kind: str  # "start", "progress", "end", "fail", "note"
    seconds: float | None = None
    done: int | None = None
    total: int | None = None
    text: str = ""


Subscriber = Callable[[StepEvent], None]

_subscribers: list[Subscriber] = []
_lock = threading.Lock()
_path: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("step_path", default=())


@contextmanager
def subscribed(subscriber: Subscriber) -> Iterator[None]:
    """Deliver every event to ``subscriber`` for the length of the context, from any thread."""
    with _lock:
        _subscribers.append(subscriber)
    try:
        yield
    finally:
        with _lock:
            _subscribers.remove(subscriber)


def _publish(event: StepEvent) -> None:
    with _lock:
        receivers = tuple(_subscribers)
    for receive in receivers:
        receive(event)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Run a block as the step ``name``, nested in the current one."""
    path = (*_path.get(), name)
    token = _path.set(path)
    started = time.monotonic()
    log.info("%s ...", " / ".join(path))
    _publish(StepEvent(path=path, kind="start"))
    try:
        yield
    except BaseException:
        _publish(StepEvent(path=path, kind="fail", seconds=time.monotonic() - started))
        raise
    else:
        _publish(StepEvent(path=path, kind="end", seconds=time.monotonic() - started))
    finally:
        _path.reset(token)


def progress(done: int, total: int | None, text: str = "") -> None:
    """Tell how far the current step is, in bytes or items."""
    _publish(StepEvent(path=_path.get(), kind="progress", done=done, total=total, text=text))


def note(text: str) -> None:
    """Tell the user something that is worth a line: a warning, a choice made for them."""
    log.warning("%s", text)
    _publish(StepEvent(path=_path.get(), kind="note", text=text))
