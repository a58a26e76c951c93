"""What one command provisions with: settings, cache, downloads, lock."""

from collections.abc import Iterable, Mapping
from typing import Self

from harness.core.closing import Closing
from harness.provision import groups as declared
from harness.provision.archive import Archive
from harness.provision.cache import Cache
from harness.provision.fetch import Fetcher
from harness.provision.groups import PackageGroup
from harness.provision.keyring import Keyring
from harness.provision.lock import LockedGroup, LockedPackage, digest, read_lock
from harness.provision.settings import Settings


class Provision(Closing):
    """Settings, cache and downloads of one command; close it, or use it as a context.

    ``lock``, ``groups`` and ``keyrings`` (by distribution) replace the ones that come with
    the harness.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fetcher: Fetcher | None = None,
        lock: Mapping[str, LockedGroup] | None = None,
        groups: Mapping[str, PackageGroup] | None = None,
        keyrings: Mapping[str, Keyring] | None = None,
    ) -> None:
        self.settings = settings
        self.cache = fetcher.cache if fetcher else Cache(settings.cache_root)
        self.fetcher = fetcher or Fetcher(self.cache, offline=settings.offline)
        self.archives: dict[str, Archive] = {}
        self.keyrings = dict(keyrings or {})
        self.used: dict[str, dict[str, str]] = {}  # versions of the packages used, by group
        self.notes: list[str] = []  # what was not as the lock says, for the record
        self._groups = groups
        self._lock = lock

    @classmethod
    def from_environment(cls) -> Self:
        """Return what the environment asks for; raises UsageError."""
        return cls(Settings.from_environment())

    def close(self) -> None:
        """Close connections and give back the cache entries in use. Idempotent."""
        self.fetcher.close()
        self.cache.close()

    @property
    def lock(self) -> Mapping[str, LockedGroup]:
        """The locked groups by name; raises StorageError when the lock cannot be read."""
        if self._lock is None:
            self._lock = read_lock()
        return self._lock

    def group(self, name: str) -> PackageGroup:
        """Return the declaration of a group; raises UsageError for an unknown one."""
        return declared.group(name, self._groups)

    def record_use(self, name: str, packages: Iterable[LockedPackage]) -> None:
        """Keep for the record which packages of a group are used, by "version sha256"."""
        self.used[name] = {one.name: f"{one.version} {one.sha256}" for one in packages}

    def locked_digest(self, name: str) -> str | None:
        """Return the digest ``obtain`` gives when the lock can be followed; None if not locked.

        It needs neither network nor packages: the key of whatever is built from the group.
        """
        return digest(self.lock[name].packages) if name in self.lock else None
