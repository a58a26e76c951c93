"""Where this machine's CRIU, runc, crun and podman load plugins from, and putting the module there.

CRIU loads every ``*.so`` of its library directory: /usr/lib/criu, or what ``libdir`` says in
/etc/criu/default.conf, which every user of CRIU reads, or in /etc/criu/runc.conf and crun.conf,
which runc and (with CRIU 4.2 and later) crun read as well.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import HostError, StorageError, UsageError
from harness.key_module.build import PLUGIN_NAME

DEFAULT_DIRECTORY = Path("/usr/lib/criu")
OWN_DIRECTORY = Path("/usr/lib/criu-pac")
CONFIGURATION = Path("/etc/criu")
CONFIGURATIONS = ("default.conf", "runc.conf", "crun.conf")
POLICY_FILE = "pac-key-module.conf"
POLICIES = ("refuse", "warn", "disable-auth")

# Its late hook ends CRIU's chain where there is no GPU driver (CRIU 3.17 to 3.19).
_AMDGPU = "amdgpu_plugin.so"
_MARK = "# The next line was added by criu-pac module install."


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryDirectory:
    """A directory that CRIU loads plugins from, and who says so."""

    path: Path
    said_by: str
    has_amdgpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file to write (``content``) or, with None, to remove; ``path`` is the machine's own."""

    path: Path
    content: bytes | None
    mode: int = 0o644

    def __str__(self) -> str:
        return f"{'remove' if self.content is None else 'write'} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an installation does, and what a person should know about it."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


def library_directories(root: Path) -> list[LibraryDirectory]:
    """Return every directory that some user of CRIU loads plugins from, the default one first."""
    found = [_directory(root, DEFAULT_DIRECTORY, "CRIU's default")]
    for name in CONFIGURATIONS:
        for path in _libdirs(_in(root, CONFIGURATION / name)):
            if path not in {one.path for one in found}:
                found.append(_directory(root, path, str(CONFIGURATION / name)))
    return found


def plan_install(root: Path, plugin: bytes, *, policy: str | None) -> Plan:
    """Return what puts ``plugin`` wherever it is looked for; raises UsageError for an unknown policy."""
    if policy is not None and policy not in POLICIES:
        raise UsageError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    changes: list[Change] = []
    notes: list[str] = []
    gpu = _in(root, Path("/dev/kfd")).exists()
    for directory in library_directories(root):
        target = directory.path
        if directory.has_amdgpu and not gpu:
            if target == DEFAULT_DIRECTORY and not _libdirs(_in(root, CONFIGURATION / "default.conf")):
                target = OWN_DIRECTORY
                changes.append(_configured(root, target))
                notes.append(
                    f"{DEFAULT_DIRECTORY}/{_AMDGPU} would keep CRIU 3.17 to 3.19 from calling the module "
                    f"where there is no /dev/kfd: {target} is used instead of {DEFAULT_DIRECTORY}"
                )
            else:
                notes.append(
                    f"{target}/{_AMDGPU} may keep CRIU 3.17 to 3.19 from calling the module: a restore is "
                    f"refused then ({directory.said_by} names this directory)"
                )
        changes.append(Change(path=target / PLUGIN_NAME, content=plugin, mode=0o755))
        if policy is not None:
            changes.append(Change(path=target / POLICY_FILE, content=f"policy = {policy}\n".encode()))
    return Plan(changes=tuple(changes), notes=tuple(notes))


def plan_uninstall(root: Path) -> Plan:
    """Return what removes everything that an installation has written."""
    directories = [one.path for one in library_directories(root)]
    if OWN_DIRECTORY not in directories:
        directories.append(OWN_DIRECTORY)
    files = [directory / name for directory in directories for name in (PLUGIN_NAME, POLICY_FILE)]
    changes = [Change(path=path, content=None) for path in files if _in(root, path).exists()]
    restored = _unconfigured(root)
    return Plan(changes=(*changes, *([restored] if restored else [])))


def apply(plan: Plan, root: Path) -> None:
    """Make the changes, each file at once or not at all; StorageError names the one that failed."""
    for change in plan.changes:
        path = _in(root, change.path)
        try:
            if change.content is None:
                path.unlink(missing_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_bytes(change.content)
            fresh.chmod(change.mode)
            fresh.replace(path)
        except OSError as error:
            raise StorageError(
                f"cannot {change}: {error.strerror}", hint="run it as root, or give --root DIR"
            ) from error


def _in(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _directory(root: Path, path: Path, said_by: str) -> LibraryDirectory:
    return LibraryDirectory(path=path, said_by=said_by, has_amdgpu=(_in(root, path) / _AMDGPU).exists())


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error


def _libdirs(configuration: Path) -> list[Path]:
    """Return what a configuration file of CRIU says about libdir; the last one counts, all are served."""
    return [Path(words[1]) for words in _words(_read(configuration)) if _says_libdir(words)]


def _words(text: str) -> Iterator[Sequence[str]]:
    for line in text.splitlines():
        try:
            yield shlex.split(line, comments=True)
        except ValueError:  # an open quotation mark; CRIU complains about it by itself
            yield ()


def _says_libdir(words: Sequence[str]) -> bool:
    return len(words) == len(("libdir", "DIR")) and words[0] == "libdir" and words[1].startswith("/")


def _configured(root: Path, directory: Path) -> Change:
    path = CONFIGURATION / "default.conf"
    before = _read(_in(root, path))
    if before and not before.endswith("\n"):
        before += "\n"
    return Change(path=path, content=f"{before}{_MARK}\nlibdir {directory}\n".encode())


def _unconfigured(root: Path) -> Change | None:
    path = CONFIGURATION / "default.conf"
    lines = _read(_in(root, path)).splitlines(keepends=True)
    marked = [at for at, line in enumerate(lines) if line.strip() == _MARK]
    if not marked:
        return None
    kept = [line for at, line in enumerate(lines) if at not in marked and at - 1 not in marked]
    change = Change(path=path, content="".join(kept).encode())
    return change if kept else replace(change, content=None)
