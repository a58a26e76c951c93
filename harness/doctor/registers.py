"""ID registers of an arm64 CPU, read as any process may: the kernel answers for the CPU.

Linux Documentation/arch/arm64/cpu-feature-registers.rst: with HWCAP_CPUID, MRS of an ID register
traps and gives what the kernel offers to programs, so authentication that the kernel leaves off is
not there. Fields: Arm ARM, ID_AA64ISAR1_EL1 (APA, API) and ID_AA64ISAR2_EL1 (APA3).
"""

import ctypes
import mmap
import os
import struct
from dataclasses import dataclass

from harness.catalogue.cpus import PacAlgorithm

_MRS_ISAR1, _MRS_ISAR2 = 0xD5380620, 0xD5380640  # mrs x0, ID_AA64ISAR1_EL1 and ID_AA64ISAR2_EL1
_RET = 0xD65F03C0
_FIELDS = ((_MRS_ISAR1, 4, PacAlgorithm.QARMA5), (_MRS_ISAR1, 8, PacAlgorithm.IMPDEF))
_NEWER_FIELDS = ((_MRS_ISAR2, 12, PacAlgorithm.QARMA3),)
_FIRST_FPAC_VALUE = 4  # 0b0100 and above: FEAT_FPAC


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRegisters:
    """How the CPU authenticates: the algorithm, None without, and whether a failure faults at once."""

    algorithm: PacAlgorithm | None
    fpac: bool


def read_registers() -> AuthRegisters:
    """Return what this CPU's ID registers say; OSError where code of our own may not run.

    Only for an arm64 kernel with "cpuid" among its features: elsewhere the instruction is
    undefined and ends the process.
    """
    for instruction, shift, algorithm in _FIELDS + _NEWER_FIELDS:
        value = _read(instruction) >> shift & 0xF
        if value:
            return AuthRegisters(algorithm=algorithm, fpac=value >= _FIRST_FPAC_VALUE)
    return AuthRegisters(algorithm=None, fpac=False)


def _read(instruction: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        page.write(struct.pack("<II", instruction, _RET))
        anchor = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(anchor)
        # Written first, executable after: the kernel then cleans the caches for it.
        length = ctypes.c_size_t(mmap.PAGESIZE)
        if libc.mprotect(ctypes.c_void_p(address), length, mmap.PROT_READ | mmap.PROT_EXEC):
            problem = ctypes.get_errno()
            raise OSError(problem, os.strerror(problem))
        value = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)()
        del anchor  # a page that is pointed at cannot be closed
        return int(value)
    finally:
        page.close()
