"""repro and matrix on the host itself, with a lab that runs nothing."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from harness import cli
from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS
from harness.catalogue.kernels import KERNELS
from harness.catalogue.scenario import MachineSpec
from harness.cli import backend, repro
from harness.machines import native
from harness.provision.prepared_base import ImageKind, PreparedBase, Route
from harness.reporting.jsonl import read_results
from harness.scenario.arms import Arm
from harness.scenario.fake_results import result
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult


@dataclass(slots=True, kw_only=True)
class FakeHost:
    """Stands in for NativeLab: a machine of the catalogue that gives what is predicted for it."""

    spec: MachineSpec
    qemu_version: None = None
    begun: int = 0
    closed: int = 0
    at_once: int = 0
    most_at_once: int = 0
    options: list[RunOptions] = field(default_factory=list)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        self.begun += 1

    def manifest(self) -> dict[str, Any]:
        return {"host": {"cpu": self.spec.cpu.name}}

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, arm: Arm, options: RunOptions) -> ScenarioResult:
        with self.mutex:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.options.append(options)
        made = result(arm)
        with self.mutex:
            self.at_once -= 1
        return made


def _prepared(name: str) -> PreparedBase:
    return PreparedBase(
        base=BASES[name],
        route=Route.PACKAGES,
        image_archive=Path("root.tar"),
        kind=ImageKind.IMPORT,
        python_layer=None,
        notes=("of packages",),
        digest="d" * 32,
    )


@pytest.fixture
def new_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(native, "is_aarch64", lambda: True)
    monkeypatch.setattr(native, "shows_pac", lambda: True)
    monkeypatch.setattr(native, "root_words", lambda: ())

    def make(cpu: str, kernel: str) -> FakeHost:
        fake = FakeHost(spec=MachineSpec(cpu=CPUS[cpu], kernel=KERNELS[kernel]))
        monkeypatch.setattr(backend, "open_native_lab", lambda _provision: fake)
        monkeypatch.setattr(backend, "choose_base", lambda _name, _: (_prepared("debian-13"), "of packages"))
        monkeypatch.setattr(backend, "prepare_base", lambda base, _provision: _prepared(base.name))
        monkeypatch.setattr(backend, "run_arm", lambda arm, _base, lab, options: lab.run(arm, options))
        return fake

    return make


@pytest.mark.parametrize(
    ("kernel", "arguments", "cells", "command"),
    [
        ("6.1", [], [("3.17.1", "none"), ("3.17.1", "plugin")], " --criu 3.17.1"),
        (
            "6.12",
            [],
            [("4.2.1-nopac", "none"), ("4.2.1-nopac", "plugin"), ("4.2.1", "none")],
            "",  # chosen again by whoever repeats it
        ),
        (
            "6.12",
            ["--criu", "4.2.1", "--workload", "c-threads-own-keys"],
            [("4.2.1", "none"), ("4.2.1", "plugin")],
            " --criu 4.2.1",
        ),
    ],
)
def test_arms_on_the_host_have_a_criu_that_shows_the_bug_there(
    new_host: Any,
    tmp_path: Path,
    kernel: str,
    arguments: list[str],
    cells: list[tuple[str, str]],
    command: str,
) -> None:
    fake = new_host("neoverse-v1", kernel)
    assert cli.main(["repro", "--results", "out", *arguments]) == 0
    records = read_results(tmp_path / "out" / "results.jsonl")
    assert [(one["criu_dump"], one["module"]) for one in records] == cells
    assert {(one["cpu"], one["kernel"]) for one in records} == {("neoverse-v1", kernel)}
    assert (fake.begun, fake.most_at_once) == (1, 1)
    assert fake.closed
    # One container serves all arms: it has every build.
    assert {tuple(build.name for build in one.builds) for one in fake.options} == {
        tuple(dict.fromkeys(name for name, _ in cells))
    }
    words = (tmp_path / "out" / "command.txt").read_text()
    assert words.startswith(f"criu-pac repro --machine native{command} --base debian-13 ")


def test_the_choice_is_told(new_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    new_host("neoverse-n2", "6.12")
    assert cli.main(["repro"]) == 0
    out, err = capsys.readouterr()
    assert "note: CRIU 4.2.1-nopac on this host (neoverse-n2): 3.17.1 cannot read the vDSO" in err
    assert "With a CRIU that carries the keys by itself it kept running as well." in " ".join(out.split())


@pytest.mark.parametrize("words", [["--driver", "docker"], ["--kernel", "6.1"], ["--cpu", "max"]])
def test_what_the_host_is_not_is_refused(
    new_host: Any, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    new_host("neoverse-v1", "6.1")
    assert cli.main(["repro", "--machine", "native", *words]) == 64
    assert f"{words[0]}: of an emulated machine only" in capsys.readouterr().err


def test_the_only_control_on_a_host_is_an_unprotected_userland(
    new_host: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_host("neoverse-v1", "6.1")
    assert cli.main(["repro", "--control", "--results", "out"]) == 0
    out, err = capsys.readouterr()
    records = read_results(tmp_path / "out" / "results.jsonl")
    assert [(one["arm"], one["cpu"], one["base"]) for one in records] == [
        ("stock", "neoverse-v1", "debian-13"),
        ("pac-key-module", "neoverse-v1", "debian-13"),
        ("control-unprotected", "neoverse-v1", "debian-12"),
    ]
    assert "note: a control without PAC needs another CPU: --machine qemu has it" in err
    said = " ".join(out.split())
    assert "Without signed return addresses in the program, the same dump and restore do no harm." in said
    assert "--control" in (tmp_path / "out" / "command.txt").read_text()


def test_a_kept_host_is_put_back_after_ctrl_c(
    new_host: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = new_host("neoverse-v1", "6.1")

    def interrupted(_seconds: float) -> None:
        assert not fake.closed
        raise KeyboardInterrupt

    monkeypatch.setattr(repro, "time", SimpleNamespace(sleep=interrupted))
    assert cli.main(["repro", "--keep"]) == 0
    assert {one.keep for one in fake.options} == {True}
    assert fake.closed
    assert "this host is kept as the last arm left it; Ctrl-C puts it back" in capsys.readouterr().err


def test_a_dump_for_another_host_names_a_criu_that_is_the_same_there(
    new_host: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = new_host("neoverse-v1", "6.1")
    assert cli.main(["dump", "--to", "out", "--criu", "system"]) == 64
    assert "--criu system: the other host has one of its own" in capsys.readouterr().err
    assert fake.begun == 0
    assert not (tmp_path / "out").exists()


def test_a_host_without_pac_shows_nothing(new_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake = new_host("neoverse-n1", "6.1")
    assert cli.main(["repro", "--machine", "native"]) == 3
    assert "This cell cannot show the bug" in " ".join(capsys.readouterr().out.split())
    assert fake.closed


def test_a_matrix_on_the_host_has_the_hosts_cpu_and_kernel_only(
    new_host: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = new_host("neoverse-v1", "6.1")
    words = ["matrix", "--machine", "native", "--results", "out", "--selection", "smoke"]
    assert cli.main([*words, "--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert fake.begun == 0, "looking at the cells changes nothing of the host"
    assert len(listed) > 3
    assert all("-k6.1-neoverse-v1-" in one for one in listed)
    assert cli.main(words) == 0
    assert (fake.begun, fake.most_at_once) == (1, 1)
    assert sorted(one["id"] for one in read_results(tmp_path / "out" / "results.jsonl")) == sorted(listed)
    assert (tmp_path / "out" / "command.txt").read_text().startswith("criu-pac matrix --machine native ")


@pytest.mark.parametrize(
    "words", [["--driver", "docker"], ["--cpu", "max"], ["--kernel", "6.12"], ["-n", "2"], ["--qemu", "q"]]
)
def test_a_matrix_on_the_host_refuses_what_it_is_not(
    new_host: Any, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    new_host("neoverse-v1", "6.1")
    assert cli.main(["matrix", "--machine", "native", *words]) == 64
    assert words[0] in capsys.readouterr().err
