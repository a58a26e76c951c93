"""A redis-server and its client: every key is written once and checked again and again.

The server is a child of the client, and the unix socket between them the only way to it, so that
both are dumped as one tree. Nothing is kept on disk.
"""

import os
import random
import signal
import socket
import sys
import time

KEYS = 4000
PART = 200  # keys read at once
DEPTH = 3  # of the calls that are slept in
SOCKET = "/tmp/redis-workload.sock"
SERVER = [
    *("/usr/bin/redis-server", "--port", "0", "--unixsocket", SOCKET, "--loglevel", "warning"),
    *("--save", "", "--appendonly", "no", "--dir", "/tmp"),
    # A fault has to end the server at once, where it happens, and not in the server's own report of it.
    *("--crash-log-enabled", "no"),
]


def started():
    """Start a server and return the connection to it."""
    # Not by the module subprocess: under emulation its import takes longer than the server's start.
    server = os.posix_spawn(SERVER[0], SERVER, os.environ)
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(SOCKET)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
        if os.waitpid(server, os.WNOHANG) != (0, 0):
            sys.exit("redis-server ended before it was ready")
        time.sleep(0.05)


class Redis:
    """The protocol of redis (RESP 2), as much of it as is used here."""

    def __init__(self, connection):
        self._connection = connection
        self._answers = connection.makefile("rb")

    def call(self, *words):
        """Send a command and return its answer: bytes, an int, a list of answers, or None."""
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
        self._connection.sendall(b"".join(parts))
        return self._answer()

    def _answer(self):
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            sys.exit("redis-server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._answers.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._answer() for _ in range(int(rest))]
        sys.exit(f"redis-server answered {line!r}")


def wrong(redis, part):
    """Return how many keys of a part are not there or have another value than they were given."""
    return sum(found != value for found, value in zip(redis.call(b"MGET", *part), part.values()))


def rest(level):
    """Sleep, so many calls from Python to C and back deep: each has signed return addresses to pass."""
    if level:
        any(map(rest, (level - 1,)))
    else:
        time.sleep(0.2)


def main():
    asked = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
    # The same in every run: a value that came back can be told from any other.
    chance = random.Random(2595)
    values = {b"key:%d" % number: chance.randbytes(chance.randrange(16, 513)) for number in range(KEYS)}
    pairs = list(values.items())
    parts = [dict(pairs[at : at + PART]) for at in range(0, KEYS, PART)]
    redis = Redis(started())
    for part in parts:
        redis.call(b"MSET", *[word for pair in part.items() for word in pair])
    print("READY", flush=True)
    bad = 0
    while True:
        for part in parts:
            rest(DEPTH)
            bad += wrong(redis, part)
            if asked:
                asked.clear()
                bad += sum(wrong(redis, part) for part in parts)
                held = redis.call(b"DBSIZE")
                right = not bad and held == KEYS
                print(f"PASS {KEYS} keys" if right else f"FAIL {bad} wrong, {held} of {KEYS} keys", flush=True)
            print("tick", flush=True)


main()
