"""The CRIU that each caller on a host uses, and whether it loads the key module."""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HarnessError
from harness.core.process import run, search_path
from harness.doctor.engines import Engine, daemon_path
from harness.key_module.build import PLUGIN_NAME
from harness.key_module.install import (
    CONFIGURATION,
    POLICY_FILE,
    LibraryDirectory,
    library_directories,
)
from harness.parsing.criu_program import CriuProgram, criu_program
from harness.parsing.elf_notes import open_aarch64

Look = Callable[[Path], tuple[CriuProgram | None, str | None]]

_READS_CRUN_CONF = (4, 2)
_SCRIPT = b"#!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The key module in the directory ``path``: ``state`` in words, ``usable`` if CRIU will load it.

    ``late_amdgpu``: a plugin there keeps CRIU 3.17 to 3.19 from calling it at a restore.
    """

    path: Path
    named_by: str
    state: str
    usable: bool
    policy: str | None
    late_amdgpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to a checkpoint: who calls CRIU, which one, what it can do (else why that is not known)."""

    caller: str
    criu: Path | None
    program: CriuProgram | None
    problem: str | None
    module: Installed

    def facts(self) -> dict[str, object]:
        """Return it by name."""
        program = self.program
        return {
            "criu": str(self.criu) if self.criu else None,
            "version": program.version if program else None,
            "keeps keys itself": program.native_keys if program else None,
            "restorer has branch protection": program.restorer_protected if program else None,
            "reads a vDSO without DT_HASH": program.reads_gnu_hash if program else None,
            "plugin hooks": program.plugin_hooks if program else None,
            "not known because": self.problem,
            "module": {
                "directory": str(self.module.path),
                "named by": self.module.named_by,
                "state": self.module.state,
                "policy": self.module.policy,
            },
        }


def find_routes(
    root: Path, engines: Mapping[str, Engine], plugin: bytes | None, not_seen: list[str]
) -> list[Route]:
    """Return the routes to CRIU on this host, a direct call first.

    ``plugin`` is this version's key module, to tell it from another build; None where there is none.
    """
    own = search_path()
    look_at = functools.cache(_look_at)  # most callers share one CRIU
    routes = [_route("criu", own, (), root, plugin, look_at)]
    if any(name in engines for name in ("docker", "runc")):
        path = daemon_path(root, not_seen) or own
        routes.append(_route("docker, runc", path, ("runc.conf",), root, plugin, look_at))
    if any(name in engines for name in ("podman", "crun")):
        routes.append(_route("podman, crun", own, ("runc.conf", "crun.conf"), root, plugin, look_at))
    not_seen += [f"what {one.criu} is: {one.problem}" for one in routes if one.criu and one.problem]
    return routes


def _route(
    caller: str,
    path: str,
    configurations: tuple[str, ...],
    root: Path,
    plugin: bytes | None,
    look_at: Look,
) -> Route:
    found = shutil.which("criu", path=path)
    criu = Path(found).resolve() if found else None
    program, problem = look_at(criu) if criu else (None, "no criu was found")
    if "crun.conf" in configurations and not _at_least(program, _READS_CRUN_CONF):
        configurations = ()
    directory = _directory(root, configurations)
    return Route(
        caller=caller, criu=criu, program=program, problem=problem, module=_installed(root, directory, plugin)
    )


def _at_least(program: CriuProgram | None, version: tuple[int, int]) -> bool:
    if program is None or program.version is None:
        return False
    major, minor = program.version.split(".")[:2]
    return (int(major), int(minor)) >= version


def _look_at(path: Path) -> tuple[CriuProgram | None, str | None]:
    """Return what a program is, or why that cannot be said."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    if data.startswith(_SCRIPT):
        return None, f"it is a script, which starts something else; it says {_asked(path)}"
    try:
        return criu_program(data), None
    except ValueError as error:
        return None, str(error)


def _asked(path: Path) -> str:
    try:
        answer = run([path, "--version"], Deadline.after(20, f"{path} --version"))
    except HarnessError as error:
        return str(error)
    return " ".join(answer.text.split()) or "nothing of its version"


def _directory(root: Path, configurations: tuple[str, ...]) -> LibraryDirectory:
    """Return where a caller of CRIU loads plugins from: the last of its files that names a directory."""
    known = library_directories(root)
    for name in (*reversed(configurations), "default.conf"):
        said_here = [one for one in known if one.said_by == str(CONFIGURATION / name)]
        if said_here:
            return said_here[-1]
    return known[0]


def _installed(root: Path, directory: LibraryDirectory, plugin: bytes | None) -> Installed:
    place = root / directory.path.relative_to("/")
    state, usable = _state(place / PLUGIN_NAME, plugin)
    policy = None
    if usable:
        try:
            policy = (place / POLICY_FILE).read_text("utf-8").strip()
        except (OSError, ValueError):
            policy = "refuse"
    return Installed(
        path=directory.path,
        named_by=directory.said_by,
        state=state,
        usable=usable,
        policy=policy,
        late_amdgpu=directory.has_amdgpu and not (root / "dev/kfd").exists(),
    )


def _state(path: Path, plugin: bytes | None) -> tuple[str, bool]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return "not installed", False
    except OSError as error:
        return f"cannot be read: {error.strerror}", False
    try:
        open_aarch64(data)
    except ValueError as error:
        return f"no plugin for arm64: {error}", False
    if plugin is None:
        return "installed", True
    return "installed, this build" if data == plugin else "installed, another build", True
