"""What the key module costs while tasks are stopped, in pairs within this one run, on an idle host.

`python benchmarks/key_module.py` prints the tables of docs/benchmarks.md. Times are CRIU's own:
frozen_time of stats-dump, restore_time of stats-restore.
"""

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.catalogue.bases import base as base_named
from harness.catalogue.cpus import DEFAULT_CPU
from harness.catalogue.criu_builds import criu_build
from harness.catalogue.kernels import kernel
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, OUTPUT, WORK, Container
from harness.guest.criu import Criu
from harness.guest.prepare import clean_up
from harness.machines.protocol import check
from harness.provision.bases import prepare_base
from harness.provision.context import Provision
from harness.provision.toolchain import AARCH64_LINUX, compile_c
from harness.scenario.lab import Lab, MachineKind

# Pairs by how many threads there are in all. Even: whichever comes second in a pair finds warm
# caches, and that has to cancel out. Many where a dump is short and the host's noise is as long.
PAIRS = ((10, 30), (100, 6), (1000, 4))
THREADS = ((1, 1), (1, 10), (1, 100), (1, 1000))
TASKS = ((1, 1), (10, 1), (50, 1), (200, 1))
LEAST, SHARE = 5000, 0.10  # of the bound on what is added: microseconds, or part of the time without
PROGRAM = f"{WORK}/tree"
FROZEN, RESTORE = (1, 2), (2, 4)  # message and field of CRIU's images/stats.proto
_WIDTHS = {1: 8, 5: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size: medians in microseconds without and with the module."""

    tasks: int
    threads: int
    without: float
    added: float

    @property
    def held(self) -> bool:
        """Whether the bound was kept."""
        return self.added <= max(LEAST, SHARE * self.without)


def main() -> int:
    """Measure everything, print it, and return 1 when a bound was missed."""
    held = True
    with Provision.from_environment() as provision, Lab(provision) as lab:
        for build, series in (("3.17.1", "6.1"), ("4.2.1", "6.12")):
            print(f"\nFrozen time, CRIU {build}, kernel {series}:\n")
            held &= show(measure(lab, provision, build, series, restoring=False))
        print("\nRestore, CRIU 4.2.1, kernel 6.12:\n")
        held &= show(measure(lab, provision, "4.2.1", "6.12", restoring=True))
    return 0 if held else 1


def show(rows: Iterator[Row]) -> bool:
    """Print a table and tell whether every bound was kept."""
    held = True
    print("| tasks | threads each | without | added | added, relative | held |\n|--:|--:|--:|--:|--:|---|")
    for row in rows:
        print(
            f"| {row.tasks} | {row.threads} | {row.without / 1000:.1f} ms | {row.added / 1000:.1f} ms "
            f"| {row.added / row.without:.1%} | {'yes' if row.held else 'NO'} |",
            flush=True,
        )
        held &= row.held
    return held


def measure(lab: Lab, provision: Provision, build: str, series: str, *, restoring: bool) -> Iterator[Row]:
    """Yield a row per size, each from a clone of its own."""
    base = prepare_base(base_named("debian-13"), provision)
    kind = MachineKind(cpu=DEFAULT_CPU, kernel=kernel(series), base=base, builds=(criu_build(build),))
    template = lab.template(kind)
    program = compiled(provision)
    for tasks, threads in (*THREADS, *TASKS[1:]):
        machine = lab.clone(template)
        try:
            container = Container(machine, template.facts["container_pid"])
            put = ["bash", "-c", f"cat > {PROGRAM} && chmod 755 {PROGRAM}"]
            check(machine, put, deadline(), stdin=program)
            without, added = pairs(container, build, tasks, threads, restoring=restoring)
            yield Row(tasks=tasks, threads=threads, without=without, added=added)
        finally:
            lab.release(machine)


def compiled(provision: Provision) -> bytes:
    """Return the program whose processes are dumped."""
    with tempfile.TemporaryDirectory(prefix="criu-pac-bench-") as scratch:
        source = Path(__file__).with_name("tree.c")
        output = Path(scratch) / "tree"
        cache = provision.cache.root / "zig"
        compile_c([source], output, target=AARCH64_LINUX, flags=["-O2", "-pthread"], cache_root=cache)
        return output.read_bytes()


def pairs(
    container: Container, build: str, tasks: int, threads: int, *, restoring: bool
) -> tuple[float, float]:
    """Return the median without the module and the median of what it adds in a pair."""
    pid = container.probe.launch(OUTPUT, [PROGRAM, str(tasks), str(threads)], deadline())
    ready = deadline()
    ready.poll(lambda: b"READY" in container.machine.read_file(OUTPUT, ready) or None)
    without, added = [], []
    count = next(count for most, count in PAIRS if tasks * threads <= most)
    for number in range(count + 1):
        order = (False, True) if number % 2 else (True, False)
        times = {loaded: once(container, build, pid, loaded=loaded, restoring=restoring) for loaded in order}
        if number:  # the first pair warms up
            without.append(times[False])
            added.append(times[True] - times[False])
    clean_up(container.machine)
    return statistics.median(without), statistics.median(added)


def once(container: Container, build: str, pid: int, *, loaded: bool, restoring: bool) -> int:
    """Return the microseconds of one dump, or of one restore after one."""
    module = KeyModule.PLUGIN if loaded else KeyModule.NONE
    leave = () if restoring else ("--leave-running",)
    criu = Criu(container, criu_build(build), module, dump_options=leave)
    dump = criu.dump(pid, deadline(), cycle=1)
    if dump.returncode != 0:
        raise SystemExit(f"dump failed: {dump.reason}")
    if not restoring:
        return statistic(container, "stats-dump", FROZEN)
    gone = ["bash", "-c", f"while [ -d /proc/{pid} ]; do sleep 0.05; done; sleep 1"]
    container.run(gone, deadline())
    restore = criu.restore(deadline(), cycle=1)
    if restore.returncode != 0:
        raise SystemExit(f"restore failed: {restore.reason}")
    return statistic(container, "stats-restore", RESTORE)


def statistic(container: Container, name: str, path: tuple[int, int]) -> int:
    """Return one number of a statistics image: magic (twice 4 bytes), size, a message of messages."""
    data = container.machine.read_file(f"{IMAGES}/{name}", deadline())
    message, field = path
    inner = dict(fields(data[12:]))[message]
    assert isinstance(inner, bytes)
    value = dict(fields(inner))[field]
    assert isinstance(value, int)
    return value


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 -- the last byte of a varint
                return value

    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
            continue
        size = varint() if kind == 2 else _WIDTHS[kind]  # noqa: PLR2004 -- length-delimited
        yield tag >> 3, data[at : at + size]
        at += size


def deadline() -> Deadline:
    """Return a deadline that only ends a measurement that hangs."""
    return Deadline.after(300, "a measurement")


if __name__ == "__main__":
    raise SystemExit(main())
