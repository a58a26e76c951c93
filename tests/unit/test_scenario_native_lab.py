"""The host as a machine of the catalogue: what is observed, and which CRIU shows the bug there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.cpus import CPUS, PacAlgorithm
from harness.catalogue.kernels import KERNELS
from harness.catalogue.scenario import MachineSpec
from harness.core.errors import ExitCode, HostError, NoPacError
from harness.guest.probe_results import MachineFacts
from harness.provision.context import Provision
from harness.provision.settings import Settings
from harness.scenario import native_lab
from harness.scenario.native_lab import NativeLab, builds_that_show
from harness.scenario.observed_machine import host_seen
from harness.scenario.premises import is_cpu, is_kernel

SEVEN_BITS, THREE_BITS = 0x007F_0000_0000_0000, 0x0070_0000_0000_0000
NEOVERSE_V1, GRAVITON4 = 0x411FD401, 0x410FD4F1
FACTS = MachineFacts(
    insn_mask=SEVEN_BITS,
    data_mask=SEVEN_BITS,
    enabled_keys=0xF,
    hwcap=1 << 30,
    hwcap2=0,
    paca=True,
    pacg=True,
    apa=0,
    api=1,
    apa3=0,
    algorithm="impdef",
    fpac=False,
    midr=NEOVERSE_V1,
    page_size=4096,
    keys_readable=True,
    signed_lr=True,
    release="6.1.0-40-cloud-arm64",
)


def test_a_machine_is_what_its_facts_say() -> None:
    spec = host_seen(FACTS)
    assert (spec.cpu.name, spec.cpu.pac, spec.cpu.fpac) == ("neoverse-v1", True, False)
    assert (spec.cpu.algorithm, spec.va_bits) == (PacAlgorithm.IMPDEF, 48)
    assert spec.kernel.version == (6, 1)


@pytest.mark.parametrize(
    "facts",
    [
        FACTS,
        replace(FACTS, insn_mask=THREE_BITS, release="6.12.48+deb13-cloud-arm64", fpac=True, api=5),
        replace(FACTS, algorithm="qarma5", release="6.8.0-1021-azure", midr=GRAVITON4),
        replace(FACTS, algorithm="qarma3", release="7.2.1", midr=0x610F0000),
        replace(FACTS, midr=None),
    ],
)
def test_the_premises_hold_for_the_machine_they_were_made_of(facts: MachineFacts) -> None:
    spec = host_seen(facts)
    assert is_cpu(facts, spec)
    assert is_kernel(facts.release, spec.kernel)
    assert " " not in spec.cpu.name


def test_premises_of_one_host_do_not_hold_on_another() -> None:
    spec = host_seen(FACTS)
    changes: list[dict[str, Any]] = [{"fpac": True}, {"algorithm": "qarma5"}, {"insn_mask": THREE_BITS}]
    for change in changes:
        assert not is_cpu(replace(FACTS, **change), spec)
    assert not is_kernel("6.12.48", spec.kernel)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm": None}, r"CPU neoverse-v1 with kernel 6\.1.*does not show the ID registers"),
        ({"fpac": None}, "does not show the ID registers"),
        ({"algorithm": "none"}, "HWCAP_PACA is True and the algorithm none"),
        ({"signed_lr": False}, "HWCAP_PACA is True but signing changes a pointer: False"),
        ({"insn_mask": None}, "this host: the mask of codes is 0x0000000000000000"),
        ({"insn_mask": 0b101 << 48}, "this host: the mask of codes is 0x0005000000000000"),
        ({"release": "mine"}, "release 'mine' begins with no version"),
    ],
)
def test_a_host_that_does_not_show_how_it_signs_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(HostError, match=told):
        host_seen(replace(FACTS, **changes))


@pytest.mark.parametrize(
    ("cpu", "kernel", "build", "beside", "why"),
    [
        ("neoverse-v1", "6.1", "3.17.1", None, "before 6.11); without keys it ends in SIGSEGV"),
        ("neoverse-v1", "6.12", "4.2.1-nopac", "4.2.1", "a stand-in, not an upstream version"),
        ("neoverse-n2", "7.2", "4.2.1-nopac", "4.2.1", "ends in SIGILL: the core traps a failed"),
    ],
)
def test_the_pair_that_shows_the_bug_depends_on_kernel_and_core(
    cpu: str, kernel: str, build: str, beside: str | None, why: str
) -> None:
    chosen, other, said = builds_that_show(MachineSpec(cpu=CPUS[cpu], kernel=KERNELS[kernel]))
    assert (chosen.name, other and other.name) == (build, beside)
    assert why in said


@pytest.mark.parametrize(
    ("aarch64", "error", "why"),
    [
        (False, HostError, r"no aarch64 machine; emulate one: --machine qemu"),
        (True, NoPacError, r"no pointer authentication.*--machine qemu"),
    ],
)
def test_a_host_that_can_show_nothing_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[HostError], why: str, *, aarch64: bool
) -> None:
    monkeypatch.setattr(native_lab, "is_aarch64", lambda: aarch64)
    monkeypatch.setattr(native_lab, "shows_pac", lambda: False)
    settings = Settings(cache_root=tmp_path, offline=True, mirrors={}, snapshots={})
    with Provision(settings) as provision, pytest.raises(error, match=why):
        NativeLab(provision)
    assert NoPacError.exit_code == ExitCode.INVALID == 3
    assert not (tmp_path / "artifacts").exists()
