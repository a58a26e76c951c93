"""What engines are told, and what their answers mean; the engines themselves are in the e2e tests."""

import json
from pathlib import Path

import pytest

from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.core.errors import EngineError
from harness.guest.container import EXITS, IMAGES, OUTPUT, WORK
from harness.guest.driver import LOADED_FROM, provide_criu, wait_status, workload_command
from harness.guest.podman import Podman
from harness.guest.probe import PROBE
from harness.guest.runc import Runc, runtime_spec
from harness.guest.workload import load_workload
from harness.machines.fake import Answer, FakeMachine

SLEEPER = load_workload("python-sleeper")
BUILDS = (CRIU_BUILDS["3.17.1"], CRIU_BUILDS["4.2.1"])


def soon() -> Deadline:
    return Deadline.after(10, "a driver")


def script_of(module: KeyModule, **options: str) -> str:
    machine = FakeMachine()
    machine.answer(["bash", "-ec"], "")
    provide_criu(machine, BUILDS[0], module, soon(), **options)
    (call,) = machine.called("bash")
    return call.argv[-1]


def test_without_the_module_no_plugin_and_no_configuration_is_left() -> None:
    script = script_of(KeyModule.NONE)
    assert "rm -rf /usr/lib/criu /etc/criu" in script
    assert "libdir" not in script
    assert "pac-key-module" not in script


@pytest.mark.parametrize("place", LOADED_FROM[1:])
def test_a_configuration_names_the_module_s_directory(place: str) -> None:
    assert f"> /etc/criu/{place}" in script_of(KeyModule.PLUGIN, loaded_from=place)


def test_the_policy_goes_to_criu_s_environment() -> None:
    assert "export CRIU_PAC_POLICY=disable-auth" in script_of(KeyModule.PLUGIN_DISABLE_AUTH)
    assert "CRIU_PAC_POLICY" not in script_of(KeyModule.PLUGIN)


@pytest.mark.parametrize(("code", "status"), [(139, 11), (137, 9), (0, 0), (3, 3 << 8)])
def test_an_engine_s_exit_code_is_a_wait_status(code: int, status: int) -> None:
    assert wait_status(code) == status


def test_a_container_has_namespaces_and_a_filter_of_its_own() -> None:
    spec = runtime_spec("/root", workload_command(SLEEPER), user_namespace=False)
    kinds = {one["type"] for one in spec["linux"]["namespaces"]}
    assert kinds == {"pid", "ipc", "uts", "mount", "cgroup"}
    assert spec["linux"]["seccomp"]["syscalls"]
    assert spec["process"]["args"][-1].endswith(f">> {OUTPUT} 2>&1 < /dev/null")
    assert any(one["destination"] == WORK for one in spec["mounts"])
    json.dumps(spec)


def test_in_a_user_namespace_nothing_of_the_guest_is_bound() -> None:
    spec = runtime_spec("/root", ["true"], user_namespace=True)
    assert {"type": "user"} in spec["linux"]["namespaces"]
    assert spec["linux"]["uidMappings"][0]["hostID"] == 0
    assert not any(one["type"] == "bind" for one in spec["mounts"])


def runc(machine: FakeMachine) -> Runc:
    return Runc(machine, "/merged", BUILDS, KeyModule.NONE)


def test_runc_tells_the_workload_s_id_and_gives_it_another_in_its_next_life(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.answer(["bash"], "")
    machine.answer(["rm"], "")
    machine.answer([PROBE, "adopt"], "")
    machine.answer(["cat", "/run/criu-pac-runc.pid"], "601\n", "733\n")
    machine.files[f"{IMAGES}/restore-1.log"] = b"(00.1) restored\n"
    driver = runc(machine)
    running = driver.launch(SLEEPER, soon())
    assert (running.pid, running.own_pid) == (601, 1)
    call, after = driver.restore(running, soon(), cycle=1)
    assert (call.returncode, call.log_name) == (0, "restore-1.log")
    assert (after.pid, after.former, after.own_pid) == (733, (601,), 1)
    machine.files |= {EXITS: b"601 9\n733 139\n", OUTPUT: b""}
    assert after.progress(soon()).exits == (9, 139)


def test_a_container_that_cannot_start_is_an_engine_error(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.answer(["bash"], "")
    machine.answer([PROBE, "adopt"], Answer(returncode=1, stderr=b"no such image"))
    with pytest.raises(EngineError, match="runc run ended with 1: no such image"):
        runc(machine).launch(SLEEPER, soon())


def test_podman_tells_ends_by_its_own_record(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.answer(["podman"], "", "601 true 0\n", "601 true 0\n", "0 false 139\n")
    driver = Podman(machine, "/merged", BUILDS, KeyModule.NONE)
    running = driver.launch(SLEEPER, soon())
    machine.files[OUTPUT] = b"tick\n"
    assert running.progress(soon()).exits == ()
    assert running.progress(soon()).exits == (11,)
