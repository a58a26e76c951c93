"""Where the module goes on a machine, and that all of it comes off again."""

from pathlib import Path

import pytest

from harness.core.errors import StorageError, UsageError
from harness.key_module.install import (
    OWN_DIRECTORY,
    apply,
    library_directories,
    plan_install,
    plan_uninstall,
)

PLUGIN = b"\x7fELF the plugin"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/criu").mkdir(parents=True)
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def installed(root: Path, **options: str) -> list[str]:
    plan = plan_install(root, PLUGIN, policy=options.get("policy"))
    before = files(root)
    apply(plan, root)
    assert {str(change.path)[1:] for change in plan.changes} >= files(root) - before
    return list(plan.notes)


def test_without_any_configuration_criu_s_own_directory_serves_everybody(root: Path) -> None:
    assert installed(root) == []
    assert files(root) == {"usr/lib/criu/pac_key_plugin.so"}
    assert (root / "usr/lib/criu/pac_key_plugin.so").read_bytes() == PLUGIN
    assert (root / "usr/lib/criu/pac_key_plugin.so").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["default.conf", "runc.conf", "crun.conf"])
def test_a_directory_named_in_a_configuration_is_served_too(root: Path, name: str) -> None:
    (root / "etc/criu" / name).write_text(
        '# libdir /no\ntcp-established\nlibdir "/opt/criu plugins" # ours\n'
    )
    assert [str(one.path) for one in library_directories(root)] == ["/usr/lib/criu", "/opt/criu plugins"]
    installed(root)
    assert (root / "opt/criu plugins/pac_key_plugin.so").exists()
    apply(plan_uninstall(root), root)
    assert files(root) == {f"etc/criu/{name}"}


def test_odd_lines_of_a_configuration_are_criu_s_to_complain_about(root: Path) -> None:
    (root / "etc/criu/default.conf").write_text('libdir "open\nlibdir relative\nlibdir\n')
    assert [str(one.path) for one in library_directories(root)] == ["/usr/lib/criu"]


def amdgpu(root: Path, directory: str) -> None:
    (root / directory).mkdir(parents=True, exist_ok=True)
    (root / directory / "amdgpu_plugin.so").write_bytes(b"gpu")


def test_amdgpu_without_a_gpu_gives_the_module_a_directory_of_its_own(root: Path) -> None:
    amdgpu(root, "usr/lib/criu")
    (root / "etc/criu/default.conf").write_text("tcp-established")
    (note,) = installed(root)
    assert "/usr/lib/criu/amdgpu_plugin.so would keep CRIU 3.17 to 3.19 from calling the module" in note
    assert not (root / "usr/lib/criu/pac_key_plugin.so").exists()
    assert (root / "usr/lib/criu-pac/pac_key_plugin.so").exists()
    assert (root / "etc/criu/default.conf").read_text().splitlines()[0::2] == [
        "tcp-established",
        f"libdir {OWN_DIRECTORY}",
    ]
    assert plan_install(root, PLUGIN, policy=None).changes[-1].path.parent == OWN_DIRECTORY, "a second time"
    apply(plan_uninstall(root), root)
    assert files(root) == {"usr/lib/criu/amdgpu_plugin.so", "etc/criu/default.conf"}
    assert (root / "etc/criu/default.conf").read_text() == "tcp-established\n"


def test_a_configuration_that_only_held_our_line_goes(root: Path) -> None:
    amdgpu(root, "usr/lib/criu")
    installed(root)
    apply(plan_uninstall(root), root)
    assert files(root) == {"usr/lib/criu/amdgpu_plugin.so"}


def test_amdgpu_with_a_gpu_is_no_obstacle(root: Path) -> None:
    amdgpu(root, "usr/lib/criu")
    (root / "dev").mkdir()
    (root / "dev/kfd").touch()
    assert installed(root) == []
    assert (root / "usr/lib/criu/pac_key_plugin.so").exists()


def test_amdgpu_in_a_directory_somebody_named_is_pointed_out(root: Path) -> None:
    amdgpu(root, "opt/plugins")
    (root / "etc/criu/runc.conf").write_text("libdir /opt/plugins\n")
    (note,) = installed(root)
    assert "/opt/plugins/amdgpu_plugin.so may keep" in note
    assert "/etc/criu/runc.conf" in note


def test_a_policy_file_stands_beside_every_copy(root: Path) -> None:
    (root / "etc/criu/runc.conf").write_text("libdir /opt/plugins\n")
    installed(root, policy="warn")
    for directory in ("usr/lib/criu", "opt/plugins"):
        assert (root / directory / "pac-key-module.conf").read_text() == "policy = warn\n"
    apply(plan_uninstall(root), root)
    assert files(root) == {"etc/criu/runc.conf"}


def test_an_unknown_policy_is_named(root: Path) -> None:
    with pytest.raises(UsageError, match="no policy 'wran'; there are refuse, warn, disable-auth"):
        plan_install(root, PLUGIN, policy="wran")


def test_nothing_installed_is_nothing_to_do(root: Path) -> None:
    assert plan_uninstall(root).changes == ()


def test_a_file_that_cannot_be_written_is_named(root: Path) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/criu").write_bytes(b"a file where a directory should be")
    with pytest.raises(
        StorageError, match=r"cannot write /usr/lib/criu/pac_key_plugin\.so: .*; run it as root"
    ):
        apply(plan_install(root, PLUGIN, policy=None), root)
