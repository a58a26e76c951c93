"""Keys of a running or stopped process tree by ptrace, without CRIU: for versions the plugin cannot serve.

``save`` before a dump and ``load`` after ``criu restore --leave-stopped`` do what the plugin does
from inside CRIU. Register sets: Linux include/uapi/linux/elf.h; ptrace(2).
"""

import ctypes
import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HostError, MachineError, UsageError
from harness.key_module.keyfile import KeyFile, ThreadKeys

_GETREGSET, _SETREGSET = 0x4204, 0x4205
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_PAC_MASK, _PACA_KEYS, _PACG_KEYS, _ENABLED_KEYS = 0x406, 0x407, 0x408, 0x40A
_PACA_SIZE, _PACG_SIZE, _MASK_SIZE = 64, 16, 8
_WALL = 0x40000000
_EVENT_STOP = 128
_PATIENCE = 10.0  # seconds until a thread has to be stopped


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@dataclass(frozen=True, slots=True)
class StoppedThread:
    """A thread under ptrace; ``nstid`` and ``nspid`` count in the innermost pid namespace."""

    tid: int
    nstid: int
    nspid: int


def save(pid: int) -> KeyFile:
    """Return the keys of every thread of a process and its descendants, which are stopped meanwhile.

    Raises UsageError for a host without PAC or a process that is not there, HostError without
    the right to trace it. The value is not bound to any images.
    """
    with _stopped_tree(pid) as threads:
        masks = _read(threads[0].tid, _PAC_MASK, 2 * _MASK_SIZE)
        if masks is None:
            raise UsageError("this machine has no pointer authentication: there are no keys to save")
        return KeyFile(
            address_auth=True,
            generic_auth=_read(threads[0].tid, _PACG_KEYS, _PACG_SIZE) is not None,
            data_mask=int.from_bytes(masks[:_MASK_SIZE], "little"),
            insn_mask=int.from_bytes(masks[_MASK_SIZE:], "little"),
            midr=0,
            address_probe=0,
            generic_probe=0,
            kernel_release=platform.release(),
            pstree_sha256="0" * 64,
            threads=tuple(sorted((_keys_of(one) for one in threads), key=lambda one: one.tid)),
        )


def pac_mask(pid: int) -> int | None:
    """Return the PAC bits of a process's code pointers, None without PAC; raises as ``save``."""
    with _stopped_tree(pid) as threads:
        masks = _read(threads[0].tid, _PAC_MASK, 2 * _MASK_SIZE)
        return None if masks is None else int.from_bytes(masks[_MASK_SIZE:], "little")


def load(pid: int, file: KeyFile) -> int:
    """Give every thread of a process tree its keys from ``file`` and return how many there were.

    All is checked before the first key is written; raises UsageError when file, process and
    machine do not belong together, HostError as ``save``.
    """
    wanted = {thread.tid: thread for thread in file.threads}
    with _stopped_tree(pid) as threads:
        masks = _read(threads[0].tid, _PAC_MASK, 2 * _MASK_SIZE)
        if not file.address_auth or masks is None:
            raise UsageError("keys can be loaded from and on machines with pointer authentication only")
        here = int.from_bytes(masks[_MASK_SIZE:], "little")
        if here != file.insn_mask:
            raise UsageError(
                f"signatures lie in other pointer bits: {file.insn_mask:#x} then, {here:#x} here"
            )
        found = {one.nstid for one in threads}
        if found != set(wanted):
            raise UsageError(
                f"the threads of process {pid} are not those of the file: "
                f"{_ids(found - set(wanted))} not in the file, {_ids(set(wanted) - found)} not in the process"
            )
        for one in threads:
            _write_keys(one, wanted[one.nstid])
        return len(threads)


def _ids(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids))) or "none"


def _keys_of(thread: StoppedThread) -> ThreadKeys:
    address = _read(thread.tid, _PACA_KEYS, _PACA_SIZE)
    if address is None:
        raise HostError(
            f"the kernel does not give out the keys of thread {thread.tid}",
            hint="it needs Linux 5.1 with CONFIG_CHECKPOINT_RESTORE",
        )
    generic = _read(thread.tid, _PACG_KEYS, _PACG_SIZE)
    enabled = _read(thread.tid, _ENABLED_KEYS, _MASK_SIZE)
    return ThreadKeys(
        tid=thread.nstid,
        tgid=thread.nspid,
        enabled_keys=None if enabled is None else int.from_bytes(enabled, "little"),
        core_sha256="0" * 64,
        has_address_keys=True,
        has_generic_key=generic is not None,
        _keys=address + (generic or b""),
    )


def _write_keys(thread: StoppedThread, keys: ThreadKeys) -> None:
    _write(thread.tid, _PACA_KEYS, keys.address_keys)
    if keys.has_generic_key:
        _write(thread.tid, _PACG_KEYS, keys.generic_key)
    if keys.enabled_keys is not None:
        _write(thread.tid, _ENABLED_KEYS, keys.enabled_keys.to_bytes(_MASK_SIZE, "little"))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    return libc


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """Return 0 or the errno."""
    return 0 if _libc().ptrace(request, tid, address, data) >= 0 else ctypes.get_errno()


def _regset(request: int, tid: int, kind: int, content: bytearray) -> int:
    buffer = (ctypes.c_char * len(content)).from_buffer(content)
    vector = _IoVector(ctypes.addressof(buffer), len(content))
    problem = _ptrace(request, tid, kind, ctypes.addressof(vector))
    if not problem and vector.length != len(content):
        problem = errno.EBADMSG
    return problem


def _read(tid: int, kind: int, size: int) -> bytes | None:
    """Return a register set; None where the kernel or the CPU has none."""
    content = bytearray(size)
    problem = _regset(_GETREGSET, tid, kind, content)
    if problem == errno.EINVAL:
        return None
    if problem:
        raise HostError(f"cannot read register set {kind:#x} of thread {tid}: {os.strerror(problem)}")
    return bytes(content)


def _write(tid: int, kind: int, content: bytes) -> None:
    problem = _regset(_SETREGSET, tid, kind, bytearray(content))
    if problem:
        raise HostError(f"cannot write register set {kind:#x} of thread {tid}: {os.strerror(problem)}")


@contextmanager
def _stopped_tree(pid: int) -> Iterator[list[StoppedThread]]:
    """Stop every thread of a process and its living descendants; all go on as they were at the end."""
    signals: dict[int, int] = {}
    try:
        threads = [thread for process in _tree(pid) for thread in _stop_process(process, signals)]
        if not threads:
            raise UsageError(f"process {pid} has no living thread")
        yield threads
    finally:
        for tid, signal in signals.items():
            _ptrace(_DETACH, tid, 0, signal)


def _stop_process(pid: int, signals: dict[int, int]) -> list[StoppedThread]:
    """Stop until a round finds no thread that is not stopped: a running one can start another."""
    stopped: list[StoppedThread] = []
    while fresh := [tid for tid in _entries(pid) if tid not in signals and _state(pid, tid) not in "ZX"]:
        for tid in fresh:
            problem = _ptrace(_SEIZE, tid)
            if problem == errno.ESRCH:
                continue
            if problem:
                raise HostError(
                    f"cannot trace thread {tid} of process {pid}: {os.strerror(problem)}",
                    hint="run it as root; only one tracer at a time",
                )
            _ptrace(_INTERRUPT, tid)
            signals[tid] = _wait_stop(tid)
            stopped.append(StoppedThread(tid, _last(pid, tid, "NSpid"), _last(pid, tid, "NStgid")))
    return stopped


def _wait_stop(tid: int) -> int:
    """Wait for the stop and return the signal that was caught on its way to the thread, or 0."""
    until = time.monotonic() + _PATIENCE
    while True:
        found, status = os.waitpid(tid, _WALL | os.WNOHANG)
        if found:
            break
        if time.monotonic() > until:
            raise MachineError(f"thread {tid} did not stop within {_PATIENCE:g} s")
        time.sleep(0.001)
    if not os.WIFSTOPPED(status):
        raise MachineError(f"thread {tid} ended while it was to be stopped")
    return 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status)


def _tree(pid: int) -> list[int]:
    """Return a process and its descendants that are no zombies, parents first."""
    tree = [pid]
    for process in tree:
        for tid in _entries(process):
            try:
                children = Path(f"/proc/{process}/task/{tid}/children").read_text("ascii")
            except OSError:
                continue
            tree += [int(child) for child in children.split()]
    return [process for process in tree if _state(process, process) not in "ZX"]


def _entries(pid: int) -> list[int]:
    try:
        return sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _status(pid: int, tid: int, name: str) -> str:
    try:
        text = Path(f"/proc/{pid}/task/{tid}/status").read_text("utf-8", "replace")
    except OSError:
        return ""
    return next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:")), ""
    )


def _state(pid: int, tid: int) -> str:
    return _status(pid, tid, "State")[:1] or "X"


def _last(pid: int, tid: int, name: str) -> int:
    return int(_status(pid, tid, name).split()[-1])
