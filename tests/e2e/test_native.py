"""`--machine native`: the harness installed inside emulated arm64 machines, which are its host there."""

import contextlib
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from harness.guest.container import WORK
from harness.guest.engine import DockerEngine
from harness.machines.protocol import check
from support.arm_host import ON_HOST, Host
from support.native_runs import LONG, RESULTS, rows, soon, state

AWAY = "/var/tmp/away"


def killed_in_the_middle(host: Host) -> None:
    """Kill a run with SIGKILL once its container is there: it puts nothing back."""
    said = "/var/tmp/killed.log"
    words = ["repro", "--machine", "native", "--base", "debian-13", "--results", "/var/tmp/killed"]
    command = f"exec {shlex.join(ON_HOST.command(*words))}"
    started = check(host.machine, ["bash", "-c", f"({command}) > {said} 2>&1 & echo $!"], soon("a start"))
    pid = started.text.strip()

    def containers() -> list[Any] | None:
        # Not the directory of the process: one that ended may still have it. Looked at first: it may end.
        running = host.machine.run(["test", "-e", f"/proc/{pid}/exe"], soon("a look at the run"))
        if found := engine.client.containers.list():
            return list(found)
        if running.returncode != 0:
            output = host.machine.read_file(said, soon("what the run said")).decode()
            pytest.fail(f"the run ended and started no container:\n{output}")
        return None

    with contextlib.closing(DockerEngine(host.machine)) as engine:
        seen = soon("a container of the run", LONG).poll(containers, interval=0.2)
    assert str(seen[0].name).startswith("criu-pac-native-")
    check(host.machine, ["kill", "-9", pid], soon("SIGKILL"))


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_appears_and_disappears_on_a_host_where_a_run_was_killed(host: Host) -> None:
    before = state(host)
    killed_in_the_middle(host)
    left = state(host)
    assert all(left[name] != before[name] for name in before)
    assert f"|{WORK}/core-handler" in left["settings"]

    result = host.run(f"repro --machine native --base debian-13 --results {RESULTS}", LONG)
    assert result.returncode == 0, result.error_text
    stock, module = rows(host)
    assert (stock["criu_dump"], stock["cpu"], stock["kernel"]) == ("3.17.1", "neoverse-v1", "6.1")
    assert stock["qemu"] is None
    assert (stock["module"], stock["outcome"], stock["signal"]) == ("none", "signed_pc_fault", "SIGSEGV")
    assert (module["module"], module["outcome"], module["keys_equal"]) == ("plugin", "survived", True)
    assert state(host) == before


@pytest.mark.machine(kernel="6.12", cpu="neoverse-n2", criu=["4.2.1-nopac", "4.2.1"])
def test_a_host_with_fpac_and_a_new_kernel_is_chosen_and_gets_a_pair_that_shows_it(host: Host) -> None:
    before = state(host)
    result = host.run(f"repro --base debian-13 --results {RESULTS}", LONG)
    assert result.returncode == 0, result.error_text
    assert "3.17.1 cannot read the vDSO of this kernel (6.12, 6.11 or later)" in result.error_text
    stock, module, native = rows(host)
    assert (stock["criu_dump"], stock["cpu"], stock["kernel"]) == ("4.2.1-nopac", "neoverse-n2", "6.12")
    assert (stock["module"], stock["outcome"], stock["signal"]) == ("none", "fpac_fault", "SIGILL")
    assert (module["module"], module["outcome"], module["keys_equal"]) == ("plugin", "survived", True)
    assert (native["criu_dump"], native["outcome"], native["keys_equal"]) == ("4.2.1", "survived", True)
    assert state(host) == before


@pytest.mark.machine(kernel="6.1", cpu="neoverse-n1", criu=["3.17.1"])
def test_a_host_without_pac_proves_nothing(host: Host) -> None:
    result = host.run(f"repro --machine native --base debian-13 --results {RESULTS}", LONG)
    assert result.returncode == 3
    assert result.error_text.splitlines()[-1].startswith(
        "criu-pac: error: neither the bug nor its cure can be shown here: kernel and CPU of this host"
    )
    assert "--machine qemu" in result.error_text


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_a_checkpoint_goes_from_one_host_to_another(new_host: Callable[[], Host]) -> None:
    first, second = new_host(), new_host()
    dumped = first.run("dump --to /var/tmp/away --module plugin --workload c-frames", LONG)
    assert dumped.returncode == 0, dumped.error_text
    pack = ["bash", "-c", f"stat -c %a {AWAY}/*.* && exec tar -czf - --exclude evidence -C /var/tmp away"]
    modes, _, rest = check(first.machine, pack, soon("a copy")).stdout.partition(b"\n")
    more, _, archive = rest.partition(b"\n")
    assert (modes, more) == (b"600", b"600")

    unpack = ["bash", "-c", "mkdir -p /var/tmp && tar -xzf - -C /var/tmp"]
    check(second.machine, unpack, soon("a copy"), stdin=archive)
    before = state(second)
    restored = second.run(f"restore --from {AWAY} --results {RESULTS}", LONG)
    assert restored.returncode == 0, restored.error_text
    (row,) = rows(second)
    assert (row["outcome"], row["keys_equal"], row["criu_dump"]) == ("survived", True, "3.17.1")
    assert row["premises"]["source_pac"] == {"declared": True, "observed": True}
    assert row["ticks_after"] > row["ticks_before"] > 0
    assert state(second) == before
