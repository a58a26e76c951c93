"""A checkpoint directory: what is in it, what damages it, and what a restore refuses beforehand."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import KERNELS
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.core.errors import IntegrityError, UsageError
from harness.guest.probe_results import (
    Frame,
    KeyFingerprints,
    MachineFacts,
    ThreadsReport,
    ThreadState,
    WatchReport,
)
from harness.guest.workload import load_workload
from harness.scenario.handover import ARCHIVE, MANIFEST, Checkpoint, arriving, load, new_directory, refusal

MASK = 0x007F_0000_0000_0000
FACTS = MachineFacts(
    insn_mask=MASK,
    data_mask=MASK,
    enabled_keys=0xF,
    hwcap=1 << 30,
    hwcap2=0,
    paca=True,
    pacg=True,
    apa=0,
    api=1,
    apa3=0,
    algorithm="impdef",
    fpac=False,
    midr=0x411FD401,
    page_size=4096,
    keys_readable=True,
    signed_lr=True,
    release="6.1.0",
)
FRAME = Frame(address=0xFFFF_0000_1000, lr=0x0012_FFFF_0000_1234, stripped=0xFFFF_0000_1234, signed=True)
THREAD = ThreadState(
    insn_mask=MASK,
    data_mask=MASK,
    enabled_keys=None,
    keys=KeyFingerprints(fingerprint="0" * 16, ia="1" * 16, ib="2" * 16, da="3" * 16, db="4" * 16, ga=None),
    tid=12,
    nstid=2,
    nspid=2,
    state="S",
    pc=0xFFFF_0000_1234,
    lr=0x0012_FFFF_0000_1234,
    sp=0xFFFF_F000_0000,
    pstate=0x2000_0000,
    fp=0xFFFF_F000_0010,
    frames=(FRAME,),
    records=3,
    unsigned_returns=0,
)
CONTENT = b"an archive"
CHECKPOINT = Checkpoint(
    criu="3.17.1",
    module="plugin",
    workload="python-sleeper",
    base="debian-13",
    userland="u",
    pid=12,
    ticks=3,
    host=FACTS,
    held=ThreadsReport(pid=12, threads=(THREAD,), zombies=(7,)),
    rehearsal=WatchReport(
        insn_mask=MASK,
        data_mask=MASK,
        enabled_keys=0xF,
        keys=None,
        pid=12,
        start=(),
        returned=(FRAME,),
        stops=4,
        writes=1,
        ended="ticks",
    ),
    premises={"source_pac": (True, True), "keys_change": (None, None)},
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


def machine(cpu: str = "neoverse-v1", kernel: str = "6.1") -> MachineSpec:
    return MachineSpec(cpu=CPUS[cpu], kernel=KERNELS[kernel])


def scenario(
    source: MachineSpec, target: MachineSpec, criu: str = "3.17.1", module: KeyModule = KeyModule.PLUGIN
) -> Scenario:
    dump, _, restore = criu.partition(":")
    start = Scenario(
        source=target,
        target=target,
        criu_dump=CRIU_BUILDS[dump],
        criu_restore=CRIU_BUILDS[dump],
        module=module,
        workload=load_workload("python-sleeper"),
        base=BASES["debian-13"],
        driver=Driver.CRIU,
    )
    return arriving(start, source, CRIU_BUILDS[restore or dump])


def test_what_is_saved_is_loaded_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    directory = new_directory(tmp_path / "a" / "checkpoint")
    CHECKPOINT.save(directory, CONTENT)
    assert load(directory) == (CHECKPOINT, CONTENT)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())}
    assert modes == {"checkpoint": 0o700, MANIFEST: 0o600, ARCHIVE: 0o600}


def test_a_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    CHECKPOINT.save(new_directory(tmp_path / "checkpoint"), CONTENT)
    with pytest.raises(UsageError, match="is not empty"):
        new_directory(tmp_path / "checkpoint")


@pytest.mark.parametrize("missing", [MANIFEST, ARCHIVE])
def test_something_else_is_no_checkpoint(tmp_path: Path, missing: str) -> None:
    CHECKPOINT.save(tmp_path, CONTENT)
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match=f"is no checkpoint: .*{missing}: No such file"):
        load(tmp_path)


def test_an_archive_that_was_cut_on_its_way_is_refused(tmp_path: Path) -> None:
    CHECKPOINT.save(tmp_path, CONTENT[:-1])
    with pytest.raises(IntegrityError, match=r"checkpoint\.tar is not what its manifest says"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"pid": None, "more": 1},
        {"host": {}},
        {"held": {"pid": 1}},
        {"premises": 7},
        {"rehearsal": "x"},
    ],
)
def test_a_manifest_that_says_something_else_is_damaged(tmp_path: Path, change: dict[str, Any]) -> None:
    CHECKPOINT.save(tmp_path, CONTENT)
    document = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(document | change))
    with pytest.raises(IntegrityError, match=r"manifest\.json is damaged"):
        load(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    CHECKPOINT.save(tmp_path, CONTENT)
    document = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(document | {"format": 2}))
    with pytest.raises(UsageError, match="of another format than 1"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("source", "target", "criu", "module"),
    [
        (machine(), machine(), "3.17.1", KeyModule.PLUGIN),
        (machine(), machine(), "3.17.1", KeyModule.NONE),  # the bug, to be seen
        (machine(), machine("neoverse-n2"), "3.17.1", KeyModule.PLUGIN),
        (machine("neoverse-n1"), machine("neoverse-n1"), "3.17.1", KeyModule.NONE),
        (machine(), machine(kernel="6.12"), "3.17.1:4.2.1", KeyModule.PLUGIN),
    ],
)
def test_what_can_work_and_what_shows_the_bug_is_let_through(
    source: MachineSpec, target: MachineSpec, criu: str, module: KeyModule
) -> None:
    assert refusal(scenario(source, target, criu, module), CHECKPOINT, FACTS, "u") is None


@pytest.mark.parametrize(
    ("source", "target", "criu", "module", "why"),
    [
        (machine(), machine("neoverse-n1"), "4.2.1", KeyModule.NONE, "criu-2824"),
        (machine(), machine("neoverse-n1"), "3.17.1", KeyModule.NONE, "still carries its code"),
        (machine(), machine("neoverse-n1"), "3.17.1", KeyModule.PLUGIN, "no pointer authentication"),
        (machine("neoverse-n1"), machine(), "4.2.1", KeyModule.NONE, "that the source never signed"),
        (machine("max-qarma5"), machine("max"), "4.2.1", KeyModule.NONE, "another algorithm"),
        (machine(), machine(), "4.2.1:3.17.1", KeyModule.NONE, "image-too-new"),
        (machine(), machine(kernel="6.12"), "3.17.1", KeyModule.NONE, "vdso-dt-hash-restore"),
    ],
)
def test_what_cannot_work_on_this_host_is_refused(
    source: MachineSpec, target: MachineSpec, criu: str, module: KeyModule, why: str
) -> None:
    said = refusal(scenario(source, target, criu, module), CHECKPOINT, FACTS, "u")
    assert said is not None
    assert why in said


def test_other_files_and_other_pages_are_refused() -> None:
    cell = scenario(machine(), machine())
    assert "is made of other files" in str(refusal(cell, CHECKPOINT, FACTS, "another"))
    assert "pages are 65536 bytes here" in str(
        refusal(cell, CHECKPOINT, replace(FACTS, page_size=65536), "u")
    )
