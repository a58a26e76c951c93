"""The archive client against a small signed archive on the loopback interface."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.core import steps
from harness.core.errors import (
    ArchiveError,
    IntegrityError,
    NetworkError,
    NotInArchiveError,
    SignatureError,
    UsageError,
)
from harness.provision.cache import Cache
from harness.provision.context import Provision
from harness.provision.fake_archive import FakeArchive
from harness.provision.fake_mirror import FakeMirror
from harness.provision.fetch import Fetcher
from harness.provision.groups import PackageGroup, Suite
from harness.provision.keyring import Keyring
from harness.provision.lock import LockedGroup
from harness.provision.packages import archive_of, obtain, update_lock
from harness.provision.settings import Settings

GROUP = PackageGroup(
    name="tools",
    distribution="debian",
    suites=(Suite(name="trixie"),),
    architecture="arm64",
    roots=("app",),
)
EARLIER = datetime(2025, 12, 1, tzinfo=UTC)
LATER = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture
def archive() -> FakeArchive:
    made = FakeArchive()
    made.add_package("app", Depends="libone (>= 1), libtwo")
    made.add_package("libone", "2", Depends="libtwo")
    made.add_package("libtwo", Depends="libone")
    made.publish()
    return made


@pytest.fixture
def mirror(archive: FakeArchive) -> Iterator[FakeMirror]:
    with FakeMirror(archive.files) as running:
        yield running


@contextmanager
def provisioning(
    root: Path,
    mirror: FakeMirror,
    keyring: Keyring,
    *,
    lock: dict[str, LockedGroup] | None = None,
    snapshot: FakeMirror | None = None,
    offline: bool = False,
) -> Iterator[Provision]:
    settings = Settings(
        cache_root=root,
        offline=offline,
        mirrors={"debian": (mirror.url,)},
        snapshots={"debian": (snapshot.url,) if snapshot else ()},
    )
    with Provision(
        settings,
        fetcher=Fetcher(Cache(root), offline=offline, backoff=0.001),
        lock=lock or {},
        groups={GROUP.name: GROUP},
        keyrings={"debian": keyring},
    ) as made:
        yield made


def make_lock(root: Path, mirror: FakeMirror, archive: FakeArchive) -> dict[str, LockedGroup]:
    with provisioning(root, mirror, archive.keyring()) as provision:
        return {"tools": LockedGroup(declared={}, packages=_packages(provision))}


def _packages(provision: Provision) -> tuple:  # type: ignore[type-arg]
    return tuple(package for package, _ in obtain("tools", provision).packages)


def test_unlocked_group_is_resolved_through_the_signed_chain(
    tmp_path: Path, archive: FakeArchive, mirror: FakeMirror
) -> None:
    with provisioning(tmp_path, mirror, archive.keyring()) as provision:
        group = obtain("tools", provision)
    assert [package.name for package, _ in group.packages] == ["app", "libone", "libtwo"]
    assert all(path.read_bytes().startswith(b"!<arch>") for _, path in group.packages)
    assert group.bytes_downloaded == sum(mirror.sent.values())
    assert any("not in the lock" in note for note in group.notes)
    assert any("by-hash" in path for path in mirror.requests)


def test_locked_group_needs_no_index(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    lock = make_lock(tmp_path / "a", mirror, archive)
    mirror.requests.clear()
    with provisioning(tmp_path / "b", mirror, archive.keyring(), lock=lock) as provision:
        group = obtain("tools", provision)
        assert group.digest == provision.locked_digest("tools")
    assert not group.notes
    assert not any(path.startswith("dists/") for path in mirror.requests)


def test_unknown_signer_is_refused(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    other = FakeArchive()
    with (
        provisioning(tmp_path, mirror, other.keyring()) as provision,
        pytest.raises(SignatureError, match="not by a key of the debian archive"),
    ):
        obtain("tools", provision)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"Codename: trixie", b"Codename: trixia"),
        lambda data: data[: len(data) // 2],
        lambda data: data[data.index(b"Origin") : data.index(b"-----BEGIN PGP SIGNATURE")],
        lambda data: b"",
    ],
    ids=["changed", "cut", "unsigned", "empty"],
)
def test_bad_inrelease_is_refused(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror, change) -> None:  # type: ignore[no-untyped-def]
    archive.files["dists/trixie/InRelease"] = change(archive.files["dists/trixie/InRelease"])
    with (
        provisioning(tmp_path, mirror, archive.keyring()) as provision,
        pytest.raises(SignatureError, match=r"no valid signature.*changed on its way") as caught,
    ):
        obtain("tools", provision)
    assert "backtrace" not in str(caught.value)


def test_text_outside_the_signature_is_dropped(
    tmp_path: Path, archive: FakeArchive, mirror: FakeMirror
) -> None:
    signed = archive.files["dists/trixie/InRelease"]
    archive.files["dists/trixie/InRelease"] = b"Codename: evil\n" + signed + b"SHA256:\n 00 1 evil\n"
    with provisioning(tmp_path, mirror, archive.keyring()) as provision:
        assert set(archive_of("debian", provision).release("trixie").files) == {
            "main/binary-arm64/Packages.xz"
        }


def test_inrelease_of_another_suite_is_refused(
    tmp_path: Path, archive: FakeArchive, mirror: FakeMirror
) -> None:
    archive.publish("bookworm")
    archive.files["dists/trixie/InRelease"] = archive.files["dists/bookworm/InRelease"]
    with (
        provisioning(tmp_path, mirror, archive.keyring()) as provision,
        pytest.raises(ArchiveError, match="the InRelease of trixie describes bookworm"),
    ):
        obtain("tools", provision)


def test_replayed_inrelease_is_refused(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    archive.publish(date=LATER)
    with provisioning(tmp_path, mirror, archive.keyring()) as provision:
        obtain("tools", provision)
    archive.publish(date=EARLIER)
    with (
        provisioning(tmp_path, mirror, archive.keyring()) as provision,
        pytest.raises(ArchiveError, match=r"older than the one of 2026-02-01"),
    ):
        obtain("tools", provision)


def test_expired_inrelease_is_used_with_a_warning(
    tmp_path: Path, archive: FakeArchive, mirror: FakeMirror
) -> None:
    archive.publish(date=EARLIER, valid_until=datetime(2025, 12, 8, tzinfo=UTC))
    seen: list[str] = []
    with (
        steps.subscribed(lambda event: seen.append(event.text) if event.kind == "note" else None),
        provisioning(tmp_path, mirror, archive.keyring()) as provision,
    ):
        group = obtain("tools", provision)
    assert any("valid until 2025-12-08 only" in note for note in group.notes)
    assert sum("valid until 2025-12-08 only" in text for text in seen) == 1


def test_wrong_index_is_refused(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    for path, data in list(archive.files.items()):
        if "binary-arm64" in path:
            archive.files[path] = bytes(reversed(data))
    with (
        provisioning(tmp_path, mirror, archive.keyring()) as provision,
        pytest.raises(IntegrityError, match=r"Packages\.xz.*its index says"),
    ):
        obtain("tools", provision)


def test_index_without_by_hash(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    archive.publish(by_hash=False)
    with provisioning(tmp_path, mirror, archive.keyring()) as provision:
        assert len(obtain("tools", provision).packages) == 3
    assert not any("by-hash" in path for path in mirror.requests)


def test_missing_architecture_is_named(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    with (
        provisioning(tmp_path, mirror, archive.keyring()) as provision,
        pytest.raises(NotInArchiveError, match="debian trixie has no main for riscv64"),
    ):
        archive_of("debian", provision).index("trixie", "main", "riscv64")


def test_gone_version_comes_from_the_snapshot(
    tmp_path: Path, archive: FakeArchive, mirror: FakeMirror
) -> None:
    lock = make_lock(tmp_path / "a", mirror, archive)
    with FakeMirror(dict(archive.files)) as snapshot:
        del archive.files["pool/main/l/libone/libone_2_arm64.deb"]
        with provisioning(
            tmp_path / "b", mirror, archive.keyring(), lock=lock, snapshot=snapshot
        ) as provision:
            group = obtain("tools", provision)
            assert group.digest == provision.locked_digest("tools")
        assert list(snapshot.requests) == ["pool/main/l/libone/libone_2_arm64.deb"]
    assert not group.notes


def _replace_libone(archive: FakeArchive) -> None:
    del archive.files["pool/main/l/libone/libone_2_arm64.deb"]
    archive.add_package("libone", "3", Depends="libtwo, libthree")
    archive.add_package("libthree")
    archive.publish(date=LATER)


def test_gone_version_is_replaced_by_the_present_one_and_said(
    tmp_path: Path, archive: FakeArchive, mirror: FakeMirror
) -> None:
    lock = make_lock(tmp_path / "a", mirror, archive)
    _replace_libone(archive)
    with (
        FakeMirror({}) as snapshot,
        provisioning(tmp_path / "b", mirror, archive.keyring(), lock=lock, snapshot=snapshot) as provision,
    ):
        group = obtain("tools", provision)
        assert group.digest != provision.locked_digest("tools")
        assert snapshot.requests["pool/main/l/libone/libone_2_arm64.deb"] == 1
    assert group.notes == (
        "tools: libone 3 from trixie instead of 2 of the lock",
        "tools: libthree 1 from trixie is new since the lock",
    )


def test_gone_version_in_the_cache_is_used(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    lock = make_lock(tmp_path, mirror, archive)
    _replace_libone(archive)
    with provisioning(tmp_path, mirror, archive.keyring(), lock=lock) as provision:
        group = obtain("tools", provision)
    assert (group.notes, group.bytes_downloaded) == ((), 0)


def test_replacement_is_remembered_without_network(
    tmp_path: Path, archive: FakeArchive, mirror: FakeMirror
) -> None:
    lock = make_lock(tmp_path / "a", mirror, archive)
    _replace_libone(archive)
    with provisioning(tmp_path / "b", mirror, archive.keyring(), lock=lock) as provision:
        first = obtain("tools", provision)
    with provisioning(tmp_path / "b", mirror, archive.keyring(), lock=lock, offline=True) as provision:
        second = obtain("tools", provision)
    assert second.packages == first.packages
    assert any("chosen last time" in note for note in second.notes)


def test_offline_with_an_empty_cache(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    lock = make_lock(tmp_path / "a", mirror, archive)
    with (
        provisioning(tmp_path / "b", mirror, archive.keyring(), lock=lock, offline=True) as provision,
        pytest.raises(NetworkError, match=r"app 1 \(arm64\) is not in the cache and the harness is offline"),
    ):
        obtain("tools", provision)


def test_unknown_group(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    with (
        provisioning(tmp_path, mirror, archive.keyring()) as provision,
        pytest.raises(UsageError, match="no package group gcc; there are tools"),
    ):
        obtain("gcc", provision)


def test_failed_update_leaves_the_lock(tmp_path: Path, archive: FakeArchive, mirror: FakeMirror) -> None:
    lock = tmp_path / "lock.json"
    lock.write_text("untouched", encoding="utf-8")
    with (
        provisioning(tmp_path / "cache", mirror, archive.keyring()) as provision,
        pytest.raises(ArchiveError),
    ):
        update_lock(provision, lock)
    assert lock.read_text(encoding="utf-8") == "untouched"
