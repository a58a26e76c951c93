"""What people call a CPU: the table is the plugin's own, src/cpu_names.inc."""

import re

from harness.key_module.build import SOURCES

_ENTRY = re.compile(r'^CPU\((0x[0-9a-f]{2}), (0x[0-9a-f]{3}), "([^"]+)"\)$', re.MULTILINE)
# What the probe of the key file gives in QEMU 11.1.3, with codes of 7 and of 3 bits. QARMA is
# specified; an IMPDEF algorithm is each implementation's own.
_ALGORITHMS: dict[int, str] = {
    0x0B163B84C99C64F2: "IMPDEF (QEMU)",
    0x9C68775E988FEC65: "IMPDEF (QEMU)",
    0xC39D77D3DE9FED5F: "QARMA3",
    0x2B1DF49A8C2EDF27: "QARMA3",
    0x6DEEDCE54271828B: "QARMA5",
    0x9CCC2FB57F00E9CE: "QARMA5",
}


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
