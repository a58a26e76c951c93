"""What the probe is asked, and where: in the machine or, by its prefix, in a container."""

import time

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import MachineError
from harness.guest.container import Container
from harness.guest.probe import PROBE, SALT, Probe
from harness.machines.fake import Answer, FakeMachine

NSENTER = ("nsenter", "-t", "412", "-a", "--")
THREADS = '{"pid":35,"threads":[],"zombies":[]}'
WATCH = (
    '{"pid":35,"start":[],"returned":[],"stops":0,"writes":0,"ended":"deadline","insn_mask":null,'
    '"data_mask":null,"enabled_keys":null,"keys":null}'
)
NO_KEYS = '{"insn_mask":null,"data_mask":null,"enabled_keys":null,"keys":null}'


def _soon() -> Deadline:
    return Deadline.after(10, "the probe")


def _machine(answer: Answer | str) -> FakeMachine:
    machine = FakeMachine()
    machine.answer([], answer)
    return machine


def test_the_salt_goes_with_every_question_about_keys() -> None:
    machine = _machine(THREADS)
    probe = Probe(machine)
    probe.threads(35, _soon())
    probe.threads(35, _soon(), frames=True)
    machine.answer([], NO_KEYS)
    assert probe.fresh(_soon()) is None
    assert [call.argv for call in machine.calls] == [
        (PROBE, "threads", "35", "--salt", SALT),
        (PROBE, "threads", "35", "--salt", SALT, "--frames"),
        (PROBE, "fresh", "--salt", SALT),
    ]


def test_a_watch_ends_by_itself_before_the_call_does() -> None:
    machine = _machine(WATCH)
    deadline = Deadline.after(3, "a tick")
    assert Probe(machine).watch(35, 2, deadline).ended == "deadline"
    (call,) = machine.calls
    assert call.argv[:5] == (PROBE, "watch", "35", "--ticks", "2")
    assert 2000 < int(call.argv[6]) <= 3000  # milliseconds
    assert call.deadline.at > deadline.at + 4


def test_a_watch_without_time_left_still_gets_an_answer() -> None:
    machine = _machine(WATCH)
    Probe(machine).watch(35, 1, Deadline.after(0, "a tick"))
    assert int(machine.calls[0].argv[6]) >= 1


def test_a_containers_probe_and_commands_join_its_namespaces() -> None:
    machine = _machine('{"pid":35}')
    container = Container(machine, "412")
    assert container.probe.launch("/out", ["sleep", "1"], _soon()) == 35
    container.run(["readlink", "x"], _soon())
    assert [call.argv for call in machine.calls] == [
        (*NSENTER, PROBE, "launch", "/out", "sleep", "1"),
        (*NSENTER, "readlink", "x"),
    ]


def test_keys_are_exchanged_through_a_file_of_the_guest() -> None:
    machine = _machine('{"threads":1,"changed":true}')
    probe = Probe(machine)
    assert probe.new_keys(35, "/keys", _soon()).changed
    assert probe.load_keys(35, "/keys", _soon()).threads == 1
    assert [call.argv[1:] for call in machine.calls] == [
        ("newkeys", "35", "--save", "/keys"),
        ("loadkeys", "35", "/keys"),
    ]


def test_a_new_identity_is_made_of_secrets_that_no_command_line_shows() -> None:
    """Everyone in the guest can read a command line."""
    machine = _machine('{"bytes":64}')
    Probe(machine).new_identity(_soon())
    Probe(machine).new_identity(_soon())
    for call in machine.calls:
        assert call.argv[:3] == (PROBE, "reseed", "--time")
        assert call.argv[4:] == ("--new-salt", SALT)
        assert abs(int(call.argv[3]) / 1_000_000 - time.time()) < 60  # microseconds
        assert len(call.stdin) == 64
        words = " ".join(call.argv).encode()
        for part in (call.stdin[at : at + 4] for at in range(0, 64, 4)):
            assert part not in words
            assert part.hex().encode() not in words
    assert machine.calls[0].stdin != machine.calls[1].stdin


def test_an_identity_that_was_refused_is_an_error() -> None:
    refused = Answer(returncode=1, stdout=b'{"error":"clock_settime: Operation not permitted (errno 1)"}')
    with pytest.raises(MachineError, match="reseed failed: clock_settime"):
        Probe(_machine(refused)).new_identity(_soon())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(returncode=1, stdout=b'{"error":"cannot stop 35"}'), "pacprobe fresh failed: cannot stop 35"),
        (Answer(returncode=127, stderr=b"pacprobe: not found"), "did not write JSON: 'pacprobe: not found'"),
        ("{}", "has no"),
    ],
)
def test_an_answer_that_is_none_is_an_error(answer: Answer | str, said: str) -> None:
    with pytest.raises(MachineError, match=said):
        Probe(_machine(answer)).fresh(_soon())
