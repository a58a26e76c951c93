"""criu-pac repro with a lab that runs nothing: what is printed and written, and how Ctrl-C ends it."""

import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import typer

from harness import cli
from harness.catalogue.bases import BASES
from harness.catalogue.bases import base as base_named
from harness.catalogue.outcome import Outcome
from harness.cli import backend, parallel, repro, session
from harness.core import steps
from harness.core.errors import MachineError, NetworkError, UsageError
from harness.machines import native
from harness.machines.capacity import machines_at_once
from harness.provision.fetch import Fetcher
from harness.provision.prepared_base import ImageKind, PreparedBase, Route
from harness.reporting.jsonl import read_results
from harness.scenario.arms import Arm
from harness.scenario.fake_results import arms, result
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult


@dataclass(slots=True, kw_only=True)
class FakeLab:
    """A lab whose arms give what ``outcomes`` says, or wait for the lab's end in ``hanging`` arms."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    hanging: bool = False
    qemu_version: str = "11.1.3"
    options: list[RunOptions] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)
    signalled: threading.Event | None = None  # every signal of the test has been sent

    def manifest(self) -> dict[str, Any]:
        return {"qemu": self.qemu_version}

    def close(self) -> None:
        if self.signalled:
            # A signal that comes after the end of the command is not the command's.
            assert self.signalled.wait(10)
        self.closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, arm: Arm, options: RunOptions) -> ScenarioResult:
        self.options.append(options)
        with steps.step(arm.name):
            if self.hanging:
                self.busy.set()
                assert self.closed.wait(10)
                raise MachineError("the command is ending")
            return result(arm, self.outcomes.get(arm.name))


def _prepared(name: str) -> PreparedBase:
    return PreparedBase(
        base=BASES[name],
        route=Route.PACKAGES,
        image_archive=Path("root.tar"),
        kind=ImageKind.IMPORT,
        python_layer=None,
        notes=("of packages",),
        digest="d" * 32,
    )


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    fake = FakeLab()
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def choose(name: str, _provision: object) -> tuple[PreparedBase, str]:
        chosen = _prepared("debian-13" if name == "auto" else base_named(name).name)
        return chosen, chosen.notes[0]

    monkeypatch.setattr(native, "is_aarch64", lambda: False)  # else this host would be the machine
    monkeypatch.setattr(backend, "open_lab", lambda _provision, _qemu: fake)
    monkeypatch.setattr(backend, "choose_base", choose)
    monkeypatch.setattr(backend, "prepare_base", lambda base, _provision: _prepared(base.name))
    monkeypatch.setattr(backend, "run_arm", lambda arm, _base, lab, options: lab.run(arm, options))
    return fake


def test_a_reproduced_bug_is_a_table_a_sentence_and_zero(
    lab: FakeLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["repro", "--results", "out", "--timeout", "90"]) == 0
    out, err = capsys.readouterr()
    assert "signed_pc_fault" in out
    assert "the cure works" in " ".join(out.split())
    assert f"results and evidence: {tmp_path / 'out'}" in err
    assert any(line.endswith(" s  stock") for line in err.splitlines())
    records = read_results(tmp_path / "out" / "results.jsonl")
    assert sorted(record["arm"] for record in records) == ["pac-key-module", "stock"]
    assert {options.timeout for options in lab.options} == {90.0}
    assert lab.closed.is_set()


def test_the_record_repeats_the_run_without_choices_left(lab: FakeLab, tmp_path: Path) -> None:
    assert cli.main(["repro", "--results", "out", "--control"]) == 0
    command = (tmp_path / "out" / "command.txt").read_text().strip()
    assert command == (
        "criu-pac repro --cpu neoverse-v1 --kernel 6.1 --criu 3.17.1 --base debian-13 "
        "--workload python-sleeper --driver criu --timeout 120 --control"
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["used"]["qemu"] == "11.1.3"
    assert sorted(manifest["used"]["bases"]) == ["debian-12", "debian-13"]
    assert {options.command for options in lab.options} == {command}
    assert cli.main([*shlex.split(command)[1:], "--results", "again"]) == 0
    assert (tmp_path / "again" / "command.txt").read_text().strip() == command


@pytest.mark.usefixtures("lab")
def test_without_results_every_run_has_a_directory_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        assert cli.main(["repro"]) == 0
    made = sorted((tmp_path / "criu-pac-results").iterdir())
    assert len(made) == 2
    assert all((path / "results.jsonl").is_file() for path in made)


@pytest.mark.parametrize(
    ("outcomes", "arguments", "code", "told"),
    [
        ({"stock": Outcome.SURVIVED}, [], 1, "The bug did not appear."),
        ({"stock": Outcome.INVALID}, [], 3, "The arm stock proves nothing"),
        ({}, ["--cpu", "neoverse-n1"], 3, "This cell cannot show the bug"),
    ],
)
def test_other_results_have_their_codes(
    lab: FakeLab,
    outcomes: dict[str, Outcome],
    arguments: list[str],
    code: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lab.outcomes = outcomes
    assert cli.main(["repro", *arguments]) == code
    assert told in " ".join(capsys.readouterr().out.split())


def test_an_unfinished_arm_is_an_error_line(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.outcomes = {"pac-key-module": Outcome.INFRA_ERROR}
    assert cli.main(["repro"]) == 2
    out, err = capsys.readouterr()
    assert "infra_error" in out
    assert err.splitlines()[-1] == (
        "criu-pac: error: The harness could not finish the arm pac-key-module: "
        "the reason of pac-key-module.; exit code 2"
    )


def test_what_an_arm_raises_ends_the_command(lab: FakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> ScenarioResult:
        raise UsageError("not built yet")

    monkeypatch.setattr(backend, "run_arm", refuse)
    assert cli.main(["repro"]) == 64
    assert lab.closed.is_set()


def _when(event: threading.Event, number: int, lab: FakeLab) -> threading.Thread:
    """Send this process a signal, twice, as soon as ``event`` is set and before the lab is closed."""
    signalled = lab.signalled = threading.Event()

    def send() -> None:
        assert event.wait(10)
        for _ in range(2):  # as when the terminal and a parent both send it
            os.kill(os.getpid(), number)
        signalled.set()

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def _arm_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in {"stock", "pac-key-module"}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_closes_the_lab_and_leaves_no_thread(
    lab: FakeLab, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.hanging = True
    before = signal.getsignal(number)
    sender = _when(lab.busy, number, lab)
    assert cli.main(["repro", "--results", "out"]) == 130
    sender.join(5)
    assert lab.closed.is_set()
    assert _arm_threads() == []
    assert signal.getsignal(number) is before
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "criu-pac: error: interrupted; exit code 130"
    assert "Traceback" not in err
    assert (tmp_path / "out" / "command.txt").exists()
    assert not (tmp_path / "out" / "results.jsonl").exists()


class Starting(threading.Event):
    """A thread's mark of having started, set late; who waits for it is interrupted meanwhile."""

    def wait(self, timeout: float | None = None) -> bool:
        signal.raise_signal(signal.SIGINT)
        return super().wait(timeout)

    def set(self) -> None:
        time.sleep(0.05)
        super().set()


def test_an_interrupt_while_a_thread_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    over: list[str] = []

    def run(arm: Arm) -> ScenarioResult:
        over.append(arm.name)
        return result(arm)

    running = parallel.ParallelArms(arms(control=False), run, lambda: None, at_once=2)
    for thread in running._threads:
        monkeypatch.setattr(thread, "_started", Starting())
    with pytest.raises(KeyboardInterrupt), session.session(0), running:
        list(running.results())
    assert [thread.name for thread in running._threads if thread.is_alive()] == []
    assert _arm_threads() == []


def test_a_held_interrupt_comes_at_the_end_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []

    def work() -> None:
        with session.held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")
        reached.append("what follows")

    with session.session(0):
        with pytest.raises(KeyboardInterrupt):
            work()
        with session.held():
            pass
    assert reached == ["the end"]


def test_ctrl_c_ends_downloads_too(lab: FakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An arm that makes its template may be waiting for an archive that keeps silent."""
    cancelled = threading.Event()
    monkeypatch.setattr(Fetcher, "cancel", lambda _fetcher: cancelled.set())

    def download(*_: object) -> ScenarioResult:
        lab.busy.set()
        assert cancelled.wait(10)
        raise NetworkError("the downloads were cancelled")

    monkeypatch.setattr(backend, "run_arm", download)
    sender = _when(lab.busy, signal.SIGINT, lab)
    assert cli.main(["repro"]) == 130
    sender.join(5)
    assert cancelled.is_set()
    assert _arm_threads() == []


def test_kept_machines_stay_until_ctrl_c_and_the_result_stays_the_result(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = threading.Event()
    seen: list[list[str]] = []

    def sleep(seconds: float) -> None:
        seen.append(sorted(_arm_threads()))
        assert not lab.closed.is_set()
        waiting.set()
        time.sleep(seconds)

    monkeypatch.setattr(repro, "time", SimpleNamespace(sleep=sleep))
    sender = _when(waiting, signal.SIGINT, lab)
    assert cli.main(["repro", "--keep"]) == 0
    sender.join(5)
    # A machine dies with the thread that started it, so the threads of finished arms are still there.
    assert seen[0] == ["pac-key-module", "stock"]
    assert _arm_threads() == []
    assert lab.closed.is_set()
    assert "the machines are kept; Ctrl-C ends them" in capsys.readouterr().err


def test_ctrl_c_as_soon_as_the_machines_are_said_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def echo(text: str, *, err: bool) -> None:
        assert err
        told.append(text)
        if len(told) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(typer, "echo", echo)
    repro._wait_for_interrupt("kept")
    assert told == ["kept", ""]


def _run_all(run: Callable[[Arm], ScenarioResult], *, at_once: int) -> list[str]:
    with parallel.ParallelArms(arms(control=True), run, lambda: None, at_once=at_once) as running:
        return [one.arm for one in running.results()]


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_arms_run_at_once_than_allowed(at_once: int) -> None:
    running, most = [], 0
    mutex = threading.Lock()

    def run(arm: Arm) -> ScenarioResult:
        nonlocal most
        with mutex:
            running.append(arm)
            most = max(most, len(running))
        time.sleep(0.005)
        with mutex:
            running.remove(arm)
        return result(arm)

    assert sorted(_run_all(run, at_once=at_once)) == sorted(arm.name for arm in arms(control=True))
    assert most <= at_once


def test_an_arm_that_waits_for_its_turn_does_not_start_after_the_end() -> None:
    started: list[str] = []
    ended = threading.Event()

    def run(arm: Arm) -> ScenarioResult:
        started.append(arm.name)
        if len(started) > 1:
            assert ended.wait(5)
        return result(arm)

    def interrupted() -> None:
        with parallel.ParallelArms(arms(control=True), run, ended.set, at_once=1) as running:
            for _ in running.results():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert 1 <= len(started) <= 2


def test_parallelism_is_bounded_by_cores_and_arms() -> None:
    assert parallel.default_parallelism(1) == 1
    assert parallel.default_parallelism(1000) == machines_at_once()
