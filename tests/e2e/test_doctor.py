"""`criu-pac doctor` inside arm64 machines: what it concludes has to be what then happens there."""

import contextlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.catalogue.cpus import CPUS, CpuModel
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.core.errors import ExitCode
from harness.guest.container import IMAGES, Container
from harness.guest.engine import DockerEngine
from harness.guest.workload import load_workload
from harness.key_module.build import PLUGIN_NAME
from harness.machines.protocol import check
from harness.provision.bundle import bundle
from harness.pytest_plugin import RunScenario
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.run import ScenarioRun
from support.arm_host import BUILDS, DOCKER_CLIENT, ON_HOST, Host, on_host

OWN_KEYS = "c-threads-own-keys"
SAFE, AFFECTED, CANNOT_TELL = "safe", "affected", "cannot tell"
EXIT_CODES = {SAFE: 0, AFFECTED: 1, CANNOT_TELL: 3}
Report = dict[str, Any]
Call = tuple[str | None, Sequence[str]]
PATH = "/usr/sbin:/usr/bin"
PLUGINS = "/usr/lib/criu"
NOBODY = 65534


# One interpreter for any number of calls: starting it and importing takes longer than all of them.
DRIVER = """
import contextlib, io, json, os, sys
from harness import cli
for call in json.load(sys.stdin):
    os.environ["PATH"] = call["path"]
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = cli.main(["doctor", "--json", *call["words"]])
    print(json.dumps({"code": code, "text": out.getvalue(), "error": error.getvalue()}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one call of the doctor ended."""

    code: int
    text: str
    error: str

    @property
    def report(self) -> Report:
        """What it reported, which its exit code has to say as well."""
        assert self.text, self.error
        report = dict(json.loads(self.text))
        assert self.code == EXIT_CODES[report["conclusion"]]
        return report


class Guest:
    """The machine that a scenario runs in, as a host that the doctor looks at."""

    def __init__(self, host: Host, cpu: CpuModel, lab: Lab) -> None:
        self.machine = host.machine
        self.cpu = cpu
        plugin = next(one.path for one in lab.tools(()) if one.path.name == PLUGIN_NAME)
        self._plugin = on_host(plugin, lab.provision)
        self._own_keys = on_host(lab._compiled(load_workload(OWN_KEYS)), lab.provision)
        roots = {name: bundle(CRIU_BUILDS[name].package_group, lab.provision).root for name in BUILDS}
        self.criu = {name: f"{on_host(root, lab.provision)}/usr/sbin" for name, root in roots.items()}

    def sh(self, script: str) -> str:
        result = self.machine.run(["bash", "-c", script], Deadline.after(60, script))
        assert result.returncode == 0, result.error_text
        return result.text

    def ask(self, *calls: Call, user: int = 0) -> list[Answer]:
        """Return how each of ``calls`` of the doctor ends.

        Each is what PATH begins with (a build of CRIU, or directories) and the options.
        """
        place = replace(ON_HOST, cache=f"/tmp/cache-{user}") if user else ON_HOST
        argv = ["setpriv", f"--reuid={user}", "--clear-groups", *place.interpreter("-c", DRIVER)]
        asked = [{"words": list(words), "path": self._path(first)} for first, words in calls]
        limit = Deadline.after(300, "criu-pac doctor in the machine")
        result = self.machine.run(argv, limit, stdin=json.dumps(asked).encode())
        assert result.returncode == 0, result.error_text
        return [Answer(**json.loads(line)) for line in result.text.splitlines()]

    def _path(self, first: str | None) -> str:
        return PATH if first is None else f"{self.criu.get(first, first)}:{PATH}"

    def doctors(self, *calls: Call, user: int = 0) -> list[Report]:
        """Return what the doctor says to each of ``calls``; see ``ask``."""
        return [one.report for one in self.ask(*calls, user=user)]

    def doctor(self, criu: str | None, *words: str) -> Report:
        (report,) = self.doctors((criu, words))
        return report

    def install(self, module: KeyModule) -> None:
        """Put the key module where CRIU loads it from, or take it away."""
        target = f"{PLUGINS}/{PLUGIN_NAME}"
        install = f"mkdir -p {PLUGINS} && cp {self._plugin} {target}"
        self.sh(install if module.loaded else f"rm -f {target}")

    def start(self, workload: str) -> int:
        """Start a process with keys like the workload's, and branch protection; return its pid."""
        program = self._own_keys if workload == OWN_KEYS else "/usr/bin/sleep 600"
        pid = int(self.sh(f"setsid {program} < /dev/null > /tmp/said 2>&1 & echo $!"))
        if workload == OWN_KEYS:
            self.sh("until [[ $(< /tmp/said) == READY* ]]; do sleep 0.1; done")
        return pid


@pytest.fixture
def guest(host: Host, machine_kind: MachineKind, lab: Lab) -> Guest:
    return Guest(host, machine_kind.cpu, lab)


def seen_as_it_is(report: Report, model: CpuModel, kernel: str) -> None:
    """Check what is said of the CPU and of the kernel, with CRIU 3.17.1 and without the module."""
    host = report["facts"]["host"]
    assert report["conclusion"] == (AFFECTED if model.pac else SAFE), report
    assert host["CPU"]["paca"] is host["CPU"]["pacg"] is model.pac
    assert host["CPU"]["FPAC"] is model.fpac
    assert host["CPU"]["algorithm"] == (model.algorithm.value if model.algorithm else None)
    assert host["CPU"]["PAC mask"] == ("0x007f000000000000" if model.pac else None)
    assert host["kernel"]["release"].startswith(f"{kernel}.")
    assert host["kernel"]["boot parameters"] == ([model.boot] if model.boot else [])
    assert host["kernel"]["CONFIG_CHECKPOINT_RESTORE"] == "y"
    assert host["kernel"]["gives out keys"] is (True if model.pac else None)
    signal = "SIGILL" if model.fpac else "SIGSEGV"
    said = report["reasons"]
    assert (f"dies of {signal} " in said[0]) is model.pac
    assert ("booted with arm64.nopauth" in said[0]) is bool(model.boot)


SMOKE = ["3.17.1", "4.2.1"]  # the builds in the machines of the selection smoke
SLEEPER = "python-sleeper"
REPORTED = pytest.mark.machine(criu=SMOKE)


def cell(
    cpu: str,
    kernel: str,
    criu: str,
    module: KeyModule = KeyModule.NONE,
    *,
    builds: Sequence[str] = SMOKE,
    workload: str = SLEEPER,
) -> object:
    """One scenario, in the machine that the doctor looks at before it."""
    mark = pytest.mark.machine(cpu=cpu, kernel=kernel, criu=builds)
    name = f"{cpu}-{kernel}-{criu}-{workload}-{module.value}"
    return pytest.param(criu, module, workload, marks=mark, id=name)


@pytest.mark.parametrize(
    ("criu", "module", "workload"),
    [
        # On 6.1 codes have seven bits on every CPU: the few frames of the sleeper are enough.
        *(cell(name, "6.1", "3.17.1") for name in CPUS),
        cell("neoverse-v1", "6.1", "3.17.1", KeyModule.PLUGIN),
        cell("neoverse-v1", "6.1", "4.2.1"),
        cell("neoverse-n2", "6.12", "4.2.1", builds=["4.2.1"]),
        cell("neoverse-n2", "6.12", "4.2.1", builds=["4.2.1"], workload=OWN_KEYS),
        cell("neoverse-n2", "6.12", "4.2.1", KeyModule.PLUGIN, builds=["4.2.1"], workload=OWN_KEYS),
    ],
)
def test_the_conclusion_is_what_then_happens(
    guest: Guest, run_scenario: RunScenario, criu: str, module: KeyModule, workload: str
) -> None:
    guest.install(module)
    pid = guest.start(workload)
    host, process = guest.doctors((criu, ()), (criu, ("--pid", str(pid))))
    guest.sh(f"kill {pid}")
    result = run_scenario(module, criu=criu, workload=workload)
    survived = result.outcome is Outcome.SURVIVED
    assert process["conclusion"] == (SAFE if survived else AFFECTED), (result.outcome, process["reasons"])
    facts = process["facts"]["process"]
    if guest.cpu.pac:
        assert facts["keys"]["threads differ in keys"] is (workload == OWN_KEYS)
        if result.registers.pac_mask:
            assert int(host["facts"]["host"]["CPU"]["PAC mask"], 16) == result.registers.pac_mask
    if criu == "3.17.1" and not module.loaded:
        seen_as_it_is(host, guest.cpu, "6.1")
    if workload == OWN_KEYS:
        # The host is safe for what has one set of keys, and the doctor says for what it is not.
        assert host["conclusion"] == SAFE
        warned = [one for one in host["reasons"] if "changes its own keys" in one]
        assert bool(warned) is not module.loaded
    else:
        assert host["conclusion"] == process["conclusion"]
    upgrade = ["upgrade"] if criu == "3.17.1" else []
    helped = [one["what"].split()[0] for one in process["remedies"]]
    assert helped == ([] if survived else [*upgrade, "install", "boot", "rebuild"])


@REPORTED
def test_a_restorer_with_branch_protection_hangs(guest: Guest) -> None:
    guest.install(KeyModule.NONE)
    report = guest.doctor("4.1.1")
    assert report["conclusion"] == AFFECTED
    assert "the restore hangs" in report["reasons"][0]
    assert report["facts"]["routes"]["criu"]["restorer has branch protection"] is True
    assert [one["what"].split()[0] for one in report["remedies"]] == ["upgrade", "boot"]


@REPORTED
def test_what_is_not_there_is_not_called_safe(guest: Guest) -> None:
    guest.sh("mkdir -p /tmp/bin && printf '#!/bin/sh\\necho Version: 9.9\\n' > /tmp/bin/criu")
    guest.sh("chmod +x /tmp/bin/criu")
    none, script = guest.doctors((None, ()), ("/tmp/bin", ()))
    assert none["conclusion"] == script["conclusion"] == CANNOT_TELL
    assert "no criu was found" in none["reasons"][0]
    assert "it is a script, which starts something else; it says Version: 9.9" in script["reasons"][0]


@REPORTED
def test_without_root_it_says_what_it_could_not_see(guest: Guest) -> None:
    guest.install(KeyModule.NONE)
    pid = guest.start(SLEEPER)
    host, process, program = guest.doctors(
        *(("3.17.1", words) for words in ((), ("--pid", str(pid)), ("--elf", "/usr/bin/sleep"))), user=NOBODY
    )
    guest.sh(f"kill {pid}")
    assert host["conclusion"] == AFFECTED
    assert host["facts"]["host"]["CPU"]["PAC mask"] == "0x007f000000000000"
    assert program["conclusion"] == AFFECTED
    assert process["conclusion"] == CANNOT_TELL
    assert any(f"keys of process {pid}: cannot trace" in one for one in process["not_seen"])
    assert any("/maps: Permission denied" in one for one in process["not_seen"])
    assert any("which criu containerd finds: " in one for one in host["not_seen"])


@REPORTED
def test_the_engine_is_named_and_its_images_are_looked_at(guest: Guest, machine_kind: MachineKind) -> None:
    with contextlib.closing(DockerEngine(guest.machine)) as engine:
        versions = engine.version()
    image = machine_kind.base.reference
    # The daemon's CRIU is another than that of the person who asks.
    guest.sh(f"ln -s {guest.criu['3.17.1']}/criu /usr/sbin/criu")
    path = f"{guest.criu['4.2.1']}:{DOCKER_CLIENT}"
    by_name, absent, whole = guest.ask(
        (path, ("--image", image)), (path, ("--image", "no-such-image:1")), (path, ())
    )
    assert by_name.report["conclusion"] == AFFECTED
    assert f"signing code in the image {image}: " in by_name.report["reasons"][0]
    library = by_name.report["facts"]["image"]["C library"]
    assert library["usr/lib/aarch64-linux-gnu/libc.so.6"]
    assert (absent.code, absent.text) == (ExitCode.USAGE, "")
    assert "error: --image no-such-image:1: docker: Error response from daemon: " in absent.error

    engines, routes = whole.report["facts"]["engines"], whole.report["facts"]["routes"]
    assert engines["docker"]["path"] == f"{DOCKER_CLIENT}/docker"
    assert f" {engines['docker']['version']}" in guest.sh(f"{DOCKER_CLIENT}/docker --version")
    assert engines["docker"]["daemon"] == versions["Engine"]
    assert (engines["docker"]["experimental"], engines["docker"]["runtime"]) == (True, "runc")
    assert versions["runc"].startswith(engines["runc"]["version"])
    assert (routes["criu"]["version"], routes["docker, runc"]["version"]) == ("4.2.1", "3.17.1")
    assert whole.report["conclusion"] == AFFECTED
    own, daemons = (
        next(one for one in whole.report["reasons"] if one.startswith(f"{caller}: CRIU {version} "))
        for caller, version in (("criu", "4.2.1"), ("docker, runc", "3.17.1"))
    )
    assert "a restored process goes on" in own
    assert "a restored process dies of SIGSEGV" in daemons


class Collects(ScenarioRun):
    """Keeps what a checkpoint tells of keys, as an archive."""

    images = b""

    def between(self, container: Container, cycle: int) -> None:
        names = "pstree.img core-*.img mm-*.img $(ls pac-keys.img 2>/dev/null)"
        script = f"cd {IMAGES} && tar -cf - {names}"
        look = Deadline.after(30, "the images of a checkpoint")
        type(self).images = check(container.machine, ["bash", "-c", script], look).stdout


@REPORTED
@pytest.mark.parametrize("module", [KeyModule.NONE, KeyModule.PLUGIN])
def test_a_checkpoint_on_the_host_it_comes_from(
    guest: Guest, run_scenario: RunScenario, module: KeyModule
) -> None:
    result = run_scenario(module, criu="3.17.1", runner=Collects)
    unpack = ["bash", "-c", "rm -rf /tmp/images && mkdir /tmp/images && tar -C /tmp/images -x"]
    check(guest.machine, unpack, Deadline.after(30, "the images"), stdin=Collects.images)
    guest.install(KeyModule.PLUGIN)
    report = guest.doctor("3.17.1", "--checkpoint", "/tmp/images")
    assert report["conclusion"] == (SAFE if result.outcome is Outcome.SURVIVED else AFFECTED), report
    assert report["facts"]["checkpoint"]["dumped with pointer authentication"] is True
    # The program that asks the module is compiled, and there is no compiler here.
    asked = [one for one in report["not_seen"] if one.startswith("what the key module says")]
    assert bool(asked) is module.loaded


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(module, marks=pytest.mark.machine(cpu=cpus, kernel="6.12", criu=["4.2.1"]), id=cpus)
        for cpus, module in (
            ("neoverse-v1:neoverse-n1", KeyModule.PLUGIN),
            ("neoverse-n1:neoverse-v1", KeyModule.NONE),
            ("max-qarma5:max", KeyModule.PLUGIN),
        )
    ],
)
def test_a_checkpoint_for_another_cpu(
    run_scenario: RunScenario,
    machine_kinds: tuple[MachineKind, MachineKind],
    module: KeyModule,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The few frames of the sleeper prove nothing with codes of three bits (max on 6.12).
    result = run_scenario(module, runner=Collects, workload="c-frames")
    images = tmp_path / "images"
    with tarfile.open(fileobj=io.BytesIO(Collects.images)) as archive:
        archive.extractall(images, filter="data")

    def conclusion(kind: MachineKind) -> str:
        capsys.readouterr()
        code = cli.main(["doctor", "--json", "--checkpoint", str(images), "--for", kind.cpu.name])
        report = json.loads(capsys.readouterr().out)
        assert code == EXIT_CODES[report["conclusion"]]
        return str(report["conclusion"])

    source, target = machine_kinds
    assert result.outcome.is_conclusive, result.reason
    assert result.outcome is not Outcome.SURVIVED
    assert conclusion(target) == AFFECTED
    assert conclusion(source) == SAFE
