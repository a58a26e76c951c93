"""Deadlines: nested, polled, and honest about what was seen last."""

import threading
import time

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError


def test_time_runs_out_and_never_below_zero() -> None:
    deadline = Deadline.after(60, "boot")
    assert 59 < deadline.remaining <= 60
    assert not deadline.expired
    over = Deadline.after(-1, "boot")
    assert over.remaining == 0.0
    assert over.expired


def test_check_raises_only_once_the_time_is_over() -> None:
    Deadline.after(60, "boot").check("nothing yet")
    with pytest.raises(DeadlineError):
        Deadline.after(0, "boot").check()


def test_the_error_says_what_took_how_long_and_what_was_seen_last() -> None:
    deadline = Deadline.after(2.5, "boot of the machine")
    assert str(deadline.error()) == "boot of the machine took longer than 2.5 s"
    assert str(deadline.error("grub>")) == "boot of the machine took longer than 2.5 s; last seen: grub>"


def test_a_part_is_named_after_itself_and_never_outlives_the_whole() -> None:
    whole = Deadline.after(10, "the arm")
    short = whole.within(1, "the dump")
    assert short.what == "the dump"
    assert short.at < whole.at
    assert short.seconds == 1
    long = whole.within(3600, "the dump")
    assert long.at == whole.at
    assert long.what == "the dump"
    assert whole.within(5, "a").within(60, "b").at <= whole.at


def test_polling_returns_what_the_probe_found() -> None:
    answers = iter([None, None, "found"])
    assert Deadline.after(60, "x").poll(lambda: next(answers), interval=0) == "found"


@pytest.mark.parametrize("found", [False, 0, "", ()])
def test_only_none_means_not_yet(found: object) -> None:
    assert Deadline.after(60, "x").poll(lambda: found) is found


def test_an_expired_deadline_still_tries_once() -> None:
    assert Deadline.after(0, "x").poll(lambda: "there all along") == "there all along"


def test_the_probe_is_tried_after_the_last_sleep() -> None:
    """An event while the poll sleeps into its deadline did happen in time."""
    deadline = Deadline.after(0.02, "x")
    tried: list[bool] = []

    def probe() -> bool | None:
        tried.append(deadline.expired)
        return True if deadline.expired else None

    assert deadline.poll(probe, interval=60)
    assert tried == [False, True]


def test_a_poll_that_never_succeeds_tells_what_it_saw() -> None:
    tried: list[float] = []
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"start of it took longer than 0\.01 s; last seen: no READY"):
        Deadline.after(0.01, "start of it").poll(
            lambda: tried.append(0.0), interval=0.002, last_seen="no READY"
        )
    assert len(tried) >= 2
    assert time.monotonic() - started < 5


def test_an_error_of_the_probe_ends_the_poll() -> None:
    def probe() -> None:
        raise KeyError("broken probe")

    with pytest.raises(KeyError, match="broken probe"):
        Deadline.after(60, "x").poll(probe)


def test_one_deadline_serves_several_threads() -> None:
    deadline = Deadline.after(60, "x")
    event = threading.Event()
    found: list[bool] = []
    waiter = threading.Thread(
        target=lambda: found.append(deadline.poll(lambda: event.is_set() or None, interval=0.001))
    )
    waiter.start()
    event.set()
    waiter.join(5)
    assert found == [True]
