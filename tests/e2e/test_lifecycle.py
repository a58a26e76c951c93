"""Nothing is left behind: after success, failure and Ctrl-C at once, after SIGKILL by the next command."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import harness
from harness.core.deadline import Deadline
from harness.core.errors import ExitCode
from harness.core.rundir import sweep
from harness.machines.template import TEMPLATE_KIND
from harness.provision.context import Provision
from harness.scenario.lab import Lab, MachineKind

KILLS_WHILE_MAKING = 8
KILLS_WHILE_RUNNING = 12
ENDS_WITHIN = 2.0  # seconds after the parent was killed
# Making the small template of the test, and one arm of a run up to its restore, take about this long.
MAKING_SECONDS, RUNNING_SECONDS = 5.0, 4.0
KEY = "lifecycle"

# The machine of the test as the child processes know it.
_PREAMBLE = """
import sys
from pathlib import Path
from harness.catalogue.bases import BASES
from harness.catalogue.cpus import DEFAULT_CPU
from harness.catalogue.criu_builds import DEFAULT_CRIU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.core.deadline import Deadline
from harness.guest.workload import load_workload
from harness.machines.qemu import QemuMachine
from harness.machines.template import TemplateSpec, template
from harness.provision.bases import prepare_base
from harness.provision.context import Provision
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.options import RunOptions
from harness.scenario.run import run_scenario

def seconds(count):
    return Deadline.after(count, "a step of the test")

with Provision.from_environment() as provision, Lab(provision) as lab:
    base = prepare_base(BASES["debian-13"], provision)
    kind = MachineKind(cpu=DEFAULT_CPU, kernel=DEFAULT_KERNEL, base=base, builds=(DEFAULT_CRIU,))
    files = lab._files(kind)
    program = lab.qemu.command
    print("go", flush=True)
"""
MAKE = f"""{_PREAMBLE}
    spec = TemplateSpec(key="{KEY}", program=program, cpu=DEFAULT_CPU.qemu, files=files)
    made = template(provision.cache, spec, lambda machine: {{"prepared": "yes"}})
    with made.clone(seconds(30)) as machine:
        assert machine.run(["true"], seconds(10)).returncode == 0
    print("done", made.facts["prepared"], flush=True)
"""
RUN = f"""{_PREAMBLE}
    spec = MachineSpec(cpu=DEFAULT_CPU, kernel=DEFAULT_KERNEL)
    scenario = Scenario(
        source=spec, target=spec, criu_dump=DEFAULT_CRIU, criu_restore=DEFAULT_CRIU, base=base.base,
        module=KeyModule.PLUGIN, workload=load_workload("python-sleeper"), driver=Driver.CRIU, cycles=1,
    )
    result = run_scenario("arm", scenario, base, lab, RunOptions(results=Path(sys.argv[1])))
    print("done", result.outcome.value, flush=True)
"""
START = f"""{_PREAMBLE}
    QemuMachine.start(
        program=program, cpu=DEFAULT_CPU.qemu, files=files, ram=Path(sys.argv[1], "ram"), ram_shared=True,
        incoming=True,
    )
    print("started", flush=True)
    sys.stdin.read()
"""
# One CPU: the arms of a run take turns, so that the test needs one machine at a time.
REPRO = "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); sys.argv[0] = 'criu-pac'"
REPRO += "; from harness.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the children of a test live: a runtime directory that names them, a cache, results."""

    runtime: Path
    cache: Path
    results: Path

    def start(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a child in a process group of its own, as a terminal does."""
        environment = os.environ | {
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.results / "state"),
            "CRIU_PAC_CACHE": str(self.cache),
            "PYTHONPATH": f"{Path(harness.__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}",
        }
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.results,
            process_group=0,
        )

    def processes(self) -> dict[int, str]:
        """Return the living processes that descend from a child of this place: pid and program."""
        found = {}
        mark = f"XDG_RUNTIME_DIR={self.runtime}\0".encode()
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (directory / "environ").read_bytes():
                    found[int(directory.name)] = (directory / "cmdline").read_text().replace("\0", " ")
            except OSError:  # not ours, or gone in this moment
                continue
        return found

    def machines(self) -> list[int]:
        """Return the process ids of this place's QEMUs."""
        return [pid for pid, program in self.processes().items() if "qemu-system-aarch64" in program]

    def ended(self) -> bool:
        """Tell whether every process was gone in time."""
        return wait_for(lambda: not self.processes(), ENDS_WITHIN)

    def half_built(self) -> list[Path]:
        return list(self.cache.glob(f"artifacts/{TEMPLATE_KIND}/.*"))


@pytest.fixture
def place(provision: Provision, tmp_path: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="criu-test-") as runtime:
        here = Place(runtime=Path(runtime), cache=provision.cache.root, results=tmp_path)
        yield here
        for pid in here.processes():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def place_without_templates(place: Place, machine_kind: MachineKind, lab: Lab) -> Iterator[Place]:
    """A place whose cache has everything but templates; links, so on the cache's own file system."""
    with tempfile.TemporaryDirectory(dir=place.cache, prefix=".test-") as directory:
        cache = Path(directory)
        shutil.copytree(
            place.cache / "artifacts",
            cache / "artifacts",
            copy_function=os.link,
            symlinks=True,
            ignore=shutil.ignore_patterns(".*.building-*", TEMPLATE_KIND),
        )
        yield Place(runtime=place.runtime, cache=cache, results=place.results)


def wait_for(what: Callable[[], object], seconds: float) -> bool:
    """Tell whether ``what`` became true in time."""
    over = time.monotonic() + seconds
    while not what():
        if time.monotonic() > over:
            return bool(what())
        time.sleep(0.01)
    return True


def line(child: "subprocess.Popen[str]") -> str:
    """Return the next line of a child, or what it said instead."""
    assert child.stdout is not None
    assert child.stderr is not None
    return child.stdout.readline().strip() or child.stderr.read()


def kill(child: "subprocess.Popen[str]") -> None:
    """Kill the process alone: whatever it started has to notice by itself."""
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):  # not read to its end: an orphan may hold it
        assert stream is not None
        stream.close()


def interrupt(child: "subprocess.Popen[str]") -> tuple[str, float]:
    """Press Ctrl-C: SIGINT to the whole group. Return what it said on stderr, and the seconds it took."""
    started = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    return errors, time.monotonic() - started


@pytest.fixture
def instants() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed of the instants: {seed}")  # pytest shows it when the test fails
    return random.Random(seed)


def test_the_search_for_processes_finds_one(place: Place) -> None:
    child = place.start("import subprocess; subprocess.run(['sleep', '60'])")
    assert wait_for(lambda: len(place.processes()) == 2, 10), "the child and its sleep"
    kill(child)
    [orphan] = place.processes()
    os.kill(orphan, signal.SIGKILL)
    assert place.ended()


def test_kill_at_random_instants(
    place_without_templates: Place, place: Place, instants: random.Random
) -> None:
    moments = [(MAKE, MAKING_SECONDS)] * KILLS_WHILE_MAKING + [(RUN, RUNNING_SECONDS)] * KILLS_WHILE_RUNNING
    orphaned = 0
    for number, (code, longest) in enumerate(moments):
        here = place_without_templates if code is MAKE else place
        pause = instants.uniform(0, longest)
        what = f"kill {number}, {pause:.3f} s into {'a template' if code is MAKE else 'a run'}"
        child = here.start(code, str(here.results / f"run-{number}"))
        assert line(child) == "go", what
        time.sleep(pause)
        kill(child)
        assert here.ended(), f"{what}: {here.processes()}"
        orphaned += len(list(here.runtime.iterdir()))
        sweep(base=here.runtime)
        assert list(here.runtime.iterdir()) == [], what
    assert orphaned, "no kill hit a machine: the instants prove nothing"

    here = place_without_templates
    out = finished_by_the_second_maker(here)
    assert out == ["done", "yes"]
    assert here.half_built() == [], "what killed builds left goes with the next one"
    assert list(here.runtime.glob("*")) == sweep(base=here.runtime)
    assert place.processes() == {}


def finished_by_the_second_maker(here: Place) -> list[str]:
    """Let two make the template, kill the one whose machine boots, and return what the other one says."""
    first, second = here.start(MAKE), here.start(MAKE)
    assert line(first) == line(second) == "go"
    assert wait_for(here.machines, 30)
    time.sleep(1)
    [machine] = here.machines()  # the other maker waits
    parent = int(Path(f"/proc/{machine}/stat").read_text().rpartition(")")[2].split()[1])
    killed, waiting = (first, second) if parent == first.pid else (second, first)
    kill(killed)
    out, errors = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, errors
    return out.split()


def test_the_next_command_sweeps(place: Place) -> None:
    child = place.start(START, str(place.results))
    assert [line(child), line(child)] == ["go", "started"]
    [directory] = place.runtime.iterdir()
    assert (directory / "qmp.sock").exists()
    told = place.start(REPRO, "cache", "list")
    told.communicate(timeout=60)
    assert directory.exists(), "its owner lives"
    kill(child)
    told = place.start(REPRO, "cache", "list")
    _, errors = told.communicate(timeout=60)
    assert told.returncode == ExitCode.OK, errors
    assert list(place.runtime.iterdir()) == []


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.05])
def test_kill_before_the_machine_has_run_an_instruction(place: Place, tmp_path: Path, pause: float) -> None:
    child = place.start(START, str(tmp_path))
    assert [line(child), line(child)] == ["go", "started"]
    time.sleep(pause)
    kill(child)
    assert place.ended(), place.processes()


def test_a_run_that_succeeds_leaves_nothing(place: Place) -> None:
    child = place.start(RUN, str(place.results))
    out, errors = child.communicate(timeout=120)
    assert out.split() == ["go", "done", "survived"], errors
    assert list(place.runtime.iterdir()) == []
    assert place.processes() == {}


def test_a_machine_whose_owner_fails_leaves_nothing(lab: Lab, machine_kind: MachineKind) -> None:
    template = lab.template(machine_kind)
    with pytest.raises(KeyError), template.clone(Deadline.after(30, "a clone")) as machine:
        raise KeyError
    assert not machine.directory.exists()
    assert not Path(f"/proc/{machine.pid}").exists()


def test_ctrl_c_during_a_run(place: Place, machine_kind: MachineKind, instants: random.Random) -> None:
    child = place.start(REPRO, "repro", "--base", "debian-13", "--results", str(place.results / "results"))
    assert wait_for(place.machines, 30)
    time.sleep(instants.uniform(0, 4))
    errors, seconds = interrupt(child)
    assert child.returncode == ExitCode.INTERRUPTED, errors
    assert errors.splitlines()[-1] == "criu-pac: error: interrupted; exit code 130"
    assert "Traceback" not in errors
    assert seconds < 5
    assert place.ended()
    assert list(place.runtime.iterdir()) == []


def test_ctrl_c_again_and_again(place: Place, machine_kind: MachineKind, instants: random.Random) -> None:
    child = place.start(REPRO, "repro", "--base", "debian-13", "--results", str(place.results / "results"))
    assert wait_for(place.machines, 30)
    time.sleep(instants.uniform(0, 2))
    for _ in range(5):
        os.killpg(child.pid, signal.SIGINT)
        time.sleep(instants.uniform(0, 0.04))
    _, errors = child.communicate(timeout=30)
    # The last one may find Python itself ending, where it has its default effect.
    assert child.returncode in {ExitCode.INTERRUPTED, -signal.SIGINT}, errors
    assert place.ended()
    sweep(base=place.runtime)  # it may have cut the cleaning short
    assert list(place.runtime.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_template_is_made(
    place_without_templates: Place, instants: random.Random, number: signal.Signals
) -> None:
    here = place_without_templates
    child = here.start(REPRO, "repro", "--base", "debian-13", "--results", str(here.results / "results"))
    assert wait_for(here.machines, 30)
    time.sleep(instants.uniform(0, 4))
    started = time.monotonic()
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == ExitCode.INTERRUPTED, errors
    assert errors.splitlines()[-1] == "criu-pac: error: interrupted; exit code 130"
    assert time.monotonic() - started < 5
    assert here.ended()
    assert list(here.runtime.iterdir()) == []
    assert here.half_built() == []
