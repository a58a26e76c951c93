"""How a container base comes here: which route, what is remembered, what is refused."""

import ast
import hashlib
import io
import struct
import tarfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path, PurePath
from socket import create_server

import pytest

from harness.catalogue.bases import BASES, user_base
from harness.core import steps
from harness.core.errors import (
    ArchiveError,
    IntegrityError,
    NetworkError,
    NotInArchiveError,
    SignatureError,
    UsageError,
)
from harness.core.resources import data_directory
from harness.provision import prepared_base
from harness.provision.base_protection import check_protection
from harness.provision.bases import choose_base, prepare_base
from harness.provision.cache import Cache
from harness.provision.context import Provision
from harness.provision.fake_archive import FakeArchive
from harness.provision.fake_mirror import FakeMirror
from harness.provision.fake_registry import FakeImage, FakeRegistry, digest_of, make_image, make_index
from harness.provision.fetch import Fetcher
from harness.provision.prepared_base import ImageKind, PreparedBase, Route, forget
from harness.provision.settings import Settings

UBUNTU, FOCAL = BASES["ubuntu-24.04"], BASES["ubuntu-20.04"]
PACIASP, AUTIASP, RET = 0xD503233F, 0xD50323BF, 0xD65F03C0
PYTHON, LIBC = "usr/bin/python3", "usr/lib/aarch64-linux-gnu/libc.so.6"


def elf(*words: int) -> bytes:
    """An aarch64 library of one executable segment."""
    code = struct.pack(f"<{len(words)}I", *words)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, 120, 120, len(code), len(code), 4)
    header = struct.pack("<HHIQQQIHHHHHH", 3, 183, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + header + segment + code


SIGNED, PLAIN = elf(PACIASP, AUTIASP, RET), elf(RET)


def tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@cache
def small_archive(name: str, **suites: bytes) -> FakeArchive:
    """An archive with the packages of a base in each suite, libc and python3 with the code given for it."""
    made = FakeArchive(name)
    for at, (suite, code) in enumerate(suites.items(), start=1):
        add = partial(made.add_package, version=str(at), suite=suite)
        for package in ("base-files", "base-passwd", "bash", "coreutils", "dash", "libc-bin", "sed", "grep"):
            add(package)
        add("libc6", files={LIBC: code})
        add("python3-minimal", Depends="libc6", files={PYTHON: code})
        made.publish(suite)
    return made


UBUNTUS = small_archive("ubuntu", noble=SIGNED, focal=PLAIN)


class World:
    """Debian's and Ubuntu's archive and a registry on the loopback interface."""

    def __init__(self) -> None:
        self.debian, self.ubuntu = small_archive("debian", trixie=SIGNED), UBUNTUS
        self.ubuntu_files = dict(self.ubuntu.files)
        self.debian_mirror, self.ubuntu_mirror = FakeMirror(self.debian.files), FakeMirror(self.ubuntu_files)
        self.registry = FakeRegistry()
        self.image = make_image([tar(**{LIBC: SIGNED}), tar(etc__release=b"noble")])
        self.put(self.image, "linux/arm64/v8")
        with closing(create_server(("127.0.0.1", 0))) as gone:
            self.nowhere = f"http://127.0.0.1:{gone.getsockname()[1]}"

    def put(self, image: FakeImage, platform: str, tag: str = "24.04") -> None:
        self.index_digest = self.registry.add("library/ubuntu", tag, make_index((image, platform)), image)

    def provision(
        self, root: Path, *, offline: bool = False, registry: str = "", ubuntu: str = ""
    ) -> Provision:
        settings = Settings(
            cache_root=root,
            offline=offline,
            mirrors={"debian": (self.debian_mirror.url,), "ubuntu": (ubuntu or self.ubuntu_mirror.url,)},
            snapshots={},
            registry=registry or self.registry.url,
        )
        return Provision(
            settings,
            fetcher=Fetcher(Cache(root), offline=offline, backoff=0.001),
            lock={},
            keyrings={"debian": self.debian.keyring(), "ubuntu": self.ubuntu.keyring()},
        )


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.registry, made.debian_mirror, made.ubuntu_mirror:
        yield made


@pytest.fixture
def told() -> Iterator[list[str]]:
    texts: list[str] = []
    with steps.subscribed(lambda event: texts.append(event.text) if event.kind == "note" else None):
        yield texts


def test_registry_first_with_python_of_the_archive(tmp_path: Path, world: World, told: list[str]) -> None:
    with world.provision(tmp_path) as provision:
        prepared, note = choose_base("auto", provision)
    assert (prepared.base, prepared.route, prepared.kind) == (UBUNTU, Route.REGISTRY, ImageKind.LOAD)
    assert prepared.reference == "ubuntu:24.04"
    assert prepared.index_digest == world.index_digest
    assert prepared.manifest_digest == digest_of(world.image.manifest)
    assert prepared.python_layer is not None
    with tarfile.open(prepared.python_layer) as layer:
        assert PYTHON in layer.getnames()
        assert LIBC not in layer.getnames()
    assert prepared.notes[0] == note
    assert told.count(note) == 1
    assert world.registry.url in note
    assert any("python-ubuntu-24.04 is not in the lock" in one for one in prepared.notes)
    assert check_protection(prepared) == (True, True)


@pytest.mark.parametrize("why", ["down", "refuses", "no arm64"])
def test_archive_when_the_registry_has_no_image_for_us(tmp_path: Path, world: World, why: str) -> None:
    if why == "no arm64":
        world.put(world.image, "linux/amd64")
    if why == "refuses":
        world.registry.status["/token"] = HTTPStatus.FORBIDDEN
    with world.provision(tmp_path, registry=world.nowhere if why == "down" else "") as provision:
        prepared, note = choose_base("ubuntu-24.04", provision)
        assert check_protection(prepared) == (True, True)
    assert (prepared.route, prepared.kind) == (Route.ARCHIVE, ImageKind.IMPORT)
    assert (prepared.index_digest, prepared.manifest_digest) == (None, None)
    assert "of the archive's packages; not of a registry: " in note


@pytest.mark.parametrize("route", [Route.REGISTRY, Route.ARCHIVE])
def test_the_unprotected_control_comes_by_the_same_routes(tmp_path: Path, world: World, route: Route) -> None:
    """Small packages and layers that stand in for Ubuntu 20.04's; their code signs nothing, as declared."""
    if route is Route.REGISTRY:
        world.put(make_image([tar(**{LIBC: PLAIN}), tar(etc__release=b"focal")]), "linux/arm64", "20.04")
    with world.provision(tmp_path) as provision:
        prepared, note = choose_base("ubuntu-20.04", provision)
    assert (prepared.base, prepared.route, prepared.reference) == (FOCAL, route, "ubuntu:20.04")
    assert check_protection(prepared) == (False, False)
    assert "ubuntu-20.04" in note
    assert prepared.python_layer is not None
    with tarfile.open(prepared.python_layer) as layer:
        python = layer.extractfile(PYTHON)
        assert python is not None
        assert python.read() == PLAIN


def test_workloads_in_python_keep_to_the_syntax_of_the_oldest_base() -> None:
    """Ubuntu 20.04 has Python 3.8."""
    programs = list(data_directory("workloads").glob("*/*.py"))
    assert programs
    for program in programs:
        ast.parse(program.read_text("utf-8"), filename=str(program), feature_version=(3, 8))


def test_a_wrong_digest_is_not_passed_over(tmp_path: Path, world: World) -> None:
    path = f"/v2/library/ubuntu/blobs/{list(world.image.blobs)[-1]}"
    world.registry.files[path] = bytes(reversed(world.registry.files[path]))
    for name in ("ubuntu-24.04", "auto"):
        with world.provision(tmp_path) as provision, pytest.raises(IntegrityError, match="has SHA-256"):
            choose_base(name, provision)


def test_a_wrong_signature_is_not_passed_over(tmp_path: Path, world: World) -> None:
    world.ubuntu_files["dists/noble/InRelease"] = b"Codename: noble\n"
    with world.provision(tmp_path) as provision, pytest.raises(SignatureError):
        choose_base("auto", provision)


def test_auto_falls_back_to_debian_and_does_not_ask_again_at_once(tmp_path: Path, world: World) -> None:
    with world.provision(tmp_path, ubuntu=world.nowhere) as provision:
        prepared, note = choose_base("auto", provision)
        assert (prepared.base.name, prepared.route) == ("debian-13", Route.PACKAGES)
        assert "debian-13, of the locked packages; not ubuntu-24.04: the ubuntu archive" in note
        assert not world.registry.seen
        _, again = choose_base("auto", provision)
    assert again.endswith("s ago)")
    with world.provision(tmp_path) as provision:  # another mirror is another question
        assert choose_base("auto", provision)[0].base is UBUNTU


def test_an_old_failure_does_not_count(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.provision(tmp_path) as provision:
        prepared_base.remember_failure(UBUNTU, "no network in the train", provision)
        assert choose_base("auto", provision)[0].base.name == "debian-13"
        _travel(monkeypatch, timedelta(minutes=11))
        assert choose_base("auto", provision)[0].base is UBUNTU


def test_no_archive_is_an_error_when_ubuntu_is_asked_for(tmp_path: Path, world: World) -> None:
    with (
        world.provision(tmp_path, ubuntu=world.nowhere) as provision,
        pytest.raises(NetworkError, match="from which python3 comes by either route") as caught,
    ):
        choose_base("ubuntu-24.04", provision)
    assert "CRIU_PAC_MIRROR_UBUNTU" in str(caught.value)


def test_no_route_names_both_places(tmp_path: Path, world: World) -> None:
    for path in [path for path in world.ubuntu_files if path.startswith("pool/")]:
        del world.ubuntu_files[path]
    with (
        world.provision(tmp_path, registry=world.nowhere) as provision,
        pytest.raises(NetworkError, match=r"no route.*the registry http.*\.deb does not exist"),
    ):
        prepare_base(UBUNTU, provision)


def test_earlier_success_is_used_without_asking(tmp_path: Path, world: World) -> None:
    with world.provision(tmp_path) as provision:
        first = prepare_base(UBUNTU, provision)
    world.registry.seen.clear()
    world.ubuntu_mirror.requests.clear()
    for offline in (False, True):
        with world.provision(tmp_path, offline=offline) as provision:
            found, note = choose_base("auto", provision)
        assert (found.digest, found.route, found.manifest_digest) == (
            first.digest, first.route, first.manifest_digest,
        )  # fmt: skip
        assert "from the cache, as made on" in note
    assert not world.registry.seen
    assert not world.ubuntu_mirror.requests


def test_earlier_success_is_renewed_after_a_day_and_kept_when_nobody_answers(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.provision(tmp_path) as provision:
        first = prepare_base(UBUNTU, provision)
    _travel(monkeypatch, timedelta(days=2))
    world.ubuntu_mirror.busy["dists/noble/InRelease"] = 100
    with world.provision(tmp_path) as provision:
        stale = prepare_base(UBUNTU, provision)
    assert stale.digest == first.digest
    assert "could not be asked for again" in stale.notes[-1]
    world.ubuntu_mirror.busy.clear()
    world.put(make_image([tar(**{LIBC: SIGNED})]), "linux/arm64")
    with world.provision(tmp_path) as provision:
        assert prepare_base(UBUNTU, provision).digest != first.digest


def test_forgetting_asks_again(tmp_path: Path, world: World) -> None:
    with world.provision(tmp_path) as provision:
        prepare_base(UBUNTU, provision)
        world.registry.seen.clear()
        forget(UBUNTU, provision)
        prepare_base(UBUNTU, provision)
    assert world.registry.seen


def test_a_pruned_cache_remembers_nothing(tmp_path: Path, world: World) -> None:
    with world.provision(tmp_path) as provision:
        prepare_base(UBUNTU, provision)
    Cache(tmp_path).prune()
    with (
        world.provision(tmp_path, offline=True) as provision,
        pytest.raises(NetworkError, match=r"ubuntu-24\.04 is not in the cache and the harness is offline"),
    ):
        prepare_base(UBUNTU, provision)


def test_locked_bases_are_made_of_packages(tmp_path: Path, world: World) -> None:
    with world.provision(tmp_path) as provision:
        prepared = prepare_base(BASES["debian-13"], provision)
    assert (prepared.route, prepared.kind, prepared.reference) == (
        Route.PACKAGES, ImageKind.IMPORT, "debian:13",
    )  # fmt: skip
    assert not world.registry.seen


def _travel(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz=UTC) + by

    monkeypatch.setattr(prepared_base, "datetime", Later)


@pytest.mark.parametrize(
    ("name", "near"), [("ubuntu-24", "ubuntu-24.04"), ("debian-31", "debian-13"), ("gentoo", "known: ")]
)
def test_unknown_name(tmp_path: Path, world: World, name: str, near: str) -> None:
    with world.provision(tmp_path) as provision, pytest.raises(UsageError, match=near):
        choose_base(name, provision)


def user_tar(path: Path, **files: bytes) -> Path:
    path.write_bytes(tar(**files))
    return path


def test_root_file_system_of_the_user(tmp_path: Path, world: World) -> None:
    path = user_tar(tmp_path / "mine.tar", **{f"./{PYTHON}": SIGNED, "lib64/libc.so.6": SIGNED})
    with world.provision(tmp_path / "cache") as provision:
        prepared, note = choose_base(str(path), provision)
    assert (prepared.route, prepared.kind, prepared.python_layer) == (Route.TAR, ImageKind.IMPORT, None)
    assert prepared.reference == "criu-pac-user:base"
    assert prepared.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(path) in note
    assert check_protection(prepared) == (True, True)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (None, "there is no such file"),
        ({}, r"it has no interpreter \(usr/bin/python3\)"),
        ({PYTHON: SIGNED}, "it has no C library"),
        ({"manifest.json": b"[]", "repositories": b"{}"}, "is an image archive.*docker export"),
    ],
)
def test_unusable_root_file_systems_are_refused(
    tmp_path: Path, world: World, files: dict[str, bytes] | None, problem: str
) -> None:
    path = tmp_path / "mine.tar.gz"
    if files is not None:
        user_tar(path, **files)
    with world.provision(tmp_path / "cache") as provision, pytest.raises(UsageError, match=problem):
        choose_base(str(path), provision)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, world: World) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"anything")
    with (
        world.provision(tmp_path / "cache") as provision,
        pytest.raises(UsageError, match="is no readable tar archive"),
    ):
        choose_base(str(path), provision)


def users_base(path: Path, **files: bytes) -> PreparedBase:
    return PreparedBase(
        base=user_base(PurePath(path)),
        route=Route.TAR,
        image_archive=user_tar(path, **files),
        kind=ImageKind.IMPORT,
        python_layer=None,
        notes=(),
        digest="",
    )


@pytest.mark.parametrize(
    ("interpreter", "libc", "named", "found"),
    [(PLAIN, SIGNED, PYTHON, (False, True)), (SIGNED, PLAIN, LIBC, (True, False))],
)
def test_unprotected_code_is_refused_unless_it_is_the_control(
    tmp_path: Path, interpreter: bytes, libc: bytes, named: str, found: tuple[bool, bool]
) -> None:
    prepared = users_base(tmp_path / "mine.tar", **{PYTHON: interpreter, LIBC: libc})
    with pytest.raises(ArchiveError, match=f"/{named} .* carries no branch protection: 0 paciasp"):
        check_protection(prepared)
    assert check_protection(prepared, control=True) == found


def test_a_script_for_an_interpreter_is_refused_even_for_a_control(tmp_path: Path) -> None:
    prepared = users_base(tmp_path / "mine.tar", **{PYTHON: b"#!/bin/sh\n", LIBC: SIGNED})
    with pytest.raises(ArchiveError, match="/usr/bin/python3 of the container base"):
        check_protection(prepared, control=True)


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotInArchiveError, match="usr/bin/python3 is not in the root file system"):
        check_protection(users_base(tmp_path / "mine.tar", **{LIBC: SIGNED}))
