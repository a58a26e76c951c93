"""Observations that nobody made, for unit tests of what they amount to."""

import dataclasses
from typing import Any

from harness.catalogue.outcome import Premise
from harness.guest.criu import CriuRun
from harness.guest.probe_results import KeyFingerprints, ThreadsReport, ThreadState
from harness.parsing.criu_log import parse_criu_log
from harness.scenario.observation import Observation

MASK = 0x007F000000000000
CLEAN = 0x0000FFFFB754E4DC
DIRTY = 0x0069FFFFB754E4DC


def keys(name: str) -> KeyFingerprints:
    """Return fingerprints that are all ``name``."""
    return KeyFingerprints(fingerprint=name, ia=name, ib=name, da=name, db=name, ga=None)


def thread(nstid: int, name: str | None = "a", **changes: Any) -> ThreadState:
    """Return a sleeping thread with keys called ``name``."""
    state = ThreadState(
        insn_mask=MASK,
        data_mask=MASK,
        enabled_keys=0xF,
        keys=keys(name) if name else None,
        tid=nstid + 400,
        nstid=nstid,
        nspid=35,
        state="S",
        pc=CLEAN,
        lr=DIRTY,
        sp=0,
        pstate=0,
        fp=0,
        frames=None,
        records=None,
        unsigned_returns=None,
    )
    return dataclasses.replace(state, **changes)


def report(*threads: ThreadState) -> ThreadsReport:
    """Return what a ptrace stop of process 35 shows."""
    return ThreadsReport(pid=35, threads=threads)


def criu(action: str, returncode: int | None, said: str = "") -> CriuRun:
    """Return one call of CRIU."""
    log = parse_criu_log(f"(00.1) doing things\n{said}")
    return CriuRun(
        argv=("criu",), returncode=returncode, log=log, log_name=f"{action}-1.log", said="", seconds=1.0
    )


def survivor(**changes: Any) -> Observation:
    """Return a run that survived, every premise seen, with something to carry the keys."""
    seen = Observation(
        premises={"source_pac": Premise(name="source_pac", declared=True, observed=True)},
        carrier=True,
        held=report(thread(35)),
        restored=report(thread(35)),
        dump=criu("dump", 0),
        restore=criu("restore", 0),
        ticks_before=10,
        ticks_after=13,
        ticks_wanted=3,
        verified=True,
    )
    return dataclasses.replace(seen, **changes)
