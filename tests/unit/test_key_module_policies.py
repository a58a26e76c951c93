"""What the plugin refuses to restore, and what a policy makes of that."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from harness.key_module.fake_criu import FakeCriu, the_error

PAC = {"FAKE_PAC": "1"}
Compile = Callable[[int], Path]


def remove(images: Path) -> None:
    (images / "pac-keys.img").unlink()


def unfinished(images: Path) -> None:
    (images / "pac-keys.img").rename(images / "pac-keys.img.tmp")


def unbound(images: Path) -> None:
    path = images / "pac-keys.img"
    data = bytearray(path.read_bytes()[:-32])
    data[24] &= ~4
    path.write_bytes(data + hashlib.sha256(data).digest())


def cut(images: Path) -> None:
    path = images / "pac-keys.img"
    path.write_bytes(path.read_bytes()[:-100])


def empty(images: Path) -> None:
    (images / "pac-keys.img").write_bytes(b"")


def flip(images: Path) -> None:
    path = images / "pac-keys.img"
    data = bytearray(path.read_bytes())
    data[300] ^= 4
    path.write_bytes(data)


def future(images: Path) -> None:
    path = images / "pac-keys.img"
    data = bytearray(path.read_bytes())
    data[8] = 3
    path.write_bytes(data)


def other_core(images: Path) -> None:
    next(images.glob("core-*.img")).write_bytes(b"of another dump")


def no_core(images: Path) -> None:
    next(images.glob("core-*.img")).unlink()


def other_tree(images: Path) -> None:
    (images / "pstree.img").write_bytes(b"of another dump")


def link(images: Path) -> None:
    (images / "pac-keys.img").rename(images / "elsewhere")
    (images / "pac-keys.img").symlink_to("elsewhere")


def fifo(images: Path) -> None:
    remove(images)
    os.mkfifo(images / "pac-keys.img")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (unfinished, "pac-keys.img.tmp is the unfinished key file of a dump that did not succeed"),
        (unbound, "pac-keys.img was left unfinished by its dump: it is not bound to the images"),
        (cut, "pac-keys.img is truncated"),
        (empty, "pac-keys.img is truncated"),
        (flip, "pac-keys.img is damaged: wrong checksum"),
        (future, "pac-keys.img has a format version this module does not know"),
        (other_core, "belongs to another dump: core-"),
        (no_core, "cannot be read: No such file"),
        (other_tree, "belongs to another dump: pstree.img"),
        (link, "cannot read pac-keys.img: Too many levels of symbolic links"),
        (fifo, "cannot read pac-keys.img: Invalid argument"),
    ],
)
def test_a_bad_key_file_is_refused_in_one_line(
    dumped: FakeCriu, damage: Callable[[Path], None], reason: str
) -> None:
    damage(dumped.images)
    result = dumped("validate", **PAC)
    assert result.returncode == 1
    assert reason in the_error(result)
    assert the_error(result).endswith("; restore refused")


V1, N1 = {"FAKE_MIDR": "0x411fd402"}, {"FAKE_MIDR": "0x414fd0c1"}


@pytest.mark.parametrize(
    ("at_dump", "at_restore", "reason"),
    [
        (PAC | V1, N1, "come from a machine with pointer authentication (Neoverse V1, kernel "),
        (PAC | V1, N1, "this one is without (Neoverse N1)"),
        (N1, PAC | V1, "come from a machine without pointer authentication (Neoverse N1, kernel "),
        (
            N1,
            PAC | V1,
            "(Neoverse V1): their unsigned return addresses would not pass; the policy disable-auth",
        ),
        (PAC, PAC | {"FAKE_ALGORITHM": "1"}, "another algorithm than this machine"),
        (PAC, PAC | {"FAKE_ALGORITHM": "1", "FAKE_MIDR": "0x123"}, "(a CPU with MIDR 0x123)"),
    ],
)
def test_another_kind_of_machine_is_refused(
    criu: FakeCriu, at_dump: Mapping[str, str], at_restore: Mapping[str, str], reason: str
) -> None:
    assert criu("cycle", **at_dump).returncode == 0
    for policy in ("refuse", "disable-auth") if at_dump.get("FAKE_PAC") else ("refuse",):
        result = criu("validate", **at_restore, CRIU_PAC_POLICY=policy)
        assert result.returncode == 1
        assert reason in the_error(result)


def test_unsigned_images_run_with_authentication_disabled(criu: FakeCriu) -> None:
    result = criu("cycle", FAKE_MOVED="1", CRIU_PAC_POLICY="disable-auth")
    assert result.returncode == 0
    assert result.text.splitlines().count("enabled 8 to 0") == 3
    assert "paca 64" not in result.text.splitlines()
    warnings = [
        line for line in result.error_text.splitlines() if "pointer authentication is disabled" in line
    ]
    assert len(warnings) == 1, "one per task"
    assert "authentication disabled in 3 threads" in result.error_text


def test_without_the_mask_set_nothing_can_be_disabled(criu: FakeCriu) -> None:
    assert criu("cycle").returncode == 0
    result = criu("validate", **PAC, FAKE_NO_MASK="1", CRIU_PAC_POLICY="disable-auth")
    assert result.returncode == 1
    assert "would not pass; restore refused" in the_error(result)


def test_the_warn_policy_goes_on(dumped: FakeCriu) -> None:
    flip(dumped.images)
    result = dumped("validate", **PAC, CRIU_PAC_POLICY="warn")
    assert result.returncode == 0
    assert "pac-key-module: warning: pac-keys.img is damaged" in result.error_text


def test_images_without_a_key_file_are_restored_as_before_with_a_warning(dumped: FakeCriu) -> None:
    remove(dumped.images)
    result = dumped("validate", **PAC)
    assert result.returncode == 0
    warnings = [line for line in result.error_text.splitlines() if "warning:" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("pac-key-module: warning: no pac-keys.img in the images directory")


def test_an_unknown_policy_is_refused_even_with_good_images(dumped: FakeCriu) -> None:
    result = dumped("validate", **PAC, CRIU_PAC_POLICY="wran")
    assert result.returncode == 1
    assert 'CRIU_PAC_POLICY is "wran"' in the_error(result)


@pytest.fixture
def with_file(compiled: Compile, tmp_path: Path) -> FakeCriu:
    """A CRIU with the module in a directory of its own, and images that only policy lets pass."""
    program = tmp_path / "lib" / "fake"
    program.parent.mkdir()
    shutil.copy2(compiled(13), program)
    images = tmp_path / "images"
    images.mkdir()
    criu = FakeCriu(program=program, images=images)
    assert criu("cycle", **PAC).returncode == 0
    flip(images)
    return criu


@pytest.mark.parametrize(
    "text", ["policy = warn\n", "# a comment\n\n  policy=warn # why\n", "policy = refuse\npolicy = warn"]
)
def test_a_file_beside_the_plugin_says_the_policy(with_file: FakeCriu, text: str) -> None:
    (with_file.program.parent / "pac-key-module.conf").write_text(text, encoding="utf-8")
    assert with_file("validate", **PAC).returncode == 0
    assert with_file("validate", **PAC, CRIU_PAC_POLICY="refuse").returncode == 1, "the environment wins"


@pytest.mark.parametrize(
    ("text", "line"), [("policy = wran\n", 1), ("\npolicies = warn\n", 2), ("# c\n#\nwarn\n", 3)]
)
def test_a_bad_policy_file_is_refused_with_its_place(with_file: FakeCriu, text: str, line: int) -> None:
    path = with_file.program.parent / "pac-key-module.conf"
    path.write_text(text, encoding="utf-8")
    result = with_file("validate", **PAC)
    assert result.returncode == 1
    assert f'{path}, line {line}: neither "policy = refuse" nor' in the_error(result)


def test_a_policy_file_that_cannot_be_read_is_refused(with_file: FakeCriu) -> None:
    path = with_file.program.parent / "pac-key-module.conf"
    path.mkdir()
    assert f"cannot read {path}: Is a directory" in the_error(with_file("validate", **PAC))


def test_a_readable_key_file_is_pointed_out(dumped: FakeCriu) -> None:
    (dumped.images / "pac-keys.img").chmod(0o644)
    result = dumped("validate", **PAC)
    assert result.returncode == 0
    assert "has mode 0644" in result.error_text
