"""What a machine needs before its first scenario; done once per template.

Engine, container image, container, CRIU's look at the kernel, and the positive control that
needs no CRIU: a sleeping process given fresh keys by ptrace must die of it, and live when
given its own back.
"""

import contextlib
import io
import re
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.scenario import KeyModule
from harness.catalogue.workloads import Workload
from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import EngineError
from harness.guest.container import (
    CORES,
    EXITS,
    IMAGES,
    INIT,
    NAME,
    OUTPUT,
    TOOLS,
    WORK,
    Container,
)
from harness.guest.criu import Criu
from harness.guest.engine import DockerEngine
from harness.guest.probe import PROBE, SALT
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import Machine, check
from harness.parsing.branch_protection import branch_protection

# At most 127 characters (CORENAME_MAX_SIZE); the dying task waits for the handler.
_SETTINGS = f"""
mkdir -p {IMAGES} {CORES} && mount -t tmpfs -o mode=0700 work {WORK} && mkdir -p {IMAGES} {CORES} &&
head -c 32 /dev/urandom > {SALT} &&
echo '|{PROBE} core --dir {CORES} --salt {SALT} %P %p %s %e' > /proc/sys/kernel/core_pattern &&
echo 16 > /proc/sys/kernel/core_pipe_limit
"""
SCENARIO_IMAGE = "criu-pac/scenario"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerImage:
    """What the container image is made of on the host.

    ``archive`` becomes the image ``reference``: loaded when it is an image archive, imported
    when it is a root file system. ``context`` is the build context, with its Dockerfile.
    """

    reference: str
    archive: Path
    is_image_archive: bool
    context: bytes


def prepare(
    machine: Machine,
    image: ContainerImage,
    builds: Mapping[str, CriuBuild],
    control: Workload,
    programs: list[str],
) -> dict[str, str]:
    """Prepare ``machine`` and return the facts its clones start from.

    ``control`` is the workload of the positive control; ``programs`` are the files whose
    branch protection is observed, by their path in the container. Raises MachineError,
    EngineError, WorkloadError and DeadlineError.
    """
    check(machine, ["bash", "-c", _SETTINGS], Deadline.after(20, "settings of the guest"))
    engine = DockerEngine(machine)
    with contextlib.closing(engine):
        with steps.step("start dockerd"):
            engine.start(Deadline.after(90, "start of dockerd"))
        with steps.step("container image"):
            if image.is_image_archive:
                engine.load_image(image.archive)
            else:
                engine.import_base(image.archive, image.reference)
            engine.build(image.context, SCENARIO_IMAGE)
        with steps.step("start container"):
            pid = engine.run_container(SCENARIO_IMAGE, name=NAME, command=INIT, read_only=TOOLS, shared=WORK)
        container = Container(machine, pid)
        facts = {"container_pid": pid, "container_root": engine.root_of(NAME)}
        facts |= observe_container(engine, NAME, container, builds, control, programs)
    check(machine, ["dmesg", "--clear"], Deadline.after(10, "clearing the kernel log"))
    clean_up(machine)
    return facts


def observe_container(
    engine: DockerEngine,
    name: str,
    container: Container,
    builds: Mapping[str, CriuBuild],
    control: Workload,
    programs: list[str],
) -> dict[str, str]:
    """Return what can be seen in the running container ``name``; let every CRIU look at the kernel."""
    facts = {f"version {part}": version for part, version in engine.version().items()}
    with steps.step("branch protection"):
        for program in programs:
            facts |= _observe_protection(engine, name, container, program, known=facts)
    for build in builds.values():
        Criu(container, build, KeyModule.NONE).warm_up(Deadline.after(60, f"first run of CRIU {build.name}"))
    with steps.step("positive control"):
        facts |= _positive_control(container, control)
    return facts


def clean_up(machine: Machine) -> None:
    """Remove what a run left in the work directory, for the next one."""
    script = f"rm -rf {IMAGES}/* {CORES}/* {OUTPUT} {WORK}/control-keys; : > {EXITS}"
    check(machine, ["bash", "-c", script], Deadline.after(10, "clearing the work directory"))


def _observe_protection(
    engine: DockerEngine, name: str, container: Container, program: str, *, known: Mapping[str, str]
) -> dict[str, str]:
    """Scan a program of the container, resolved through its links; the path resolved is the fact's name.

    Nothing is observed of a program that is not there: whoever needs the fact will miss it.
    """
    found = container.run(["readlink", "-e", program], Deadline.after(60, f"reading {program}"))
    if found.returncode != 0:
        return {}
    real = found.text.strip()
    if f"protected {real}" in known:
        return {}
    with tarfile.open(fileobj=io.BytesIO(engine.export(name, real))) as tar:
        member = next((one for one in tar if one.isreg()), None)
        stream = tar.extractfile(member) if member else None
        if stream is None:
            raise EngineError(f"{real} in the container is no regular file")
        protection = branch_protection(stream.read())
    return {
        f"protected {real}": str(protection.protected),
        f"signing instructions {real}": str(protection.paciasp + protection.pacibsp),
    }


def _positive_control(container: Container, workload: Workload) -> dict[str, str]:
    if not container.probe.machine(Deadline.after(20, "probe of the machine")).keys_readable:
        return {"control fresh keys": "no keys", "control own keys": "no keys"}
    keys = f"{WORK}/control-keys"
    outcomes = {}
    for name in ("fresh", "own"):
        running = RunningWorkload.start(
            container, workload, Deadline.after(60, "start of the positive control")
        )
        deadline = Deadline.after(60, "positive control")
        # Stopped: it must not wake up between the two changes of its keys.
        _signal(container, "STOP", running.pid, deadline)
        container.probe.new_keys(running.pid, keys, deadline)
        if name == "own":
            container.probe.load_keys(running.pid, keys, deadline)
        before = running.ticks(deadline)
        _signal(container, "CONT", running.pid, deadline)
        goal = before + workload.watch_ticks
        progress = running.wait_progress(goal, deadline)
        alive = "alive" if progress.ticks >= goal else "stuck"
        died = f"signal {progress.exits[-1] & 0x7F}" if progress.exits else None
        outcomes[f"control {name} keys"] = died or alive
        if died is None:
            _signal(container, "KILL", running.pid, deadline)
            running.wait_exit(deadline)
        clean_up(container.machine)
    return outcomes


def _signal(container: Container, name: str, pid: int, deadline: Deadline) -> None:
    check(container.machine, [*container.prefix, "bash", "-c", f"kill -{shlex.quote(name)} {pid}"], deadline)


def libraries_of(maps: str) -> tuple[str, ...]:
    """Return the files mapped executable in the text of a /proc/PID/maps, without repeats."""
    # ffff9c000000-ffff9c1a0000 r-xp 00000000 00:2d 1234   /usr/lib/aarch64-linux-gnu/libc.so.6
    found = re.findall(r"^\S+ r-xp \S+ \S+ \d+ +(/.*)$", maps, re.MULTILINE)
    return tuple(dict.fromkeys(found))
