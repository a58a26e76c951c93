"""A checkpoint on its way from one machine to another: the images, and what the restored task continues."""

import contextlib
import io
import tarfile
from pathlib import PurePosixPath

from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, NAME, OUTPUT, WORK, Container
from harness.guest.engine import DockerEngine
from harness.guest.probe import SALT
from harness.machines.protocol import check

_PIDS_APART = 1000  # more than a test of any length starts processes


def move_checkpoint(source: Container, target: Container, pid: int, deadline: Deadline) -> None:
    """Copy the images of ``pid``, its output so far and the salt of its fingerprints.

    The target's own processes get ids far from ``pid``, which has to be free there. Raises
    EngineError, MachineError and DeadlineError.
    """
    with contextlib.closing(DockerEngine(source.machine)) as engine:
        everything = engine.export(NAME, WORK)
    with contextlib.closing(DockerEngine(target.machine)) as engine:
        engine.insert(NAME, str(PurePosixPath(WORK).parent), travelling(everything))
    deadline.check("the checkpoint arrived late")
    make_room(target, pid, deadline)


def make_room(container: Container, pid: int, deadline: Deadline) -> None:
    """Give the container's next processes ids far from ``pid``."""
    last = f"echo {pid + _PIDS_APART} > /proc/sys/kernel/ns_last_pid"
    check(container.machine, [*container.prefix, "bash", "-c", last], deadline)


def travelling(archive: bytes) -> bytes:
    """Return the archive of the work directory with those of its members that travel."""
    root = PurePosixPath(WORK).parent
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            path = root / member.name
            if str(path) in {OUTPUT, SALT} or path.is_relative_to(IMAGES):
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return out.getvalue()
