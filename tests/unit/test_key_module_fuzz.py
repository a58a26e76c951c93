"""The parsers of the key file against hostile bytes: C under sanitizers, Python under hypothesis."""

import contextlib
import hashlib
import random
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.core.deadline import Deadline
from harness.core.process import run
from harness.key_module.build import SOURCES
from harness.key_module.keyfile import KeyFile, KeyFileError, parse_key_file
from harness.provision.toolchain import SHARED_C

HERE = Path(__file__).parent
GOLDEN = (HERE.parent / "golden" / "pac-keys.img").read_bytes()
DIGEST = 32


def sealed(data: bytes) -> bytes:
    return data[:-DIGEST] + hashlib.sha256(data[:-DIGEST]).digest()


def mutated(chance: random.Random) -> bytes:
    """The golden file with a few bytes changed, cut or doubled; half of them with a good checksum."""
    data = bytearray(GOLDEN)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randint(1, 200)]
            case 2:
                data[at:at] = data[at : at + chance.randint(1, 200)]
            case _:
                start = chance.choice([20, 24, 32, 160, 192])
                data[start : start + 4] = chance.randbytes(4)
        data = data or bytearray(1)
    data[96:160] = data[96:160].replace(b"\n", b"?")  # the reader answers in lines
    return sealed(bytes(data)) if chance.random() < 0.5 and len(data) > DIGEST else bytes(data)


@pytest.fixture(scope="module")
def checked_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler with sanitizers on this host")
    output = tmp_path_factory.mktemp("sanitized") / "reader"
    sources = [
        HERE / "key_module_reader.c",
        *SOURCES.glob("keyfile_*.c"),
        SHARED_C / "sha256.c",
        SOURCES / "secret.c",
    ]
    words = [compiler, "-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = run(
        [*words, f"-I{SOURCES}", f"-I{SHARED_C}", *sources, "-o", output], Deadline.after(120, "the compiler")
    )
    if built.returncode:
        pytest.skip(f"this compiler has no sanitizers: {built.error_text.splitlines()[-1]}")
    return output


def read_all(reader: Path, cases: list[bytes]) -> list[str]:
    framed = b"".join(struct.pack("<I", len(case)) + case for case in cases)
    result = run([reader, "read"], Deadline.after(120, "the sanitized reader"), stdin=framed)
    assert result.returncode == 0, result.error_text[-2000:]
    assert "ERROR: AddressSanitizer" not in result.error_text
    return result.text.removesuffix("\n").split("\n")


def test_the_c_parser_is_clean_under_sanitizers(checked_reader: Path) -> None:
    chance = random.Random(2595)
    cases = [mutated(chance) for _ in range(20000)]
    lines = read_all(checked_reader, cases)
    assert len(lines) == len(cases)
    accepted = [line for line in lines if line.startswith("0 ")]
    assert len({line.split()[0] for line in lines}) >= 8, "the mutations reach the single rules"
    for case, line in zip(cases, lines, strict=True):
        try:
            parse_key_file(case)
        except KeyFileError:
            assert not line.startswith("0 ")
        else:
            assert line in accepted


def test_the_sanitizers_would_have_caught_something(tmp_path: Path) -> None:
    """A checker that cannot fail proves nothing: an overrun has to be seen."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this host")
    source = tmp_path / "bad.c"
    source.write_text("int main(int c, char **v) { char b[4]; (void)v; b[c + 3] = 1; return b[c + 3]; }\n")
    words = [compiler, "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    soon = Deadline.after(60, "the overrun")
    if run([*words, source, "-o", tmp_path / "bad"], soon).returncode:
        pytest.skip("this compiler has no sanitizers")
    assert run([tmp_path / "bad"], soon).returncode != 0


@given(st.binary(max_size=2000))
@example(GOLDEN)
def test_the_python_parser_gives_a_file_or_its_own_error(data: bytes) -> None:
    with contextlib.suppress(KeyFileError):  # any other exception fails the test
        assert isinstance(parse_key_file(data), KeyFile)


@given(
    st.lists(st.tuples(st.integers(0, len(GOLDEN) - DIGEST - 1), st.integers(0, 255)), max_size=6),
    st.booleans(),
)
def test_the_python_parser_behind_a_good_checksum(changes: list[tuple[int, int]], bound: bool) -> None:  # noqa: FBT001 -- given by hypothesis
    data = bytearray(GOLDEN)
    for at, value in changes:
        data[at] = value
    try:
        file = parse_key_file(sealed(bytes(data)), bound=bound)
    except KeyFileError:
        return
    assert len(file.threads) == 3
    assert all(one.enabled_keys is None or one.enabled_keys <= 0xF for one in file.threads)
