"""`--machine native`: a matrix on the host, what CRIU 4.2.1 loses there, and the host's own CRIU."""

import re
import shlex

import pytest

from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, OUTPUT
from harness.machines.protocol import check
from harness.provision.bundle import bundle
from harness.provision.context import Provision
from harness.provision.criu_layout import LIBRARIES, PROGRAM
from support.arm_host import ON_HOST, Host, on_host
from support.native_runs import LONG, RESULTS, rows, soon, state

NATIVE = f"--machine native --base debian-13 --results {RESULTS}"
LIBRARIES_OF_CRIU = "/opt/criu/lib"


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_a_matrix_on_the_host(host: Host) -> None:
    before = state(host)
    dimensions = "--module none --module plugin --workload python-sleeper --workload c-frames"
    result = host.run(f"matrix {NATIVE} {dimensions}", LONG)
    assert result.returncode == 0, result.error_text
    found = rows(host)
    machines = {(one["cpu"], one["kernel"], one["criu_dump"], one["qemu"]) for one in found}
    assert machines == {("neoverse-v1", "6.1", "3.17.1", None)}
    assert {(one["workload"], one["module"]): (one["outcome"], one["verdict"]) for one in found} == {
        ("python-sleeper", "none"): ("signed_pc_fault", "as_predicted"),
        ("python-sleeper", "plugin"): ("survived", "as_predicted"),
        ("c-frames", "none"): ("signed_pc_fault", "as_predicted"),
        ("c-frames", "plugin"): ("survived", "as_predicted"),
    }
    assert len(found) == 4
    report = host.machine.read_file(f"{RESULTS}/junit.xml", soon("the report"))
    assert report.count(b"<testcase") == 4
    assert b"<failure" not in report
    assert state(host) == before


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_what_criu_with_keys_of_its_own_loses_on_the_host(host: Host) -> None:
    before = state(host)
    result = host.run(f"repro {NATIVE} --criu 4.2.1 --workload c-threads-own-keys", LONG)
    assert result.returncode == 0, result.error_text
    stock, module = rows(host)
    assert {stock["criu_dump"], stock["criu_restore"], module["criu_dump"]} == {"4.2.1"}
    assert (stock["module"], stock["outcome"], stock["signal"]) == ("none", "signed_pc_fault", "SIGSEGV")
    assert (stock["known_issue"], stock["verdict"]) == ("per-thread-keys", "known_issue")
    assert (module["module"], module["outcome"], module["verdict"]) == ("plugin", "survived", "as_predicted")
    assert state(host) == before


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_the_criu_that_is_installed_on_the_host(host: Host, provision: Provision) -> None:
    """As a package installs it, with libraries that only the loader's cache knows."""
    asked = host.run(f"repro {NATIVE} --criu system", LONG)
    assert asked.returncode == 64
    assert "criu-pac: error: --criu system: there is no criu in " in asked.error_text

    root = on_host(bundle("criu-3.17.1", provision).root, provision)
    script = f"""
        install -D {root}/{PROGRAM} /{PROGRAM}
        mkdir -p {LIBRARIES_OF_CRIU}
        for one in {root}/{LIBRARIES}/*.so*; do
            [ -e /{LIBRARIES}/${{one##*/}} ] || cp -a $one {LIBRARIES_OF_CRIU}
        done
        echo {LIBRARIES_OF_CRIU} >> /etc/ld.so.conf && ldconfig && criu --version
    """
    installed = check(host.machine, ["bash", "-ec", script], soon("an installation"))
    assert installed.text.startswith("Version: 3.17.1")
    before = state(host)
    result = host.run(f"repro {NATIVE} --criu system", LONG)
    assert result.returncode == 0, result.error_text
    stock, module = rows(host)
    assert stock["criu_dump"] == stock["criu_restore"] == module["criu_dump"]
    assert stock["criu_dump"].startswith("system+")
    assert stock["premises"]["criu_dump"] == {"declared": True, "observed": True}
    assert (stock["module"], stock["outcome"], stock["signal"]) == ("none", "signed_pc_fault", "SIGSEGV")
    assert (module["module"], module["outcome"], module["keys_equal"]) == ("plugin", "survived", True)
    command = host.machine.read_file(f"{RESULTS}/command.txt", soon("the command")).decode()
    assert command.startswith("criu-pac repro --machine native --criu system ")
    assert state(host) == before


@pytest.mark.machine(kernel="6.1", cpu="neoverse-v1", criu=["3.17.1"])
def test_a_control_is_run_and_what_it_left_is_kept_until_ctrl_c(host: Host) -> None:
    before = state(host)
    machine, said = host.machine, f"{RESULTS}.log"
    words = shlex.join(ON_HOST.command(*f"repro {NATIVE} --control --keep".split()))
    run = f"mkdir -p /var/tmp\n({words} & echo pid $!; wait $!; echo exit $?) > {said} 2>&1 &"
    check(machine, ["bash", "-c", run], soon("a start"))

    def told(pattern: str) -> re.Match[str] | None:
        text = machine.read_file(said, soon("what it says")).decode()
        if "exit" not in pattern and "\nexit " in text:
            pytest.fail(f"the run ended: {text}")
        return re.search(pattern, text)

    limit = Deadline.after(LONG, "the end of the last arm")
    limit.poll(lambda: told("this host is kept as the last arm left it; Ctrl-C puts it back"), interval=0.5)
    found = told(
        r"control-unprotected: kept; until the next arm begins, as root .*, then its container: (.+)"
    )
    assert found
    inside = [*shlex.split(found[1]), "-c", f"echo {IMAGES}/* && cat /proc/[0-9]*/comm"]
    left = check(machine, inside, soon("a look around")).text
    assert f"{IMAGES}/inventory.img" in left
    assert "python3" in left
    ticks = len(machine.read_file(OUTPUT, soon("its output")))
    Deadline.after(60, "a tick of the restored task").poll(
        lambda: len(machine.read_file(OUTPUT, soon("its output"))) > ticks or None
    )

    pid = told(r"^pid (\d+)")
    assert pid
    check(machine, ["kill", "-INT", pid[1]], soon("Ctrl-C"))
    ended = Deadline.after(LONG, "the end of the command").poll(lambda: told(r"\nexit (\d+)"), interval=0.5)
    assert ended[1] == "0"
    stock, module, control = rows(host)
    assert (stock["outcome"], module["outcome"]) == ("signed_pc_fault", "survived")
    assert (control["arm"], control["base"], control["cpu"]) == (
        "control-unprotected",
        "debian-12",
        "neoverse-v1",
    )
    assert (control["module"], control["outcome"], control["keys_equal"]) == ("none", "survived", False)
    assert state(host) == before
