"""tox.ini: what Ctrl-C leaves the commands time for."""

import configparser
from pathlib import Path

import pytest

INI = Path(__file__).parents[2] / "tox.ini"
# Seconds: ParallelArms waits up to 15 for an arm to end, and then there is evidence to write.
ENDING = 20.0


@pytest.mark.parametrize("name", ["interrupt_timeout", "terminate_timeout"])
def test_ctrl_c_gives_a_command_time_to_end_its_machines(name: str) -> None:
    """By default tox kills what has not ended half a second after its first signal."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(INI, encoding="utf-8")
    assert parser.getfloat("testenv", name) >= ENDING
