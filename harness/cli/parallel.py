"""Arms in parallel: each in a thread of its own, all of them gone when the command ends."""

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from harness.cli.session import held
from harness.machines.capacity import machines_at_once
from harness.scenario.arms import Arm
from harness.scenario.result import ScenarioResult

_GLANCE = 0.5  # seconds between two looks at whether there was an interrupt
_PATIENCE = 15.0  # seconds for a thread to end once everything it talks to is gone


class ParallelArms:
    """Runs every arm with ``run``, ``at_once`` of them at a time. Use as a context manager.

    An arm lives in one thread from start to end, because its machine dies with the thread that
    started it; with ``linger`` the threads of finished arms stay until the context is left.
    Leaving calls ``stop``, which has to make whatever still runs fail soon, and then waits for
    every thread. Only the main thread gets KeyboardInterrupt, so that is how Ctrl-C ends the arms.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        run: Callable[[Arm], ScenarioResult],
        stop: Callable[[], None],
        *,
        at_once: int,
        linger: bool = False,
    ) -> None:
        self._run = run
        self._stop = stop
        self._linger = linger
        self._slots = threading.Semaphore(at_once)
        self._leaving = threading.Event()
        self._done: queue.SimpleQueue[ScenarioResult | BaseException] = queue.SimpleQueue()
        # Daemons, as a thread that refuses to end must not keep a cancelled command from ending.
        self._threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(self._one, arm), name=arm.name, daemon=True
            )
            for arm in arms
        ]

    def results(self) -> Iterator[ScenarioResult]:
        """Start the arms and yield the results as they finish.

        Raises what ``run`` raised instead of giving a result.
        """
        # Not on entering the context: an interrupt between two starts has to leave through it.
        # Nor within one: a thread would be at work that is not alive yet.
        with held():
            for thread in self._threads:
                thread.start()
        for _ in self._threads:
            result = self._next()
            if isinstance(result, BaseException):
                raise result
            yield result

    def _next(self) -> ScenarioResult | BaseException:
        while True:
            # A signal that comes just before a wait begins does not end it: no wait is for ever.
            with contextlib.suppress(queue.Empty):
                return self._done.get(timeout=_GLANCE)

    def _one(self, arm: Arm) -> None:
        with self._slots:
            if self._leaving.is_set():
                return
            try:
                self._done.put(self._run(arm))
            except BaseException as error:  # noqa: BLE001 -- raised again in the main thread
                self._done.put(error)
                return
        if self._linger:
            self._leaving.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._stop()
        for thread in self._threads:
            if thread.is_alive():  # the others are over, or will find that it is too late to begin
                thread.join(_PATIENCE)


def default_parallelism(arms: int) -> int:
    """Return how many of ``arms`` run at a time: as many as this computer's cores and memory carry."""
    return max(1, min(arms, machines_at_once()))
