"""A CPU or a kernel that the catalogue does not know becomes what its machine shows, or an error."""

import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import pytest

from harness.catalogue.cpus import CPUS, CpuModel, PacAlgorithm, UnseenCpu, cpu_wanted
from harness.catalogue.kernels import KERNELS, user_kernel
from harness.catalogue.scenario import MachineSpec
from harness.core.errors import MachineError, NetworkError, UsageError
from harness.guest.probe_results import MachineFacts
from harness.scenario import observed_machine
from harness.scenario.lab import Lab
from harness.scenario.matrix import known_machine
from harness.scenario.observed_machine import machine_of, machine_seen
from harness.scenario.premises import is_cpu, is_kernel
from harness.scenario.qemu_program import QemuProgram, check_cpu

NEW = UnseenCpu(name="neoverse-n2,pmu=off")
MINE = user_kernel("6.12.1-mine", "/somewhere/linux", "abcdef0123456789")
NARROW, WIDE, SHORT = ((1 << 55) - (1 << bits) for bits in (48, 52, 39))
V1 = MachineFacts(
    hwcap=1 << 30, hwcap2=0, paca=True, pacg=True, apa=0, api=3, apa3=0, algorithm="impdef", fpac=False,
    midr=0, page_size=4096, insn_mask=NARROW, data_mask=NARROW, enabled_keys=15, keys_readable=True,
    signed_lr=True, release="6.12.1-mine",
)  # fmt: skip
NO_PAC = dataclasses.replace(
    V1, paca=False, pacg=False, api=0, algorithm="none", signed_lr=False, insn_mask=None, data_mask=None,
    enabled_keys=None, keys_readable=False,
)  # fmt: skip


def facts(**changes: Any) -> MachineFacts:
    return dataclasses.replace(V1, **changes)


def test_a_name_is_of_the_catalogue_or_for_qemu_to_know() -> None:
    assert cpu_wanted("max") is CPUS["max"]
    assert cpu_wanted("max,pauth=off,sve=off") == UnseenCpu(name="max,pauth=off,sve=off")
    for text in ("max,", "max,pauth", "a b", "", "max,sve=off,", "../max"):
        with pytest.raises(UsageError, match="unknown CPU"):
            cpu_wanted(text)


@pytest.mark.parametrize(
    ("seen", "pac", "fpac", "algorithm"),
    [
        (V1, True, False, PacAlgorithm.IMPDEF),
        (facts(fpac=True, algorithm="qarma3"), True, True, PacAlgorithm.QARMA3),
        (NO_PAC, False, False, None),
    ],
)
def test_a_cpu_is_what_it_was_seen_to_do(
    seen: MachineFacts,
    pac: bool,  # noqa: FBT001 -- a value of the table
    fpac: bool,  # noqa: FBT001
    algorithm: PacAlgorithm | None,
) -> None:
    made = machine_seen(NEW, KERNELS["6.1"], seen)
    assert (made.cpu.name, made.cpu.qemu) == (NEW.name, NEW.name)
    assert (made.cpu.pac, made.cpu.fpac, made.cpu.algorithm) == (pac, fpac, algorithm)
    assert made.kernel is KERNELS["6.1"]
    assert is_cpu(seen, made) is True, "its own machine fulfils the premise"
    assert is_cpu(facts(fpac=not fpac), made) is False, "and another does not"


@pytest.mark.parametrize(
    ("kernel", "mask", "bits", "lva"),
    [
        (KERNELS["6.12"], WIDE, 52, True),
        (KERNELS["6.12"], NARROW, 48, False),
        (KERNELS["6.1"], NARROW, 48, False),
        (MINE, WIDE, 52, True),
        (MINE, NARROW, 48, False),
        (MINE, SHORT, 39, False),
    ],
)
def test_the_size_of_addresses_is_read_from_the_codes(
    kernel: Any,
    mask: int,
    bits: int,
    lva: bool,  # noqa: FBT001 -- a value of the table
) -> None:
    made = machine_seen(NEW, kernel, facts(insn_mask=mask))
    assert (made.va_bits, made.cpu.lva) == (bits, lva)
    assert is_cpu(facts(insn_mask=mask), made) is True


def test_codes_of_other_bits_than_a_known_kernel_gives_are_an_error() -> None:
    with pytest.raises(MachineError, match="addresses have 52 bits, and 48 were expected"):
        machine_seen(NEW, KERNELS["6.1"], facts(insn_mask=WIDE))
    with pytest.raises(MachineError, match="addresses have 39 bits, and 48 were expected"):
        machine_seen(NEW, KERNELS["6.12"], facts(insn_mask=SHORT))


def test_a_kernel_of_the_user_changes_what_a_known_cpu_does() -> None:
    """As one built without CONFIG_ARM64_PTR_AUTH: the prediction then is that nothing is signed."""
    made = machine_seen(CPUS["neoverse-v1"], MINE, NO_PAC)
    assert made == MachineSpec(
        cpu=dataclasses.replace(CPUS["neoverse-v1"], pac=False, algorithm=None), kernel=MINE
    )
    same = machine_seen(CPUS["neoverse-v1"], MINE, V1)
    assert same == MachineSpec(cpu=CPUS["neoverse-v1"], kernel=MINE)


def test_a_user_kernel_is_told_by_its_whole_release() -> None:
    assert (MINE.version, MINE.spelled) == ((6, 12, 1), "/somewhere/linux")
    assert is_kernel("6.12.1-mine", MINE)
    assert not is_kernel("6.12.1-mine2", MINE)
    assert KERNELS["6.1"].version < (6, 11) <= MINE.version


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (facts(signed_lr=False), "HWCAP_PACA is True but signing changes a pointer: False"),
        (facts(algorithm=None, fpac=None), "does not show the ID registers"),
        (facts(algorithm="none"), "HWCAP_PACA is True and the algorithm none"),
        (facts(insn_mask=None), "the mask of codes is 0x0000000000000000"),
        (facts(insn_mask=0b101 << 48), "the mask of codes is 0x0005000000000000, not bits up to 54"),
    ],
)
def test_a_machine_that_does_not_show_how_it_signs_is_an_error(seen: MachineFacts, told: str) -> None:
    with pytest.raises(MachineError, match=told):
        machine_seen(NEW, KERNELS["6.1"], seen)


class FakeLab:
    """A lab whose machines show the same facts; it counts how often one was looked at."""

    def __init__(self, qemu: QemuProgram | None = None) -> None:
        self.looks = 0
        self._qemu = qemu

    @property
    def qemu(self) -> QemuProgram:
        if self._qemu is None:
            raise NetworkError("nothing answered")
        return self._qemu


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(lab: FakeLab, cpu: CpuModel | UnseenCpu, kernel: object) -> MachineFacts:
        lab.looks += 1
        return V1

    monkeypatch.setattr(observed_machine, "machine_facts", seen)


@pytest.fixture
def qemu(tmp_path: Path) -> QemuProgram:
    """A script that answers as QEMU 11.1 was seen to."""
    script = tmp_path / "qemu"
    script.write_text(
        """#!/bin/sh
cpu=; previous=
for word in "$@"; do [ "$previous" = -cpu ] && cpu=$word; previous=$word; done
case $cpu in
help) printf 'Available CPUs:\\n  cortex-a15\\n  cortex-m3\\n  neoverse-n2\\n' ;;
cortex-m3) echo 'qemu: Invalid CPU model: cortex-m3' >&2
    echo 'The valid models are: cortex-a15, neoverse-n2' >&2; exit 1 ;;
*foo=off) echo "qemu: can't apply global: Property 'foo' not found" >&2; exit 1 ;;
cortex-a15) cat > /dev/null; echo '{"error": {"desc": "Property not found"}}' ;;
*aarch64=off) cat > /dev/null; echo '{"return": false}' ;;
*) grep -q qom-get && echo '{"return": true}' ;;
esac
"""
    )
    script.chmod(0o755)
    return QemuProgram(command=(os.fspath(script),), version="11.1.3", key="fake")


def test_only_what_the_catalogue_does_not_know_is_looked_at(qemu: QemuProgram) -> None:
    fake = FakeLab(qemu)
    lab = cast("Lab", fake)
    known = machine_of(lab, CPUS["neoverse-v1"], KERNELS["6.1"])
    assert known == known_machine(CPUS["neoverse-v1"], KERNELS["6.1"])
    assert fake.looks == 0
    assert machine_of(lab, NEW, KERNELS["6.1"]).cpu.pac
    assert machine_of(lab, CPUS["neoverse-v1"], MINE).kernel == MINE
    assert fake.looks == 2
    for cpu, kernel in ((NEW, KERNELS["6.1"]), (CPUS["neoverse-v1"], MINE)):
        with pytest.raises(ValueError, match="has to be observed"):
            known_machine(cpu, kernel)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("neoverse-n3", "unknown CPU 'neoverse-n3'; did you mean neoverse-n2"),
        ("neoverse-v2,sve=off", "unknown CPU .* did you mean .*neoverse-v1"),  # of the catalogue
        ("cortex-m3", "Invalid CPU model: cortex-m3; there are cortex-a15, neoverse-n2"),
        ("neoverse-n2,foo=off", "QEMU refuses --cpu neoverse-n2,foo=off: .*'foo' not found"),
        ("cortex-a15", "cortex-a15 has 32 bits: no arm64 kernel runs on it"),
        ("neoverse-n2,aarch64=off", "has 32 bits"),
    ],
)
def test_what_qemu_does_not_know_is_refused_before_a_boot(qemu: QemuProgram, text: str, told: str) -> None:
    fake = FakeLab(qemu)
    with pytest.raises(UsageError, match=told):
        machine_of(cast("Lab", fake), UnseenCpu(name=text), KERNELS["6.1"])
    assert fake.looks == 0
    check_cpu(qemu, "neoverse-n2,pmu=off")


def test_without_qemu_a_slip_is_still_told_as_one() -> None:
    with pytest.raises(UsageError, match=r"unknown CPU 'neoverse-v3'; did you mean .*neoverse-v1.*answered"):
        machine_of(cast("Lab", FakeLab()), UnseenCpu(name="neoverse-v3"), KERNELS["6.1"])
