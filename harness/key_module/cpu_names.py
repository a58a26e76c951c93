"""What people call a CPU: the table is the plugin's own, src/cpu_names.inc."""

import re

from harness.key_module.build import SOURCES

_ENTRY = re.compile(r'^CPU\((0x[0-9a-f]{2}), (0x[0-9a-f]{3}), "([^"]+)"\)$', re.MULTILINE)
# What the probe of the key file gives where pointers are signed with 7 and with 3 bits. QARMA is
# specified, so these hold for every CPU that has it; IMPDEF is the emulator's own.
_ALGORITHMS: dict[int, str] = {}


def cpu_name(midr: int) -> str:
    """Return "Neoverse V1" for its MIDR_EL1, or what can be said of one that is not listed."""
    if not midr:
        return "unknown model"
    for implementer, part, name in _ENTRY.findall((SOURCES / "cpu_names.inc").read_text("utf-8")):
        if (int(implementer, 16), int(part, 16)) == (midr >> 24 & 0xFF, midr >> 4 & 0xFFF):
            return str(name)
    return f"MIDR {midr:#x}"


def algorithm_name(address_probe: int) -> str:
    """Return the algorithm that gave this probe, or the probe itself where it is not a known one."""
    if not address_probe:
        return "none"
    return _ALGORITHMS.get(address_probe, f"probe {address_probe:016x}")
