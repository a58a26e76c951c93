"""Evidence: what a scenario leaves on disk, collected before anything is killed.

Every collector is bounded and its failure is itself written down. Images, key files and
memory are never collected; core files arrive with their key notes already blanked by the
handler in the guest.
"""

import contextlib
import io
import json
import logging
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import HarnessError
from harness.guest.container import CORES, EXITS, IMAGES, LISTS, OUTPUT
from harness.guest.native import KERNEL_LOG_MARK
from harness.machines.console import Console
from harness.machines.protocol import Machine, check
from harness.scenario.observation import Observation

log = logging.getLogger(__name__)

_SECONDS = 20.0
# CRIU's images hold the memory of the task (and, since 4.1, its keys): logs and names only.
_OUTPUT_BYTES = 1 << 20  # of a flood, its end
_PACK = f"""
trap 'rm -rf {LISTS}' EXIT
cd / && mkdir -p {LISTS} && ls -ln {IMAGES} > {LISTS}/images.list
tail -c {_OUTPUT_BYTES} {OUTPUT} > {LISTS}/output
set -- {LISTS[1:]}/images.list {EXITS[1:]} {LISTS[1:]}/output
for one in {IMAGES[1:]}/*.log {CORES[1:]}/core.*; do [ -f "$one" ] && set -- "$@" "$one"; done
tar -cf - "$@" || [ $? = 1 ]  # a file that grows meanwhile
"""
# Without kernel threads (no command line), and with the shell's own means: a process costs milliseconds here.
_STACKS = r"""
for t in /proc/[0-9]*/task/[0-9]*; do
    read -r -d '' first < "${t%/task/*}/cmdline"
    [ -n "$first" ] || continue
    echo "== $t $(<"$t/comm") in $(<"$t/wchan")"
    while read -r line; do
        case $line in State:* | TracerPid:* | SigBlk:*) echo "$line" ;; esac
    done < "$t/status"
    echo "$(<"$t/stack")"
done 2>&1
"""
_UNINTERRUPTIBLE = "State:\tD"


def collect(machine: Machine, seen: Observation, directory: Path, *, command: str = "") -> None:
    """Write the evidence of one scenario into ``directory``; never raises a HarnessError.

    ``command`` is the command line that reproduces it.
    """
    failures: list[str] = []
    with contextlib.suppress(OSError):  # every collector will say why it could not write
        directory.mkdir(parents=True, exist_ok=True)

    def attempt(what: str, collector: Callable[[], None]) -> None:
        try:
            collector()
        except (HarnessError, OSError, tarfile.TarError) as error:
            failures.append(f"{what}: {error}")

    attempt("files of the guest", lambda: _guest_files(machine, directory))
    attempt("kernel log", lambda: _write(directory / "kernel.log", read_kernel_log(machine)))
    console: Console | None = getattr(machine, "console", None)
    if console is not None:  # the host has none of its own
        attempt("console log", lambda: _write(directory / "console.log", console.text()))
    if command:
        attempt("command", lambda: _write(directory / "command.txt", f"{command}\n"))
    attempt("registers", lambda: _write(directory / "registers.json", _registers(seen)))
    attempt("observations", lambda: _write(directory / "observations.json", _observations(seen)))
    if failures:
        with contextlib.suppress(OSError):
            _write(directory / "not-collected.txt", "\n".join(failures) + "\n")


def collect_hang(machine: Machine, directory: Path) -> None:
    """Write stacks, wait channels and states of every task, for a scenario that hangs."""
    try:
        text = machine.run(["bash", "-c", _STACKS], Deadline.after(_SECONDS, "stacks of all tasks")).text
        if (
            _UNINTERRUPTIBLE in text
        ):  # /proc tells too little of those: the kernel's log has their stacks then
            sysrq = ["bash", "-c", "echo t > /proc/sysrq-trigger"]
            machine.run(sysrq, Deadline.after(_SECONDS, "SysRq-t"))
    except HarnessError as error:
        text = f"not collected: {error}\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / "stacks.txt", text)
    except OSError as error:
        log.warning("stacks of the hang were not written: %s", error)


def read_kernel_log(machine: Machine) -> str:
    """Return the kernel log since the machine was prepared, or since the last mark in it."""
    text = check(machine, ["dmesg"], Deadline.after(_SECONDS, "kernel log")).text
    return text.rpartition(KERNEL_LOG_MARK)[2]


def _guest_files(machine: Machine, directory: Path) -> None:
    packed = check(machine, ["bash", "-c", _PACK], Deadline.after(_SECONDS, "evidence of the guest"))
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            if stream is not None:
                (directory / Path(member.name).name).write_bytes(stream.read())


def _registers(seen: Observation) -> str:
    """Return the registers of the restored task: of its death if it died, else of a ptrace stop."""
    fault = seen.fault
    threads = seen.core.threads if seen.core else (seen.restored.threads if seen.restored else ())
    state = {
        "signal": seen.signal,
        "fault": fault and {"esr": _hex(fault.esr), "description": fault.description},
        "threads": [
            {"nstid": one.nstid}
            | {name: _hex(getattr(one, name)) for name in ("pc", "lr", "sp", "pstate", "insn_mask")}
            for one in threads
        ],
        "general": {name: _hex(value) for name, value in fault.registers.items()} if fault else None,
    }
    return json.dumps(state, indent=1)


def _hex(value: int | None) -> str | None:
    return None if value is None else f"0x{value:016x}"


def _observations(seen: Observation) -> str:
    return json.dumps(seen, indent=1, default=_readable)


def _readable(value: object) -> Any:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
