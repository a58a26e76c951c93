"""The end of a hang, told from what the script in the guest says."""

import pytest

from harness.core.deadline import Deadline
from harness.guest.container import Container
from harness.machines.fake import FakeMachine
from harness.scenario.hang import HangEnd, end_hang


@pytest.mark.parametrize(
    ("said", "end"),
    [
        ("criu 61\n", HangEnd(criu=(61,), orphan=None, left=False)),
        (
            "criu 61\ncriu 62\norphan 35 S futex_wait_queue\n",
            HangEnd(criu=(61, 62), orphan="S futex_wait_queue", left=False),
        ),
        ("criu 61\norphan 35 D\nleft 35\n", HangEnd(criu=(61,), orphan="D", left=True)),
        ("", HangEnd(criu=(), orphan=None, left=False)),
    ],
)
def test_what_was_killed_is_told(said: str, end: HangEnd) -> None:
    machine = FakeMachine()
    machine.answer((), said)
    found = end_hang(Container(machine, "412"), "restore-1.log", 35, Deadline.after(5, "end of a hang"))
    assert found == end
    (call,) = machine.calls
    assert call.argv[-2:] == ("restore-1.log", "35")
