"""Root file systems by extraction: one tree out of many packages, and nothing that leaves it."""

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import ArchiveError, IntegrityError
from harness.provision.fake_archive import make_deb
from harness.provision.rootfs import RootTar, canonical

DEB = Path("app_1_arm64.deb")


def _package(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    path.write_bytes(make_deb({"Package": path.stem}, files, links))
    return path


def _special(path: Path, fill: Callable[[tarfile.TarFile], None]) -> Path:
    """Return a package whose data archive is made by hand, for modes, owners and hard links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        fill(tar)
    data = lzma.compress(buffer.getvalue())
    header = f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
    path.write_bytes(b"!<arch>\n" + header + data + b"\n" * (len(data) % 2))
    return path


def _root(tmp_path: Path, *packages: Path, whole: bool = False) -> dict[str, tarfile.TarInfo]:
    """Return the members of the tree made from ``packages``; no name may come twice."""
    with RootTar(tmp_path / "root.tar", whole=whole) as root:
        root.add_packages(packages)
    with tarfile.open(tmp_path / "root.tar") as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert len(names) == len(set(names))
    return dict(zip(names, members, strict=True))


def _content(tmp_path: Path, name: str) -> bytes:
    with tarfile.open(tmp_path / "root.tar") as tar:
        stream = tar.extractfile(name)
        assert stream is not None
        return stream.read()


@pytest.mark.parametrize(
    ("name", "merged"),
    [
        ("./", ""),
        (".", ""),
        ("./bin/sh", "usr/bin/sh"),
        ("/sbin/init", "usr/sbin/init"),
        ("lib/aarch64-linux-gnu/libc.so.6", "usr/lib/aarch64-linux-gnu/libc.so.6"),
        ("./lib", "usr/lib"),
        ("./usr/bin/sh", "usr/bin/sh"),
        ("./usr//lib/./x/", "usr/lib/x"),
        ("./library/x", "library/x"),
        ("./binaries", "binaries"),
        ("./etc/lib/x", "etc/lib/x"),
        ("./usr/x..y/...", "usr/x..y/..."),
    ],
)
def test_names_are_plain_and_below_usr_where_it_is_merged(name: str, merged: str) -> None:
    assert canonical(name, DEB) == merged


@pytest.mark.parametrize("name", ["../evil", "./usr/../../evil", "usr/..", "/..", "./lib/../../x"])
def test_a_name_that_leaves_the_root_is_refused_with_its_package(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match=r"app_1_arm64\.deb holds the member '.*', which leaves its root"):
        canonical(name, DEB)
    with pytest.raises(ArchiveError, match=r"a\.deb holds the member"):
        _root(tmp_path, _package(tmp_path / "a.deb", {name: b"x"}))


def test_a_whole_root_has_its_links_and_directories(tmp_path: Path) -> None:
    root = _root(tmp_path, whole=True)
    for name in ("bin", "sbin", "lib"):
        assert (root[name].issym(), root[name].linkname) == (True, f"usr/{name}")
        assert root[f"usr/{name}"].isdir()
    assert root["tmp"].mode == 0o1777
    for name in ("dev", "proc", "sys", "run", "etc", "var/lib", "root"):
        assert (root[name].isdir(), root[name].mode) == (True, 0o755)
    assert {(member.uid, member.gid) for member in root.values()} == {(0, 0)}


def test_a_layer_has_nothing_of_its_own(tmp_path: Path) -> None:
    root = _root(tmp_path, _package(tmp_path / "a.deb", {"./usr/bin/app": b"app"}))
    assert list(root) == ["usr", "usr/bin", "usr/bin/app"]


def test_two_spellings_of_one_file_meet_below_usr(tmp_path: Path) -> None:
    old = _package(tmp_path / "a.deb", {"./lib/libx.so": b"first", "./bin/app": b"app"})
    new = _package(tmp_path / "b.deb", {"./usr/lib/libx.so": b"second"})
    root = _root(tmp_path, old, new, whole=True)
    assert "usr/bin/app" in root
    assert root["lib"].issym()
    assert _content(tmp_path, "usr/lib/libx.so") == b"first"


def test_a_package_that_brings_the_links_itself_changes_nothing(tmp_path: Path) -> None:
    base = _package(tmp_path / "base-files.deb", {}, {"./bin": "usr/bin", "./lib": "usr/lib"})
    assert _root(tmp_path, base, whole=True).keys() == _root(tmp_path, whole=True).keys()


def test_first_come_first_kept(tmp_path: Path) -> None:
    first = _package(tmp_path / "a.deb", {"./etc/conf": b"first"})
    second = _package(tmp_path / "b.deb", {"./etc/conf": b"second", "./etc/other": b"other"})
    _root(tmp_path, first, second)
    assert _content(tmp_path, "etc/conf") == b"first"
    assert _content(tmp_path, "etc/other") == b"other"


def test_what_was_added_before_the_packages_stays(tmp_path: Path) -> None:
    with RootTar(tmp_path / "root.tar") as root:
        root.add_file("usr/sbin/criu-pac-init", b"ours", mode=0o755)
        root.add_packages([_package(tmp_path / "a.deb", {"./sbin/criu-pac-init": b"theirs"})])
        root.add_file("usr/sbin/criu-pac-init", b"too late")
    assert _content(tmp_path, "usr/sbin/criu-pac-init") == b"ours"


def test_hard_links_modes_owners_and_devices_stay(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        program = tarfile.TarInfo("./bin/perl5")
        program.size, program.mode, program.uid, program.gid = 4, 0o4755, 0, 42
        tar.addfile(program, io.BytesIO(b"perl"))
        link = tarfile.TarInfo("./bin/perl")
        link.type, link.linkname = tarfile.LNKTYPE, "./bin/perl5"
        tar.addfile(link)

    root = _root(tmp_path, _special(tmp_path / "perl.deb", fill))
    link, program = root["usr/bin/perl"], root["usr/bin/perl5"]
    assert (program.mode, program.gid) == (0o4755, 42)
    assert (link.islnk(), link.linkname) == (True, "usr/bin/perl5")
    assert _content(tmp_path, "usr/bin/perl") == b"perl"


def test_a_hard_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        link = tarfile.TarInfo("./usr/bin/x")
        link.type, link.linkname = tarfile.LNKTYPE, "../../etc/shadow"
        tar.addfile(link)

    with pytest.raises(ArchiveError, match=r"evil\.deb holds the member"):
        _root(tmp_path, _special(tmp_path / "evil.deb", fill))


def test_symbolic_links_stay_as_they_are(tmp_path: Path) -> None:
    links = {"./usr/lib/libx.so": "../../lib/libx.so.1", "./etc/alternatives/x": "/bin/x"}
    root = _root(tmp_path, _package(tmp_path / "a.deb", {}, links))
    assert root["usr/lib/libx.so"].linkname == "../../lib/libx.so.1"
    assert root["etc/alternatives/x"].linkname == "/bin/x"


def test_users_and_groups_come_from_the_masters(tmp_path: Path) -> None:
    masters = _package(
        tmp_path / "base-passwd.deb",
        {
            "./usr/share/base-passwd/passwd.master": b"root:*:0:0:root:/root:/bin/bash\n",
            "./usr/share/base-passwd/group.master": b"root:*:0:\n",
        },
    )
    root = _root(tmp_path, masters, whole=True)
    assert _content(tmp_path, "etc/passwd").startswith(b"root:*:0:0:")
    assert _content(tmp_path, "etc/group") == b"root:*:0:\n"
    assert root["etc/passwd"].mode == 0o644
    assert not any(name.endswith(".master") for name in root)


def test_documentation_is_left_out_and_its_neighbours_are_not(tmp_path: Path) -> None:
    names = ("doc", "man", "info", "locale", "lintian", "bug", "bash-completion", "zsh", "doc-base", "i18n")
    files = {f"./usr/share/{name}/app/file": b"x" for name in names}
    kept = {"./usr/share/docker/x": b"", "./usr/lib/locale/C.utf8/LC_CTYPE": b"", "./usr/share/mandb": b""}
    root = _root(tmp_path, _package(tmp_path / "a.deb", files | kept))
    found = {name for name, member in root.items() if member.isreg()}
    assert found == {"usr/share/docker/x", "usr/lib/locale/C.utf8/LC_CTYPE", "usr/share/mandb"}
    assert "usr/share/doc" not in root


def test_every_file_has_its_directories_before_it(tmp_path: Path) -> None:
    root = _root(tmp_path, _package(tmp_path / "a.deb", {"./opt/a/b/c": b"", "./opt/a/d": b""}))
    assert list(root) == ["opt", "opt/a", "opt/a/b", "opt/a/b/c", "opt/a/d"]
    assert all(root[name].isdir() for name in ("opt", "opt/a", "opt/a/b"))


def test_the_same_packages_give_the_same_bytes(tmp_path: Path) -> None:
    package = _package(tmp_path / "a.deb", {"./usr/bin/app": b"app"})
    _root(tmp_path, package, whole=True)
    first = (tmp_path / "root.tar").read_bytes()
    _root(tmp_path, package, whole=True)
    assert (tmp_path / "root.tar").read_bytes() == first


def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    package = _package(tmp_path / "a.deb", {"./usr/bin/app": bytes(range(256)) * 40})
    package.write_bytes(package.read_bytes()[:-60])
    with pytest.raises(IntegrityError, match=r"a\.deb"):
        _root(tmp_path, package)
