"""The routes by which a container base comes here, and the choice among them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.catalogue.bases import BASES, Base, user_base
from harness.catalogue.bases import base as base_named
from harness.core import steps
from harness.core.errors import IntegrityError, NetworkError, NotInArchiveError, StorageError, UsageError
from harness.provision.answers import offline
from harness.provision.base_protection import LIBC_PATHS, base_root
from harness.provision.context import Provision
from harness.provision.guest_image import userland_archive
from harness.provision.oci import pull
from harness.provision.prepared_base import (
    ImageKind,
    PreparedBase,
    Route,
    layers_digest,
    recall,
    recent_failure,
    remember,
    remember_failure,
)
from harness.provision.reach import FIRST_ANSWER, check_answers
from harness.provision.storage import file_sha256

AUTO = "auto"
# What --base auto tries, then what it falls back to.
_WANTED, _FALLBACK = BASES["ubuntu-24.04"], BASES["debian-13"]
# The image and the present packages are asked for once a day: a base does not change under a
# series of runs, and a warm run needs no network.
_FRESH = 86400.0  # seconds
# A network without them is not asked again by every command of a session.
_FAILURE_HOLDS = 600.0  # seconds
# What another route may make good. Bytes that fail their digest or signature are never passed over.
_NO_ANSWER = (NetworkError, NotInArchiveError)


def choose_base(name: str, provision: Provision) -> tuple[PreparedBase, str]:
    """Return the base for ``--base name`` and the note, already told, that says which and why.

    ``name`` is "auto", a name of the catalogue or the path of a root file system archive. Raises
    UsageError for anything else, and as ``prepare_base``.
    """
    prepared = _automatic(provision) if name == AUTO else prepare_base(_asked_for(name), provision)
    note = prepared.notes[0]
    steps.note(note)
    return prepared, note


def prepare_base(base: Base, provision: Provision) -> PreparedBase:
    """Return ``base`` by the first of its routes that answers within seconds.

    A base whose packages are locked is made of them; another one is its registry's image, else
    made of its archive's present packages. Raises NetworkError and NotInArchiveError naming every
    place asked, SignatureError and IntegrityError (never passed over for another place),
    StorageError, and UsageError for an unusable archive of the user.
    """
    if base.tar:
        return _from_tar(base, Path(base.tar))
    if provision.group(_group(base.base_group)).locked:
        why = f"container base {base.name}: made of the locked packages"
        return _from_packages(base, provision, Route.PACKAGES, why)
    return _from_its_places(base, provision)


def _asked_for(name: str) -> Base:
    if name not in BASES:
        path = Path(name).expanduser()
        if ".tar" in path.name or path.suffix in {".tgz", ".txz"} or path.is_file():
            return user_base(path.absolute())
    return base_named(name)


def _automatic(provision: Provision) -> PreparedBase:
    is_offline = provision.settings.offline
    reason = None if is_offline else recent_failure(_WANTED, provision, max_age=_FAILURE_HOLDS)
    if reason and (found := recall(_WANTED, provision, max_age=None)):
        return found
    if reason is None:
        try:
            return prepare_base(_WANTED, provision)
        except _NO_ANSWER as error:
            reason = error.message
            if not is_offline:
                remember_failure(_WANTED, reason, provision)
    why = f"container base {_FALLBACK.name}, of the locked packages; not {_WANTED.name}: {reason}"
    return _from_packages(_FALLBACK, provision, Route.PACKAGES, why)


def _from_its_places(base: Base, provision: Provision) -> PreparedBase:
    """Return a base that is not locked: fresh from the cache, by registry, by archive, else any cached."""
    is_offline = provision.settings.offline
    if found := recall(base, provision, max_age=None if is_offline else _FRESH):
        return found
    if is_offline:
        raise offline(f"the container base {base.name}")
    try:
        made = _from_network(base, provision)
    except NetworkError as error:
        if found := recall(base, provision, max_age=None):
            return found.with_note(f"{base.name} could not be asked for again: {error.message}")
        raise
    remember(made, provision)
    return made


def _from_network(base: Base, provision: Provision) -> PreparedBase:
    assert base.image, "a base without a lock is in a registry"
    try:
        # Both routes need it: the registry's image has no python3.
        _check_archive(base, provision)
    except NetworkError as error:
        raise NetworkError(
            f"the {base.distribution} archive, from which python3 comes by either route, "
            f"does not answer: {error.message}",
            hint=f"set CRIU_PAC_MIRROR_{base.distribution.upper()}, or choose --base {_FALLBACK.name}",
        ) from error
    try:
        image = pull(base.image, provision)
    except _NO_ANSWER as refusal:
        why = f"container base {base.name}, of the archive's packages; not of a registry: {refusal.message}"
        try:
            return _from_packages(base, provision, Route.ARCHIVE, why)
        except _NO_ANSWER as error:
            raise NetworkError(
                f"no route to the container base {base.name}: {refusal.message}; {error.message}"
            ) from error
    with _noted() as notes:
        python = userland_archive(provision, _group(base.python_group), whole=False)
    why = (
        f"container base {base.name}: the image {base.image} of {image.registry}, which answered, "
        f"and python3 of the {base.distribution} archive"
    )
    return PreparedBase(
        base=base,
        route=Route.REGISTRY,
        image_archive=image.archive,
        kind=ImageKind.LOAD,
        python_layer=python,
        notes=(why, *notes),
        digest=layers_digest(image.archive, python),
        index_digest=image.index_digest,
        manifest_digest=image.manifest_digest,
    )


def _check_archive(base: Base, provision: Provision) -> None:
    """Raise NetworkError unless one of the base's mirrors answers within seconds."""
    failures = []
    for mirror in provision.settings.mirrors[base.distribution]:
        try:
            check_answers(f"{mirror}/dists/{base.release}/InRelease", seconds=FIRST_ANSWER)
        except NetworkError as error:
            failures.append(error.message)
        else:
            return
    raise NetworkError("; ".join(failures) or "no mirror is set")


def _from_packages(base: Base, provision: Provision, route: Route, why: str) -> PreparedBase:
    with _noted() as notes:
        root = userland_archive(provision, _group(base.base_group), whole=True)
        python = userland_archive(provision, _group(base.python_group), whole=False)
    return PreparedBase(
        base=base,
        route=route,
        image_archive=root,
        kind=ImageKind.IMPORT,
        python_layer=python,
        notes=(why, *notes),
        digest=layers_digest(root, python),
    )


def _from_tar(base: Base, path: Path) -> PreparedBase:
    """Return the user's own root file system, once it looks like one."""
    if not path.is_file():
        raise UsageError(f"--base {path}: there is no such file")
    prepared = PreparedBase(
        base=base,
        route=Route.TAR,
        image_archive=path,
        kind=ImageKind.IMPORT,
        python_layer=None,
        notes=(f"container base {base.name}: the archive {path}, as asked for",),
        digest="",
    )
    try:
        root = base_root(prepared)
        digest = file_sha256(path)
    except IntegrityError as error:
        raise UsageError(f"--base {path} is no readable tar archive: {error.message}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if root.find("manifest.json") and root.find("index.json", "repositories", "oci-layout"):
        raise UsageError(
            f"--base {path} is an image archive, not a root file system", hint="make one with `docker export`"
        )
    for what, places in (("interpreter", (base.interpreter.lstrip("/"),)), ("C library", LIBC_PATHS)):
        if root.find(*places) is None:
            raise UsageError(
                f"--base {path} is no aarch64 root file system with python3: "
                f"it has no {what} ({', '.join(places)})"
            )
    return PreparedBase(
        base=base,
        route=Route.TAR,
        image_archive=path,
        kind=ImageKind.IMPORT,
        python_layer=None,
        notes=prepared.notes,
        digest=digest,
    )


def _group(name: str | None) -> str:
    assert name, "every base of the catalogue names its groups"
    return name


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collect what is told to the user within the context, for the record."""
    texts: list[str] = []

    def keep(event: steps.StepEvent) -> None:
        if event.kind == "note" and event.text not in texts:
            texts.append(event.text)

    with steps.subscribed(keep):
        yield texts
