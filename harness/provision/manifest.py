"""What the files of a built directory looked like, to notice a cut or changed one in milliseconds."""

import json
import os
from pathlib import Path

MANIFEST = ".manifest.json"


def write_manifest(directory: Path) -> None:
    """Record size (bytes) and modification time (seconds) of every regular file of ``directory``.

    Raises OSError.
    """
    entries = dict(sorted(_files(directory).items()))
    (directory / MANIFEST).write_text(json.dumps(entries), encoding="utf-8")


def manifest_problem(directory: Path) -> str | None:
    """Return what differs from the record, or None. Files added since do not matter."""
    try:
        recorded = json.loads((directory / MANIFEST).read_text("utf-8"))
        for name, (size, seconds) in recorded.items():
            status = (directory / name).stat()
            if status.st_size != size:
                return f"{name} has {status.st_size} bytes instead of {size}"
            if int(status.st_mtime) != seconds:
                return f"{name} was changed"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return str(error)
    return None


def _files(directory: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                found[str(path.relative_to(directory))] = (status.st_size, int(status.st_mtime))
    return found
