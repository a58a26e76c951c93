"""The QEMU command line as a pure function of a frozen description of the machine."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.catalogue.cpus import HOST_CPU

GUEST_DOCKER_PORT = 2375
MEMORY_MIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFiles:
    """What a machine boots from: kernel image, initial RAM disk, root image, tools image."""

    kernel: Path
    initramfs: Path
    root: Path
    tools: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuConfig:
    """One emulated machine.

    ``cpu`` is QEMU's -cpu argument; "host" is the CPU that QEMU runs on, by KVM. ``memory_mib`` is
    guest memory in MiB, ``ram`` the file that backs it: shared while a template is made, mapped
    privately (copy on write) by clones.
    ``incoming`` waits for a saved state instead of booting. The file descriptors are listening
    sockets the parent made. ``directory`` is 0700 and private to the machine. ``leash`` are words
    before the program that make it end with its parent; without them QEMU sees to it itself.
    """

    program: tuple[str, ...]
    cpu: str
    files: MachineFiles
    directory: Path
    ram: Path
    ram_shared: bool
    incoming: bool
    console_fd: int
    qmp_fd: int
    agent_fd: int
    memory_mib: int = MEMORY_MIB
    cpus: int = 2
    kernel_arguments: str = ""
    leash: tuple[str, ...] = ()

    @property
    def console_log(self) -> Path:
        """Everything the serial console said, written by QEMU itself from the first byte."""
        return self.directory / "console.log"

    @property
    def docker_socket(self) -> Path:
        """Unix socket on the host that reaches the guest's container engine."""
        return self.directory / "docker.sock"


def uses_kvm(cpu: str) -> bool:
    """Return whether a machine with this -cpu argument runs on the host's own CPU; others are emulated."""
    return cpu.partition(",")[0] == HOST_CPU


def board(cpu: str) -> tuple[str, ...]:
    """Return the words for the machine's type, accelerator and CPU."""
    # KVM has the interrupt controller of the host only.
    gic, accelerator = ("host", "kvm") if uses_kvm(cpu) else ("3", "tcg,thread=multi")
    return ("-machine", f"virt,gic-version={gic},memory-backend=ram", "-accel", accelerator, "-cpu", cpu)


def argv(config: QemuConfig) -> list[str]:
    """Return QEMU's command line for ``config``.

    No TCP port is opened on the host: the engine is reached by ``hostfwd=unix:`` (QEMU >= 11)
    and the guest sees nothing else (``restrict=on``).
    """
    shared = "on" if config.ram_shared else "off"
    append = f"console=ttyAMA0 panic=-1 random.trust_cpu=on {config.kernel_arguments}".strip()
    words = [
        *config.leash,
        *config.program,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        # Not both: it would turn the leash's SIGKILL into a SIGTERM, which QEMU may be slow to obey.
        *(() if config.leash else ("-run-with", "exit-with-parent=on")),
        *board(config.cpu),
        *("-smp", str(config.cpus), "-m", f"{config.memory_mib}M"),
        *(
            "-object",
            f"memory-backend-file,id=ram,size={config.memory_mib}M,mem-path={_value(config.ram)},share={shared}",
        ),
        *("-kernel", str(config.files.kernel), "-initrd", str(config.files.initramfs), "-append", append),
        *(
            "-chardev",
            f"socket,id=console,fd={config.console_fd},server=on,wait=off,logfile={_value(config.console_log)}",
        ),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={config.qmp_fd},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,fd={config.agent_fd},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-device", "virtio-rng-pci"),
        *_drive("root", config.files.root),
        *_drive("tools", config.files.tools),
        *(
            "-netdev",
            f"user,id=net,restrict=on,hostfwd=unix:{_value(config.docker_socket)}-:{GUEST_DOCKER_PORT}",
        ),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]
    return words + ["-incoming", "defer"] * config.incoming


def shape(cpu: str, kernel_arguments: str = "") -> str:
    """Return a digest of the machine QEMU is told to make, for the key of what was saved from one.

    It covers every word but those that differ between two runs of the same machine: where the
    program and the files are, the numbers of sockets, who ends QEMU, and how a clone's words
    differ from its template's.
    """
    names = MachineFiles(
        kernel=Path("kernel"), initramfs=Path("initramfs"), root=Path("root"), tools=Path("tools")
    )
    words = argv(
        QemuConfig(
            program=("qemu",),
            cpu=cpu,
            files=names,
            directory=Path("directory"),
            ram=Path("ram"),
            ram_shared=True,
            incoming=False,
            kernel_arguments=kernel_arguments,
            console_fd=0,
            qmp_fd=0,
            agent_fd=0,
            leash=("leash",),
        )
    )
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _drive(name: str, image: Path) -> tuple[str, ...]:
    return (
        *("-drive", f"if=none,id={name},file={_value(image)},format=raw,readonly=on,cache=unsafe"),
        *("-device", f"virtio-blk-pci,drive={name}"),
    )


def _value(path: Path) -> str:
    # A comma ends a value unless it is doubled.
    return str(path).replace(",", ",,")
