"""`criu-pac module` and `criu-pac keys` without an arm64 machine."""

import json
import os
import platform
import shutil
from pathlib import Path

import pytest

from harness import cli
from harness.key_module import status
from harness.key_module.cpu_names import algorithm_name, cpu_name
from harness.key_module.inspect import describe
from harness.key_module.keyfile import (
    parse_key_file,
    read_unbound_file,
    write_unbound_file,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "pac-keys.img"
elsewhere = pytest.mark.skipif(platform.machine() == "aarch64", reason="this is an arm64 machine")


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    shutil.copy(GOLDEN, directory / "pac-keys.img")
    return directory


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    return out + err


def test_inspect_shows_threads_by_fingerprint_and_no_key(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(said(capsys, "module", "inspect", str(images), "--json"))
    assert (facts["CPU"], facts["kernel"], facts["threads"]) == ("Neoverse V1", "6.1.0-test-arm64", 3)
    assert facts["mask"] == "0x007f000000000000"
    assert {pid: [one["thread"] for one in threads] for pid, threads in facts["tasks"].items()} == {
        "1": [1, 17],
        "40": [40],
    }
    assert facts["foreign images"] == ["pstree.img", "core-1.img", "core-17.img", "core-40.img"]
    text = said(capsys, "module", "inspect", str(images))
    assert "thread 17, keys " in text
    keys = [thread._keys for thread in parse_key_file(GOLDEN.read_bytes()).threads]
    for part in (key[at : at + 16] for key in keys for at in range(0, 80, 16)):
        assert part.hex() not in text


def test_inspect_of_something_else_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "pac-keys.img: No such file" in said(capsys, "module", "inspect", str(tmp_path), code=2)


@elsewhere
def test_verify_elsewhere_checks_the_binding_and_says_what_it_did_not(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "module", "verify", str(images), code=1)
    assert "core-17.img is not the image that the keys were saved with" in text
    assert "not aarch64: whether it could take the keys was not checked" in text


@elsewhere
def test_install_elsewhere_needs_a_root(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the module is for aarch64; give --root DIR" in said(capsys, "module", "install", code=64)


def test_install_says_what_it_writes_and_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    words = ("module", "install", "--root", str(root))
    assert said(capsys, *words, "--dry-run").endswith("would write /usr/lib/criu/pac_key_plugin.so\n")
    assert not list(root.iterdir())
    assert said(capsys, *words).endswith("write /usr/lib/criu/pac_key_plugin.so\n")
    facts = json.loads(said(capsys, "module", "status", "--root", str(root), "--json"))
    assert facts["module"]["/usr/lib/criu"] == {
        "named by": "CRIU's default",
        "module": "this build",
        "policy": "refuse",
    }
    (root / "usr/lib/criu/pac_key_plugin.so").write_bytes(b"older")
    assert "module: another build" in said(capsys, "module", "status", "--root", str(root))
    assert "remove /usr/lib/criu/pac_key_plugin.so" in said(
        capsys, "module", "uninstall", "--root", str(root)
    )
    assert "nothing is installed" in said(capsys, "module", "uninstall", "--root", str(root))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("module install --root nowhere", "--root nowhere: no such directory"),
        ("module install --root . --policy wran", "no policy 'wran'"),
        ("keys save 0 -o x", "PID"),
        ("keys save 1", "--output"),
    ],
)
def test_wrong_usage_is_64(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in said(capsys, *words.split(), code=64)


def test_a_process_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "process 4194304 has no living thread" in said(
        capsys, "keys", "save", "4194304", "-o", "x", code=64
    )


@elsewhere
def test_without_pac_there_are_no_keys_to_save(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.execvp("sleep", ["sleep", "30"])
    try:
        text = said(capsys, "keys", "save", str(child), "-o", "x", code=64)
        if "cannot trace" in text:
            pytest.skip("ptrace of a child is not permitted here")
        assert "this machine has no pointer authentication" in text
    finally:
        os.kill(child, 9)
        assert os.waitpid(child, 0)[1] == 9, "it went on sleeping"
    assert not (tmp_path / "x").exists()


def test_an_unbound_file_comes_back_and_is_private_and_never_overwritten(tmp_path: Path) -> None:
    file = parse_key_file(GOLDEN.read_bytes())
    write_unbound_file(tmp_path / "keys", file)
    again = read_unbound_file(tmp_path / "keys")
    assert again == file
    assert [one._keys for one in again.threads] == [one._keys for one in file.threads]
    assert (tmp_path / "keys").stat().st_mode & 0o7777 == 0o600
    with pytest.raises(Exception, match=r"cannot write .*keys: File exists"):
        write_unbound_file(tmp_path / "keys", file)


def test_names() -> None:
    assert cpu_name(0x411FD402) == "Neoverse V1"
    assert cpu_name(0x123) == "MIDR 0x123"
    assert (cpu_name(0), algorithm_name(0)) == ("unknown model", "none")
    assert algorithm_name(0x12345) == "probe 0000000000012345"
    file = parse_key_file(GOLDEN.read_bytes())
    assert describe(file, b"a") != describe(file, b"b"), "fingerprints depend on the salt"


def test_the_machine_of_a_root_is_read_from_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("Features\t: fp asimd paca pacg\n")
    midr = tmp_path / "sys/devices/system/cpu/cpu0/regs/identification"
    midr.mkdir(parents=True)
    (midr / "midr_el1").write_text("0x00000000411fd402\n")
    facts = status.machine_status(tmp_path, b"")
    assert (facts["CPU"], facts["pointer authentication"]) == ("Neoverse V1", "paca pacg")
