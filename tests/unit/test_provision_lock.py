"""The committed lock agrees with the declared groups; keys and digests."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.catalogue.bases import BASES, Base
from harness.core.errors import SignatureError, StorageError
from harness.provision.fake_archive import FakeArchive
from harness.provision.groups import GROUPS
from harness.provision.keyring import DEBIAN_KEYS, debian_keyring, keyring, verify_inrelease
from harness.provision.lock import declaration, digest, lock_path, read_lock, write_lock
from harness.provision.resolve import closure
from harness.provision.settings import OFFICIAL_MIRRORS


def test_lock_matches_the_groups() -> None:
    lock = read_lock()
    assert sorted(lock) == sorted(name for name, group in GROUPS.items() if group.locked)
    for name, entry in lock.items():
        assert entry.declared == declaration(GROUPS[name]), f"{name}: run `criu-pac cache update`"


@pytest.mark.parametrize(
    ("base", "packages"), [(one, packages) for one in BASES.values() for packages in one.packages]
)
def test_what_a_base_has_for_workloads_is_locked(base: Base, packages: str) -> None:
    locked = read_lock()[base.group_of(packages)]
    assert {f"{packages}-server"} <= {one.name for one in locked.packages}
    assert sum(one.size for one in locked.packages) < 4_000_000
    assert {one.suite for one in locked.packages} == {base.release}


def test_lock_is_written_as_it_was_read(tmp_path: Path) -> None:
    copy = tmp_path / "lock.json"
    write_lock(read_lock(), copy)
    assert copy.read_bytes() == lock_path().read_bytes()


def test_lock_holds_what_the_main_job_needs() -> None:
    lock = read_lock()
    versions = {name: {one.name: one.version for one in entry.packages} for name, entry in lock.items()}
    assert versions["criu-3.17.1"]["criu"].startswith("3.17.1-")
    assert int(versions["host-tools-amd64"]["qemu-system-arm"].split(":")[1].split(".")[0]) >= 11
    assert versions["host-tools-arm64"]["qemu-system-arm"] == versions["host-tools-amd64"]["qemu-system-arm"]
    assert any(name.startswith("linux-image-6.1.") for name in versions["kernel-6.1"])
    assert "docker.io" in versions["guest-root"]
    for packages in versions.values():
        assert not {"dpkg", "systemd", "adduser"} & set(packages)
    assert not set(versions["base-debian-13"]) & set(versions["python-debian-13"])


@pytest.mark.parametrize(
    "text", ["", "{}", '{"schema": 99, "groups": {}}', '{"schema": 1, "groups": {"a": {}}}']
)
def test_bad_lock(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StorageError, match=r"lock\.json"):
        read_lock(path)


def test_digest_ignores_order_and_notices_content() -> None:
    packages = read_lock()["kernel-6.1"].packages
    assert digest(packages) == digest(reversed(packages))
    assert digest(packages) != digest([replace(packages[0], sha256="0" * 64), *packages[1:]])


def test_every_group_has_a_mirror() -> None:
    assert {group.distribution for group in GROUPS.values()} <= set(OFFICIAL_MIRRORS)
    assert all(group.exclude[name] for group in GROUPS.values() for name in group.exclude)


def test_debian_keys() -> None:
    assert debian_keyring().fingerprints == frozenset(DEBIAN_KEYS.values())


def test_keyring_takes_only_the_expected_keys() -> None:
    one, two = FakeArchive(), FakeArchive()
    armoured = [str(one.certificate).encode(), str(two.certificate).encode()]
    accepted = keyring("test", armoured, [one.certificate.fingerprint])
    assert accepted.fingerprints == {one.certificate.fingerprint}
    assert verify_inrelease(one.sign(b"text\n"), accepted) == b"text\n"
    with pytest.raises(SignatureError, match="not by a key of the test archive"):
        verify_inrelease(two.sign(b"text\n"), accepted)


def test_keyring_lacks_a_key() -> None:
    one, two = FakeArchive(), FakeArchive()
    with pytest.raises(SignatureError, match="lack"):
        keyring("test", [str(one.certificate).encode()], [two.certificate.fingerprint])
    with pytest.raises(SignatureError, match="cannot be read"):
        keyring("test", [b"not a key"], [one.certificate.fingerprint])


def test_schema_is_plain_json() -> None:
    assert json.loads(lock_path().read_text("utf-8"))["schema"] == 1
    assert closure([], [], place="nowhere") == ()
