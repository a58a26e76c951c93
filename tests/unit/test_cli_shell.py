"""criu-pac shell with a lab that starts nothing."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from harness import cli
from harness.cli import backend


class FakeLab:
    """A lab that gives a machine whose console notes that it was used."""

    def __init__(self) -> None:
        self.cloned: list[tuple[str, str, str, str]] = []
        self.interactions = 0
        self.closed = False

    def clone_for_shell(
        self, cpu: SimpleNamespace, kernel: SimpleNamespace, base: str, build: SimpleNamespace
    ) -> SimpleNamespace:
        self.cloned.append((cpu.name, kernel.name, base, build.name))
        return SimpleNamespace(console=SimpleNamespace(interact=self._interact))

    def _interact(self) -> None:
        assert not self.closed
        self.interactions += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    fake = FakeLab()
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(backend, "open_lab", lambda _provision, _qemu: fake)
    monkeypatch.setattr(backend, "choose_base", lambda name, _provision: (f"prepared {name}", "why"))
    return fake


def test_a_shell_is_a_fresh_clone_and_its_console(
    lab: FakeLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["shell", "--cpu", "max", "--base", "debian-13"]) == 0
    assert lab.cloned == [("max", "6.1", "prepared debian-13", "3.17.1")]
    assert lab.interactions == 1
    assert lab.closed
    assert "Ctrl-] leaves" in capsys.readouterr().err


def test_without_a_terminal_nothing_is_started(lab: FakeLab) -> None:
    assert cli.main(["shell"]) == 64
    assert lab.cloned == []
