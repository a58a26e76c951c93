"""Source trees and finished builds of CRIU, without a compiler."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.core.errors import HostError, UsageError
from harness.parsing.elf_needs import exported_size, needed_libraries
from harness.provision.criu_build import MANIFEST, criu_of, read_build
from harness.provision.criu_layout import LIBRARIES, LOADER, PROGRAM
from harness.provision.criu_source import source_tree
from harness.provision.toolchain import AARCH64_LINUX, compile_c


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "criu-1.2"
    (root / "criu").mkdir(parents=True)
    (root / "criu/cr-dump.c").write_text("int x;\n")
    (root / "criu/left.o").write_bytes(b"of another build")
    (root / "link").symlink_to("/usr/include/nowhere")
    return root


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def test_a_directory_is_copied_without_what_another_build_left(tree: Path, work: Path) -> None:
    copy = source_tree(str(tree), None, work)
    assert copy.is_relative_to(work)
    assert (copy / "criu/cr-dump.c").read_text() == "int x;\n"
    assert (copy / "link").is_symlink()
    assert not (copy / "criu/left.o").exists()


def test_an_archive_may_have_one_directory_at_its_top(tree: Path, work: Path, tmp_path: Path) -> None:
    archive = tmp_path / "criu.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(tree, "criu-1.2")
    assert source_tree(str(archive), None, work).name == "criu-1.2"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
@pytest.mark.parametrize("url", [False, True])
def test_a_repository_gives_the_tree_of_a_commit(tree: Path, work: Path, *, url: bool) -> None:
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    (tree / "criu/cr-dump.c").write_text("int later;\n")
    subprocess.run([*git, "commit", "-qam", "two"], check=True)
    found = source_tree(f"file://{tree}" if url else str(tree), "v1", work)
    assert (found / "criu/cr-dump.c").read_text() == "int x;\n"


@pytest.mark.parametrize(
    ("source", "ref", "told"),
    [
        ("nowhere", None, "--source nowhere: no such directory or file"),
        ("empty", None, "is no source tree of CRIU: it has no criu/cr-dump.c"),
        ("text", None, "cannot be unpacked"),
        ("text", "v1", "--ref v1 goes with a git repository"),
    ],
)
def test_what_is_no_source_is_named(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch, source: str, ref: str | None, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(UsageError, match=told):
        source_tree(source, ref, work)


def test_a_missing_git_is_named(tree: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(HostError, match="git is needed for a repository and is not installed"):
        source_tree(str(tree), "v1", work)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A stand-in for criu: it exports a table of 13 hooks and needs libc."""
    work = tmp_path_factory.mktemp("program")
    source = work / "criu.c"
    source.write_text(
        "char cr_plugin_ctl[16 * 14];\nint arch_ptrace_restore(void);\n"
        "int arch_ptrace_restore(void) { return 0; }\nint main(void) { return 0; }\n"
    )
    flags = ["-rdynamic", "-O1"]
    compile_c([source], work / "criu", target=AARCH64_LINUX, flags=flags, cache_root=work / "zig")
    return (work / "criu").read_bytes()


@pytest.fixture
def built(tmp_path: Path, program: bytes) -> Path:
    path = tmp_path / "my criu"
    (path / PROGRAM).parent.mkdir(parents=True)
    (path / PROGRAM).write_bytes(program)
    (path / LIBRARIES).mkdir(parents=True)
    for name in (LOADER, *needed_libraries(program)):
        (path / LIBRARIES / name).write_bytes(b"")
    facts = {"format": 1, "version": "4.9", "restorer_protected": True, "source": "x"}
    (path / MANIFEST).write_text(json.dumps(facts))
    return path


def test_a_build_tells_what_it_is(built: Path) -> None:
    found = read_build(built)
    assert (found.version, found.plugin_hooks) == ("4.9", 13)
    assert found.name.startswith("my-criu+")
    assert found.spelled == str(built)
    assert found.native_keys
    assert found.restorer_protected
    assert found.path == str(built)
    again = criu_of(str(built))
    assert again == found
    (built / LIBRARIES / LOADER).write_bytes(b"another")
    assert read_build(built).package_group != found.package_group, "its group tells its content"
    assert read_build(built).name != found.name, "and so does its name"


def test_a_name_is_of_the_catalogue() -> None:
    assert criu_of("3.17.1").path is None
    with pytest.raises(UsageError, match="unknown CRIU"):
        criu_of("3.17")


def test_what_a_build_lacks_is_named(built: Path) -> None:
    (built / LIBRARIES / "libc.so.6").unlink()
    with pytest.raises(UsageError, match=r"lacks the library libc\.so\.6"):
        read_build(built)
    (built / MANIFEST).write_text('{"format": 2}')
    with pytest.raises(UsageError, match="another format than 1"):
        read_build(built)
    with pytest.raises(UsageError, match="no directory of `criu-pac build criu`"):
        criu_of("./nowhere")


def test_what_a_program_exports_and_needs(program: bytes) -> None:
    assert exported_size(program, "cr_plugin_ctl") == 16 * 14
    assert exported_size(program, "no_such_name") is None
    assert "libc.so.6" in needed_libraries(program)
