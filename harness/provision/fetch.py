"""Parallel, resumable, verified downloads into the cache."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx

from harness.core import steps
from harness.core.closing import Closing
from harness.core.errors import ArchiveError, IntegrityError, NetworkError, NotInArchiveError
from harness.provision.answers import TryAgainError, all_failed, check_status, continues, offline
from harness.provision.cache import Cache
from harness.provision.storage import file_sha256, storage_errors
from harness.provision.workers import CANCELLED, run_all

_THREADS = 8
_ATTEMPTS = 4
_PROGRESS_INTERVAL = 0.1  # seconds

# httpx tells every request at INFO, which is this harness's level for the story of a run.
logging.getLogger("httpx").setLevel(logging.WARNING)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file known by content: where it may be, its SHA-256 in hexadecimal and its size in bytes."""

    urls: tuple[str, ...]
    sha256: str
    size: int
    name: str


class Fetcher(Closing):
    """Downloads into ``cache``; counts the bytes it received in ``bytes_downloaded``.

    ``backoff`` is the first pause between attempts in seconds; each next one doubles.
    """

    def __init__(self, cache: Cache, *, offline: bool = False, backoff: float = 0.5) -> None:
        self.cache = cache
        self.offline = offline
        self.bytes_downloaded = 0
        self.sources: dict[str, str] = {}
        self._backoff = backoff
        self._connections: httpx.Client | None = None
        self._mutex = threading.Lock()
        self._stop = threading.Event()  # the current batch is over
        self._cancelled = threading.Event()  # and there will be no other
        # A batch is parallel in itself; the next one, of another thread, waits for its turn.
        self._turn = threading.Lock()
        self._positions: dict[str, int] = {}  # bytes there of each file of the current batch
        self._total = 0
        self._last_progress = 0.0

    def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._connections:
            self._connections.close()

    def cancel(self) -> None:
        """Make every download, and every wait for another process's, fail soon: now and for good.

        From any thread. The command is ending.
        """
        self._cancelled.set()
        self._stop.set()
        self.cache.cancel()

    @property
    def _client(self) -> httpx.Client:
        # Made when it is first needed: loading the certificates takes longer than a look into the cache.
        with self._mutex:
            if self._connections is None:
                self._connections = httpx.Client(
                    follow_redirects=True,
                    timeout=httpx.Timeout(20, connect=10),
                    limits=httpx.Limits(max_connections=_THREADS),
                    # The bytes on the wire are the file: transparent decompression would change them.
                    headers={"accept-encoding": "identity", "user-agent": "criu-pac-harness"},
                )
            return self._connections

    def get(self, file: RemoteFile) -> Path:
        """Return the cached file, downloading it if needed; errors as for ``get_all``."""
        result = self.get_all([file])[0]
        if isinstance(result, NotInArchiveError):
            raise result
        return result

    def get_all(self, files: Sequence[RemoteFile]) -> list[Path | NotInArchiveError]:
        """Return the cached files in order, downloading the missing ones in parallel.

        A file that every place answers it does not have comes back as its error, so that the
        caller can look elsewhere. Raises NetworkError (no answer, or offline), IntegrityError
        (other bytes than promised, everywhere) and StorageError.
        """
        with self._batch():
            self._positions.clear()
            self._total = sum(file.size for file in files)
            results = self._in_threads([partial(self._get_or_gone, file) for file in files])
            steps.progress(sum(self._positions.values()), self._total, "bytes")
            return results

    def get_text(self, urls: Sequence[str], name: str, *, max_bytes: int = 4_000_000) -> tuple[bytes, str]:
        """Return a small file that is verified by its own signature, and the URL that had it.

        Raises NotInArchiveError, NetworkError, and ArchiveError beyond ``max_bytes`` bytes.
        """
        if self.offline:
            raise offline(name)

        def read(url: str) -> bytes:
            with self._client.stream("GET", url) as response:
                check_status(response)
                data = bytearray()
                for chunk in response.iter_bytes():
                    data += chunk
                    self._received(len(chunk))
                    if len(data) > max_bytes:
                        raise ArchiveError(f"{url} is larger than {max_bytes} bytes")
                return bytes(data)

        def read_first() -> tuple[bytes, str]:
            failures: list[tuple[str, Exception]] = []
            for url in urls:
                try:
                    return self._attempts(url, partial(read, url)), url
                except (NotInArchiveError, NetworkError) as error:
                    failures.append((url, error))
            raise all_failed(name, failures)

        with self._batch():
            return self._in_threads([read_first])[0]  # in a thread, to be left behind if need be

    @contextmanager
    def _batch(self) -> Iterator[None]:
        """Wait for one's turn, for the length of the context; NetworkError once cancelled."""
        with self._turn:
            self._stop.clear()
            if self._cancelled.is_set():  # after clearing: it sets both, this one first
                raise NetworkError(CANCELLED)
            try:
                yield
            except Exception:
                raise
            except BaseException:  # Ctrl-C in this very thread
                self.cancel()
                raise

    def _in_threads(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        return run_all(tasks, threads=_THREADS, stop=self._stop, cancelled=self._cancelled)

    def _get_or_gone(self, file: RemoteFile) -> Path | NotInArchiveError:
        try:
            return self._get(file)
        except NotInArchiveError as error:
            return error

    def _get(self, file: RemoteFile) -> Path:
        if found := self._cached(file):
            return found
        if self.offline:
            raise self._offline_error(file)
        # Two processes that want the same file: one downloads, the other one finds it.
        with self.cache.locked(f"blob-{file.sha256}", cancelled=self._stop.is_set):
            if found := self._cached(file):
                return found
            failures: list[tuple[str, Exception]] = []
            for url in file.urls:
                try:
                    path = self._download_verified(url, file)
                except (NotInArchiveError, NetworkError, IntegrityError) as error:
                    failures.append((url, error))
                else:
                    self.sources[file.sha256] = url
                    return path
            raise all_failed(file.name, failures)

    def _cached(self, file: RemoteFile) -> Path | None:
        path = self.cache.blob(file.sha256, file.size)
        if path:
            self._advance(file, file.size)
        return path

    def _offline_error(self, file: RemoteFile) -> IntegrityError | NetworkError:
        if file.sha256 in self.cache.damaged:
            return IntegrityError(
                f"the cached copy of {file.name} was damaged and removed, and the harness is offline",
                hint="run once without CRIU_PAC_OFFLINE=1 to fetch it again",
            )
        return offline(file.name)

    def _download_verified(self, url: str, file: RemoteFile) -> Path:
        part = self.cache.partial(file.sha256)
        resumed = part.exists() and part.stat().st_size > 0
        try:
            return self._download_once(url, file, part)
        except IntegrityError:
            if not resumed:
                raise
            # The beginning was left by another run, perhaps from another place: begin anew.
            return self._download_once(url, file, part)

    def _download_once(self, url: str, file: RemoteFile, part: Path) -> Path:
        self._attempts(url, lambda: self._download(url, file, part))
        with storage_errors(part):
            actual = file_sha256(part)
            if actual == file.sha256:
                return self.cache.adopt(part, file.sha256)
            part.unlink()
        raise IntegrityError(f"{url} has SHA-256 {actual}, its index says {file.sha256}")

    def _download(self, url: str, file: RemoteFile, part: Path) -> None:
        with storage_errors(part), part.open("ab") as sink:
            have = sink.tell()
            if have == file.size:
                return
            with self._client.stream(
                "GET", url, headers={"range": f"bytes={have}-"} if have else {}
            ) as answer:
                if have and not continues(answer, have):
                    sink.truncate(0)
                    have = 0
                    if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                        raise TryAgainError("cannot resume")
                check_status(answer)
                # No chunk size: collecting full chunks would lose what came before a cut.
                for chunk in answer.iter_raw():
                    sink.write(chunk)
                    have += len(chunk)
                    self._received(len(chunk))
                    self._advance(file, have)
                    if have > file.size:
                        sink.truncate(0)
                        raise IntegrityError(f"{url} is larger than the {file.size} bytes its index says")
                    if self._stop.is_set():
                        raise NetworkError(f"the download of {file.name} was cancelled")
            if have < file.size:
                raise TryAgainError(f"the connection ended after {have} of {file.size} bytes")

    def _attempts(self, url: str, action: Callable[[], T]) -> T:
        pause = self._backoff
        for attempt in range(1, _ATTEMPTS + 1):
            if self._stop.is_set():
                raise NetworkError(f"{url}: {CANCELLED}")
            try:
                return action()
            except (httpx.TransportError, httpx.RemoteProtocolError, TryAgainError) as error:
                if attempt == _ATTEMPTS or self._stop.wait(pause):
                    raise NetworkError(f"{url}: {error or type(error).__name__}") from error
                pause *= 2
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise NetworkError(f"{url}: {error}") from error
        raise AssertionError  # the last attempt returns or raises

    def _received(self, count: int) -> None:
        with self._mutex:
            self.bytes_downloaded += count

    def _advance(self, file: RemoteFile, position: int) -> None:
        with self._mutex:
            self._positions[file.sha256] = position
            now = time.monotonic()
            if now - self._last_progress < _PROGRESS_INTERVAL:
                return
            self._last_progress = now
            done, total = sum(self._positions.values()), self._total
        steps.progress(done, total, "bytes")
