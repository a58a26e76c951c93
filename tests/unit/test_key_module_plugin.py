"""The plugin's own decisions, on any host: real processes under ptrace, played register sets."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.process import CommandResult, check, run
from harness.key_module.build import SOURCES
from harness.key_module.keyfile import foreign_images, read_key_file
from harness.provision.toolchain import SHARED_C, compile_c

HERE = Path(__file__).parent
PAC = {"FAKE_PAC": "1"}
NO_PERMISSION = 77

Compile = Callable[[int], Path]


def deadline() -> Deadline:
    return Deadline.after(120, "the fake CRIU")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    directory = tmp_path_factory.mktemp("fake-criu")

    def build(hooks: int) -> Path:
        output = directory / f"fake-{hooks}"
        sources = [HERE / "key_module_fake_criu.c", *SOURCES.glob("*.c"), SHARED_C / "sha256.c"]
        for played in ("regsets.c", "arm64.c"):
            sources.remove(SOURCES / played)
        flags = [
            "-std=gnu11",
            "-O1",
            "-rdynamic",
            "-pthread",
            f"-I{SOURCES}",
            f"-I{SHARED_C}",
            f"-DFAKE_HOOKS={hooks}",
            *["-DFAKE_NATIVE"] * (hooks > 12),
        ]
        if compiler := shutil.which("cc"):
            words = [compiler, *flags, "-Wall", "-Wextra", "-Werror", *map(str, sources), "-o", str(output)]
            check(words, deadline())
            return output
        return compile_c(sources, output, target="native", flags=flags, cache_root=directory / "zig")

    return build


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCriu:
    program: Path
    images: Path

    def __call__(self, command: str, **environment: str) -> CommandResult:
        clean = {name: value for name, value in os.environ.items() if name != "CRIU_PAC_POLICY"}
        result = run([self.program, command, self.images], deadline(), env={**clean, **environment})
        if result.returncode == NO_PERMISSION:
            pytest.skip("ptrace of a child is not permitted here")
        return result


@pytest.fixture(scope="module", params=[10, 12, 13])
def program(compiled: Compile, request: pytest.FixtureRequest) -> Path:
    """3.17 to 3.19, 4.0, 4.2 by their numbers of hooks."""
    return compiled(request.param)


@pytest.fixture
def criu(program: Path, tmp_path: Path) -> FakeCriu:
    images = tmp_path / "images"
    images.mkdir()
    return FakeCriu(program=program, images=images)


@pytest.fixture
def new_criu(compiled: Compile, tmp_path: Path) -> FakeCriu:
    """One with a checkpoint hook."""
    return FakeCriu(program=compiled(13), images=tmp_path)


@pytest.fixture
def dumped(criu: FakeCriu) -> FakeCriu:
    assert criu("cycle", **PAC).returncode == 0
    return criu


def lines(result: CommandResult) -> list[str]:
    return result.text.splitlines()


def the_error(result: CommandResult) -> str:
    """The one line an operator has to find in CRIU's log."""
    errors = [line for line in result.error_text.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert errors[0].startswith("pac-key-module: error: ")
    return errors[0]


def test_every_thread_gets_its_own_keys_and_mask_back(criu: FakeCriu) -> None:
    result = criu("cycle", **PAC)
    assert result.returncode == 0
    assert "WRONG KEY" not in result.text
    for written in ("paca 64", "pacg 16", "enabled 8 to 15"):
        assert lines(result).count(written) == 3
    assert lines(result).count("late 1") == 2  # -ENOTSUP each time
    assert result.error_text.splitlines()[-1] == "pac-key-module: keys loaded into 3 threads"


def test_the_key_file_is_private_bound_and_readable_by_python(dumped: FakeCriu) -> None:
    path = dumped.images / "pac-keys.img"
    assert path.stat().st_mode & 0o7777 == 0o600
    assert not (dumped.images / "pac-keys.img.tmp").exists()
    file = read_key_file(dumped.images)
    assert foreign_images(file, dumped.images) == []
    assert len(file.threads) == 3
    assert len(file.tasks) == 1
    assert len({thread.fingerprint(b"salt") for thread in file.threads}) == 3
    assert file.kernel_release == os.uname().release
    assert dumped("validate", **PAC).returncode == 0


def test_a_kernel_without_the_mask_set_is_served(criu: FakeCriu) -> None:
    result = criu("cycle", **PAC, FAKE_NO_MASK="1")
    assert result.returncode == 0
    assert "enabled" not in result.text
    assert {thread.enabled_keys for thread in read_key_file(criu.images).threads} == {None}


def test_a_machine_without_pac_says_so_and_restores_to_the_like(criu: FakeCriu) -> None:
    result = criu("cycle")
    assert result.returncode == 0
    assert "paca 64" not in lines(result)
    assert not read_key_file(criu.images).address_auth


def test_a_failed_read_fails_the_dump_and_rolls_it_back(compiled: Compile, tmp_path: Path) -> None:
    criu = FakeCriu(program=compiled(10), images=tmp_path)
    result = criu("cycle", **PAC, FAKE_FAIL="read")
    assert result.returncode == 1
    assert lines(result)[1:] == [
        "unsuspend_lsm 0",
        "network_unlock 0",
        "delete_link_remaps 0",
        "clean_cr_time_mounts 0",
        "pstree_switch_state 1",
        "task alive 1",
    ]
    assert not (criu.images / "inventory.img").exists()
    assert not list(criu.images.glob("pac-keys*"))
    assert "cannot read the keys of thread" in result.error_text


def test_from_4_0_on_a_failed_read_fails_the_dump_criu_s_own_way(new_criu: FakeCriu) -> None:
    result = new_criu("cycle", **PAC, FAKE_FAIL="read")
    assert result.returncode == 2
    assert lines(result) == ["init 0"]
    assert "cannot read the keys of thread" in the_error(result)
    assert not list(new_criu.images.iterdir())


def test_a_key_file_that_cannot_be_written_fails_the_dump(criu: FakeCriu) -> None:
    (criu.images / "pac-keys.img.tmp").mkdir()  # root may write anything but a file over a directory
    result = criu("cycle", **PAC)
    assert result.returncode in {1, 2}
    assert "cannot write pac-keys.img: File exists" in result.error_text
    assert not (criu.images / "inventory.img").exists()


def test_a_dump_that_fails_later_leaves_no_keys(new_criu: FakeCriu) -> None:
    assert new_criu("cycle", **PAC, FAKE_RET="-1").returncode == 2
    assert not list(new_criu.images.iterdir())


def test_a_task_that_was_not_collected_fails_the_dump(new_criu: FakeCriu) -> None:
    result = new_criu("cycle", **PAC, FAKE_STRANGER="1")
    assert result.returncode == 2
    assert "was not found traced in /proc" in the_error(result)
    assert not list(new_criu.images.iterdir())


def test_keys_are_saved_at_the_end_where_another_plugin_ended_the_chain(new_criu: FakeCriu) -> None:
    assert new_criu("cycle", **PAC, FAKE_SHADOWED="1").returncode == 0
    assert len(read_key_file(new_criu.images).threads) == 3


def test_it_is_said_when_criu_has_keys_of_its_own(new_criu: FakeCriu, compiled: Compile) -> None:
    words = "over those that this CRIU restores for each leader"
    assert words in new_criu("cycle", **PAC).error_text
    assert words not in FakeCriu(program=compiled(12), images=new_criu.images)("cycle", **PAC).error_text


def test_a_late_hook_ahead_of_ours_is_refused(dumped: FakeCriu) -> None:
    result = dumped("validate", **PAC, FAKE_AHEAD="1")
    assert result.returncode == 1
    assert "amdgpu_plugin.so keeps CRIU from calling this module" in the_error(result)


def test_a_fault_while_signing_is_reported_and_nothing_is_left(criu: FakeCriu) -> None:
    result = criu("cycle", **PAC, FAKE_SIGN="crash")
    assert lines(result) == ["init -1"]
    assert "cannot try the key registers on a traced child of CRIU: Protocol error" in the_error(result)


def test_a_failed_write_kills_the_task_and_fails_the_restore(criu: FakeCriu) -> None:
    result = criu("cycle", **PAC, FAKE_FAIL="write")
    assert result.returncode == 1
    assert "killed 9" in lines(result)
    assert "cannot set the key registers of thread" in result.error_text


def test_a_leftover_of_a_killed_dump_is_replaced(criu: FakeCriu) -> None:
    (criu.images / "pac-keys.img.tmp").write_bytes(b"half")
    assert criu("cycle", **PAC).returncode == 0


def damage_nothing(_images: Path) -> None:
    """The images stay as they are; the machine is another one."""


def remove(images: Path) -> None:
    (images / "pac-keys.img").unlink()


def unfinished(images: Path) -> None:
    (images / "pac-keys.img").rename(images / "pac-keys.img.tmp")


def unbound(images: Path) -> None:
    path = images / "pac-keys.img"
    data = bytearray(path.read_bytes()[:-32])
    data[24] &= ~4
    path.write_bytes(data + hashlib.sha256(data).digest())


def cut(images: Path) -> None:
    path = images / "pac-keys.img"
    path.write_bytes(path.read_bytes()[:-100])


def empty(images: Path) -> None:
    (images / "pac-keys.img").write_bytes(b"")


def flip(images: Path) -> None:
    path = images / "pac-keys.img"
    data = bytearray(path.read_bytes())
    data[300] ^= 4
    path.write_bytes(data)


def future(images: Path) -> None:
    path = images / "pac-keys.img"
    data = bytearray(path.read_bytes())
    data[8] = 3
    path.write_bytes(data)


def other_core(images: Path) -> None:
    next(images.glob("core-*.img")).write_bytes(b"of another dump")


def no_core(images: Path) -> None:
    next(images.glob("core-*.img")).unlink()


def other_tree(images: Path) -> None:
    (images / "pstree.img").write_bytes(b"of another dump")


def link(images: Path) -> None:
    (images / "pac-keys.img").rename(images / "elsewhere")
    (images / "pac-keys.img").symlink_to("elsewhere")


def fifo(images: Path) -> None:
    remove(images)
    os.mkfifo(images / "pac-keys.img")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (unfinished, "pac-keys.img.tmp is the unfinished key file of a dump that did not succeed"),
        (unbound, "pac-keys.img was left unfinished by its dump: it is not bound to the images"),
        (cut, "pac-keys.img is truncated"),
        (empty, "pac-keys.img is truncated"),
        (flip, "pac-keys.img is damaged: wrong checksum"),
        (future, "pac-keys.img has a format version this module does not know"),
        (other_core, "belongs to another dump: core-"),
        (no_core, "cannot be read: No such file"),
        (other_tree, "belongs to another dump: pstree.img"),
        (link, "cannot read pac-keys.img: Too many levels of symbolic links"),
        (fifo, "cannot read pac-keys.img: Invalid argument"),
    ],
)
def test_a_bad_key_file_is_refused_in_one_line(
    dumped: FakeCriu, damage: Callable[[Path], None], reason: str
) -> None:
    damage(dumped.images)
    result = dumped("validate", **PAC)
    assert result.returncode == 1
    assert reason in the_error(result)
    assert the_error(result).endswith("; restore refused")


V1, N1 = {"FAKE_MIDR": "0x411fd402"}, {"FAKE_MIDR": "0x414fd0c1"}


@pytest.mark.parametrize(
    ("at_dump", "at_restore", "reason"),
    [
        (PAC | V1, N1, "come from a machine with pointer authentication (Neoverse V1, kernel "),
        (PAC | V1, N1, "this one is without (Neoverse N1)"),
        (N1, PAC | V1, "come from a machine without pointer authentication (Neoverse N1, kernel "),
        (
            N1,
            PAC | V1,
            "(Neoverse V1): their unsigned return addresses would not pass; the policy disable-auth",
        ),
        (PAC, PAC | {"FAKE_ALGORITHM": "1"}, "another algorithm than this machine"),
        (PAC, PAC | {"FAKE_ALGORITHM": "1", "FAKE_MIDR": "0x123"}, "(a CPU with MIDR 0x123)"),
    ],
)
def test_another_kind_of_machine_is_refused(
    criu: FakeCriu, at_dump: Mapping[str, str], at_restore: Mapping[str, str], reason: str
) -> None:
    assert criu("cycle", **at_dump).returncode == 0
    for policy in ("refuse", "disable-auth") if at_dump.get("FAKE_PAC") else ("refuse",):
        result = criu("validate", **at_restore, CRIU_PAC_POLICY=policy)
        assert result.returncode == 1
        assert reason in the_error(result)


def test_unsigned_images_run_with_authentication_disabled(criu: FakeCriu) -> None:
    result = criu("cycle", FAKE_MOVED="1", CRIU_PAC_POLICY="disable-auth")
    assert result.returncode == 0
    assert lines(result).count("enabled 8 to 0") == 3
    assert "paca 64" not in lines(result)
    warnings = [
        line for line in result.error_text.splitlines() if "pointer authentication is disabled" in line
    ]
    assert len(warnings) == 1, "one per task"
    assert "authentication disabled in 3 threads" in result.error_text


def test_without_the_mask_set_nothing_can_be_disabled(criu: FakeCriu) -> None:
    assert criu("cycle").returncode == 0
    result = criu("validate", **PAC, FAKE_NO_MASK="1", CRIU_PAC_POLICY="disable-auth")
    assert result.returncode == 1
    assert "would not pass; restore refused" in the_error(result)


def test_the_warn_policy_goes_on(dumped: FakeCriu) -> None:
    flip(dumped.images)
    result = dumped("validate", **PAC, CRIU_PAC_POLICY="warn")
    assert result.returncode == 0
    assert "pac-key-module: warning: pac-keys.img is damaged" in result.error_text


def test_images_without_a_key_file_are_restored_as_before_with_a_warning(dumped: FakeCriu) -> None:
    remove(dumped.images)
    result = dumped("validate", **PAC)
    assert result.returncode == 0
    warnings = [line for line in result.error_text.splitlines() if "warning:" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("pac-key-module: warning: no pac-keys.img in the images directory")


def test_an_unknown_policy_is_refused_even_with_good_images(dumped: FakeCriu) -> None:
    result = dumped("validate", **PAC, CRIU_PAC_POLICY="wran")
    assert result.returncode == 1
    assert 'CRIU_PAC_POLICY is "wran"' in the_error(result)


@pytest.fixture
def with_file(compiled: Compile, tmp_path: Path) -> FakeCriu:
    """A CRIU with the module in a directory of its own, and images that only policy lets pass."""
    program = tmp_path / "lib" / "fake"
    program.parent.mkdir()
    shutil.copy2(compiled(13), program)
    images = tmp_path / "images"
    images.mkdir()
    criu = FakeCriu(program=program, images=images)
    assert criu("cycle", **PAC).returncode == 0
    flip(images)
    return criu


@pytest.mark.parametrize(
    "text", ["policy = warn\n", "# a comment\n\n  policy=warn # why\n", "policy = refuse\npolicy = warn"]
)
def test_a_file_beside_the_plugin_says_the_policy(with_file: FakeCriu, text: str) -> None:
    (with_file.program.parent / "pac-key-module.conf").write_text(text, encoding="utf-8")
    assert with_file("validate", **PAC).returncode == 0
    assert with_file("validate", **PAC, CRIU_PAC_POLICY="refuse").returncode == 1, "the environment wins"


@pytest.mark.parametrize(
    ("text", "line"), [("policy = wran\n", 1), ("\npolicies = warn\n", 2), ("# c\n#\nwarn\n", 3)]
)
def test_a_bad_policy_file_is_refused_with_its_place(with_file: FakeCriu, text: str, line: int) -> None:
    path = with_file.program.parent / "pac-key-module.conf"
    path.write_text(text, encoding="utf-8")
    result = with_file("validate", **PAC)
    assert result.returncode == 1
    assert f'{path}, line {line}: neither "policy = refuse" nor' in the_error(result)


def test_a_policy_file_that_cannot_be_read_is_refused(with_file: FakeCriu) -> None:
    path = with_file.program.parent / "pac-key-module.conf"
    path.mkdir()
    assert f"cannot read {path}: Is a directory" in the_error(with_file("validate", **PAC))


def test_a_readable_key_file_is_pointed_out(dumped: FakeCriu) -> None:
    (dumped.images / "pac-keys.img").chmod(0o644)
    result = dumped("validate", **PAC)
    assert result.returncode == 0
    assert "has mode 0644" in result.error_text


@pytest.mark.parametrize("hooks", [7, 9])
def test_a_criu_without_the_late_hook_is_refused_with_the_reason(
    compiled: Compile, tmp_path: Path, hooks: int
) -> None:
    result = FakeCriu(program=compiled(hooks), images=tmp_path)("validate", **PAC)
    assert result.returncode == 1
    assert f"has {hooks} plugin hooks and lacks the late one: 3.17 or later is needed" in the_error(result)


def test_a_criu_of_the_future_with_more_hooks_is_served(compiled: Compile, tmp_path: Path) -> None:
    assert FakeCriu(program=compiled(20), images=tmp_path)("cycle", **PAC).returncode == 0
