"""A bare program of CRIU: what is read out of it, its libraries, and what is refused by name.

The programs are small stand-ins that export what CRIU does; CRIU itself is in tests/e2e.
"""

import shutil
from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.parsing.criu_program import criu_program
from harness.parsing.elf_needs import needed_libraries
from harness.provision.criu_binary import files_of
from harness.provision.criu_build import criu_of
from harness.provision.criu_layout import LIBRARIES, PROGRAM
from harness.provision.toolchain import AARCH64_LINUX, compile_c

LOADER = "ld-linux-aarch64.so.1"
MAIN = "int main(void) { return 0; }\n"
SOURCES = {
    "criu": "char cr_plugin_ctl[16 * 14];\nint arch_ptrace_restore(void) { return 0; }\n"
    'const char empty[] = "";\nconst char version[] = "4.9.1";\nconst char local[] = "127.0.0.1";\n' + MAIN,
    # As a restorer compiled with branch protection: paciasp among the constants.
    "protected": 'char cr_plugin_ctl[16 * 11];\nconst char version[] = "\\0003.17";\n'
    "_Alignas(16) const unsigned restorer[] = { 0xd503233f, 0xd65f03c0 };\n" + MAIN,
    "two-versions": 'char cr_plugin_ctl[16 * 14];\nconst char a[] = "\\0004.1";\n'
    'const char b[] = "\\0004.2";\n' + MAIN,
    "no-version": "char cr_plugin_ctl[16 * 14];\n" + MAIN,
    "other": 'const char version[] = "4.9";\n' + MAIN,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every stand-in, and libraries for them with another one they need."""
    work = tmp_path_factory.mktemp("programs")
    for name, text in SOURCES.items():
        source = work / f"{name}.c"
        source.write_text(text)
        flags = ["-rdynamic", "-O1", "-mbranch-protection=none"]
        compile_c([source], work / name, target=AARCH64_LINUX, flags=flags, cache_root=work / "zig")
    (work / "lib.c").write_text("int nothing;\n")
    flags = ["-shared", "-fPIC", "-nostdlib"]
    compile_c([work / "lib.c"], work / "lib.so", target=AARCH64_LINUX, flags=flags, cache_root=work / "zig")
    return work


@pytest.fixture
def place(tmp_path: Path, compiled: Path) -> Path:
    """The program "criu" with its libraries in lib/."""
    shutil.copy(compiled / "criu", tmp_path / "criu")
    (tmp_path / "lib").mkdir()
    for name in (LOADER, *needed_libraries((compiled / "criu").read_bytes())):
        shutil.copy(compiled / "lib.so", tmp_path / "lib" / name)
    return tmp_path


def test_a_program_tells_what_it_is(place: Path) -> None:
    found = criu_of(f"{place}/criu")
    assert (found.version, found.plugin_hooks) == ("4.9.1", 13)
    assert found.native_keys
    assert not found.restorer_protected
    assert found.name.startswith("criu+")
    assert found.spelled == str(place / "criu")
    (place / "lib" / LOADER).write_bytes((place / "lib" / LOADER).read_bytes() + b"\0")
    again = criu_of(f"{place}/criu")
    assert again.package_group != found.package_group, "its group tells its content"
    assert again.name != found.name


def test_signing_code_among_the_constants_is_a_protected_restorer(compiled: Path) -> None:
    found = criu_program((compiled / "protected").read_bytes())
    assert (found.version, found.native_keys, found.plugin_hooks) == ("3.17", False, 10)
    assert found.restorer_protected
    assert found.needed[0] == LOADER


def test_its_files_go_where_a_bundle_has_them(place: Path) -> None:
    files = dict(files_of(criu_of(f"{place}/criu")))
    assert files[f"/{PROGRAM}"] == place / "criu"
    assert files[f"/{LIBRARIES}/{LOADER}"] == place / "lib" / LOADER
    assert f"/{LIBRARIES}/libc.so.6" in files


def test_libraries_are_found_from_where_a_package_has_its_program(place: Path) -> None:
    (place / "usr/sbin").mkdir(parents=True)
    (place / "criu").rename(place / "usr/sbin/criu")
    (place / "usr/lib").mkdir()
    (place / "lib").rename(place / LIBRARIES)
    assert criu_of(f"{place}/usr/sbin/criu").version == "4.9.1"


def test_every_missing_library_is_named(place: Path) -> None:
    (place / "lib" / LOADER).unlink()
    (place / "lib/libc.so.6").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(UsageError, match=rf"lacks the libraries {LOADER}, .*libc\.so\.6") as caught:
        criu_of(f"{place}/criu")
    assert f"put them for arm64 into {place}/lib" in str(caught.value)


@pytest.fixture
def installed(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's root directory with the program, and in place of its loader a script that tells of one."""
    root = tmp_path.resolve()
    for directory in ("usr/sbin", "opt", "lib"):
        (root / directory).mkdir(parents=True)
    program, loader = root / "usr/sbin/criu", root / "lib" / LOADER
    flags = ["-rdynamic", "-O1", "-mbranch-protection=none", f"-Wl,--dynamic-linker={loader}"]
    source = compiled / "criu.c"
    compile_c([source], program, target=AARCH64_LINUX, flags=flags, cache_root=compiled / "zig")
    shutil.copy(compiled / "lib.so", root / "opt/libc.so.6")
    loader.write_text(
        f"""#!/bin/sh
[ "$*" = "--list {program}" ] && [ -z "$LD_LIBRARY_PATH" ] || exit 9
[ -e {root}/opt/libc.so.6 ] || {{ echo "criu: libc.so.6: cannot open shared object file" >&2; exit 127; }}
echo "	linux-vdso.so.1 (0x0000ffff8c6f2000)"
echo "	libc.so.6 => {root}/opt/libc.so.6 (0x0000ffff8c3e0000)"
echo "	{loader} (0x0000ffff8c6b5000)"
"""
    )
    loader.chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}/usr/sbin:/usr/bin:/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somebody's own")
    return root


def test_the_one_installed_on_this_host_has_the_libraries_its_loader_finds(installed: Path) -> None:
    found = criu_of("system")
    assert (found.version, found.plugin_hooks, found.spelled) == ("4.9.1", 13, "system")
    assert found.name.startswith("system+")
    assert dict(files_of(found)) == {
        f"/{PROGRAM}": installed / PROGRAM,
        f"/{LIBRARIES}/libc.so.6": installed / "opt/libc.so.6",
        f"/{LIBRARIES}/{LOADER}": installed / "lib" / LOADER,
    }


def test_a_library_that_this_hosts_loader_misses_is_told_in_its_words(installed: Path) -> None:
    (installed / "opt/libc.so.6").unlink()
    told = (
        rf"--criu system, {installed}/usr/sbin/criu, does not start on this host: criu: libc\.so\.6: cannot"
    )
    with pytest.raises(UsageError, match=told):
        criu_of("system")


def test_a_host_without_criu_is_told_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.provision.criu_binary.search_path", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=f"--criu system: there is no criu in {tmp_path}; install it, or"):
        criu_of("system")


def test_the_one_installed_on_a_host_of_another_kind_is_refused(installed: Path) -> None:
    data = bytearray((installed / PROGRAM).read_bytes())
    data[18] = 62  # e_machine: EM_X86_64
    (installed / PROGRAM).write_bytes(data)
    told = r"--criu system, .*/usr/sbin/criu, is no program of CRIU for arm64: .*EM_X86_64"
    with pytest.raises(UsageError, match=told):
        criu_of("system")


def test_another_c_library_than_the_one_bundles_are_started_with_is_refused(
    place: Path, compiled: Path
) -> None:
    data = (compiled / "criu").read_bytes()
    (place / "criu").write_bytes(data.replace(b"/ld-linux-aarch64.so.1", b"/ld-musl--aarch64.so.1"))
    with pytest.raises(UsageError, match=r"is not linked against glibc: its loader is .*/ld-musl"):
        criu_of(f"{place}/criu")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text", "no program of CRIU for arm64: not an ELF file"),
        ("host", "not a 64-bit little-endian aarch64 ELF file but EM_X86_64"),
        ("other", r"no CRIU: it exports no table of plugins \(cr_plugin_ctl\)"),
        ("no-version", "no CRIU: its constants hold none where one version is expected"),
        ("two-versions", r"hold 4\.1, 4\.2 where one version is expected"),
        ("lib.so", "no CRIU: it exports no table"),
    ],
)
def test_what_is_no_criu_is_refused_by_name(compiled: Path, tmp_path: Path, name: str, told: str) -> None:
    path = compiled / name
    if name == "text":
        path = tmp_path / name
        path.write_text("#!/bin/sh\n")
    if name == "host":
        path = tmp_path / name
        data = bytearray((compiled / "criu").read_bytes())
        data[18] = 62  # e_machine: EM_X86_64
        path.write_bytes(data)
    with pytest.raises(UsageError, match=told) as caught:
        criu_of(str(path))
    assert str(path) in caught.value.message


def test_a_static_program_is_refused(compiled: Path) -> None:
    data = (compiled / "criu").read_bytes()
    without_loader = data.replace(b"\x03\x00\x00\x00\x04\x00\x00\x00", b"\x00\x00\x00\x00\x04\x00\x00\x00", 1)
    with pytest.raises(ValueError, match="linked statically: it cannot load a plugin"):
        criu_program(without_loader)
