"""The probe's rules for frames, built for this host and run on made-up memory."""

import json
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.core.deadline import Deadline
from harness.core.process import check

SOURCES = Path(__file__).parents[2] / "harness" / "guest" / "probe"

# Reads words of memory ("M address value"), executable ranges ("X start end") and stops
# ("S mask fp lr sp") from stdin. The first stop answers with its frames, each later one with
# the addresses of the signed frames of the first that are gone by then.
DRIVER = r"""
#include <stdio.h>
#include <string.h>
#include "frames.h"

static struct { uint64_t address, value; } words[20000];
static struct { uint64_t start, end; } ranges[8];
static size_t word_count, range_count;
static struct chain start, now;

static bool byte_at(uint64_t address, uint8_t *byte)
{
    static size_t i;

    /* From where the last search ended: chains are read in the order they were written. */
    for (size_t tries = 0; tries < word_count; tries++, i = (i + 1) % word_count)
        if (address - words[i].address < 8) {
            *byte = (uint8_t)(words[i].value >> 8 * (address - words[i].address));
            return true;
        }
    return false;
}

static bool read_bytes(void *context, uint64_t address, void *bytes, size_t size)
{
    (void)context;
    for (size_t i = 0; i < size; i++)
        if (!byte_at(address + i, (uint8_t *)bytes + i))
            return false;
    return true;
}

static bool executable(void *context, uint64_t address)
{
    (void)context;
    for (size_t i = 0; i < range_count; i++)
        if (address >= ranges[i].start && address < ranges[i].end)
            return true;
    return false;
}

int main(void)
{
    const struct memory memory = { read_bytes, executable, NULL };
    unsigned long a, b, c, d;
    bool first = true;
    char what;

    while (scanf(" %c %lx %lx", &what, &a, &b) == 3) {
        if (what == 'M') {
            size_t at = 0;

            while (at < word_count && words[at].address != a)
                at++;
            word_count += at == word_count;
            words[at].address = a;
            words[at].value = b;
        } else if (what == 'X') {
            ranges[range_count].start = a;
            ranges[range_count++].end = b;
        } else if (what == 'S' && scanf(" %lx %lx", &c, &d) == 2) {
            struct json json;

            chain_walk(first ? &start : &now, &memory, a, b, c, d);
            json_begin(&json);
            json_array(&json, NULL);
            for (size_t i = 0; i < start.count; i++)
                if (first && start.frames[i].is_return)
                    frame_write(&json, &start.frames[i]);
                else if (!first && start.frames[i].is_signed &&
                         frame_is_gone(&start.frames[i], &start, &now, d, &memory))
                    json_integer(&json, NULL, (int64_t)start.frames[i].address);
            json_end_array(&json);
            json_write(&json, stdout);
            first = false;
        }
    }
    return 0;
}
"""

MASK = 0x007F000000000000
CODE = 0x400000
BL, BLR, BLRAA, BLRAAZ, NOP, BR = 0x94000010, 0xD63F0100, 0xD73F0901, 0xD63F091F, 0xD503201F, 0xD61F0100
STACK = 0xFFFF00001000

Memory = dict[int, int]
Stop = tuple[int, int, int]
Probe = Callable[..., list[list[Any]]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    driver = directory / "driver.c"
    driver.write_text(DRIVER)
    sources = [driver, SOURCES / "frames.c", SOURCES / "json.c"]
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu"]
    flags = ["-O1", "-s", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", "-o"]
    check([*zig, *flags, directory / "driver", *sources], Deadline.after(120, "build of the driver"))
    return directory / "driver"


@pytest.fixture
def walk(program: Path) -> Probe:
    """Run stops (fp, lr, sp), each with what memory changed before it, and give the answers."""

    def run(*stops: tuple[Mapping[int, int], Stop], mask: int = MASK) -> list[list[Any]]:
        text = f"X {CODE:x} {CODE + 0x1000:x}\n"
        for memory, stop in stops:
            text += "".join(f"M {address:x} {value:x}\n" for address, value in memory.items())
            text += "S " + " ".join(f"{word:x}" for word in (mask, *stop)) + "\n"
        result = check([program], Deadline.after(10, "driver"), stdin=text.encode())
        return [json.loads(line) for line in result.text.splitlines()]

    return run


def call_at(offset: int, instruction: int) -> Memory:
    """One instruction, so that CODE + offset is what it returns to; offset is 4 above a word."""
    return {CODE + offset - 4: instruction}


def record(at: int, outer: int, lr: int) -> Memory:
    return {at: outer, at + 8: lr}


def signed(offset: int, pac: int = 0x55) -> int:
    return CODE + offset | pac << 48


def chain_of(*offsets: int) -> Memory:
    """Records 0x20 apart from STACK outwards, all signed, ending in a record without return address."""
    memory: Memory = {}
    for at, offset in enumerate(offsets):
        here = STACK + 0x20 * at
        memory |= record(here, here + 0x20, signed(offset, 0x10 + at % 64)) | call_at(offset, BL)
    return memory | record(STACK + 0x20 * len(offsets), 0, 0)


@pytest.mark.parametrize(
    ("instruction", "counts"),
    [(BL, True), (BLR, True), (BLRAA, True), (BLRAAZ, True), (NOP, False), (BR, False), (0x14000010, False)],
)
def test_a_return_address_follows_a_call(walk: Probe, instruction: int, counts: bool) -> None:  # noqa: FBT001
    memory = record(STACK, 0, signed(0x14)) | call_at(0x14, instruction)
    (frames,) = walk((memory, (STACK, 0, STACK)))
    assert bool(frames) is counts


def test_signed_and_plain_frames_are_told_apart(walk: Probe) -> None:
    memory = record(STACK, STACK + 32, signed(0x14)) | record(STACK + 32, 0, CODE + 0x24)
    memory |= call_at(0x14, BL) | call_at(0x24, BL)
    (frames,) = walk((memory, (STACK, 0, STACK)))
    assert frames == [
        {
            "address": f"0x{STACK:016x}",
            "lr": f"0x{signed(0x14):016x}",
            "stripped": f"0x{CODE + 0x14:016x}",
            "signed": True,
        },
        {
            "address": f"0x{STACK + 32:016x}",
            "lr": f"0x{CODE + 0x24:016x}",
            "stripped": f"0x{CODE + 0x24:016x}",
            "signed": False,
        },
    ]


@pytest.mark.parametrize("lr", [0x900014, 0x55 << 48 | 0x900014, signed(0x14, 0x80), signed(0x16), 0])
def test_what_is_no_return_address_is_no_frame(walk: Probe, lr: int) -> None:
    # Elsewhere, elsewhere and signed, dirty above the mask, not on an instruction, nothing.
    memory = record(STACK, 0, lr) | call_at(0x14, BL) | {0x900010: BL}
    assert walk((memory, (STACK, 0, STACK))) == [[]]


def test_without_a_mask_nothing_is_signed(walk: Probe) -> None:
    memory = record(STACK, 0, signed(0x14)) | call_at(0x14, BL)
    assert walk((memory, (STACK, 0, STACK)), mask=0) == [[]]


def test_a_signed_link_register_not_yet_saved_is_a_frame(walk: Probe) -> None:
    memory = chain_of(0x14) | call_at(0x24, BLR)
    (frames,) = walk((memory, (STACK, signed(0x24), STACK - 64)))
    assert [frame["address"] for frame in frames] == [f"0x{STACK - 64:016x}", f"0x{STACK:016x}"]


@pytest.mark.parametrize("lr", [signed(0x14, 0x10), CODE + 0x14, 0])
def test_a_copy_or_a_leftover_in_the_link_register_is_no_frame(walk: Probe, lr: int) -> None:
    (frames,) = walk((chain_of(0x14), (STACK, lr, STACK - 64)))
    assert len(frames) == 1


@pytest.mark.parametrize("outer", [STACK, STACK - 32, STACK + 33, STACK + 0x100000])
def test_a_broken_chain_ends_the_walk(walk: Probe, outer: int) -> None:
    memory = record(STACK, outer, signed(0x14)) | call_at(0x14, BL)
    (frames,) = walk((memory, (STACK, 0, STACK)))
    assert len(frames) == 1


def test_the_walk_is_bounded(walk: Probe) -> None:
    memory = chain_of(*[0x14] * 4200)
    (frames,) = walk((memory, (STACK, 0, STACK)))
    assert len(frames) == 4096


def test_frames_below_the_stack_pointer_are_gone(walk: Probe) -> None:
    first = (chain_of(0x14, 0x24, 0x34), (STACK, 0, STACK - 16))
    assert walk(first, ({}, (STACK + 0x40, 0, STACK + 0x40)))[1] == [STACK, STACK + 0x20]


def test_an_overwritten_record_is_gone(walk: Probe) -> None:
    first = (chain_of(0x14, 0x24, 0x34), (STACK, 0, STACK - 16))
    other_call = {STACK + 8: signed(0x24, 0x77)}
    assert walk(first, (other_call, (STACK, 0, STACK - 16)))[1] == [STACK]


def test_a_record_the_chain_passes_over_is_gone(walk: Probe) -> None:
    # Another call from the same place, with a larger frame: the old record is stale, but still there.
    first = (chain_of(0x14, 0x24, 0x34), (STACK, 0, STACK - 16))
    deeper = record(STACK - 0x40, STACK + 0x20, signed(0x24, 0x77))
    assert walk(first, (deeper, (STACK - 0x40, 0, STACK - 0x40)))[1] == [STACK]


def test_frames_entered_again_alike_are_not_counted(walk: Probe) -> None:
    first = (chain_of(0x14, 0x24), (STACK, 0, STACK - 16))
    assert walk(first, ({}, (STACK, 0, STACK - 16)))[1] == []


def test_a_chain_that_breaks_off_early_proves_nothing(walk: Probe) -> None:
    first = (chain_of(0x14, 0x24), (STACK, 0, STACK - 16))
    assert walk(first, ({}, (0, 0, STACK - 256)), ({}, (STACK - 512, 0, STACK - 512)))[1:] == [[], []]
