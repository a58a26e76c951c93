"""Obtaining package groups: by the lock when it can be had, else by the verified chain."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.core import steps
from harness.core.errors import NetworkError, NotInArchiveError
from harness.provision.archive import Archive
from harness.provision.context import Provision
from harness.provision.deb import data_members
from harness.provision.fetch import RemoteFile
from harness.provision.groups import GROUPS, PackageGroup
from harness.provision.keyring import UBUNTU_KEYRING_FILE, Keyring, debian_keyring, ubuntu_keyring
from harness.provision.lock import (
    LockedGroup,
    LockedPackage,
    declaration,
    digest,
    from_candidate,
    lock_path,
    write_lock,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObtainedGroup:
    """Packages that are here, each with its file; what ``notes`` say belongs into the record.

    ``bytes_downloaded`` counts what came over the network for them; ``digest`` is a content key.
    """

    name: str
    packages: tuple[tuple[LockedPackage, Path], ...]
    notes: tuple[str, ...]
    bytes_downloaded: int
    digest: str


def obtain(name: str, provision: Provision) -> ObtainedGroup:
    """Return the packages of the group ``name``, from the cache or the network.

    When a locked version is nowhere any more (mirror, cache, snapshot mirror), the group is
    resolved to its suites' present versions through the signed indices, with a note for each
    change; a group that is not locked always is. Raises UsageError, NetworkError, StorageError,
    ArchiveError and its kinds.
    """
    group = provision.group(name)
    before = provision.fetcher.bytes_downloaded
    with steps.step(f"packages {name}"):
        locked = provision.lock[name].packages if name in provision.lock else None
        if locked is not None and (pairs := _try(group, locked, provision)):
            notes: tuple[str, ...] = ()
        else:
            packages, notes = _present_versions(group, locked, provision)
            pairs = _whole(packages, _fetch(group, packages, provision))
        provision.notes.extend(notes)
        provision.record_use(name, (package for package, _ in pairs))
        return ObtainedGroup(
            name=name,
            packages=pairs,
            notes=notes,
            bytes_downloaded=provision.fetcher.bytes_downloaded - before,
            digest=digest(package for package, _ in pairs),
        )


def update_lock(provision: Provision, path: Path | None = None) -> Path:
    """Resolve every lockable group anew through the signed indices and rewrite the lock.

    Raises as ``obtain``; the old lock stays when anything fails.
    """
    target = path or lock_path()
    locked = {}
    with steps.step("update the lock"):
        for group in GROUPS.values():
            if group.locked:
                packages = _resolve(group, provision)
                locked[group.name] = LockedGroup(declared=declaration(group), packages=packages)
    write_lock(locked, target)
    return target


def archive_of(distribution: str, provision: Provision) -> Archive:
    """Return the archive of "debian" or "ubuntu", with its keys; may obtain Ubuntu's keys."""
    if distribution not in provision.archives:
        if distribution not in provision.keyrings:
            provision.keyrings[distribution] = (
                debian_keyring() if distribution == "debian" else _obtain_ubuntu_keyring(provision)
            )
        provision.archives[distribution] = Archive(
            distribution,
            provision.settings.mirrors[distribution],
            provision.keyrings[distribution],
            provision.fetcher,
        )
    return provision.archives[distribution]


def _obtain_ubuntu_keyring(provision: Provision) -> Keyring:
    for _, path in obtain("ubuntu-keyring", provision).packages:
        with data_members(path) as tar:
            for member in tar:
                if member.name.removeprefix("./") == UBUNTU_KEYRING_FILE and (
                    file := tar.extractfile(member)
                ):
                    return ubuntu_keyring(file.read())
    raise NotInArchiveError(f"Debian's package of Ubuntu's keys holds no {UBUNTU_KEYRING_FILE}")


def _resolve(group: PackageGroup, provision: Provision) -> tuple[LockedPackage, ...]:
    archive = archive_of(group.distribution, provision)
    beyond: set[str] = set()
    if group.beyond:
        beyond = {one.name for one in archive.resolve(provision.group(group.beyond))}
    return tuple(from_candidate(one) for one in archive.resolve(group) if one.name not in beyond)


def _fetch(
    group: PackageGroup, packages: Sequence[LockedPackage], provision: Provision
) -> list[Path | NotInArchiveError]:
    settings = provision.settings
    places = (*settings.mirrors[group.distribution], *settings.snapshots.get(group.distribution, ()))
    return provision.fetcher.get_all(
        [
            RemoteFile(
                urls=tuple(f"{place}/{one.filename}" for place in places),
                sha256=one.sha256,
                size=one.size,
                name=f"{one.name} {one.version} ({one.architecture})",
            )
            for one in packages
        ]
    )


def _whole(
    packages: Sequence[LockedPackage], paths: Sequence[Path | NotInArchiveError]
) -> tuple[tuple[LockedPackage, Path], ...]:
    pairs = []
    for package, path in zip(packages, paths, strict=True):
        if isinstance(path, NotInArchiveError):
            raise path
        pairs.append((package, path))
    return tuple(pairs)


def _try(
    group: PackageGroup, locked: Sequence[LockedPackage], provision: Provision
) -> tuple[tuple[LockedPackage, Path], ...] | None:
    """Return the locked packages, or None when one is gone or only a remembered choice can be had."""
    try:
        return _whole(locked, _fetch(group, locked, provision))
    except NotInArchiveError:
        return None
    except NetworkError:
        if _remembered(group, locked, provision):
            return None
        raise


def _present_versions(
    group: PackageGroup, locked: Sequence[LockedPackage] | None, provision: Provision
) -> tuple[tuple[LockedPackage, ...], tuple[str, ...]]:
    """Return the suites' present versions, or without network those chosen last time, and the notes."""
    notes: list[str] = []
    warnings: list[str] = []  # of the archive, which has said them already
    try:
        archive = archive_of(group.distribution, provision)
        packages = _resolve(group, provision)
        warnings = archive.warnings
        text = json.dumps([asdict(one) for one in packages])
        provision.cache.write_state(_memory(group, locked, provision), text)
    except NetworkError:
        remembered = _remembered(group, locked, provision)
        if not remembered:
            raise
        packages = remembered
        notes.append(f"{group.name}: the archive could not be asked; the versions chosen last time are used")
    if locked is None:
        notes.append(f"{group.name} is not in the lock: present versions of {_suites(group)} are used")
    else:
        notes += _changes(group, locked, packages)
    for note in notes:
        steps.note(note)
    return packages, (*warnings, *notes)


def _memory(group: PackageGroup, locked: Sequence[LockedPackage] | None, provision: Provision) -> Path:
    return provision.cache.state("resolved", f"{group.name}-{digest(locked or ())}.json")


def _remembered(
    group: PackageGroup, locked: Sequence[LockedPackage] | None, provision: Provision
) -> tuple[LockedPackage, ...] | None:
    try:
        entries = json.loads(_memory(group, locked, provision).read_text("utf-8"))
        return tuple(LockedPackage(**entry) for entry in entries)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _suites(group: PackageGroup) -> str:
    return f"{group.distribution} {', '.join(suite.name for suite in group.suites)}"


def _changes(
    group: PackageGroup, locked: Sequence[LockedPackage], present: Sequence[LockedPackage]
) -> tuple[str, ...]:
    """Say in one line each how ``present`` differs from the lock."""
    old = {one.name: one for one in locked}
    new = {one.name: one for one in present}
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None and after is not None:
            lines.append(f"{group.name}: {name} {after.version} from {after.suite} is new since the lock")
        elif after is None and before is not None:
            lines.append(f"{group.name}: {name} {before.version} of the lock is no longer used")
        elif before and after and before.sha256 != after.sha256:
            lines.append(
                f"{group.name}: {name} {after.version} from {after.suite} "
                f"instead of {before.version} of the lock"
            )
    return tuple(lines)
