"""Compile the plugin for the machine that runs CRIU, and the program that asks it beforehand."""

from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.steps import step
from harness.provision.toolchain import AARCH64_LINUX, SHARED_C, compile_c, source_key

PLUGIN_NAME = "pac_key_plugin.so"  # CRIU loads every *.so in its library directory

SOURCES = Path(__file__).parent / "src"
_CHECK = Path(__file__).parent / "check" / "main.c"

# No branch protection: whatever CRIU it is loaded into, it must not depend on that itself.
_COMMON = ("-O2", "-g0", "-s", "-std=gnu11", "-fvisibility=hidden", "-mbranch-protection=none")
_FLAGS = ("-shared", "-fPIC", *_COMMON)
_CHECK_FLAGS = (*_COMMON, "-static", f"-I{SOURCES}")
_STATIC_AARCH64 = "aarch64-linux-musl"  # it runs on whatever the machine has


def build_plugin(output: Path, cache_root: Path, *, deadline: Deadline | None = None) -> Path:
    """Compile the plugin for aarch64 into the file ``output`` and return it.

    zig's caches go below ``cache_root``. Raises HostError when the compiler is missing or fails.
    """
    with step("compile the PAC key module"):
        return compile_c(
            plugin_sources(),
            output,
            target=AARCH64_LINUX,
            flags=_FLAGS,
            cache_root=cache_root,
            deadline=deadline,
        )


def build_check(output: Path, cache_root: Path, *, deadline: Deadline | None = None) -> Path:
    """Compile the module as a program that judges an images directory; raises as ``build_plugin``."""
    sources = [path for path in plugin_sources() if path.name not in {"pac_key_plugin.c", "host_criu.c"}]
    return compile_c(
        [*sources, _CHECK],
        output,
        target=_STATIC_AARCH64,
        flags=_CHECK_FLAGS,
        cache_root=cache_root,
        deadline=deadline,
    )


def plugin_key() -> str:
    """Return a digest of everything the plugin's bytes depend on: the name of its place in a cache."""
    return source_key(_all_files(), AARCH64_LINUX, *_FLAGS)


def check_key() -> str:
    """Return the same of the checking program."""
    return source_key([*_all_files(), _CHECK], _STATIC_AARCH64, *_COMMON)


def plugin_sources() -> list[Path]:
    """Return the plugin's C files, sorted."""
    return sorted([*SOURCES.glob("*.c"), SHARED_C / "sha256.c"])


def _all_files() -> list[Path]:
    return [*plugin_sources(), *SOURCES.glob("*.h"), *SOURCES.glob("*.inc"), SHARED_C / "sha256.h"]
