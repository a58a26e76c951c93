"""CRIU compiled for arm64 from a source tree, and directories with such builds."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness.catalogue.criu_builds import SYSTEM, CriuBuild, criu_build
from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import HostError, UsageError
from harness.core.process import check, run
from harness.parsing.elf_needs import exported_size, needed_libraries
from harness.provision.context import Provision
from harness.provision.criu_binary import read_binary, read_installed
from harness.provision.criu_layout import LIBRARIES, LOADER, PROGRAM
from harness.provision.criu_source import source_tree
from harness.provision.cross_tools import TRIPLET, CrossTools, cross_tools
from harness.provision.storage import file_sha256

MANIFEST = "criu-build.json"
_FORMAT = 1
_SECONDS = 1800.0
_LIST_HEAD = 16  # cr_plugin_ctl: a list of the plugins and one per hook
# The whole of CRIU with it, as Debian builds: upstream takes the restorer out again since 4.2.
_PROTECTION = "-mbranch-protection=standard"
_VERSION = re.compile(r'^#define CRIU_VERSION "([^"]+)"', re.MULTILINE)
_DESCRIPTOR = Path("google/protobuf/descriptor.proto")


def build_criu(
    source: str,
    ref: str | None,
    output: Path,
    provision: Provision,
    *,
    restorer_branch_protection: bool,
) -> CriuBuild:
    """Compile the tree that ``source`` and ``ref`` name (see source_tree) into the directory ``output``.

    Raises UsageError for a source that is none or an ``output`` that is not empty, HostError with
    the compiler's first error.
    """
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty")
    tools = cross_tools(provision)
    with tempfile.TemporaryDirectory(prefix="criu-pac-build-") as scratch:
        with steps.step("source tree"):
            tree = source_tree(source, ref, Path(scratch))
        with steps.step("compile CRIU"):
            _compile(tree, tools, protect=restorer_branch_protection)
        _bundle(tree, tools, output)
        found = _VERSION.search((tree / "criu/include/version.h").read_text("utf-8"))
    facts = {
        "format": _FORMAT,
        "version": found[1] if found else "unknown",
        "restorer_protected": restorer_branch_protection,
        "source": f"{source} {ref or ''}".strip(),
    }
    (output / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return read_build(output)


def read_build(path: Path) -> CriuBuild:
    """Return the build in a directory of ``build_criu``; UsageError when it is none or incomplete."""
    try:
        facts = json.loads((path / MANIFEST).read_text("utf-8"))
        program = (path / PROGRAM).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no directory of `criu-pac build criu`: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise UsageError(f"{path / MANIFEST} has another format than {_FORMAT}")
    for library in (LOADER, *needed_libraries(program)):
        if not (path / LIBRARIES / library).exists():
            raise UsageError(f"{path} lacks the library {library}")
    table = exported_size(program, "cr_plugin_ctl")
    files = sorted(one for one in path.rglob("*") if one.is_file())
    digest = hashlib.sha256("".join(file_sha256(one) for one in files).encode()).hexdigest()[:16]
    version = str(facts["version"])
    return CriuBuild(
        # Two directories of one name are two builds: in an id, and in a machine that holds both.
        name=f"{re.sub(r'[^A-Za-z0-9.+~-]', '-', path.resolve().name)}+{digest[:8]}",
        version=version,
        package_group=f"built-{digest}",
        native_keys=exported_size(program, "arch_ptrace_restore") is not None,
        restorer_protected=bool(facts["restorer_protected"]),
        plugin_hooks=(table or _LIST_HEAD) // _LIST_HEAD - 1,
        label=f"CRIU {version} built from {facts['source']}",
        path=str(path.resolve()),
    )


def criu_of(text: str) -> CriuBuild:
    """Return the build of a catalogue name, of a directory or program ("./mine"), or this host's ("system").

    Raises UsageError.
    """
    if text == SYSTEM:
        return read_installed()
    if "/" not in text:
        return criu_build(text)
    path = Path(text).expanduser()
    return read_binary(path) if path.is_file() else read_build(path)


def _compile(tree: Path, tools: CrossTools, *, protect: bool) -> None:
    # The tree has a link into the host's /usr/include here, or looks for it there (4.2).
    descriptor = tree / "images" / _DESCRIPTOR
    descriptor.unlink(missing_ok=True)
    shutil.copyfile(tools.sysroot / "usr/include" / _DESCRIPTOR, descriptor)
    words = [
        f"-j{len(os.sched_getaffinity(0))}",
        "ARCH=aarch64",
        f"CROSS_COMPILE={TRIPLET}-",
        "WERROR=0",
    ]
    words.append(f"GOOGLE_INCLUDE=images/{_DESCRIPTOR.parent}")
    if protect:
        words.append(f"USERCFLAGS={_PROTECTION}")
    deadline = Deadline.after(_SECONDS, "compiling CRIU")
    result = run([tools.make, *words, "criu/criu"], deadline, env=tools.environment, cwd=tree)
    if result.returncode != 0:
        errors = [line for line in result.error_text.splitlines() if "error:" in line or "***" in line]
        raise HostError(f"CRIU does not compile: {' | '.join(errors[:3]) or result.error_text[-300:]}")
    strip = tools.programs / f"{TRIPLET}-strip"
    check([strip, tree / "criu/criu"], deadline, env=tools.environment)


def _bundle(tree: Path, tools: CrossTools, output: Path) -> None:
    """Put the program and every library it needs where a bundle has them."""
    program = output / PROGRAM
    program.parent.mkdir(parents=True, exist_ok=True)
    (output / LIBRARIES).mkdir(parents=True, exist_ok=True)
    shutil.copy2(tree / "criu/criu", program)
    pending, done = [LOADER, *needed_libraries(program.read_bytes())], set[str]()
    for name in pending:
        if name not in done:
            done.add(name)
            content = (tools.sysroot / LIBRARIES / name).read_bytes()
            (output / LIBRARIES / name).write_bytes(content)
            (output / LIBRARIES / name).chmod(0o755)
            pending += _fresh(needed_libraries(content), done)


def _fresh(names: Iterable[str], done: set[str]) -> list[str]:
    return [name for name in names if name not in done]
