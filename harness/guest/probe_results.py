"""What ``pacprobe`` (harness/guest/probe) says, as values; anything unexpected in its text is an error.

Every class mirrors one JSON object of the probe, field by field.
"""

import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from harness.core.errors import MachineError

T = TypeVar("T")

# The probe writes registers, addresses and masks as "0x0000ffffa159e4dc".
_POINTER_TEXT = re.compile(r"0x[0-9a-f]{16}")
_POINTER_MARK = "pointer"

Pointer = Annotated[int, _POINTER_MARK]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFingerprints:
    """Salted fingerprints of a thread's keys, 16 hexadecimal digits each.

    ``fingerprint`` is over the whole set; ``ga`` is None where the CPU has no generic key.
    """

    fingerprint: str
    ia: str
    ib: str
    da: str
    db: str
    ga: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PacState:
    """NT_ARM_PAC_MASK and NT_ARM_PAC_ENABLED_KEYS; None where the kernel or the CPU has none."""

    insn_mask: Pointer | None
    data_mask: Pointer | None
    enabled_keys: Pointer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedPacState(PacState):
    """The same with the keys, None without PAC or when the probe was given no salt."""

    keys: KeyFingerprints | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A saved return address; ``address`` is its frame record's (or SP, while LR is in its register)."""

    address: Pointer
    lr: Pointer
    stripped: Pointer
    signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts(PacState):
    """What the CPU and the kernel offer, seen from user mode.

    ``apa``, ``api``, ``apa3`` are raw fields of ID_AA64ISAR1_EL1 and ID_AA64ISAR2_EL1; they,
    ``algorithm`` ("qarma5", "qarma3", "impdef", "none"), ``fpac`` and ``midr`` are None where
    the kernel does not show ID registers. ``page_size`` is in bytes. ``signed_lr`` tells
    whether a paciasp executed there changed a pointer.
    """

    hwcap: Pointer
    hwcap2: Pointer
    paca: bool
    pacg: bool
    apa: int | None
    api: int | None
    apa3: int | None
    algorithm: str | None
    fpac: bool | None
    midr: Pointer | None
    page_size: int
    keys_readable: bool
    signed_lr: bool
    release: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadState(KeyedPacState):
    """One stopped thread; ``state`` is the letter it had in /proc before the stop.

    ``nstid`` and ``nspid`` are thread id and process id in the innermost pid namespace.
    ``frames`` holds the signed ones, ``records`` counts every frame record walked and
    ``unsigned_returns`` the plain return addresses among them; the three are None unless
    frames were asked for.
    """

    tid: int
    nstid: int
    nspid: int
    state: str
    pc: Pointer
    lr: Pointer
    sp: Pointer
    pstate: Pointer
    fp: Pointer
    frames: tuple[Frame, ...] | None
    records: int | None
    unsigned_returns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadsReport:
    """Every living thread of a process and its descendants, parents first; the process ids of dead ones."""

    pid: int
    threads: tuple[ThreadState, ...]
    zombies: tuple[int, ...] = ()

    @property
    def processes(self) -> tuple[int, ...]:
        """The ids of all processes in their pid namespace, dead ones last."""
        return (*dict.fromkeys(thread.nspid for thread in self.threads), *self.zombies)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReport(KeyedPacState):
    """Which signed frames, of the first stop and of every sleep, were returned through in the watch.

    ``stops`` counts the system calls looked at, ``writes`` those to its stdout; ``ended`` is
    "ticks", "deadline" or "exited". A frame that was left and entered again with the same
    values between two system calls counts as not returned.
    """

    pid: int
    start: tuple[Frame, ...]
    returned: tuple[Frame, ...]
    stops: int
    writes: int
    ended: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """How many threads got other keys; the probe has read each back."""

    threads: int
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A launched program, by its process id in the pid namespace of the probe."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reseed:
    """How many bytes of entropy the kernel was given, all of them credited."""

    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """siginfo of the signal that killed a process."""

    signo: int
    code: int
    addr: Pointer


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreThread(KeyedPacState):
    """One thread of a crashed process; the two mappings are lines of /proc/PID/maps.

    ``tid`` is None where the thread could not be found in /proc any more.
    """

    tid: int | None
    nstid: int
    signal: int
    pc: Pointer
    lr: Pointer
    sp: Pointer
    pstate: Pointer
    pc_mapping: str | None
    lr_mapping: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreReport:
    """What the core handler kept of a crash; the thread that died comes first."""

    pid: int
    nspid: int
    signal: int
    comm: str
    threads: tuple[CoreThread, ...]
    siginfo: Signal | None


class _MismatchError(Exception):
    """Where and how a JSON value differs from the class it should fill."""


def _mismatch(place: str, why: str) -> NoReturn:
    raise _MismatchError(f"{place or 'the answer'} {why}")


def _decode(hint: object, value: object, place: str) -> object:
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        (inner,) = (one for one in get_args(hint) if one is not type(None))
        return None if value is None else _decode(inner, value, place)
    if origin is tuple:
        if not isinstance(value, list):
            _mismatch(place, f"is {value!r}, not a list")
        element = get_args(hint)[0]
        return tuple(_decode(element, item, f"{place}[{at}]") for at, item in enumerate(value))
    if origin is Annotated:
        if not isinstance(value, str) or not _POINTER_TEXT.fullmatch(value):
            _mismatch(place, f"is {value!r}, not a pointer")
        return int(value, 16)
    assert isinstance(hint, type)
    if hint in {int, str, bool}:
        # By exact type: in Python true is an int as well.
        if type(value) is not hint:
            _mismatch(place, f"is {value!r}, not of type {hint.__name__}")
        return value
    return _decode_object(hint, value, place)


def _decode_object(kind: type[T], value: object, place: str) -> T:
    if not isinstance(value, dict):
        _mismatch(place, f"is {value!r}, not an object")
    hints = get_type_hints(kind, include_extras=True)
    names = {field.name for field in fields(cast("type", kind))}
    if missing := sorted(names - value.keys()):
        _mismatch(place, f"has no {', '.join(missing)}")
    if unknown := sorted(value.keys() - names):
        _mismatch(place, f"has unknown {', '.join(unknown)}")
    return kind(**{name: _decode(hints[name], value[name], f"{place}.{name}") for name in names})


def parse(kind: type[T], subcommand: str, text: str) -> T:
    """Read one answer of the probe, or a core.PID.json (subcommand "core"), as ``kind``.

    Raises MachineError naming the subcommand when the probe reports an error, and with the
    text as well when that is not exactly what ``kind`` describes.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise MachineError(f"pacprobe {subcommand} did not write JSON: {text!r}") from error
    if isinstance(value, dict) and value.keys() == {"error"}:
        raise MachineError(f"pacprobe {subcommand} failed: {value['error']}")
    try:
        return _decode_object(kind, value, "")
    except _MismatchError as error:
        raise MachineError(f"pacprobe {subcommand}: {error}: {text!r}") from error


def plain(value: object) -> object:
    """Return an answer, or any part of one, as the JSON value that ``parse`` reads again."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if not is_dataclass(value):
        return value
    hints = get_type_hints(type(value), include_extras=True)
    found = {}
    for field in fields(value):
        one = getattr(value, field.name)
        pointer = isinstance(one, int) and _POINTER_MARK in str(hints[field.name])
        found[field.name] = f"0x{one:016x}" if pointer else plain(one)
    return found
