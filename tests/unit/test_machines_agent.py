"""The guest agent's client against an agent of the test's on a unix socket."""

import base64
import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError, LongFileError, MachineDiedError, MachineError
from harness.machines.agent import LONGEST_FILE, GuestAgent

Request = dict[str, Any]
Handler = Callable[[Request], Any]


class RefusedError(Exception):
    """Raised by a handler: the agent answers with an error."""


class VanishError(Exception):
    """Raised by a handler: the agent sends these bytes and the connection ends."""

    def __init__(self, said: bytes) -> None:
        super().__init__(said)
        self.said = said


class FakeAgent:
    """Speaks the protocol of qemu-ga; ``handlers`` by command, ``stale`` is sent before the first sync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlers: dict[str, Handler] = {}
        self.requests: list[Request] = []
        self.stale = b""
        self.syncs = True
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(4)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def commands(self) -> list[str]:
        return [
            request["execute"] for request in self.requests if request["execute"] != "guest-sync-delimited"
        ]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                flushed, _, text = line.rpartition(b"\xff")
                if b"\xff" in line or flushed:
                    connection.sendall(b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n')
                try:
                    connection.sendall(self._answer(json.loads(text)))
                except VanishError as end:
                    connection.sendall(end.said)
                    return

    def _answer(self, request: Request) -> bytes:
        self.requests.append(request)
        command, arguments = request["execute"], request.get("arguments", {})
        if command == "guest-sync-delimited":
            stale, self.stale = self.stale, b""
            reply = b"\xff" + json.dumps({"return": arguments["id"]}).encode() + b"\n"
            return stale + (reply if self.syncs else b"")
        try:
            value = self.handlers[command](arguments)
        except RefusedError as error:
            return json.dumps({"error": {"class": "GenericError", "desc": str(error)}}).encode() + b"\n"
        return json.dumps({"return": value}).encode() + b"\n"


def _lost() -> MachineError:
    return MachineDiedError("QEMU was killed by signal 9 in the middle")


def _soon() -> Deadline:
    return Deadline.after(10, "the call")


@pytest.fixture
def server() -> Iterator[FakeAgent]:
    # Not tmp_path: the path of a unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory() as directory:
        fake = FakeAgent(Path(directory) / "agent.sock")
        fake.handlers["guest-ping"] = lambda _: {}
        yield fake
        fake.close()


@pytest.fixture
def agent(server: FakeAgent) -> Iterator[GuestAgent]:
    client = GuestAgent(server.path, _lost)
    client.connect(_soon())
    yield client
    client.close()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _executing(server: FakeAgent, *statuses: Request) -> None:
    """Let guest-exec start a process whose status is asked for once per element of ``statuses``."""
    left = iter(statuses)
    server.handlers["guest-exec"] = lambda _: {"pid": 41}
    server.handlers["guest-exec-status"] = lambda _: next(left)


def test_connecting_reads_over_what_an_earlier_connection_left(server: FakeAgent) -> None:
    server.stale = b'{"return": {"pid": 7}}\n{"return": 12}\n{"error": {"class": "x", "desc": "old"}}\n'
    client = GuestAgent(server.path, _lost)
    client.connect(_soon())
    assert client.call("guest-ping", _soon()) == {}
    client.close()


def test_an_agent_that_never_answers_is_a_deadline_missed(server: FakeAgent) -> None:
    server.syncs = False
    client = GuestAgent(server.path, _lost)
    with pytest.raises(DeadlineError, match="last seen: no answer from the guest agent"):
        client.connect(Deadline.after(0.02, "the agent"))
    client.close()


def test_no_socket_is_a_lost_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineDiedError, match="killed by signal 9"):
        GuestAgent(tmp_path / "missing.sock", _lost).connect(_soon())


def test_calling_without_an_agent_is_a_lost_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineDiedError):
        GuestAgent(tmp_path / "missing.sock", _lost).call("guest-ping", _soon())


def test_argument_names_are_written_the_agents_way(agent: GuestAgent, server: FakeAgent) -> None:
    server.handlers["guest-info"] = lambda arguments: arguments
    assert agent.call("guest-info", _soon(), input_data="x", path="/p") == {"input-data": "x", "path": "/p"}


def test_a_refusal_is_an_error_with_the_agents_words(agent: GuestAgent, server: FakeAgent) -> None:
    def refuse(_: Request) -> None:
        raise RefusedError("Failed to execute child process")

    server.handlers["guest-exec"] = refuse
    with pytest.raises(MachineError, match="guest agent: guest-exec: Failed to execute child process"):
        agent.run(["/no/such/program"], _soon())
    assert agent.call("guest-ping", _soon()) == {}


def test_a_command_is_asked_for_until_it_ended(agent: GuestAgent, server: FakeAgent) -> None:
    done = {"exited": True, "exitcode": 3, "out-data": _b64(b"out\xff"), "err-data": _b64(b"err\n")}
    _executing(server, {"exited": False}, {"exited": False}, done)
    result = agent.run(["cat", "-", "file"], _soon(), stdin=b"\x00in")
    assert (result.returncode, result.stdout, result.error_text) == (3, b"out\xff", "err")
    assert result.argv == ("cat", "-", "file")
    assert server.commands() == ["guest-exec"] + ["guest-exec-status"] * 3
    started = server.requests[1]["arguments"]
    assert (started["path"], started["arg"], started["capture-output"]) == ("cat", ["-", "file"], True)
    assert base64.b64decode(started["input-data"]) == b"\x00in"
    assert server.requests[2]["arguments"] == {"pid": 41}


def test_no_output_and_no_input(agent: GuestAgent, server: FakeAgent) -> None:
    _executing(server, {"exited": True, "exitcode": 0})
    result = agent.run(["true"], _soon())
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert "input-data" not in server.requests[1]["arguments"]


@pytest.mark.parametrize(
    ("flag", "what"), [("out-truncated", "the output"), ("err-truncated", "the error output")]
)
def test_output_that_was_cut_is_never_taken_for_the_whole(
    agent: GuestAgent, server: FakeAgent, flag: str, what: str
) -> None:
    _executing(server, {"exited": True, "exitcode": 0, "out-data": _b64(b"half"), flag: True})
    with pytest.raises(MachineError, match=f"cut {what} of cat /proc/kcore"):
        agent.run(["cat", "/proc/kcore"], _soon())
    _executing(server, {"exited": True, "exitcode": 0, "out-data": _b64(b"all"), flag: False})
    assert agent.run(["cat", "/proc/kcore"], _soon()).stdout == b"all"


def test_a_command_killed_by_a_signal_has_a_negative_exit_code(agent: GuestAgent, server: FakeAgent) -> None:
    _executing(server, {"exited": True, "signal": 11})
    assert agent.run(["crash"], _soon()).returncode == -11


def test_a_command_that_outlives_its_deadline_is_named(agent: GuestAgent, server: FakeAgent) -> None:
    server.handlers["guest-exec"] = lambda _: {"pid": 41}
    server.handlers["guest-exec-status"] = lambda _: {"exited": False}
    with pytest.raises(DeadlineError, match=r"the restore took longer than 0\.1 s") as error:
        agent.run(["criu", "restore"], Deadline.after(0.1, "the restore"))
    assert "criu restore still running" in str(error.value) or "guest-exec-status" in str(error.value)


def test_a_late_answer_is_never_taken_for_the_next_one(agent: GuestAgent, server: FakeAgent) -> None:
    """After a hang the log and the evidence are read through the same agent."""
    release = threading.Event()

    def slow(_: Request) -> Request:
        release.wait(10)
        return {"exited": False}

    server.handlers["guest-exec-status"] = slow
    with pytest.raises(DeadlineError):
        agent.call("guest-exec-status", Deadline.after(0.02, "the call"), pid=41)
    release.set()
    server.handlers["guest-exec"] = lambda _: {"pid": 42}
    assert agent.call("guest-exec", _soon(), path="cat") == {"pid": 42}


@pytest.mark.parametrize("said", [b"", b'{"return": {"pi'])
def test_an_agent_that_vanishes_is_a_lost_machine(agent: GuestAgent, server: FakeAgent, said: bytes) -> None:
    def vanish(_: Request) -> None:
        raise VanishError(said)

    server.handlers["guest-exec"] = vanish
    with pytest.raises(MachineDiedError, match="killed by signal 9"):
        agent.run(["true"], _soon())


def test_what_is_no_json_is_an_error(agent: GuestAgent, server: FakeAgent) -> None:
    def babble(_: Request) -> None:
        raise VanishError(b"<html>\n")

    server.handlers["guest-ping"] = babble
    with pytest.raises(MachineError, match="no JSON: b'<html>'"):
        agent.call("guest-ping", _soon())


def _file(server: FakeAgent, *parts: bytes) -> None:
    left = list(parts)

    def read(arguments: Request) -> Request:
        part = left.pop(0)
        return {"count": len(part), "buf-b64": _b64(part), "eof": not left}

    server.handlers["guest-file-open"] = lambda _: 1000
    server.handlers["guest-file-read"] = read
    server.handlers["guest-file-close"] = lambda _: {}


def test_a_file_is_read_to_its_end_and_closed(agent: GuestAgent, server: FakeAgent) -> None:
    _file(server, b"one\xff", b"two", b"")
    assert agent.read_file("/run/x", _soon()) == b"one\xfftwo"
    assert server.commands() == ["guest-file-open"] + ["guest-file-read"] * 3 + ["guest-file-close"]
    assert server.requests[1]["arguments"] == {"path": "/run/x", "mode": "r"}


def test_a_file_that_grows_faster_than_it_is_read_has_an_end(agent: GuestAgent, server: FakeAgent) -> None:
    half = bytes(LONGEST_FILE // 2)
    _file(server, half, half, b"")
    assert agent.read_file("/run/x", _soon()) == 2 * half
    _file(server, half, half, b"x", *[half] * 9)
    with pytest.raises(LongFileError, match=f"/run/x is longer than {LONGEST_FILE} bytes"):
        agent.read_file("/run/x", _soon())
    assert server.commands()[-4:] == ["guest-file-read"] * 3 + ["guest-file-close"]


def test_a_file_is_closed_when_reading_it_fails(agent: GuestAgent, server: FakeAgent) -> None:
    def refuse(_: Request) -> None:
        raise RefusedError("Input/output error")

    _file(server)
    server.handlers["guest-file-read"] = refuse
    with pytest.raises(MachineError, match="Input/output error"):
        agent.read_file("/run/x", _soon())
    assert server.commands()[-1] == "guest-file-close"


def test_calls_from_several_threads_take_turns(agent: GuestAgent, server: FakeAgent) -> None:
    server.handlers["guest-echo"] = lambda arguments: arguments["word"]
    found: dict[int, object] = {}

    def ask(number: int) -> None:
        found[number] = [agent.call("guest-echo", _soon(), word=f"{number}-{turn}") for turn in range(20)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == {number: [f"{number}-{turn}" for turn in range(20)] for number in range(4)}


def test_closing_is_idempotent_and_connecting_again_works(agent: GuestAgent) -> None:
    agent.close()
    agent.close()
    agent.connect(_soon())
    assert agent.call("guest-ping", _soon()) == {}
