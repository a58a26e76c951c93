"""Deadlines on the monotonic clock, passed down instead of bare numbers of seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from harness.core.errors import DeadlineError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """A point on ``time.monotonic()`` by which ``what`` has to be over."""

    what: str
    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float, what: str) -> Self:
        """Return the deadline ``seconds`` from now for ``what``."""
        return cls(what=what, at=time.monotonic() + seconds, seconds=seconds)

    def within(self, seconds: float, what: str) -> "Deadline":
        """Return a deadline for a part: ``seconds`` from now, never later than this one."""
        part = Deadline.after(seconds, what)
        return part if part.at <= self.at else Deadline(what=what, at=self.at, seconds=self.seconds)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.at

    def check(self, last_seen: str = "") -> None:
        """Raise DeadlineError, with what was seen last, once the time is over."""
        if self.expired:
            raise self.error(last_seen)

    def error(self, last_seen: str = "") -> DeadlineError:
        """Return the error that says this deadline was missed."""
        seen = f"; last seen: {last_seen}" if last_seen else ""
        return DeadlineError(f"{self.what} took longer than {self.seconds:g} s{seen}")

    def poll(self, probe: Callable[[], T | None], *, interval: float = 0.02, last_seen: str = "") -> T:
        """Call ``probe`` until it returns something other than None, or raise DeadlineError.

        The probe is always tried once after the last sleep, so a slow host cannot turn
        an event that did happen into a missed one.
        """
        while True:
            over = self.expired
            result = probe()
            if result is not None:
                return result
            if over:
                raise self.error(last_seen)
            time.sleep(min(interval, max(0.001, self.remaining)))
