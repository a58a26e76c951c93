"""The key file format: one golden file, two readers that have to agree about every byte of it."""

import hashlib
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import StorageError
from harness.core.process import check, run
from harness.key_module.build import SOURCES
from harness.key_module.keyfile import (
    KeyFile,
    KeyFileError,
    Problem,
    foreign_images,
    parse_key_file,
    read_key_file,
)
from harness.provision.toolchain import SHARED_C, compile_c

HERE = Path(__file__).parent
GOLDEN = (HERE.parent / "golden" / "pac-keys.img").read_bytes()
HEADER, RECORD, DIGEST = 192, 160, 32
SALT = b"a test's salt"
# The order of enum keyfile_status in keyfile.h; its first value says that all is well.
STATUSES = [None, *Problem]

Reader = Callable[[Iterable[bytes]], list[str]]


def deadline() -> Deadline:
    return Deadline.after(120, "a C program of the unit tests")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C parser, compiled for this host."""
    directory = tmp_path_factory.mktemp("reader")
    output = directory / "reader"
    sources = [
        HERE / "key_module_reader.c",
        *SOURCES.glob("keyfile_*.c"),
        SHARED_C / "sha256.c",
        SOURCES / "secret.c",
    ]
    flags = ["-std=gnu11", "-O1", f"-I{SOURCES}", f"-I{SHARED_C}"]
    if compiler := shutil.which("cc"):
        check(
            [compiler, *flags, "-Wall", "-Wextra", "-Werror", *map(str, sources), "-o", str(output)],
            deadline(),
        )
        return output
    return compile_c(sources, output, target="native", flags=flags, cache_root=directory / "zig")


@pytest.fixture(scope="module")
def c_reader(program: Path) -> Reader:
    def read(cases: Iterable[bytes]) -> list[str]:
        framed = b"".join(struct.pack("<I", len(case)) + case for case in cases)
        return check([program, "read"], deadline(), stdin=framed).text.splitlines()

    return read


def sealed(data: bytes) -> bytes:
    """Return the file with a checksum that fits, so that the checks behind it are reached."""
    return data[:-DIGEST] + hashlib.sha256(data[:-DIGEST]).digest()


def patched(offset: int, value: bytes) -> bytes:
    return sealed(GOLDEN[:offset] + value + GOLDEN[offset + len(value) :])


def python_line(data: bytes) -> str:
    """Say what the Python parser makes of a file in the words of the C program."""
    try:
        file = parse_key_file(data)
    except KeyFileError as error:
        return str(STATUSES.index(error.problem))
    flags = 1 * file.address_auth | 2 * file.generic_auth | 4
    numbers = (flags, file.data_mask, file.insn_mask, file.midr, file.address_probe, file.generic_probe)
    words = ["0", *map(str, numbers), file.kernel_release]
    for thread in file.threads:
        bits = (
            1 * thread.has_address_keys | 2 * thread.has_generic_key | 4 * (thread.enabled_keys is not None)
        )
        address = thread._keys[:64] if thread.has_address_keys else bytes(64)
        generic = thread._keys[-16:] if thread.has_generic_key else bytes(16)
        digest = hashlib.sha256(address + generic).hexdigest()
        words.append(
            f"{thread.tid}:{thread.tgid}:{bits}:{thread.enabled_keys or 0}:{thread.core_sha256}:{digest}"
        )
    return " ".join(words)


def test_c_writes_the_golden_file(program: Path) -> None:
    assert check([program, "write"], deadline()).stdout == GOLDEN


def test_the_golden_file_says_what_was_put_in() -> None:
    file = parse_key_file(GOLDEN)
    assert (file.address_auth, file.generic_auth) == (True, True)
    assert file.insn_mask == file.data_mask == 0x007F_0000_0000_0000
    assert file.kernel_release == "6.1.0-test-arm64"
    assert (file.midr, file.address_probe) == (0x411FD402, 0x0012_3456_7812_3456)
    assert file.generic_probe == 0x9ABC_DEF0_0000_0000
    assert [(one.tid, one.tgid, one.enabled_keys) for one in file.threads] == [
        (1, 1, 15),
        (17, 1, 13),
        (40, 40, None),
    ]
    assert {tgid: [one.tid for one in threads] for tgid, threads in file.tasks.items()} == {
        1: [1, 17],
        40: [40],
    }


def test_both_readers_agree_about_the_golden_file(c_reader: Reader) -> None:
    assert c_reader([GOLDEN]) == [python_line(GOLDEN)]
    assert python_line(GOLDEN).startswith("0 7 ")


def test_every_truncation_is_refused_by_both(c_reader: Reader) -> None:
    cases = [GOLDEN[:size] for size in range(len(GOLDEN))]
    lines = c_reader(cases)
    assert set(lines) == {str(STATUSES.index(Problem.TRUNCATED))}
    assert [python_line(case) for case in cases] == lines


def test_every_changed_byte_is_refused_by_both(c_reader: Reader) -> None:
    cases = [GOLDEN[:at] + bytes([GOLDEN[at] ^ 1 << at % 8]) + GOLDEN[at + 1 :] for at in range(len(GOLDEN))]
    lines = c_reader(cases)
    assert "0" not in {line.split()[0] for line in lines}
    assert [python_line(case) for case in cases] == lines


def test_both_readers_agree_about_mutations_with_a_good_checksum(c_reader: Reader) -> None:
    chance = random.Random(2595)
    cases = []
    for _ in range(2000):
        data = bytearray(GOLDEN)
        for _ in range(chance.randint(1, 3)):
            # Mostly the fields with rules: the header and the first 32 bytes of a record.
            start = chance.choice([0, HEADER, HEADER + RECORD, HEADER + 2 * RECORD])
            at = start + chance.randrange(HEADER if not start else 48)
            data[at] = chance.choice([0, 1, 2, 3, 4, 7, 15, 16, 0x80, 0xFF])
        cases.append(sealed(bytes(data[: chance.choice([len(data)] * 9 + [len(data) - RECORD])])))
    lines = c_reader(cases)
    assert [python_line(case) for case in cases] == lines
    assert len({line.split()[0] for line in lines}) >= 6  # the mutations reach the single rules


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", Problem.TRUNCATED),
        (b"\0" * 8, Problem.BAD_MAGIC),
        (patched(8, b"\x01"), Problem.BAD_VERSION),
        (patched(8, b"\x03"), Problem.BAD_VERSION),
        (patched(8, b"\x03")[:12], Problem.BAD_VERSION),
        (patched(12, b"\xc1"), Problem.BAD_LAYOUT),
        (patched(16, b"\xa1"), Problem.BAD_LAYOUT),
        (patched(20, bytes(4)), Problem.BAD_LAYOUT),
        (patched(20, b"\xff\xff\xff\xff"), Problem.BAD_LAYOUT),
        (patched(20, b"\x04"), Problem.TRUNCATED),
        (GOLDEN + b"\0", Problem.TRAILING_BYTES),
        (GOLDEN[:-1] + bytes([GOLDEN[-1] ^ 1]), Problem.BAD_CHECKSUM),
        (patched(24, b"\x0f"), Problem.BAD_HEADER),
        (patched(24, b"\x06"), Problem.BAD_HEADER),  # masks without PAC
        (patched(28, b"\x01"), Problem.BAD_HEADER),
        (patched(32, bytes(8)), Problem.BAD_HEADER),
        (patched(159, b"x"), Problem.BAD_HEADER),
        (patched(191, b"x"), Problem.BAD_HEADER),
        (patched(24, b"\x03"), Problem.UNBOUND),
        (patched(24, b"\x05"), Problem.BAD_HEADER),  # a generic probe on a machine without
        (patched(160, bytes(8)), Problem.BAD_HEADER),  # no address probe on a machine with PAC
        (patched(56, b"\x01"), Problem.BAD_HEADER),
        (patched(HEADER, b"\x11"), Problem.BAD_RECORD),  # two threads with one id
        (patched(HEADER, b"\0"), Problem.BAD_RECORD),
        (patched(HEADER + 4, b"\0"), Problem.BAD_RECORD),
        (patched(HEADER + 8, b"\x0f"), Problem.BAD_RECORD),
        (patched(HEADER + 8, b"\x06"), Problem.BAD_RECORD),
        (patched(HEADER + 8, b"\x03"), Problem.BAD_RECORD),  # a mask that was not read
        (patched(HEADER + 16, b"\x10"), Problem.BAD_RECORD),
        (patched(HEADER + 24, b"\x01"), Problem.BAD_RECORD),
        (patched(HEADER + 112, b"\x01"), Problem.BAD_RECORD),
    ],
)
def test_each_rule_has_its_problem_in_both(c_reader: Reader, data: bytes, problem: Problem) -> None:
    with pytest.raises(KeyFileError, match=re.escape(problem.value)) as caught:
        parse_key_file(data)
    assert caught.value.problem is problem
    assert c_reader([data]) == [str(STATUSES.index(problem))]


def test_a_file_of_a_machine_without_pac_has_threads_without_keys(c_reader: Reader) -> None:
    data = bytearray(GOLDEN[: HEADER + RECORD] + bytes(DIGEST))
    data[20], data[24] = 1, 4
    data[32:48] = data[160:176] = bytes(16)
    data[HEADER + 8 : HEADER + 128] = bytes(120)
    whole = sealed(bytes(data))
    file = parse_key_file(whole)
    assert not file.address_auth
    assert [(one.fingerprint(SALT), one.enabled_keys) for one in file.threads] == [(None, None)]
    assert dict(file.threads[0].key_fingerprints(SALT)) == {}
    assert c_reader([whole]) == [python_line(whole)]


def test_no_key_is_in_any_text_about_the_file() -> None:
    file = parse_key_file(GOLDEN)
    keys = [thread._keys for thread in file.threads]
    text = repr(file) + str(file) + repr(file.tasks) + repr([one.fingerprint(SALT) for one in file.threads])
    text += repr([dict(one.key_fingerprints(SALT)) for one in file.threads])
    for key in keys:
        for part in (key[at : at + 16] for at in range(0, 80, 16)):
            assert part.hex() not in text
            assert part[::-1].hex() not in text
            assert repr(part)[2:-1] not in text


def test_fingerprints_tell_keys_apart_and_depend_on_the_salt() -> None:
    first, second, _ = parse_key_file(GOLDEN).threads
    assert first.fingerprint(SALT) == first.fingerprint(SALT) != second.fingerprint(SALT)
    assert first.fingerprint(SALT) != first.fingerprint(b"another")
    assert list(first.key_fingerprints(SALT)) == ["IA", "IB", "DA", "DB", "GA"]
    assert len(set(first.key_fingerprints(SALT).values())) == 5


def bound_to(directory: Path) -> KeyFile:
    data = bytearray(GOLDEN)
    for name, at in {"pstree": 64, "core-1": 320, "core-17": 480, "core-40": 640}.items():
        (directory / f"{name}.img").write_bytes(name.encode())
        data[at : at + 32] = hashlib.sha256(name.encode()).digest()
    (directory / "pac-keys.img").write_bytes(sealed(bytes(data)))
    return read_key_file(directory)


def test_foreign_and_missing_images_are_named(tmp_path: Path) -> None:
    file = bound_to(tmp_path)
    assert foreign_images(file, tmp_path) == []
    (tmp_path / "core-17.img").write_bytes(b"of another dump")
    (tmp_path / "pstree.img").unlink()
    assert foreign_images(file, tmp_path) == ["pstree.img", "core-17.img"]


def test_a_missing_file_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"pac-keys\.img: No such file"):
        read_key_file(tmp_path)


def test_c_digests_are_those_of_hashlib() -> None:
    # The golden file's trailer comes from sha256.c: 672 bytes, not a multiple of a block.
    assert GOLDEN[-DIGEST:] == hashlib.sha256(GOLDEN[:-DIGEST]).digest()


def test_c_sorts_and_finds_many_threads_and_refuses_a_doubled_one(program: Path, c_reader: Reader) -> None:
    many = check([program, "many", "0"], deadline()).stdout
    tids = [thread.tid for thread in parse_key_file(many).threads]
    assert tids == sorted({i * 7919 % 100003 + 1 for i in range(1000)})
    assert c_reader([many]) == [python_line(many)]
    doubled = run([program, "many", "1"], deadline())
    assert doubled.returncode == 1 + STATUSES.index(Problem.BAD_RECORD)
