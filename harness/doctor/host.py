"""What can be seen of a host: its CPU, its kernel, and how the kernel treats a process's keys."""

import gzip
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from harness.catalogue.cpus import PacAlgorithm
from harness.core.errors import HarnessError
from harness.core.process import popen
from harness.doctor.registers import AuthRegisters, read_registers
from harness.key_module.cpu_names import cpu_name
from harness.key_module.ptrace_keys import pac_mask, save
from harness.parsing.elf_needs import dynamic_tags

ARM64 = "aarch64"
NO_PAUTH = "arm64.nopauth"
_MIDR = "sys/devices/system/cpu/cpu0/regs/identification/midr_el1"
_OPTIONS = ("CONFIG_ARM64_PTR_AUTH", "CONFIG_CHECKPOINT_RESTORE", "CONFIG_ARM64_VA_BITS")
# Exists only with CONFIG_CHECKPOINT_RESTORE (Linux kernel/pid_namespace.c).
_ONLY_WITH_CHECKPOINT_RESTORE = "proc/sys/kernel/ns_last_pid"
_PARAMETERS = (NO_PAUTH, "id_aa64isar1.")
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host; None is what could not be seen.

    ``address_auth`` and ``generic_auth`` are HWCAP_PACA and HWCAP_PACG; ``mask`` the PAC bits of
    a code pointer; ``keys_readable`` whether the kernel gives out a process's keys; ``config`` the
    values of kernel options by name; ``boot`` the boot parameters about authentication;
    ``vdso_tags`` the dynamic tags of the vDSO that CRIU has to read.
    """

    architecture: str
    release: str
    cpu: str
    address_auth: bool | None
    generic_auth: bool | None
    registers: AuthRegisters | None
    mask: int | None
    keys_readable: bool | None
    config: Mapping[str, str]
    boot: tuple[str, ...]
    checkpoint_restore: bool | None
    vdso_tags: frozenset[str] | None

    @property
    def kernel(self) -> tuple[int, int]:
        """The kernel's version, (6, 1); (0, 0) when its release does not start with one."""
        found = _VERSION.match(self.release)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def va_bits(self) -> int | None:
        """Bits of a user address, from the mask; without PAC what the kernel was configured for."""
        if self.mask:
            return (self.mask & -self.mask).bit_length() - 1
        configured = self.config.get("CONFIG_ARM64_VA_BITS", "")
        return int(configured) if configured.isdecimal() else None

    @property
    def algorithm(self) -> PacAlgorithm | None:
        """The algorithm, where it was seen."""
        return self.registers.algorithm if self.registers else None

    def facts(self) -> dict[str, object]:
        """Return it by name."""
        return {
            "architecture": self.architecture,
            "CPU": {
                "model": self.cpu,
                "paca": self.address_auth,
                "pacg": self.generic_auth,
                "FPAC": self.registers.fpac if self.registers else None,
                "algorithm": self.algorithm.value if self.algorithm else None,
                "VA bits": self.va_bits,
                "PAC mask": f"{self.mask:#018x}" if self.mask else None,
            },
            "kernel": {
                "release": self.release,
                # Without it no paca is shown to anybody.
                "CONFIG_ARM64_PTR_AUTH": self.config.get(
                    "CONFIG_ARM64_PTR_AUTH", "y" if self.address_auth else None
                ),
                "CONFIG_CHECKPOINT_RESTORE": _yes_no(self.checkpoint_restore),
                "boot parameters": list(self.boot),
                "gives out keys": self.keys_readable,
                "vDSO": None
                if self.vdso_tags is None
                else sorted(one for one in self.vdso_tags if "HASH" in one),
            },
        }


def look_at_host(root: Path, not_seen: list[str]) -> Host:
    """Return what is seen of this host below ``root`` ("/"), adding to ``not_seen`` what is not."""
    architecture, release = platform.machine(), platform.release()
    arm64 = architecture == ARM64
    features = _features(root, not_seen) if arm64 else frozenset[str]()
    pac = None if features is None else "paca" in features
    config = _config(root, release, not_seen) if arm64 else {}
    mask, readable = _child(not_seen) if pac else (None, None)
    return Host(
        architecture=architecture,
        release=release,
        cpu=_model(root),
        address_auth=pac,
        generic_auth=None if features is None else "pacg" in features,
        registers=_registers(features, not_seen) if arm64 and features is not None else None,
        mask=mask,
        keys_readable=readable,
        config=MappingProxyType(config),
        boot=_boot(root, not_seen) if arm64 else (),
        checkpoint_restore=_checkpoint_restore(root, config) if arm64 else None,
        vdso_tags=_vdso(not_seen) if arm64 else None,
    )


def _yes_no(value: bool | None) -> str | None:  # noqa: FBT001 -- a value to be shown
    return None if value is None else "y" if value else "n"


def _features(root: Path, not_seen: list[str]) -> frozenset[str] | None:
    """Return the hwcap names of /proc/cpuinfo (Linux Documentation/arch/arm64/elf_hwcaps.rst)."""
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", "replace")
    except OSError as error:
        not_seen.append(f"the CPU's features: /proc/cpuinfo: {error.strerror}")
        return None
    line = next((one for one in text.splitlines() if one.startswith("Features")), "")
    return frozenset(line.partition(":")[2].split())


def _model(root: Path) -> str:
    try:
        return cpu_name(int((root / _MIDR).read_text("ascii"), 16))
    except (OSError, ValueError):
        return "not shown by the kernel"


def _registers(features: frozenset[str], not_seen: list[str]) -> AuthRegisters | None:
    if "cpuid" not in features:
        not_seen.append("FPAC and the algorithm: this kernel does not show ID registers to programs")
        return None
    try:
        return read_registers()
    except OSError as error:
        not_seen.append(f"FPAC and the algorithm: code that reads ID registers may not run: {error.strerror}")
        return None


def _config(root: Path, release: str, not_seen: list[str]) -> dict[str, str]:
    places = ("proc/config.gz", f"boot/config-{release}", f"lib/modules/{release}/config")
    for place in places:
        try:
            data = (root / place).read_bytes()
            text = (gzip.decompress(data) if place.endswith(".gz") else data).decode("utf-8", "replace")
        except OSError:
            continue
        lines = dict(line.split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_"))
        return {name: lines.get(name, "n") for name in _OPTIONS}
    not_seen.append(f"the kernel's configuration: none of {', '.join(f'/{one}' for one in places)}")
    return {}


def _checkpoint_restore(root: Path, config: Mapping[str, str]) -> bool | None:
    if "CONFIG_CHECKPOINT_RESTORE" in config:
        return config["CONFIG_CHECKPOINT_RESTORE"] == "y"
    if not (root / "proc/sys/kernel").is_dir():
        return None
    return (root / _ONLY_WITH_CHECKPOINT_RESTORE).exists()


def _boot(root: Path, not_seen: list[str]) -> tuple[str, ...]:
    try:
        words = (root / "proc/cmdline").read_text("utf-8", "replace").split()
    except OSError as error:
        not_seen.append(f"the boot parameters: /proc/cmdline: {error.strerror}")
        return ()
    return tuple(word for word in words if word.startswith(_PARAMETERS))


def _child(not_seen: list[str]) -> tuple[int | None, bool | None]:
    """Return the PAC mask of a process of our own, and whether the kernel gives out its keys."""
    child = popen(["sleep", "60"])
    try:
        try:
            mask = pac_mask(child.pid)
        except HarnessError as error:
            not_seen.append(f"the PAC mask: {error}")
            return None, None
        try:
            save(child.pid)
        except HarnessError as error:
            not_seen.append(f"keys of a process: {error}")
            return mask, False
        else:
            return mask, True
    finally:
        child.kill()
        child.wait()


def _vdso(not_seen: list[str]) -> frozenset[str] | None:
    # ffff8c5b5000-ffff8c5b6000 r-xp 00000000 00:00 0      [vdso]
    try:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
        start, end = next(line for line in lines if line.endswith("[vdso]")).split()[0].split("-")
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            memory.seek(int(start, 16))
            return dynamic_tags(memory.read(int(end, 16) - int(start, 16)))
    except (OSError, StopIteration) as error:
        not_seen.append(f"the vDSO: {error or 'this process has none'}")
        return None
