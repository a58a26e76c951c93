"""`criu-pac doctor` on programs, images, processes and checkpoints, on any host."""

import io
import json
import os
import platform
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli
from harness.doctor.checkpoint import look_at_checkpoint
from harness.doctor.files import judge_files, look_at_files
from harness.parsing.criu_program import criu_program
from harness.parsing.elf_file import elf_file
from harness.provision.toolchain import compile_c

GOLDEN = Path(__file__).parents[1] / "golden" / "pac-keys.img"
TARGET = "aarch64-linux-gnu.2.31"
# Neither start files nor libc, which zig would have to build first.
FREESTANDING = ("-O1", "-ffreestanding", "-nostdlib", "-fno-stack-protector", "-fno-inline")
LIBRARY = "int twice(int n) { return 2 * n; }\nint four(int n) { return twice(twice(n) + 1); }\n"
MAIN = "int four(int n);\nint next(int n) { return four(n) + four(n + 1); }\n"
START = "void _start(void) { for (volatile int n = 0;;) n = next(n); }\n"
Program = Callable[..., Path]
elsewhere = pytest.mark.skipif(platform.machine() == "aarch64", reason="this is an arm64 machine")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Return a function that compiles a program, alone or with a library that has libc's name."""
    place = tmp_path_factory.mktemp("programs")
    (place / "library.c").write_text(LIBRARY)
    (place / "main.c").write_text(MAIN + START)

    def compiled(name: str, sources: list[str], *flags: str | Path) -> Path:
        output = place / name
        if not output.exists():
            words = tuple(map(str, (*FREESTANDING, *flags)))
            compile_c(
                [place / one for one in sources],
                output,
                target=TARGET,
                flags=words,
                cache_root=place / "zig",
            )
        return output

    def build(protection: str, *, dynamic: bool = False) -> Path:
        flag = f"-mbranch-protection={protection}"
        if not dynamic:
            return compiled(protection, ["main.c", "library.c"], "-static", flag)
        library = compiled("libc.so.6", ["library.c"], "-shared", "-fPIC", "-Wl,-soname,libc.so.6", flag)
        return compiled(f"{protection}-dynamic", ["main.c"], library, flag)

    return build


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "cache"))


def doctor(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> dict[str, object]:
    assert cli.main(["doctor", "--json", *words]) == code
    return dict(json.loads(capsys.readouterr().out))


def error(capsys: pytest.CaptureFixture[str], *words: str, code: int = 64) -> str:
    assert cli.main(["doctor", *words]) == code
    return capsys.readouterr().err


def test_a_signing_program_is_affected(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(program("standard"))
    report = doctor(capsys, "--elf", path, code=1)
    assert report["conclusion"] == "affected"
    facts = report["facts"]["files"][path]  # type: ignore[index]
    assert facts["signs"] is True
    assert facts["signing instructions"] > 0
    assert report["remedies"]


def test_an_unprotected_static_program_is_safe(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    report = doctor(capsys, "--elf", str(program("none")), code=0)
    assert report["conclusion"] == "safe"
    assert report["remedies"] == []


def test_several_files_after_one_option(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    plain, signing = str(program("none")), str(program("standard"))
    report = doctor(capsys, "--elf", plain, signing, code=1)
    assert set(report["facts"]["files"]) == {plain, signing}  # type: ignore[index]


@elsewhere
def test_an_unprotected_program_alone_says_nothing_of_its_libraries(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main").write_bytes(program("none", dynamic=True).read_bytes())
    report = doctor(capsys, "--elf", str(tmp_path / "main"), code=3)
    assert "not looked at: libc.so.6" in report["reasons"][0]  # type: ignore[index]


def test_a_library_beside_the_program_is_found(program: Program, tmp_path: Path) -> None:
    (tmp_path / "main").write_bytes(program("none", dynamic=True).read_bytes())
    (tmp_path / "libc.so.6").write_bytes(program("standard").read_bytes())
    subject = look_at_files([tmp_path / "main"])
    assert subject.signs is True
    assert "libc.so.6" in subject.reasons[0]


@elsewhere
def test_a_program_for_x86_depends_on_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    report = doctor(capsys, "--elf", os.path.realpath(sys.executable), code=0)
    assert "no arm64 code: x86_64" in report["reasons"][0]  # type: ignore[index]


def test_a_damaged_program_is_not_called_safe(program: Program) -> None:
    whole = program("none").read_bytes()
    for size in (100, len(whole) // 2, len(whole) - 1):
        found = elf_file("cut", whole[:size])
        assert found is not None
        assert found.signs is None, size
        assert judge_files([found], where="").signs is None


def test_what_is_no_program_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("text")
    assert "text: not an ELF file; exit code 64" in error(capsys, "--elf", str(tmp_path / "text"))
    assert "absent: No such file or directory" in error(capsys, "--elf", str(tmp_path / "absent"))


def test_a_program_that_is_not_criu_is_told(program: Program) -> None:
    with pytest.raises(ValueError, match="no CRIU"):
        criu_program(program("none", dynamic=True).read_bytes())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--pid", "1", "--elf", "x"], "--pid and --elf ask about different things"),
        (["stray"], "unexpected argument stray"),
        (["--for", "neoverse-v1"], "give --checkpoint DIR"),
        (["--checkpoint", ".", "--for", "neoverse-v9"], "neoverse-v9"),
        (["--pid", "4194304"], "there is no process 4194304"),
        (["--checkpoint", "/nowhere"], "it has no pstree.img"),
    ],
)
def test_wrong_usage(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem in error(capsys, *words)


def layer(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture
def image(program: Program, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that makes an archive as `docker save` does; its upper layer replaces libc."""

    def make(libc: str) -> str:
        lower = layer(
            {"lib/aarch64-linux-gnu/libc.so.6": program("standard").read_bytes(), "etc/motd": b"hi"}
        )
        upper = layer({"lib/aarch64-linux-gnu/libc.so.6": program(libc).read_bytes()})
        manifest = json.dumps([{"Layers": ["one.tar", "two.tar"]}]).encode()
        (tmp_path / "image.tar").write_bytes(
            layer({"manifest.json": manifest, "one.tar": lower, "two.tar": upper})
        )
        return str(tmp_path / "image.tar")

    return make


@pytest.mark.parametrize(("libc", "code"), [("standard", 1), ("none", 0)])
def test_an_image_is_what_its_layers_make_together(
    libc: str, code: int, image: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = doctor(capsys, "--image", image(libc), code=code)
    facts = report["facts"]["image"]  # type: ignore[index]
    assert facts["ELF files"] == 1
    assert facts["signing"] == ["lib/aarch64-linux-gnu/libc.so.6"] * code


def test_a_root_file_system_is_an_image_too(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root.tar").write_bytes(layer({"usr/bin/tool": program("standard").read_bytes()}))
    doctor(capsys, "--image", str(tmp_path / "root.tar"), code=1)


def test_what_is_no_image_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "image.tar").write_bytes(b"rubbish" * 1000)
    assert "cannot be read" in error(capsys, "--image", str(tmp_path / "image.tar"), code=2)
    (tmp_path / "bad.tar").write_bytes(layer({"manifest.json": b"[]"}))
    assert "no image archive" in error(capsys, "--image", str(tmp_path / "bad.tar"), code=2)
    monkeypatch.setattr("harness.doctor.engines.PROGRAMS", ())
    assert "neither docker nor podman" in error(capsys, "--image", "debian:13")


def test_an_engine_is_asked_for_an_image(
    image: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = f"""#!/bin/sh
case "$1 $2 $5" in
"image save good") cp {image("standard")} "$4";;
"image save "*) echo "No such image: $5" >&2; exit 1;;
esac
"""
    (tmp_path / "docker").write_text(script)  # a fake: it gives the archive that a real one would
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setattr("harness.doctor.engines.PROGRAMS", ("docker",))
    monkeypatch.setattr(
        "harness.doctor.engines.search_path", lambda: f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    )
    report = doctor(capsys, "--image", "good", code=1)
    assert "in the image good" in report["reasons"][0]  # type: ignore[index]
    assert "docker: No such image: bad" in error(capsys, "--image", "bad")


@elsewhere
def test_a_process_of_this_host_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        report = doctor(capsys, "--pid", str(child.pid), code=0)
    finally:
        child.communicate(b"\n")
    assert f"no arm64 code in process {child.pid}: x86_64" in report["reasons"][0]  # type: ignore[index]


ANY, CORE, MM, PSTREE = 0x54564319, 0x55053847, 0x57492820, 0x50273030


def field(name: int, value: int | bytes) -> bytes:
    def number(one: int) -> bytes:
        return bytes([one]) if one <= 0x7F else bytes([one & 0x7F | 0x80]) + number(one >> 7)

    if isinstance(value, int):
        return number(name << 3) + number(value)
    return number(name << 3 | 2) + number(len(value)) + value


def write_checkpoint(
    directory: Path, *, pac: bool = True, keys: tuple[int | None, ...] = (None,), mtype: int = 3
) -> Path:
    """Images of one process, with a thread for each of ``keys``; what CRIU 4.1 saves is not None."""
    tids = range(40, 40 + len(keys))

    def put(name: str, kind: int, message: bytes) -> None:
        head = struct.pack("<III", ANY, kind, len(message))
        (directory / name).write_bytes(head + message)

    put("pstree.img", PSTREE, field(1, 40) + field(2, 0) + b"".join(field(5, tid) for tid in tids))
    put("mm-40.img", MM, field(1, 7) + field(13, 16) + field(13, (1 << 30) * pac | 0xFF))
    for tid, key in zip(tids, keys, strict=True):
        info = field(1, 0) + field(2, 0)
        if key is not None:
            info += field(5, field(6, field(1, key) + field(9, 15)))
        put(f"core-{tid}.img", CORE, field(1, mtype) + field(8, info))
    return directory


@pytest.mark.parametrize(
    ("pac", "keys", "cpu", "code", "says"),
    [
        (True, (None,), "neoverse-v1", 1, "holds no keys"),
        (True, (None,), "neoverse-n1", 1, "ignores authentication"),
        (False, (None,), "neoverse-n1", 0, "goes on"),
        (False, (None,), "neoverse-v1", 1, "never signed"),
        (True, (1,), "neoverse-v1", 3, "algorithm"),
        (True, (1,), "neoverse-n1", 1, "hangs"),
        (True, (1, 1), "neoverse-v1", 3, "algorithm"),
        (True, (1, 2), "neoverse-v1", 1, "leader"),
    ],
)
def test_where_a_checkpoint_can_go(
    *,
    pac: bool,
    keys: tuple[int | None, ...],
    cpu: str,
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = write_checkpoint(tmp_path, pac=pac, keys=keys)
    report = doctor(capsys, "--checkpoint", str(images), "--for", cpu, code=code)
    assert any(says in one for one in report["reasons"]), report["reasons"]  # type: ignore[attr-defined]


@elsewhere
def test_a_checkpoint_of_arm64_is_not_for_this_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = doctor(capsys, "--checkpoint", str(write_checkpoint(tmp_path)), code=1)
    assert "name a CPU with --for" in report["reasons"][0]  # type: ignore[index]


def test_another_architecture_is_none_of_its_business(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = doctor(capsys, "--checkpoint", str(write_checkpoint(tmp_path, mtype=1)), code=0)
    assert "x86_64" in report["reasons"][0]  # type: ignore[index]


def test_a_key_file_of_other_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_checkpoint(tmp_path)
    (images / "pac-keys.img").write_bytes(GOLDEN.read_bytes())
    report = doctor(capsys, "--checkpoint", str(images), "--for", "neoverse-v1", code=1)
    assert "belongs to other images" in report["reasons"][0]  # type: ignore[index]
    (images / "pac-keys.img").rename(images / "pac-keys.img.tmp")
    report = doctor(capsys, "--checkpoint", str(images), "--for", "neoverse-v1", code=1)
    assert "did not finish" in report["reasons"][0]  # type: ignore[index]


def test_a_damaged_image_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_checkpoint(tmp_path)
    (images / "core-40.img").write_bytes(b"rubbish")
    assert "core-40.img: not the image" in error(capsys, "--checkpoint", str(images), code=2)
    (images / "core-40.img").unlink()
    assert "cannot read" in error(capsys, "--checkpoint", str(images), code=2)


def test_threads_of_one_process_are_compared(tmp_path: Path) -> None:
    assert look_at_checkpoint(write_checkpoint(tmp_path, keys=(1, 1))).flags == ()
    assert look_at_checkpoint(write_checkpoint(tmp_path, keys=(1, 2))).flags == ("thread-keys",)


def test_the_text_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_checkpoint(tmp_path, pac=False)
    assert cli.main(["doctor", "--checkpoint", str(images), "--for", "neoverse-v1"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("conclusion: affected\n")
    assert "shown by: criu-pac matrix" in text
