"""QEMU's command line, word for word.

After a wanted change write the golden files anew and read their diff:

    CRIU_PAC_WRITE_GOLDEN=1 python -m pytest tests/unit/test_machines_argv.py
"""

import dataclasses
import itertools
import os
from pathlib import Path

import pytest

from harness.machines import qemu_config
from harness.machines.qemu_config import MachineFiles, QemuConfig, argv, shape

GOLDEN = Path(__file__).parents[1] / "golden"
WRITE = "CRIU_PAC_WRITE_GOLDEN"

TEMPLATE = QemuConfig(
    program=("/cache/ld-linux-x86-64.so.2", "--library-path", "/cache/lib", "/cache/qemu-system-aarch64"),
    cpu="neoverse-v1",
    files=MachineFiles(
        kernel=Path("/cache/Image"),
        initramfs=Path("/cache/initramfs"),
        root=Path("/cache/root.erofs"),
        tools=Path("/cache/tools.erofs"),
    ),
    directory=Path("/run/user/1000/criu-pac-x"),
    ram=Path("/cache/work/ram"),
    ram_shared=True,
    incoming=False,
    console_fd=5,
    qmp_fd=6,
    agent_fd=7,
)
CLONE = dataclasses.replace(TEMPLATE, ram_shared=False, incoming=True)
CONFIGS = {
    "template": TEMPLATE,
    "clone": CLONE,
    "given-program": dataclasses.replace(CLONE, program=("/opt/qemu/bin/qemu-system-aarch64",)),
    "leash": dataclasses.replace(CLONE, leash=("/usr/bin/setpriv", "--pdeathsig", "KILL")),
    "kernel-arguments": dataclasses.replace(
        TEMPLATE, cpu="max,pauth-qarma3=on", kernel_arguments="arm64.nopauth debug", memory_mib=2048, cpus=1
    ),
}
# Whatever makes QEMU listen on, or connect to, a network of the host.
TCP = ("hostfwd=tcp", "hostfwd=udp", "tcp:", "telnet:", "websocket", "host=", "port=", "inet", "-vnc", "-s ")


def one_word_a_line(words: list[str]) -> str:
    """Return the text of a golden file: options start a line, what belongs to them is indented."""
    return "".join(f"{word}\n" if word.startswith("-") else f"    {word}\n" for word in words)


def network_words(words: list[str]) -> list[str]:
    """Return what would open or use a TCP port, or let the guest reach anything."""
    found = [word for word in words for sign in TCP if sign in f"{word} "]
    for kind, value in itertools.pairwise(words):
        if kind in {"-netdev", "-nic"} and "restrict=on" not in value:
            found.append(value)
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_line_is_the_golden_one(name: str) -> None:
    path = GOLDEN / f"qemu-{name}.txt"
    text = one_word_a_line(argv(CONFIGS[name]))
    if os.environ.get(WRITE):
        path.write_text(text, "utf-8")
        pytest.fail(f"{path.name} was written: read its diff and run again without {WRITE}")
    assert text == path.read_text("utf-8"), f"if that is wanted: {WRITE}=1 python -m pytest {__file__}"


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.glob("qemu-*.txt")} == {f"qemu-{name}.txt" for name in CONFIGS}


def test_a_clone_differs_from_its_template_in_its_memory_and_in_waiting() -> None:
    template, clone = argv(TEMPLATE), argv(CLONE)
    assert [word for word in template if word not in clone] == [
        "memory-backend-file,id=ram,size=1024M,mem-path=/cache/work/ram,share=on"
    ]
    assert [word for word in clone if word not in template] == [
        "memory-backend-file,id=ram,size=1024M,mem-path=/cache/work/ram,share=off",
        "-incoming",
        "defer",
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_listens_on_tcp_and_the_guest_reaches_nothing(name: str) -> None:
    assert network_words(argv(CONFIGS[name])) == []


@pytest.mark.parametrize(
    "words",
    [
        ["-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:2375-:2375"],
        ["-netdev", "user,id=net,hostfwd=unix:/x-:2375"],
        ["-nic", "user"],
        ["-qmp", "tcp:localhost:4444,server=on"],
        ["-chardev", "socket,id=console,host=localhost,port=1234,server=on"],
        ["-vnc", ":1"],
        ["-s"],
    ],
)
def test_a_network_word_is_seen(words: list[str]) -> None:
    assert network_words(["-nodefaults", *words]) != []


def test_something_ends_qemu_with_its_parent_and_not_two_things() -> None:
    leash = list(CONFIGS["leash"].leash)
    for config in CONFIGS.values():
        words = argv(config)
        assert (words[: len(leash)] == leash) is not ("exit-with-parent=on" in words)


def test_a_comma_in_a_path_is_no_end_of_an_option() -> None:
    """CRIU_PAC_CACHE may name any directory; in a list of options QEMU reads ",," as one comma."""
    odd = Path("/my,cache")
    files = MachineFiles(kernel=odd / "k", initramfs=odd / "i", root=odd / "r", tools=odd / "t")
    words = argv(dataclasses.replace(TEMPLATE, files=files, ram=odd / "ram", directory=odd / "run"))
    parsed = [word for word in words if "=" in word and "my,cache" in word]
    assert [word for word in parsed if "my,cache" in word.replace(",,", "")] == []
    assert {"/my,cache/k", "/my,cache/i"} <= set(words)  # these are whole words, not option lists


def test_the_images_are_never_written() -> None:
    drives = [word for word in argv(TEMPLATE) if word.startswith("if=none")]
    assert len(drives) == 2
    assert all("readonly=on" in word for word in drives)


def test_the_command_line_depends_on_nothing_but_the_config() -> None:
    assert argv(TEMPLATE) == argv(dataclasses.replace(TEMPLATE))
    assert argv(TEMPLATE)[:4] == list(TEMPLATE.program)


def test_the_sockets_and_the_log_are_in_the_private_directory() -> None:
    assert TEMPLATE.console_log.parent == TEMPLATE.docker_socket.parent == TEMPLATE.directory
    assert any(str(TEMPLATE.console_log) in word for word in argv(TEMPLATE))
    assert any(f"hostfwd=unix:{TEMPLATE.docker_socket}-:2375" in word for word in argv(TEMPLATE))


def test_the_shape_is_that_of_cpu_and_kernel_arguments() -> None:
    shapes = {shape("max"), shape("neoverse-v1"), shape("max", "arm64.nopauth"), shape("max", "quiet")}
    assert len(shapes) == 4
    assert shape("max") == shape("max", "")
    assert all(len(one) == 64 and int(one, 16) for one in shapes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1024M", "2048M"),
        ("-smp 2", "-smp 4"),
        ("virtio-rng-pci", "virtio-rng-pci,id=r"),
        ("gic-version=3", "gic-version=4"),
    ],
)
def test_every_other_word_of_the_command_line_changes_the_shape(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    """A saved state fits only the machine it was saved from."""
    before = shape("max")
    real = qemu_config.argv

    def changed(config: QemuConfig) -> list[str]:
        line = "\0".join(real(config)).replace("-smp\0", "-smp ")
        assert old in line
        return line.replace(old, new).split("\0")

    monkeypatch.setattr(
        qemu_config, "argv", lambda config: "\0".join(real(config)).replace("-smp\0", "-smp ").split("\0")
    )
    same = shape("max")
    monkeypatch.setattr(qemu_config, "argv", changed)
    assert shape("max") != same
    monkeypatch.undo()
    assert shape("max") == before
