"""What was seen and what it amounts to: the order in which outcomes win, and that each can."""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.outcome import Outcome, Premise
from harness.guest.probe_results import (
    CoreReport,
    CoreThread,
    Frame,
    Signal,
    ThreadsReport,
    ThreadState,
    WatchReport,
    parse,
)
from harness.parsing.kernel_fault import KernelFault, parse_faults
from harness.scenario.fake_observations import CLEAN, DIRTY, MASK, criu, keys, report, survivor, thread
from harness.scenario.observation import Observation, decide

DATA = Path(__file__).parents[1] / "data"
SIGKILL, SIGILL, SIGSEGV, DUMPED_CORE = 9, 4, 11, 0x80
# A core of the real thing: Python on neoverse-v1, killed by a signed PC after a stock restore.
CORE = parse(CoreReport, "core", (DATA / "core-segv-neoverse-v1.json").read_text("utf-8"))
(FPAC,) = parse_faults((DATA / "dmesg-fpac-neoverse-n2.txt").read_text("utf-8"))
(SEGV,) = parse_faults((DATA / "dmesg-segv-neoverse-v1.txt").read_text("utf-8"))


def core(*, pc: int, lr: int, mask: int | None = MASK, name: str = "b") -> CoreReport:
    died = dataclasses.replace(CORE.threads[0], pc=pc, lr=lr, insn_mask=mask, keys=keys(name))
    return dataclasses.replace(CORE, threads=(died,))


SIGNED_DEATH = {"exit_status": SIGSEGV | DUMPED_CORE, "core": core(pc=DIRTY, lr=DIRTY), "fault": SEGV}
FPAC_DEATH = {"exit_status": SIGILL | DUMPED_CORE, "core": core(pc=CLEAN, lr=DIRTY), "fault": FPAC}
# What makes each outcome true, the strongest first (architecture: outcome, prediction, verdict).
# Two causes of one outcome stand beside each other; every later one must not matter to it.
PRECEDENCE: list[tuple[Outcome, dict[str, Any]]] = [
    (
        Outcome.INVALID,
        {"premises": {"libc_protected": Premise(name="libc_protected", declared=True, observed=False)}},
    ),
    (Outcome.DUMP_FAILED, {"dump": criu("dump", 1, "(00.2) Error (criu/x.c:1): no such feature\n")}),
    (Outcome.HUNG, {"restore": criu("restore", None)}),
    (Outcome.SIGNED_PC_FAULT, SIGNED_DEATH),
    (Outcome.RESTORE_REFUSED, {"restore": criu("restore", 1, "(00.2) Error (criu/x.c:1): refused\n")}),
    (Outcome.CRASHED_OTHER, {"exit_status": SIGKILL}),
    (Outcome.STATE_LOST, {"verified": False}),
    (Outcome.SURVIVED, {}),
]
PAIRS = list(itertools.combinations(PRECEDENCE, 2))


@pytest.mark.parametrize(("outcome", "changes"), PRECEDENCE, ids=lambda part: getattr(part, "value", ""))
def test_every_outcome_can_be_reached(outcome: Outcome, changes: dict[str, Any]) -> None:
    found, reason = decide(survivor(**changes))
    assert found is outcome
    assert reason


@pytest.mark.parametrize(
    ("stronger", "weaker"), PAIRS, ids=[f"{one[0].value}-over-{other[0].value}" for one, other in PAIRS]
)
def test_the_stronger_of_two_wins(
    stronger: tuple[Outcome, dict[str, Any]], weaker: tuple[Outcome, dict[str, Any]]
) -> None:
    assert decide(survivor(**{**weaker[1], **stronger[1]}))[0] is stronger[0]


@pytest.mark.parametrize("depth", range(len(PRECEDENCE)))
def test_the_strongest_of_all_wins(depth: int) -> None:
    changes: dict[str, Any] = {}
    for _, part in reversed(PRECEDENCE[depth:]):
        changes |= part
    assert decide(survivor(**changes))[0] is PRECEDENCE[depth][0]


@pytest.mark.parametrize(
    ("changes", "outcome", "why"),
    [
        ({"premises": {}}, Outcome.INVALID, "premise"),
        ({"dump": None}, Outcome.INVALID, "nothing was dumped"),
        ({"restore": None}, Outcome.INVALID, "restore"),
        ({"dump": criu("dump", None)}, Outcome.HUNG, "the dump did not end.*doing things"),
        ({"dump": criu("dump", -9)}, Outcome.DUMP_FAILED, "ended with -9"),
        ({"ticks_after": 12}, Outcome.HUNG, "alive but showed 2 of 3 ticks"),
        ({"ticks_after": 10}, Outcome.HUNG, "0 of 3"),
        ({"ticks_after": 9}, Outcome.HUNG, "-1 of 3"),
        ({"ticks_after": 12, "verified": False}, Outcome.HUNG, "2 of 3"),
        ({"restored": report(thread(35, "b"))}, Outcome.STATE_LOST, "other keys"),
        ({"restored": report(thread(35, enabled_keys=0x1))}, Outcome.STATE_LOST, "enabled keys"),
        ({"verified": None}, Outcome.SURVIVED, "3 ticks"),
        ({"exit_status": 0}, Outcome.CRASHED_OTHER, "ended by itself, wait status 0x0"),
        ({"exit_status": 256}, Outcome.CRASHED_OTHER, "wait status 0x100"),
        ({"exit_status": SIGKILL}, Outcome.CRASHED_OTHER, "died of SIGKILL"),
        ({"exit_status": 40}, Outcome.CRASHED_OTHER, "40"),  # a real-time signal, which has no name
        (
            {"restore": criu("restore", 1), "exit_status": SIGKILL},  # CRIU kills what it gives up
            Outcome.RESTORE_REFUSED,
            "restore ended with 1",
        ),
        ({"restore": criu("restore", 1), "exit_status": 256}, Outcome.RESTORE_REFUSED, "ended with 1"),
        ({"restore": criu("restore", 1), **SIGNED_DEATH}, Outcome.SIGNED_PC_FAULT, "SIGSEGV"),
        ({"restore": criu("restore", 1), **FPAC_DEATH}, Outcome.FPAC_FAULT, "FPAC"),
    ],
)
def test_one_change_decides(changes: dict[str, Any], outcome: Outcome, why: str) -> None:
    found, reason = decide(survivor(**changes))
    assert found is outcome
    assert re.search(why, reason)


@pytest.mark.parametrize(("declared", "observed"), [(True, False), (False, True), (True, None), (None, True)])
def test_a_premise_not_seen_as_declared_is_named(declared: bool | None, observed: bool | None) -> None:  # noqa: FBT001 -- three-valued
    broken = Premise(name="keys_change", declared=declared, observed=observed)
    word = {True: "yes", False: "no", None: "not seen"}
    found, reason = decide(survivor(premises={"keys_change": broken}))
    assert found is Outcome.INVALID
    assert f"keys_change: declared {word[declared]}, observed {word[observed]}" in reason


def test_without_a_carrier_lost_keys_are_no_lost_state() -> None:
    """A program that signs nothing lives on with other keys: that is the unprotected control."""
    seen = survivor(carrier=False, restored=report(thread(35, "b", enabled_keys=0x1)))
    assert decide(seen)[0] is Outcome.SURVIVED


@pytest.mark.parametrize(
    "restored",
    [
        None,
        report(),
        report(thread(35, None)),
        report(thread(35), thread(36)),  # a thread that was not dumped
    ],
)
def test_keys_that_were_not_read_are_no_proof_of_their_carrier(restored: ThreadsReport | None) -> None:
    outcome, reason = decide(survivor(restored=restored))
    assert outcome is Outcome.INVALID
    assert reason == "alive, but the keys of the restored task were not read"
    assert decide(survivor(restored=restored, carrier=False))[0] is Outcome.SURVIVED


def test_a_workload_that_says_fail_is_believed_whether_keys_were_read_or_not() -> None:
    assert decide(survivor(restored=None, verified=False))[0] is Outcome.STATE_LOST


def test_a_carrier_has_nothing_to_carry_where_there_are_no_keys() -> None:
    without = report(thread(35, None, insn_mask=None, data_mask=None, enabled_keys=None))
    assert decide(survivor(held=without, restored=without))[0] is Outcome.SURVIVED


def test_without_a_premise_nothing_is_judged_whatever_was_seen() -> None:
    for _, changes in PRECEDENCE[1:]:
        assert decide(survivor(**changes, premises={})) == (Outcome.INVALID, "no premise was observed")


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        (FPAC_DEATH, Outcome.FPAC_FAULT),
        ({**FPAC_DEATH, "fault": None}, Outcome.CRASHED_OTHER),
        ({**FPAC_DEATH, "fault": SEGV}, Outcome.CRASHED_OTHER),
        ({**FPAC_DEATH, "exit_status": SIGSEGV}, Outcome.CRASHED_OTHER),
        ({**FPAC_DEATH, "core": None}, Outcome.CRASHED_OTHER),  # nobody saw whose code it was
        (SIGNED_DEATH, Outcome.SIGNED_PC_FAULT),
        ({**SIGNED_DEATH, "fault": None}, Outcome.SIGNED_PC_FAULT),
        ({**SIGNED_DEATH, "core": core(pc=CLEAN, lr=CLEAN)}, Outcome.CRASHED_OTHER),
        # Any fault between a prologue and its first call has a signed LR.
        ({**SIGNED_DEATH, "core": core(pc=CLEAN, lr=DIRTY)}, Outcome.CRASHED_OTHER),
        # A target without PAC knows no code bits; the source, where the address was signed, does.
        ({**SIGNED_DEATH, "core": core(pc=DIRTY, lr=DIRTY, mask=None)}, Outcome.SIGNED_PC_FAULT),
        (
            {
                **SIGNED_DEATH,
                "core": core(pc=DIRTY, lr=DIRTY, mask=None),
                "held": report(thread(35, insn_mask=None, data_mask=None)),
            },
            Outcome.CRASHED_OTHER,
        ),
        ({**SIGNED_DEATH, "core": core(pc=DIRTY, lr=DIRTY, mask=0x70_0000 << 32)}, Outcome.SIGNED_PC_FAULT),
        # What an engine says of a task that died at once; nobody leaves a core at SIGKILL.
        ({**SIGNED_DEATH, "exit_status": SIGKILL}, Outcome.SIGNED_PC_FAULT),
        ({**SIGNED_DEATH, "core": None}, Outcome.CRASHED_OTHER),
        ({**SIGNED_DEATH, "core": None, "fault": None}, Outcome.CRASHED_OTHER),
    ],
)
def test_how_it_died(changes: dict[str, Any], outcome: Outcome) -> None:
    assert decide(survivor(restored=None, **changes))[0] is outcome


def test_a_dirty_lr_is_enough_where_the_fetch_failed() -> None:
    dead = core(pc=CLEAN, lr=DIRTY)
    fetched = dataclasses.replace(dead, siginfo=Signal(signo=11, code=1, addr=CLEAN))
    assert decide(survivor(**{**SIGNED_DEATH, "core": fetched}, restored=None))[0] is Outcome.SIGNED_PC_FAULT


@pytest.mark.parametrize(
    ("code", "addr", "outcome"),
    [
        (2, CLEAN, Outcome.FPAC_FAULT),
        (1, CLEAN, Outcome.CRASHED_OTHER),  # an undefined instruction
        (2, DIRTY, Outcome.CRASHED_OTHER),
    ],
)
def test_siginfo_tells_a_trap_of_a_thread_whose_lines_in_the_log_are_torn(
    code: int, addr: int, outcome: Outcome
) -> None:
    signal = Signal(signo=SIGILL, code=code, addr=addr)
    dead = dataclasses.replace(core(pc=CLEAN, lr=DIRTY), signal=SIGILL, siginfo=signal)
    seen = survivor(**{**FPAC_DEATH, "core": dead, "fault": None}, restored=None)
    assert decide(seen)[0] is outcome


def test_a_fault_of_crius_restorer_is_not_the_tasks() -> None:
    dead = core(pc=DIRTY, lr=DIRTY)
    thread = dataclasses.replace(dead.threads[0], pc_mapping="10000-30000 r-xp 0 00:00 0", lr_mapping=None)
    elsewhere = dataclasses.replace(dead, threads=(thread,))
    outcome, reason = decide(survivor(**{**SIGNED_DEATH, "core": elsewhere}, restored=None))
    assert outcome is Outcome.CRASHED_OTHER
    assert "outside the code it was dumped with" in reason


GIVEN_UP = {"restore": criu("restore", 1), "core": None, "exit_status": SIGKILL, "restored": None}


def test_a_death_that_criu_cut_short_is_told_by_the_kernel_s_log() -> None:
    """CRIU kills what it gives up: a task that is dying of a signed PC then leaves no core."""
    assert SEGV.pc is not None
    returns = Frame(address=16, lr=SEGV.pc, stripped=SEGV.pc & ~MASK, signed=True)
    held = report(thread(35, frames=(returns,)))
    seen = survivor(**GIVEN_UP, fault=SEGV, held=held)
    outcome, reason = decide(seen)
    assert outcome is Outcome.SIGNED_PC_FAULT
    assert "by the kernel's log; then " in reason
    assert seen.signal == "SIGSEGV"
    clean = dataclasses.replace(SEGV, pc=CLEAN, lr=CLEAN)
    assert decide(survivor(**GIVEN_UP, fault=clean, held=held))[0] is Outcome.RESTORE_REFUSED
    assert decide(survivor(**GIVEN_UP, fault=None, held=held))[0] is Outcome.RESTORE_REFUSED
    elsewhere = report(thread(35, frames=()))
    assert decide(survivor(**GIVEN_UP, fault=SEGV, held=elsewhere))[0] is Outcome.RESTORE_REFUSED


def test_the_real_death() -> None:
    seen = survivor(core=CORE, fault=SEGV, exit_status=139, restored=None)
    outcome, reason = decide(seen)
    assert outcome is Outcome.SIGNED_PC_FAULT
    assert reason == "SIGSEGV with PAC bits left in PC: pc 0x0069ffffb754e4dc, lr 0x0069ffffb754e4dc"
    assert seen.registers().pac_bits == 0x0069000000000000


@pytest.mark.parametrize(
    ("pc", "lr", "register", "bits"),
    [
        (DIRTY, DIRTY, "pc", 0x0069000000000000),
        (DIRTY, CLEAN, "pc", 0x0069000000000000),
        (CLEAN, DIRTY, "lr", 0x0069000000000000),
        (CLEAN, CLEAN, None, None),
        (CLEAN | 0xFF << 56, CLEAN, None, None),  # tag bits are no authentication code
    ],
)
def test_the_program_counter_is_looked_at_before_the_link_register(
    pc: int, lr: int, register: str | None, bits: int | None
) -> None:
    seen = survivor(core=core(pc=pc, lr=lr), exit_status=SIGSEGV)
    found = seen.registers()
    assert (found.pc, found.lr, found.pac_mask) == (pc, lr, MASK)
    assert (found.pac_register, found.pac_bits) == (register, bits)


def test_a_live_task_has_a_mask_and_no_judged_registers() -> None:
    found = survivor().registers()
    assert (found.pc, found.lr, found.pac_mask, found.pac_register) == (None, None, MASK, None)
    assert Observation().registers().pac_mask is None


@pytest.mark.parametrize(
    ("status", "name"),
    [(None, None), (0, None), (256, None), (139, "SIGSEGV"), (11, "SIGSEGV"), (132, "SIGILL")],
)
def test_the_signal_of_a_wait_status(status: int | None, name: str | None) -> None:
    assert survivor(exit_status=status).signal == name


@pytest.mark.parametrize(
    ("before", "after", "equal"),
    [
        ([thread(35)], [thread(35)], True),
        ([thread(35)], [thread(35, "b")], False),
        ([thread(35), thread(36, "c")], [thread(36, "c"), thread(35)], True),
        ([thread(35), thread(36, "c")], [thread(35), thread(36)], False),  # the leader's keys for all
        ([thread(35), thread(36)], [thread(35)], None),
        ([thread(35)], [thread(35), thread(36)], None),
        ([thread(35)], [thread(36)], None),
        ([thread(35, None)], [thread(35)], None),
        ([thread(35)], [thread(35, None)], None),
        ([thread(35), thread(36)], [thread(35, "b"), thread(36, None)], None),
        ([], [], None),
    ],
)
def test_keys_are_compared_thread_by_thread(
    before: list[ThreadState],
    after: list[ThreadState],
    equal: bool | None,  # noqa: FBT001 -- three-valued
) -> None:
    assert survivor(held=report(*before), restored=report(*after)).keys_equal() is equal


def test_one_key_of_five_is_enough_to_differ() -> None:
    other = dataclasses.replace(keys("a"), db="b")
    seen = survivor(restored=report(dataclasses.replace(thread(35), keys=other)))
    assert seen.keys_equal() is False


def test_a_dead_tasks_keys_come_from_its_core() -> None:
    dead = {"exit_status": 139, "restored": None, "fault": SEGV}
    assert survivor(core=core(pc=DIRTY, lr=DIRTY, name="b"), **dead).keys_equal() is False
    assert survivor(core=core(pc=DIRTY, lr=DIRTY, name="a"), **dead).keys_equal() is True
    assert survivor(core=None, **dead).keys_equal() is None
    assert Observation().keys_equal() is None


def test_masks_are_compared_thread_by_thread() -> None:
    assert survivor().masks_equal() is True
    assert survivor(restored=report(thread(35, enabled_keys=0x3))).masks_equal() is False
    assert survivor(restored=report()).masks_equal() is False
    assert survivor(restored=None).masks_equal() is None
    off = survivor(auth_off=True, restored=report(thread(35, enabled_keys=0)))
    assert off.masks_equal() is True
    assert survivor(auth_off=True).masks_equal() is False, "it still authenticates"


def frame(address: int, lr: int, *, signed: bool = True) -> Frame:
    return Frame(address=address, lr=lr, stripped=lr & ~MASK, signed=signed)


def test_only_distinct_signed_frames_that_were_returned_through_count() -> None:
    start = tuple(frame(16 * number, DIRTY) for number in range(9))
    returned = (frame(16, DIRTY), frame(16, DIRTY), frame(32, DIRTY), frame(48, CLEAN, signed=False))
    watch = WatchReport(
        insn_mask=MASK,
        data_mask=MASK,
        enabled_keys=0xF,
        keys=None,
        pid=35,
        start=start,
        returned=returned,
        stops=3,
        writes=1,
        ended="ticks",
    )
    assert survivor(rehearsal=watch).frames == 2
    assert survivor(rehearsal=None).frames == 0


def test_samples_are_what_they_should_be() -> None:
    assert isinstance(FPAC, KernelFault)
    assert FPAC.is_fpac
    assert not SEGV.is_fpac
    assert isinstance(CORE.threads[0], CoreThread)
    assert SEGV.pid == CORE.pid
    assert SEGV.pc == CORE.threads[0].pc == DIRTY
