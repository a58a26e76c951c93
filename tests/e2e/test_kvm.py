"""The host's own CPU by KVM: asked inside emulated machines with a hypervisor mode, and so a /dev/kvm."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.catalogue.cpus import CPUS
from harness.catalogue.kernels import kernel
from harness.core.deadline import Deadline
from harness.core.process import CommandResult
from harness.guest.container import TOOLS
from harness.machines.protocol import check
from harness.machines.template import TemplateSpec, cold_boot
from harness.provision.bundle import bundle
from harness.provision.guest_image import GUEST_GROUP
from harness.scenario.lab import Lab
from support.arm_host import Installation, make_disk

INSTALLED = Installation(
    python=f"{TOOLS}/python", site=f"{TOOLS}/site", harness="/opt/host/harness", cache="/opt/host/cache"
)
MAKE_HOST = f"""
mkdir -p {INSTALLED.cache} /tmp/upper /tmp/work
mount -t overlay -o lowerdir={TOOLS}/cache,upperdir=/tmp/upper,workdir=/tmp/work cache {INSTALLED.cache}
tar -xz -C /opt/host
"""
# What `criu-pac repro --machine qemu` does before it boots anything.
CHOOSE = """
from harness.cli import backend, host
from harness.provision.context import Provision
with Provision.from_environment() as provision, backend.open_lab(provision, None) as lab:
    print(host.emulated_cpu(lab))
"""
Choose = Callable[..., CommandResult]


@pytest.fixture
def choose(lab: Lab, guest_python: Path, harness_archive: bytes, tmp_path: Path) -> Iterator[Choose]:
    """Return what boots an arm64 machine and gives what the harness in it says of its KVM."""
    tools = bundle("host-tools-arm64", lab.provision).root
    disk = make_disk(lab.provision, guest_python, [tools])
    machines = []

    def booted(cpu: str, *board: str, boot: str = "") -> CommandResult:
        files = replace(lab.files(kernel("6.12"), GUEST_GROUP, ()), tools=disk)
        program = (*lab.qemu.command, *board)
        spec = TemplateSpec(key="", program=program, cpu=CPUS[cpu].qemu, files=files, kernel_arguments=boot)
        machines.append(cold_boot(spec, tmp_path))
        soon = Deadline.after(60, "a host with QEMU")
        check(machines[-1], ["bash", "-ec", MAKE_HOST], soon, stdin=harness_archive)
        limit = Deadline.after(90, "the choice of a CPU")
        return machines[-1].run(INSTALLED.interpreter("-c", CHOOSE), limit)

    yield booted
    for machine in machines:
        machine.close()


@pytest.mark.parametrize(
    ("cpu", "boot", "chosen", "why"),
    [
        ("neoverse-v1", "", "host", "KVM gives its guests pointer authentication here"),
        ("neoverse-n1", "", "neoverse-v1", "KVM gives its guests no pointer authentication here"),
        # The CPU has it: only KVM can tell that its guests do not.
        ("neoverse-v1", "arm64.nopauth", "neoverse-v1", "KVM gives its guests no pointer authentication"),
    ],
)
def test_the_cpu_is_the_hosts_where_kvm_gives_it_pac(
    choose: Choose, cpu: str, boot: str, chosen: str, why: str
) -> None:
    said = choose(cpu, "-machine", "virtualization=on", boot=boot)
    assert said.text == f"{chosen}\n", said.error_text
    assert said.error_text.splitlines()[-1].startswith(f"note: --cpu {chosen}: {why}")


def test_without_kvm_everything_is_emulated(choose: Choose) -> None:
    said = choose("neoverse-v1")
    assert said.text == "neoverse-v1\n", said.error_text
    assert "QEMU cannot use it here: qemu-system-aarch64: -accel kvm: Could not access" in said.error_text
