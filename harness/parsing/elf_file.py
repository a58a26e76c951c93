"""Programs and libraries: what they are for, what they need, and whether their code signs."""

import struct
from dataclasses import dataclass

from elftools.common.exceptions import ELFError

from harness.parsing.branch_protection import BranchProtection, branch_protection
from harness.parsing.elf_needs import needed_libraries

MAGIC = b"\x7fELF"
_E_MACHINE = struct.Struct("<H")
_MACHINE_AT, _AARCH64 = 18, 183
# e_machine of the ELF specification's list, as `uname -m` calls it.
_MACHINES = {3: "x86", 62: "x86_64", 40: "arm", 22: "s390x", 243: "riscv64", 21: "ppc64", _AARCH64: "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFile:
    """One file; ``protection`` is None for another architecture and where it cannot be read (``problem``)."""

    name: str
    architecture: str
    protection: BranchProtection | None
    needs: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def signs(self) -> bool | None:
        """Whether its code signs and authenticates return addresses; None where that was not seen."""
        if self.protection:
            return self.protection.protected
        return None if self.problem else False

    def facts(self) -> dict[str, object]:
        """Return it by name."""
        shown: dict[str, object] = {"architecture": self.architecture, "signs": self.signs}
        if found := self.protection:
            shown |= {
                "PAC note": found.pac_note,
                "BTI note": found.bti_note,
                "signing instructions": found.paciasp + found.pacibsp,
                "authenticated returns": found.signed_returns,
            }
        return shown | ({"problem": self.problem} if self.problem else {})


def elf_file(name: str, data: bytes) -> ElfFile | None:
    """Return what the file ``name`` with the content ``data`` is; None when it is no ELF file."""
    if not data.startswith(MAGIC):
        return None
    if len(data) < _MACHINE_AT + _E_MACHINE.size:
        return ElfFile(name=name, architecture="unknown", protection=None, problem="cut short in its header")
    (machine,) = _E_MACHINE.unpack_from(data, _MACHINE_AT)
    architecture = _MACHINES.get(machine, f"ELF machine {machine}")
    if machine != _AARCH64:
        return ElfFile(name=name, architecture=architecture, protection=None)
    try:
        found, needs = branch_protection(data), needed_libraries(data)
    except (ValueError, ELFError) as error:
        return ElfFile(name=name, architecture=architecture, protection=None, problem=str(error))
    return ElfFile(name=name, architecture=architecture, protection=found, needs=needs)
