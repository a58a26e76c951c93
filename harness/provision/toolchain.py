"""The C compiler: zig's, which cross-compiles against a chosen glibc on any host, without root."""

import hashlib
import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.process import run
from harness.provision.storage import storage_errors

# Ubuntu 20.04's glibc: what is linked against it runs there and on everything newer.
AARCH64_LINUX = "aarch64-linux-gnu.2.31"

# C that more than one room compiles in.
SHARED_C = Path(__file__).parent / "c"

# Every C source of the project has to pass these. Without optimisation zig would add UBSan and
# build its runtime first, 15 s of work for nothing.
ALWAYS = ("-Wall", "-Wextra", "-Werror", "-fno-sanitize=undefined")
# A cold zig compiles its own start files and libc stubs first: seconds, and minutes on a loaded host.
_PATIENCE = 300.0


def compile_c(
    sources: Sequence[Path],
    output: Path,
    *,
    target: str,
    flags: Sequence[str] = (),
    cache_root: Path,
    deadline: Deadline | None = None,
) -> Path:
    """Compile and link ``sources`` into ``output``, which is replaced atomically, and return it.

    They are C, or C++ where one is named ``.cpp``: the C++ library is linked in.

    ``target`` is zig's triple, with the glibc version where there is one; zig keeps its caches
    below ``cache_root`` (any number of processes may share it). Raises HostError with the
    compiler's first error, StorageError when ``output`` cannot be written.
    """
    limit = deadline or Deadline.after(_PATIENCE, f"compiling {output.name}")
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        cache_root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
            fresh = Path(scratch) / output.name
            result = run(
                [
                    *_compiler(sources),
                    "-target",
                    target,
                    *flags,
                    *ALWAYS,
                    f"-I{SHARED_C}",
                    *sources,
                    "-o",
                    fresh,
                ],
                limit,
                env=_environment(cache_root),
            )
            if result.returncode != 0:
                lines = result.error_text.splitlines()
                first = next((line for line in lines if "error:" in line), " | ".join(lines[-3:]))
                raise HostError(f"the C compiler failed with exit code {result.returncode}: {first}")
            fresh.replace(output)
    return output


def compiler_id() -> str:
    """Return the compiler's name and version, for records and cache keys."""
    try:
        return f"zig-{importlib.metadata.version('ziglang')}"
    except importlib.metadata.PackageNotFoundError:
        raise HostError(
            "the C compiler is missing: no Python package ziglang", hint="pip install ziglang"
        ) from None


def source_key(sources: Iterable[Path], *settings: str) -> str:
    """Return the SHA-256 of what a build depends on: compiler, settings, names and bytes of ``sources``."""
    digest = hashlib.sha256()
    for setting in (compiler_id(), *settings):
        digest.update(setting.encode() + b"\0")
    for path in sorted(sources, key=lambda one: one.name):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _compiler(sources: Iterable[Path]) -> tuple[str, ...]:
    compiler_id()  # a sentence instead of "No module named ziglang"
    cxx = any(one.suffix == ".cpp" for one in sources)
    return (sys.executable, "-m", "ziglang", "c++" if cxx else "cc")


def _environment(cache_root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(cache_root / "global"),
        "ZIG_LOCAL_CACHE_DIR": str(cache_root / "local"),
    }
