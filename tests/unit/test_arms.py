"""The arms of repro, and the exit code and sentence their results give together."""

import dataclasses

import pytest

from harness.catalogue.bases import CONTROL_BASE
from harness.catalogue.cpus import CONTROL_CPU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.outcome import Outcome, Premise
from harness.catalogue.scenario import KeyModule, MachineSpec
from harness.core.errors import ExitCode, UsageError
from harness.scenario.arms import Arm, repro_exit
from harness.scenario.fake_results import C_FRAMES, SLEEPER, arms, result, results

OK, REGRESSION = ExitCode.OK, ExitCode.REGRESSION
INFRASTRUCTURE, INVALID = ExitCode.INFRASTRUCTURE, ExitCode.INVALID


def test_the_two_main_arms_differ_in_the_module_and_nothing_else() -> None:
    stock, module = arms()
    assert (stock.name, module.name) == ("stock", "pac-key-module")
    assert stock.scenario.module is KeyModule.NONE
    assert dataclasses.replace(stock.scenario, module=KeyModule.PLUGIN) == module.scenario


def test_each_control_lacks_one_half_of_the_cause() -> None:
    stock, _, no_pac, unprotected = arms(control=True)
    machine = MachineSpec(cpu=CONTROL_CPU, kernel=DEFAULT_KERNEL)
    assert dataclasses.replace(stock.scenario, source=machine, target=machine) == no_pac.scenario
    assert dataclasses.replace(stock.scenario, base=CONTROL_BASE) == unprotected.scenario


def test_a_workload_that_signs_by_itself_is_no_unprotected_control() -> None:
    assert len(arms(workload=C_FRAMES)) == 2
    with pytest.raises(UsageError, match="control-unprotected is no control with the workload c-frames"):
        arms(workload=C_FRAMES, control=True)


def test_a_base_without_the_packages_of_the_workload_is_refused_with_those_that_have_them() -> None:
    redis = dataclasses.replace(SLEEPER, name="redis", packages="redis")
    assert len(arms(workload=redis, control=True)) == 4
    with pytest.raises(UsageError, match=r"redis needs redis, which the base ubuntu-24.04 has not") as error:
        arms(workload=redis, base="ubuntu-24.04")
    assert error.value.hint == "choose --base debian-12, debian-13"


@pytest.mark.parametrize("cpu", ["neoverse-v1", "neoverse-n2", "max"])
@pytest.mark.parametrize("control", [False, True])
def test_the_bug_and_the_cure_give_zero(cpu: str, *, control: bool) -> None:
    code, sentence = repro_exit(results(cpu=cpu, control=control))
    assert code == OK
    assert "issue 2595 is reproduced and the cure works" in sentence
    told = (
        " Without pointer authentication in the CPU, or without signed return addresses in the program, the "
        "same dump and restore do no harm."
    )
    assert sentence.endswith(told) is control


@pytest.mark.parametrize(
    ("outcomes", "code", "told"),
    [
        ({"stock": Outcome.SURVIVED}, REGRESSION, "The bug did not appear"),
        ({"stock": Outcome.CRASHED_OTHER}, REGRESSION, "stock ended in crashed_other where signed_pc_fault"),
        ({"stock": Outcome.FPAC_FAULT}, REGRESSION, "stock ended in fpac_fault"),
        ({"pac-key-module": Outcome.SIGNED_PC_FAULT}, REGRESSION, "The cure did not work here"),
        ({"pac-key-module": Outcome.HUNG}, REGRESSION, "pac-key-module ended in hung where survived"),
        ({"stock": Outcome.INVALID}, INVALID, "stock proves nothing: the reason of stock."),
        ({"stock": Outcome.INFRA_ERROR}, INFRASTRUCTURE, "could not finish the arm stock"),
        ({"control-no-pac": Outcome.SIGNED_PC_FAULT}, REGRESSION, "control-no-pac ended in signed_pc_fault"),
        ({"control-unprotected": Outcome.INVALID}, INVALID, "control-unprotected proves nothing"),
    ],
)
def test_anything_else_does_not(outcomes: dict[str, Outcome], code: int, told: str) -> None:
    found, sentence = repro_exit(results(outcomes, control=True))
    assert found == code
    assert told in sentence


@pytest.mark.parametrize(
    ("stock", "module", "code"),
    [
        (Outcome.SURVIVED, Outcome.INVALID, REGRESSION),
        (Outcome.INFRA_ERROR, Outcome.SIGNED_PC_FAULT, REGRESSION),
        (Outcome.INVALID, Outcome.HUNG, REGRESSION),
        (Outcome.INVALID, Outcome.INFRA_ERROR, INVALID),
        (Outcome.INFRA_ERROR, Outcome.INVALID, INVALID),
        (Outcome.INFRA_ERROR, Outcome.SURVIVED, INFRASTRUCTURE),
    ],
)
def test_mixed_arms_give_one_over_three_over_two(stock: Outcome, module: Outcome, code: int) -> None:
    assert repro_exit(results({"stock": stock, "pac-key-module": module}))[0] == code


@pytest.mark.parametrize(
    ("cpu", "base", "why"),
    [
        ("neoverse-n1", "debian-13", "neither CPU signs or authenticates"),
        ("neoverse-v1", "debian-12", "no branch protection"),
    ],
)
def test_a_cell_that_cannot_show_the_bug_says_why(cpu: str, base: str, why: str) -> None:
    code, sentence = repro_exit(results(cpu=cpu, base=base))
    assert code == INVALID
    assert sentence.startswith(f"This cell cannot show the bug: {why}")


def test_a_known_issue_that_hides_the_bug_is_named() -> None:
    kernel = dataclasses.replace(DEFAULT_KERNEL, name="6.12")
    machine = MachineSpec(cpu=arms()[0].scenario.source.cpu, kernel=kernel)
    cells = [
        Arm(name=arm.name, scenario=dataclasses.replace(arm.scenario, source=machine, target=machine))
        for arm in arms()
    ]
    code, sentence = repro_exit([result(arm) for arm in cells])
    assert code == INVALID
    assert "known issue vdso-dt-hash" in sentence


def test_an_invalid_arm_names_the_premises_that_do_not_hold() -> None:
    stock, module = arms()
    broken = (Premise(name="source_pac", declared=True, observed=None),)
    invalid = result(stock, Outcome.INVALID, premises=broken)
    _, sentence = repro_exit([invalid, result(module)])
    assert "(source_pac not observed as declared)" in sentence


def test_half_a_comparison_is_none() -> None:
    with pytest.raises(ValueError, match="no result of pac-key-module"):
        repro_exit(results()[:1])
