"""What lies beside the results: manifest.json (what was used) and command.txt (how to do it again)."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import __version__
from harness.core.errors import StorageError

SCHEMA = 1  # of manifest.json


def host_facts() -> Mapping[str, Any]:
    """Return what about this computer can matter to a result; nothing that names it."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def write_record(directory: Path, *, command: str, started: str, used: Mapping[str, Any]) -> None:
    """Write both files; ``started`` is a UTC time, ``used`` the versions and digests by part.

    Raises StorageError.
    """
    manifest = {
        "schema": SCHEMA,
        "harness": __version__,
        "started": started,
        "command": command,
        "host": host_facts(),
        "used": used,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(directory / "command.txt", f"{command}\n")
        _replace(directory / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {directory}: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: whoever reads it meanwhile sees the old one or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
