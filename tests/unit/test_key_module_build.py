"""The compiler and what the plugin's file promises to the program that loads it."""

import importlib.metadata
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from harness.core.errors import HostError
from harness.key_module.build import PLUGIN_NAME, SOURCES, build_plugin, plugin_key, plugin_sources
from harness.provision.toolchain import AARCH64_LINUX, compile_c, source_key


@pytest.fixture(scope="module")
def zig_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zig")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory, zig_cache: Path) -> Path:
    return build_plugin(tmp_path_factory.mktemp("plugin") / "lib" / PLUGIN_NAME, zig_cache)


def section(path: Path, name: str) -> Any:
    """A section that has to be there; elftools gives its kinds one type."""
    found = ELFFile(BytesIO(path.read_bytes())).get_section_by_name(name)
    assert found is not None
    return found


def symbols(path: Path) -> list[Any]:
    return list(section(path, ".dynsym").iter_symbols())


def test_the_plugin_is_for_aarch64_and_needs_libc_only(plugin: Path) -> None:
    assert ELFFile(BytesIO(plugin.read_bytes()))["e_machine"] == "EM_AARCH64"
    tags = list(section(plugin, ".dynamic").iter_tags())
    assert [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"] == ["libc.so.6"]
    versions = {word.name for _, words in section(plugin, ".gnu.version_r").iter_versions() for word in words}
    numbers = [tuple(map(int, name.removeprefix("GLIBC_").split("."))) for name in versions]
    assert max(numbers) <= (2, 31)


def test_the_plugin_exports_its_descriptor_and_nothing_else(plugin: Path) -> None:
    exported = [one for one in symbols(plugin) if one["st_shndx"] != "SHN_UNDEF" and one.name]
    assert [(one.name, one["st_size"]) for one in exported] == [("CR_PLUGIN_DESC", 32 + 16 * 8)]


def test_what_criu_gives_is_imported_weakly(plugin: Path) -> None:
    bindings = {one.name: one["st_info"]["bind"] for one in symbols(plugin)}
    for name in ("print_on_level", "criu_get_image_dir", "cr_plugin_ctl", "root_item", "dladdr1"):
        assert bindings[name] == "STB_WEAK"


def test_the_plugin_itself_carries_no_branch_protection(plugin: Path) -> None:
    text = section(plugin, ".text").data()
    words = {text[at : at + 4] for at in range(0, len(text), 4)}
    assert len(words) > 500
    assert bytes.fromhex("3f2303d5") not in words  # paciasp
    assert bytes.fromhex("7f2303d5") not in words  # pacibsp


def test_no_path_of_the_building_machine_is_in_the_plugin(plugin: Path) -> None:
    data = plugin.read_bytes()
    assert str(SOURCES).encode() not in data
    assert str(Path.home()).encode() + b"/" not in data


def test_a_second_build_gives_the_same_bytes(plugin: Path, tmp_path: Path, zig_cache: Path) -> None:
    assert build_plugin(tmp_path / PLUGIN_NAME, zig_cache).read_bytes() == plugin.read_bytes()


def test_a_failed_compilation_says_why_and_leaves_the_old_file(tmp_path: Path, zig_cache: Path) -> None:
    source, output = tmp_path / "bad.c", tmp_path / "out.so"
    source.write_text("int f(void) { int unused; return 0; }\n", encoding="utf-8")  # a warning is an error
    output.write_bytes(b"old")
    with pytest.raises(HostError, match=r"failed with exit code 1: .*bad.c:1:.* unused variable"):
        compile_c([source], output, target=AARCH64_LINUX, flags=["-c"], cache_root=zig_cache)
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.c", "out.so"]


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(HostError, match="no Python package ziglang; pip install ziglang"):
        compile_c([], tmp_path / "out", target=AARCH64_LINUX, cache_root=tmp_path / "zig")


def test_the_key_changes_with_a_source_a_name_and_a_setting(tmp_path: Path) -> None:
    source = tmp_path / "one.c"
    source.write_bytes(b"int x;")
    keys = [source_key([source], "-O2"), source_key([source], "-O1")]
    source.write_bytes(b"int y;")
    keys.append(source_key([source], "-O2"))
    keys.append(source_key([source.rename(tmp_path / "two.c")], "-O2"))
    assert len(set(keys)) == 4
    assert plugin_key() == plugin_key()
    assert re.fullmatch("[0-9a-f]{64}", plugin_key())


def test_every_source_is_built() -> None:
    assert "pac_key_plugin.c" in {path.name for path in plugin_sources()}
    assert all("SPDX-License-Identifier: MIT" in path.read_text("utf-8") for path in SOURCES.iterdir())
