"""Workloads: programs that hold CPU state across a checkpoint, described by a workload.toml."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from harness.catalogue.bases import PACKAGES
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
    of them. ``branch_protection`` is what a compiled one is built with (the compiler's words for
    -mbranch-protection). ``min_frames`` is the least number of distinct signed frames returned
    through in the watch. ``flags`` say what is special about it, in the words of FLAGS.
    ``packages`` names what its container needs besides Python: one of a base's ``packages``.
    ``path`` is the directory of one that does not come with the harness.
    """

    name: str
    argv: tuple[str, ...]
    ready: re.Pattern[str]
    progress: re.Pattern[str]
    tick_seconds: float
    watch_ticks: int
    verify: VerifyRequest | None
    language: str
    branch_protection: str
    min_frames: int
    flags: tuple[str, ...] = ()
    packages: str | None = None
    path: str | None = None

    @property
    def protected(self) -> bool:
        """Whether its own code, where it is compiled, signs return addresses."""
        return self.branch_protection != UNPROTECTED

    @property
    def in_every_machine(self) -> bool:
        """Whether it is in machines that nobody asked to hold it: one that costs little."""
        return self.path is None and self.packages is None and self.language != "c++"

    @property
    def spelled(self) -> str:
        """What a person writes in --workload for it."""
        return self.path or self.name


LANGUAGES = ("c", "c++", "python")
UNPROTECTED = "none"
BRANCH_PROTECTION = ("standard", "pac-ret+b-key", UNPROTECTED)
FLAGS = {
    "thread-keys": "every thread has keys of its own",
    "thread-masks": "threads differ in their enabled keys",
    "process-keys": "every process has keys of its own",
    "no-libc-frames": "calls the kernel by itself: it is never stopped in a function of libc",
    "signed-data": "keeps signed pointers in memory; the group (?P<signed>...) of ready is their number",
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
        *("language", "branch_protection", "min_frames", "flags", "packages"),
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
    flags = _flags(table)
    ready = table.pattern("ready")
    if ("signed-data" in flags) != ("signed" in ready.groupindex):
        raise table.error("ready", "a group (?P<signed>...) goes with the flag signed-data, and that with it")
    return Workload(
        name=name,
        argv=argv,
        ready=ready,
        progress=table.pattern("progress"),
        tick_seconds=table.number("tick_seconds", least=0.001),
        watch_ticks=table.count("watch_ticks"),
        verify=_verify(table.table("verify")) if table.has("verify") else None,
        language=language,
        branch_protection=_branch_protection(table, language),
        min_frames=table.count("min_frames") if table.has("min_frames") else 1,
        flags=flags,
        packages=_packages(table),
    )


def _flags(table: _Table) -> tuple[str, ...]:
    flags = table.texts("flags") if table.has("flags") else ()
    for flag in flags:
        if flag not in FLAGS:
            raise table.error("flags", f"unknown flag {flag!r}; {suggestion(flag, tuple(FLAGS))}")
    return tuple(sorted(flags))


def _branch_protection(table: _Table, language: str) -> str:
    if not table.has("branch_protection"):
        return BRANCH_PROTECTION[0]
    if language == "python":
        raise table.error("branch_protection", "a Python program has that of its interpreter")
    protection = table.text("branch_protection")
    if protection not in BRANCH_PROTECTION:
        raise table.error("branch_protection", f"{protection!r} is none of {', '.join(BRANCH_PROTECTION)}")
    return protection


def _packages(table: _Table) -> str | None:
    packages = table.text("packages") if table.has("packages") else None
    if packages is not None and packages not in PACKAGES:
        raise table.error("packages", f"no base has {packages!r}; {suggestion(packages, PACKAGES)}")
    return packages


def _verify(table: _Table) -> VerifyRequest:
    table.only("signal", "passed", "failed")
    signal = table.text("signal")
    if not re.fullmatch(r"SIG[A-Z0-9]+", signal):
        raise table.error("signal", f"{signal!r} is no signal name like SIGUSR1")
    return VerifyRequest(signal=signal, passed=table.pattern("passed"), failed=table.pattern("failed"))
