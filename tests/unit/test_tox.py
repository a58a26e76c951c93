"""tox.ini: what Ctrl-C leaves the commands time for, and that the documentation is built strictly."""

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


def test_the_documentation_is_built_with_warnings_as_errors() -> None:
    """With --quiet mkdocs does not count the warnings that it does not show."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(INI, encoding="utf-8")
    words = parser.get("testenv:docs", "commands").split()
    assert "--strict" in words
    assert not {"--quiet", "-q"} & set(words)
    assert "docs" in parser.get("tox", "env_list").replace(",", " ").split()
