"""The plugin's own decisions at dump and restore, on any host: real processes, a played machine."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.process import CommandResult
from harness.key_module.fake_criu import FakeCriu, the_error
from harness.key_module.keyfile import foreign_images, read_key_file

PAC = {"FAKE_PAC": "1"}
Compile = Callable[[int], Path]


def lines(result: CommandResult) -> list[str]:
    return result.text.splitlines()


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


@pytest.mark.parametrize("hooks", [7, 9])
def test_a_criu_without_the_late_hook_is_refused_with_the_reason(
    compiled: Compile, tmp_path: Path, hooks: int
) -> None:
    result = FakeCriu(program=compiled(hooks), images=tmp_path)("validate", **PAC)
    assert result.returncode == 1
    assert f"has {hooks} plugin hooks and lacks the late one: 3.17 or later is needed" in the_error(result)


def test_a_criu_of_the_future_with_more_hooks_is_served(compiled: Compile, tmp_path: Path) -> None:
    assert FakeCriu(program=compiled(20), images=tmp_path)("cycle", **PAC).returncode == 0
