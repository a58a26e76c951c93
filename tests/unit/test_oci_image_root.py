"""The merged view of layers: links, whiteouts, and what is refused."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from harness.core.errors import IntegrityError, NotInArchiveError
from harness.provision.image_root import ImageRoot, plain_layer


def layer(**members: str | None) -> bytes:
    """A tar: "x" a file, ">x" a symbolic link, "=x" a hard link, None a directory; __ is /."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, value in members.items():
            info = tarfile.TarInfo("./" + name.replace("__", "/").replace("WH_", ".wh."))
            if value is None:
                info.type = tarfile.DIRTYPE
            elif value.startswith((">", "=")):
                info.type = tarfile.SYMTYPE if value[0] == ">" else tarfile.LNKTYPE
                info.linkname = value[1:]
            else:
                info.size = len(value)
            tar.addfile(info, io.BytesIO(value.encode()) if info.size and value else None)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Callable[..., ImageRoot]:
    def make(*layers: bytes) -> ImageRoot:
        paths = [tmp_path / f"{number}.tar" for number in range(len(layers))]
        for path, data in zip(paths, layers, strict=True):
            path.write_bytes(data)
        return ImageRoot([plain_layer(path) for path in paths])

    return make


Make = Callable[..., ImageRoot]


def test_symbolic_links_are_followed_inside_the_root(root: Make) -> None:
    made = root(
        layer(
            bin=">usr/bin", usr=None, usr__bin__python3=">python3.12", etc__alternatives__py=">/bin/python3"
        ),
        layer(**{"usr__bin__python3.12": "interpreter", "usr__up": ">../../../usr/bin"}),
    )
    for path in ("bin/python3", "/usr/bin/python3", "etc/alternatives/py", "usr/up/python3"):
        assert made.read(path) == [b"interpreter"]


def test_upper_layers_win_and_hide(root: Make) -> None:
    lower = layer(a="lower", b="gone", d__x="x", d__y="y", e__deep__z="z", f__g="g")
    upper = layer(a="upper", WH_b="", d__WH_x="", e__WH_deep="", f="a file now")
    made = root(lower, upper)
    assert made.read("a", "d/y", "f") == [b"upper", b"y", b"a file now"]
    for path in ("b", "d/x", "e/deep/z", "f/g"):
        assert made.find(path) is None


def test_opaque_directory_hides_what_is_below_it_only(root: Make) -> None:
    made = root(layer(d__x="x", dx="kept"), layer(d__new="new", **{"d__WH_WH_.opq": ""}))
    assert made.find("d/x") is None
    assert made.read("d/new", "dx") == [b"new", b"kept"]


def test_hard_links_have_the_content_of_their_target(root: Make) -> None:
    assert root(layer(a="content", b="=a")).read("b") == [b"content"]


def test_a_file_replaced_above_is_not_its_hard_link_below(root: Make) -> None:
    made = root(layer(a="old", b="=a"), layer(a="new"))
    assert made.read("a", "b") == [b"new", b"old"]


def test_missing_files_directories_and_loops(root: Make) -> None:
    made = root(layer(d=None, loop=">loop", dangling=">nowhere", x="x"))
    assert made.find("nothing", "d", "loop", "dangling", "x") == "x"
    for path in ("nothing", "d", "loop", "dangling", "loop/x"):
        with pytest.raises(NotInArchiveError, match=path):
            made.read(path)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress, bytes])
def test_compressions(root: Make, pack: Callable[[bytes], bytes]) -> None:
    assert root(pack(layer(a="content"))).read("a") == [b"content"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive at all",
        gzip.compress(layer(a="x" * 5000), mtime=0)[:-30],
        b"\x28\xb5\x2f\xfdno zstd",
    ],
)
def test_damaged_archives_are_refused(root: Make, data: bytes) -> None:
    with pytest.raises(IntegrityError, match="cannot be read"):
        root(data)
