"""What can be said of a machine without being root: CPU, CRIU, engines, installed modules."""

import platform
import re
import shutil
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.process import run
from harness.key_module.build import PLUGIN_NAME
from harness.key_module.cpu_names import cpu_name
from harness.key_module.install import POLICY_FILE, library_directories

_PROGRAMS = ("criu", "runc", "crun", "podman", "docker")
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_MIDR = "sys/devices/system/cpu/cpu0/regs/identification/midr_el1"


def machine_status(root: Path, plugin: bytes) -> dict[str, object]:
    """Return the facts by name; ``plugin`` is this version's build, to tell it from others."""
    return {
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "CPU": _cpu(root),
        "pointer authentication": _features(root),
        "programs": {name: _version(name) for name in _PROGRAMS},
        "module": {
            str(one.path): {"named by": one.said_by, **_installed(root, one.path, plugin)}
            for one in library_directories(root)
        },
    }


def _cpu(root: Path) -> str:
    try:
        return cpu_name(int((root / _MIDR).read_text("ascii"), 16))
    except (OSError, ValueError):
        return "not shown by the kernel"


def _features(root: Path) -> str:
    """Return what /proc/cpuinfo says; hwcap names of Documentation/arch/arm64/elf_hwcaps.rst."""
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return "unknown: no /proc/cpuinfo"
    line = next((one for one in text.splitlines() if one.startswith("Features")), "")
    names = [name for name in ("paca", "pacg") if name in line.split()]
    return " ".join(names) or "none"


def _version(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        return "not found"
    answer = run([path, "--version"], Deadline.after(20, f"{program} --version"))
    found = _VERSION.search(answer.text)
    return f"{found.group() if found else 'unknown version'} ({path})"


def _installed(root: Path, directory: Path, plugin: bytes) -> dict[str, object]:
    place = root / directory.relative_to("/")
    try:
        state = "this build" if (place / PLUGIN_NAME).read_bytes() == plugin else "another build"
    except FileNotFoundError:
        return {"module": "not installed"}
    except OSError as error:
        return {"module": f"unreadable: {error.strerror}"}
    policy = place / POLICY_FILE
    return {"module": state, "policy": policy.read_text("utf-8").strip() if policy.exists() else "refuse"}
