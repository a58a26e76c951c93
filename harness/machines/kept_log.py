"""Where the last words of a machine stay, for the person who reads its error: the newest few."""

import contextlib
import os
import tempfile
from pathlib import Path

_KEPT = 20


def keep(name: str, text: str) -> Path | None:
    """Write ``text`` to a new file and remove the oldest beyond 20; None where nothing can be written.

    The place is criu-pac-harness/logs in XDG_STATE_HOME (default ~/.local/state).
    """
    try:
        directory = _directory()
        directory.mkdir(parents=True, exist_ok=True)
        fd, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".log", dir=directory)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
        _forget_oldest(directory)
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return None
    return Path(path)


def _directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state else Path.home() / ".local" / "state") / "criu-pac-harness" / "logs"


def _forget_oldest(directory: Path) -> None:
    aged = []
    for path in directory.glob("*.log"):
        with contextlib.suppress(FileNotFoundError):  # another process forgets as well
            aged.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(aged)[:-_KEPT]:
        path.unlink(missing_ok=True)
