"""What a scenario rests on is observed: every premise can be seen, not seen, and seen otherwise."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from harness.catalogue.cpus import CPUS
from harness.catalogue.kernels import KERNELS
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule, MachineSpec, Scenario
from harness.core.deadline import Deadline
from harness.core.errors import MachineError
from harness.guest.container import Container
from harness.guest.probe import PROBE
from harness.guest.probe_results import KeyFingerprints, MachineFacts, ThreadsReport, parse
from harness.guest.workload import RunningWorkload
from harness.machines.fake import FakeMachine
from harness.machines.qemu import QemuMachine
from harness.scenario.fake_results import C_FRAMES, SLEEPER, arms
from harness.scenario.observation import Observation, decide
from harness.scenario.premises import PremiseObserver, declare_keys_change, is_cpu, is_kernel
from harness.scenario.site import Site

IN_CONTAINER = ("nsenter", "-t", "412", "-a", "--", PROBE)
MASK = "0x007f000000000000"
PYTHON, LIBC = "/usr/bin/python3.13", "/usr/lib/aarch64-linux-gnu/libc.so.6"
MAPS = f"""\
00400000-00a3c000 r-xp 00000000 00:21 318   {PYTHON}
ffffb7490000-ffffb762c000 r-xp 00000000 00:21 635   {LIBC}
"""
FACTS = {
    "control fresh keys": "signal 11",
    "control own keys": "alive",
    f"protected {PYTHON}": "True",
    f"protected {LIBC}": "True",
}
STOCK, MODULE, NO_PAC, UNPROTECTED = (arm.scenario for arm in arms(control=True))


def keys_json(name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    return {**dict.fromkeys(("fingerprint", "ia", "ib", "da", "db"), name), "ga": None}


def pac_json(name: str | None) -> dict[str, Any]:
    mask = MASK if name else None
    enabled = "0x000000000000000f" if name else None
    return {"insn_mask": mask, "data_mask": mask, "enabled_keys": enabled, "keys": keys_json(name)}


def machine_json(*, paca: bool, signed_lr: bool) -> str:
    facts = pac_json("a" if paca else None)
    del facts["keys"]
    facts |= {"hwcap": "0x00000000cfffffff", "hwcap2": MASK, "paca": paca, "pacg": paca, "apa": 0, "api": 3}
    facts |= {
        "apa3": 0,
        "algorithm": "impdef" if paca else "none",
        "fpac": False,
        "midr": MASK,
        "page_size": 4096,
    }
    return json.dumps(facts | {"keys_readable": paca, "signed_lr": signed_lr, "release": "6.1.0"})


def threads_json(name: str | None, others: Sequence[bool] = ()) -> str:
    """Return one thread without frames, and one of each other process: with a signed frame or without."""
    zero = "0x0000000000000000"
    thread = {
        "tid": 435,
        "nstid": 35,
        "nspid": 35,
        "state": "S",
        **dict.fromkeys(("pc", "lr", "sp", "pstate", "fp"), zero),
    }
    thread |= {**pac_json(name), "frames": [], "records": 3, "unsigned_returns": 0}
    frame = {"address": zero, "lr": MASK, "stripped": zero, "signed": True}
    more = [
        {**thread, "tid": 436 + at, "nstid": 36 + at, "nspid": 36 + at, "frames": [frame] * signs}
        for at, signs in enumerate(others)
    ]
    return json.dumps({"pid": 35, "threads": [thread, *more], "zombies": []})


def watch_json(frames: int) -> str:
    returned = [
        {"address": f"0x{16 * at:016x}", "lr": MASK, "stripped": "0x0000000000000000", "signed": True}
        for at in range(frames)
    ]
    watch = {"pid": 35, "start": returned, "returned": returned, "stops": 9, "writes": 1, "ended": "ticks"}
    return json.dumps({**watch, **pac_json(None)})


def guest(
    *,
    paca: bool = True,
    signed_lr: bool = True,
    held: str | None = "a",
    fresh: str | None = "f",
    frames: int = 3,
) -> FakeMachine:
    machine = FakeMachine()
    machine.answer((*IN_CONTAINER, "machine"), machine_json(paca=paca, signed_lr=signed_lr))
    machine.answer((*IN_CONTAINER, "fresh"), json.dumps(pac_json(fresh)))
    machine.answer((*IN_CONTAINER, "threads"), threads_json(held))
    machine.answer((*IN_CONTAINER, "watch"), watch_json(frames))
    machine.files["/proc/412/root/proc/35/maps"] = MAPS.encode()
    return machine


def observe(scenario: Scenario, machine: FakeMachine, **facts: str) -> Observation:
    """Return what the whole observation of ``scenario`` sees, with the template's facts changed."""
    seen, container = Observation(), Container(machine, "412")
    soon = Deadline.after(30, "observing the premises")
    known = FACTS | {name.replace("_", " "): value for name, value in facts.items()}
    site = Site(machine=cast("QemuMachine", machine), container=container, facts=known)
    observer = PremiseObserver(scenario, seen)
    observer.observe_source(site, soon)
    observer.observe_target(site, soon)
    running = RunningWorkload(container=container, workload=scenario.workload, pid=35)
    observer.observe_workload(running, site, soon)
    return seen


def observed(seen: Observation) -> dict[str, bool | None]:
    return {name: premise.observed for name, premise in seen.premises.items()}


ALL = (
    *(f"{side}_{what}" for side in ("source", "target") for what in ("pac", "kernel", "cpu", "control")),
    *("interpreter_protected", "libc_protected", "signed_frames_live", "chance_excluded", "keys_change"),
)


def test_every_premise_of_the_bug_is_seen() -> None:
    seen = observe(STOCK, guest())
    assert observed(seen) == dict.fromkeys(ALL, True)
    assert all(premise.holds for premise in seen.premises.values())
    assert seen.fresh is not None
    assert (seen.fresh.fingerprint, seen.frames) == ("f", 3)


def test_a_control_without_pac_proves_that_there_is_none() -> None:
    machine = guest(paca=False, signed_lr=False, held=None, fresh=None, frames=0)
    seen = observe(NO_PAC, machine, control_fresh_keys="no keys", control_own_keys="no keys")
    assert [name for name, premise in seen.premises.items() if not premise.holds] == []
    assert (seen.premises["source_pac"].observed, seen.premises["keys_change"].observed) == (False, None)


@pytest.mark.parametrize("scenario", [STOCK, NO_PAC], ids=["stock", "control-no-pac"])
@pytest.mark.parametrize(("paca", "signed_lr"), [(True, False), (False, True)])
def test_hwcap_and_instructions_that_disagree_prove_nothing(
    scenario: Scenario,
    *,
    paca: bool,
    signed_lr: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = observe(scenario, guest(paca=paca, signed_lr=signed_lr))
    for name in ("source_pac", "target_pac"):
        assert seen.premises[name].observed is None
        assert not seen.premises[name].holds
    assert f"HWCAP_PACA is {paca} but signing changes a pointer: {signed_lr}" in caplog.text


@pytest.mark.parametrize(("scenario", "pac"), [(STOCK, False), (NO_PAC, True)])
def test_a_machine_other_than_declared_is_invalid(scenario: Scenario, *, pac: bool) -> None:
    seen = observe(scenario, guest(paca=pac, signed_lr=pac))
    assert seen.premises["source_pac"].observed is pac
    outcome, reason = decide(seen)
    assert outcome is Outcome.INVALID
    assert "source_pac" in reason


@pytest.mark.parametrize(
    ("scenario", "fresh", "own", "holds"),
    [
        (STOCK, "signal 11", "alive", True),  # SIGSEGV: a signed PC
        (STOCK, "signal 4", "alive", False),  # SIGILL is FPAC, which neoverse-v1 has not
        (STOCK, "stuck", "alive", False),
        (STOCK, "signal 11", "stuck", False),
        (STOCK, "alive", "alive", False),  # fresh keys must kill
        (STOCK, "signal 9", "alive", False),
        (STOCK, "signal 0", "alive", False),  # it ended by itself
        (STOCK, "signal 11", "signal 11", False),  # its own keys must not
        (STOCK, "signal 11", "no keys", False),
        (STOCK, "no keys", "no keys", False),
        (UNPROTECTED, "alive", "alive", True),
        (UNPROTECTED, "signal 11", "alive", False),
        (UNPROTECTED, "alive", "signal 11", False),
        (UNPROTECTED, "no keys", "no keys", False),
        (NO_PAC, "no keys", "no keys", True),
        (NO_PAC, "alive", "alive", False),
        (NO_PAC, "signal 11", "alive", False),
    ],
)
def test_the_positive_control(scenario: Scenario, fresh: str, own: str, *, holds: bool) -> None:
    seen = observe(scenario, guest(), control_fresh_keys=fresh, control_own_keys=own)
    for side in ("source", "target"):
        control = seen.premises[f"{side}_control"]
        assert (control.declared, control.observed, control.holds) == (True, holds, holds)


@pytest.mark.parametrize(("protected", "found"), [("True", True), ("False", False), ("", None)])
@pytest.mark.parametrize(("path", "name"), [(PYTHON, "interpreter_protected"), (LIBC, "libc_protected")])
def test_protection_is_that_of_the_file_mapped(
    path: str, name: str, protected: str, *, found: bool | None
) -> None:
    seen = observe(STOCK, guest(), **{f"protected {path}": protected})
    assert seen.premises[name].observed is found
    others = {"interpreter_protected", "libc_protected"} - {name}
    assert [seen.premises[other].observed for other in others] == [True]


@pytest.mark.parametrize(
    "maps", ["", "damaged", MAPS.replace("python3.13", "python3.12").replace("so.6", "so.7")]
)
def test_a_file_that_nobody_scanned_is_not_known_to_be_protected(maps: str) -> None:
    machine = guest()
    machine.files["/proc/412/root/proc/35/maps"] = maps.encode()
    seen = observe(STOCK, machine)
    assert seen.premises["interpreter_protected"].observed is None
    assert seen.premises["libc_protected"].observed is None


def test_maps_that_cannot_be_read_are_an_error_of_the_machine() -> None:
    machine = guest()
    machine.files.clear()
    with pytest.raises(MachineError, match="maps"):
        observe(STOCK, machine)


@pytest.mark.parametrize(("frames", "live"), [(0, False), (1, None), (9, None), (10, True), (11, True)])
def test_fewer_frames_than_promised_are_neither_live_nor_none(frames: int, live: bool | None) -> None:  # noqa: FBT001 -- three-valued
    workload = dataclasses.replace(C_FRAMES, min_frames=10)
    seen = observe(dataclasses.replace(STOCK, workload=workload), guest(frames=frames))
    assert seen.premises["signed_frames_live"].observed is live


@pytest.mark.parametrize(
    ("frames", "others", "live"),
    [
        (3, [True, True], True),
        (3, [True, False], None),
        (0, [False, False], False),
        (0, [False, True], None),
    ],
)
def test_every_other_process_has_to_sign_as_the_started_one_does(
    frames: int,
    others: list[bool],
    live: bool | None,  # noqa: FBT001 -- three-valued
) -> None:
    machine = guest(frames=frames)
    machine.answer((*IN_CONTAINER, "threads"), threads_json("a", others))
    assert observe(STOCK, machine).premises["signed_frames_live"].observed is live


def test_a_control_that_signs_nothing_must_have_no_signed_frame() -> None:
    assert UNPROTECTED.workload is SLEEPER
    facts = {f"protected {PYTHON}": "False", f"protected {LIBC}": "False", "control_fresh_keys": "alive"}
    assert all(one.holds for one in observe(UNPROTECTED, guest(frames=0), **facts).premises.values())
    seen = observe(UNPROTECTED, guest(frames=1), **facts)
    assert [name for name, one in seen.premises.items() if not one.holds] == ["signed_frames_live"]


@pytest.mark.parametrize(("frames", "excluded"), [(0, None), (1, False), (2, False), (3, True)])
def test_too_few_frames_do_not_exclude_chance(frames: int, *, excluded: bool | None) -> None:
    """Three codes of seven bits are right by chance once in two million times."""
    seen = observe(STOCK, guest(frames=frames))
    assert seen.premises["chance_excluded"].observed is excluded


def facts_of(**changes: Any) -> MachineFacts:
    found = parse(MachineFacts, "machine", machine_json(paca=True, signed_lr=True))
    return dataclasses.replace(found, **changes)


def test_the_cpu_is_the_one_of_the_catalogue() -> None:
    v1 = STOCK.source
    assert is_cpu(facts_of(), v1) is True
    assert is_cpu(facts_of(algorithm=None), v1) is None, "a kernel that hides ID registers"
    assert is_cpu(facts_of(algorithm="qarma5"), v1) is False
    assert is_cpu(facts_of(fpac=True), v1) is False
    assert is_cpu(facts_of(insn_mask=0x0070_0000_0000_0000), v1) is False
    wide = MachineSpec(cpu=CPUS["max"], kernel=KERNELS["6.12"])
    assert is_cpu(facts_of(fpac=True, insn_mask=0x0070_0000_0000_0000), wide) is True
    assert is_cpu(facts_of(fpac=True), wide) is False


def test_a_kernel_is_told_by_its_series_and_not_by_the_beginning_of_its_number() -> None:
    six = KERNELS["6.1"]
    assert is_kernel("6.1.0-50-cloud-arm64", six)
    assert is_kernel("6.1-rc1", six)
    assert not is_kernel("6.12.117+deb13-cloud-arm64", six)


def keys(name: str) -> KeyFingerprints:
    return KeyFingerprints(fingerprint=name, ia=name, ib=name, da=name, db=name, ga=None)


def task(*names: str | None) -> ThreadsReport:
    """Return a task whose threads have the keys of these names, None for unread ones."""
    (stopped,) = parse(ThreadsReport, "threads", threads_json("a")).threads
    threads = [
        dataclasses.replace(stopped, nstid=35 + at, keys=keys(name) if name else None)
        for at, name in enumerate(names)
    ]
    return ThreadsReport(pid=35, threads=tuple(threads))


@pytest.mark.parametrize(
    ("held", "fresh", "restored", "without_carrier", "with_carrier"),
    [
        # Before the restore only a fresh exec can tell.
        (task("a"), "f", None, True, True),
        (task("a"), "a", None, False, False),
        (task("a", "b"), "b", None, False, False),  # one thread is enough
        (task("a"), None, None, None, None),
        (task(None), "f", None, None, None),
        (None, "f", None, None, None),
        (task(), "f", None, None, None),
        # After it the restored task can, where nothing carried its keys.
        (task("a"), "f", task("b"), True, True),
        (task("a"), "f", task("a"), False, True),
        (task("a"), "f", task(None), None, True),
        (task("a"), "f", task(), None, True),
        (task("a", "b"), "f", task("a", None), None, True),
        (task("a"), "a", task("b"), False, False),  # and never make up for a fresh exec
        (task("a"), None, task("b"), None, None),
    ],
)
def test_keys_change(
    held: ThreadsReport | None,
    fresh: str | None,
    restored: ThreadsReport | None,
    *,
    without_carrier: bool | None,
    with_carrier: bool | None,
) -> None:
    for scenario, carrier, expected in ((STOCK, False, without_carrier), (MODULE, True, with_carrier)):
        seen = Observation(
            carrier=carrier, held=held, restored=restored, fresh=keys(fresh) if fresh else None
        )
        declare_keys_change(scenario, seen)
        premise = seen.premises["keys_change"]
        assert (premise.declared, premise.observed) == (True, expected)
        assert premise.holds is (expected is True)


def test_where_there_are_no_keys_nothing_is_declared_and_a_change_would_be_wrong() -> None:
    seen = Observation(held=task(None))
    declare_keys_change(NO_PAC, seen)
    assert seen.premises["keys_change"].holds
    seen = Observation(held=task("a"), fresh=keys("f"))
    declare_keys_change(NO_PAC, seen)
    assert not seen.premises["keys_change"].holds


def test_the_arms_are_what_these_tests_take_them_for() -> None:
    assert (STOCK.module, MODULE.module) == (KeyModule.NONE, KeyModule.PLUGIN)
    assert not NO_PAC.source.cpu.pac
    assert (STOCK.base.protected, UNPROTECTED.base.protected) == (True, False)
