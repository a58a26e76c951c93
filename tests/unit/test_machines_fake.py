"""The fake machine: as strict as a real one, so that what passes on it means something."""

from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError, EngineError, MachineDiedError, MachineError
from harness.machines.fake import Answer, FakeMachine
from harness.machines.protocol import Machine, check

OVER = Deadline.after(0, "a call")


def _soon() -> Deadline:
    return Deadline.after(30, "a call")


def test_it_is_a_machine() -> None:
    machine: Machine = FakeMachine(Path("/somewhere"))
    assert machine.directory == Path("/somewhere")
    assert machine.docker_url == "unix:///somewhere/docker.sock"


def test_answers_come_in_order_and_the_last_one_stays() -> None:
    machine = FakeMachine()
    machine.answer(["cat"], "one", Answer(returncode=3, stderr=b"two"), "three")
    found = [machine.run(["cat", "file"], _soon()) for _ in range(4)]
    assert [(one.text, one.returncode, one.error_text) for one in found] == [
        ("one", 0, ""),
        ("", 3, "two"),
        ("three", 0, ""),
        ("three", 0, ""),
    ]


def test_the_longest_prefix_counts() -> None:
    machine = FakeMachine()
    machine.answer(["a"], "short")
    machine.answer(["a", "b"], "long")
    assert machine.run(["a", "c"], _soon()).text == "short"
    assert machine.run(["a", "b", "c"], _soon()).text == "long"
    machine.answer(["a", "b"], lambda call: f"function of {len(call.argv)}")
    assert machine.run(["a", "b", "c"], _soon()).text == "function of 3"


def test_calls_are_kept_with_what_they_were_given() -> None:
    machine = FakeMachine()
    machine.answer([], "")
    soon = _soon()
    machine.run(["a", "b"], soon, stdin=b"in")
    machine.run(["c"], soon)
    (call,) = machine.called("a")
    assert (call.argv, call.stdin, call.deadline) == (("a", "b"), b"in", soon)
    assert [one.argv for one in machine.calls] == [("a", "b"), ("c",)]


def test_a_command_nobody_expected_is_a_mistake_in_the_test() -> None:
    machine = FakeMachine()
    machine.answer(["cat", "file"], "")
    with pytest.raises(AssertionError, match="no answer for"):
        machine.run(["cat"], _soon())
    with pytest.raises(ValueError, match="no answer given"):
        machine.answer(["cat"])


def test_errors_and_hangs() -> None:
    machine = FakeMachine()
    machine.answer(["broken"], EngineError("as scripted"))
    machine.answer(["slow"], Answer(hangs=True))
    with pytest.raises(EngineError, match="as scripted"):
        machine.run(["broken"], _soon())
    with pytest.raises(DeadlineError, match="a call took longer than 30 s; last seen: slow still running"):
        machine.run(["slow"], _soon())


def test_a_deadline_that_is_over_is_over_here_too() -> None:
    machine = FakeMachine()
    machine.answer([], "")
    machine.files["f"] = b""
    with pytest.raises(DeadlineError):
        machine.run(["true"], OVER)
    with pytest.raises(DeadlineError):
        machine.read_file("f", OVER)


def test_files_and_the_end() -> None:
    machine = FakeMachine()
    machine.files["/there"] = b"content"
    assert machine.read_file("/there", _soon()) == b"content"
    with pytest.raises(MachineError, match="no file /missing"):
        machine.read_file("/missing", _soon())
    machine.close()
    machine.close()
    for call in (lambda: machine.run(["true"], _soon()), lambda: machine.read_file("/there", _soon())):
        with pytest.raises(MachineDiedError):
            call()


def test_check_names_the_command_and_its_last_words() -> None:
    machine = FakeMachine()
    machine.answer(["mount"], Answer(returncode=32, stderr=b"1\n2\n3\nno such device\n"))
    machine.answer(["quiet"], Answer(returncode=1, stdout=b"said on stdout\n"))
    machine.answer(["fine"], "ok")
    with pytest.raises(MachineError, match=r"mount -t x ended with 32: 2 \| 3 \| no such device$"):
        check(machine, ["mount", "-t", "x"], _soon())
    with pytest.raises(MachineError, match="said on stdout"):
        check(machine, ["quiet"], _soon())
    assert check(machine, ["fine"], _soon(), stdin=b"x").text == "ok"
