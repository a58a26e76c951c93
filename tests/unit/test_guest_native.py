"""The host made ready and put back: files in the place of settings, an engine that only remembers."""

import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from harness.core.errors import EngineError, HostError
from harness.core.rundir import UNDO
from harness.guest import native
from harness.guest.engine import DockerEngine, tar_of
from harness.guest.native import LABEL, Undo, check_engine, layers, put_back
from harness.machines.native import NativeMachine, boot_id

TOKEN = "0123456789abcdef"


@dataclass(slots=True)
class FakeEngine:
    """Stands in for a Docker Engine: names by image id, containers and images by label. Runs nothing."""

    tags: dict[str, str] = field(default_factory=dict)
    labelled: list[str] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    down: bool = False

    def client(self) -> Any:
        def listed(**words: Any) -> list[Any]:
            if self.down:
                raise docker.errors.APIError("no answer")
            self.asked.append(words["filters"])
            return [
                SimpleNamespace(id=one, remove=lambda one=one, **_: self.gone.append(one))
                for one in self.labelled
            ]

        def get(name: str) -> Any:
            if name not in self.tags and name not in self.tags.values():
                raise docker.errors.ImageNotFound(name)
            found = self.tags.get(name, name)
            return SimpleNamespace(id=found, tag=lambda reference: self.tags.update({reference: found}))

        def remove(name: str, **_: Any) -> None:
            self.tags.pop(name, None)
            self.gone.append(name)

        images = SimpleNamespace(list=listed, get=get, remove=remove)
        return SimpleNamespace(containers=SimpleNamespace(list=listed), images=images, close=lambda: None)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(docker, "DockerClient", lambda **_: fake.client())
    monkeypatch.setattr(native, "WORK", str(tmp_path / "no-work"))
    return fake


def undo(tmp_path: Path, **more: Any) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    facts: dict[str, Any] = {
        "token": TOKEN,
        "root": [],
        "engine_url": "unix:///nowhere",
        "boot_id": boot_id(),
    }
    Undo(**{**facts, **more}).save(directory)
    return directory


def test_settings_are_put_back_unless_somebody_has_changed_them_since(
    tmp_path: Path, engine: FakeEngine
) -> None:
    ours, theirs = tmp_path / "core_pattern", tmp_path / "core_pipe_limit"
    ours.write_text("|/run/criu-pac/core-handler %P\n")
    theirs.write_text("7\n")
    settings = {
        str(ours): ["|/usr/lib/systemd/systemd-coredump %P %u", "|/run/criu-pac/core-handler %P"],
        str(theirs): ["0", "16"],
    }
    directory = undo(tmp_path, settings=settings)
    put_back(directory)
    assert ours.read_text() == "|/usr/lib/systemd/systemd-coredump %P %u\n"
    assert theirs.read_text() == "7\n"
    assert not (directory / UNDO).exists()


def test_another_boot_has_its_own_settings(tmp_path: Path, engine: FakeEngine) -> None:
    setting = tmp_path / "core_pattern"
    setting.write_text("ours\n")
    engine.labelled = ["container"]
    directory = undo(tmp_path, settings={str(setting): ["old", "ours"]}, boot_id="another")
    put_back(directory)
    assert setting.read_text() == "ours\n"
    assert "container" in engine.gone
    assert not (directory / UNDO).exists()


def test_what_is_labelled_goes_and_names_go_back(tmp_path: Path, engine: FakeEngine) -> None:
    engine.labelled = ["one"]
    engine.tags = {"ubuntu:24.04": "loaded", "criu-pac-native:base": "loaded", "kept:1": "before"}
    tags = {"ubuntu:24.04": "before", "criu-pac-native:base": None, "never-there:1": None}
    put_back(undo(tmp_path, tags=tags))
    assert engine.asked == [{"label": f"{LABEL}={TOKEN}"}] * 2
    assert engine.gone == ["one", "criu-pac-native:base", "one"]
    assert engine.tags == {"ubuntu:24.04": "before", "kept:1": "before"}


def test_an_engine_that_does_not_answer_leaves_it_to_the_next_command(
    tmp_path: Path, engine: FakeEngine
) -> None:
    engine.down = True
    setting = tmp_path / "setting"
    setting.write_text("ours\n")
    directory = undo(tmp_path, settings={str(setting): ["old", "ours"]})
    with pytest.raises(EngineError, match="no answer"):
        put_back(directory)
    assert setting.read_text() == "old\n"
    assert (directory / UNDO).exists()
    engine.down = False
    put_back(directory)
    assert not (directory / UNDO).exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"token": 1, "unknown": 2})])
def test_a_damaged_record_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / UNDO).write_text(text)
    with pytest.raises(HostError, match=r"undo\.json cannot be read"):
        put_back(tmp_path)
    assert (tmp_path / UNDO).exists()


def test_a_work_directory_of_another_run_stays(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "owner").write_text("fedcba9876543210\n")
    monkeypatch.setattr(native, "WORK", str(work))
    monkeypatch.setattr(native, "_OWNER", str(work / "owner"))
    put_back(undo(tmp_path))
    assert (work / "owner").exists()


@pytest.mark.parametrize(("own", "handled"), [(True, True), (False, False)])
def test_cores_of_other_tasks_are_not_looked_at(tmp_path: Path, *, own: bool, handled: bool) -> None:
    probe = tmp_path / "pacprobe"
    probe.write_text(f'#!/bin/bash\nprintf "%s|" "$@" > {tmp_path}/called\n')
    probe.chmod(0o755)
    namespaces = f"pid:[1] {Path('/proc/self/ns/pid').readlink()}" if own else "pid:[1] pid:[2]"
    text = native._HANDLER_TEXT.format(namespaces=namespaces, work=tmp_path, cores="/c", salt="/s")
    subprocess.run(["bash", "-c", text, "handler", str(os.getpid()), "7", "11", "my prog"], check=False)
    assert (tmp_path / "called").exists() is handled
    if handled:
        words = ["core", "--dir", "/c", "--salt", "/s", str(os.getpid()), "7", "11", "my prog"]
        assert (tmp_path / "called").read_text() == "".join(f"{word}|" for word in words)


def test_the_layers_of_a_build_context_are_those_of_its_dockerfile() -> None:
    python = tar_of({"usr/bin/python3": b"elf"})
    files = {"Dockerfile": b"FROM x\n", "python.tar": python, "workloads/a/a.py": b"print()\n"}
    first, second = layers(tar_of(files))
    assert first == python
    with tarfile.open(fileobj=io.BytesIO(second)) as archive:
        assert archive.getnames() == ["opt/workloads/a/a.py"]
    assert len(layers(tar_of({"workloads/a/a.py": b""}))) == 1


def test_the_line_for_cores_is_short_enough_for_the_kernel() -> None:
    assert len(native._SETTINGS["/proc/sys/kernel/core_pattern"]) < 128


def test_an_engine_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    machine = SimpleNamespace(docker_url=f"unix://{tmp_path}/no.sock")
    with pytest.raises(EngineError, match=r"connection to unix:///.*no\.sock failed"):
        DockerEngine(machine, version="auto")


@pytest.mark.parametrize("kind", ["rootless", "userns"])
def test_an_engine_without_real_root_is_refused(engine: FakeEngine, kind: str) -> None:
    machine = NativeMachine((), Path("/nowhere"), "unix:///nowhere")
    connected = DockerEngine(machine)
    options = ["name=seccomp,profile=builtin", f"name={kind}"]
    connected.client = SimpleNamespace(info=lambda: {"SecurityOptions": options})  # type: ignore[assignment]
    with pytest.raises(HostError, match=f"the container engine is {kind}.*DOCKER_HOST"):
        check_engine(connected)
    options.pop()
    check_engine(connected)
