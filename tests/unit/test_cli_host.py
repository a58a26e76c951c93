"""--machine: when it is this host."""

import pytest

from harness.cli.host import is_wanted
from harness.core.errors import HostError, UsageError
from harness.machines import native

NOTHING: dict[str, object] = {"--cpu": None, "--driver": False}


def host(
    monkeypatch: pytest.MonkeyPatch, *, aarch64: bool = True, pac: bool = True, root: bool = True
) -> None:
    def root_words() -> tuple[str, ...]:
        if not root:
            raise HostError("sudo gives none")
        return ()

    monkeypatch.setattr(native, "is_aarch64", lambda: aarch64)
    monkeypatch.setattr(native, "shows_pac", lambda: pac)
    monkeypatch.setattr(native, "root_words", root_words)


@pytest.mark.parametrize(
    ("machine", "emulated", "wanted"),
    [
        ("auto", NOTHING, True),
        ("auto", {"--cpu": "max"}, False),
        ("native", NOTHING, True),
        ("qemu", NOTHING, False),
    ],
)
def test_a_host_that_can_is_the_machine_unless_something_else_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, machine: str, emulated: dict[str, object], *, wanted: bool
) -> None:
    host(monkeypatch)
    assert is_wanted(machine, emulated) is wanted


@pytest.mark.parametrize(
    ("pac", "root", "why"),
    [(False, True, "its kernel and CPU offer no pointer authentication"), (True, False, "sudo gives none")],
)
def test_an_arm64_host_that_cannot_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str, *, pac: bool, root: bool
) -> None:
    host(monkeypatch, pac=pac, root=root)
    assert not is_wanted("auto", NOTHING)
    assert capsys.readouterr().err == f"note: an emulated machine is used, not this host: {why}\n"


def test_other_hosts_emulate_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host(monkeypatch, aarch64=False)
    assert not is_wanted("auto", NOTHING)
    assert capsys.readouterr().err == ""


def test_the_host_has_no_other_cpu() -> None:
    with pytest.raises(UsageError, match=r"--cpu: of an emulated machine only, and --machine is native"):
        is_wanted("native", {"--cpu": "max", "--driver": False})


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown machine 'natve'.*native"):
        is_wanted("natve", NOTHING)
