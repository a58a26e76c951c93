"""What the doctor concludes from what it saw; the remedies it offers are cells that survive."""

import itertools
import shlex

import pytest

from harness.catalogue.bases import base
from harness.catalogue.cpus import CPUS, CpuModel, PacAlgorithm
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import KERNELS, Kernel
from harness.catalogue.known_issues import known_issue
from harness.catalogue.outcome import Outcome
from harness.catalogue.prediction import predict
from harness.catalogue.scenario import KeyModule, MachineSpec, Scenario
from harness.doctor.cells import command, nearest_cpu, nearest_criu, nearest_kernel
from harness.doctor.diagnosis import Conclusion, worst
from harness.doctor.remedies import remedies
from harness.doctor.setup import PROTECTED_BASE, Setup, evaluate
from harness.guest.workload import load_workload
from harness.parsing.criu_program import CriuProgram
from harness.scenario import choices
from harness.scenario.matrix import Dimensions, matrix

FLAGS = ((), ("thread-keys",), ("thread-masks",))
MODULES = (KeyModule.NONE, KeyModule.PLUGIN)
DT_HASH, GNU_HASH = frozenset({"DT_HASH", "DT_GNU_HASH"}), frozenset({"DT_GNU_HASH"})


def program(name: str) -> CriuProgram:
    build = CRIU_BUILDS[name]
    return CriuProgram(
        version=build.version,
        native_keys=build.native_keys,
        plugin_hooks=build.plugin_hooks,
        restorer_protected=build.restorer_protected,
        reads_gnu_hash=build.version != "3.17.1",
    )


PROGRAMS = {
    **{name: program(name) for name, build in CRIU_BUILDS.items() if not build.masks_pac},
    "4.0": CriuProgram(
        version="4.0", native_keys=False, plugin_hooks=12, restorer_protected=False, reads_gnu_hash=False
    ),
    "3.16": CriuProgram(
        version="3.16", native_keys=False, plugin_hooks=9, restorer_protected=False, reads_gnu_hash=False
    ),
}


def setup(criu: str, kernel: str, cpu: str, **more: object) -> Setup:
    machine = MachineSpec(cpu=CPUS[cpu], kernel=KERNELS[kernel])
    tags = DT_HASH if KERNELS[kernel].version < (6, 11) else GNU_HASH
    one = PROGRAMS[criu]
    return Setup(source=machine, target=machine, dump=one, restore=one, vdso_tags=tags, **more)  # type: ignore[arg-type]


def cell_of(text: str) -> Scenario:
    """Return the one cell that a `criu-pac matrix` command runs."""
    program_, name, *words = shlex.split(text)
    assert (program_, name) == ("criu-pac", "matrix")
    given = dict(zip(words[::2], words[1::2], strict=True))
    wanted = Dimensions(
        criu=(choices.criu_pair(given["--criu"]),),
        kernel=(choices.kernel_pair(given["--kernel"]),),
        cpu=(choices.cpu_pair(given["--cpu"]),),
        module=(KeyModule(given["--module"]),),
        driver=(choices.driver(given["--driver"]),),
        base=(base(given["--base"]),),
        workload=(load_workload(given["--workload"]),),
    )
    (cell,), excluded = matrix(None, wanted, PROTECTED_BASE)
    assert not excluded
    return cell


ALL = [
    setup(criu, kernel, cpu, module=module, flags=flags)
    for criu, kernel, cpu, module, flags in itertools.product(PROGRAMS, KERNELS, CPUS, MODULES, FLAGS)
]


def test_every_remedy_is_shown_by_a_cell_that_survives() -> None:
    offered = 0
    for one in ALL:
        if evaluate(one).survives:
            continue
        for remedy in remedies(one):
            cell = cell_of(remedy.cell)
            assert known_issue(cell) is None, remedy
            assert predict(cell).outcome is Outcome.SURVIVED, remedy
            assert remedy.cost
            offered += 1
    assert offered > 500  # the loop was not empty


def test_a_lost_process_can_always_be_helped() -> None:
    for one in ALL:
        assert evaluate(one).survives or remedies(one), one


@pytest.mark.parametrize(
    ("criu", "kernel", "cpu", "more", "outcome"),
    [
        ("3.17.1", "6.1", "neoverse-v1", {}, Outcome.SIGNED_PC_FAULT),
        ("3.17.1", "6.1", "neoverse-n2", {}, Outcome.FPAC_FAULT),
        ("3.17.1", "6.1", "neoverse-v1", {"module": KeyModule.PLUGIN}, Outcome.SURVIVED),
        ("3.17.1", "6.1", "neoverse-n1", {}, Outcome.SURVIVED),
        ("3.17.1", "6.1", "neoverse-v1", {"signs": False}, Outcome.SURVIVED),
        ("3.17.1", "6.12", "neoverse-v1", {}, Outcome.DUMP_FAILED),
        ("3.17.1", "6.12", "neoverse-n1", {}, Outcome.DUMP_FAILED),
        ("3.16", "6.1", "neoverse-v1", {"module": KeyModule.PLUGIN}, Outcome.DUMP_FAILED),
        ("4.0", "6.1", "neoverse-v1", {}, Outcome.SIGNED_PC_FAULT),
        ("4.1.1", "6.12", "neoverse-v1", {}, Outcome.HUNG),
        ("4.1.1", "6.12", "neoverse-v1", {"module": KeyModule.PLUGIN}, Outcome.HUNG),
        ("4.2.1", "6.12", "neoverse-n2", {}, Outcome.SURVIVED),
        ("4.2.1", "6.12", "neoverse-n2", {"flags": ("thread-keys",)}, Outcome.FPAC_FAULT),
        ("4.2.1", "5.10", "neoverse-v1", {}, Outcome.DUMP_FAILED),
        ("4.2.1", "6.12", "neoverse-v1", {"checkpoint_restore": False}, Outcome.DUMP_FAILED),
        (
            *("3.17.1", "6.1", "neoverse-v1"),
            {"module": KeyModule.PLUGIN, "late_amdgpu": True},
            Outcome.RESTORE_REFUSED,
        ),
    ],
)
def test_what_a_setup_ends_in(
    criu: str, kernel: str, cpu: str, more: dict[str, object], outcome: Outcome
) -> None:
    finding = evaluate(setup(criu, kernel, cpu, **more))
    assert finding.outcome is outcome, finding
    assert finding.why


def test_remedies_of_the_reported_case() -> None:
    said = [one.what for one in remedies(setup("3.17.1", "6.1", "neoverse-v1"))]
    assert [one.split()[0] for one in said] == ["upgrade", "install", "boot", "rebuild"]


def test_threads_with_keys_of_their_own_are_not_helped_by_an_upgrade() -> None:
    said = remedies(setup("4.2.1", "6.12", "neoverse-v1", flags=("thread-keys",)))
    assert [one.what.split()[0] for one in said] == ["install", "boot", "rebuild"]
    assert "--module plugin" in said[0].cell
    assert "--workload c-threads-own-keys" in said[0].cell


def test_a_hanging_restorer_is_not_helped_by_the_module_or_a_rebuild() -> None:
    said = remedies(setup("4.1.1", "6.12", "neoverse-v1"))
    assert [one.what.split()[0] for one in said] == ["upgrade", "boot"]
    # It dies of its own signatures: what the restored program is built with makes no difference.


def test_an_old_criu_on_a_new_kernel_is_not_helped_by_the_module() -> None:
    said = remedies(setup("3.17.1", "6.12", "neoverse-v1"))
    assert [one.what.split()[0] for one in said] == ["upgrade"]


def test_an_old_kernel_cannot_leave_authentication_off() -> None:
    assert not any("nopauth" in one.what for one in remedies(setup("4.0", "5.10", "neoverse-v1")))


@pytest.mark.parametrize(
    ("version", "name"), [("5.4", "5.10"), ("6.8", "6.1"), ("6.11", "6.12"), ("6.14", "6.12"), ("8.0", "7.2")]
)
def test_the_nearest_kernel(version: str, name: str) -> None:
    kernel = Kernel(name=version, suite="", package_group="", modules=(), va_bits=48)
    assert nearest_kernel(kernel) == name


@pytest.mark.parametrize(
    ("seen", "pac", "fpac", "algorithm", "name"),
    [
        ("Neoverse V1", True, False, PacAlgorithm.IMPDEF, "neoverse-v1"),
        ("Neoverse V1", False, False, None, "neoverse-v1-nopauth"),
        ("Neoverse N1", False, False, None, "neoverse-n1"),
        ("Neoverse V2", True, True, None, "neoverse-n2"),
        ("not shown by the kernel", True, True, PacAlgorithm.QARMA5, "max-qarma5"),
        ("MIDR 0x0", True, False, PacAlgorithm.QARMA5, "neoverse-v1"),
    ],
)
def test_the_nearest_cpu(
    *, seen: str, pac: bool, fpac: bool, algorithm: PacAlgorithm | None, name: str
) -> None:
    model = CpuModel(name=seen, qemu="", pac=pac, fpac=fpac, algorithm=algorithm)
    assert nearest_cpu(MachineSpec(cpu=model, kernel=KERNELS["6.1"])) == name


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_the_nearest_criu_does_the_same_with_keys(name: str) -> None:
    for kernel in KERNELS.values():
        build = CRIU_BUILDS[nearest_criu(PROGRAMS[name], kernel)]
        assert build.native_keys == PROGRAMS[name].native_keys


def test_a_command_names_both_machines() -> None:
    one = setup("4.2.1", "6.12", "neoverse-v1")
    other = setup("4.2.1", "6.12", "neoverse-n1")
    crossing = Setup(source=one.source, target=other.source, dump=one.dump, restore=one.restore)
    assert "--cpu neoverse-v1:neoverse-n1" in command(crossing)


def test_unknown_is_worse_than_safe() -> None:
    assert worst([Conclusion.SAFE, Conclusion.CANNOT_TELL]) is Conclusion.CANNOT_TELL
    assert worst([Conclusion.SAFE, Conclusion.AFFECTED]) is Conclusion.AFFECTED
    assert worst([]) is Conclusion.CANNOT_TELL
    assert [one.exit_code for one in Conclusion] == [1, 3, 0]
