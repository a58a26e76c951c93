"""The console as boot reads it, from a socket of the test's, and the log QEMU writes beside it."""

import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import BootError
from harness.machines.console import READY, Console

PANIC = "Kernel panic - not syncing: "  # kernel/panic.c

BOOTING = b"[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x411fd402]\r\n"
# The kernel goes on after the message: a backtrace is longer than a screen.
TRACE = b"".join(b"[    1.3%04d]  do_initcalls+0x1a0/0x2c4\r\n" % number for number in range(40))


class FakeConsole:
    """A socket that says ``chunks`` to whoever connects, each a write of its own, then ends or stays."""

    def __init__(self, path: Path, chunks: list[bytes], *, ends: bool) -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(chunks, ends), daemon=True)
        self._thread.start()

    def _serve(self, chunks: list[bytes], ends: bool) -> None:  # noqa: FBT001 -- a thread's argument
        connection, _ = self._server.accept()
        with connection:
            with contextlib.suppress(BrokenPipeError):  # the reader had enough
                for number, chunk in enumerate(chunks):
                    if number:
                        self._over.wait(0.01)  # so that two chunks are two reads
                    connection.sendall(chunk)
            if not ends:
                self._over.wait(10)

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._server.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:  # short enough for a socket's path
        yield Path(path)


def _wait(directory: Path, *chunks: bytes, ends: bool = False, deadline: Deadline | None = None) -> Console:
    """Let a console wait for a guest that says ``chunks``, logged as QEMU would."""
    log = directory / "console.log"
    log.write_bytes(b"".join(chunks))
    fake = FakeConsole(directory / "console.sock", list(chunks), ends=ends)
    console = Console(directory / "console.sock", log)
    try:
        with console.attached() as spawn:
            console.wait_ready(spawn, deadline or Deadline.after(5, "boot"))
    finally:
        fake.close()
    return console


READY_LINE = f"{READY}\r\n".encode()
PANIC_LINE = f"[    1.234567] {PANIC}VFS: Unable to mount root fs on unknown-block(0,0)\r\n".encode()


def test_ready_after_other_output(directory: Path) -> None:
    console = _wait(directory, BOOTING, BOOTING * 100, READY_LINE)
    assert console.panic() is None


def test_ready_in_two_pieces(directory: Path) -> None:
    _wait(directory, BOOTING + READY_LINE[:9], READY_LINE[9:])


def test_ready_is_not_lost_in_what_follows_it(directory: Path) -> None:
    _wait(directory, BOOTING + READY_LINE + BOOTING * 10, deadline=Deadline.after(1, "boot"))


@pytest.mark.parametrize("last", [b"", PANIC_LINE, PANIC_LINE + TRACE])
def test_an_end_is_the_machines_to_explain(directory: Path, last: bytes) -> None:
    with pytest.raises(OSError):  # noqa: PT011 -- which one depends on who ended how
        _wait(directory, BOOTING + last, ends=True)


def test_silence_is_told_from_an_end(directory: Path) -> None:
    with pytest.raises(BootError, match=r"not ready in 0\.05 s; the console stayed silent"):
        _wait(directory, b"", deadline=Deadline.after(0.05, "boot"))


def test_a_deadline_that_is_over_is_no_lost_connection(directory: Path) -> None:
    with pytest.raises(BootError, match="not ready in 0 s"):
        _wait(directory, b"", deadline=Deadline.after(0, "boot"))


def test_nobody_listening_is_an_os_error_for_the_machine_to_explain(directory: Path) -> None:
    console = Console(directory / "missing.sock", directory / "console.log")
    with pytest.raises(OSError, match="No such file"), console.attached():
        pass


def _logged(directory: Path, text: str) -> Console:
    (directory / "console.log").write_text(text, "utf-8")
    return Console(directory / "console.sock", directory / "console.log")


def test_the_last_words_are_the_last_line_with_something_in_it(directory: Path) -> None:
    console = _logged(directory, "first\r\n  the last one  \r\n\r\n   \n")
    assert console.last_words() == "last console line: the last one"
    assert len(_logged(directory, "x" * 1000).last_words()) < 200


def test_no_log_yet(directory: Path) -> None:
    console = Console(directory / "console.sock", directory / "console.log")
    assert (console.text(), console.panic()) == ("", None)
    assert console.last_words() == "the console stayed silent"


def test_bytes_that_are_no_text_do_not_matter(directory: Path) -> None:
    (directory / "console.log").write_bytes(b"\xff\x1b[0mboot\xfe\n")
    assert "boot" in Console(directory / "console.sock", directory / "console.log").last_words()


@pytest.mark.parametrize(
    "rest",
    [
        "\r\n",
        "\r\n[    1.3] CPU: 0 PID: 1 Comm: init Not tainted\r\n",
        # With panic=0 the kernel repeats its message where it stops.
        f"\r\n[    1.4] ---[ end {PANIC}Attempted to kill init! exitcode=0x00000100 ]---\r\n",
    ],
)
def test_the_message_of_a_panic(directory: Path, rest: str) -> None:
    console = _logged(directory, f"[    1.2] {PANIC}Attempted to kill init! exitcode=0x00000100{rest}")
    assert console.panic() == "Attempted to kill init! exitcode=0x00000100"


def test_a_log_that_ends_in_the_middle_of_a_panic(directory: Path) -> None:
    assert _logged(directory, f"[    1.2] {PANIC}").panic() is not None
