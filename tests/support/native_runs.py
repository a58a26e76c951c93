"""What a run with --machine native leaves on its host, and what it says of itself."""

import contextlib
import json
from typing import Any

from harness.core.deadline import Deadline
from harness.guest.container import WORK
from harness.guest.engine import DockerEngine
from harness.machines.protocol import check
from support.arm_host import SETTINGS, Host

# Seconds. Emulated, a run takes 72 s of processor time, 16 of them to start Python; on two cores that other
# tests used as well it was seen to take 170 to 240.
LONG = 600.0
RESULTS = "/var/tmp/results"


def soon(what: str, seconds: float = 60) -> Deadline:
    """Return the limit of what takes seconds."""
    return Deadline.after(seconds, what)


def state(host: Host) -> dict[str, str]:
    """Return what a native run changes: settings, mounts, containers, images."""
    settings = [f"/proc/sys/{name}" for name in SETTINGS]
    values = check(host.machine, ["cat", *settings], soon("settings")).text
    directories = check(host.machine, ["ls", "-a", "/tmp", "/run"], soon("directories")).text
    mounts = host.machine.read_file("/proc/mounts", soon("mounts")).decode().splitlines()
    with contextlib.closing(DockerEngine(host.machine)) as engine:
        client = engine.client
        return {
            "settings": values,
            "directories": directories,
            "mounts": "\n".join(line for line in mounts if WORK in line),
            "containers": " ".join(sorted(str(one.name) for one in client.containers.list(all=True))),
            "images": " ".join(sorted(f"{one.id} {one.tags}" for one in client.images.list(all=True))),
        }


def rows(host: Host, results: str = RESULTS) -> list[dict[str, Any]]:
    """Return the records of a run."""
    text = host.machine.read_file(f"{results}/results.jsonl", soon("the results"))
    return [json.loads(line) for line in text.splitlines()]
