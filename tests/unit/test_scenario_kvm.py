"""The host as a CPU of machines: what KVM offers is asked of QEMU, here a script in its place."""

import os
import re
from pathlib import Path
from typing import cast

import pytest

from harness.catalogue.cpus import CPUS, DEFAULT_CPU, HOST_CPU, UnseenCpu
from harness.cli import host
from harness.core.errors import HostError
from harness.machines import native
from harness.scenario.lab import Lab
from harness.scenario.qemu_program import QemuProgram, check_cpu, kvm_has_pac

GREETING = '{"QMP": {"version": {}, "capabilities": []}}\n{"return": {}}'
MODEL = '{"return": {"model": {"name": "host", "props": {"pmu": true, "pauth": %s}}}}'
NO_KVM = "qemu: -accel kvm: Could not access KVM kernel module: No such file or directory"


class FakeLab:
    """A lab with a QEMU that says ``text`` and ends with ``code``."""

    def __init__(self, place: Path, text: str, code: int = 0) -> None:
        script, said = place / "qemu", place / "said"
        said.write_text(text)
        output = ">&2" if code else ""
        script.write_text(f'#!/bin/sh\necho "$@" > {place}/asked\ncat > {place}/questions\n')
        with script.open("a") as more:
            more.write(f"cat {said} {output}\nexit {code}\n")
        script.chmod(0o755)
        self.qemu = QemuProgram(command=(os.fspath(script),), version="11.1.3", key="fake")


def answers(pauth: str) -> str:
    return f"{GREETING}\n{MODEL % pauth}\n"


@pytest.mark.parametrize(("pauth", "offered"), [("true", True), ("false", False)])
def test_what_kvm_offers_is_what_qemu_expands(tmp_path: Path, pauth: str, offered: bool) -> None:  # noqa: FBT001
    lab = FakeLab(tmp_path, answers(pauth))
    assert kvm_has_pac(lab.qemu) is offered
    asked = (tmp_path / "asked").read_text()
    assert "gic-version=host" in asked
    assert "-accel kvm -cpu host" in asked
    assert '"query-cpu-model-expansion"' in (tmp_path / "questions").read_text()
    check_cpu(lab.qemu, HOST_CPU)  # without PAC it is a machine all the same


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [(NO_KVM, 1, "Could not access KVM kernel module"), (GREETING, 0, "no message"), ("", 1, "no message")],
)
def test_without_kvm_the_host_is_no_machine(tmp_path: Path, text: str, code: int, told: str) -> None:
    lab = FakeLab(tmp_path, f"{text}\n", code)
    with pytest.raises(
        HostError, match=f"--cpu host needs KVM for arm64, and QEMU cannot use it here: .*{told}"
    ):
        check_cpu(lab.qemu, "host,pmu=off")


@pytest.mark.parametrize(
    ("text", "code", "cpu", "told"),
    [
        (answers("true"), 0, HOST_CPU, "--cpu host: KVM gives its guests pointer authentication here"),
        (answers("false"), 0, DEFAULT_CPU.name, "--cpu neoverse-v1: KVM gives its guests no pointer auth"),
        (NO_KVM, 1, DEFAULT_CPU.name, "--cpu neoverse-v1: .*Could not access KVM"),
    ],
)
def test_an_arm64_host_emulates_only_what_kvm_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    text: str, code: int, cpu: str, told: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(native, "is_aarch64", lambda: True)
    assert host.emulated_cpu(cast("Lab", FakeLab(tmp_path, text, code))) == cpu
    assert re.search(told, capsys.readouterr().err)


def test_another_host_emulates_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "is_aarch64", lambda: False)
    assert host.emulated_cpu(cast("Lab", FakeLab(tmp_path, ""))) == DEFAULT_CPU.name
    assert not (tmp_path / "asked").exists()


def test_what_is_saved_of_the_hosts_cpu_is_for_this_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    program = QemuProgram(command=("qemu",), version="11.1.3", key="fake")
    mine, emulated = UnseenCpu(name=HOST_CPU), CPUS["neoverse-v1"]
    before = program.key_of(mine), program.key_of(emulated)
    assert program.key_of(mine) == before[0]
    other = os.uname_result(("Linux", "elsewhere", "9.9", "#1", "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: other)
    assert program.key_of(mine) != before[0]
    assert program.key_of(emulated) == before[1]
