"""`--pid`: what a running process has mapped, and its keys."""

import re
import secrets
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HarnessError, UsageError
from harness.doctor.files import Subject, judge_files
from harness.key_module.keyfile import KeyFile
from harness.key_module.ptrace_keys import save
from harness.parsing.elf_file import ElfFile, elf_file

# ffff9c000000-ffff9c1a0000 r-xp 00000000 00:2d 1234   /usr/lib/aarch64-linux-gnu/libc.so.6
_MAPPED = re.compile(r"^(\S+) \S*x\S* \S+ \S+ \d+ +(/.*)$", re.MULTILINE)
_GONE = " (deleted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What was seen of a process; ``flags`` as in a workload.toml, from its keys if they were seen."""

    subject: Subject
    flags: tuple[str, ...]
    keys_seen: bool


def look_at_process(pid: int, *, keys: bool, not_seen: list[str]) -> Process:
    """Return what a process signs and, with ``keys``, whether its threads share them.

    It is stopped for the moment in which its keys are read. Raises UsageError when there is no
    such process.
    """
    directory = Path(f"/proc/{pid}")
    if not directory.is_dir():
        raise UsageError(f"there is no process {pid}")
    files, missing = _mapped(directory, not_seen)
    subject = judge_files(files, missing, where=f" in process {pid}")
    facts: dict[str, object] = {"pid": pid, "files": subject.facts}
    flags: tuple[str, ...] = ()
    if keys:
        try:
            file = save(pid)
        except HarnessError as error:
            not_seen.append(f"keys of process {pid}: {error}")
            facts["keys"] = None
        else:
            flags = key_flags(file)
            facts["keys"] = _key_facts(file, flags)
    return Process(
        subject=Subject(signs=subject.signs, reasons=subject.reasons, facts=facts),
        flags=flags,
        keys_seen=facts.get("keys") is not None,
    )


def key_flags(file: KeyFile) -> tuple[str, ...]:
    """Return what is special about the keys of a tree, in the words of a workload.toml."""
    salt = secrets.token_bytes(32)
    flags = []
    tasks = file.tasks.values()
    if any(len({one.fingerprint(salt) for one in threads}) > 1 for threads in tasks):
        flags.append("thread-keys")
    if any(len({one.enabled_keys for one in threads}) > 1 for threads in tasks):
        flags.append("thread-masks")
    return tuple(flags)


def _key_facts(file: KeyFile, flags: tuple[str, ...]) -> dict[str, object]:
    salt = secrets.token_bytes(32)
    return {
        "processes": len(file.tasks),
        "threads": len(file.threads),
        "distinct keys": len({one.fingerprint(salt) for one in file.threads}),
        "threads differ in keys": "thread-keys" in flags,
        "threads differ in enabled keys": "thread-masks" in flags,
    }


def _mapped(directory: Path, not_seen: list[str]) -> tuple[list[ElfFile], list[str]]:
    """Return the files that a process runs code from, and the names of those that cannot be read."""
    try:
        text = (directory / "maps").read_text("utf-8", "replace")
    except OSError as error:
        not_seen.append(f"what the process has mapped: {directory}/maps: {error.strerror}")
        return [], ["everything it runs"]
    ranges: dict[str, list[str]] = defaultdict(list)
    for span, name in _MAPPED.findall(text):
        ranges[name].append(span)
    files, missing = [], []
    for name, spans in ranges.items():
        plain = name.removesuffix(_GONE)
        # The first is the file itself even where it was deleted or lies in another root; root may read it.
        places = [directory / "map_files" / spans[0]]
        places += [] if name.endswith(_GONE) else [directory / "root" / plain.lstrip("/")]
        data = next(filter(None, map(_read, places)), None)
        found = elf_file(plain, data) if data else None
        if found:
            files.append(found)
        elif data is None:
            missing.append(plain)
    if not text:
        missing.append("a process without memory: a kernel thread, or a zombie")
    not_seen.append("code that a process has made itself (a JIT) is in no file")
    return files, missing


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
