"""Writing an image archive: an OCI image layout that `docker load` of a classic engine accepts too.

Docker 26 reads ``manifest.json`` and ignores the layout; engines that keep images in containerd
read ``index.json``. Both point at the same blobs.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from harness.core.errors import IntegrityError
from harness.provision.oci_documents import (
    DOCKER_LAYER,
    OCI_INDEX,
    OCI_LAYER,
    Descriptor,
    Manifest,
)

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParts:
    """The verified documents and layer files of one image; ``diff_ids`` are of uncompressed layers."""

    reference: str
    descriptor: Descriptor
    manifest_data: bytes
    manifest: Manifest
    config_data: bytes
    diff_ids: tuple[str, ...]
    layers: tuple[Path, ...]


def write_image_archive(target: Path, parts: ImageParts) -> None:
    """Write ``parts`` as one archive; the same image gives the same bytes.

    Layers stay as they came, but for zstd: not every engine that loads gzip loads that. Raises
    IntegrityError when such a layer is damaged.
    """
    scratch: list[Path] = []
    try:
        parts = _without_zstd(parts, target.parent, scratch)
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(tar, "index.json", _index(parts))
            _add(tar, "manifest.json", _docker_manifest(parts))
            _add(tar, _place(parts.descriptor), parts.manifest_data)
            _add(tar, _place(parts.manifest.config), parts.config_data)
            written = set()
            for layer, path in zip(parts.manifest.layers, parts.layers, strict=True):
                if layer.digest not in written:  # an empty layer often comes twice
                    written.add(layer.digest)
                    info = tarfile.TarInfo(_place(layer))
                    info.size = path.stat().st_size
                    with path.open("rb") as stream:
                        tar.addfile(info, stream)
    finally:
        for path in scratch:
            path.unlink(missing_ok=True)


def _without_zstd(parts: ImageParts, directory: Path, scratch: list[Path]) -> ImageParts:
    """Return ``parts`` with zstd layers unpacked, and with a manifest that says so."""
    layers, paths = [], []
    for layer, path, diff_id in zip(parts.manifest.layers, parts.layers, parts.diff_ids, strict=True):
        with path.open("rb") as stream:
            packed = stream.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        if not packed:
            layers.append(layer)
            paths.append(path)
            continue
        plain = directory / f"{diff_id.partition(':')[2]}.layer"
        scratch.append(plain)
        size = _decompress(path, plain, diff_id)
        docker = layer.media_type.startswith(DOCKER_LAYER)
        media_type = DOCKER_LAYER if docker else OCI_LAYER
        layers.append(Descriptor(media_type=media_type, digest=diff_id, size=size))
        paths.append(plain)
    if not scratch:
        return parts
    manifest = replace(parts.manifest, layers=tuple(layers))
    data = _json(
        {
            "schemaVersion": 2,
            "mediaType": manifest.media_type,
            "config": _described(manifest.config),
            "layers": [_described(layer) for layer in layers],
        }
    )
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return replace(
        parts,
        descriptor=Descriptor(media_type=manifest.media_type, digest=digest, size=len(data)),
        manifest_data=data,
        manifest=manifest,
        layers=tuple(paths),
    )


def _decompress(source: Path, target: Path, diff_id: str) -> int:
    """Unpack a zstd layer and return its size in bytes; raises IntegrityError."""
    digest = hashlib.sha256()
    try:
        with (
            source.open("rb") as packed,
            target.open("wb") as sink,
            zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as plain,
        ):
            while chunk := plain.read(_CHUNK):
                digest.update(chunk)
                sink.write(chunk)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the image layer {diff_id} cannot be unpacked: {error}") from error
    actual = f"sha256:{digest.hexdigest()}"
    if actual != diff_id:
        raise IntegrityError(f"an image layer unpacks to {actual}, its configuration says {diff_id}")
    return target.stat().st_size


def _index(parts: ImageParts) -> bytes:
    name, _, tag = parts.reference.partition(":")
    full = name if "/" in name else f"library/{name}"
    entry = {
        **_described(parts.descriptor),
        "platform": {"architecture": "arm64", "os": "linux"},
        "annotations": {
            "io.containerd.image.name": f"docker.io/{full}:{tag}",
            "org.opencontainers.image.ref.name": tag,
        },
    }
    return _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})


def _docker_manifest(parts: ImageParts) -> bytes:
    return _json(
        [
            {
                "Config": _place(parts.manifest.config),
                "RepoTags": [parts.reference],
                "Layers": [_place(layer) for layer in parts.manifest.layers],
            }
        ]
    )


def _described(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }


def _place(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.sha256}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
