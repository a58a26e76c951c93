"""Dimensions that a person brings: what the command line makes of them, without machines."""

from pathlib import Path

import pytest

from harness.cli import main


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_bad_build_is_told_and_the_other_cells_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("no program")
    asked = ("--criu", "3.17.1", "--criu", "./mine", "--criu", "4.2.1:./nowhere")
    assert main(["matrix", *asked, "--module", "none", "--list"]) == 64
    out, err = capsys.readouterr()
    assert out.splitlines() == ["3.17.1-k6.1-neoverse-v1-debian-13-python-sleeper-criu-none"]
    lines = [line for line in err.splitlines() if "error: its cells are left out: " in line]
    assert len(lines) == 2
    assert f"{tmp_path / 'mine'} is no program of CRIU for arm64: not an ELF file" in lines[0]
    assert "nowhere is no directory" in lines[1]


@pytest.mark.parametrize("asked", [["./mine"], ["3.17.1", "3.17"]])
def test_nothing_runs_when_no_build_is_usable_or_a_name_is_unknown(
    capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    words = [word for one in asked for word in ("--criu", one)]
    assert main(["matrix", *words, "--list"]) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("exit code 64\n")
