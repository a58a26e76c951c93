"""What CRIU has prepared for a dump is undone when the key module fails it at its very end."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.catalogue.criu_builds import criu_build
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, OUTPUT, WORK, Container
from harness.guest.criu import Criu, CriuRun
from harness.guest.workload import RunningWorkload, load_workload
from harness.machines.protocol import check
from harness.provision.context import Provision
from harness.provision.toolchain import AARCH64_LINUX, compile_c
from harness.scenario.lab import Lab, MachineKind

TRAFFIC, HELD, PORT = f"{WORK}/traffic", f"{WORK}/held-file", "7777"
GROUP = "/sys/fs/cgroup/held"
WATCHED = dataclasses.replace(load_workload("c-frames"), argv=(TRAFFIC,))

pytestmark = pytest.mark.machine(kernel="6.1", criu=["3.17.1"])


def soon(what: str) -> Deadline:
    return Deadline.after(30, what)


@pytest.fixture(scope="module")
def program(provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("traffic") / "traffic"
    source = Path(__file__).parent / "traffic.c"
    cache = provision.cache.root / "zig"
    compile_c([source], output, target=AARCH64_LINUX, flags=["-O2", "-std=gnu11"], cache_root=cache)
    return output.read_bytes()


class Talk:
    """A client with an open connection and an unlinked file, and its server, in one container."""

    def __init__(self, container: Container, program: bytes) -> None:
        self.container = container
        put = ["bash", "-c", f"cat > {TRAFFIC} && chmod 755 {TRAFFIC}"]
        check(container.machine, put, soon("the program"), stdin=program)
        start = soon("start of client and server")
        container.probe.launch(f"{WORK}/server-output", [TRAFFIC, "server", PORT], start)
        client = f"sleep 1; exec {TRAFFIC} client {PORT} {HELD}"
        pid = container.probe.launch(OUTPUT, ["bash", "-c", client], start)
        self.client = RunningWorkload(container=container, workload=WATCHED, pid=pid)
        assert self.client.wait_progress(2, start).ticks >= 2

    def script(self, text: str) -> str:
        words = [*self.container.prefix, "bash", "-ec", text]
        return check(self.container.machine, words, soon("a test's script")).text

    def goes_on(self) -> bool:
        before = self.client.ticks(soon("ticks"))
        after = self.client.wait_progress(before + 3, Deadline.after(30, "three more ticks"))
        return after.ticks >= before + 3 and not after.exits


@pytest.fixture
def talk(lab: Lab, machine_kind: MachineKind, program: bytes) -> Iterator[Talk]:
    template = lab.template(machine_kind)
    machine = lab.clone(template)
    yield Talk(Container(machine, template.facts["container_pid"]), program)
    lab.release(machine)


def failing_dump(talk: Talk, *options: str) -> CriuRun:
    """A dump whose key file cannot be created, which shows when all images are written."""
    talk.script(f"mkdir -p {IMAGES}/pac-keys.img.tmp")
    criu = Criu(talk.container, criu_build("3.17.1"), KeyModule.PLUGIN, dump_options=options)
    call = criu.dump(talk.client.pid, Deadline.after(45, "dump"), cycle=1)
    assert call.returncode == 1
    assert "pac-key-module: error: cannot write pac-keys.img" in call.reason
    assert "inventory.img" not in talk.script(f"ls {IMAGES}").split()
    return call


def test_the_dump_would_have_succeeded(talk: Talk) -> None:
    """Without the sabotage: the failures below are the module's alone."""
    options = ("--tcp-established", "--network-lock", "nftables", "--link-remap", "--leave-running")
    criu = Criu(talk.container, criu_build("3.17.1"), KeyModule.PLUGIN, dump_options=options)
    call = criu.dump(talk.client.pid, Deadline.after(45, "dump"), cycle=1)
    assert call.returncode == 0, talk.script(f"grep -B3 Error {IMAGES}/dump-1.log")
    assert talk.goes_on()


def test_traffic_flows_and_no_link_is_left(talk: Talk) -> None:
    failing_dump(talk, "--tcp-established", "--network-lock", "nftables", "--link-remap")
    assert talk.goes_on(), "the connection is not locked any more"
    assert "link_remap" not in talk.script(f"ls -A {WORK}")


def test_a_frozen_cgroup_is_thawed(talk: Talk) -> None:
    talk.script(f"mkdir -p {GROUP} && echo {talk.client.pid} > {GROUP}/cgroup.procs")
    failing_dump(
        talk, "--tcp-established", "--network-lock", "nftables", "--link-remap", "--freeze-cgroup", GROUP
    )
    assert talk.goes_on()
    assert "frozen 0" in talk.script(f"cat {GROUP}/cgroup.events")
