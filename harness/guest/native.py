"""The host made ready to be a machine, and put back.

Whatever is changed outside the run directory is written down there first (``UNDO``), so that
the next command can put it back when this one is killed.
"""

import contextlib
import io
import json
import secrets
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import docker.errors
from docker.types import Mount

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.workloads import Workload
from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import HostError, StorageError
from harness.core.rundir import UNDO
from harness.guest.container import CORES, EXITS, IMAGES, INIT, LISTS, WORK, Container
from harness.guest.engine import DockerEngine
from harness.guest.prepare import ContainerImage, clean_up, observe_container
from harness.guest.probe import SALT
from harness.machines.native import NativeMachine, boot_id
from harness.machines.protocol import check

LABEL = "criu-pac.run"
_NAME = "criu-pac-native"
# The kernel's log of an arm is what follows the last line with this: a host's is not ours to clear.
KERNEL_LOG_MARK = "criu-pac: an arm begins"
_OWNER = f"{WORK}/owner"
_HANDLER = f"{WORK}/core-handler"
_SECONDS = 30.0

# What is changed of the kernel's settings, and to what: registers of every fatal fault in the kernel's
# log, and cores to a handler that waits for nobody but the container's tasks.
_SETTINGS: Mapping[str, str] = {
    "/proc/sys/kernel/core_pattern": f"|{_HANDLER} %P %p %s %e",
    "/proc/sys/kernel/core_pipe_limit": "16",
    "/proc/sys/debug/exception-trace": "1",
    "/proc/sys/kernel/print-fatal-signals": "1",
}
# /run may be mounted noexec, and the kernel executes the handler: a mount of its own. The directory
# is the lock as well, of all users of the host.
_BEGIN = """
mkdir -m 0700 {work} 2> /dev/null || {{ cat {owner} 2> /dev/null; exit 3; }}
mount -t tmpfs -o mode=0700 criu-pac {work} && echo {token} > {owner} &&
mkdir -p {images} {cores} && : > {exits} && cat > {work}/pacprobe && chmod 755 {work}/pacprobe
"""
# The kernel starts it for every task that dumps core anywhere: one of somebody else's is not looked at.
_HANDLER_TEXT = """#!/bin/bash
for one in {namespaces}; do
    [ "$(readlink /proc/$1/ns/pid)" != "$one" ] || exec {work}/pacprobe core --dir {cores} --salt {salt} "$@"
done
"""
_PUT_BACK = """
old=$1 new=$2 file=$3
[ "$(cat "$file")" != "$new" ] || echo "$old" > "$file"
"""
_END = """
[ -d {work} ] || exit 0
[ "$(cat {owner} 2> /dev/null)" = {token} ] || {{ rmdir {work} 2> /dev/null; exit 0; }}
rm -rf {lists}
umount {work} || umount -l {work}
rmdir {work}
"""


@dataclass(slots=True, kw_only=True)
class Undo:
    """What a run changed on the host.

    ``settings`` holds old and new value by file; ``tags`` are image names that were taken, by the
    id of the image that had it (None: nobody). ``token`` labels containers and images. ``boot_id``:
    settings and mounts do not outlive it.
    """

    token: str
    root: list[str]
    engine_url: str
    boot_id: str
    settings: dict[str, list[str]] = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write it into the run directory; StorageError when that fails."""
        path, part = directory / UNDO, directory / f"{UNDO}.part"
        try:
            part.write_text(json.dumps(asdict(self), indent=1), "utf-8")
            part.replace(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A file or directory of the host that a container sees, read-only, at ``place``."""

    place: str
    path: Path


class NativeHost:
    """The host while it is a machine. ``close`` puts everything back."""

    def __init__(self, machine: NativeMachine, root: Sequence[str], probe: Path) -> None:
        self.machine = machine
        self._undo = Undo(
            token=secrets.token_hex(8), root=list(root), engine_url=machine.docker_url, boot_id=boot_id()
        )
        self._namespaces: list[str] = []
        self._made = 0
        self._engine = DockerEngine(machine, version="auto")
        check_engine(self._engine)
        self._undo.save(machine.directory)
        try:
            self._begin(probe)
        except BaseException:
            self.close()
            raise

    def _begin(self, probe: Path) -> None:
        """Make the work directory and change the kernel's settings."""
        words = {"work": WORK, "owner": _OWNER, "token": self._undo.token, "images": IMAGES}
        script = _BEGIN.format(**words, cores=CORES, exits=EXITS)
        soon = Deadline.after(_SECONDS, "settings of the host")
        made = self.machine.run(["bash", "-c", script], soon, stdin=probe.read_bytes())
        if made.returncode == 3:  # noqa: PLR2004 -- the script's own
            raise HostError(
                f"{WORK} is there already: another command uses this host as its machine, or one was killed",
                hint="wait for it, or run any criu-pac command as its user: that puts things back",
            )
        if made.returncode != 0:
            raise HostError(f"cannot make {WORK}: {made.error_text}")
        for path, value in _SETTINGS.items():
            old = self.machine.read_file(path, soon).decode().strip()
            self._undo.settings[path] = [old, value]
        self._undo.save(self.machine.directory)
        self._write_handler(soon)
        for path, value in _SETTINGS.items():
            set_value = f"echo {shlex.quote(value)} > {path}"
            check(self.machine, ["bash", "-c", set_value], soon)

    def _write_handler(self, deadline: Deadline) -> None:
        names = " ".join(self._namespaces) or "''"
        text = _HANDLER_TEXT.format(namespaces=names, work=WORK, cores=CORES, salt=SALT)
        write = f"cat > {_HANDLER}.new && chmod 755 {_HANDLER}.new && mv {_HANDLER}.new {_HANDLER}"
        check(self.machine, ["bash", "-c", write], deadline, stdin=text.encode())

    def prepare(
        self,
        image: ContainerImage,
        tools: Sequence[Tool],
        builds: Mapping[str, CriuBuild],
        control: Workload,
        programs: list[str],
    ) -> dict[str, str]:
        """Start a container and return the facts scenarios in it start from; raises as ``prepare``."""
        self._made += 1
        name = f"{_NAME}-{self._undo.token}-{self._made}"
        self.new_identity()
        with steps.step("container image"):
            reference = self._image(image, name)
        with steps.step("start container"), self._engine.explained("start of the container"):
            pid = self._start(reference, name, image.context, tools)
        container = Container(self.machine, pid)
        soon = Deadline.after(_SECONDS, "pid namespace of the container")
        self._namespaces.append(check(self.machine, ["readlink", f"/proc/{pid}/ns/pid"], soon).text.strip())
        self._write_handler(soon)
        facts = {"container_pid": pid}
        facts |= observe_container(self._engine, name, container, builds, control, programs)
        clean_up(self.machine)
        return facts

    def begin_arm(self, facts: Mapping[str, str]) -> None:
        """End what an earlier arm left running in its container, and what it left behind."""
        self.end_arm(facts)
        clean_up(self.machine)
        self.new_identity()
        mark = f"echo {KERNEL_LOG_MARK} {self._undo.token} > /dev/kmsg"
        check(self.machine, ["bash", "-c", mark], Deadline.after(_SECONDS, "a mark in the kernel's log"))

    def end_arm(self, facts: Mapping[str, str]) -> None:
        """Kill everything in a container but its first process."""
        container = Container(self.machine, facts["container_pid"])
        container.run(["bash", "-c", "kill -9 -1"], Deadline.after(_SECONDS, "end of the tasks of an arm"))

    def new_identity(self) -> None:
        """Take a new salt: fingerprints of one scenario are of no use in another."""
        write = f"head -c 32 /dev/urandom > {SALT}"
        check(self.machine, ["bash", "-c", write], Deadline.after(_SECONDS, "a new salt"))

    def _image(self, image: ContainerImage, name: str) -> str:
        """Return the image of the base under a name of the run's own; another's tags stay as they were."""
        api, label = self._engine.client, [f"LABEL {LABEL}={self._undo.token}"]
        with self._engine.explained(f"container base {image.reference}"):
            if not image.is_image_archive:
                with image.archive.open("rb") as stream:
                    api.api.import_image_from_data(stream, repository=name, tag="base", changes=label)
                return f"{name}:base"
            self._undo.tags[image.reference] = _image_id(self._engine, image.reference)
            self._undo.save(self.machine.directory)
            self._engine.load_image(image.archive)
            api.images.get(image.reference).tag(name, "base")
            self._undo.tags[f"{name}:base"] = None
            self._undo.save(self.machine.directory)
            _put_tag_back(self._engine, image.reference, self._undo.tags.pop(image.reference))
            self._undo.save(self.machine.directory)
            return f"{name}:base"

    def _start(self, reference: str, name: str, context: bytes, tools: Sequence[Tool]) -> str:
        """Make the container, put workloads and interpreter in, start it; return its first process's id."""
        container = self._engine.client.containers.create(
            reference,
            INIT,
            name=name,
            labels={LABEL: self._undo.token},
            privileged=True,
            network_mode="none",
            tmpfs={"/run": "mode=0755"},  # CRIU keeps what it learnt of the kernel only on a tmpfs
            mounts=[
                Mount(WORK, WORK, type="bind"),
                *(Mount(one.place, str(one.path), type="bind", read_only=True) for one in tools),
            ],
        )
        for archive in layers(context):
            container.put_archive("/", archive)
        container.start()
        container.reload()
        return str(container.attrs["State"]["Pid"])

    def close(self) -> None:
        """Put everything back; raises HostError when that is impossible, and the next command tries again."""
        self.machine.close()
        if (self.machine.directory / UNDO).exists():
            put_back(self.machine.directory)
        self._engine.close()


def check_engine(engine: DockerEngine) -> None:
    """Raise HostError for an engine whose containers have no root that CRIU could use."""
    with engine.explained("look at the container engine"):
        options = engine.client.info().get("SecurityOptions") or []
    for kind in ("rootless", "userns"):
        if f"name={kind}" in options:
            raise HostError(
                f"the container engine is {kind}: root in its containers is not root of this host",
                hint="set DOCKER_HOST to an engine that runs as root, or --machine qemu",
            )


def layers(context: bytes) -> list[bytes]:
    """Return what a Dockerfile of ours adds to its base, from a build context, as archives of the root."""
    found = []
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(context)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            stream = old.extractfile(member)
            if member.name == "python.tar" and stream:
                found.append(stream.read())
            elif member.name.startswith("workloads/"):
                member.name = f"opt/{member.name}"
                new.addfile(member, stream)
    return [*found, out.getvalue()]


def put_back(directory: Path) -> None:
    """Undo what the run of ``directory`` changed on the host; HostError when something resists.

    Done again it does no harm. A setting that somebody has changed since stays as it is now.
    """
    path = directory / UNDO
    try:
        undo = Undo(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise HostError(f"{path} cannot be read: {error}") from error
    machine = NativeMachine(tuple(undo.root), directory, undo.engine_url)
    limit = Deadline.after(2 * _SECONDS, "putting the host back")
    if undo.boot_id == boot_id():
        for file, (old, new) in undo.settings.items():
            check(machine, ["bash", "-c", _PUT_BACK, "put-back", old, new, file], limit)
    with contextlib.closing(DockerEngine(machine, version="auto")) as engine, engine.explained("clearing up"):
        _reap(engine, undo)
    if undo.boot_id == boot_id():
        end = _END.format(work=WORK, owner=_OWNER, token=undo.token, lists=LISTS)
        check(machine, ["bash", "-c", end], limit)
    path.unlink()


def _reap(engine: DockerEngine, undo: Undo) -> None:
    """Remove the containers and images of a run and give back the names it took."""
    ours: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={undo.token}"}
    for container in engine.client.containers.list(all=True, filters=ours):
        container.remove(force=True, v=True)
    for reference, before in undo.tags.items():
        _put_tag_back(engine, reference, before)
    for image in engine.client.images.list(filters=ours):
        engine.client.images.remove(str(image.id), force=True)


def _put_tag_back(engine: DockerEngine, reference: str, before: str | None) -> None:
    if _image_id(engine, reference) == before:
        return
    if before is None:
        engine.client.images.remove(reference)
    else:
        engine.client.images.get(before).tag(reference)


def _image_id(engine: DockerEngine, reference: str) -> str | None:
    try:
        return str(engine.client.images.get(reference).id)
    except docker.errors.ImageNotFound:
        return None
