"""The matrix: which scenarios a selection or given dimensions make, and which make no sense."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.catalogue.bases import BASES, CONTROL_BASE, Base
from harness.catalogue.cpus import CONTROL_CPU, CPUS, DEFAULT_CPU, NOPAUTH_CPU, CpuModel, UnseenCpu
from harness.catalogue.criu_builds import CRIU_BUILDS, DEFAULT_CRIU, CriuBuild
from harness.catalogue.kernels import DEFAULT_KERNEL, KERNELS, Kernel
from harness.catalogue.names import suggestion
from harness.catalogue.outcome import Verdict
from harness.catalogue.prediction import premises
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.catalogue.workloads import Workload
from harness.core.errors import ExitCode, UsageError
from harness.guest.workload import available_workloads, load_workload
from harness.scenario.arms import EXIT_CODES, WORST_FIRST, Arm

MakeMachine = Callable[[CpuModel | UnseenCpu, Kernel], MachineSpec]

SELECTIONS = ("smoke", "standard", "full")
_WIDE_ADDRESSES = 52
DEFAULT_BASE = BASES["debian-13"]
CELL_SECONDS = 180.0  # for one cell as a whole
_MASK_PRCTL = (5, 13)  # PR_PAC_SET_ENABLED_KEYS
_STAND_INS = ("4.1.1-nopac", "4.2.1-nopac")
_KEYS_DIFFER = {"thread-keys", "thread-masks", "process-keys"}
_DEFAULT_WORKLOAD = "python-sleeper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Values of each dimension; an empty one is not given. Pairs: source and target, or dump and restore."""

    criu: tuple[tuple[CriuBuild, CriuBuild], ...] = ()
    kernel: tuple[tuple[Kernel, Kernel], ...] = ()
    cpu: tuple[tuple[CpuModel | UnseenCpu, CpuModel | UnseenCpu], ...] = ()
    module: tuple[KeyModule, ...] = ()
    driver: tuple[Driver, ...] = ()
    base: tuple[Base, ...] = ()
    workload: tuple[Workload, ...] = ()
    cycles: tuple[int, ...] = ()

    def given(self) -> bool:
        """Whether any value was given."""
        return any(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A scenario that makes no sense, and why."""

    scenario: Scenario
    reason: str


def known_machine(cpu: CpuModel | UnseenCpu, kernel: Kernel) -> MachineSpec:
    """Return a machine whose parts are all in the catalogue; ValueError for another."""
    if isinstance(cpu, UnseenCpu) or kernel.path:
        raise ValueError(f"what {cpu.name} does with kernel {kernel.name} has to be observed")
    return MachineSpec(cpu=cpu, kernel=kernel)


def matrix(
    selection: str | None,
    wanted: Dimensions,
    default_base: Base,
    machine: MakeMachine = known_machine,
) -> tuple[list[Scenario], list[Excluded]]:
    """Return the cells to run, in a stable order and each once, and those left out with a reason.

    Given dimensions replace the selection's; without a selection the others take their defaults.
    ``machine`` makes one of a CPU and a kernel: with any but the catalogue's, it has to look. Raises
    UsageError for an unknown selection and for two workloads of one name, and what ``machine`` raises.
    """
    places: dict[str, str] = {}
    for one in wanted.workload:
        if places.setdefault(one.name, one.spelled) != one.spelled:
            raise UsageError(f"{places[one.name]} and {one.spelled} are two workloads of one name")
    cells: dict[str, Scenario] = {}
    excluded: dict[str, Excluded] = {}
    for start in _selected(selection, default_base):
        for cell in _replaced(start, wanted, machine):
            reason = senseless(cell)
            if reason:
                excluded[cell.id] = Excluded(scenario=cell, reason=reason)
            else:
                cells[cell.id] = cell
    return list(cells.values()), list(excluded.values())


def senseless(cell: Scenario) -> str | None:
    """Return why a scenario would show nothing, None for one to run."""
    source, target, by_engine = cell.source, cell.target, cell.driver is not Driver.CRIU
    rules = (
        (bool(cell.lacking), f"the base {cell.base.name} has no {cell.lacking}"),
        (cell.crosses_machines and by_engine, "between machines only the driver criu is served"),
        (cell.crosses_machines and cell.cycles != 1, "between machines there is one cycle"),
        (
            by_engine and not (source.kernel.tells_rseq and target.kernel.tells_rseq),
            "before kernel 5.13 CRIU has to run without rseq, which only the driver criu arranges",
        ),
        (
            cell.module is KeyModule.PLUGIN_DISABLE_AUTH and (source.cpu.pac or not target.cpu.pac),
            "the policy disable-auth is for images from a CPU without PAC on one with it",
        ),
        (
            cell.workload.language == "python"
            and source.va_bits == _WIDE_ADDRESSES
            and bool(premises(cell)["chance_excluded"]),
            "codes of three bits are too few for the few frames of a Python program: chance passes them",
        ),
        (
            "thread-masks" in cell.workload.flags and source.kernel.version < _MASK_PRCTL,
            "this kernel cannot disable a key",
        ),
    )
    return next((reason for applies, reason in rules if applies), None)


def arms_of(cells: Iterable[Scenario]) -> list[Arm]:
    """Return the cells as arms, named by their place and id."""
    return [Arm(name=cell.slug, scenario=cell) for cell in cells]


def shard(cells: Iterable[Scenario], number: int, count: int) -> list[Scenario]:
    """Return the ``number``-th, from 1, of ``count`` parts of the cells.

    Cells on the same machines stay together: they share templates, each of which takes longer to
    make than a cell to run and some 400 MB. Neighbouring machines go to different parts.
    """
    groups: dict[object, list[Scenario]] = {}
    for cell in cells:
        groups.setdefault((cell.source, cell.target, cell.base, cell.driver), []).append(cell)
    return [cell for group in list(groups.values())[number - 1 :: count] for cell in group]


def matrix_exit(verdicts: Iterable[Verdict]) -> int:
    """Return the exit code of all cells together: the worst one's."""
    codes = {EXIT_CODES[verdict] for verdict in verdicts}
    return next((code for code in WORST_FIRST if code in codes), ExitCode.OK)


def _selected(selection: str | None, base: Base) -> Iterator[Scenario]:
    start = Scenario(
        source=_machine(),
        target=_machine(),
        criu_dump=DEFAULT_CRIU,
        criu_restore=DEFAULT_CRIU,
        module=KeyModule.NONE,
        workload=load_workload(_DEFAULT_WORKLOAD),
        base=base,
        driver=Driver.CRIU,
    )
    if selection is None:
        yield from (start, replace(start, module=KeyModule.PLUGIN))
    elif selection == "smoke":
        yield from _smoke(start)
    elif selection == "standard":
        yield from _standard(start)
    elif selection == "full":
        yield from _full(start)
    else:
        raise UsageError(f"unknown selection {selection!r}", hint=suggestion(selection, SELECTIONS))


def _machine(cpu: CpuModel = DEFAULT_CPU, kernel: Kernel = DEFAULT_KERNEL) -> MachineSpec:
    return MachineSpec(cpu=cpu, kernel=kernel)


def _on(cell: Scenario, cpu: CpuModel, kernel: Kernel = DEFAULT_KERNEL) -> Scenario:
    return replace(cell, source=_machine(cpu, kernel), target=_machine(cpu, kernel))


def _with(cell: Scenario, dump: str, restore: str | None = None) -> Scenario:
    return replace(cell, criu_dump=CRIU_BUILDS[dump], criu_restore=CRIU_BUILDS[restore or dump])


def _smoke(start: Scenario) -> Iterator[Scenario]:
    """Yield the report, each of its conditions removed alone, the cure, old images in new CRIU."""
    frames = replace(start, workload=load_workload("c-frames"))
    for cell in (start, frames, _on(start, CPUS["neoverse-n2"])):
        yield from (cell, replace(cell, module=KeyModule.PLUGIN))
    yield _on(start, CONTROL_CPU)
    yield _on(start, NOPAUTH_CPU)  # stands in for a kernel without the option
    yield replace(start, base=CONTROL_BASE)
    yield _with(start, "4.2.1")
    yield _with(start, "3.17.1", "4.2.1")
    yield _with(_on(start, CONTROL_CPU), "3.17.1", "4.2.1")
    yield _with(start, "4.2.1", "3.17.1")


def _standard(start: Scenario) -> Iterator[Scenario]:
    yield from _smoke(start)
    both = (KeyModule.NONE, KeyModule.PLUGIN)
    workloads = [load_workload(name) for name in available_workloads()]
    for workload, module in itertools.product(workloads, both):
        yield replace(start, workload=workload, module=module)
    modern = KERNELS["6.12"]
    # Versions differ in whose keys they carry: the leader's, or nobody's.
    telling = [start.workload, *(one for one in workloads if _KEYS_DIFFER & set(one.flags))]
    native = _with(_on(start, DEFAULT_CPU, modern), "4.2.1")
    for workload, module in itertools.product(telling, both):
        yield replace(native, workload=workload, module=module)
    own_keys = load_workload("c-threads-own-keys")
    for name, workload, module in itertools.product(_STAND_INS, (start.workload, own_keys), both):
        yield replace(_with(native, name), workload=workload, module=module)
    for source, target in (("neoverse-v1", "neoverse-n1"), ("neoverse-n1", "neoverse-v1")):
        crossing = replace(
            native, source=_machine(CPUS[source], modern), target=_machine(CPUS[target], modern)
        )
        yield from (replace(crossing, module=module) for module in (*both, KeyModule.PLUGIN_DISABLE_AUTH))
    for source, target in (("max-qarma5", "max"), ("max", "max-qarma5")):
        other = replace(native, source=_machine(CPUS[source]), target=_machine(CPUS[target]))
        yield from (replace(other, module=module) for module in both)
    for old, new in ((DEFAULT_KERNEL, modern), (modern, DEFAULT_KERNEL)):
        yield replace(native, source=_machine(kernel=old), target=_machine(kernel=new))
    for driver, module in itertools.product((Driver.RUNC, Driver.DOCKER), both):
        yield replace(start, driver=driver, module=module)
    yield replace(start, module=KeyModule.PLUGIN, cycles=5)


def _full(start: Scenario) -> Iterator[Scenario]:
    everything = Dimensions(
        criu=tuple((one, one) for one in CRIU_BUILDS.values()),
        kernel=tuple((one, one) for one in KERNELS.values()),
        cpu=tuple((one, one) for one in CPUS.values()),
        module=(KeyModule.NONE, KeyModule.PLUGIN),
        base=tuple(one for one in BASES.values() if one.base_group and one.distribution == "debian"),
        workload=tuple(load_workload(name) for name in available_workloads()),
    )
    yield from _standard(start)
    yield from _replaced(start, everything, known_machine)


def _replaced(cell: Scenario, wanted: Dimensions, machine: MakeMachine) -> Iterator[Scenario]:
    """Yield the cell with every combination of the given values in place of its own."""

    def values(given: Sequence[object], own: object) -> Sequence[object]:
        return given or (own,)

    for criu, kernel, cpu, module, driver, base, workload, cycles in itertools.product(
        values(wanted.criu, (cell.criu_dump, cell.criu_restore)),
        values(wanted.kernel, (cell.source.kernel, cell.target.kernel)),
        values(wanted.cpu, (cell.source.cpu, cell.target.cpu)),
        values(wanted.module, cell.module),
        values(wanted.driver, cell.driver),
        values(wanted.base, cell.base),
        values(wanted.workload, cell.workload),
        values(wanted.cycles, cell.cycles),
    ):
        assert isinstance(criu, tuple)
        assert isinstance(kernel, tuple)
        assert isinstance(cpu, tuple)
        assert isinstance(module, KeyModule)
        assert isinstance(driver, Driver)
        assert isinstance(base, Base)
        assert isinstance(workload, Workload)
        assert isinstance(cycles, int)
        yield replace(
            cell,
            criu_dump=criu[0],
            criu_restore=criu[1],
            source=machine(cpu[0], kernel[0]),
            target=machine(cpu[1], kernel[1]),
            module=module,
            driver=driver,
            base=base,
            workload=workload,
            cycles=cycles,
        )
