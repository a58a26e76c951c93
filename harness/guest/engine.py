"""The container engine in the guest: a real dockerd, driven from the host by the docker package."""

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import docker
import docker.errors
import requests

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError, EngineError, StorageError
from harness.machines.protocol import Machine, check
from harness.machines.qemu_config import GUEST_DOCKER_PORT

DOCKERD_LOG = "/run/dockerd.log"
CONTAINERD_LOG = "/run/containerd.log"
_CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
# The root is an overlay, on which overlay2 cannot stack: the data root gets a tmpfs.
# --tls=false: without it dockerd delays its start by 16 s on purpose when on plain TCP;
# the port is reachable from the host's private socket only.
# containerd is started here: dockerd gives its own only 15 s, too little for a slow CPU model.
# A background job of a script leads no process group, so setsid does not fork: "$!" is dockerd's id.
_START = f"""
mkdir -p /var/lib/docker && mount -t tmpfs -o mode=0710 docker /var/lib/docker || exit
setsid containerd --root /var/lib/docker/containerd --state /run/containerd \
    > {CONTAINERD_LOG} 2>&1 < /dev/null &
until [ -S {_CONTAINERD_SOCKET} ]; do
    [ -d /proc/$! ] || {{ tail -n 1 {CONTAINERD_LOG} >&2; exit 1; }}
    sleep 0.1
done
setsid dockerd --experimental --containerd {_CONTAINERD_SOCKET} --iptables=false \
    --ip6tables=false --bridge=none --storage-driver overlay2 --tls=false \
    -H tcp://0.0.0.0:{GUEST_DOCKER_PORT} -H unix:///run/docker.sock > {DOCKERD_LOG} 2>&1 < /dev/null &
echo $!
"""


class DockerEngine:
    """A connection to the engine of one machine. Raises EngineError naming what failed.

    StorageError for a file of the host that cannot be read.
    """

    def __init__(self, machine: Machine, *, version: str = "1.45") -> None:
        self._machine = machine
        self._daemon: int | None = None  # process id in the guest, of a dockerd started here
        with self.explained(f"connection to {machine.docker_url}"):
            self.client = docker.DockerClient(base_url=machine.docker_url, version=version, timeout=120)

    def start(self, deadline: Deadline) -> None:
        """Start dockerd in the guest and wait until it answers; EngineError with its log otherwise."""
        said = check(self._machine, ["bash", "-c", _START], deadline).text.strip()
        if not said.isdecimal():
            raise EngineError(f"the start of dockerd told no process id but {said[:80]!r}")
        self._daemon = int(said)
        self.wait(deadline)

    def wait(self, deadline: Deadline) -> None:
        """Wait until the engine answers a ping; EngineError with its last words when it does not.

        MachineDiedError when the machine is gone.
        """

        def answers() -> bool | None:
            try:
                return bool(self.client.ping()) or None
            except (docker.errors.DockerException, requests.RequestException):
                self._check_daemon(deadline)
                return None

        try:
            deadline.poll(answers, interval=0.05)
        except DeadlineError as error:
            raise EngineError(
                f"dockerd did not answer within {deadline.seconds:g} s: {self.last_words()}"
            ) from error

    def _check_daemon(self, deadline: Deadline) -> None:
        # By its id: in its first moment a process still has its starter's name.
        if self._daemon is None:
            return
        alive = self._machine.run(["test", "-d", f"/proc/{self._daemon}"], deadline)
        if alive.returncode != 0:
            raise EngineError(f"dockerd ended while starting: {self.last_words()}")

    def last_words(self) -> str:
        """Return the last line of dockerd's log that says why, for error messages."""
        try:
            soon = Deadline.after(10, "dockerd's log")
            text = self._machine.run(["tail", "-n", "5", DOCKERD_LOG], soon).text
        except DeadlineError:
            return "its log could not be read"
        lines = text.strip().splitlines()
        return lines[-1][-300:] if lines else "its log is empty"

    def import_base(self, tar: Path, reference: str) -> None:
        """Make an image ``reference`` of one layer from a root file system archive."""
        repository, _, tag = reference.partition(":")
        with (
            self.explained(f"import of the container base {reference}"),
            _opened(tar) as stream,
        ):
            # Not by its name: a name that cannot be read is taken for a URL.
            self.client.api.import_image_from_data(stream, repository=repository, tag=tag)

    def load_image(self, archive: Path) -> None:
        """Load an image archive in docker-archive or OCI layout."""
        with self.explained(f"load of {archive.name}"), _opened(archive) as stream:
            self.client.images.load(stream)

    def build(self, context: bytes, tag: str) -> None:
        """Build the image ``tag`` from a tar archive with a Dockerfile; EngineError with the log's end."""
        with self.explained(f"docker build of {tag}"):
            try:
                self.client.images.build(
                    fileobj=io.BytesIO(context), custom_context=True, tag=tag, rm=True, network_mode="none"
                )
            except docker.errors.BuildError as error:
                said = [str(line.get("stream", line.get("error", ""))).strip() for line in error.build_log]
                last = " | ".join([line for line in said if line][-3:])
                raise EngineError(f"docker build of {tag} failed: {error.msg}: {last}") from error

    def run_container(self, image: str, *, name: str, command: list[str], read_only: str, shared: str) -> str:
        """Start a privileged container without network and return the process id of its first process.

        The guest directories ``read_only`` and ``shared`` appear at the same paths in it.
        """
        with self.explained(f"start of a container of {image}"):
            container = self.client.containers.run(
                image,
                command,
                name=name,
                detach=True,
                privileged=True,
                network_mode="none",
                tmpfs={"/run": "mode=0755"},  # CRIU keeps what it learnt of the kernel only on a tmpfs
                volumes={
                    read_only: {"bind": read_only, "mode": "ro"},
                    shared: {"bind": shared, "mode": "rw"},
                },
            )
            container.reload()
            return str(container.attrs["State"]["Pid"])

    def root_of(self, container: str) -> str:
        """Return the guest's path of a running container's root file system."""
        with self.explained(f"root file system of {container}"):
            attributes = self.client.containers.get(container).attrs
            return str(attributes["GraphDriver"]["Data"]["MergedDir"])

    def version(self) -> dict[str, str]:
        """Return the engine's component versions, for the record."""
        with self.explained("version query"):
            answer: dict[str, Any] = self.client.version()
            return {part["Name"]: part["Version"] for part in answer["Components"]}

    def export(self, container: str, path: str) -> bytes:
        """Return the tar archive of a path in a container."""
        with self.explained(f"copy of {path} out of {container}"):
            chunks, _ = self.client.containers.get(container).get_archive(path)
            return b"".join(chunks)

    def insert(self, container: str, path: str, archive: bytes) -> None:
        """Unpack a tar archive into the directory ``path`` of a container."""
        with self.explained(f"copy into {path} of {container}"):
            self.client.containers.get(container).put_archive(path, archive)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self.client.close()

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn what the docker package raises within the context into an EngineError that names ``what``."""
        try:
            yield
        except (docker.errors.DockerException, OSError) as error:  # requests' own are OSErrors
            raise EngineError(f"container engine: {what} failed: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of the host to be sent; StorageError naming it when it cannot be read."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    with stream:
        yield stream


def tar_of(files: Mapping[str, bytes], *, executable: Callable[[str], bool] = lambda _: False) -> bytes:
    """Return a tar archive of ``files`` by name, reproducible: no times, no owners."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            info.mode = 0o755 if executable(name) else 0o644
            archive.addfile(info, io.BytesIO(files[name]))
    return out.getvalue()
