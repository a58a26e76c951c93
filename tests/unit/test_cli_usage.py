"""The command line without machines: wrong usage, help, version, cache, errors."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from harness import __version__, cli
from harness.cli import backend
from harness.cli import cache as cache_commands
from harness.core.errors import HarnessError, MachineDiedError, NetworkError, UsageError
from harness.provision.cache import Cache
from harness.provision.lock import LockedGroup, LockedPackage
from harness.provision.sizes import size


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CRIU_PAC_OFFLINE", "1")  # QEMU is not fetched to ask it for a CPU
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("frob", "frob"),
        ("repro --cpux 1", "--cpux"),
        ("repro extra", "extra"),
        ("repro --cpu neoverse,v3", "unknown CPU 'neoverse,v3'; did you mean neoverse-v1"),
        ("repro --kernel ./nowhere", "nowhere: no such file or directory"),
        ("repro --criu 3.17", "unknown CRIU '3.17'"),
        ("repro --criu 3.17.1:9", "unknown CRIU '9'"),
        ("repro --base debian13", "unknown base 'debian13'; did you mean debian-13"),
        ("repro --base root.tar.gz", "--base root.tar.gz: no such file"),
        ("repro --workload nope", "unknown workload 'nope'"),
        ("repro --workload ./nope", "cannot read nope/workload.toml: No such file"),
        ("matrix --workload nope", "unknown workload 'nope'"),
        ("matrix --module plugn", "unknown module 'plugn'; did you mean plugin"),
        ("matrix --shard 3/2", "--shard 3/2: write it like 1/4"),
        ("repro --driver lxc", "unknown driver 'lxc'"),
        ("repro --timeout x", "--timeout"),
        ("repro --timeout 0", "--timeout 0"),
        ("repro --timeout nan", "--timeout nan"),
        ("repro --results file", "--results file: not a directory"),
        ("shell", "needs a terminal"),
        ("shell --kernel 9.9", "unknown kernel '9.9'"),
        ("report one two", "2 results; give --output"),
        ("cache frob", "frob"),
        ("cache prune --max-size 5Q", "'5Q' is no size"),
        ("cache prune --max-size 5G --all", "contradict"),
    ],
)
def test_wrong_usage_is_one_line_and_64(
    arguments: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(arguments.split()) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"criu-pac: error: .+; exit code 64\n", err)
    assert told in err
    assert not (tmp_path / "criu-pac-results").exists()


def test_a_slip_in_a_cpu_is_told_where_qemu_cannot_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["repro", "--cpu", "neoverse-v3"]) == 64
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("criu-pac: error: unknown CPU 'neoverse-v3'; did you mean neoverse-v1")
    assert "QEMU, which may know more, cannot be had" in line


@pytest.mark.parametrize("arguments", [[], ["cache"]])
def test_no_command_is_help_and_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 64
    assert "Usage: criu-pac" in capsys.readouterr().out


def test_help_and_version_are_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"criu-pac {__version__}\n"
    assert cli.main(["repro", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("cpu", "criu", "base", "workload", "driver", "control", "results", "keep", "timeout"):
        assert f"--{option}" in text


def _raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_provision: object, _qemu: object) -> NoReturn:
        raise error

    monkeypatch.setattr(backend, "open_lab", raises)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            MachineDiedError("QEMU was killed\nby signal 9", hint="look", log=Path("/tmp/console.log")),
            "QEMU was killed by signal 9; look; log: /tmp/console.log; exit code 2",
        ),
        (NetworkError("nothing answered"), "nothing answered; exit code 2"),
        (UsageError("no such thing"), "no such thing; exit code 64"),
        (KeyboardInterrupt(), "interrupted; exit code 130"),
    ],
)
def test_errors_end_the_command_with_one_line_and_their_code(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raising(error, monkeypatch)
    code = cli.main(["repro", "--base", "debian-13"])
    assert code == int(line.rpartition(" ")[2])
    if isinstance(error, HarnessError):
        assert code == error.exit_code
    assert capsys.readouterr().err == f"criu-pac: error: {line}\n"


def test_a_fault_of_the_harness_does_not_look_like_a_regression(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raising(ZeroDivisionError("oops"), monkeypatch)
    assert cli.main(["repro"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1] == "criu-pac: error: internal error: ZeroDivisionError: oops; exit code 2"


def test_the_module_is_the_command() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    argv = [sys.executable, "-m", "harness", "repro", "--driver", "z80"]
    done = subprocess.run(argv, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 64
    assert done.stderr.startswith(b"criu-pac: error: unknown driver 'z80'")


def test_orphaned_run_directories_are_swept(tmp_path: Path) -> None:
    orphan = tmp_path / "criu-pac-run-orphan_1"
    orphan.mkdir(mode=0o700)
    (orphan / "lock").touch()
    assert cli.main(["cache", "list"]) == 0
    assert not orphan.exists()


def test_what_a_killed_build_left_is_swept(tmp_path: Path) -> None:
    half = tmp_path / "cache" / "artifacts" / "template" / ".key.building-dead1234"
    half.mkdir(parents=True)
    assert cli.main(["cache", "list"]) == 0
    assert not half.exists()


def test_cache_list_and_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = Cache(tmp_path / "cache")

    def build(work: Path) -> None:
        (work / "data").write_bytes(bytes(500_000))

    for key in ("old", "new"):
        cache.artifact("thing", key, build)
    cache.close()
    assert cli.main(["cache", "list"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("thing")] == [
        ["thing", "old"],
        ["thing", "new"],
    ]
    assert str(tmp_path / "cache") in err
    assert cli.main(["cache", "prune", "--max-size", "600K"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 entries")
    assert cli.main(["cache", "prune"]) == 0
    assert cli.main(["cache", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 entries, 0 bytes"


def test_an_installed_package_is_not_edited_by_cache_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache_commands, "lock_path", lambda: tmp_path / "a" / "b" / "lock.json")
    assert cli.main(["cache", "update"]) == 64
    assert "belongs to an installed package" in capsys.readouterr().err


PACKAGE = LockedPackage(
    name="criu", version="1", architecture="arm64", sha256="a", size=1, filename="f", suite="s"
)


def _locked(**packages: LockedPackage) -> LockedGroup:
    return LockedGroup(declared={}, packages=tuple(packages.values()))


def test_what_changed_in_the_lock_is_one_line_each() -> None:
    gone, same = dataclasses.replace(PACKAGE, name="gone"), dataclasses.replace(PACKAGE, name="same")
    new = dataclasses.replace(PACKAGE, name="new")
    before = {"g": _locked(criu=PACKAGE, gone=gone, same=same)}
    updated = dataclasses.replace(PACKAGE, version="2", sha256="b")
    after = {"g": _locked(criu=updated, same=same), "h": _locked(new=new)}
    assert list(cache_commands.lock_changes(before, after)) == [
        "g: criu 1 -> 2",
        "g: gone 1 is gone",
        "h: new 1 is new",
    ]
    rebuilt = {"g": _locked(criu=dataclasses.replace(PACKAGE, sha256="c"), gone=gone, same=same)}
    assert list(cache_commands.lock_changes(before, rebuilt)) == ["g: criu 1 has other contents"]
    assert list(cache_commands.lock_changes(before, before)) == []


@pytest.mark.parametrize(
    ("text", "count"), [("5G", 5_000_000_000), ("500 MB", 500_000_000), ("1.5k", 1500), ("7", 7)]
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1", "5GiB", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        size(text)
