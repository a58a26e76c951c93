"""Container engines of a host, as far as they can be asked, and where their daemons look for CRIU."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HarnessError
from harness.core.process import run, search_path

PROGRAMS = ("docker", "podman", "runc", "crun")
# Daemons that start runc: it gets their PATH, not that of the person who asks.
_DAEMONS = ("dockerd", "containerd")
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine found: its program, version, and what it says of itself."""

    name: str
    path: str
    version: str
    details: Mapping[str, object]


def find_engines(not_seen: list[str]) -> dict[str, Engine]:
    """Return the engines on this host by name."""
    found = {}
    for name in PROGRAMS:
        if path := shutil.which(name, path=search_path()):
            answer = said([path, "--version"], not_seen)
            version = _VERSION.search(answer)
            details = _DETAILS[name](path, answer, not_seen) if name in _DETAILS else {}
            shown = version.group() if version else "unknown"
            found[name] = Engine(name=name, path=path, version=shown, details=details)
    return found


def daemon_path(root: Path, not_seen: list[str]) -> str | None:
    """Return the PATH of the daemon that starts runc, None without one or the right to see it."""
    for directory in sorted((root / "proc").glob("[0-9]*")):
        try:
            name = (directory / "comm").read_text("utf-8", "replace").strip()
        except OSError:
            continue
        if name not in _DAEMONS:
            continue
        try:
            words = (directory / "environ").read_bytes().split(b"\0")
        except OSError as error:
            not_seen.append(
                f"which criu {name} finds: /proc/{directory.name}/environ: {error.strerror}; "
                "taken to be the one found here"
            )
            return None
        return next((word[5:].decode() for word in words if word.startswith(b"PATH=")), None)
    return None


def said(argv: list[str], not_seen: list[str]) -> str:
    """Return what a program prints; nothing, and a note, when it fails."""
    try:
        answer = run(argv, Deadline.after(_SECONDS, " ".join(argv)))
    except HarnessError as error:
        not_seen.append(str(error))
        return ""
    if answer.returncode != 0:
        reason = answer.error_text.splitlines()[-1:] or [f"exit code {answer.returncode}"]
        not_seen.append(f"what `{' '.join(argv)}` says: {reason[0]}")
        return ""
    return answer.text


def _docker(path: str, _version: str, not_seen: list[str]) -> dict[str, object]:
    answer = _json(said([path, "info", "--format", "{{json .}}"], not_seen))
    return {
        "daemon": answer.get("ServerVersion"),
        "experimental": answer.get("ExperimentalBuild"),
        "runtime": answer.get("DefaultRuntime"),
    }


def _podman(path: str, _version: str, not_seen: list[str]) -> dict[str, object]:
    host = _json(said([path, "info", "--format", "json"], not_seen)).get("host")
    runtime = host.get("ociRuntime") if isinstance(host, dict) else None
    return {"runtime": runtime.get("name") if isinstance(runtime, dict) else None}


def _crun(_path: str, version: str, _not_seen: list[str]) -> dict[str, object]:
    return {"built with CRIU": "+CRIU" in version}


_DETAILS = {"docker": _docker, "podman": _podman, "crun": _crun}


def _json(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
