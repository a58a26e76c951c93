"""How a machine ends: with its parent, with a cause in words, with a log that stays but does not pile up."""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import MachineDiedError, StorageError
from harness.core.process import run
from harness.machines import kept_log
from harness.machines.console import Console
from harness.machines.leash import leash
from harness.machines.post_mortem import cause


def console(directory: Path, text: str = "") -> Console:
    (directory / "console.log").write_text(text)
    return Console(directory / "console.sock", directory / "console.log")


def test_a_leash_of_the_real_parent_lets_the_program_run() -> None:
    words = leash(os.getpid())
    assert words, "setpriv of util-linux is on every Debian, Ubuntu and Fedora"
    assert run([*words, "echo", "a  b", "$c"], Deadline.after(10, "a command")).text == "a  b $c\n"


def test_a_leash_of_a_parent_that_is_gone_lets_nothing_run() -> None:
    result = run([*leash(1 << 22), "echo", "here"], Deadline.after(10, "a command"))
    assert (result.returncode, result.text) == (1, "")


def test_the_signal_is_set_before_the_program_starts() -> None:
    # PR_GET_PDEATHSIG is 2; it survives exec.
    code = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    result = run([*leash(os.getpid()), "python3", "-c", code], Deadline.after(10, "a command"))
    assert result.text.strip() == str(int(signal.SIGKILL))


def test_what_qemu_said_comes_first(tmp_path: Path) -> None:
    error = cause(1, "a warning\nno such CPU\n", console(tmp_path), None)
    assert isinstance(error, MachineDiedError)
    assert error.message == "QEMU ended with exit code 1 in the middle: no such CPU"


def test_a_signal_is_named(tmp_path: Path) -> None:
    error = cause(-9, "", console(tmp_path, "[ 1.0] Freeing memory\n"), None)
    assert error.message == (
        "QEMU was killed by SIGKILL in the middle; last console line: [ 1.0] Freeing memory"
    )


def test_a_panic_counts_more_than_how_qemu_ended(tmp_path: Path) -> None:
    error = cause(0, "", console(tmp_path, "[ 1.0] Kernel panic - not syncing: no init\n[ 1.1] x\n"), None)
    assert error.message == "the guest kernel panicked: no init"


@pytest.mark.parametrize(("free", "full"), [(4096, True), (10**9, False)])
def test_a_full_disk_counts_more_than_a_panic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, *, full: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    panicked = console(tmp_path, "[ 1.0] Kernel panic - not syncing: no init\n")
    assert isinstance(cause(-7, "", panicked, tmp_path / "ram"), StorageError) is full
    assert isinstance(cause(-7, "", panicked, None), MachineDiedError), "a clone writes to no file"


def test_the_kept_logs_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    paths = []
    for number in range(30):
        path = kept_log.keep("machine", f"{number}")
        assert path is not None
        os.utime(path, (number, number))
        paths.append(path)
    assert [path for path in paths if path.exists()] == paths[-20:]
    assert paths[-1].read_text() == "29"
    assert paths[-1].is_relative_to(tmp_path / "criu-pac-harness")


def test_no_place_for_a_log_is_no_second_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert kept_log.keep("machine", "words") is None
