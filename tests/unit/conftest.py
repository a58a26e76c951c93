"""The plugin in a fake CRIU, for the tests of the key module."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.key_module.fake_criu import NO_PERMISSION, FakeCriu, compile_fake

Compile = Callable[[int], Path]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Return a function that gives the fake CRIU with so many hooks, compiled once."""
    directory = tmp_path_factory.mktemp("fake-criu")
    programs: dict[int, Path] = {}

    def build(hooks: int) -> Path:
        if hooks not in programs:
            programs[hooks] = compile_fake(hooks, directory)
            if FakeCriu(program=programs[hooks], images=directory)("try").returncode == NO_PERMISSION:
                pytest.skip("ptrace of a child is not permitted here")
        return programs[hooks]

    return build


@pytest.fixture(scope="module", params=[10, 12, 13])
def program(compiled: Compile, request: pytest.FixtureRequest) -> Path:
    """3.17 to 3.19, 4.0, 4.2 by their numbers of hooks."""
    return compiled(request.param)


@pytest.fixture
def criu(program: Path, tmp_path: Path) -> FakeCriu:
    """Each of them in turn."""
    images = tmp_path / "images"
    images.mkdir()
    return FakeCriu(program=program, images=images)


@pytest.fixture
def new_criu(compiled: Compile, tmp_path: Path) -> FakeCriu:
    """One with a checkpoint hook."""
    return FakeCriu(program=compiled(13), images=tmp_path)


@pytest.fixture
def dumped(criu: FakeCriu) -> FakeCriu:
    """Each of them, with good images."""
    assert criu("cycle", FAKE_PAC="1").returncode == 0
    return criu
