"""A program with its whole closure, run by its own loader: independent of the host's libraries."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.core import steps
from harness.core.errors import NotInArchiveError
from harness.provision.context import Provision
from harness.provision.packages import obtain
from harness.provision.settings import host_architecture
from harness.provision.unpack import unpack

# Debian architecture: (multiarch triplet, loader in usr/lib/<triplet>)
_LOADERS = {
    "amd64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "arm64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}
_PROGRAM_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/libexec")
_PRIVATE_LIBRARIES = ("pulseaudio",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An unpacked closure at ``root`` for one Debian architecture."""

    root: Path
    architecture: str

    def command(self, program: str) -> list[str]:
        """Return the argv that starts ``program``; raises NotInArchiveError when it is not in the bundle.

        /proc/self/exe of the process is the loader, so a program that finds its data beside
        itself has to be told where they are (qemu: ``-L``, see ``data``).
        """
        triplet, loader = _LOADERS[self.architecture]
        libraries = self.root / "usr/lib" / triplet
        directories = [libraries, *(libraries / name for name in _PRIVATE_LIBRARIES)]
        path = ":".join(str(one) for one in directories if one.is_dir())
        return [str(libraries / loader), "--library-path", path, str(self.program(program))]

    def program(self, name: str) -> Path:
        """Return the file of the program ``name``; raises NotInArchiveError."""
        for directory in _PROGRAM_DIRECTORIES:
            path = self.root / directory / name
            if path.exists():
                return path
        raise NotInArchiveError(
            f"{name} is not in the bundle {self.root} ({', '.join(_PROGRAM_DIRECTORIES)})"
        )

    def data(self, relative: str) -> Path:
        """Return a file or directory of the bundle, as in ``data("usr/share/qemu")``.

        Raises NotInArchiveError when it is not there.
        """
        path = self.root / relative
        if not path.exists():
            raise NotInArchiveError(f"{relative} is not in the bundle {self.root}")
        return path


def unpack_bundle(packages: Iterable[Path], destination: Path, architecture: str) -> Bundle:
    """Unpack ``packages`` at ``destination``; raises ArchiveError, IntegrityError and StorageError."""
    unpack(packages, destination)
    return Bundle(root=destination, architecture=architecture)


def bundle(name: str, provision: Provision) -> Bundle:
    """Return the group ``name`` as a bundle, unpacked once per cache; raises as ``obtain``."""
    architecture = provision.group(name).architecture
    key = provision.locked_digest(name)
    path = provision.cache.existing_artifact("bundle", key) if key else None
    if path is not None:
        provision.record_use(name, provision.lock[name].packages)
    else:
        group = obtain(name, provision)

        def build(work: Path) -> None:
            with steps.step(f"unpack {name}"):
                unpack_bundle((file for _, file in group.packages), work, architecture)

        path = provision.cache.artifact("bundle", group.digest, build)
    return Bundle(root=path, architecture=architecture)


def host_tools(provision: Provision) -> Bundle:
    """Return QEMU, erofs-utils and kmod for this machine's architecture.

    Raises HostError on a machine that is neither x86_64 nor aarch64, and as ``obtain``.
    """
    return bundle(f"host-tools-{host_architecture()}", provision)
