"""Tasks in threads that can be left behind: a cancelled command ends while a server keeps silent."""

import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from harness.core.errors import NetworkError

CANCELLED = "the downloads were cancelled"
_GLANCE = 0.1  # seconds between two looks at whether there is still somebody to work for

T = TypeVar("T")


def run_all(
    tasks: Sequence[Callable[[], T]], *, threads: int, stop: threading.Event, cancelled: threading.Event
) -> list[T]:
    """Return the results of ``tasks`` in order, ``threads`` of them running at a time.

    The first error in that order is raised, with ``stop`` set and every task over. Once
    ``cancelled`` is set (by an interrupt here, too) NetworkError is raised soon, whatever still
    runs: the threads are daemons, which the end of the process does not wait for, while it
    would for those of an executor.
    """
    futures: list[Future[T]] = [Future() for _ in tasks]
    todo: queue.SimpleQueue[tuple[Future[T], Callable[[], T]]] = queue.SimpleQueue()
    for future, task in zip(futures, tasks, strict=True):
        todo.put((future, task))
    workers = [
        threading.Thread(
            target=contextvars.copy_context().run, args=(_work, todo, stop), name="fetch", daemon=True
        )
        for _ in range(min(threads, len(tasks)))
    ]
    try:
        for worker in workers:
            worker.start()
        return [_result(future, cancelled) for future in futures]
    except Exception:
        raise
    except BaseException:  # Ctrl-C in this very thread
        cancelled.set()
        raise
    finally:
        stop.set()
        for worker in workers:
            while worker.is_alive() and not cancelled.is_set():
                worker.join(_GLANCE)


def _work(todo: "queue.SimpleQueue[tuple[Future[T], Callable[[], T]]]", stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            future, task = todo.get_nowait()
        except queue.Empty:
            return
        try:
            future.set_result(task())
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that waits
            future.set_exception(error)


def _result(future: "Future[T]", cancelled: threading.Event) -> T:
    while not wait([future], timeout=_GLANCE).done:
        if cancelled.is_set():
            raise NetworkError(CANCELLED)
    return future.result()
