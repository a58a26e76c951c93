"""Workloads that do not come with the harness: found by path and by name, and what is wrong with them."""

from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import UsageError, WorkloadError
from harness.guest.workload import load_workload, workload_directory

CONTRACT = """
name = "frames"
argv = ["./frames", "a b"]
language = "c"
ready = '^READY$'
progress = '^tick \\d+$'
tick_seconds = 0.2
watch_ticks = 3
"""


def foreign(parent: Path, name: str = "frames", text: str = CONTRACT) -> Path:
    directory = parent / name
    directory.mkdir(parents=True)
    (directory / "workload.toml").write_text(text)
    return directory


def test_a_workload_of_somebody_elses_by_path_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = foreign(tmp_path / "one")
    monkeypatch.chdir(tmp_path / "one")
    for found in (
        load_workload(str(directory)),
        load_workload("./frames"),
        load_workload("frames/"),
        load_workload("frames", tmp_path / "one"),
        load_workload("frames", tmp_path, tmp_path / "one"),
    ):
        assert found.spelled == found.path == str(directory)
        assert workload_directory(found) == directory
    own = load_workload("c-frames", tmp_path / "one")
    assert (own.path, own.spelled) == (None, "c-frames")
    assert (workload_directory(own) / "frames.c").is_file()


def test_the_first_of_two_directories_has_the_workload(tmp_path: Path) -> None:
    first, second = (foreign(tmp_path / name).parent for name in ("one", "two"))
    assert load_workload("frames", first, second).path == str(first / "frames")
    assert load_workload("frames", second, first).path == str(second / "frames")


def test_an_unknown_name_is_compared_with_somebody_elses_too(tmp_path: Path) -> None:
    foreign(tmp_path)
    with pytest.raises(UsageError, match="did you mean frames or c-frames"):
        load_workload("fframes", tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "frames",
            CONTRACT.replace("ready =", "reddy ="),
            r"workload\.toml: reddy: unknown key; did you mean",
        ),
        (
            "frames",
            CONTRACT.replace("tick_seconds = 0.2", "tick_seconds = 0"),
            "tick_seconds: must be a number",
        ),
        ("frames", "name = ", r"workload\.toml: not valid TOML"),
        ("frames", "name = '\udcff'", r"workload\.toml: not UTF-8: invalid start byte at byte 8"),
        ("others", CONTRACT, "name: 'frames' must be the directory's name, 'others'"),
        ("c-frames", CONTRACT.replace('"frames"', '"c-frames"'), "'c-frames' is a workload that comes with"),
    ],
)
def test_a_broken_workload_of_somebody_elses(tmp_path: Path, name: str, text: str, told: str) -> None:
    directory = foreign(tmp_path, name, "")
    (directory / "workload.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(WorkloadError, match=told) as error:
        load_workload(str(directory))
    assert str(error.value).startswith(f"{directory}/workload.toml: ")


def test_a_directory_that_is_no_workload(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*/nowhere/workload.toml: No such file"):
        load_workload(str(tmp_path / "nowhere"))


def test_the_command_names_file_key_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = foreign(tmp_path, text=CONTRACT.replace('"c"', '"rust"'))
    for command in ("repro", "matrix"):
        assert cli.main([command, "--workload", str(directory)]) == 2
        error = f"criu-pac: error: {directory}/workload.toml: language: 'rust' is none of c, c++, python"
        assert capsys.readouterr().err == f"{error}; exit code 2\n"


def test_its_cell_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = foreign(tmp_path)
    assert cli.main(["matrix", "--list", "--module", "none", "--workload", str(directory)]) == 0
    assert capsys.readouterr().out == "3.17.1-k6.1-neoverse-v1-debian-13-frames-criu-none\n"
