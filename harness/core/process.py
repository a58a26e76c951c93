"""The only module that starts processes on the host: argv lists, deadlines, no shell."""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.core.deadline import Deadline
from harness.core.errors import HostError

log = logging.getLogger(__name__)

# What a login shell of another user than root mostly lacks, and what sudo looks in.
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What a finished command left: exit code (negative: killed by that signal), output, error output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Standard error as text, stripped."""
        return self.stderr.decode("utf-8", "replace").strip()


def run(
    argv: Sequence[str | os.PathLike[str]],
    deadline: Deadline,
    *,
    stdin: bytes | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> CommandResult:
    """Run a host command to its end.

    Raises HostError when it cannot be started and DeadlineError, after killing it and its
    process group, when the deadline passes. A non-zero exit is not an error here.
    """
    words = [os.fspath(word) for word in argv]
    log.debug("run: %s", shlex.join(words))
    feed = subprocess.PIPE if isinstance(stdin, bytes) else (stdin or subprocess.DEVNULL)
    process = popen(words, stdin=feed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd)
    try:
        out, err = process.communicate(
            stdin if isinstance(stdin, bytes) else None, timeout=max(deadline.remaining, 0.001)
        )
    except subprocess.TimeoutExpired:
        _kill_group(process)
        raise deadline.error(f"{shlex.join(words)} still running") from None
    except BaseException:
        _kill_group(process)
        raise
    return CommandResult(argv=tuple(words), returncode=process.returncode, stdout=out, stderr=err)


def check(
    argv: Sequence[str | os.PathLike[str]],
    deadline: Deadline,
    *,
    stdin: bytes | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> CommandResult:
    """Run a host command that has to succeed; raise HostError with its error output otherwise."""
    result = run(argv, deadline, stdin=stdin, env=env, cwd=cwd)
    if result.returncode != 0:
        last = result.error_text.splitlines()[-3:]
        raise HostError(
            f"{Path(result.argv[0]).name} failed with exit code {result.returncode}: {' | '.join(last)}"
        )
    return result


def popen(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches the harness alone.

    Raises HostError naming the program when it cannot be started.
    """
    try:
        return subprocess.Popen(  # noqa: S603 -- an argv list, never a shell string
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"cannot start {argv[0]}: {error.strerror}") from error


def search_path() -> str:
    """Return PATH with the system's directories behind it."""
    own = [one for one in os.environ.get("PATH", "").split(os.pathsep) if one]
    return os.pathsep.join([*own, *(one for one in _SYSTEM_PATH if one not in own)])


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
