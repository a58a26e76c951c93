"""A workload as seen through its output: readiness, progress, end, and what it says about itself."""

import pytest

from harness.catalogue.workloads import Workload, parse_workload
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError, LongFileError, MachineError, UsageError, WorkloadError
from harness.guest.container import EXITS, OUTPUT, Container
from harness.guest.probe import PROBE
from harness.guest.workload import (
    RunningWorkload,
    available_workloads,
    exit_statuses,
    load_workload,
)
from harness.machines.fake import Answer, FakeMachine

NSENTER = ("nsenter", "-t", "412", "-a", "--")
CONTRACT = """
name = "frames"
argv = ["./frames", "a b"]
language = "c"
ready = '^READY$'
progress = '^tick \\d+$'
tick_seconds = 0.2
watch_ticks = 3
"""
VERIFY = """
[verify]
signal = "SIGUSR1"
passed = '^PASS '
failed = '^FAIL '
"""
WITH_VERIFY = parse_workload(CONTRACT + VERIFY, "here")
SLEEPER = parse_workload(CONTRACT, "here")


def _soon() -> Deadline:
    return Deadline.after(10, "the workload")


Look = dict[str, bytes]


def shown(*lines: str, exits: str = "") -> Look:
    """Return the files that one look at the workload finds."""
    return {EXITS: exits.encode(), OUTPUT: "".join(f"{line}\n" for line in lines).encode()}


class Guest(FakeMachine):
    """Shows one look after another, the last one for good; a look starts with the exits."""

    def __init__(self, *looks: Look) -> None:
        super().__init__()
        self._looks = list(looks or [shown()])
        self.reads: list[tuple[str, Deadline]] = []

    @property
    def looks(self) -> int:
        return len([path for path, _ in self.reads if path == EXITS])

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        self.reads.append((path, deadline))
        if path == EXITS:
            self.files = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return super().read_file(path, deadline)


def _running(*looks: Look, workload: Workload = WITH_VERIFY) -> tuple[Guest, RunningWorkload]:
    machine = Guest(*looks)
    machine.answer(NSENTER, "")
    return machine, RunningWorkload(container=Container(machine, "412"), workload=workload, pid=35)


@pytest.mark.parametrize(
    ("exits", "statuses"),
    [
        ("", ()),
        ("35 139\n", (139,)),
        ("35 0\n", (0,)),
        ("7 0\n35 9\n412 1\n", (9,)),
        ("35 9\n35 139\n", (9, 139)),  # the dumped task and the restored one have the same pid
        ("35 9\n7 0\n35 9\n35 0\n", (9, 9, 0)),  # three lives, equal ends among them
        ("7 0\n", ()),
        ("135 9\n", ()),
        ("35\n", ()),
        ("35 9 1\n", ()),
    ],
)
def test_exit_statuses(exits: str, statuses: tuple[int, ...]) -> None:
    assert exit_statuses(exits, 35) == statuses


def test_progress_counts_ticks_and_no_other_lines() -> None:
    _, running = _running(shown("READY", "tick 1", "tick two", "tick 2"))
    seen = running.progress(_soon())
    assert seen.lines == ("READY", "tick 1", "tick two", "tick 2")
    assert (seen.ticks, seen.exits) == (2, ())
    assert running.ticks(_soon()) == 2


def test_nothing_shown_yet() -> None:
    _, running = _running(shown())
    seen = running.progress(_soon())
    assert (seen.lines, seen.ticks, seen.exits) == ((), 0, ())


def test_the_end_is_seen_with_what_was_shown_before_it() -> None:
    _, running = _running(shown("tick 1", "--", "35 0", exits="35 139\n"))
    seen = running.progress(_soon())
    assert (seen.exits, seen.ticks) == ((139,), 1)
    assert seen.lines == ("tick 1", "--", "35 0")  # a workload may print what it likes


def test_exits_are_read_before_the_output() -> None:
    """The other way round, lines written just before an end would be missed and the end be seen."""
    machine, running = _running(shown("tick 1"))
    running.progress(_soon())
    assert [path for path, _ in machine.reads] == [EXITS, OUTPUT]
    assert machine.calls == []  # no process in the guest


def test_output_may_hold_any_bytes() -> None:
    _, running = _running({EXITS: b"", OUTPUT: b"tick 1\n\xff\xfe\ntick 2"})
    seen = running.progress(_soon())
    assert (seen.lines, seen.ticks) == (("tick 1", "\ufffd\ufffd", "tick 2"), 2)


@pytest.mark.parametrize("missing", [EXITS, OUTPUT])
def test_what_cannot_be_read_is_no_silence(missing: str) -> None:
    look = shown("tick 1")
    del look[missing]
    _, running = _running(look)
    with pytest.raises(MachineError, match=missing):
        running.progress(_soon())


def test_a_look_is_finished_even_after_the_deadline() -> None:
    machine, running = _running(shown("tick 1"))
    over = Deadline.after(0, "a look")
    assert running.progress(over).ticks == 1
    assert all(deadline.at > over.at + 1 for _, deadline in machine.reads)


def _starting(*looks: Look, workload: Workload = WITH_VERIFY) -> tuple[Guest, Container, Workload]:
    machine = Guest(*looks)
    machine.answer((*NSENTER, PROBE, "launch"), '{"pid":35}')
    return machine, Container(machine, "412"), workload


def test_launching_waits_for_nothing() -> None:
    machine, container, workload = _starting(shown("READY"))
    running = RunningWorkload.launch(container, workload, _soon())
    assert (running.pid, machine.looks) == (35, 0)
    running.wait_ready(_soon())
    assert machine.looks == 1


def test_a_launch_that_fails_is_an_error_of_the_machine() -> None:
    machine, container, workload = _starting()
    failed = Answer(returncode=1, stdout=b'{"error":"start of bash: no such file"}')
    machine.answer((*NSENTER, PROBE, "launch"), failed)
    with pytest.raises(MachineError, match="start of bash"):
        RunningWorkload.launch(container, workload, _soon())


def test_start_waits_for_the_ready_line() -> None:
    machine, container, workload = _starting(shown(), shown("loading"), shown("loading", "READY"))
    running = RunningWorkload.start(container, workload, _soon())
    assert running.pid == 35
    assert machine.looks == 3


def test_start_quotes_the_program_into_its_directory() -> None:
    machine, container, workload = _starting(shown("READY"))
    RunningWorkload.start(container, workload, _soon())
    (launch,) = machine.called(*NSENTER, PROBE, "launch")
    assert launch.argv[-4:] == (OUTPUT, "bash", "-c", "cd /opt/workloads/frames && exec ./frames 'a b'")


@pytest.mark.parametrize(
    ("lines", "said"), [(["Segmentation fault"], "Segmentation fault"), ([], "no output")]
)
def test_an_end_before_ready_breaks_the_contract(lines: list[str], said: str) -> None:
    _, container, workload = _starting(shown(), shown(*lines, exits="35 256\n"))
    with pytest.raises(WorkloadError, match=f"frames ended before it was ready: {said}"):
        RunningWorkload.start(container, workload, _soon())


@pytest.mark.parametrize(
    ("lines", "said"), [(["loading", f"{'x' * 999}..."], f"{'x' * 197}..."), ([], "no output")]
)
def test_a_workload_that_never_gets_ready_is_told_by_what_it_did_not_print(
    lines: list[str], said: str
) -> None:
    """The last look comes after the deadline: it must not turn into an error of the machine."""
    _, container, workload = _starting(shown(*lines))
    with pytest.raises(WorkloadError) as error:
        RunningWorkload.start(container, workload, Deadline.after(0.03, "start of the workload"))
    expected = "workload frames printed no line like ^READY$ within 0.03 s of start of the workload; last: "
    assert str(error.value) == expected + said


def test_a_machine_that_does_not_answer_is_not_the_workloads_fault() -> None:
    machine, container, workload = _starting()
    late = Deadline.after(0, "the agent")

    def no_answer(path: str, deadline: Deadline) -> bytes:
        raise late.error()

    machine.read_file = no_answer  # type: ignore[method-assign]
    with pytest.raises(DeadlineError, match="the agent took longer"):
        RunningWorkload.start(container, workload, Deadline.after(0.03, "start of the workload"))


def test_a_flood_of_output_is_told() -> None:
    class Flooded(Guest):
        def read_file(self, path: str, deadline: Deadline) -> bytes:
            if path == OUTPUT:
                raise LongFileError(f"{path} is longer than 4194304 bytes")
            return super().read_file(path, deadline)

    running = RunningWorkload(container=Container(Flooded(), "412"), workload=SLEEPER, pid=35)
    with pytest.raises(
        WorkloadError, match=r"workload frames floods its output: .* longer than 4194304 bytes"
    ):
        running.wait_ready(_soon())


def test_ready_is_no_part_of_a_line() -> None:
    _, container, workload = _starting(shown("NOT READY", "READY?"))
    with pytest.raises(WorkloadError):
        RunningWorkload.start(container, workload, Deadline.after(0.03, "start of the workload"))


@pytest.mark.parametrize(
    ("looks", "ticks", "exits"),
    [
        ([shown("tick 1"), shown("tick 1", "tick 2"), shown("tick 1", "tick 2", "tick 3")], 3, ()),
        ([shown("tick 1"), shown("tick 1", exits="35 139\n")], 1, (139,)),
    ],
)
def test_waiting_for_progress(looks: list[Look], ticks: int, exits: tuple[int, ...]) -> None:
    machine, running = _running(*looks)
    seen = running.wait_progress(3, _soon())
    assert (seen.ticks, seen.exits) == (ticks, exits)
    assert machine.looks == len(looks)


DUMPED = "35 9\n"  # CRIU ends what it has dumped


def test_an_end_of_an_earlier_life_is_not_waited_for() -> None:
    """Else the restored task would be taken for dead at the first look."""
    looks = [shown("tick 1", exits=DUMPED), shown("tick 1", "tick 2", "tick 3", exits=DUMPED)]
    _, running = _running(*looks)
    seen = running.wait_progress(3, _soon(), exits_before=1)
    assert (seen.ticks, seen.exits) == (3, (9,))


def test_an_end_of_this_life_is_seen_after_those_before_it() -> None:
    _, running = _running(shown("tick 1", exits=DUMPED), shown("tick 1", exits=f"{DUMPED}35 139\n"))
    assert running.wait_progress(3, _soon(), exits_before=1).exits == (9, 139)


def test_without_knowing_of_earlier_lives_their_end_is_the_end() -> None:
    machine, running = _running(shown("tick 1", exits=DUMPED))
    assert running.wait_progress(3, _soon()).exits == (9,)
    assert machine.looks == 1


def test_too_little_progress_is_returned_for_the_caller_to_judge() -> None:
    _, running = _running(shown("tick 1"))
    assert running.wait_progress(3, Deadline.after(0.01, "progress")).ticks == 1


def test_waiting_for_the_end() -> None:
    _, running = _running(shown(), shown(exits="35 9\n"))
    assert running.wait_exit(_soon()) == 9


def test_waiting_for_the_end_of_a_later_life() -> None:
    _, running = _running(shown(exits=DUMPED), shown(exits=f"{DUMPED}35 0\n"))
    assert running.wait_exit(_soon(), exits_before=1) == 0
    _, running = _running(shown(exits=DUMPED))
    with pytest.raises(DeadlineError, match="last seen: still running"):
        running.wait_exit(Deadline.after(0.02, "the end"), exits_before=1)


def test_an_end_that_does_not_come_is_told() -> None:
    _, running = _running(shown())
    with pytest.raises(DeadlineError, match="last seen: still running"):
        running.wait_exit(Deadline.after(0.02, "the end"))


def test_a_workload_without_a_request_says_nothing() -> None:
    machine, running = _running(workload=SLEEPER)
    assert running.verify(_soon()) is None
    assert machine.calls == []
    assert machine.reads == []


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (shown("READY", "tick 1", "PASS 400 frames"), True),
        (shown("READY", "tick 1", "FAIL frame 3: 0x1"), False),
        (shown("READY", "tick 1", "tick 2", "FAIL x", "PASS y"), False),
        (shown("READY", "tick 1", exits="35 139\n"), False),
        (shown("READY", "tick 1", "PASS y", exits="35 0\n"), True),
    ],
)
def test_verification(after: Look, verdict: bool) -> None:  # noqa: FBT001 -- an expected value
    before = shown("READY", "tick 1")
    machine, running = _running(before, before, after)
    assert running.verify(_soon()) is verdict
    assert machine.looks == 3
    (kill,) = machine.called(*NSENTER)
    assert kill.argv[len(NSENTER) :] == ("bash", "-c", "kill -USR1 35")


def test_the_end_of_an_earlier_life_is_no_answer() -> None:
    before = shown("READY", "tick 1", exits=DUMPED)
    _, running = _running(before, before, shown("READY", "tick 1", "PASS y", exits=DUMPED))
    assert running.verify(_soon()) is True
    _, running = _running(before, shown("READY", "tick 1", exits=f"{DUMPED}35 139\n"))
    assert running.verify(_soon()) is False


def test_an_answer_from_before_the_request_does_not_count() -> None:
    old = shown("READY", "PASS of the last cycle")
    _, running = _running(old, old, shown("READY", "PASS of the last cycle", "FAIL now"))
    assert running.verify(_soon()) is False


def test_no_answer_at_all_is_told() -> None:
    _, running = _running(shown("READY"))
    with pytest.raises(DeadlineError, match="last seen: no PASS or FAIL"):
        running.verify(Deadline.after(0.02, "verification"))


def test_the_workloads_that_come_with_the_harness_are_whole() -> None:
    names = available_workloads()
    assert {"python-sleeper", "c-frames"} <= set(names)
    assert list(names) == sorted(names)
    assert [load_workload(name).name for name in names] == list(names)
    assert load_workload("python-sleeper").verify is None
    assert load_workload("c-frames").verify is not None


def test_an_unknown_workload_is_answered_with_the_near_ones() -> None:
    with pytest.raises(UsageError, match=r"^unknown workload 'sleeper'; did you mean python-sleeper"):
        load_workload("sleeper")
