"""The lab in which the host itself is the machine, for one arm at a time."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.catalogue.criu_builds import CRIU_BUILDS, CriuBuild
from harness.catalogue.scenario import Driver, MachineSpec
from harness.catalogue.workloads import Workload
from harness.core import process
from harness.core.closing import Closing
from harness.core.deadline import Deadline
from harness.core.errors import HostError, MachineError, NoPacError, UsageError
from harness.core.rundir import RunDirectory
from harness.guest.container import TOOLS
from harness.guest.native import NativeHost, Tool
from harness.guest.prepare import ContainerImage
from harness.guest.probe import probe_key
from harness.guest.probe_results import MachineFacts, parse
from harness.guest.workload import load_workload
from harness.key_module.build import plugin_key
from harness.machines.native import NativeMachine, docker_url, is_aarch64, root_words, shows_pac
from harness.machines.template import Facts
from harness.provision.base_protection import LIBC_PATHS, check_protection
from harness.provision.context import Provision
from harness.provision.guest_image import content_key
from harness.provision.prepared_base import ImageKind, PreparedBase
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.observed_machine import host_seen

_CONTROL_WORKLOAD = "python-sleeper"
# CRIU 3.17.1 asks a vDSO for DT_HASH, which kernel commit 48f6430505c0 took away (facts of known_issues).
_VDSO_WITHOUT_DT_HASH = (6, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedHost:
    """A container of the host with what was observed in it."""

    facts: Facts


class NativeLab(Closing):
    """The host as machine, looked at when made and changed after ``begin``.

    ``close`` puts back everything that was changed; from any thread. Raises HostError where the
    host cannot be a machine, NoPacError where it would show nothing.
    """

    def __init__(self, provision: Provision) -> None:
        self.provision = provision
        self._parts = Lab(provision)  # of the emulated machines' lab: it builds, and starts nothing
        self._mutex = threading.Lock()
        self._closed = False
        self._prepared: dict[tuple[str, ...], PreparedHost] = {}
        if not is_aarch64():
            raise HostError("this host is no aarch64 machine", hint="emulate one: --machine qemu")
        if not shows_pac():
            raise NoPacError(
                "neither the bug nor its cure can be shown here: kernel and CPU of this host offer no "
                "pointer authentication (no paca in /proc/cpuinfo)",
                hint="emulate a machine that has it: --machine qemu",
            )
        self._probe = next(part.path for part in self._parts.tools(()) if part.place == "bin/pacprobe")
        self.facts = _probed(self._probe)
        self.spec = host_seen(self.facts)
        self._root = root_words()
        self._directory: RunDirectory | None = None
        self._begun: NativeHost | None = None

    def begin(self) -> None:
        """Make the host ready; raises HostError and EngineError where it lacks something."""
        self._directory = RunDirectory.create()
        machine = NativeMachine(self._root, self._directory.path, docker_url())
        self._begun = NativeHost(machine, self._root, self._probe)

    @property
    def _host(self) -> NativeHost:
        if self._begun is None:
            raise HostError("this host has not been made ready to be a machine")
        return self._begun

    @property
    def qemu_version(self) -> None:
        """Nothing is emulated."""
        return

    def check_workload(self, workload: Workload) -> None:
        """Compile a workload, to raise the WorkloadError of one that does not."""
        self._parts.check_workload(workload)

    def template(self, kind: MachineKind) -> PreparedHost:
        """Return a container of the host for ``kind``, made when there is none."""
        if MachineSpec(cpu=kind.cpu, kernel=kind.kernel) != self.spec:
            raise UsageError("the host is one machine: it has its own CPU and its own kernel")
        if kind.driver is not Driver.CRIU:
            raise UsageError(
                f"--driver {kind.driver.value} would replace the CRIU of this host",
                hint="take --driver criu, or emulate: --machine qemu",
            )
        builds, workloads = ([one.spelled for one in kind.builds], [one.spelled for one in kind.workloads])
        key = (kind.base.digest, *sorted(builds), *sorted(workloads))
        with self._mutex:
            self._check_open()
            if key not in self._prepared:
                if kind.base.base.tar:  # of one in the catalogue it is known, and seen in the container
                    check_protection(kind.base)
                self._prepared[key] = PreparedHost(facts=self._prepare(kind))
            return self._prepared[key]

    def _prepare(self, kind: MachineKind) -> dict[str, str]:
        context, workloads = self._parts.build_context(kind)
        image = ContainerImage(
            reference=kind.base.reference,
            archive=kind.base.image_archive,
            is_image_archive=kind.base.kind is ImageKind.LOAD,
            context=context,
        )
        tools = [
            Tool(place=f"{TOOLS}/{part.place}", path=part.path) for part in self._parts.tools(kind.builds)
        ]
        programs = [kind.base.base.interpreter, *(f"/{path}" for path in LIBC_PATHS), *workloads]
        builds = {build.name: build for build in kind.builds}
        return self._host.prepare(image, tools, builds, load_workload(_CONTROL_WORKLOAD), programs)

    def userland(self, base: PreparedBase) -> str:
        """Return a digest of what a container of ``base`` is made of."""
        kind = MachineKind(cpu=self.spec.cpu, kernel=self.spec.kernel, base=base, builds=())
        context, _ = self._parts.build_context(kind)
        return content_key(base.digest, hashlib.sha256(context).hexdigest())

    def clone(self, made: PreparedHost) -> NativeMachine:
        """Return the host, with nothing of an earlier arm left in its container."""
        self._check_open()
        self._host.begin_arm(made.facts)
        return self._host.machine

    def release(self, machine: NativeMachine) -> None:
        """Do nothing: the next arm clears up before it begins, ``close`` after the last."""

    def manifest(self) -> dict[str, Any]:
        """Return versions and digests of everything used, and what the host is, for the evidence."""
        return {
            "host": {"cpu": self.spec.cpu.name, "kernel": self.facts.release, "midr": self.facts.midr},
            "packages": self.provision.used,
            "probe": probe_key(),
            "key_module": plugin_key(),
            "notes": list(self.provision.notes),
            "bytes_downloaded": self.provision.fetcher.bytes_downloaded,
        }

    def close(self) -> None:
        """Put everything back; arms under way fail. Idempotent, from any thread."""
        self._closed = True
        if self._begun:
            self._begun.machine.close()
        with self._mutex:  # whoever prepares a container fails at its next command
            try:
                if self._begun:
                    self._begun.close()
            finally:
                if self._directory:
                    self._directory.close()

    def _check_open(self) -> None:
        if self._closed:
            raise MachineError("the command is ending; no machine is prepared any more")


def _probed(probe: Path) -> MachineFacts:
    """Return what the probe sees of the host; needs no root."""
    answer = process.run([probe, "machine"], Deadline.after(20, "probe of the host"))
    return parse(MachineFacts, "machine", answer.text or answer.error_text)


def builds_that_show(spec: MachineSpec) -> tuple[CriuBuild, CriuBuild | None, str]:
    """Return the CRIU that shows the bug on this machine, one to compare with (or None), and why."""
    name, release = spec.cpu.name, spec.kernel.name
    end = "SIGILL: the core traps a failed authentication (FPAC)" if spec.cpu.fpac else "SIGSEGV, a signed PC"
    if spec.kernel.version < _VDSO_WITHOUT_DT_HASH:
        build, beside = CRIU_BUILDS["3.17.1"], None
        why = f"it leaves PAC keys alone and runs on this kernel ({release}, before 6.11)"
    else:
        build, beside = CRIU_BUILDS["4.2.1-nopac"], CRIU_BUILDS["4.2.1"]
        why = f"3.17.1 cannot read the vDSO of this kernel ({release}, 6.11 or later), so a {build.label}"
        why += ", beside 4.2.1 as it is (what that loses: --criu 4.2.1 --workload c-threads-own-keys)"
    return build, beside, f"CRIU {build.name} on this host ({name}): {why}; without keys it ends in {end}"
