"""Container images for linux/arm64 from a registry, every byte checked, as `docker load` takes them.

Source: OCI Distribution Specification 1.1. The tag is trusted as far as TLS is; from its
document on, every manifest and blob is known by its SHA-256 and its size.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import ArchiveError, NetworkError, NotInArchiveError
from harness.provision.answers import TryAgainError, check_status, offline
from harness.provision.cache import Cache
from harness.provision.context import Provision
from harness.provision.fetch import Fetcher, RemoteFile
from harness.provision.guest_image import content_key
from harness.provision.oci_archive import ImageParts, write_image_archive
from harness.provision.oci_documents import (
    ACCEPTED,
    Descriptor,
    is_index,
    parse_config,
    parse_manifest,
    select_platform,
)
from harness.provision.oci_token import AnonymousBearer
from harness.provision.reach import FIRST_ANSWER, within

ARTIFACT = "oci-image"
ARCHIVE = "image.tar"
_RESOLVING = 20.0  # seconds for token, index and manifest: three small documents


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledImage:
    """An image of a registry as an archive for `docker load`.

    ``index_digest`` is what the tag named, ``manifest_digest`` the arm64 image in it ("sha256:...");
    they are equal when the tag named one image directly.
    """

    reference: str
    registry: str
    index_digest: str
    manifest_digest: str
    archive: Path


class Registry(Fetcher):
    """Anonymous downloads of one repository; verified like every other download of the cache."""

    def __init__(
        self, cache: Cache, url: str, repository: str, *, offline: bool = False, backoff: float = 0.5
    ) -> None:
        super().__init__(cache, offline=offline, backoff=backoff)
        self.url = url
        self.base = f"{url}/v2/{repository}"
        self._client.headers["accept"] = ", ".join(ACCEPTED)
        self._client.auth = AnonymousBearer(repository)
        self._client.timeout = httpx.Timeout(20, connect=FIRST_ANSWER)

    def check_answers(self, *, seconds: float = FIRST_ANSWER) -> None:
        """Raise NetworkError unless a registry answers within ``seconds``; its challenge is an answer."""
        deadline = Deadline.after(seconds, f"the registry {self.url}")
        try:
            answer = within(deadline, lambda: self._client.get(f"{self.url}/v2/", auth=None))
            if answer.status_code != httpx.codes.UNAUTHORIZED:
                check_status(answer)
        except (httpx.HTTPError, httpx.InvalidURL, TryAgainError) as error:
            raise NetworkError(f"the registry {self.url}: {error or type(error).__name__}") from error
        except NotInArchiveError as error:
            raise NetworkError(f"{self.url} is no image registry: {error.message}") from error

    def resolve(self, tag: str) -> tuple[str, Descriptor]:
        """Return the digest of what ``tag`` names now, and the arm64 manifest in it.

        Raises NotInArchiveError (no such tag, no arm64), NetworkError, ArchiveError.
        """
        url = f"{self.base}/manifests/{tag}"
        data, _ = self.get_text([url], url)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if is_index(data, url):
            return digest, select_platform(data, url)
        manifest = parse_manifest(data, url)
        return digest, Descriptor(media_type=manifest.media_type, digest=digest, size=len(data))

    def document(self, descriptor: Descriptor, kind: str = "blobs") -> bytes:
        """Return a manifest or a configuration; raises as ``get``."""
        return self.get(self.remote(descriptor, kind)).read_bytes()

    def remote(self, descriptor: Descriptor, kind: str = "blobs") -> RemoteFile:
        """Return where a blob (or with ``kind`` "manifests", a manifest) is."""
        url = f"{self.base}/{kind}/{descriptor.digest}"
        return RemoteFile(urls=(url,), sha256=descriptor.sha256, size=descriptor.size, name=url)


def repository_of(reference: str) -> tuple[str, str]:
    """Return repository and tag of a short reference, as Docker Hub names them.

    "ubuntu:24.04" is ("library/ubuntu", "24.04").
    """
    name, _, tag = reference.partition(":")
    return (name if "/" in name else f"library/{name}"), tag or "latest"


def pull(reference: str, provision: Provision, *, seconds: float = FIRST_ANSWER) -> PulledImage:
    """Return the arm64 image that ``reference`` names now.

    Raises NetworkError (no answer within ``seconds``, or offline), NotInArchiveError (no such
    image, or none for arm64), IntegrityError (bytes other than their digest says), ArchiveError.
    """
    repository, tag = repository_of(reference)
    settings = provision.settings
    if settings.offline:
        raise offline(f"the image {reference}")
    with (
        steps.step(f"image {reference}"),
        _counted(Registry(provision.cache, settings.registry, repository), provision) as registry,
    ):
        registry.check_answers(seconds=seconds)
        index_digest, manifest = within(
            Deadline.after(_RESOLVING, f"the registry {registry.url}"), lambda: registry.resolve(tag)
        )
        archive = _archive(reference, manifest, registry)
    return PulledImage(
        reference=reference,
        registry=settings.registry,
        index_digest=index_digest,
        manifest_digest=manifest.digest,
        archive=archive,
    )


def _archive(reference: str, descriptor: Descriptor, registry: Registry) -> Path:
    def build(work: Path) -> None:
        data = registry.document(descriptor, "manifests")
        where = f"{registry.base}@{descriptor.digest}"
        manifest = parse_manifest(data, where)
        config_data = registry.document(manifest.config)
        config = parse_config(config_data, where)
        if (config.os, config.architecture) != ("linux", "arm64"):
            raise NotInArchiveError(f"{where} is for {config.os}/{config.architecture}, not linux/arm64")
        if len(config.diff_ids) != len(manifest.layers):
            raise ArchiveError(f"{where} has {len(manifest.layers)} layers and tells {len(config.diff_ids)}")
        layers = []
        for result in registry.get_all([registry.remote(layer) for layer in manifest.layers]):
            if isinstance(result, NotInArchiveError):
                raise result
            layers.append(result)
        parts = ImageParts(
            reference=reference,
            descriptor=descriptor,
            manifest_data=data,
            manifest=manifest,
            config_data=config_data,
            diff_ids=config.diff_ids,
            layers=tuple(layers),
        )
        write_image_archive(work / ARCHIVE, parts)

    key = content_key(reference, descriptor.digest)
    return registry.cache.artifact(ARTIFACT, key, build) / ARCHIVE


@contextmanager
def _counted(registry: Registry, provision: Provision) -> Iterator[Registry]:
    """Let a registry's downloads count as the command's own; close it; name its setting in errors."""
    try:
        yield registry
    except NetworkError as error:
        raise NetworkError(
            error.message, hint="set CRIU_PAC_REGISTRY to a mirror of Docker Hub that answers"
        ) from error
    finally:
        provision.fetcher.bytes_downloaded += registry.bytes_downloaded
        registry.close()
