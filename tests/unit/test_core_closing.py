"""Closing: the context closes, whatever ends it, and hides no error."""

import pytest

from harness.core.closing import Closing


class Door(Closing):
    """Counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_context_gives_the_thing_itself_and_closes_it() -> None:
    door = Door()
    with door as entered:
        assert entered is door
        assert door.closed == 0
    assert door.closed == 1


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_closes_it_and_goes_on(error: BaseException) -> None:
    door = Door()
    with pytest.raises(type(error)), door:
        raise error
    assert door.closed == 1


def test_something_that_cannot_be_closed_is_none() -> None:
    with pytest.raises(TypeError, match="close"):
        Closing()  # type: ignore[abstract]
