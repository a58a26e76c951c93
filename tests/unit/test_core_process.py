"""Host processes: no shell, no process left behind, errors that name the program."""

import os
import signal
from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError, HostError
from harness.core.process import check, popen, run


def _soon() -> Deadline:
    return Deadline.after(30, "a command")


def test_output_input_and_exit_code() -> None:
    result = run(["sh", "-c", "cat; echo problem >&2; exit 3"], _soon(), stdin=b"in\xff")
    assert (result.returncode, result.stdout, result.error_text) == (3, b"in\xff", "problem")
    assert result.text == "in�"
    assert result.argv[0] == "sh"


def test_without_input_a_reader_sees_the_end_at_once() -> None:
    assert run(["cat"], _soon()).stdout == b""


def test_a_file_can_be_the_input(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as stream:
        assert run(["cat"], _soon(), stdin=stream).text == "from a file"


def test_environment_and_directory(tmp_path: Path) -> None:
    result = run(["/bin/sh", "-c", 'echo "$ONLY $HOME"; pwd'], _soon(), env={"ONLY": "this"}, cwd=tmp_path)
    assert result.text.splitlines() == ["this ", str(tmp_path)]


def test_no_shell_reads_the_words() -> None:
    assert run(["echo", "$HOME; a  b"], _soon()).text == "$HOME; a  b\n"


def test_death_by_a_signal_is_a_negative_exit_code() -> None:
    assert run(["sh", "-c", "kill -KILL $$"], _soon()).returncode == -signal.SIGKILL


def test_a_missing_program_is_named() -> None:
    with pytest.raises(HostError, match=r"cannot start /no/such/program: No such file"):
        run(["/no/such/program", "--version"], _soon())


def test_a_program_that_may_not_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    with pytest.raises(HostError, match=r"cannot start .*data: "):
        run([tmp_path / "data"], _soon())


def _ended(pid: int) -> bool | None:
    """Return True once a process is gone, or is a zombie that only its new parent can clear."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return True if state == "Z" else None


def test_a_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    # The grandchild keeps the pipe open, so that killing the child alone would change nothing.
    script = f"sleep 60 & echo $! > {tmp_path}/grandchild; echo $$ > {tmp_path}/child; wait"
    with pytest.raises(
        DeadlineError, match=r"a nap took longer than 0\.5 s; last seen: sh -c .* still running"
    ):
        run(["sh", "-c", script], Deadline.after(0.5, "a nap"))
    for name in ("child", "grandchild"):
        pid = int((tmp_path / name).read_text())
        assert Deadline.after(5, f"end of the {name}").poll(lambda pid=pid: _ended(pid))  # type: ignore[misc]


def test_a_command_has_a_session_of_its_own() -> None:
    process = popen(["sleep", "60"])
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
    finally:
        process.kill()
        process.wait()


def test_check_passes_success_on() -> None:
    assert check(["echo", "fine"], _soon()).text == "fine\n"
    assert check(["cat"], _soon(), stdin=b"in").text == "in"


def test_check_tells_program_exit_code_and_last_lines() -> None:
    with pytest.raises(HostError, match=r"^sh failed with exit code 7: b \| c \| d$"):
        check(["sh", "-c", "printf 'a\\nb\\nc\\nd\\n' >&2; exit 7"], _soon())
