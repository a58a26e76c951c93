"""Workloads: programs that hold CPU state across a checkpoint, described by a workload.toml."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from harness.catalogue.names import suggestion
from harness.core.errors import WorkloadError


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """How to ask a workload about its own state: send ``signal``, wait for a line of either kind."""

    signal: str  # "SIGUSR1"
    passed: re.Pattern[str]
    failed: re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One program and its contract.

    ``argv`` runs in the container, in the folder that holds the workload. ``ready`` and
    ``progress`` are searched in each line of its output; every line matching ``progress`` is
    one tick, about ``tick_seconds`` apart; a restored workload is watched for ``watch_ticks``
    of them. ``protected`` is False for a control built without branch protection.
    ``min_frames`` is the least number of distinct signed frames returned through in the watch.
    ``flags`` say what is special about it, in the words of FLAGS. ``path`` is the directory of
    one that does not come with the harness.
    """

    name: str
    argv: tuple[str, ...]
    ready: re.Pattern[str]
    progress: re.Pattern[str]
    tick_seconds: float
    watch_ticks: int
    verify: VerifyRequest | None
    language: str
    protected: bool
    min_frames: int
    flags: tuple[str, ...] = ()
    path: str | None = None

    @property
    def spelled(self) -> str:
        """What a person writes in --workload for it."""
        return self.path or self.name


LANGUAGES = ("c", "c++", "python")
FLAGS = {
    "thread-keys": "every thread has keys of its own",
    "thread-masks": "threads differ in their enabled keys",
    "process-keys": "every process has keys of its own",
}


class _Table:
    """One table of a workload.toml; every getter raises WorkloadError with file, key and reason."""

    def __init__(self, values: Mapping[str, object], where: str, prefix: str = "") -> None:
        self._values = values
        self._where = where
        self._prefix = prefix

    def error(self, key: str, reason: str) -> WorkloadError:
        return WorkloadError(f"{self._where}: {self._prefix}{key}: {reason}")

    def only(self, *known: str) -> None:
        for key in sorted(set(self._values) - set(known)):
            raise self.error(key, f"unknown key; {suggestion(key, known)}")

    def has(self, key: str) -> bool:
        return key in self._values

    def _get(self, key: str) -> object:
        if key not in self._values:
            raise self.error(key, "missing")
        return self._values[key]

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, f"must be a non-empty string, not {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, f"must be a list of non-empty strings, not {value!r}")
        return tuple(value)

    def pattern(self, key: str) -> re.Pattern[str]:
        text = self.text(key)
        try:
            return re.compile(text)
        except re.error as error:
            raise self.error(key, f"{text!r} is no regular expression: {error}") from None

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def number(self, key: str, *, least: float) -> float:
        value = self._get(key)
        # bool is an int in Python, and TOML knows inf and nan: neither is a usable number.
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
            raise self.error(key, f"must be a number of at least {least:g}, not {value!r}")
        return value

    def count(self, key: str) -> int:
        value = self.number(key, least=1)
        if not isinstance(value, int):
            raise self.error(key, f"must be a whole number, not {value!r}")
        return value

    def table(self, key: str) -> "_Table":
        value = self._get(key)
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table, not {value!r}")
        return _Table(value, self._where, f"{self._prefix}{key}.")


def parse_workload(text: str, where: str) -> Workload:
    """Return the workload described by ``text``, the content of the workload.toml at ``where``.

    Raises WorkloadError naming ``where``, the key and the reason.
    """
    try:
        table = _Table(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise WorkloadError(f"{where}: not valid TOML: {error}") from None
    table.only(
        *("name", "argv", "ready", "progress", "tick_seconds", "watch_ticks", "verify"),
        *("language", "protected", "min_frames", "flags"),
    )
    argv = table.texts("argv")
    if not argv:
        raise table.error("argv", "must name a program")
    name = table.text("name")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise table.error(
            "name", f"{name!r} must be lower-case words joined by '-': it is part of ids and paths"
        )
    language = table.text("language")
    if language not in LANGUAGES:
        raise table.error("language", f"{language!r} is none of {', '.join(LANGUAGES)}")
    flags = table.texts("flags") if table.has("flags") else ()
    for flag in flags:
        if flag not in FLAGS:
            raise table.error("flags", f"unknown flag {flag!r}; {suggestion(flag, tuple(FLAGS))}")
    return Workload(
        name=name,
        argv=argv,
        ready=table.pattern("ready"),
        progress=table.pattern("progress"),
        tick_seconds=table.number("tick_seconds", least=0.001),
        watch_ticks=table.count("watch_ticks"),
        verify=_verify(table.table("verify")) if table.has("verify") else None,
        language=language,
        protected=table.flag("protected", default=True),
        min_frames=table.count("min_frames") if table.has("min_frames") else 1,
        flags=tuple(sorted(flags)),
    )


def _verify(table: _Table) -> VerifyRequest:
    table.only("signal", "passed", "failed")
    signal = table.text("signal")
    if not re.fullmatch(r"SIG[A-Z0-9]+", signal):
        raise table.error("signal", f"{signal!r} is no signal name like SIGUSR1")
    return VerifyRequest(signal=signal, passed=table.pattern("passed"), failed=table.pattern("failed"))
