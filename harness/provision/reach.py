"""Whether somebody answers at all, known within seconds whatever the network does."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import httpx

from harness.core.deadline import Deadline
from harness.core.errors import NetworkError

FIRST_ANSWER = 5.0  # seconds

T = TypeVar("T")


def within(deadline: Deadline, action: Callable[[], T]) -> T:
    """Return what ``action`` returns, or raise what it raises; NetworkError once the deadline passed.

    Time-outs of a socket do not bound this: looking up a name has none, and a name with eight
    addresses multiplies the one for connecting. A thread can be left behind instead.
    """
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((action(), None))
        except BaseException as error:  # noqa: BLE001 -- raised again where somebody waits for it
            results.put((None, error))

    threading.Thread(target=work, name="first-answer", daemon=True).start()
    try:
        result, error = results.get(timeout=max(deadline.remaining, 0.001))
    except queue.Empty:
        raise NetworkError(f"{deadline.what} did not answer within {deadline.seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # action's own None is a T


def check_answers(url: str, *, seconds: float = FIRST_ANSWER) -> None:
    """Raise NetworkError unless something answers an HTTP request for ``url`` within ``seconds``.

    Any answer but a server's own failure will do: what it says is for the caller to ask again.
    """

    def ask() -> int:
        timeout = httpx.Timeout(seconds)
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as answer:
            return answer.status_code

    try:
        status = within(Deadline.after(seconds, url), ask)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NetworkError(f"{url}: {error or type(error).__name__}") from error
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise NetworkError(f"{url} answered HTTP {status}")
