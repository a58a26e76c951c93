"""The probe's reseed against a kernel that is played: no privilege is needed, no clock is set."""

import json
import platform
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import MachineError
from harness.core.process import CommandResult, check, run
from harness.guest.probe_results import Reseed, parse
from harness.provision.toolchain import SHARED_C

SOURCES = Path(__file__).parents[2] / "harness" / "guest" / "probe"
# They read arm64 registers; everything else compiles anywhere.
ARM64_ONLY = {"cmd_fresh", "cmd_keys", "cmd_machine", "cmd_threads", "cmd_watch", "regsets"}
# Linked into the program, these come before libc's. Each says on stderr what the kernel was asked
# for; the one that the environment variable REFUSED names is not permitted.
KERNEL = r"""
#include <errno.h>
#include <linux/random.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int answer(const char *name)
{
    const char *refused = getenv("REFUSED");

    if (!refused || strcmp(refused, name))
        return 0;
    errno = EPERM;
    return -1;
}

int ioctl(int file, unsigned long request, ...)
{
    va_list arguments;
    const struct rand_pool_info *pool;

    (void)file;
    if (request == RNDRESEEDCRNG) {
        fprintf(stderr, "reseed\n");
        return answer("reseed");
    }
    va_start(arguments, request);
    pool = va_arg(arguments, const struct rand_pool_info *);
    va_end(arguments);
    fprintf(stderr, "entropy %d %d ", pool->entropy_count, pool->buf_size);
    for (int i = 0; i < pool->buf_size; i++)
        fprintf(stderr, "%02x", ((const uint8_t *)pool->buf)[i]);
    fprintf(stderr, "\n");
    return answer("entropy");
}

int clock_settime(clockid_t clock, const struct timespec *time)
{
    fprintf(stderr, "clock %d %lld.%09ld\n", (int)clock, (long long)time->tv_sec, time->tv_nsec);
    return answer("clock");
}
"""
NOW = "1763924499123456"  # microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    program: Path
    salt: Path

    def reseed(self, *arguments: str, stdin: bytes = b"", refused: str = "") -> CommandResult:
        return run(
            [self.program, "reseed", *arguments],
            Deadline.after(10, "pacprobe"),
            stdin=stdin,
            env={"REFUSED": refused},
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reseed")
    (directory / "kernel.c").write_text(KERNEL)
    sources = [source for source in sorted(SOURCES.glob("*.c")) if source.stem not in ARM64_ONLY]
    sources.append(SHARED_C / "sha256.c")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu"]
    flags = ["-O1", "-s", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{SHARED_C}", "-o"]
    built = directory / "pacprobe"
    check([*zig, *flags, built, *sources, directory / "kernel.c"], Deadline.after(120, "build of pacprobe"))
    return built


@pytest.fixture
def probe(program: Path, tmp_path: Path) -> Probe:
    return Probe(program=program, salt=tmp_path / "salt")


def test_entropy_comes_from_stdin_and_is_credited_in_full(probe: Probe) -> None:
    entropy = bytes(range(64))
    result = probe.reseed(stdin=entropy)
    assert parse(Reseed, "reseed", result.text).bytes == 64
    assert result.error_text.splitlines() == [f"entropy 512 64 {entropy.hex()}", "reseed"]


def test_the_clock_is_set_to_the_microsecond_and_after_the_reseed(probe: Probe) -> None:
    result = probe.reseed("--time", NOW, "--hex", "00ff")
    assert parse(Reseed, "reseed", result.text).bytes == 2
    assert result.error_text.splitlines() == ["entropy 16 2 00ff", "reseed", "clock 0 1763924499.123456000"]


def test_a_new_salt_is_32_bytes_for_its_owner_only(probe: Probe) -> None:
    assert probe.reseed("--new-salt", str(probe.salt), stdin=b"x").returncode == 0
    first = probe.salt.read_bytes()
    assert len(first) == 32
    assert stat.S_IMODE(probe.salt.stat().st_mode) == 0o600
    probe.reseed("--new-salt", str(probe.salt), stdin=b"x")
    second = probe.salt.read_bytes()
    assert len(second) == 32
    assert first != second


def test_a_salt_replaces_a_longer_file(probe: Probe) -> None:
    probe.salt.write_bytes(bytes(100))
    probe.reseed("--new-salt", str(probe.salt), stdin=b"x")
    assert len(probe.salt.read_bytes()) == 32


def test_neither_salt_nor_entropy_is_said(probe: Probe) -> None:
    entropy = bytes(range(0x80, 0xC0))
    result = probe.reseed("--new-salt", str(probe.salt), stdin=entropy)
    assert json.loads(result.text) == {"bytes": 64}
    assert probe.salt.read_bytes().hex() not in result.error_text


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        ("entropy", r"ioctl\(RNDADDENTROPY\)"),
        ("reseed", r"ioctl\(RNDRESEEDCRNG\)"),
        ("clock", "clock_settime"),
    ],
)
def test_what_the_kernel_refuses_is_told_and_no_salt_is_made(probe: Probe, refused: str, why: str) -> None:
    """A salt would let a clone go on with the random state of its sibling."""
    words = ("--time", NOW, "--new-salt", str(probe.salt))
    result = probe.reseed(*words, stdin=b"x", refused=refused)
    assert result.returncode == 1
    with pytest.raises(MachineError, match=rf"reseed failed: {why}.*\(errno 1\)"):
        parse(Reseed, "reseed", result.text)
    assert not probe.salt.exists()


def test_a_salt_that_cannot_be_written_is_told(probe: Probe) -> None:
    missing = probe.salt.parent / "missing" / "salt"
    result = probe.reseed("--new-salt", str(missing), stdin=b"x")
    assert result.returncode == 1
    assert f"salt in {missing}" in json.loads(result.text)["error"]


@pytest.mark.parametrize("time", ["noon", "0", "-5", ""])
def test_a_time_that_is_none_changes_nothing(probe: Probe, time: str) -> None:
    result = probe.reseed("--time", time, "--new-salt", str(probe.salt), stdin=b"x")
    assert result.returncode == 1
    assert json.loads(result.text)["error"] == f"--time is not a number of microseconds: {time}"
    assert result.error_text == ""
    assert not probe.salt.exists()


def test_without_entropy_the_clock_and_the_salt_are_left_alone(probe: Probe) -> None:
    result = probe.reseed("--time", NOW, "--new-salt", str(probe.salt))
    assert "no entropy" in json.loads(result.text)["error"]
    assert result.error_text == ""
    assert not probe.salt.exists()
