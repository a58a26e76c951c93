"""`criu-pac doctor` inside arm64 machines: what it concludes has to be what then happens there."""

import contextlib
import importlib.metadata
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.catalogue.cpus import CPUS, DEFAULT_CPU, CpuModel
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import DEFAULT_KERNEL, KERNELS, Kernel
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, TOOLS, Container
from harness.guest.workload import load_workload
from harness.key_module.build import PLUGIN_NAME, build_plugin
from harness.machines.protocol import check
from harness.machines.qemu import QemuMachine
from harness.machines.qemu_config import MachineFiles
from harness.machines.template import TemplateSpec, cold_boot
from harness.provision.bundle import bundle
from harness.provision.context import Provision
from harness.provision.guest_image import _make_erofs, boot_files, root_image, userland_archive
from harness.pytest_plugin import RunScenario
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.run import ScenarioRun

CHECKOUT = Path(__file__).parents[2]
NO_COMPILER = "ziglang"  # 80 MB that nothing inside the machine needs
BUILDS = ("3.17.1", "4.1.1", "4.2.1")
OWN_KEYS = "c-threads-own-keys"
LIBRARIES = "usr/lib/aarch64-linux-gnu"
SAFE, AFFECTED, CANNOT_TELL = "safe", "affected", "cannot tell"
EXIT_CODES = {SAFE: 0, AFFECTED: 1, CANNOT_TELL: 3}
Report = dict[str, Any]
PYCACHE = f"{TOOLS}/pycache"
PATH = "/usr/sbin:/usr/bin"
PLUGINS = "/usr/lib/criu"
NOBODY = 65534


# One interpreter for any number of calls: starting it and importing takes longer than all of them.
DRIVER = """
import contextlib, io, json, os, sys
from harness import cli
for call in json.load(sys.stdin):
    os.environ["PATH"] = call["path"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main(["doctor", "--json", *call["words"]])
    print(json.dumps({"code": code, "text": out.getvalue()}))
"""


class Guest:
    """A booted machine without container engine, and the harness for it in its tools image."""

    def __init__(self, machine: QemuMachine, cpu: CpuModel) -> None:
        self.machine = machine
        self.cpu = cpu

    def sh(self, script: str) -> str:
        result = self.machine.run(["bash", "-c", script], Deadline.after(60, script))
        assert result.returncode == 0, result.error_text
        return result.text

    def doctors(
        self, *calls: tuple[str | None, Sequence[str]], pycache: str = PYCACHE, user: int = 0
    ) -> list[Report]:
        """Return what the doctor says to each of ``calls``.

        Each is the CRIU in PATH (a build, or the directory it is in) and the options.
        """
        settings = {
            "HOME": f"/tmp/home-{user}",
            "PYTHONHOME": f"{TOOLS}/python/usr",
            "PYTHONPATH": f"{TOOLS}/site",
            "PYTHONPYCACHEPREFIX": pycache,
            "LD_LIBRARY_PATH": f"{TOOLS}/python/{LIBRARIES}",
        }
        argv = ["setpriv", f"--reuid={user}", "--clear-groups", "env"]
        argv += [f"{name}={value}" for name, value in settings.items()]
        argv += [f"{TOOLS}/python/usr/bin/python3.13", "-c", DRIVER]
        asked = [{"words": list(words), "path": _path(criu)} for criu, words in calls]
        limit = Deadline.after(300, "criu-pac doctor in the machine")
        result = self.machine.run(argv, limit, stdin=json.dumps(asked).encode())
        assert result.returncode == 0, result.error_text
        answers = [json.loads(line) for line in result.text.splitlines()]
        reports = [dict(json.loads(one["text"])) for one in answers]
        for one, report in zip(answers, reports, strict=True):
            assert one["code"] == EXIT_CODES[report["conclusion"]]
        return reports

    def install(self, module: KeyModule) -> None:
        """Put the key module where CRIU loads it from, or take it away."""
        target = f"{PLUGINS}/{PLUGIN_NAME}"
        install = f"mkdir -p {PLUGINS} && cp {TOOLS}/module.so {target}"
        self.sh(install if module.loaded else f"rm -f {target}")

    def start(self, workload: str) -> int:
        """Start a process with keys like the workload's, and branch protection; return its pid."""
        program = f"{TOOLS}/{OWN_KEYS}" if workload == OWN_KEYS else "/usr/bin/sleep 600"
        pid = int(self.sh(f"setsid {program} < /dev/null > /tmp/said 2>&1 & echo $!"))
        if workload == OWN_KEYS:
            self.sh("until [[ $(< /tmp/said) == READY* ]]; do sleep 0.1; done")
        return pid

    def doctor(self, criu: str | None, *words: str) -> Report:
        (report,) = self.doctors((criu, words))
        return report


def _path(criu: str | None) -> str:
    if criu is None:
        return PATH
    return f"{criu if criu.startswith('/') else f'{TOOLS}/criu/{criu}/usr/sbin'}:{PATH}"


@contextlib.contextmanager
def booted(cpu: CpuModel, kernel: Kernel, tools: Path, lab: Lab, place: Path) -> Iterator[Guest]:
    boot = boot_files(lab.provision, kernel.package_group, kernel.modules)
    root = root_image(lab.provision)
    files = MachineFiles(kernel=boot.kernel, initramfs=boot.initramfs, root=root, tools=tools)
    spec = TemplateSpec(
        key="", program=lab.qemu.command, cpu=cpu.qemu, files=files, kernel_arguments=cpu.boot
    )
    with contextlib.closing(cold_boot(spec, place)) as machine:
        yield Guest(machine, cpu)


@pytest.fixture(scope="session")
def tools(provision: Provision, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python, the harness with what it imports, builds of CRIU and the key module, as a tools image."""
    place = tmp_path_factory.mktemp("doctor")
    site, python = place / "site", place / "python"
    wanted = [one.partition(";")[0] for one in importlib.metadata.requires("criu-pac-harness") or ()]
    wanted = [one for one in wanted if not one.startswith(NO_COMPILER)]
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(site)]
    words += ["--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64"]
    words += ["--only-binary=:all:", "--python-version", "3.13", "--implementation", "cp", *wanted]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    with tarfile.open(userland_archive(provision, "python-stdlib-debian-13", whole=False)) as archive:
        archive.extractall(python, filter="tar")
    parts = {
        "site": site,
        "site/harness": CHECKOUT / "harness",
        "python": python,
        "module.so": build_plugin(place / "module.so", provision.cache.root / "zig"),
        OWN_KEYS: lab._compiled(load_workload(OWN_KEYS)),
    }
    parts |= {f"criu/{name}": bundle(CRIU_BUILDS[name].package_group, provision).root for name in BUILDS}

    def packed(name: str) -> Path:
        with tarfile.open(place / "tools.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for inside, path in parts.items():
                archive.add(path, inside)
        _make_erofs(provision, place / "tools.tar", place / name)
        return place / name

    # Compiling the modules takes an emulated machine a minute: one does it for all others.
    with booted(DEFAULT_CPU, DEFAULT_KERNEL, packed("cold.erofs"), lab, place) as first:
        first.doctors((None, ()), pycache="/tmp/pycache")
        pack = ["tar", "-C", "/tmp", "-cz", "pycache"]
        compiled = check(first.machine, pack, Deadline.after(60, "compiled modules")).stdout
    with tarfile.open(fileobj=io.BytesIO(compiled)) as archive:
        archive.extractall(place, filter="data")
    parts["pycache"] = place / "pycache"
    (place / "cold.erofs").unlink()
    return packed("tools.erofs")


@pytest.fixture(scope="module")
def guest(
    request: pytest.FixtureRequest,
    lab: Lab,
    tools: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    """Boot the machine "CPU kernel" of the parameter, once for all tests that use it."""
    cpu_name, kernel_name = request.param.split()
    with booted(CPUS[cpu_name], KERNELS[kernel_name], tools, lab, tmp_path_factory.mktemp("ram")) as machine:
        yield machine


def on(machine: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("guest", [machine], indirect=True)


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


def cell(
    cpu: str,
    kernel: str,
    criu: str,
    module: KeyModule = KeyModule.NONE,
    *,
    builds: Sequence[str] = SMOKE,
    workload: str = SLEEPER,
) -> object:
    """One scenario and the machine that the doctor looks at before it."""
    mark = pytest.mark.machine(cpu=cpu, kernel=kernel, criu=builds)
    name = f"{cpu}-{kernel}-{criu}-{workload}-{module.value}"
    return pytest.param(f"{cpu} {kernel}", criu, module, workload, marks=mark, id=name)


@pytest.mark.parametrize(
    ("guest", "criu", "module", "workload"),
    [
        cell("neoverse-v1", "6.1", "3.17.1"),
        cell("neoverse-v1", "6.1", "3.17.1", KeyModule.PLUGIN),
        cell("neoverse-v1", "6.1", "4.2.1"),
        cell("neoverse-v1-nopauth", "6.1", "3.17.1"),
        cell("neoverse-n1", "6.1", "3.17.1"),
        cell("neoverse-n2", "6.1", "3.17.1"),
        cell("neoverse-n2", "6.12", "4.2.1", builds=["4.2.1"]),
        cell("neoverse-n2", "6.12", "4.2.1", builds=["4.2.1"], workload=OWN_KEYS),
        cell("neoverse-n2", "6.12", "4.2.1", KeyModule.PLUGIN, builds=["4.2.1"], workload=OWN_KEYS),
    ],
    indirect=["guest"],
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


REST = sorted(CPUS.keys() - {"neoverse-v1", "neoverse-v1-nopauth", "neoverse-n1", "neoverse-n2"})


@pytest.mark.parametrize("guest", [f"{name} 6.1" for name in REST], indirect=True)
def test_the_other_cpus_of_the_catalogue_are_seen_as_they_are(guest: Guest) -> None:
    """Their cells of the matrix are like those above."""
    seen_as_it_is(guest.doctor("3.17.1"), guest.cpu, "6.1")


@on("neoverse-v1 6.1")
def test_a_restorer_with_branch_protection_hangs(guest: Guest) -> None:
    guest.install(KeyModule.NONE)
    report = guest.doctor("4.1.1")
    assert report["conclusion"] == AFFECTED
    assert "the restore hangs" in report["reasons"][0]
    assert report["facts"]["routes"]["criu"]["restorer has branch protection"] is True
    assert [one["what"].split()[0] for one in report["remedies"]] == ["upgrade", "boot"]


@on("neoverse-v1 6.1")
def test_what_is_not_there_is_not_called_safe(guest: Guest) -> None:
    guest.sh("mkdir -p /tmp/bin && printf '#!/bin/sh\\necho Version: 9.9\\n' > /tmp/bin/criu")
    guest.sh("chmod +x /tmp/bin/criu")
    none, script = guest.doctors((None, ()), ("/tmp/bin", ()))
    assert none["conclusion"] == script["conclusion"] == CANNOT_TELL
    assert "no criu was found" in none["reasons"][0]
    assert "it is a script, which starts something else; it says Version: 9.9" in script["reasons"][0]


@on("neoverse-v1 6.1")
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


class Collects(ScenarioRun):
    """Keeps what a checkpoint tells of keys, as an archive."""

    images = b""

    def between(self, container: Container, cycle: int) -> None:
        names = "pstree.img core-*.img mm-*.img $(ls pac-keys.img 2>/dev/null)"
        script = f"cd {IMAGES} && tar -cf - {names}"
        look = Deadline.after(30, "the images of a checkpoint")
        type(self).images = check(container.machine, ["bash", "-c", script], look).stdout


@on("neoverse-v1 6.1")
@pytest.mark.machine(criu=SMOKE)
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
