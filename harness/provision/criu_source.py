"""A source tree of CRIU from what a person has: a directory, an archive, a git repository."""

import re
import shutil
import tarfile
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.core.process import check

_MARK = Path("criu") / "cr-dump.c"
_URL = re.compile(r"[a-z+]+://|[\w.-]+@[\w.-]+:")
_GIT_SECONDS = 600.0


def source_tree(source: str, ref: str | None, work: Path) -> Path:
    """Return a copy, below the empty directory ``work``, of the tree that ``source`` names.

    ``source`` is a directory, a tar archive or a git repository's URL; ``ref`` a commit, tag or
    branch of a repository. Raises UsageError when that is no source tree of CRIU, HostError when
    git is missing or fails.
    """
    path = Path(source).expanduser()
    if _URL.match(source):
        _git("clone", "--quiet", "--no-checkout", source, str(work / "repository"))
        _export(work / "repository", ref or "HEAD", work / "tree")
    elif path.is_dir() and ref is not None:
        _export(path, ref, work / "tree")
    elif path.is_dir():
        shutil.copytree(path, work / "tree", symlinks=True, ignore=shutil.ignore_patterns(".git", "*.o"))
    elif path.is_file():
        if ref is not None:
            raise UsageError(f"--ref {ref} goes with a git repository, and {source} is a file")
        _unpack(path, work / "tree")
    else:
        raise UsageError(f"--source {source}: no such directory or file, and no URL of a git repository")
    return _root_of(work / "tree", source)


def _export(repository: Path, ref: str, tree: Path) -> None:
    archive = tree.with_suffix(".tar")
    _git("-C", str(repository), "archive", "--format=tar", f"--output={archive}", ref)
    _unpack(archive, tree)
    archive.unlink()


def _unpack(archive: Path, tree: Path) -> None:
    tree.mkdir()
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(tree, filter="tar")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(f"{archive} cannot be unpacked: {error}") from error


def _root_of(tree: Path, source: str) -> Path:
    for root in (tree, *sorted(path for path in tree.iterdir() if path.is_dir())):
        if (root / _MARK).is_file():
            return root
    raise UsageError(f"{source} is no source tree of CRIU: it has no {_MARK}")


def _git(*words: str) -> None:
    program = shutil.which("git")
    if program is None:
        raise HostError("git is needed for a repository and is not installed", hint="or give a tar archive")
    check([program, *words], Deadline.after(_GIT_SECONDS, f"git {words[0]}"))
