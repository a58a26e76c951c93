"""Image indexes, manifests and configurations of a registry: JSON in, dataclasses out.

Sources: OCI Image Specification 1.1 (image-index, manifest, config) and Docker's Image Manifest
Version 2, Schema 2, which differ in their media types only.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.core.errors import ArchiveError, NotInArchiveError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
ACCEPTED = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)

_SCHEMA = 2
# The only algorithm in use; the hexadecimal part becomes a file name, so nothing else may pass.
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LARGEST = 4 << 30  # bytes; a size is a promise to store that much


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob by content: ``digest`` as "sha256:...", ``size`` in bytes."""

    media_type: str
    digest: str
    size: int

    @property
    def sha256(self) -> str:
        """The digest's hexadecimal part."""
        return self.digest.partition(":")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image for one platform; ``layers`` from the lowest up."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What of an image's configuration is needed: platform, and digests of the uncompressed layers."""

    os: str
    architecture: str
    diff_ids: tuple[str, ...]


def is_index(data: bytes, where: str) -> bool:
    """Tell an index of several images from the manifest of one; raises ArchiveError for neither."""
    document = _document(data, where)
    if document.get("schemaVersion") == _SCHEMA:
        if isinstance(document.get("manifests"), list):
            return True
        if isinstance(document.get("layers"), list):
            return False
    raise ArchiveError(f"{where} is neither an image index nor an image manifest")


def select_platform(data: bytes, where: str, *, os: str = "linux", architecture: str = "arm64") -> Descriptor:
    """Return the manifest for a platform; a variant other than v8 is another platform.

    Raises NotInArchiveError listing the platforms that are there, ArchiveError for an unusable index.
    """
    seen = []
    for entry in _array(_document(data, where).get("manifests"), where):
        platform = _object(entry.get("platform", {}), where)
        variant = platform.get("variant")
        name = f"{platform.get('os')}/{platform.get('architecture')}"
        if name == f"{os}/{architecture}" and variant in {None, "", "v8"}:
            return _descriptor(entry, where)
        seen.append(f"{name}/{variant}" if variant else name)
    raise NotInArchiveError(
        f"{where} has no image for {os}/{architecture}; it has {', '.join(sorted(set(seen))) or 'none'}"
    )


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest of one image; raises ArchiveError."""
    document = _document(data, where)
    layers = tuple(_descriptor(entry, where) for entry in _array(document.get("layers"), where))
    for layer in layers:
        if not layer.media_type.startswith((OCI_LAYER, DOCKER_LAYER)):
            raise ArchiveError(f"{where} has a layer of unknown type {layer.media_type!r}")
    if not layers:
        raise ArchiveError(f"{where} has no layers")
    media_type = document.get("mediaType", OCI_MANIFEST)
    return Manifest(
        media_type=media_type if isinstance(media_type, str) else OCI_MANIFEST,
        config=_descriptor(_object(document.get("config"), where), where),
        layers=layers,
    )


def parse_config(data: bytes, where: str) -> Config:
    """Return an image's configuration; raises ArchiveError."""
    document = _document(data, where)
    ids = _object(document.get("rootfs"), where).get("diff_ids")
    if not isinstance(ids, list) or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in ids):
        raise ArchiveError(f"{where} does not tell the digests of its layers")
    return Config(
        os=str(document.get("os")), architecture=str(document.get("architecture")), diff_ids=tuple(ids)
    )


def _document(data: bytes, where: str) -> Mapping[str, object]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ArchiveError(f"{where} is not JSON: {error}") from error
    return _object(document, where)


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ArchiveError(f"{where} lacks a part every image has")
    return value


def _array(value: object, where: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list):
        raise ArchiveError(f"{where} lacks a part every image has")
    return [_object(entry, where) for entry in value]


def _descriptor(entry: Mapping[str, object], where: str) -> Descriptor:
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType", "")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ArchiveError(f"{where} names a blob by {digest!r}, which is no SHA-256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _LARGEST:
        raise ArchiveError(f"{where} says that {digest} has {size!r} bytes")
    return Descriptor(media_type=str(media_type), digest=digest, size=size)
