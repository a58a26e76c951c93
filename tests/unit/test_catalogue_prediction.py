"""Scenarios, predictions, known issues and verdicts, cell by cell as measured (facts by section)."""

import dataclasses

import pytest

from harness.catalogue.bases import BASES, Base
from harness.catalogue.cpus import CPUS
from harness.catalogue.criu_builds import CRIU_BUILDS, CriuBuild
from harness.catalogue.kernels import KERNELS
from harness.catalogue.known_issues import KNOWN_ISSUES, KnownIssue, known_issue
from harness.catalogue.outcome import Outcome, Premise, Verdict
from harness.catalogue.prediction import predict, premises
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.catalogue.verdict import judge
from harness.catalogue.workloads import Workload, parse_workload

STOCK = CRIU_BUILDS["3.17.1"]
NATIVE = CRIU_BUILDS["4.2.1"]
SLEEPER = parse_workload(
    'name = "python-sleeper"\nargv = ["python3"]\nready = "r"\nprogress = "p"\n'
    'tick_seconds = 0.3\nwatch_ticks = 5\nlanguage = "python"\n',
    "here",
)
C_CONTROL = dataclasses.replace(SLEEPER, name="c-unprotected", language="c", branch_protection="none")
C_FRAMES = dataclasses.replace(SLEEPER, name="c-frames", language="c")


def cell(
    cpu: str = "neoverse-v1",
    *,
    criu: tuple[CriuBuild, CriuBuild] = (STOCK, STOCK),
    module: KeyModule = KeyModule.NONE,
    workload: Workload = SLEEPER,
    base: Base = BASES["debian-13"],
    kernel: str = "6.1",
    cycles: int = 1,
) -> Scenario:
    source, _, target = cpu.partition(":")
    old, _, new = kernel.partition(":")
    booted, other = (
        KERNELS.get(name) or dataclasses.replace(KERNELS["6.1"], name=name) for name in (old, new or old)
    )
    return Scenario(
        source=MachineSpec(cpu=CPUS[source], kernel=booted),
        target=MachineSpec(cpu=CPUS[target or source], kernel=other),
        criu_dump=criu[0],
        criu_restore=criu[1],
        module=module,
        workload=workload,
        base=base,
        driver=Driver.CRIU,
        cycles=cycles,
    )


def test_ids_show_both_sides_only_where_they_differ() -> None:
    assert cell().id == "3.17.1-k6.1-neoverse-v1-debian-13-python-sleeper-criu-none"
    crossing = cell("neoverse-v1:neoverse-n1", criu=(STOCK, NATIVE), module=KeyModule.PLUGIN, cycles=5)
    assert crossing.id == "3.17.1:4.2.1-k6.1-neoverse-v1:neoverse-n1-debian-13-python-sleeper-criu-plugin-x5"
    assert ":" not in crossing.slug
    assert crossing.crosses_machines
    assert not cell().crosses_machines


@pytest.mark.parametrize(
    ("cpu", "outcome"),
    [
        ("neoverse-v1", Outcome.SIGNED_PC_FAULT),
        ("neoverse-n2", Outcome.FPAC_FAULT),
        ("cortex-a710", Outcome.FPAC_FAULT),
        ("max", Outcome.FPAC_FAULT),
        ("max-qarma3", Outcome.FPAC_FAULT),
        ("max-qarma5", Outcome.FPAC_FAULT),
        ("neoverse-n1", Outcome.SURVIVED),
        ("cortex-a57", Outcome.SURVIVED),
        ("max-nopauth", Outcome.SURVIVED),
    ],
)
def test_the_cpu_decides_the_signal_of_the_stock_arm(cpu: str, outcome: Outcome) -> None:
    assert predict(cell(cpu)).outcome is outcome
    assert predict(cell(cpu, module=KeyModule.PLUGIN)).outcome is Outcome.SURVIVED
    assert predict(cell(cpu, criu=(NATIVE, NATIVE))).outcome is Outcome.SURVIVED
    assert predict(cell(cpu, base=BASES["debian-12"])).outcome is Outcome.SURVIVED


@pytest.mark.parametrize(
    ("cpu", "criu", "module", "outcome"),
    [
        ("neoverse-v1:neoverse-n1", (STOCK, STOCK), KeyModule.NONE, Outcome.SIGNED_PC_FAULT),
        ("neoverse-n2:neoverse-n1", (STOCK, STOCK), KeyModule.NONE, Outcome.SIGNED_PC_FAULT),
        ("neoverse-v1:neoverse-n1", (NATIVE, NATIVE), KeyModule.NONE, Outcome.RESTORE_REFUSED),
        ("neoverse-v1:neoverse-n1", (STOCK, STOCK), KeyModule.PLUGIN, Outcome.RESTORE_REFUSED),
        ("neoverse-n1:neoverse-v1", (STOCK, STOCK), KeyModule.NONE, Outcome.SIGNED_PC_FAULT),
        ("neoverse-n1:neoverse-n2", (NATIVE, NATIVE), KeyModule.NONE, Outcome.FPAC_FAULT),
        ("neoverse-n1:neoverse-v1", (STOCK, STOCK), KeyModule.PLUGIN, Outcome.RESTORE_REFUSED),
        ("max-qarma5:max", (NATIVE, NATIVE), KeyModule.NONE, Outcome.FPAC_FAULT),
        ("neoverse-v1:max", (NATIVE, NATIVE), KeyModule.NONE, Outcome.SURVIVED),
        ("max-qarma5:max", (STOCK, STOCK), KeyModule.PLUGIN, Outcome.RESTORE_REFUSED),
        ("neoverse-n2:neoverse-v1", (STOCK, STOCK), KeyModule.PLUGIN, Outcome.SURVIVED),
        ("neoverse-v1", (STOCK, NATIVE), KeyModule.NONE, Outcome.SIGNED_PC_FAULT),
    ],
)
def test_across_machines_and_versions(
    cpu: str, criu: tuple[CriuBuild, CriuBuild], module: KeyModule, outcome: Outcome
) -> None:
    assert predict(cell(cpu, criu=criu, module=module)).outcome is outcome


def test_wider_addresses_leave_fewer_bits_to_a_code_where_the_kernel_uses_them() -> None:
    pair = "neoverse-v1:max"
    assert predict(cell(pair, kernel="6.12", criu=(NATIVE, NATIVE))).outcome is Outcome.FPAC_FAULT
    assert predict(cell(pair, kernel="6.12", criu=(NATIVE, NATIVE), module=KeyModule.PLUGIN)).outcome is (
        Outcome.RESTORE_REFUSED
    )


def test_the_facts_behind_a_prediction() -> None:
    stock = predict(cell())
    assert stock.signed_pointers_live
    assert stock.target_authenticates
    assert stock.same_codes
    assert not stock.keys_reach_target
    assert not stock.fpac
    assert "do not reach" in stock.why
    module = predict(cell(module=KeyModule.PLUGIN))
    assert module.keys_reach_target
    assert dataclasses.replace(module, keys_reach_target=False, outcome=stock.outcome, why=stock.why) == stock


def test_half_an_unprotected_userland_is_no_control() -> None:
    assert predict(cell(workload=C_CONTROL)).outcome is Outcome.SIGNED_PC_FAULT  # its libc signs
    assert predict(cell(workload=C_FRAMES, base=BASES["debian-12"])).outcome is Outcome.SIGNED_PC_FAULT
    assert predict(cell(workload=C_CONTROL, base=BASES["debian-12"])).outcome is Outcome.SURVIVED


@pytest.mark.parametrize("base", ["debian-13", "debian-12"])
def test_a_program_that_never_stops_in_libc_signs_what_it_signs_itself(base: str) -> None:
    alone = dataclasses.replace(C_CONTROL, flags=("no-libc-frames",))
    assert predict(cell(workload=alone, base=BASES[base])).outcome is Outcome.SURVIVED
    assert premises(cell(workload=alone, base=BASES[base]))["signed_frames_live"] is False
    signing = dataclasses.replace(C_FRAMES, flags=("no-libc-frames",))
    assert predict(cell(workload=signing, base=BASES[base])).outcome is Outcome.SIGNED_PC_FAULT


@pytest.mark.parametrize(
    ("cpu", "criu", "module", "outcome"),
    [
        ("neoverse-v1", (STOCK, STOCK), KeyModule.NONE, Outcome.STATE_LOST),
        ("neoverse-n2", (STOCK, STOCK), KeyModule.NONE, Outcome.FPAC_FAULT),
        ("neoverse-v1", (STOCK, STOCK), KeyModule.PLUGIN, Outcome.SURVIVED),
        ("neoverse-v1", (NATIVE, NATIVE), KeyModule.NONE, Outcome.SURVIVED),
        ("neoverse-v1:neoverse-n1", (STOCK, STOCK), KeyModule.NONE, Outcome.CRASHED_OTHER),
        ("neoverse-n1:neoverse-v1", (STOCK, STOCK), KeyModule.NONE, Outcome.SURVIVED),
        ("neoverse-n1:neoverse-v1", (STOCK, STOCK), KeyModule.PLUGIN, Outcome.RESTORE_REFUSED),
        ("max-qarma5:max", (NATIVE, NATIVE), KeyModule.NONE, Outcome.FPAC_FAULT),
        ("neoverse-n1", (STOCK, STOCK), KeyModule.NONE, Outcome.SURVIVED),
    ],
)
def test_signed_data_alone(
    cpu: str, criu: tuple[CriuBuild, CriuBuild], module: KeyModule, outcome: Outcome
) -> None:
    data = dataclasses.replace(C_CONTROL, flags=("no-libc-frames", "signed-data"))
    scenario = cell(cpu, criu=criu, module=module, workload=data)
    assert predict(scenario).outcome is outcome
    assert premises(scenario)["signed_frames_live"] is False
    assert premises(scenario)["signed_data_live"] is scenario.source.cpu.pac
    assert predict(scenario).signed_pointers_live is scenario.source.cpu.pac


def test_premises_differ_between_arms_in_nothing_but_what_the_arm_changes() -> None:
    stock = premises(cell())
    assert list(stock) == [
        *("source_pac", "target_pac", "interpreter_protected", "libc_protected"),
        *("signed_frames_live", "chance_excluded", "keys_change"),
    ]
    assert all(declared is True for declared in stock.values())
    assert premises(cell(module=KeyModule.PLUGIN)) == stock
    assert [name for name, declared in premises(cell("neoverse-n1")).items() if declared] == [
        "interpreter_protected",
        "libc_protected",
    ]
    assert premises(cell("neoverse-n1"))["keys_change"] is None
    assert premises(cell("neoverse-n1"))["chance_excluded"] is None
    unprotected = premises(cell(base=BASES["debian-12"]))
    assert [name for name, declared in unprotected.items() if declared] == [
        "source_pac",
        "target_pac",
        "keys_change",
    ]
    assert premises(cell(workload=C_CONTROL))["libc_protected"] is True
    assert premises(cell(workload=C_CONTROL))["interpreter_protected"] is False


@pytest.mark.parametrize("declared", [True, False])
def test_a_premise_that_was_not_observed_does_not_hold(declared: bool) -> None:  # noqa: FBT001
    premise = Premise(name="source_pac", declared=declared)
    assert not premise.holds
    assert dataclasses.replace(premise, observed=declared).holds
    assert not dataclasses.replace(premise, observed=not declared).holds


def test_a_premise_without_meaning_holds_while_nothing_is_observed() -> None:
    assert Premise(name="keys_change", declared=None).holds
    assert not Premise(name="keys_change", declared=None, observed=False).holds


def test_no_entry_of_the_table_matches_the_main_job() -> None:
    for cpu in CPUS:
        for module in KeyModule:
            assert known_issue(cell(cpu, module=module)) is None


V1_TO_N1, N1_TO_V1 = "neoverse-v1:neoverse-n1", "neoverse-n1:neoverse-v1"
NONE, PLUGIN = KeyModule.NONE, KeyModule.PLUGIN


@pytest.mark.parametrize(
    ("cpu", "kernel", "criu", "module", "issue"),
    [
        ("neoverse-v1", "6.8", "3.17.1", NONE, None),
        ("neoverse-v1", "6.12", "3.17.1", PLUGIN, "vdso-dt-hash"),
        ("neoverse-v1", "6.1:6.12", "3.17.1", PLUGIN, "vdso-dt-hash-restore"),
        ("neoverse-v1", "6.12:6.1", "3.17.1", PLUGIN, "vdso-dt-hash"),
        ("neoverse-v1", "6.12:6.1", "4.2.1", NONE, "droppable-memory"),
        ("neoverse-v1", "6.12:6.1", "4.2.1-nopac", PLUGIN, "droppable-memory"),
        ("neoverse-v1", "6.12:6.1", "4.1.1-nopac", PLUGIN, None),
        ("neoverse-v1", "6.12:6.1", "4.1.1", PLUGIN, "criu-2709"),
        ("neoverse-v1", "6.12:6.1", "4.2.1:3.17.1", NONE, "image-too-new"),
        ("neoverse-v1", "6.1:6.12", "4.2.1", NONE, None),
        (V1_TO_N1, "6.12:6.1", "4.2.1", PLUGIN, None),
        ("neoverse-v1", "6.12", "4.2.1", NONE, None),
        ("neoverse-v1", "6.12", "4.2.1-nopac", NONE, None),
        ("neoverse-v1", "6.12", "4.1.1-nopac", PLUGIN, None),
        ("neoverse-v1", "6.12", "4.1.1", NONE, "criu-2709"),
        ("neoverse-v1", "6.12", "4.1.1", PLUGIN, "criu-2709"),
        ("neoverse-v1", "6.12", "4.1.1:4.2.1", NONE, None),
        ("neoverse-v1", "6.12", "3.17.1:4.1.1", NONE, "vdso-dt-hash"),
        ("neoverse-v1", "6.1", "3.17.1:4.1.1", NONE, None),
        ("neoverse-v1", "6.1", "4.2.1:3.17.1", NONE, "image-too-new"),
        ("neoverse-n1", "6.1", "4.1.1:3.17.1", NONE, "image-too-new"),
        ("neoverse-v1", "5.10", "4.2.1", NONE, "key-mask-regset"),
        ("neoverse-v1", "5.10", "4.2.1:3.17.1", PLUGIN, "key-mask-regset"),
        ("neoverse-n1", "5.10", "4.2.1", NONE, None),
        ("neoverse-v1", "5.10", "4.2.1-nopac", NONE, None),
        ("neoverse-n1", "6.12", "4.1.1", NONE, None),
        (V1_TO_N1, "6.12", "4.2.1", NONE, "criu-2824"),
        (V1_TO_N1, "6.12", "4.1.1", NONE, "criu-2824"),
        (V1_TO_N1, "6.12", "4.2.1", PLUGIN, None),
        (N1_TO_V1, "6.12", "4.2.1", NONE, None),
        (N1_TO_V1, "6.12", "4.1.1", NONE, None),
        ("max-qarma5:max", "6.12", "4.1.1", NONE, "criu-2709"),
        ("max-qarma5:max", "6.12", "4.1.1", PLUGIN, None),
    ],
)
def test_which_known_issue_applies(
    cpu: str, kernel: str, criu: str, module: KeyModule, issue: str | None
) -> None:
    dump, _, restore = criu.partition(":")
    pair = CRIU_BUILDS[dump], CRIU_BUILDS[restore or dump]
    scenario = cell(cpu, kernel=kernel, criu=pair, module=module)
    found = known_issue(scenario)
    assert (found and found.id) == issue
    if found:
        # An entry that predicts what the rules do has no place in the table.
        assert found.outcome is not predict(scenario).outcome or found.id == "image-too-new"


def test_a_build_that_does_not_say_its_version_is_predicted_all_the_same() -> None:
    mine = dataclasses.replace(CRIU_BUILDS["4.2.1"], name="mine", version="unknown")
    assert known_issue(cell("neoverse-v1", kernel="6.12:6.1", criu=(mine, mine))) is None


def test_auth_is_disabled_only_for_images_without_signatures() -> None:
    for cpu in ("neoverse-v1", "neoverse-n1", V1_TO_N1, "max-qarma5:max"):
        plain, policy = cell(cpu, module=PLUGIN), cell(cpu, module=KeyModule.PLUGIN_DISABLE_AUTH)
        assert predict(policy) == predict(plain)
    assert predict(cell(N1_TO_V1, module=PLUGIN)).outcome is Outcome.RESTORE_REFUSED
    assert predict(cell(N1_TO_V1, module=KeyModule.PLUGIN_DISABLE_AUTH)).outcome is Outcome.SURVIVED


def test_entries_have_an_id_of_their_own_and_an_upstream_link_if_any() -> None:
    for entry in KNOWN_ISSUES:
        assert entry.url is None or entry.url.startswith("https://github.com/")
    assert len({entry.id for entry in KNOWN_ISSUES}) == len(KNOWN_ISSUES)


def _issue(outcome: Outcome, identity: str = "x") -> KnownIssue:
    return KnownIssue(
        id=identity, title="", url="", matches=lambda _: True, outcome=outcome, since=None, until=None
    )


def test_a_table_that_contradicts_itself_is_refused() -> None:
    table = [_issue(Outcome.HUNG, "one"), _issue(Outcome.SURVIVED, "two")]
    with pytest.raises(ValueError, match="matches one and two"):
        known_issue(cell(), table)


@pytest.mark.parametrize(
    ("predicted", "known", "actual", "verdict"),
    [
        (Outcome.SURVIVED, None, Outcome.SURVIVED, Verdict.AS_PREDICTED),
        (Outcome.FPAC_FAULT, None, Outcome.FPAC_FAULT, Verdict.AS_PREDICTED),
        (Outcome.SURVIVED, None, Outcome.STATE_LOST, Verdict.REGRESSION),
        (Outcome.SURVIVED, None, Outcome.SIGNED_PC_FAULT, Verdict.REGRESSION),
        (Outcome.SIGNED_PC_FAULT, None, Outcome.SURVIVED, Verdict.FIXED),
        (Outcome.SIGNED_PC_FAULT, None, Outcome.FPAC_FAULT, Verdict.REGRESSION),
        (Outcome.SIGNED_PC_FAULT, None, Outcome.RESTORE_REFUSED, Verdict.FIXED),
        (Outcome.RESTORE_REFUSED, None, Outcome.DUMP_FAILED, Verdict.REGRESSION),
        (Outcome.RESTORE_REFUSED, Outcome.HUNG, Outcome.HUNG, Verdict.KNOWN_ISSUE),
        (Outcome.RESTORE_REFUSED, Outcome.HUNG, Outcome.RESTORE_REFUSED, Verdict.FIXED),
        (Outcome.SURVIVED, Outcome.DUMP_FAILED, Outcome.SURVIVED, Verdict.FIXED),
        (Outcome.SURVIVED, Outcome.DUMP_FAILED, Outcome.HUNG, Verdict.REGRESSION),
        (Outcome.SURVIVED, Outcome.HUNG, Outcome.INVALID, Verdict.INVALID),
        (Outcome.SURVIVED, None, Outcome.INVALID, Verdict.INVALID),
        (Outcome.SURVIVED, None, Outcome.INFRA_ERROR, Verdict.ERROR),
    ],
)
def test_verdicts(predicted: Outcome, known: Outcome | None, actual: Outcome, verdict: Verdict) -> None:
    assert judge(predicted, None if known is None else _issue(known), actual) is verdict


def test_nothing_but_what_was_expected_is_green() -> None:
    for predicted in Outcome:
        for actual in Outcome:
            assert judge(predicted, None, actual).is_green == (actual is predicted and actual.is_conclusive)


def test_every_outcome_answers_every_question() -> None:
    for outcome in Outcome:
        assert outcome.value == outcome.name.lower()
        assert (outcome.damage >= 0) == outcome.is_conclusive
        assert not outcome.is_pac_fault or outcome.is_fault
