"""A program of CRIU that somebody built elsewhere, with its libraries beside it or those of this host."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.catalogue.criu_builds import SYSTEM, CriuBuild
from harness.core.deadline import Deadline
from harness.core.errors import UsageError
from harness.core.process import run, search_path
from harness.parsing.criu_program import CriuProgram, criu_program, is_aarch64
from harness.parsing.elf_needs import needed_libraries
from harness.provision.criu_layout import LIBRARIES, LOADER, PROGRAM
from harness.provision.storage import file_sha256

# Beside the program, or where a root file system has them from usr/sbin/criu on.
_BESIDE = (
    *(".", "lib", "lib64", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"),
    *("../lib", "../lib64", "../lib/aarch64-linux-gnu", "../../lib", "../../lib/aarch64-linux-gnu"),
)
_LOADER_SECONDS = 20.0
#   libnl-3.so.200 => /lib/aarch64-linux-gnu/libnl-3.so.200 (0x0000ffff8c5d0000)
_LISTED = re.compile(r"^\s+(\S+) => (/\S+) \(0x", re.MULTILINE)


def read_binary(path: Path) -> CriuBuild:
    """Return the build that is a program of CRIU for arm64; its properties are read out of it.

    Raises UsageError naming what it is instead, or every library that is not beside it.
    """
    path = path.resolve()
    return _read(path, f"--criu {path}", _beside)


def read_installed() -> CriuBuild:
    """Return the build that is installed on this host, with the libraries this host's loader gives it.

    It is the first ``criu`` of ``search_path``. Raises UsageError where there is none that can be used.
    """
    found = shutil.which("criu", path=search_path())
    if found is None:
        raise UsageError(
            f"--criu {SYSTEM}: there is no criu in {search_path()}",
            hint="install it, or name a version: --criu 3.17.1",
        )
    path = Path(found).resolve()
    return _read(path, f"--criu {SYSTEM}, {path},", _as_loaded, installed=True)


def files_of(build: CriuBuild) -> Iterator[tuple[str, Path]]:
    """Yield the files or directories of a build with a ``path``, and the place of each in a bundle."""
    path = Path(build.path or "")
    if path.is_dir():
        yield "", path
        return
    yield f"/{PROGRAM}", path
    for name, file in build.libraries:
        yield f"/{LIBRARIES}/{name}", Path(file)


def _read(
    path: Path,
    given: str,
    find: Callable[[Path, str, CriuProgram], Mapping[str, Path]],
    *,
    installed: bool = False,
) -> CriuBuild:
    try:
        program = criu_program(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{given} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{given} is no program of CRIU for arm64: {error}") from error
    if Path(program.loader).name != LOADER:
        raise UsageError(f"{given} is not linked against glibc: its loader is {program.loader}")
    libraries = find(path, given, program)
    files = {path.name: path, **libraries}
    text = "\n".join(f"{name} {file_sha256(files[name])}" for name in sorted(files))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = SYSTEM if installed else re.sub(r"[^A-Za-z0-9.+~-]", "-", path.name)
    return CriuBuild(
        name=f"{name}+{digest[:8]}",  # two programs of one name are two builds, as for directories
        version=program.version,
        package_group=f"binary-{digest}",
        native_keys=program.native_keys,
        restorer_protected=program.restorer_protected,
        plugin_hooks=program.plugin_hooks,
        label=f"CRIU {program.version} of {path}",
        path=str(path),
        libraries=tuple((name, str(file)) for name, file in sorted(libraries.items())),
        installed=installed,
    )


def _beside(path: Path, given: str, program: CriuProgram) -> Mapping[str, Path]:
    """Return what is needed, by what needs it too; raise UsageError naming all that is missing."""
    places = [path.parent / place for place in _BESIDE]
    found: dict[str, Path] = {}
    missing: dict[str, None] = {}
    pending = list(program.needed)
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
            f"{given} lacks the libraries {', '.join(missing)}",
            hint=f"put them for arm64 into {path.parent / 'lib'}",
        )
    return found


def _is_library(path: Path) -> bool:
    # The directories above may be those of a host of another kind.
    return path.is_file() and is_aarch64(path.read_bytes())


def _as_loaded(path: Path, given: str, program: CriuProgram) -> Mapping[str, Path]:
    """Return what the loader of this host would load: it lists that and runs nothing of the program.

    Nobody else knows it as well: its cache, the directories of ld.so.conf and of the program itself.
    Raises UsageError when something is missing.
    """
    # Without LD_LIBRARY_PATH, which is the person's own and which sudo does not pass on.
    limit = Deadline.after(_LOADER_SECONDS, f"the libraries of {path}")
    answer = run([program.loader, "--list", path], limit, env={})
    if answer.returncode != 0:
        raise UsageError(f"{given} does not start on this host: {answer.error_text}")
    found = {name: Path(file).resolve() for name, file in _LISTED.findall(answer.text)}
    return {**found, LOADER: Path(program.loader).resolve()}
