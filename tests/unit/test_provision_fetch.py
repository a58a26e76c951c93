"""Downloads: resume, retry, other places, damage, offline."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.core import steps
from harness.core.errors import ArchiveError, IntegrityError, NetworkError, NotInArchiveError
from harness.provision import workers
from harness.provision.cache import Cache
from harness.provision.fake_mirror import FakeMirror
from harness.provision.fetch import Fetcher, RemoteFile

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def mirror() -> Iterator[FakeMirror]:
    with FakeMirror({"a": CONTENT, "b": CONTENT[::-1]}) as running:
        yield running


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    with Fetcher(Cache(tmp_path), backoff=0.001) as made:
        yield made


def remote(mirror: FakeMirror, *paths: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile(
        urls=tuple(f"{mirror.url}/{path}" for path in paths),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        name="the file",
    )


def test_download_once_then_from_the_cache(mirror: FakeMirror, fetcher: Fetcher) -> None:
    assert fetcher.get(remote(mirror, "a")).read_bytes() == CONTENT
    assert fetcher.get(remote(mirror, "a")).read_bytes() == CONTENT
    assert mirror.requests["a"] == 1
    assert fetcher.bytes_downloaded == len(CONTENT)


def test_cut_download_is_resumed(mirror: FakeMirror, fetcher: Fetcher) -> None:
    mirror.cut["a"] = 1000
    assert fetcher.get(remote(mirror, "a")).read_bytes() == CONTENT
    assert mirror.requests["a"] == 2
    assert mirror.sent["a"] == fetcher.bytes_downloaded == len(CONTENT)


def test_partial_file_of_an_earlier_run_is_resumed(mirror: FakeMirror, fetcher: Fetcher) -> None:
    file = remote(mirror, "a")
    fetcher.cache.partial(file.sha256).write_bytes(CONTENT[:5000])
    assert fetcher.get(file).read_bytes() == CONTENT
    assert fetcher.bytes_downloaded == len(CONTENT) - 5000


@pytest.mark.parametrize("leftover", [b"x" * 5000, CONTENT + b"more", b"x" * len(CONTENT)])
def test_foreign_partial_file_is_dropped(mirror: FakeMirror, fetcher: Fetcher, leftover: bytes) -> None:
    file = remote(mirror, "a")
    fetcher.cache.partial(file.sha256).write_bytes(leftover)
    assert fetcher.get(file).read_bytes() == CONTENT


def test_server_errors_are_retried(mirror: FakeMirror, fetcher: Fetcher) -> None:
    mirror.busy["a"] = 2
    assert fetcher.get(remote(mirror, "a")).read_bytes() == CONTENT
    assert mirror.requests["a"] == 3


def test_lasting_server_error_is_named(mirror: FakeMirror, fetcher: Fetcher) -> None:
    mirror.busy["a"] = 99
    with pytest.raises(NetworkError, match=r"the file could not be downloaded: .*/a: HTTP 503"):
        fetcher.get(remote(mirror, "a"))


def test_next_place_on_404_without_retry(mirror: FakeMirror, fetcher: Fetcher) -> None:
    file = remote(mirror, "gone", "a")
    assert fetcher.get(file).read_bytes() == CONTENT
    assert mirror.requests["gone"] == 1
    assert fetcher.sources[file.sha256].endswith("/a")


def test_gone_everywhere(mirror: FakeMirror, fetcher: Fetcher) -> None:
    gone = remote(mirror, "x", "y")
    with pytest.raises(NotInArchiveError, match=r"none of the places looked at: .*/x .*/y "):
        fetcher.get(gone)
    results = fetcher.get_all([gone, remote(mirror, "b", content=CONTENT[::-1])])
    assert isinstance(results[0], NotInArchiveError)
    assert isinstance(results[1], Path)


@pytest.mark.parametrize("wrong", [CONTENT[::-1], CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_wrong_content_is_refused_and_not_kept(
    mirror: FakeMirror, fetcher: Fetcher, wrong: bytes, tmp_path: Path
) -> None:
    mirror.files = {"a": wrong}
    with pytest.raises(IntegrityError, match="the file: "):
        fetcher.get(remote(mirror, "a"))
    assert not list(tmp_path.glob("blobs/*/*"))


def test_short_content_is_refused(mirror: FakeMirror, fetcher: Fetcher) -> None:
    mirror.files = {"a": CONTENT[:-1]}
    with pytest.raises((NetworkError, IntegrityError), match="the file"):
        fetcher.get(remote(mirror, "a"))


def test_next_place_after_wrong_content(mirror: FakeMirror, fetcher: Fetcher) -> None:
    assert fetcher.get(remote(mirror, "b", "a")).read_bytes() == CONTENT


def test_nothing_listens(fetcher: Fetcher, mirror: FakeMirror) -> None:
    file = RemoteFile(urls=("http://127.0.0.1:9/a",), sha256="0" * 64, size=1, name="the file")
    with pytest.raises(NetworkError, match=r"the file could not be downloaded: http://127\.0\.0\.1:9/a"):
        fetcher.get(file)


@pytest.mark.parametrize(
    "damage", [CONTENT[:100], b"", CONTENT[:-1] + b"x"], ids=["cut", "empty", "tampered"]
)
def test_damaged_blob_is_fetched_again(mirror: FakeMirror, fetcher: Fetcher, damage: bytes) -> None:
    file = remote(mirror, "a")
    fetcher.get(file).write_bytes(damage)
    assert fetcher.get(file).read_bytes() == CONTENT
    assert mirror.requests["a"] == 2


def test_damaged_blob_offline(mirror: FakeMirror, fetcher: Fetcher, tmp_path: Path) -> None:
    file = remote(mirror, "a")
    fetcher.get(file).write_bytes(b"damaged")
    with Fetcher(Cache(tmp_path), offline=True) as offline:
        with pytest.raises(
            IntegrityError, match=r"the cached copy of the file was damaged.*run once without"
        ):
            offline.get(file)
        with pytest.raises(NetworkError, match="is not in the cache and the harness is offline"):
            Fetcher(Cache(tmp_path), offline=True).get(file)


def test_offline_uses_the_cache(mirror: FakeMirror, fetcher: Fetcher, tmp_path: Path) -> None:
    fetcher.get(remote(mirror, "a"))
    assert Fetcher(Cache(tmp_path), offline=True).get(remote(mirror, "a")).read_bytes() == CONTENT


def test_offline_text(fetcher: Fetcher, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="the InRelease is not in the cache and the harness is offline"):
        Fetcher(Cache(tmp_path), offline=True).get_text(["http://127.0.0.1:9/x"], "the InRelease")


def test_oversized_text_is_refused(mirror: FakeMirror, fetcher: Fetcher) -> None:
    with pytest.raises(ArchiveError, match="larger than 100 bytes"):
        fetcher.get_text([f"{mirror.url}/a"], "the InRelease", max_bytes=100)


def test_two_users_download_once(mirror: FakeMirror, tmp_path: Path) -> None:
    file = remote(mirror, "a")

    def use() -> None:
        with Fetcher(Cache(tmp_path)) as one:
            one.get(file)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mirror.requests["a"] == 1


def test_threads_that_share_a_fetcher_do_not_cancel_each_other(tmp_path: Path) -> None:
    contents = {str(number): bytes([number]) * 200_000 for number in range(12)}
    with FakeMirror(contents) as mirror, Fetcher(Cache(tmp_path), backoff=0.001) as fetcher:
        files = [remote(mirror, path, content=content) for path, content in contents.items()]
        failures: list[BaseException] = []

        def batch(mine: list[RemoteFile]) -> None:
            try:
                fetcher.get_all(mine)
            except BaseException as error:  # noqa: BLE001 -- told by the assertion
                failures.append(error)

        threads = [threading.Thread(target=batch, args=(files[at:],)) for at in (11, 8, 4, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert all(fetcher.cache.blob(file.sha256, file.size) for file in files)


class SilentServer:
    """Takes connections and never says a word; ``asked`` is set once somebody waits."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.asked = threading.Event()
        self._taken: list[socket.socket] = []
        self._taking = threading.Thread(target=self._take, daemon=True)
        self._taking.start()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(self._socket.accept()[0])
                self.asked.set()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # closing alone does not end a wait in accept
        self._taking.join(5)
        for one in (self._socket, *self._taken):
            one.close()


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    with contextlib.closing(SilentServer()) as server:
        yield server


WAITS: list[Callable[[Fetcher, str], object]] = [
    lambda fetcher, url: fetcher.get_all(
        [RemoteFile(urls=(f"{url}/a", f"{url}/b"), sha256=str(at) * 64, size=1, name="a") for at in range(3)]
    ),
    lambda fetcher, url: fetcher.get_text([f"{url}/a", f"{url}/b"], "the InRelease"),
]


@pytest.mark.parametrize("wait", WAITS)
def test_cancel_ends_a_wait_for_a_silent_server(
    fetcher: Fetcher, silent: SilentServer, mirror: FakeMirror, wait: Callable[[Fetcher, str], object]
) -> None:
    """Ctrl-C while arms download: httpx alone would wait 20 s for each place."""
    errors: list[BaseException] = []

    def download() -> None:
        try:
            wait(fetcher, silent.url)
        except NetworkError as error:
            errors.append(error)

    batches = [threading.Thread(target=download, daemon=True) for _ in range(2)]  # the second waits its turn
    for batch in batches:
        batch.start()
    assert silent.asked.wait(5)
    fetcher.cancel()
    for batch in batches:
        batch.join(5)
    assert ["cancelled" in str(error) for error in errors] == [True, True]
    with pytest.raises(NetworkError, match="cancelled"):
        fetcher.get(remote(mirror, "a"))
    assert mirror.requests["a"] == 0
    left = [thread for thread in threading.enumerate() if thread.name == "fetch"]
    assert all(thread.daemon for thread in left), "the end of the process would wait for them"


@pytest.mark.parametrize("wait", WAITS)
def test_an_interrupt_in_the_downloading_thread_cancels_too(
    fetcher: Fetcher,
    silent: SilentServer,
    wait: Callable[[Fetcher, str], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert silent.asked.wait(5)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait(fetcher, silent.url)
    monkeypatch.undo()
    with pytest.raises(NetworkError, match="cancelled"):
        wait(fetcher, silent.url)


def test_cancel_makes_the_cache_give_up_too(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(fetcher.cache, "cancel", lambda: told.append("give up"))
    fetcher.cancel()
    assert told == ["give up"]


def test_after_a_failure_nothing_of_the_batch_runs_on(mirror: FakeMirror, fetcher: Fetcher) -> None:
    mirror.files = {"a": CONTENT[::-1]}
    before = set(threading.enumerate())  # those that a cancelled test left behind may still be ending
    with pytest.raises(IntegrityError):
        fetcher.get_all([remote(mirror, "a")])
    new = set(threading.enumerate()) - before
    assert [thread for thread in new if thread.name == "fetch"] == []
    mirror.files = {"a": CONTENT}
    assert fetcher.get(remote(mirror, "a")).read_bytes() == CONTENT


def test_progress_ends_at_the_total(mirror: FakeMirror, fetcher: Fetcher) -> None:
    events: list[steps.StepEvent] = []
    with steps.subscribed(events.append), steps.step("get"):
        fetcher.get_all([remote(mirror, "a"), remote(mirror, "b", content=CONTENT[::-1])])
    last = [event for event in events if event.kind == "progress"][-1]
    assert (last.path, last.done, last.total) == (("get",), 2 * len(CONTENT), 2 * len(CONTENT))
