"""A program in CRIU's place for unit tests of the plugin: real processes under ptrace, a played machine."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.process import CommandResult, check, run
from harness.key_module.build import SOURCES
from harness.provision.toolchain import SHARED_C, compile_c

HOOKS_OF_4_1 = 12
NO_PERMISSION = 77  # its exit code where ptrace of a child is not permitted


def _deadline() -> Deadline:
    return Deadline.after(120, "the fake CRIU")


def compile_fake(hooks: int, directory: Path) -> Path:
    """Compile the module into a CRIU with that many hooks, in ``directory``; HostError when that fails."""
    output = directory / f"fake-{hooks}"
    sources = [Path(__file__).with_suffix(".c"), *SOURCES.glob("*.c"), SHARED_C / "sha256.c"]
    for played in ("regsets.c", "arm64.c"):
        sources.remove(SOURCES / played)
    flags = [
        *("-std=gnu11", "-O1", "-rdynamic", "-pthread"),
        *(f"-I{SOURCES}", f"-I{SHARED_C}", f"-DFAKE_HOOKS={hooks}"),
        *["-DFAKE_NATIVE"] * (hooks > HOOKS_OF_4_1),
    ]
    if compiler := shutil.which("cc"):
        words = [compiler, *flags, "-Wall", "-Wextra", "-Werror", *map(str, sources), "-o", str(output)]
        check(words, _deadline())
        return output
    return compile_c(sources, output, target="native", flags=flags, cache_root=directory / "zig")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCriu:
    """The compiled ``program`` and its images directory; a call's keywords are its environment."""

    program: Path
    images: Path

    def __call__(self, command: str, **environment: str) -> CommandResult:
        """Run one command of the program."""
        clean = {name: value for name, value in os.environ.items() if name != "CRIU_PAC_POLICY"}
        return run([self.program, command, self.images], _deadline(), env={**clean, **environment})


def the_error(result: CommandResult) -> str:
    """Return the one line an operator has to find in CRIU's log."""
    (line,) = [one for one in result.error_text.splitlines() if "error:" in one]
    if not line.startswith("pac-key-module: error: "):
        raise AssertionError(line)
    return line
