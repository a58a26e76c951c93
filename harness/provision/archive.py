"""The verified chain: InRelease, signed by the archive's keys; its indices; their packages."""

import lzma
from collections.abc import Sequence
from datetime import UTC, datetime

from harness.core import steps
from harness.core.errors import ArchiveError, NotInArchiveError
from harness.provision.fetch import Fetcher, RemoteFile
from harness.provision.groups import PackageGroup
from harness.provision.index import Candidate, PackageIndex
from harness.provision.keyring import Keyring, verify_inrelease
from harness.provision.release import Release, check_release_time, parse_release
from harness.provision.resolve import SuiteIndices, closure


class Archive:
    """One distribution's archive on one or more mirrors; ``warnings`` are for the record."""

    def __init__(self, name: str, mirrors: Sequence[str], keyring: Keyring, fetcher: Fetcher) -> None:
        self.name = name
        self.mirrors = tuple(mirrors)
        self.warnings: list[str] = []
        self._keyring = keyring
        self._fetcher = fetcher
        self._releases: dict[str, Release] = {}
        self._indices: dict[tuple[str, str, str], PackageIndex] = {}

    def release(self, suite: str) -> Release:
        """Return the suite's verified InRelease.

        Raises SignatureError, ArchiveError (replayed, or of another suite), NotInArchiveError
        (no such suite) and NetworkError.
        """
        if suite not in self._releases:
            what = f"the InRelease of {self.name} {suite}"
            urls = [f"{mirror}/dists/{suite}/InRelease" for mirror in self.mirrors]
            data, url = self._fetcher.get_text(urls, what)
            release = parse_release(verify_inrelease(data, self._keyring, what=url), suite)
            for warning in check_release_time(
                release, self.name, self._fetcher.cache, now=datetime.now(tz=UTC)
            ):
                steps.note(warning)
                self.warnings.append(warning)
            self._releases[suite] = release
        return self._releases[suite]

    def index(self, suite: str, component: str, architecture: str) -> PackageIndex:
        """Return the packages of one component; raises as ``release``, and IntegrityError."""
        key = (suite, component, architecture)
        if key not in self._indices:
            release = self.release(suite)
            path = f"{component}/binary-{architecture}/Packages.xz"
            if path not in release.files:
                raise NotInArchiveError(
                    f"{self.name} {suite} has no {component} for {architecture}; "
                    f"looked for {path} in its InRelease at {', '.join(self.mirrors)}"
                )
            sha256, size = release.files[path]
            file = self._fetcher.get(
                RemoteFile(
                    urls=tuple(
                        f"{mirror}/dists/{suite}/{part}"
                        for mirror in self.mirrors
                        for part in _index_paths(path, sha256, by_hash=release.by_hash)
                    ),
                    sha256=sha256,
                    size=size,
                    name=f"{self.name} {suite} {path}",
                )
            )
            try:
                text = lzma.decompress(file.read_bytes())
            except lzma.LZMAError as error:
                raise ArchiveError(f"{self.name} {suite} {path} cannot be unpacked: {error}") from error
            self._indices[key] = PackageIndex(text, suite)
        return self._indices[key]

    def resolve(self, group: PackageGroup) -> tuple[Candidate, ...]:
        """Return the closure of ``group``; raises as ``index`` and NotInArchiveError."""
        return closure(group.roots, self._suites(group), place=self._place(group), exclude=group.exclude)

    def _suites(self, group: PackageGroup) -> list[SuiteIndices]:
        return [
            SuiteIndices(
                suite=suite.name,
                indices=tuple(
                    self.index(suite.name, component, group.architecture) for component in suite.components
                ),
                preferred=suite.preferred,
            )
            for suite in group.suites
        ]

    def _place(self, group: PackageGroup) -> str:
        return f"{group.distribution} {group.architecture} at {', '.join(self.mirrors)}"


def _index_paths(path: str, sha256: str, *, by_hash: bool) -> tuple[str, ...]:
    directory = path.rpartition("/")[0]
    return (f"{directory}/by-hash/SHA256/{sha256}", path) if by_hash else (path,)
