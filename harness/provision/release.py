"""The signed description of a suite (InRelease): its dates and the digests of its indices."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from debian.deb822 import Deb822

from harness.core.errors import ArchiveError
from harness.provision.cache import Cache

_DIGEST_FIELDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What an InRelease says; ``files`` maps a path below the suite to (SHA-256, size in bytes)."""

    suite: str
    date: datetime
    valid_until: datetime | None
    by_hash: bool
    files: Mapping[str, tuple[str, int]]


def parse_release(text: bytes, suite: str) -> Release:
    """Parse verified InRelease text.

    Raises ArchiveError when it lacks its Date or SHA256 table, or describes another suite
    than the one asked for (a signed file of one suite must not pass for another).
    """
    fields = Deb822(text)
    names = {fields.get("Codename"), fields.get("Suite")}
    if suite not in names:
        said = " / ".join(sorted(name for name in names if name))
        raise ArchiveError(f"the InRelease of {suite} describes {said or 'no suite'}")
    files = {}
    for line in fields.get("SHA256", "").splitlines():
        words = line.split()
        if len(words) == _DIGEST_FIELDS and words[1].isdigit():
            files[words[2]] = (words[0], int(words[1]))
    if not files:
        raise ArchiveError(f"the InRelease of {suite} has no SHA256 table")
    date = _date(fields, "Date", suite)
    if date is None:
        raise ArchiveError(f"the InRelease of {suite} has no Date")
    return Release(
        suite=suite,
        date=date,
        valid_until=_date(fields, "Valid-Until", suite),
        by_hash=fields.get("Acquire-By-Hash", "no").strip().lower() == "yes",
        files=files,
    )


def check_release_time(release: Release, archive: str, cache: Cache, *, now: datetime) -> tuple[str, ...]:
    """Refuse a replayed release; return the warnings to show and to record.

    Raises ArchiveError when ``release`` is older than one of the same archive and suite seen
    before on this host.
    """
    path = cache.state("releases", archive, release.suite)
    with cache.locked(f"release-{archive}-{release.suite}"):
        seen = _read_date(path)
        if seen and release.date < seen:
            raise ArchiveError(
                f"the InRelease of {archive} {release.suite} is of {release.date:%Y-%m-%d %H:%M} UTC, "
                f"older than the one of {seen:%Y-%m-%d %H:%M} UTC already seen (a replay, or a stale mirror)",
                hint=f"use an up-to-date mirror; if the older one is wanted, delete {path}",
            )
        cache.write_state(path, release.date.isoformat())
    if release.valid_until and release.valid_until < now:
        until = f"{release.valid_until:%Y-%m-%d}"
        return (
            f"the InRelease of {archive} {release.suite} was valid until {until} only; used all the same",
        )
    return ()


def _read_date(path: Path) -> datetime | None:
    try:
        return datetime.fromisoformat(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _date(fields: Deb822, name: str, suite: str) -> datetime | None:
    # Date: Sat, 21 Nov 2026 09:15:44 UTC
    value = fields.get(name)
    if value is None:
        return None
    try:
        parsed = parsedate_to_datetime(value)
    except ValueError as error:
        raise ArchiveError(f"the InRelease of {suite} has an unreadable {name}: {value}") from error
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
