"""`--elf` and `--image`: whether programs depend on keys at all, wherever they will run."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from harness.core.deadline import Deadline
from harness.core.errors import IntegrityError, UsageError
from harness.core.process import run
from harness.doctor.diagnosis import Conclusion
from harness.doctor.engines import Engine
from harness.parsing.elf_file import ElfFile, elf_file
from harness.provision.base_protection import LIBC_PATHS
from harness.provision.image_root import ImageRoot, image_layers, plain_layer

_LIBRARY_DIRECTORIES = (
    *("/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"),
    "/usr/local/lib",
)
_SHOWN = 8  # names in a sentence
_SAVE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was asked about: a conclusion about it alone, why, and its facts.

    ``signs`` is None where that could not be told.
    """

    signs: bool | None
    reasons: tuple[str, ...]
    facts: dict[str, object]

    @property
    def conclusion(self) -> Conclusion:
        """Whether it depends on keys."""
        return _BY_SIGNS[self.signs]


_BY_SIGNS = {True: Conclusion.AFFECTED, False: Conclusion.SAFE, None: Conclusion.CANNOT_TELL}


def look_at_files(paths: Sequence[Path]) -> Subject:
    """Return whether programs sign, with the libraries they need where these are found.

    Raises UsageError for a path that is no readable ELF file.
    """
    found: dict[str, ElfFile] = {}
    for path in paths:
        found[str(path)] = _read(path)
    missing = _add_libraries(found, [path.resolve().parent for path in paths])
    return judge_files(found.values(), missing, where="")


def judge_files(files: Iterable[ElfFile], missing: Sequence[str] = (), *, where: str) -> Subject:
    """Return what files of one process or image mean together; ``missing`` ones were not looked at."""
    known = list(files)
    signing = [one.name for one in known if one.signs]
    unknown = [f"{one.name} ({one.problem})" for one in known if one.signs is None]
    arm64 = [one for one in known if one.architecture == "aarch64"]
    facts: dict[str, object] = {one.name: one.facts() for one in known}
    if signing:
        reason = f"signing code{where}: {_names(signing)}, {len(signing)} of {len(arm64)} arm64 files"
        return Subject(signs=True, reasons=(reason,), facts=facts)
    if unknown or missing:
        parts = [f"not looked at: {_names(missing)}"] if missing else []
        parts += [f"cannot be read: {_names(unknown)}"] if unknown else []
        why = f"nothing seen{where} signs, but {'; '.join(parts)}"
        return Subject(signs=None, reasons=(why,), facts=facts)
    if not arm64:
        kinds = sorted({one.architecture for one in known})
        why = f"no arm64 code{where}{': ' + ', '.join(kinds) if kinds else ''}"
        return Subject(signs=False, reasons=(why,), facts=facts)
    why = f"none of {len(arm64)} arm64 files{where} signs return addresses: they depend on no key"
    return Subject(signs=False, reasons=(why,), facts=facts)


def look_at_image(name: str, engines: dict[str, Engine], not_seen: list[str]) -> Subject:
    """Return whether programs of a container image sign.

    ``name`` is an archive (of an image or of a root file system), or an image of docker or
    podman. Raises UsageError when it is neither, IntegrityError for a damaged archive.
    """
    path = Path(name)
    if path.is_file():
        return _judge_archive(path, name)
    asked = [engines[one] for one in ("docker", "podman") if one in engines]
    if not asked:
        raise UsageError(
            f"--image {name}: no such file, and neither docker nor podman is here to ask for an image",
            hint="give an archive of `docker save` or `docker export`",
        )
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="criu-pac-image-") as scratch:
        for engine in asked:
            archive = Path(scratch) / f"{engine.name}.tar"
            words = [engine.path, "image", "save", "-o", str(archive), name]
            answer = run(words, Deadline.after(_SAVE_SECONDS, f"{engine.name} image save {name}"))
            if answer.returncode == 0:
                not_seen += problems
                return _judge_archive(archive, name)
            problems.append(f"{engine.name}: {(answer.error_text.splitlines() or ['no message'])[-1]}")
    raise UsageError(f"--image {name}: {'; '.join(problems)}")


def _judge_archive(path: Path, name: str) -> Subject:
    plain = ImageRoot((plain_layer(path),))
    try:
        root = ImageRoot(image_layers(path)) if plain.find("manifest.json") else plain
        files = list(_elf_files(root))
    except (ValueError, LookupError, AssertionError) as error:
        raise IntegrityError(f"{path} is no image archive as `docker save` writes it: {error}") from error
    subject = judge_files(files, where=f" in the image {name}")
    libc = next((one for one in files if one.name in LIBC_PATHS), None)
    facts: dict[str, object] = {
        "ELF files": len(files),
        "arm64": sum(one.architecture == "aarch64" for one in files),
        "signing": sorted(one.name for one in files if one.signs),
        "not readable": {one.name: one.problem for one in files if one.problem},
        "C library": {libc.name: libc.facts()} if libc else None,
    }
    return Subject(signs=subject.signs, reasons=subject.reasons, facts=facts)


def _elf_files(root: ImageRoot) -> Iterator[ElfFile]:
    for name, data in root.contents():
        if found := elf_file(name, data):
            yield found


def _read(path: Path) -> ElfFile:
    try:
        found = elf_file(str(path), path.read_bytes())
    except OSError as error:
        raise UsageError(f"--elf {path}: {error.strerror}") from error
    if found is None:
        raise UsageError(f"--elf {path}: not an ELF file")
    return found


def _add_libraries(found: dict[str, ElfFile], beside: Sequence[Path]) -> list[str]:
    """Add the libraries that are needed, and theirs; return the names of those that are nowhere."""
    directories = list(dict.fromkeys([*beside, *map(Path, _LIBRARY_DIRECTORIES)]))
    pending = [name for one in found.values() for name in one.needs]
    have = {PurePath(name).name for name in found}
    missing = []
    for name in pending:
        if name in have:
            continue
        have.add(name)
        library = next(filter(None, (_arm64(directory / name) for directory in directories)), None)
        if library is None:
            missing.append(name)
        else:
            found[library.name] = library
            pending += library.needs
    return missing


def _arm64(path: Path) -> ElfFile | None:
    try:
        found = elf_file(str(path), path.read_bytes())
    except OSError:
        return None
    return found if found and found.architecture == "aarch64" else None


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
