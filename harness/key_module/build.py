"""Compile the plugin for the machine that runs CRIU."""

from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.steps import step
from harness.provision.toolchain import AARCH64_LINUX, SHARED_C, compile_c, source_key

PLUGIN_NAME = "pac_key_plugin.so"  # CRIU loads every *.so in its library directory

SOURCES = Path(__file__).parent / "src"

# No branch protection: whatever CRIU it is loaded into, it must not depend on that itself.
_FLAGS = (
    *("-shared", "-fPIC", "-O2", "-g0", "-s", "-std=gnu11"),
    *("-fvisibility=hidden", "-mbranch-protection=none"),
)


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


def plugin_key() -> str:
    """Return a digest of everything the plugin's bytes depend on: the name of its place in a cache."""
    return source_key(
        [*plugin_sources(), *SOURCES.glob("*.h"), SHARED_C / "sha256.h"], AARCH64_LINUX, *_FLAGS
    )


def plugin_sources() -> list[Path]:
    """Return the plugin's C files, sorted."""
    return sorted([*SOURCES.glob("*.c"), SHARED_C / "sha256.c"])
