"""What a scenario gives: everything the table, results.jsonl and the reports are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.catalogue.outcome import Outcome, Premise, Verdict
from harness.catalogue.prediction import Prediction
from harness.catalogue.scenario import Scenario

SCHEMA = 1  # of results.jsonl; raised when a field changes its meaning or goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """The judged registers of the restored task; ``pac_mask`` is insn_mask of NT_ARM_PAC_MASK.

    ``pac_register`` names the one of PC and LR that carries PAC bits, ``pac_bits`` is that
    register & pac_mask. None where nothing was read.
    """

    pc: int | None = None
    lr: int | None = None
    pac_mask: int | None = None
    pac_register: str | None = None
    pac_bits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """One scenario, run and judged.

    ``arm`` is its name among the arms of the command. ``frames`` counts distinct signed frames
    returned through; ``p_chance`` is the probability that wrong keys would have passed them all.
    Ticks are the workload's; ``started`` is when it began (seconds since the epoch), ``seconds`` is wall
    time, ``phases`` the same by phase, in the order in which they began. ``evidence`` is relative to
    the results directory. ``reason`` says in one sentence why this outcome.
    """

    arm: str
    scenario: Scenario
    outcome: Outcome
    prediction: Prediction
    verdict: Verdict
    known_issue: str | None
    premises: tuple[Premise, ...]
    signal: str | None
    registers: Registers
    frames: int
    p_chance: float | None
    ticks_before: int
    ticks_after: int
    keys_equal: bool | None
    started: float
    seconds: float
    phases: Mapping[str, float]
    evidence: str | None
    reason: str
    qemu: str | None

    def record(self) -> dict[str, Any]:
        """Return the object for this result in results.jsonl (schema in docs/reference/results.md)."""
        cell, registers = self.scenario, self.registers
        return {
            "schema": SCHEMA,
            "id": cell.id,
            "arm": self.arm,
            "cpu": cell.source.cpu.name,
            "kernel": cell.source.kernel.name,
            "target_cpu": cell.target.cpu.name,
            "target_kernel": cell.target.kernel.name,
            "qemu": self.qemu,
            "base": cell.base.name,
            "workload": cell.workload.name,
            "driver": cell.driver.value,
            "criu_dump": cell.criu_dump.name,
            "criu_restore": cell.criu_restore.name,
            "module": cell.module.value,
            "outcome": self.outcome.value,
            "predicted": self.prediction.outcome.value,
            "verdict": self.verdict.value,
            "known_issue": self.known_issue,
            "reason": self.reason,
            "premises": {
                premise.name: {"declared": premise.declared, "observed": premise.observed}
                for premise in self.premises
            },
            "signal": self.signal,
            "pc": _hex(registers.pc),
            "lr": _hex(registers.lr),
            "pac_mask": _hex(registers.pac_mask),
            "pac_register": registers.pac_register,
            "pac_bits": _hex(registers.pac_bits),
            "frames": self.frames,
            "p_chance": self.p_chance,
            "ticks_before": self.ticks_before,
            "ticks_after": self.ticks_after,
            "keys_equal": self.keys_equal,
            "started": f"{datetime.fromtimestamp(self.started, tz=UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
            "seconds": round(self.seconds, 3),
            "phases": {name: round(seconds, 3) for name, seconds in self.phases.items()},
            "evidence": self.evidence,
        }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"0x{value:016x}"
