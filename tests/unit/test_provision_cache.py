"""The cache: whole or not at all, used entries stay, damage is noticed, errors name the way out."""

import errno
import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from harness.core import steps
from harness.core.errors import StorageError
from harness.provision import cache as cache_module
from harness.provision.cache import Cache
from harness.provision.storage import storage_errors


def fill(work: Path) -> None:
    (work / "file").write_bytes(b"content")


def add_blob(cache: Cache, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    part = cache.partial(sha256)
    part.write_bytes(content)
    cache.adopt(part, sha256)
    return sha256


def test_artifact_is_built_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(work: Path) -> None:
        built.append(work)
        fill(work)

    cache = Cache(tmp_path)
    first = cache.artifact("bundle", "key", build)
    assert cache.artifact("bundle", "key", build) == first == cache.existing_artifact("bundle", "key")
    assert len(built) == 1
    assert (first / "file").read_bytes() == b"content"


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(work: Path) -> None:
        fill(work)
        raise RuntimeError("half way")

    cache = Cache(tmp_path)
    with pytest.raises(RuntimeError, match="half way"):
        cache.artifact("bundle", "key", build)
    assert not list((tmp_path / "artifacts" / "bundle").iterdir())
    assert cache.existing_artifact("bundle", "key") is None


def test_leftover_of_a_killed_builder_is_cleared(tmp_path: Path) -> None:
    stale = tmp_path / "artifacts" / "bundle" / ".key.building-dead"
    stale.mkdir(parents=True)
    Cache(tmp_path).artifact("bundle", "key", fill)
    assert not stale.exists()


@pytest.mark.parametrize("damage", ["cut", "removed", "changed", "manifest"])
def test_damaged_artifact_is_built_again(tmp_path: Path, damage: str) -> None:
    file = Cache(tmp_path).artifact("bundle", "key", fill) / "file"
    if damage == "cut":
        file.write_bytes(b"cont")
    elif damage == "removed":
        file.unlink()
    elif damage == "changed":
        os.utime(file, (1, 1))
    else:
        (file.parent / ".manifest.json").write_text("{", encoding="utf-8")
    cache = Cache(tmp_path)
    notes: list[str] = []
    with steps.subscribed(lambda event: notes.append(event.text)):
        assert cache.existing_artifact("bundle", "key") is None
        assert cache.existing_artifact("bundle", "key") is None
    assert len(notes) == 1
    assert (cache.artifact("bundle", "key", fill) / "file").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "artifacts" / "bundle").iterdir()] == ["key"]


def _build_slowly(root: Path, log: Path) -> None:
    def build(work: Path) -> None:
        with log.open("a", encoding="utf-8") as stream:
            stream.write("built\n")
        fill(work)

    Cache(root).artifact("bundle", "key", build)


def test_many_processes_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_build_slowly, args=(tmp_path / "cache", log)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert log.read_text(encoding="utf-8") == "built\n"


def test_prune_skips_what_is_in_use(tmp_path: Path) -> None:
    user, other = Cache(tmp_path), Cache(tmp_path)
    path = user.artifact("bundle", "key", fill)
    sha256 = add_blob(user, b"blob")
    assert other.prune() == ()
    assert all(entry.in_use for entry in other.list_entries())
    user.close()
    assert {entry.kind for entry in other.prune()} == {"bundle", "blobs"}
    assert not path.exists()
    assert other.blob(sha256, 4) is None


def test_a_template_is_its_owners_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    modes = {
        kind: cache.artifact(kind, "key", fill).stat().st_mode & 0o777 for kind in ("template", "bundle")
    }
    assert modes == {"template": 0o700, "bundle": 0o755}


def test_sweep_takes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    cache, other = Cache(tmp_path), Cache(tmp_path)
    kept = cache.artifact("bundle", "kept", fill)
    part = cache.partial("0" * 64)
    part.write_bytes(b"half")
    left = [tmp_path / "artifacts" / "template" / f".{key}.building-dead1234" for key in ("one", "two")]
    for path in left:
        path.mkdir(parents=True)
        fill(path)

    def build(work: Path) -> None:
        fill(work)
        assert other.sweep() == tuple(left)
        assert work.is_dir()

    assert cache.artifact("template", "new", build).is_dir()
    assert other.sweep() == ()
    assert kept.is_dir()
    assert part.exists()


def test_sweep_of_a_cache_that_cannot_be_written_is_silent(tmp_path: Path) -> None:
    half = tmp_path / "artifacts" / "bundle" / ".key.building-dead"
    half.mkdir(parents=True)
    (tmp_path / "uses").write_text("in the way", encoding="utf-8")
    assert Cache(tmp_path).sweep() == ()
    assert Cache(tmp_path / "missing").sweep() == ()


def test_a_cancelled_cache_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_PATIENCE", 0.01)
    holder, waiter = Cache(tmp_path), Cache(tmp_path)
    waiter.cancel()
    with (
        holder.locked("build-template-key"),
        pytest.raises(StorageError, match=r"gave up waiting for .*build-template-key"),
    ):
        waiter.artifact("template", "key", fill)
    assert waiter.artifact("template", "key", fill).is_dir(), "a free lock is no reason to give up"


def test_prune_takes_the_least_recently_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for key in ("old", "new"):
        cache.artifact("bundle", key, fill)
    cache.close()
    os.utime(tmp_path / "uses" / "bundle-old", (1, 1))
    entries = cache.list_entries()
    assert [entry.key for entry in entries] == ["old", "new"]
    assert [entry.key for entry in cache.prune(max_bytes=entries[1].size)] == ["old"]


def test_a_kind_is_pruned_alone_and_never_what_is_in_use(tmp_path: Path) -> None:
    user, cache = Cache(tmp_path), Cache(tmp_path)
    for at, key in enumerate(("used", "old", "new"), start=1):
        cache.artifact("template", key, fill)
        os.utime(tmp_path / "uses" / f"template-{key}", (at, at))
    bundle = cache.artifact("bundle", "oldest", fill)
    os.utime(tmp_path / "uses" / "bundle-oldest", (0, 0))
    cache.close()
    assert user.existing_artifact("template", "used")
    os.utime(tmp_path / "uses" / "template-used", (1, 1))
    one = next(entry.size for entry in cache.list_entries() if entry.key == "new")
    assert [entry.key for entry in cache.prune_kind("template", 2 * one)] == ["old"]
    assert [entry.key for entry in cache.prune_kind("template", 0)] == ["new"]
    assert cache.prune_kind("template", 0) == ()
    assert bundle.is_dir()


def test_what_is_made_again_was_used_just_now(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.artifact("template", "again", fill)
    cache.close()
    os.utime(tmp_path / "uses" / "template-again", (1, 1))
    assert len(cache.prune()) == 1
    cache.artifact("template", "again", fill)
    assert cache.list_entries()[0].last_used > 1


def test_prune_sweeps_leftovers(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    part = cache.partial("0" * 64)
    part.write_bytes(b"half")
    half = tmp_path / "artifacts" / "bundle" / ".key.building-dead"
    half.mkdir(parents=True)
    cache.prune(max_bytes=10**9)
    assert not part.exists()
    assert not half.exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left for .*MB free.*CRIU_PAC_CACHE"),
        (errno.EACCES, "cannot write .*CRIU_PAC_CACHE"),
        (errno.EIO, "the disk failed"),
    ],
)
def test_storage_errors_name_the_way_out(tmp_path: Path, number: int, words: str) -> None:
    def build(work: Path) -> None:
        raise OSError(number, os.strerror(number), str(work / "file"))

    with pytest.raises(StorageError, match=words):
        Cache(tmp_path).artifact("bundle", "key", build)
    assert not list((tmp_path / "artifacts" / "bundle").iterdir())


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), storage_errors(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "is a directory")


def test_cache_below_a_file(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write"):
        Cache(blocker).artifact("bundle", "key", fill)
