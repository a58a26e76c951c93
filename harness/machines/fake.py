"""A machine made of scripted answers, for unit tests of what needs no more than ``Machine``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, MachineDiedError, MachineError
from harness.core.process import CommandResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command leaves; one that ``hangs`` outlives any deadline, without taking any time."""

    stdout: bytes = b""
    stderr: bytes = b""
    returncode: int = 0
    hangs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One command the machine was asked to run."""

    argv: tuple[str, ...]
    stdin: bytes
    deadline: Deadline


# A str is standard output of a command that succeeds; an error is raised; a function is asked.
Scripted = Answer | str | HarnessError | Callable[[Call], "Answer | str"]


class FakeMachine:
    """For unit tests: a Machine that answers from a script and keeps what it was asked in ``calls``.

    Nothing runs and nothing is waited for. Like a real machine it raises DeadlineError for a
    call whose deadline is over already, and MachineDiedError once closed. A command without an
    answer is a mistake in the test: AssertionError, which no code under test takes for a failure
    of the machine. ``files`` maps the paths that can be read to their bytes.
    """

    def __init__(self, directory: Path = Path("/nonexistent/fake-machine")) -> None:
        self.calls: list[Call] = []
        self.files: dict[str, bytes] = {}
        self.closed = False
        self._directory = directory
        self._script: dict[tuple[str, ...], list[Scripted]] = {}

    def answer(self, prefix: Sequence[str], *answers: Scripted) -> None:
        """Answer commands that start with ``prefix``: one answer a call, the last one for the rest.

        Of several prefixes the longest counts; the same prefix again replaces its answers.
        """
        if not answers:
            raise ValueError(f"no answer given for {prefix}")
        self._script[tuple(prefix)] = list(answers)

    def called(self, *prefix: str) -> list[Call]:
        """Return the calls so far whose command starts with ``prefix``."""
        return [call for call in self.calls if call.argv[: len(prefix)] == prefix]

    @property
    def directory(self) -> Path:
        """A path that nothing is written to."""
        return self._directory

    @property
    def docker_url(self) -> str:
        """The URL of an engine; nobody listens there unless the test does."""
        return f"unix://{self._directory}/docker.sock"

    @property
    def way_in(self) -> str:
        """Where nobody gets."""
        return "nowhere"

    def run(self, argv: Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> CommandResult:
        """Answer from the script; see Machine.run."""
        call = Call(argv=tuple(argv), stdin=stdin, deadline=deadline)
        self.calls.append(call)
        self._check_alive()
        deadline.check(f"{' '.join(argv)} not started")
        scripted = self._next(call)
        if isinstance(scripted, HarnessError):
            raise scripted
        found = scripted(call) if callable(scripted) else scripted
        if isinstance(found, str):
            found = Answer(stdout=found.encode())
        if found.hangs:
            raise deadline.error(f"{' '.join(argv)} still running")
        return CommandResult(
            argv=call.argv, returncode=found.returncode, stdout=found.stdout, stderr=found.stderr
        )

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        """Return the bytes ``files`` has for ``path``; see Machine.read_file."""
        self._check_alive()
        deadline.check(f"{path} not read")
        try:
            return self.files[path]
        except KeyError:
            raise MachineError(f"the fake machine has no file {path}") from None

    def close(self) -> None:
        """End the machine. Idempotent."""
        self.closed = True

    def _next(self, call: Call) -> Scripted:
        for length in range(len(call.argv), -1, -1):
            if answers := self._script.get(call.argv[:length]):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        raise AssertionError(f"the fake machine has no answer for {call.argv}")

    def _check_alive(self) -> None:
        if self.closed:
            raise MachineDiedError("the fake machine was closed")
