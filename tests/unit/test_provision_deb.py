"""Packages unpacked: merged /usr, links, escapes refused, damage named; bundles."""

import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pytest
import zstandard

from harness.core.errors import ArchiveError, IntegrityError, NotInArchiveError
from harness.provision.bundle import unpack_bundle
from harness.provision.deb import control_fields, data_members
from harness.provision.fake_archive import make_deb
from harness.provision.unpack import extract, merged_name, unpack

CONTROL = {"Package": "app", "Version": "1", "Architecture": "arm64"}


def write(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    path.write_bytes(make_deb(CONTROL, files, links))
    return path


def ar(name: str, data: bytes) -> bytes:
    return (
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        + data
        + b"\n" * (len(data) % 2)
    )


def test_control_and_data(tmp_path: Path) -> None:
    deb = write(tmp_path / "a.deb", {"./usr/bin/app": b"#!"})
    assert control_fields(deb)["Package"] == "app"
    with data_members(deb) as tar:
        assert [member.name for member in tar] == ["./usr/bin/app"]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".xz", lzma.compress),
        (".gz", gzip.compress),
        (".zst", lambda data: zstandard.ZstdCompressor().compress(data)),
        ("", lambda data: data),
    ],
)
def test_compressions(tmp_path: Path, suffix: str, compress) -> None:  # type: ignore[no-untyped-def]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("./usr/x")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    deb = tmp_path / "a.deb"
    deb.write_bytes(
        b"!<arch>\n" + ar("debian-binary", b"2.0\n") + ar(f"data.tar{suffix}", compress(buffer.getvalue()))
    )
    with data_members(deb) as tar:
        assert [(one.name, one.size) for one in tar] == [("./usr/x", 3)]


def test_unknown_compression(tmp_path: Path) -> None:
    deb = tmp_path / "a.deb"
    deb.write_bytes(b"!<arch>\n" + ar("data.tar.br", b"x"))
    with pytest.raises(ArchiveError, match="unknown compression"), data_members(deb):
        pass


@pytest.mark.parametrize("cut", [0, 4, 100, 300, -40])
def test_damaged_package(tmp_path: Path, cut: int) -> None:
    deb = write(tmp_path / "a.deb", {"./usr/bin/app": bytes(range(256)) * 50})
    deb.write_bytes(deb.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match=r"a\.deb"):
        unpack([deb], tmp_path / "out")


def test_usr_is_merged_and_documents_are_left_out(tmp_path: Path) -> None:
    deb = write(
        tmp_path / "a.deb",
        {
            "./lib/libx.so.1.2": b"x",
            "./sbin/tool": b"t",
            "./usr/share/doc/app/README": b"r",
            "./etc/app": b"e",
        },
        {
            "./lib/libx.so.1": "libx.so.1.2",
            "./usr/lib/plugin.so": "/lib/libx.so.1",
            "./lib/up": "../usr/lib/libx.so.1.2",
        },
    )
    unpack([deb], tmp_path / "out")
    found = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if not path.is_dir()
    )
    assert found == [
        "usr/lib/libx.so.1",
        "usr/lib/libx.so.1.2",
        "usr/lib/plugin.so",
        "usr/lib/up",
        "usr/sbin/tool",
    ]
    assert (tmp_path / "out/usr/lib/plugin.so").read_bytes() == b"x"
    assert (tmp_path / "out/usr/lib/up").read_bytes() == b"x"


def test_hard_link_and_modes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("./bin/busybox")
        member.size, member.mode = 2, 0o4755
        tar.addfile(member, io.BytesIO(b"bb"))
        link = tarfile.TarInfo("./bin/ls")
        link.type, link.linkname = tarfile.LNKTYPE, "./bin/busybox"
        tar.addfile(link)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer, mode="r|") as tar:
        extract(tar, tmp_path, wanted=lambda _: True)
    assert (tmp_path / "usr/bin/ls").samefile(tmp_path / "usr/bin/busybox")
    assert (tmp_path / "usr/bin/busybox").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("name", ["../evil", "./usr/../../evil", "usr/bin/../../../evil"])
def test_escaping_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="outside"):
        unpack([write(tmp_path / "a.deb", {name: b"x"})], tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_escape_through_a_directory_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out/usr").mkdir(parents=True)
    (tmp_path / "out/usr/trap").symlink_to(tmp_path)
    with pytest.raises(ArchiveError, match="outside"):
        unpack([write(tmp_path / "a.deb", {"./usr/trap/evil": b"x"})], tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_link_never_leads_out(tmp_path: Path) -> None:
    deb = write(tmp_path / "a.deb", {"./usr/out/evil": b"x"}, {"./usr/out": "../../../../../../etc"})
    unpack([deb], tmp_path / "out")
    assert (tmp_path / "out/etc/evil").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("name", "merged"),
    [("./", ""), ("./lib/x", "usr/lib/x"), ("/bin", "usr/bin"), ("./library/x", "library/x")],
)
def test_merged_name(name: str, merged: str) -> None:
    assert merged_name(name) == merged


def test_bundle_command(tmp_path: Path) -> None:
    lib = "./usr/lib/aarch64-linux-gnu"
    deb = write(
        tmp_path / "a.deb",
        {f"{lib}/ld-linux-aarch64.so.1": b"", f"{lib}/pulseaudio/x": b"", "./usr/sbin/criu": b""},
    )
    bundle = unpack_bundle([deb], tmp_path / "out", "arm64")
    libraries = tmp_path / "out/usr/lib/aarch64-linux-gnu"
    assert bundle.command("criu") == [
        str(libraries / "ld-linux-aarch64.so.1"),
        "--library-path",
        f"{libraries}:{libraries}/pulseaudio",
        str(tmp_path / "out/usr/sbin/criu"),
    ]
    with pytest.raises(NotInArchiveError, match="crit is not in the bundle"):
        bundle.command("crit")
    with pytest.raises(NotInArchiveError, match="usr/share/qemu"):
        bundle.data("usr/share/qemu")
