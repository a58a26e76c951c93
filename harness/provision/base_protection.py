"""Whether a container base really signs return addresses: its interpreter and its libc, read and counted."""

from harness.core.errors import ArchiveError, NotInArchiveError
from harness.parsing.branch_protection import BranchProtection, branch_protection
from harness.provision.image_root import ImageRoot, image_layers, plain_layer
from harness.provision.prepared_base import ImageKind, PreparedBase

# Debian and Ubuntu; Fedora and SUSE; Arch; Alpine, whose loader is its C library.
LIBC_PATHS = (
    "usr/lib/aarch64-linux-gnu/libc.so.6",
    "lib/aarch64-linux-gnu/libc.so.6",
    "usr/lib64/libc.so.6",
    "lib64/libc.so.6",
    "usr/lib/libc.so.6",
    "lib/ld-musl-aarch64.so.1",
)


def check_protection(prepared: PreparedBase, *, control: bool = False) -> tuple[bool, bool]:
    """Return whether the interpreter and its libc are built with branch protection.

    Raises ArchiveError when the base is declared to be protected and one of them is not, or is no
    aarch64 program, unless the workload is an unprotected ``control``; NotInArchiveError when one
    is missing; IntegrityError for a damaged archive.
    """
    root = base_root(prepared)
    libc = root.find(*LIBC_PATHS)
    if libc is None:
        raise NotInArchiveError(
            f"the container base {prepared.base.name} has no C library: none of {', '.join(LIBC_PATHS)}"
        )
    paths = (prepared.base.interpreter.lstrip("/"), libc)
    try:
        contents = root.read(*paths)
    except NotInArchiveError as error:
        raise NotInArchiveError(f"the container base {prepared.base.name}: {error.message}") from error
    found = [_scan(prepared, path, data) for path, data in zip(paths, contents, strict=True)]
    if prepared.base.protected and not control:
        for path, protection in zip(paths, found, strict=True):
            _demand(prepared, path, protection)
    interpreter, library = found
    return interpreter.protected, library.protected


def base_root(prepared: PreparedBase) -> ImageRoot:
    """Return the base's file system as a container will see it; raises IntegrityError."""
    if prepared.kind is ImageKind.LOAD:
        layers = image_layers(prepared.image_archive)
    else:
        layers = (plain_layer(prepared.image_archive),)
    if prepared.python_layer:
        layers = (*layers, plain_layer(prepared.python_layer))
    return ImageRoot(layers)


def _scan(prepared: PreparedBase, path: str, data: bytes) -> BranchProtection:
    try:
        return branch_protection(data)
    except ValueError as error:
        raise ArchiveError(f"/{path} of the container base {prepared.base.name}: {error}") from error


def _demand(prepared: PreparedBase, path: str, protection: BranchProtection) -> None:
    if not protection.protected:
        raise ArchiveError(
            f"/{path} of the container base {prepared.base.name} carries no branch protection: "
            f"{protection.paciasp} paciasp, {protection.pacibsp} pacibsp and "
            f"{protection.signed_returns} authenticated returns in its code",
            hint="nothing in it can show the bug; choose another --base",
        )
