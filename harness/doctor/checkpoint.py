"""`--checkpoint`: what CRIU's images and the key file tell of the machine they come from."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.catalogue.cpus import PacAlgorithm
from harness.core.errors import StorageError, UsageError
from harness.doctor.process import key_flags
from harness.key_module.cpu_names import algorithm_name, cpu_name
from harness.key_module.keyfile import KEY_FILE_NAME, KeyFile, KeyFileError, foreign_images, read_key_file
from harness.parsing.criu_images import CoreImage, core_image, dumped_with_pac, process_tree

T = TypeVar("T")

_PSTREE = "pstree.img"
_UNFINISHED = f"{KEY_FILE_NAME}.tmp"
_ALGORITHMS = {
    "QARMA3": PacAlgorithm.QARMA3,
    "QARMA5": PacAlgorithm.QARMA5,
    "IMPDEF (QEMU)": PacAlgorithm.IMPDEF,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint; None is what its images do not say.

    ``pac``: the dumping CPU authenticated pointers. ``native_keys``: CRIU's own images hold keys.
    ``flags`` say that threads differ in keys, in the words of a workload.toml. ``refusal``: no
    restore would accept its key file.
    """

    architecture: str
    processes: int
    threads: int
    pac: bool | None
    native_keys: bool
    flags: tuple[str, ...]
    key_file: KeyFile | None
    refusal: str | None

    @property
    def algorithm(self) -> PacAlgorithm | None:
        """The algorithm it was signed under; None where it is not known by name."""
        return _ALGORITHMS.get(algorithm_name(self.key_file.address_probe)) if self.key_file else None

    @property
    def va_bits(self) -> int | None:
        """Bits of a user address where it was dumped."""
        mask = self.key_file.insn_mask if self.key_file else 0
        return (mask & -mask).bit_length() - 1 if mask else None

    def facts(self) -> dict[str, object]:
        """Return it by name."""
        file = self.key_file
        return {
            "architecture": self.architecture,
            "processes": self.processes,
            "threads": self.threads,
            "dumped with pointer authentication": self.pac,
            "keys in CRIU's images": self.native_keys,
            "threads differ in keys": "thread-keys" in self.flags,
            "threads differ in enabled keys": "thread-masks" in self.flags,
            "key file": {
                "CPU": cpu_name(file.midr),
                "kernel": file.kernel_release,
                "algorithm": algorithm_name(file.address_probe),
                "mask": f"{file.insn_mask:#018x}",
                "threads": len(file.threads),
            }
            if file
            else None,
            "refused because": self.refusal,
        }


def look_at_checkpoint(images: Path) -> Checkpoint:
    """Return what the images directory ``images`` tells.

    Raises UsageError when it is none, StorageError for an image that is damaged or cannot be read.
    """
    if not (images / _PSTREE).is_file():
        raise UsageError(f"--checkpoint {images}: no directory with CRIU's images: it has no {_PSTREE}")
    salt = secrets.token_bytes(32)
    tree = _parsed(images / _PSTREE, process_tree)
    tasks = [
        [_parsed(images / f"core-{tid}.img", lambda data: core_image(data, salt)) for tid in threads]
        for threads in tree.values()
        if threads
    ]
    cores = [core for threads in tasks for core in threads]
    native = any(core.keys for core in cores)
    key_file, refusal = _key_file(images)
    return Checkpoint(
        architecture=cores[0].architecture if cores else "unknown",
        processes=len(tasks),
        threads=len(cores),
        pac=True if native else key_file.address_auth if key_file else _dumped_with_pac(images, tree),
        native_keys=native,
        flags=key_flags(key_file) if key_file else _flags(tasks),
        key_file=key_file,
        refusal=refusal,
    )


def _flags(tasks: Sequence[Sequence[CoreImage]]) -> tuple[str, ...]:
    """Return what is special about the keys in CRIU's own images, in the words of a workload.toml."""
    differ = {
        "thread-keys": any(len({core.keys for core in threads}) > 1 for threads in tasks),
        "thread-masks": any(len({core.enabled_keys for core in threads}) > 1 for threads in tasks),
    }
    return tuple(name for name, seen in differ.items() if seen)


def _key_file(images: Path) -> tuple[KeyFile | None, str | None]:
    """Return the module's key file, if any, and why it would be refused, if so."""
    if (images / _UNFINISHED).exists():
        return None, f"{_UNFINISHED} is there: the dump did not finish its key file"
    if not (images / KEY_FILE_NAME).exists():
        return None, None
    try:
        file = read_key_file(images)
    except KeyFileError as error:
        return None, str(error)
    foreign = foreign_images(file, images)
    return file, f"{KEY_FILE_NAME} belongs to other images: {', '.join(foreign)}" if foreign else None


def _dumped_with_pac(images: Path, processes: Iterable[int]) -> bool | None:
    """Return what the auxiliary vectors say; a process without memory (a zombie) has none."""
    paths = (images / f"mm-{pid}.img" for pid in processes)
    said = {_parsed(path, dumped_with_pac) for path in paths if path.exists()}
    return next((one for one in (True, False) if one in said), None)


def _parsed(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}", hint="CRIU's images are root's"
        ) from error
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from error
