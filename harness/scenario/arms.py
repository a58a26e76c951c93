"""The arms of `criu-pac repro`, and what their results mean together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from harness.catalogue.bases import BASES, CONTROL_BASE, Base
from harness.catalogue.cpus import CONTROL_CPU
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.prediction import predict
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.catalogue.workloads import Workload
from harness.core.errors import ExitCode, UsageError
from harness.scenario.result import ScenarioResult

STOCK = "stock"
WITH_MODULE = "pac-key-module"
WITH_NATIVE_KEYS = "criu-native-keys"
CONTROL_NO_PAC = "control-no-pac"
CONTROL_UNPROTECTED = "control-unprotected"

# What each kind of verdict is worth; of several arms the first of WORST_FIRST decides.
EXIT_CODES: Mapping[Verdict, int] = MappingProxyType(
    {
        Verdict.AS_PREDICTED: ExitCode.OK,
        Verdict.KNOWN_ISSUE: ExitCode.OK,
        Verdict.REGRESSION: ExitCode.REGRESSION,
        Verdict.FIXED: ExitCode.REGRESSION,
        Verdict.INVALID: ExitCode.INVALID,
        Verdict.ERROR: ExitCode.INFRASTRUCTURE,
    }
)
WORST_FIRST = (ExitCode.REGRESSION, ExitCode.INVALID, ExitCode.INFRASTRUCTURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One scenario of a comparison, under a name that says what is particular about it."""

    name: str
    scenario: Scenario


def repro_arms(
    *,
    source: MachineSpec,
    target: MachineSpec,
    criu_dump: CriuBuild,
    criu_restore: CriuBuild,
    base: Base,
    workload: Workload,
    driver: Driver,
    control: bool,
) -> tuple[Arm, ...]:
    """Return the arms: without and with the key module, and with ``control`` two that must survive.

    The module is all that the first two differ in; the controls have no module either, and
    each lacks one half of the cause: a CPU that authenticates, a userland that signs. Raises
    UsageError when the base lacks what the workload needs, and when ``control`` is asked for and
    the workload cannot be such a control.
    """
    stock = Scenario(
        source=source,
        target=target,
        criu_dump=criu_dump,
        criu_restore=criu_restore,
        module=KeyModule.NONE,
        workload=workload,
        base=base,
        driver=driver,
    )
    if stock.lacking:
        having = ", ".join(sorted(one.name for one in BASES.values() if stock.lacking in one.packages))
        raise UsageError(
            f"the workload {workload.name} needs {stock.lacking}, which the base {base.name} has not",
            hint=f"choose --base {having}",
        )
    no_pac = [replace(machine, cpu=CONTROL_CPU) for machine in (source, target)]
    arms = [
        Arm(name=STOCK, scenario=stock),
        Arm(name=WITH_MODULE, scenario=replace(stock, module=KeyModule.PLUGIN)),
    ]
    if control:
        controls = (
            Arm(name=CONTROL_NO_PAC, scenario=replace(stock, source=no_pac[0], target=no_pac[1])),
            Arm(name=CONTROL_UNPROTECTED, scenario=replace(stock, base=CONTROL_BASE)),
        )
        for one in controls:
            if (prediction := predict(one.scenario)).outcome is not Outcome.SURVIVED:
                raise UsageError(
                    f"{one.name} is no control with the workload {workload.name}: {prediction.why}",
                    hint="leave out --control or take --workload python-sleeper",
                )
        arms += controls
    return tuple(arms)


def native_keys_arm(stock: Arm, build: CriuBuild) -> Arm:
    """Return the arm ``stock`` with a CRIU that carries the keys by itself, which must survive."""
    scenario = replace(stock.scenario, criu_dump=build, criu_restore=build)
    return Arm(name=WITH_NATIVE_KEYS, scenario=scenario)


def repro_exit(results: Sequence[ScenarioResult]) -> tuple[int, str]:
    """Return the exit code of the arms together and the sentence that says what they showed.

    0 only when the arm without the module died of pointer authentication as predicted, the
    arm with it survived, and so did every control. Raises ValueError without both main arms.
    """
    by_name = {result.arm: result for result in results}
    if missing := {STOCK, WITH_MODULE} - by_name.keys():
        raise ValueError(f"no result of {', '.join(sorted(missing))}")
    findings = [_finding(result) for result in results]
    for code in WORST_FIRST:
        sentences = [sentence for found, sentence in findings if found == code]
        if sentences:
            return code, " ".join(sentences)
    return ExitCode.OK, _success(by_name)


def _finding(result: ScenarioResult) -> tuple[int, str]:
    """Return what one arm is worth and, unless that is 0, a sentence about it."""
    code = EXIT_CODES[result.verdict]
    if code == ExitCode.INFRASTRUCTURE:
        return code, f"The harness could not finish the arm {result.arm}: {_clause(result.reason)}."
    if code == ExitCode.INVALID:
        broken = [premise.name for premise in result.premises if not premise.holds]
        which = f" ({', '.join(broken)} not observed as declared)" if broken else ""
        return code, f"The arm {result.arm} proves nothing{which}: {_clause(result.reason)}."
    if code == ExitCode.REGRESSION:
        return code, _surprise(result)
    if result.arm == STOCK and not result.outcome.is_pac_fault:
        why = f"known issue {result.known_issue}" if result.known_issue else result.prediction.why
        return ExitCode.INVALID, f"This cell cannot show the bug: {why}."
    if result.arm != STOCK and result.outcome is not Outcome.SURVIVED:
        why = f"known issue {result.known_issue}" if result.known_issue else result.prediction.why
        return ExitCode.INVALID, f"The arm {result.arm} cannot survive in this cell: {why}."
    return ExitCode.OK, ""


def _clause(reason: str) -> str:
    """Return a reason without the full stop it may end with."""
    return reason.rstrip(" .")


def _surprise(result: ScenarioResult) -> str:
    """Return the sentence about an outcome that nobody expected."""
    if result.arm == STOCK and result.outcome is Outcome.SURVIVED:
        return (
            "Without the key module the process kept running after its restore although it was "
            f"predicted to die: {_clause(result.reason)}. The bug did not appear."
        )
    if result.arm == WITH_MODULE and result.outcome.is_fault:
        return (
            "The restored process died although the key module was loaded: "
            f"{_clause(result.reason)}. The cure did not work here."
        )
    expected = f"known issue {result.known_issue}" if result.known_issue else result.prediction.outcome.value
    return (
        f"The arm {result.arm} ended in {result.outcome.value} where {expected} was expected: "
        f"{_clause(result.reason)}."
    )


def _success(by_name: Mapping[str, ScenarioResult]) -> str:
    sentence = (
        "Without the key module the restored process died as soon as it returned to its caller (the return "
        "address was signed with keys that CRIU did not carry over); with the module it kept running: the "
        "bug of CRIU issue 2595 is reproduced and the cure works."
    )
    if WITH_NATIVE_KEYS in by_name:
        sentence += " With a CRIU that carries the keys by itself it kept running as well."
    causes = {
        CONTROL_NO_PAC: "pointer authentication in the CPU",
        CONTROL_UNPROTECTED: "signed return addresses in the program",
    }
    if lacking := ", or without ".join(text for name, text in causes.items() if name in by_name):
        sentence += f" Without {lacking}, the same dump and restore do no harm."
    return sentence
