"""The tree of errors: who is to blame, how a command ends, and what is said."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core import errors
from harness.core.errors import Blame, ExitCode, HarnessError, StorageError, UsageError


def _descendants(kind: type[HarnessError]) -> Iterator[type[HarnessError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def test_the_message_stands_alone() -> None:
    error = HarnessError("no space in /cache")
    assert str(error) == error.message == "no space in /cache"
    assert (error.hint, error.log) == (None, None)


def test_the_way_out_and_the_log_follow_the_message_on_one_line() -> None:
    error = StorageError("no space in /cache", hint="criu-pac cache prune", log=Path("/run/console.log"))
    assert str(error) == "no space in /cache; criu-pac cache prune; log: /run/console.log"
    assert str(StorageError("x", log=Path("/l"))) == "x; log: /l"
    assert str(StorageError("x", hint="h")) == "x; h"


@pytest.mark.parametrize(
    ("name", "blame", "code"),
    [
        ("UsageError", Blame.USER, 64),
        ("HostError", Blame.HOST, 2),
        ("NetworkError", Blame.HOST, 2),
        ("StorageError", Blame.HOST, 2),
        ("ArchiveError", Blame.ARCHIVE, 2),
        ("SignatureError", Blame.ARCHIVE, 2),
        ("IntegrityError", Blame.ARCHIVE, 2),
        ("NotInArchiveError", Blame.ARCHIVE, 2),
        ("MachineError", Blame.MACHINE, 2),
        ("BootError", Blame.MACHINE, 2),
        ("MachineDiedError", Blame.MACHINE, 2),
        ("EngineError", Blame.MACHINE, 2),
        ("CriuError", Blame.CRIU, 2),
        ("WorkloadError", Blame.WORKLOAD, 2),
        ("DeadlineError", Blame.MACHINE, 2),
    ],
)
def test_blame_and_exit_code(name: str, blame: Blame, code: int) -> None:
    kind = getattr(errors, name)
    assert (kind.blame, kind.exit_code) == (blame, code)


def test_exit_codes_are_those_of_the_architecture() -> None:
    codes = {name: value for name, value in vars(ExitCode).items() if name.isupper()}
    assert codes == {
        "OK": 0,
        "REGRESSION": 1,
        "INFRASTRUCTURE": 2,
        "INVALID": 3,
        "USAGE": 64,
        "INTERRUPTED": 130,
    }


def test_every_class_is_drawn_in_the_tree_at_its_place() -> None:
    drawn = re.findall(r"^([│├└─ ]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    parents: list[str] = []
    places = []
    for indent, name in drawn:
        parents[len(indent) // 4 :] = [name]
        places.append("/".join(parents))
    kinds: list[type[HarnessError]] = [HarnessError, *_descendants(HarnessError)]
    found = [
        "/".join(one.__name__ for one in reversed(kind.mro()) if issubclass(one, HarnessError))
        for kind in kinds
        if kind.__module__ == errors.__name__
    ]
    assert sorted(places) == sorted(found)


def test_a_usage_error_is_no_host_error() -> None:
    assert not issubclass(UsageError, errors.HostError)
    assert not issubclass(errors.DeadlineError, TimeoutError)
