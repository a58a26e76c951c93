"""The committed lock: exactly which packages were tested, by content."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from harness.core.errors import StorageError
from harness.provision.groups import PackageGroup
from harness.provision.index import Candidate

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPackage:
    """One package by content; ``filename`` is its path below a mirror, ``size`` in bytes."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    filename: str
    suite: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedGroup:
    """A group as it was resolved; ``declared`` is what of its declaration the result depends on."""

    declared: Mapping[str, object]
    packages: tuple[LockedPackage, ...]


def from_candidate(candidate: Candidate) -> LockedPackage:
    """Return what pins a package found in an index."""
    return LockedPackage(
        name=candidate.name,
        version=candidate.version,
        architecture=candidate.architecture,
        sha256=candidate.sha256,
        size=candidate.size,
        filename=candidate.filename,
        suite=candidate.suite,
    )


def declaration(group: PackageGroup) -> dict[str, object]:
    """Return the part of a group's declaration that decides what it resolves to, as JSON values."""
    return {
        "distribution": group.distribution,
        "architecture": group.architecture,
        "suites": [
            {
                "name": suite.name,
                "components": list(suite.components),
                "preferred": list(suite.preferred),
            }
            for suite in group.suites
        ],
        "roots": sorted(group.roots),
        "exclude": sorted(group.exclude),
        "beyond": group.beyond,
    }


def digest(packages: Iterable[LockedPackage]) -> str:
    """Return a stable digest (32 hexadecimal digits) of names, versions and contents, for keys."""
    text = "\n".join(sorted(f"{one.name} {one.version} {one.architecture} {one.sha256}" for one in packages))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def lock_path() -> Path:
    """Return the lock that comes with the harness."""
    return Path(str(resources.files("harness.provision"))) / "lock.json"


def read_lock(path: Path | None = None) -> dict[str, LockedGroup]:
    """Return the locked groups by name; raises StorageError for an unreadable or foreign file."""
    path = path or lock_path()
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema"] != SCHEMA:
            raise StorageError(f"{path} has schema {document['schema']}, not {SCHEMA}")
        return {
            name: LockedGroup(
                declared=entry["declared"],
                packages=tuple(LockedPackage(**package) for package in entry["packages"]),
            )
            for name, entry in document["groups"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"the lock {path} cannot be read: {error}", hint="reinstall") from error


def write_lock(groups: Mapping[str, LockedGroup], path: Path) -> None:
    """Write the lock with one package per line, sorted: the same input gives the same bytes."""
    blocks = []
    for name, entry in sorted(groups.items()):
        declared = json.dumps(entry.declared, sort_keys=True)
        lines = ",\n".join(
            f"        {json.dumps(asdict(package))}"
            for package in sorted(entry.packages, key=lambda package: package.name)
        )
        blocks.append(
            f"    {json.dumps(name)}: {{\n"
            f'      "declared": {declared},\n'
            f'      "packages": [\n{lines}\n      ]\n    }}'
        )
    text = f'{{\n  "schema": {SCHEMA},\n  "groups": {{\n' + ",\n".join(blocks) + "\n  }\n}\n"
    path.write_text(text, encoding="utf-8")
