"""A container base that is here, and what the cache remembers of how it came."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from harness.catalogue.bases import Base
from harness.provision.cache import Cache
from harness.provision.context import Provision
from harness.provision.guest_image import content_key

USER_REFERENCE = "criu-pac-user:base"


class Route(StrEnum):
    """How a base came here."""

    REGISTRY = "registry"  # an image of a registry, python3 from the distribution's archive
    ARCHIVE = "archive"  # present versions of the distribution's signed package archive
    PACKAGES = "packages"  # the packages of the lock
    TAR = "tar"  # a root file system of the user


class ImageKind(StrEnum):
    """What the engine has to do with the archive of a base."""

    LOAD = "load"  # an image archive, for `docker load`
    IMPORT = "import"  # a root file system, for `docker import`


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBase:
    """A container base as files of this host.

    ``image_archive`` goes into the engine as ``kind`` says; ``python_layer`` is a tar to add on top,
    None when the base has its interpreter already. ``digest`` stands for the content of both;
    ``index_digest`` and ``manifest_digest`` ("sha256:...") are a registry's. ``notes`` are for the
    record, the first one says which route was taken and why.
    """

    base: Base
    route: Route
    image_archive: Path
    kind: ImageKind
    python_layer: Path | None
    notes: tuple[str, ...]
    digest: str
    index_digest: str | None = None
    manifest_digest: str | None = None

    @property
    def reference(self) -> str:
        """The name the image has in the engine, which the base's Dockerfile starts from."""
        return self.base.image or USER_REFERENCE

    def with_note(self, note: str) -> "PreparedBase":
        """Return the same base with one more note for the record."""
        return replace(self, notes=(*self.notes, note))


def layers_digest(*archives: Path) -> str:
    """Return the digest that stands for some artifacts of the cache, whose keys name their content."""
    return content_key(*(path.parent.name for path in archives))


def remember(prepared: PreparedBase, provision: Provision) -> None:
    """Keep how a base was made; raises StorageError."""
    archives = [path for path in (prepared.image_archive, prepared.python_layer) if path]
    document = {
        "route": prepared.route,
        "kind": prepared.kind,
        "archives": [path.relative_to(provision.cache.root / "artifacts").parts for path in archives],
        "notes": prepared.notes,
        "index_digest": prepared.index_digest,
        "manifest_digest": prepared.manifest_digest,
        "made": datetime.now(tz=UTC).isoformat(),
    }
    provision.cache.write_state(_memory(prepared.base, provision), json.dumps(document))


def recall(base: Base, provision: Provision, *, max_age: float | None) -> PreparedBase | None:
    """Return the base as it was made last, if that is not older than ``max_age`` seconds (None: any age).

    None when it never was, or when the cache no longer holds its parts.
    """
    try:
        document = json.loads(_memory(base, provision).read_text("utf-8"))
        made = datetime.fromisoformat(document["made"])
        age = (datetime.now(tz=UTC) - made).total_seconds()
        if max_age is not None and not 0 <= age <= max_age:
            return None
        paths = [_artifact(provision.cache, parts) for parts in document["archives"]]
        image, python = paths
        if image is None or python is None:
            return None
        why, *others = document["notes"]
        return PreparedBase(
            base=base,
            route=Route(document["route"]),
            image_archive=image,
            kind=ImageKind(document["kind"]),
            python_layer=python,
            notes=(f"{why}; from the cache, as made on {made:%Y-%m-%d %H:%M} UTC", *others),
            digest=layers_digest(image, python),
            index_digest=document["index_digest"],
            manifest_digest=document["manifest_digest"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def forget(base: Base, provision: Provision) -> None:
    """Let the next command ask registry and archive again, as for `cache update`."""
    _memory(base, provision).unlink(missing_ok=True)
    _failure(base, provision).unlink(missing_ok=True)


def remember_failure(base: Base, reason: str, provision: Provision) -> None:
    """Keep that no route to ``base`` answered, and why."""
    text = json.dumps({"reason": reason, "at": datetime.now(tz=UTC).isoformat()})
    provision.cache.write_state(_failure(base, provision), text)


def recent_failure(base: Base, provision: Provision, *, max_age: float) -> str | None:
    """Return why no route to ``base`` answered in the last ``max_age`` seconds, None if that is not so."""
    try:
        document = json.loads(_failure(base, provision).read_text("utf-8"))
        age = (datetime.now(tz=UTC) - datetime.fromisoformat(document["at"])).total_seconds()
        return f"{document['reason']} ({age:.0f} s ago)" if 0 <= age <= max_age else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _artifact(cache: Cache, parts: list[str]) -> Path | None:
    kind, key, name = parts
    directory = cache.existing_artifact(kind, key)
    return directory / name if directory else None


def _memory(base: Base, provision: Provision) -> Path:
    return provision.cache.state("bases", f"{base.name}-{_sources(base, provision)}.json")


def _failure(base: Base, provision: Provision) -> Path:
    return provision.cache.state("bases", f"{base.name}-{_sources(base, provision)}.unreachable")


def _sources(base: Base, provision: Provision) -> str:
    """Return a name for where a base may come from: what one place gave is not an answer of another."""
    settings = provision.settings
    return content_key(settings.registry, *settings.mirrors.get(base.distribution, ()))[:12]
