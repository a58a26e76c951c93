"""Templates: a machine booted and prepared once, saved stopped, and cloned in a third of a second.

The memory of the machine is a sparse file. The template's QEMU maps it shared; clones map it
privately, so they share its pages until they write to them, and can run any number at once.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, MachineError, StorageError
from harness.machines.qemu import QemuMachine
from harness.machines.qemu_config import MEMORY_MIB, MachineFiles

log = logging.getLogger(__name__)

TEMPLATE_KIND = "template"  # the kind of artifact in the cache
BOOT_SECONDS = 120.0
_SAVE_SECONDS = 60.0
_RAM, _STATE, _FACTS = "ram", "state", "facts.json"

Facts = Mapping[str, str]


class ArtifactStore(Protocol):
    """What a template needs of the cache (provision.cache.Cache)."""

    def artifact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Return the directory ``kind``/``key``, building it once if nobody has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSpec:
    """What a template is made from.

    ``key`` covers everything that goes in (QEMU, kernel, images, preparation), so that a
    saved state is never resumed by another QEMU or on another kernel.
    """

    key: str
    program: tuple[str, ...]
    cpu: str
    files: MachineFiles
    kernel_arguments: str = ""
    memory_mib: int = MEMORY_MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A saved machine at ``path``, with the ``facts`` its preparation returned."""

    spec: TemplateSpec
    path: Path
    facts: Facts

    def clone(self, deadline: Deadline) -> QemuMachine:
        """Return a running clone, its agent connected; its clock and random numbers are the template's.

        Give it new ones (guest.probe) before anything that depends on either.
        """
        machine = QemuMachine.start(
            program=self.spec.program,
            cpu=self.spec.cpu,
            files=self.spec.files,
            ram=self.path / _RAM,
            ram_shared=False,
            incoming=True,
            kernel_arguments=self.spec.kernel_arguments,
            memory_mib=self.spec.memory_mib,
        )
        try:
            with machine.monitor() as monitor:
                monitor.migrate("migrate-incoming", self.path / _STATE, deadline)
                monitor.execute("cont")
            machine.agent.connect(deadline)
        except HarnessError as error:
            log_path = error.log or machine.keep_log()
            machine.close()
            raise MachineError(
                f"the template {self.path} cannot be resumed: {error.message}",
                hint="if this happens again, remove it with: criu-pac cache prune",
                log=log_path,
            ) from error
        except BaseException:
            machine.close()
            raise
        return machine


def cold_boot(
    spec: TemplateSpec, directory: Path, started: Callable[[QemuMachine], None] = lambda _: None
) -> QemuMachine:
    """Return a machine booted from nothing, with its memory file in ``directory``.

    ``started`` is told of the machine before its boot. Raises BootError, MachineDiedError,
    StorageError, DeadlineError and HostError.
    """
    machine = QemuMachine.start(
        program=spec.program,
        cpu=spec.cpu,
        files=spec.files,
        ram=directory / _RAM,
        ram_shared=True,
        incoming=False,
        kernel_arguments=spec.kernel_arguments,
        memory_mib=spec.memory_mib,
    )
    try:
        started(machine)
        with steps.step("boot"), _explained(machine):
            machine.boot(Deadline.after(BOOT_SECONDS, "boot of the machine"))
    except BaseException:
        machine.close()
        raise
    return machine


def template(
    store: ArtifactStore,
    spec: TemplateSpec,
    prepare: Callable[[QemuMachine], Facts],
    started: Callable[[QemuMachine], None] = lambda _: None,
) -> Template:
    """Return the template of ``spec``, made once: boot, ``prepare``, stop, save.

    ``started`` is told of the machine before its boot, to be able to close it from another
    thread. Raises what boot and ``prepare`` raise; nothing half made is ever seen by others.
    """

    def build(work: Path) -> None:
        with steps.step(f"template {spec.cpu}"), cold_boot(spec, work, started) as machine:
            with _explained(machine):
                facts = prepare(machine)
                with steps.step("save"), machine.monitor() as monitor:
                    monitor.execute("stop")
                    monitor.migrate(
                        "migrate", work / _STATE, Deadline.after(_SAVE_SECONDS, "saving the template")
                    )
            (work / _FACTS).write_text(json.dumps(dict(facts), indent=1, sort_keys=True), "utf-8")

    path = store.artifact(TEMPLATE_KIND, spec.key, build)
    try:
        facts = json.loads((path / _FACTS).read_text("utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"{_FACTS} holds no object")  # noqa: TRY004, TRY301 -- one error for all damage
    except (OSError, ValueError) as error:
        raise StorageError(
            f"the template {path} is damaged: {error}", hint="remove it with: criu-pac cache prune"
        ) from error
    return Template(spec=spec, path=path, facts=facts)


@contextmanager
def _explained(machine: QemuMachine) -> Iterator[None]:
    """Name a log in every error, one that outlives the machine."""
    try:
        yield
    except HarnessError as error:
        error.log = error.log or machine.keep_log(of_guest=True)
        raise
