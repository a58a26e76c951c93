"""CRIU in the scenario container: one bundle, one private plugin directory, dump and restore."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError, MachineDiedError, MachineError
from harness.guest.container import IMAGES, TOOLS, Container
from harness.parsing.criu_log import CriuLog, parse_criu_log
from harness.provision.toolchain import AARCH64_LINUX, compile_c, source_key

# Both arms name a plugin directory; the one without the module is empty. The module is the
# only difference between them, and a plugin of the system is never loaded by accident.
NO_PLUGINS = f"{TOOLS}/plugins/none"
KEY_MODULE = f"{TOOLS}/plugins/pac-key-module"

# glibc registers rseq since 2.35. On a kernel that does not tell its registration (before 5.13,
# PTRACE_GET_RSEQ_CONFIGURATION) CRIU cannot dump a task that has it (cr-dump.c), and a task that it
# restores is killed when the registration it has from CRIU is unmapped.
WITHOUT_RSEQ = "GLIBC_TUNABLES=glibc.pthread.rseq=0"

# Preloaded into the builds that have PAC hidden from them (CriuBuild.masks_pac).
MASK_NAME = "mask_pac.so"
_MASK_SOURCE = Path(__file__).with_name("mask_pac.c")
_MASK_FLAGS = ("-shared", "-fPIC", "-O2", "-s", "-std=gnu11", "-mbranch-protection=none", "-ldl")


def mask_key() -> str:
    """Return a digest of everything the mask's bytes depend on."""
    return source_key([_MASK_SOURCE], AARCH64_LINUX, *_MASK_FLAGS)


def build_mask(output: Path, cache_root: Path) -> Path:
    """Compile the mask for arm64 guests; HostError when the compiler is missing or fails."""
    return compile_c([_MASK_SOURCE], output, target=AARCH64_LINUX, flags=_MASK_FLAGS, cache_root=cache_root)


def build_directory(build: CriuBuild) -> str:
    """Return where a build's bundle is, in guest and container."""
    return f"{TOOLS}/criu/{build.package_group}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CriuRun:
    """One call of CRIU: its command line, exit code (None: it hung), log and wall seconds."""

    argv: tuple[str, ...]
    returncode: int | None
    log: CriuLog
    log_name: str
    said: str
    seconds: float

    @property
    def hung(self) -> bool:
        """Whether it outlived its deadline."""
        return self.returncode is None

    @property
    def reason(self) -> str:
        """What went wrong, for a sentence: the key module's first error, else the last that names a cause.

        Every log of 3.17.1 opens with errors of its probes of the kernel, and a failed one ends
        with "... FAILED.".
        """
        errors = [error for error in self.log.errors if not error.endswith("FAILED.")]
        of_module = [error for error in errors if error.startswith("pac-key-module: ")]
        return (of_module[:1] or errors or [self.said or self.log.last_line or "no message"])[-1]


def criu_command(build: CriuBuild) -> tuple[str, ...]:
    """Return the words that start a build: its own loader, its own libraries."""
    root = build_directory(build)
    libraries = f"{root}/usr/lib/aarch64-linux-gnu"
    preload = ("--preload", f"{TOOLS}/lib/{MASK_NAME}") if build.masks_pac else ()
    return (
        f"{libraries}/ld-linux-aarch64.so.1",
        *("--library-path", libraries),
        *preload,
        f"{root}/usr/sbin/criu",
    )


class Criu:
    """A CRIU build in a container, with or without the key module. Nothing here is retried."""

    def __init__(
        self,
        container: Container,
        build: CriuBuild,
        module: KeyModule,
        *,
        dump_options: tuple[str, ...] = (),
        restore_options: tuple[str, ...] = (),
        without_rseq: bool = False,
    ) -> None:
        self._container = container
        self._dump_options = dump_options
        self._restore_options = restore_options
        variables = [f"CRIU_PAC_POLICY={module.policy}"] if module.policy else []
        if without_rseq:
            variables.append(WITHOUT_RSEQ)
        self._command = (*(("env", *variables) if variables else ()), *criu_command(build))
        self._common = (
            *("-D", IMAGES, "-v4", "--libdir", KEY_MODULE if module.loaded else NO_PLUGINS),
            # Workload and CRIU share a cgroup that the container's init owns.
            *("--manage-cgroups=ignore",),
        )

    def warm_up(self, deadline: Deadline) -> None:
        """Let CRIU probe the kernel once: it keeps what it learns in /run/criu.kdat."""
        self._container.run([*self._command, "check"], deadline)

    def command_line(self, action: str, *, pid: int | None = None, cycle: int) -> tuple[str, ...]:
        """Return the command, inside the container, that dumps the process ``pid`` or restores the images."""
        # Detached: the restored task becomes a child of the container's init.
        restore = ("--restore-detached", *self._restore_options)
        more = restore if pid is None else ("-t", str(pid), *self._dump_options)
        return (*self._command, action, *self._common, "-o", _log_name(action, cycle), *more)

    def dump(self, pid: int, deadline: Deadline, *, cycle: int) -> CriuRun:
        """Dump the process ``pid`` of the container's pid namespace; it ends when that succeeds."""
        return self._run(_log_name("dump", cycle), self.command_line("dump", pid=pid, cycle=cycle), deadline)

    def restore(self, deadline: Deadline, *, cycle: int) -> CriuRun:
        """Restore the images; the process gets the id it had."""
        return self._run(_log_name("restore", cycle), self.command_line("restore", cycle=cycle), deadline)

    def _run(self, log_name: str, argv: tuple[str, ...], deadline: Deadline) -> CriuRun:
        return call_criu(self._container, argv, log_name, deadline)


def call_criu(container: Container, argv: Sequence[str], log_name: str, deadline: Deadline) -> CriuRun:
    """Run a command that is or calls CRIU, with its log ``log_name`` in the images directory."""
    started = time.monotonic()
    returncode: int | None = None
    said = ""
    try:
        result = container.run(argv, deadline)
        returncode, said = result.returncode, result.error_text
    except DeadlineError:
        pass  # a hang is an outcome, judged by whoever asked
    seconds = time.monotonic() - started
    log = read_log(container, log_name)
    return CriuRun(
        argv=tuple(argv), returncode=returncode, log=log, log_name=log_name, said=said, seconds=seconds
    )


def with_log(container: Container, call: CriuRun, log_name: str) -> CriuRun:
    """Return a call of an engine with CRIU's log, which has been given the name ``log_name``."""
    return replace(call, log=read_log(container, log_name), log_name=log_name)


def read_log(container: Container, name: str) -> CriuLog:
    """Return a log of CRIU from the images directory; an empty one if it never opened it."""
    try:
        content = container.machine.read_file(f"{IMAGES}/{name}", Deadline.after(20, "CRIU's log"))
    except MachineDiedError:
        raise
    except MachineError:
        content = b""  # it ended before it could open one
    return parse_criu_log(content.decode("utf-8", "replace"))


def _log_name(action: str, cycle: int) -> str:
    return f"{action}-{cycle}.log"
