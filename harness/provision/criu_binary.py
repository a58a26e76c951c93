"""A program of CRIU that somebody built elsewhere, with the libraries that lie beside it."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.catalogue.criu_builds import CriuBuild
from harness.core.errors import UsageError
from harness.parsing.criu_program import criu_program, is_aarch64
from harness.parsing.elf_needs import needed_libraries
from harness.provision.criu_layout import LIBRARIES, PROGRAM
from harness.provision.storage import file_sha256

# Beside the program, or where a root file system has them from usr/sbin/criu on.
_BESIDE = (
    *(".", "lib", "lib64", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"),
    *("../lib", "../lib64", "../lib/aarch64-linux-gnu", "../../lib", "../../lib/aarch64-linux-gnu"),
)


def read_binary(path: Path) -> CriuBuild:
    """Return the build that is a program of CRIU for arm64; its properties are read out of it.

    Raises UsageError naming what it is instead, or every library that is not beside it.
    """
    path = path.resolve()
    try:
        program = criu_program(path.read_bytes())
    except OSError as error:
        raise UsageError(f"--criu {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--criu {path} is no program of CRIU for arm64: {error}") from error
    libraries = _libraries(path, program.needed)
    files = {path.name: path, **libraries}
    text = "\n".join(f"{name} {file_sha256(files[name])}" for name in sorted(files))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return CriuBuild(
        # Two programs of one name are two builds, as for directories.
        name=f"{re.sub(r'[^A-Za-z0-9.+~-]', '-', path.name)}+{digest[:8]}",
        version=program.version,
        package_group=f"binary-{digest}",
        native_keys=program.native_keys,
        restorer_protected=program.restorer_protected,
        plugin_hooks=program.plugin_hooks,
        label=f"CRIU {program.version} of {path}",
        path=str(path),
    )


def files_of(build: CriuBuild) -> Iterator[tuple[str, Path]]:
    """Yield the files or directories of a build with a ``path``, and the place of each in a bundle."""
    path = Path(build.path or "")
    if path.is_dir():
        yield "", path
        return
    yield f"/{PROGRAM}", path
    for name, file in _libraries(path, criu_program(path.read_bytes()).needed).items():
        yield f"/{LIBRARIES}/{name}", file


def _libraries(program: Path, needed: tuple[str, ...]) -> Mapping[str, Path]:
    """Return what is needed, by what needs it too; raise UsageError naming all that is missing."""
    places = [program.parent / place for place in _BESIDE]
    found: dict[str, Path] = {}
    missing: dict[str, None] = {}
    pending = list(needed)
    for name in pending:  # it grows
        if name in found or name in missing:
            continue
        file = next((place / name for place in places if _is_library(place / name)), None)
        if file is None:
            missing[name] = None
        else:
            found[name] = file.resolve()
            pending += needed_libraries(file.read_bytes())
    if missing:
        raise UsageError(
            f"--criu {program} lacks the libraries {', '.join(missing)}",
            hint=f"put them for arm64 into {program.parent / 'lib'}",
        )
    return found


def _is_library(path: Path) -> bool:
    # The directories above may be those of a host of another kind.
    return path.is_file() and is_aarch64(path.read_bytes())
