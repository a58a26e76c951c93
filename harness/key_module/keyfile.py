"""pac-keys.img for inspection: which threads have keys, as fingerprints, never the keys themselves.

The format is described in docs/reference/key-file-format.md; src/keyfile_read.c is the other reader, and
both give the same problem for the same bytes.
"""

import enum
import hashlib
import hmac
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from harness.core.errors import StorageError

KEY_FILE_NAME = "pac-keys.img"
VERSION = 2
MAX_THREADS = 4194304
ALL_KEYS_ENABLED = 0xF

_MAGIC = b"CRPACKEY"
_PREFIX = struct.Struct("<8sI")  # magic, version: the part every version has
_HEADER = struct.Struct("<8sIIIII4sQQQ8s32s64sQQ16s")


class _Header(NamedTuple):
    """The fields of _HEADER by name."""

    magic: bytes
    version: int
    header_size: int
    record_size: int
    threads: int
    flags: int
    pad1: bytes
    data_mask: int
    insn_mask: int
    midr: int
    pad2: bytes
    pstree: bytes
    release: bytes
    address_probe: int
    generic_probe: int
    pad3: bytes


# tid, tgid, flags, 4 reserved, enabled keys, 8 reserved, PACA, PACG, 16 reserved, hash of the core image
_RECORD = struct.Struct("<III4sQ8s64s16s16s32s")
_DIGEST_SIZE = 32
_ADDRESS_KEYS = ("IA", "IB", "DA", "DB")
_GENERIC_KEYS = ("GA",)
_KEY_SIZE = 16
_FINGERPRINT_DIGITS = 16


class Problem(enum.Enum):
    """Why a key file is refused; the names are those of the C parser."""

    TRUNCATED = "is truncated"
    BAD_MAGIC = "is not a PAC key file"
    BAD_VERSION = "has a format version this reader does not know"
    BAD_LAYOUT = "is damaged: impossible sizes in its header"
    TRAILING_BYTES = "is damaged: bytes after its end"
    BAD_CHECKSUM = "is damaged: wrong checksum"
    BAD_HEADER = "is damaged: impossible header"
    UNBOUND = "was left unfinished by its dump: it is not bound to the images"
    BAD_RECORD = "is damaged: impossible thread record"


class KeyFileError(StorageError):
    """A key file that cannot be used; ``problem`` says why, the message never quotes its bytes."""

    def __init__(self, problem: Problem, name: str = KEY_FILE_NAME) -> None:
        super().__init__(f"{name} {problem.value}")
        self.problem = problem


class MachineFlag(enum.IntFlag, boundary=enum.STRICT):
    """What the dumping machine did."""

    ADDRESS_AUTH = 1
    GENERIC_AUTH = 2
    BOUND = 4


class ThreadFlag(enum.IntFlag, boundary=enum.STRICT):
    """Which fields of a thread were read."""

    PACA = 1
    PACG = 2
    ENABLED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadKeys:
    """One thread. ``tid`` and ``tgid`` count in the innermost pid namespace.

    ``enabled_keys`` is the mask of prctl(PR_PAC_SET_ENABLED_KEYS), None where the kernel did
    not give it. The keys themselves are in no repr and take no part in comparisons.
    """

    tid: int
    tgid: int
    enabled_keys: int | None
    core_sha256: str
    has_address_keys: bool
    has_generic_key: bool
    _keys: bytes = field(repr=False, compare=False)

    def fingerprint(self, salt: bytes) -> str | None:
        """Return one fingerprint of all keys, or None without keys.

        It is comparable with those of core notes: 16 hex digits of HMAC-SHA256(salt, PACA + PACG).
        """
        return _fingerprint(self._keys, salt) if self._keys else None

    @property
    def address_keys(self) -> bytes:
        """IA, IB, DA, DB as NT_ARM_PACA_KEYS has them. Secrets: for registers and key files only."""
        return self._keys[: len(_ADDRESS_KEYS) * _KEY_SIZE] if self.has_address_keys else b""

    @property
    def generic_key(self) -> bytes:
        """GA as NT_ARM_PACG_KEYS has it. A secret as well."""
        return self._keys[-_KEY_SIZE:] if self.has_generic_key else b""

    def key_fingerprints(self, salt: bytes) -> Mapping[str, str]:
        """Return a fingerprint per key that the thread has, by name ("IA" to "DB", "GA")."""
        names = _ADDRESS_KEYS * self.has_address_keys + _GENERIC_KEYS * self.has_generic_key
        parts = (self._keys[at : at + _KEY_SIZE] for at in range(0, len(self._keys), _KEY_SIZE))
        return MappingProxyType(
            {name: _fingerprint(key, salt) for name, key in zip(names, parts, strict=True)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """A whole, valid key file; masks are the PAC bits of a pointer, zero on a machine without PAC.

    ``midr`` is MIDR_EL1 of the dumping CPU, 0 where it could not be read. The probes are what a
    fixed, public key made of a fixed pointer (pacia1716) and of fixed data (pacga) there: equal on
    two machines exactly where all codes are; 0 without that kind of authentication.
    """

    address_auth: bool
    generic_auth: bool
    data_mask: int
    insn_mask: int
    midr: int
    address_probe: int
    generic_probe: int
    kernel_release: str
    pstree_sha256: str
    threads: tuple[ThreadKeys, ...]

    @property
    def tasks(self) -> Mapping[int, tuple[ThreadKeys, ...]]:
        """The threads by thread group, both in ascending order."""
        groups: dict[int, tuple[ThreadKeys, ...]] = {}
        for thread in self.threads:
            groups[thread.tgid] = (*groups.get(thread.tgid, ()), thread)
        return MappingProxyType(dict(sorted(groups.items())))


def read_key_file(images: Path) -> KeyFile:
    """Read pac-keys.img of an images directory.

    Raises KeyFileError for a file no restore would accept, StorageError when it cannot be read.
    """
    path = images / KEY_FILE_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return parse_key_file(data)


def read_unbound_file(path: Path) -> KeyFile:
    """Read a file of ``write_unbound_file``; raises as ``read_key_file``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    return parse_key_file(data, bound=False)


def write_unbound_file(path: Path, file: KeyFile) -> None:
    """Write keys that belong to no images, mode 0600, never over a file that is there."""
    data = _encode(file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _encode(file: KeyFile) -> bytes:
    flags = MachineFlag.ADDRESS_AUTH * file.address_auth | MachineFlag.GENERIC_AUTH * file.generic_auth
    header = _Header(
        magic=_MAGIC,
        version=VERSION,
        header_size=_HEADER.size,
        record_size=_RECORD.size,
        threads=len(file.threads),
        flags=flags,
        pad1=b"",
        data_mask=file.data_mask,
        insn_mask=file.insn_mask,
        midr=file.midr,
        pad2=b"",
        pstree=bytes.fromhex(file.pstree_sha256),
        release=file.kernel_release.encode()[:63],
        address_probe=file.address_probe,
        generic_probe=file.generic_probe,
        pad3=b"",
    )
    body = _HEADER.pack(*header)
    for one in file.threads:
        raw = ThreadFlag.PACA * one.has_address_keys | ThreadFlag.PACG * one.has_generic_key
        raw |= ThreadFlag.ENABLED * (one.enabled_keys is not None)
        keys = (one.address_keys, one.generic_key)
        core = bytes.fromhex(one.core_sha256)
        body += _RECORD.pack(one.tid, one.tgid, raw, b"", one.enabled_keys or 0, b"", *keys, b"", core)
    return body + hashlib.sha256(body).digest()


def foreign_images(key_file: KeyFile, images: Path) -> list[str]:
    """Return the names of the images that are not those the keys were saved with, missing ones too."""
    expected = {"pstree.img": key_file.pstree_sha256}
    expected |= {f"core-{thread.tid}.img": thread.core_sha256 for thread in key_file.threads}
    return [name for name, digest in expected.items() if _digest_of(images / name) != digest]


def parse_key_file(data: bytes, *, bound: bool = True) -> KeyFile:
    """Return what ``data`` holds; raise KeyFileError unless every rule of the format is kept.

    One that is not ``bound`` to images may lack the probe of the algorithm.
    """
    _check_layout(data)
    body, checksum = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    if not hmac.compare_digest(hashlib.sha256(body).digest(), checksum):
        raise KeyFileError(Problem.BAD_CHECKSUM)
    header = _Header._make(_HEADER.unpack_from(data))
    pac = bool(header.flags & MachineFlag.ADDRESS_AUTH)
    probed = bool(header.address_probe) or (pac and not bound)
    if (
        header.flags > sum(MachineFlag)
        or {pac} != {bool(header.data_mask), bool(header.insn_mask), probed}
        or (header.generic_probe and not header.flags & MachineFlag.GENERIC_AUTH)
        or header.release[-1] != 0
        or any(header.pad1 + header.pad2 + header.pad3)
    ):
        raise KeyFileError(Problem.BAD_HEADER)
    flags = MachineFlag(header.flags)
    if bound and MachineFlag.BOUND not in flags:
        raise KeyFileError(Problem.UNBOUND)
    return KeyFile(
        address_auth=pac,
        generic_auth=MachineFlag.GENERIC_AUTH in flags,
        data_mask=header.data_mask,
        insn_mask=header.insn_mask,
        midr=header.midr,
        address_probe=header.address_probe,
        generic_probe=header.generic_probe,
        kernel_release=header.release.partition(b"\0")[0].decode("utf-8", "replace"),
        pstree_sha256=header.pstree.hex(),
        threads=tuple(_threads(body[_HEADER.size :], flags)),
    )


def _check_layout(data: bytes) -> None:
    if len(data) >= len(_MAGIC) and not data.startswith(_MAGIC):
        raise KeyFileError(Problem.BAD_MAGIC)
    if len(data) < _PREFIX.size:
        raise KeyFileError(Problem.TRUNCATED)
    if _PREFIX.unpack_from(data)[1] != VERSION:
        raise KeyFileError(Problem.BAD_VERSION)
    if len(data) < _HEADER.size:
        raise KeyFileError(Problem.TRUNCATED)
    header = _Header._make(_HEADER.unpack_from(data))
    sizes = (header.header_size, header.record_size)
    if sizes != (_HEADER.size, _RECORD.size) or not 1 <= header.threads <= MAX_THREADS:
        raise KeyFileError(Problem.BAD_LAYOUT)
    size = _HEADER.size + header.threads * _RECORD.size + _DIGEST_SIZE
    if len(data) < size:
        raise KeyFileError(Problem.TRUNCATED)
    if len(data) > size:
        raise KeyFileError(Problem.TRAILING_BYTES)


def _threads(records: bytes, machine: MachineFlag) -> Iterator[ThreadKeys]:
    previous = 0
    for fields in _RECORD.iter_unpack(records):
        thread = _thread(fields, machine)
        if not previous < thread.tid <= MAX_THREADS or not 1 <= thread.tgid <= MAX_THREADS:
            raise KeyFileError(Problem.BAD_RECORD)
        previous = thread.tid
        yield thread


def _thread(fields: tuple[int | bytes, ...], machine: MachineFlag) -> ThreadKeys:
    tid, tgid, raw, pad1, enabled, pad2, paca, pacg, pad3, core = fields
    assert isinstance(raw, int) and isinstance(tid, int) and isinstance(tgid, int)  # noqa: PT018 -- struct says so
    assert isinstance(enabled, int)
    blobs = [bytes(value) for value in (pad1, pad2, pad3, paca, pacg, core) if isinstance(value, bytes)]
    *pads, address, generic, digest = blobs
    has_paca, has_pacg, has_mask = (bool(raw & flag) for flag in ThreadFlag)
    if (
        raw > sum(ThreadFlag)
        or has_paca != (MachineFlag.ADDRESS_AUTH in machine)
        or has_pacg != (MachineFlag.GENERIC_AUTH in machine)
        or (has_mask and not has_paca)
        or enabled > (ALL_KEYS_ENABLED if has_mask else 0)
        or (not has_paca and any(address))
        or (not has_pacg and any(generic))
        or any(b"".join(pads))
    ):
        raise KeyFileError(Problem.BAD_RECORD)
    return ThreadKeys(
        tid=tid,
        tgid=tgid,
        enabled_keys=enabled if has_mask else None,
        core_sha256=digest.hex(),
        has_address_keys=has_paca,
        has_generic_key=has_pacg,
        _keys=(address if has_paca else b"") + (generic if has_pacg else b""),
    )


def _fingerprint(key: bytes, salt: bytes) -> str:
    return hmac.digest(salt, key, "sha256").hex()[:_FINGERPRINT_DIGITS]


def _digest_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
