"""Which template serves which machine, and how many are kept.

The artifacts are small files that stand in for memory and state of a machine; no machine runs.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS, DEFAULT_CPU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.core import steps
from harness.machines.qemu import QemuMachine
from harness.machines.qemu_config import MachineFiles
from harness.machines.template import TEMPLATE_KIND, Template, TemplateSpec
from harness.provision.cache import Cache
from harness.provision.context import Provision
from harness.provision.prepared_base import ImageKind, PreparedBase, Route
from harness.provision.settings import Settings
from harness.scenario import lab as lab_module
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.qemu_program import QemuProgram

SIZE = 8192  # bytes of a fake template's memory
BASE = PreparedBase(
    base=BASES["debian-13"],
    route=Route.PACKAGES,
    image_archive=Path("root.tar"),
    kind=ImageKind.IMPORT,
    python_layer=None,
    notes=(),
    digest="base",
)
KIND = MachineKind(cpu=DEFAULT_CPU, kernel=DEFAULT_KERNEL, base=BASE, builds=())
QEMU = QemuProgram(command=("qemu",), version="11.1.3", key="qemu-11.1.3")
FILES = MachineFiles(
    kernel=Path("kernel-key/Image"),
    initramfs=Path("kernel-key/initramfs"),
    root=Path("root-key/root.erofs"),
    tools=Path("tools-key/tools.erofs"),
)


class FakeLab(Lab):
    """A lab whose parts are names: nothing is fetched, compiled or started."""

    def __init__(self, root: Path, *, limit: int = 0) -> None:
        settings = Settings(cache_root=root, mirrors={}, snapshots={}, templates_max=limit)
        super().__init__(Provision(settings))
        self._program = QEMU
        self.parts = FILES
        self.context = b"context"

    def _files(self, kind: MachineKind) -> MachineFiles:
        return self.parts

    def build_context(self, kind: MachineKind) -> tuple[bytes, list[str]]:
        return self.context, []


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def saved(
        store: Cache,
        spec: TemplateSpec,
        prepare: Callable[[QemuMachine], Mapping[str, str]],
        started: Callable[[QemuMachine], None],
    ) -> Template:
        path = store.artifact(TEMPLATE_KIND, spec.key, lambda work: _fill(work / "ram"))
        return Template(spec=spec, path=path, facts={})

    monkeypatch.setattr(lab_module, "template", saved)
    monkeypatch.setattr(lab_module, "check_protection", lambda base: (True, True))


def _fill(path: Path) -> None:
    path.write_bytes(os.urandom(SIZE))


def key_of(lab: Lab, kind: MachineKind = KIND) -> str:
    return lab._recipe(kind)[0].key


@pytest.mark.parametrize("part", ["qemu", "kernel", "initramfs", "root", "tools", "context"])
def test_a_template_of_other_parts_is_another(tmp_path: Path, part: str) -> None:
    """So a state saved by an older QEMU, or on an older kernel, is never resumed."""
    lab, changed = FakeLab(tmp_path), FakeLab(tmp_path)
    if part == "qemu":
        changed._program = replace(QEMU, key="qemu-11.1.4")
    elif part == "context":
        changed.context = b"another workload"
    else:
        path = cast("Path", getattr(FILES, part))
        changed.parts = replace(FILES, **{part: Path("other-key") / path.name})
    assert key_of(lab) == key_of(FakeLab(tmp_path))
    assert key_of(lab) != key_of(changed)


def test_a_template_of_another_cpu_or_base_is_another(tmp_path: Path) -> None:
    lab = FakeLab(tmp_path)
    kinds = [
        KIND,
        replace(KIND, cpu=CPUS["neoverse-n1"]),
        replace(KIND, cpu=CPUS["neoverse-v1-nopauth"]),  # the same CPU, another kernel command line
        replace(KIND, base=replace(BASE, digest="another")),
    ]
    assert len({key_of(lab, kind) for kind in kinds}) == len(kinds)


def templates(root: Path) -> set[str]:
    return {path.name for path in (root / "artifacts" / TEMPLATE_KIND).glob("[!.]*")}


def make(root: Path, kinds: list[MachineKind], *, limit: int) -> list[str]:
    """Make the template of each kind in a command of its own; return their keys."""
    keys = []
    for kind in kinds:
        with FakeLab(root, limit=limit) as lab, lab.provision:
            lab.template(kind)
            keys.append(key_of(lab, kind))
    return keys


def test_templates_above_the_limit_go_the_least_recently_used_first(tmp_path: Path) -> None:
    kinds = [replace(KIND, cpu=CPUS[name]) for name in ("neoverse-v1", "neoverse-n2", "neoverse-n1")]
    first, second, third = make(tmp_path, kinds, limit=10**9)
    for at, key in enumerate((second, first, third), start=1):
        os.utime(tmp_path / "uses" / f"{TEMPLATE_KIND}-{key}", (at, at))
    told: list[str] = []
    with steps.subscribed(lambda event: told.append(event.text) if event.kind == "note" else None):
        (new,) = make(tmp_path, [replace(KIND, cpu=CPUS["max"])], limit=2 * (SIZE + 3 * 4096))
    assert templates(tmp_path) == {third, new}
    assert told == ["templates not used for longest, removed: 2 (0.0 GB)"]


def test_nothing_goes_while_no_template_is_made(tmp_path: Path) -> None:
    keys = make(tmp_path, [KIND, replace(KIND, cpu=CPUS["max"])], limit=10**9)
    make(tmp_path, [KIND], limit=0)
    assert templates(tmp_path) == set(keys)


def test_a_template_in_use_and_the_new_one_stay_whatever_the_limit(tmp_path: Path) -> None:
    (unused,) = make(tmp_path, [replace(KIND, cpu=CPUS["neoverse-n1"])], limit=10**9)
    with FakeLab(tmp_path, limit=0) as user, user.provision:
        user.template(KIND)
        assert unused not in templates(tmp_path)
        (new,) = make(tmp_path, [replace(KIND, cpu=CPUS["max"])], limit=0)
        assert templates(tmp_path) == {key_of(user), new}
    (last,) = make(tmp_path, [replace(KIND, cpu=CPUS["neoverse-n2"])], limit=0)
    assert templates(tmp_path) == {last}
