"""The lab: everything scenarios are run with, made once and shared by the arms of a command."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.catalogue.cpus import CpuModel
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.scenario import Driver, Scenario
from harness.catalogue.workloads import Workload
from harness.core import steps
from harness.core.closing import Closing
from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, HostError, MachineError, StorageError, WorkloadError
from harness.core.resources import data_directory
from harness.guest.criu import MASK_NAME, build_mask, mask_key
from harness.guest.engine import tar_of
from harness.guest.prepare import ContainerImage, prepare
from harness.guest.probe import Probe, build_probe, probe_key
from harness.guest.workload import available_workloads, load_workload, workload_directory
from harness.key_module.build import PLUGIN_NAME, build_plugin, plugin_key
from harness.machines.qemu import QemuMachine
from harness.machines.qemu_config import MachineFiles
from harness.machines.template import TEMPLATE_KIND, Template, TemplateSpec, cold_boot, template
from harness.provision.base_protection import LIBC_PATHS, check_protection
from harness.provision.bundle import bundle
from harness.provision.context import Provision
from harness.provision.criu_binary import files_of
from harness.provision.guest_image import (
    GUEST_GROUP,
    PODMAN_GROUP,
    Part,
    boot_files,
    content_key,
    root_image,
    tools_image,
    userland_archive,
)
from harness.provision.kernel_tree import tree_boot_files
from harness.provision.prepared_base import ImageKind, PreparedBase
from harness.provision.toolchain import AARCH64_LINUX, compile_c, source_key
from harness.scenario.options import RunOptions
from harness.scenario.qemu_program import QemuProgram, bundled_qemu, qemu_at

_PREPARATION = "1"  # raise when what a template holds changes without its parts changing
_COMPILED = {"c": "*.c", "c++": "*.cpp"}
_CONTROL_WORKLOAD = "python-sleeper"
CLONE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineKind:
    """What a template is made for.

    ``driver`` decides which engines its guest system has; ``workloads`` are in its container besides
    those that are in every one.
    """

    cpu: CpuModel
    kernel: Kernel
    base: PreparedBase
    builds: tuple[CriuBuild, ...]
    driver: Driver = Driver.CRIU
    workloads: tuple[Workload, ...] = ()

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages of its base that its container has besides Python."""
        wanted = {one.packages for one in self.workloads}
        return tuple(name for name in self.base.base.packages if name in wanted)

    @property
    def guest_group(self) -> str:
        """The package group of the guest system: podman is large and only in the one that needs it."""
        return PODMAN_GROUP if self.driver is Driver.PODMAN else GUEST_GROUP


def kinds_of(cell: Scenario, base: PreparedBase, options: RunOptions) -> tuple[MachineKind, MachineKind]:
    """Return the kinds of machine that a scenario is dumped and restored in."""
    builds = {one.name: one for one in (*options.builds, cell.criu_dump, cell.criu_restore)}
    wanted = {one.name: one for one in (*options.workloads, cell.workload) if not one.in_every_machine}
    workloads = [one for one in wanted.values() if one.packages in {None, *cell.base.packages}]
    source, target = (
        MachineKind(
            cpu=spec.cpu,
            kernel=spec.kernel,
            base=base,
            builds=tuple(builds.values()),
            driver=cell.driver,
            workloads=tuple(workloads),
        )
        for spec in (cell.source, cell.target)
    )
    return source, target


class Lab(Closing):
    """Programs, images and templates, and the machines running from them.

    Use as a context manager; ``close`` may be called from any thread and ends every machine.
    ``qemu`` is another QEMU than the provided one.
    """

    def __init__(self, provision: Provision, *, qemu: Path | None = None) -> None:
        self.provision = provision
        self._given_qemu = qemu
        self._program: QemuProgram | None = None
        self._machines: set[QemuMachine] = set()
        self._closed = False
        self._mutex = threading.Lock()
        self._template_locks: dict[str, threading.Lock] = {}

    @property
    def qemu(self) -> QemuProgram:
        """The QEMU machines run on; HostError when the given one lacks something."""
        with self._mutex:
            if self._program is None:
                self._program = (
                    qemu_at(self._given_qemu) if self._given_qemu else bundled_qemu(self.provision)
                )
            return self._program

    @property
    def qemu_version(self) -> str:
        """Version of QEMU, as in "11.1.3"."""
        return self.qemu.version

    def template(self, kind: MachineKind) -> Template:
        """Return the template for ``kind``, made when nobody has; raises what making it raises."""
        spec, prepared = self._recipe(kind)
        with self._template_lock(spec.key):
            is_new = self.provision.cache.existing_artifact(TEMPLATE_KIND, spec.key) is None
            if is_new:
                # A base that signs nothing is refused here, not after a minute of booting.
                check_protection(kind.base)
            made = template(self.provision.cache, spec, prepared, started=self._register)
            if is_new:
                self._make_room()
            return made

    def _make_room(self) -> None:
        """Remove the least recently used templates above the limit; those in use, like a new one, stay."""
        removed = self.provision.cache.prune_kind(TEMPLATE_KIND, self.provision.settings.templates_max)
        if removed:
            freed = sum(entry.size for entry in removed) / 1e9
            steps.note(f"templates not used for longest, removed: {len(removed)} ({freed:.1f} GB)")

    def boot(self, spec: TemplateSpec, directory: Path) -> QemuMachine:
        """Return a machine booted from nothing and not prepared; its memory file is in ``directory``."""
        return cold_boot(spec, directory, started=self._register)

    def cold_machine(self, kind: MachineKind, directory: Path) -> QemuMachine:
        """Return a machine made the way a template is, to compare; its memory file is in ``directory``."""
        spec, prepared = self._recipe(kind)
        machine = self.boot(spec, directory)
        try:
            prepared(machine)
        except BaseException:
            machine.close()
            raise
        self._register(machine)
        return machine

    def _recipe(self, kind: MachineKind) -> tuple[TemplateSpec, Callable[[QemuMachine], Mapping[str, str]]]:
        """Return what a template is made from, and how the machine is prepared."""
        files = self._files(kind)
        context, workloads = self.build_context(kind)
        key = content_key(
            *(
                _PREPARATION,
                *self.qemu.key_of(kind.cpu),
                *(_artifact_name(path) for path in _paths(files)),
            ),
            *(kind.base.digest, hashlib.sha256(context).hexdigest()),
        )
        image = ContainerImage(
            reference=kind.base.reference,
            archive=kind.base.image_archive,
            is_image_archive=kind.base.kind is ImageKind.LOAD,
            context=context,
        )
        programs = [kind.base.base.interpreter, *(f"/{path}" for path in LIBC_PATHS), *workloads]
        builds = {build.name: build for build in kind.builds}

        def prepared(machine: QemuMachine) -> Mapping[str, str]:
            self._register(machine)
            try:
                return prepare(machine, image, builds, load_workload(_CONTROL_WORKLOAD), programs)
            finally:
                self._machines.discard(machine)

        spec = TemplateSpec(
            key=key,
            program=self.qemu.command,
            cpu=kind.cpu.qemu,
            files=files,
            kernel_arguments=kind.cpu.boot,
        )
        return spec, prepared

    def clone(self, made: Template) -> QemuMachine:
        """Return a running clone with the host's time and random numbers of its own."""
        self._check_open()
        machine = made.clone(Deadline.after(CLONE_SECONDS, "start of a clone"))
        self._register(machine)
        try:
            Probe(machine).new_identity(Deadline.after(CLONE_SECONDS, "identity of a clone"))
        except BaseException:
            self.release(machine)
            raise
        return machine

    def release(self, machine: QemuMachine) -> None:
        """End a machine. Idempotent."""
        self._machines.discard(machine)
        machine.close()

    def clone_for_shell(
        self, cpu: CpuModel, kernel: Kernel, base: PreparedBase, build: CriuBuild
    ) -> QemuMachine:
        """Return a fresh clone to be used by hand."""
        return self.clone(self.template(MachineKind(cpu=cpu, kernel=kernel, base=base, builds=(build,))))

    def manifest(self) -> dict[str, Any]:
        """Return versions and digests of everything used, for the evidence."""
        return {
            "qemu": {"version": self.qemu.version, "key": self.qemu.key},
            "packages": self.provision.used,
            "probe": probe_key(),
            "key_module": plugin_key(),
            "notes": list(self.provision.notes),
            "bytes_downloaded": self.provision.fetcher.bytes_downloaded,
        }

    def close(self) -> None:
        """End every machine; later attempts to start one fail. Idempotent, from any thread."""
        with self._mutex:
            self._closed = True
            doomed = list(self._machines)
            self._machines.clear()
        for machine in doomed:
            with contextlib.suppress(HarnessError):
                machine.close()

    def _register(self, machine: QemuMachine) -> None:
        with self._mutex:
            if not self._closed:
                self._machines.add(machine)
                return
        machine.close()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise MachineError("the command is ending; no machine is started any more")

    def _template_lock(self, key: str) -> threading.Lock:
        with self._mutex:
            return self._template_locks.setdefault(key, threading.Lock())

    def _files(self, kind: MachineKind) -> MachineFiles:
        return self.files(kind.kernel, kind.guest_group, kind.builds)

    def files(self, kernel: Kernel, guest_group: str, builds: Iterable[CriuBuild]) -> MachineFiles:
        """Return what a machine boots from, made when nobody has."""
        if kernel.path:
            boot = tree_boot_files(self.provision, kernel)
        else:
            boot = boot_files(self.provision, kernel.package_group, kernel.modules)
        return MachineFiles(
            kernel=boot.kernel,
            initramfs=boot.initramfs,
            root=root_image(self.provision, guest_group),
            tools=tools_image(self.provision, self.tools(builds)),
        )

    def tools(self, builds: Iterable[CriuBuild]) -> list[Part]:
        """Return what has its place below TOOLS: probe, key module, mask, and the bundles of ``builds``."""
        cache = self.provision.cache
        probe = cache.artifact(
            "probe", probe_key()[:32], lambda work: _built(build_probe, work / "pacprobe", cache.root)
        )
        module = cache.artifact(
            "key-module", plugin_key()[:32], lambda work: _built(build_plugin, work / PLUGIN_NAME, cache.root)
        )
        mask = cache.artifact(
            "mask-pac", mask_key()[:32], lambda work: _built(build_mask, work / MASK_NAME, cache.root)
        )
        none = cache.artifact("no-plugins", "empty", lambda _: None)
        parts = [
            Part(place="bin/pacprobe", path=probe / "pacprobe", digest=probe_key()),
            Part(
                place=f"plugins/pac-key-module/{PLUGIN_NAME}", path=module / PLUGIN_NAME, digest=plugin_key()
            ),
            Part(place="plugins/none", path=none, digest="empty"),
            Part(place=f"lib/{MASK_NAME}", path=mask / MASK_NAME, digest=mask_key()),
        ]
        for build in sorted({one.package_group: one for one in builds}.values(), key=_group):
            place = f"criu/{build.package_group}"
            if build.path:
                # The group of such a build tells its content.
                files = files_of(build)
                parts += [Part(place=place + at, path=path, digest=_group(build)) for at, path in files]
            else:
                root = bundle(build.package_group, self.provision).root
                parts.append(Part(place=place, path=root, digest=root.name))
        return parts

    def check_workload(self, workload: Workload) -> None:
        """Compile a workload, to raise the WorkloadError of one that a template has to do without."""
        if workload.language in _COMPILED:
            self._compiled(workload)

    def _usable(self, workloads: Iterable[Workload]) -> Iterator[Workload]:
        """Yield the workloads that compile: a broken one must not stop the scenarios of the others."""
        for workload in workloads:
            with contextlib.suppress(WorkloadError):
                self.check_workload(workload)
                yield workload

    def build_context(self, kind: MachineKind) -> tuple[bytes, list[str]]:
        """Return the docker build context and the compiled workloads' places in the container."""
        base = kind.base
        place = data_directory("containers") / ("user" if base.base.tar else base.base.name)
        recipe = (place / "Dockerfile").read_text("utf-8")
        files = {}
        for name in kind.packages:
            layer = userland_archive(self.provision, base.base.group_of(name), whole=False)
            files[f"{name}.tar"] = layer.read_bytes()
            recipe += f"ADD {name}.tar /\n"
        files["Dockerfile"] = recipe.encode()
        if base.python_layer:
            files["python.tar"] = base.python_layer.read_bytes()
        programs = []
        common = (one for one in map(load_workload, available_workloads()) if one.in_every_machine)
        for workload in (*common, *self._usable(kind.workloads)):
            name = workload.name
            # Files only: pip compiles the Python among them into a __pycache__ beside it.
            for path in sorted(path for path in workload_directory(workload).iterdir() if path.is_file()):
                files[f"workloads/{name}/{path.name}"] = path.read_bytes()
            if workload.language in _COMPILED:
                files[f"workloads/{name}/{name}"] = self._compiled(workload).read_bytes()
                programs.append(f"/opt/workloads/{name}/{name}")
        return tar_of(
            files, executable=lambda path: path.rsplit("/", 1)[-1] in path.split("/")[:-1]
        ), programs

    def _compiled(self, workload: Workload) -> Path:
        directory = workload_directory(workload)
        sources = sorted(directory.glob(_COMPILED[workload.language]))
        include = data_directory("workloads") / "include"
        protection = f"-mbranch-protection={workload.branch_protection}"
        flags = ("-O2", "-pthread", protection, "-fno-omit-frame-pointer")
        cache = self.provision.cache

        def build(work: Path) -> None:
            with steps.step(f"compile {workload.name}"):
                compile_c(
                    sources,
                    work / workload.name,
                    target=AARCH64_LINUX,
                    flags=(*flags, f"-I{include}"),
                    cache_root=cache.root / "zig",
                )

        headers = [*directory.glob("*.h"), *include.glob("*.h")]
        key = source_key([*sources, *headers], AARCH64_LINUX, *flags)[:32]
        try:
            return cache.artifact("workload", key, build) / workload.name
        except StorageError:
            raise
        except HostError as error:
            raise WorkloadError(f"workload {workload.spelled} does not compile: {error.message}") from error


def _group(build: CriuBuild) -> str:
    return build.package_group


def _built(build: Any, output: Path, cache_root: Path) -> None:
    build(output, cache_root / "zig")


def _paths(files: MachineFiles) -> tuple[Path, ...]:
    return (files.kernel, files.initramfs, files.root, files.tools)


def _artifact_name(path: Path) -> str:
    # An artifact's directory is named by the digest of what it was made from.
    return path.parent.name
