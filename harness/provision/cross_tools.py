"""A C compiler for arm64 with what CRIU is compiled against, unpacked from packages and run in place.

Nothing is installed: every program is started by its own loader through a script in its name, also
those that gcc starts by itself (its -B), and make's calls of itself (the loader's --argv0).
"""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core import steps
from harness.core.errors import NotInArchiveError
from harness.provision.bundle import Bundle, bundle
from harness.provision.context import Provision
from harness.provision.guest_image import content_key
from harness.provision.packages import obtain
from harness.provision.settings import host_architecture
from harness.provision.unpack import unpack

TRIPLET = "aarch64-linux-gnu"
SYSROOT_GROUP = "criu-dev"
_BINUTILS = ("ar", "as", "ld", "nm", "objcopy", "objdump", "ranlib", "readelf", "strip")
_PLAIN = ("protoc", "protoc-c", "protoc-gen-c")
_FORMAT = "3"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossTools:
    """Scripts in ``programs`` under the names a build looks for; headers and libraries in ``sysroot``."""

    programs: Path
    sysroot: Path
    zig_cache: Path

    @property
    def make(self) -> Path:
        """The make to start."""
        return self.programs / "make"

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of a build."""
        return {
            **os.environ,
            "PATH": f"{self.programs}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PKG_CONFIG_LIBDIR": f"{self.sysroot}/usr/lib/{TRIPLET}/pkgconfig",
            "PKG_CONFIG_SYSROOT_DIR": str(self.sysroot),
            "HOSTCFLAGS": "-O2",  # else the target's flags are used
            "ZIG_GLOBAL_CACHE_DIR": str(self.zig_cache / "global"),
            "ZIG_LOCAL_CACHE_DIR": str(self.zig_cache / "local"),
            "LC_ALL": "C.UTF-8",
        }


def cross_tools(provision: Provision) -> CrossTools:
    """Return the tools, made once per cache; raises as ``obtain``."""
    tools = bundle(f"build-tools-{host_architecture()}", provision)
    sysroot = _sysroot(provision)

    def build(work: Path) -> None:
        (work / "inner").mkdir()
        final = provision.cache.root / "artifacts" / "cross-tools" / key
        for name, words in _scripts(tools, sysroot, final).items():
            (work / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
            (work / name).chmod(0o755)

    key = content_key(_FORMAT, str(tools.root), str(sysroot), sys.executable)
    return CrossTools(
        programs=provision.cache.artifact("cross-tools", key, build),
        sysroot=sysroot,
        zig_cache=provision.cache.root / "zig",
    )


def _sysroot(provision: Provision) -> Path:
    """Return the unpacked headers and libraries, with the link that their linker scripts expect."""
    group = obtain(SYSROOT_GROUP, provision)

    def build(work: Path) -> None:
        with steps.step(f"unpack {SYSROOT_GROUP}"):
            unpack((file for _, file in group.packages), work)
            (work / "lib").symlink_to("usr/lib")

    return provision.cache.artifact("sysroot", group.digest, build)


def _scripts(tools: Bundle, sysroot: Path, final: Path) -> dict[str, list[str]]:
    """Return the command of every script, by its name; ``final`` is where the scripts will be."""
    inner = _only(tools.root, f"usr/libexec/gcc*/{TRIPLET}/*")
    objects = _only(tools.root, f"usr/lib/gcc*/{TRIPLET}/*")
    libraries = sysroot / "usr" / "lib" / TRIPLET
    gcc = _only(tools.root, f"usr/bin/{TRIPLET}-gcc-[0-9]*").name
    compiler = [*tools.command(gcc), f"-B{final}/inner/", f"-B{objects}/", f"--sysroot={sysroot}"]
    headers = sysroot / "usr" / "include"
    compiler += [f"-isystem{headers / TRIPLET}", f"-isystem{headers}", f"-L{libraries}", f"-B{libraries}/"]
    scripts = {f"{TRIPLET}-{name}": tools.command(f"{TRIPLET}-{name}") for name in _BINUTILS}
    scripts |= {f"inner/{name}": tools.command(f"{TRIPLET}-{name}") for name in ("as", "ld")}
    loader = tools.command(gcc)[:-1]
    scripts |= {f"inner/{name}": [*loader, str(inner / name)] for name in ("cc1", "collect2")}
    scripts |= {name: tools.command(name) for name in _PLAIN}
    starter, *rest = tools.command("make")
    scripts["make"] = [starter, "--argv0", str(final / "make"), *rest]
    scripts["pkg-config"] = tools.command("pkgconf")
    scripts[f"{TRIPLET}-gcc"] = compiler
    # What a build compiles for itself, to run here; CRIU calls it gcc. Static: it needs nothing of the host.
    scripts["gcc"] = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-musl"]
    return scripts


def _only(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if not found:
        raise NotInArchiveError(f"{pattern} is not in the bundle {root}")
    return found[0]
