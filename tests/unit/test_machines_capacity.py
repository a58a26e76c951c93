"""How many machines are run at a time."""

import os

import pytest

from harness.machines.capacity import MACHINE_BYTES, fitting, machines_at_once


def meminfo(machines: float) -> str:
    available = int(machines * MACHINE_BYTES) // 1024
    return f"MemTotal:       99999999 kB\nMemFree:          100000 kB\nMemAvailable:   {available} kB\n"


@pytest.mark.parametrize(
    ("cores", "room", "machines"), [(2, 18, 2), (16, 6.5, 6), (16, 1.9, 1), (4, 0.3, 1), (1, 9, 1)]
)
def test_cores_and_memory_bound_the_machines(cores: int, room: float, machines: int) -> None:
    assert fitting(cores, meminfo(room)) == machines


def test_without_a_word_on_memory_the_cores_count() -> None:
    assert fitting(3, "MemTotal: 100 kB\n") == 3


def test_this_computer_carries_one_and_no_more_than_its_cores() -> None:
    assert 1 <= machines_at_once() <= len(os.sched_getaffinity(0))
