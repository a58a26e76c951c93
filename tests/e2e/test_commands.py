"""The commands as people run them: two at once, as a plain user, by hand."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pexpect
import pytest

from harness.machines.qemu import QemuMachine
from harness.provision.context import Provision
from harness.provision.packages import obtain
from harness.provision.rootfs import RootTar
from harness.scenario.lab import Lab, MachineKind

CHECKOUT = Path(__file__).parents[2]
REPRO = [sys.executable, "-m", "harness", "repro", "--base", "debian-13"]
NOBODY = 65534


def outcomes(results: Path) -> dict[str, str]:
    lines = (results / "results.jsonl").read_text().splitlines()
    return {record["arm"]: record["outcome"] for record in map(json.loads, lines)}


EXPECTED = {"stock": "signed_pc_fault", "pac-key-module": "survived"}


@pytest.mark.usefixtures("machine_kind")
def test_two_runs_at_once_share_the_cache(provision: Provision, tmp_path: Path) -> None:
    environment = {**os.environ, "CRIU_PAC_CACHE": str(provision.cache.root)}
    places = [tmp_path / "one", tmp_path / "two"]
    running = [
        subprocess.Popen(
            [*REPRO, "--results", str(place)],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for place in places
    ]  # fmt: skip
    for place, process in zip(places, running, strict=True):
        said, complained = process.communicate(timeout=240)
        assert process.returncode == 0, complained
        assert "issue 2595" in said
        assert outcomes(place) == EXPECTED


def python_for_everybody() -> str | None:
    """Return an interpreter that a plain user may execute and that fits the packages installed here."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    real = Path(sys.executable).resolve()
    places = [real, *(Path(place) / version for place in ("/usr/local/bin", "/usr/bin"))]
    for place in places:
        if place.exists() and all(parent.stat().st_mode & 0o005 == 0o005 for parent in place.parents):
            return str(place)
    return None


@pytest.mark.skipif(os.getuid() != 0, reason="already a plain user: every other test shows it")
@pytest.mark.skipif(python_for_everybody() is None, reason="no Python here that a plain user may execute")
@pytest.mark.usefixtures("machine_kind")
def test_a_plain_user_with_a_cache_of_his_own(provision: Provision) -> None:
    with tempfile.TemporaryDirectory(prefix="plain-user-") as name:
        home = Path(name)
        # Packages and harness copied: the originals may lie below a directory closed to others.
        packages = Path(pytest.__file__).parents[1]
        shutil.copytree(packages, home / "site", ignore=shutil.ignore_patterns("__pycache__", "harness"))
        shutil.copytree(CHECKOUT / "harness", home / "src" / "harness")
        for data in ("workloads", "containers"):
            shutil.copytree(CHECKOUT / data, home / "src" / data)
        shutil.copytree(provision.cache.root / "blobs", home / "cache" / "blobs")
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": name,
            "LANG": "C.UTF-8",
            "CRIU_PAC_CACHE": str(home / "cache"),
            "CRIU_PAC_OFFLINE": "1",
            "PYTHONPATH": f"{home / 'src'}:{home / 'site'}",
        }

        ran = subprocess.run(
            [str(python_for_everybody()), *REPRO[1:], "--results", str(home / "out")],
            cwd=home, env=environment, user=NOBODY, group=NOBODY, extra_groups=[],
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip

        assert ran.returncode == 0, ran.stderr
        assert outcomes(home / "out") == EXPECTED
        assert (home / "out" / "results.jsonl").stat().st_uid == NOBODY


def test_a_root_file_system_of_the_user(provision: Provision, tmp_path: Path) -> None:
    archive = tmp_path / "mine.tar"
    with RootTar(archive) as root:
        for group in ("base-debian-13", "python-debian-13"):
            root.add_packages(path for _, path in obtain(group, provision).packages)
    environment = {**os.environ, "CRIU_PAC_CACHE": str(provision.cache.root)}
    command = [*REPRO[:-1], str(archive), "--results", str(tmp_path / "out")]

    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert outcomes(tmp_path / "out") == EXPECTED


@pytest.mark.usefixtures("machine_kind")
def test_the_shell_is_a_console_in_a_fresh_clone(provision: Provision) -> None:
    environment = {**os.environ, "CRIU_PAC_CACHE": str(provision.cache.root), "TERM": "dumb"}
    shell = pexpect.spawn(
        sys.executable, ["-m", "harness", "shell", "--base", "debian-13"],
        env=environment, timeout=60, encoding="utf-8",
    )  # fmt: skip
    try:
        shell.expect("# ")
        shell.sendline("uname -m; [[ $(< /proc/cpuinfo) == *paca* ]] && echo it has PAC")
        shell.expect("aarch64")
        shell.expect("\nit has PAC")
        shell.send("\x1d")
        shell.expect(pexpect.EOF)
    finally:
        shell.close(force=True)
    assert shell.exitstatus == 0


def test_no_network_and_no_cache_is_an_error_never_a_skip(tmp_path: Path) -> None:
    environment = {**os.environ, "CRIU_PAC_CACHE": str(tmp_path / "empty"), "CRIU_PAC_OFFLINE": "1"}
    one = "tests/e2e/test_main_job.py::test_two_cycles_with_the_module"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", one],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert ran.returncode == 1
    assert "1 error" in ran.stdout
    assert "skipped" not in ran.stdout.splitlines()[-1]
    assert "offline" in ran.stdout


def test_many_clones_run_at_once(lab: Lab, machine_kind: MachineKind) -> None:
    template = lab.template(machine_kind)
    clones: list[QemuMachine] = []
    try:
        clones.extend(lab.clone(template) for _ in range(4))
        assert len({clone.directory for clone in clones}) == 4
        assert all((clone.directory.stat().st_mode & 0o777) == 0o700 for clone in clones)
    finally:
        for clone in clones:
            lab.release(clone)
    assert not any(clone.directory.exists() for clone in clones)
