"""Arms and results as real runs give them, for tests of everything that is made from results."""

from collections.abc import Mapping
from typing import Any

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS
from harness.catalogue.criu_builds import DEFAULT_CRIU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.known_issues import known_issue
from harness.catalogue.outcome import Outcome, Premise
from harness.catalogue.prediction import predict, premises
from harness.catalogue.scenario import Driver, MachineSpec
from harness.catalogue.verdict import judge
from harness.catalogue.workloads import Workload, parse_workload
from harness.scenario.arms import Arm, repro_arms
from harness.scenario.result import Registers, ScenarioResult

SLEEPER = parse_workload(
    'name = "python-sleeper"\nargv = ["python3"]\nready = "r"\nprogress = "p"\n'
    'tick_seconds = 0.25\nwatch_ticks = 3\nlanguage = "python"\n',
    "here",
)
C_FRAMES = parse_workload(
    'name = "c-frames"\nargv = ["c-frames"]\nready = "r"\nprogress = "p"\n'
    'tick_seconds = 0.25\nwatch_ticks = 3\nlanguage = "c"\n',
    "here",
)

DIRTY = Registers(
    pc=0x003EFFFFA159E4DC,
    lr=0x003EFFFFA159E4DC,
    pac_mask=0x007F000000000000,
    pac_register="pc",
    pac_bits=0x003E000000000000,
)


def arms(
    cpu: str = "neoverse-v1",
    *,
    base: str = "debian-13",
    control: bool = False,
    workload: Workload = SLEEPER,
) -> tuple[Arm, ...]:
    """Return the arms of repro with these choices."""
    machine = MachineSpec(cpu=CPUS[cpu], kernel=DEFAULT_KERNEL)
    return repro_arms(
        source=machine,
        target=machine,
        criu_dump=DEFAULT_CRIU,
        criu_restore=DEFAULT_CRIU,
        base=BASES[base],
        workload=workload,
        driver=Driver.CRIU,
        control=control,
    )


def result(arm: Arm, outcome: Outcome | None = None, **changes: Any) -> ScenarioResult:
    """Return the result of ``arm``: as predicted, or with the given outcome."""
    prediction, issue = predict(arm.scenario), known_issue(arm.scenario)
    outcome = outcome or (issue.outcome if issue else prediction.outcome)
    died = outcome.is_fault
    facts: dict[str, Any] = {
        "arm": arm.name,
        "scenario": arm.scenario,
        "outcome": outcome,
        "prediction": prediction,
        "verdict": judge(prediction.outcome, issue, outcome),
        "known_issue": issue.id if issue else None,
        "premises": tuple(
            Premise(name=name, declared=declared, observed=declared)
            for name, declared in premises(arm.scenario).items()
        ),
        "signal": {Outcome.SIGNED_PC_FAULT: "SIGSEGV", Outcome.FPAC_FAULT: "SIGILL"}.get(outcome),
        "registers": DIRTY if died else Registers(pac_mask=DIRTY.pac_mask),
        "frames": 3,
        "p_chance": 2.0**-21,
        "ticks_before": 12,
        "ticks_after": 12 if died else 15,
        "keys_equal": not died,
        "started": 1767323045.6789,
        "seconds": 3.14159,
        "phases": {"dump": 0.61234},
        "evidence": arm.name,
        "reason": f"the reason of {arm.name}.",
        "qemu": "11.1.3",
    }
    return ScenarioResult(**{**facts, **changes})


def results(outcomes: Mapping[str, Outcome] | None = None, **kind: Any) -> list[ScenarioResult]:
    """Return a result for every arm, as predicted where ``outcomes`` names no other."""
    return [result(arm, (outcomes or {}).get(arm.name)) for arm in arms(**kind)]
