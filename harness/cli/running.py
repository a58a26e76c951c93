"""What the commands that run scenarios have in common: bases, their record, a results directory."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import backend
from harness.core.errors import StorageError
from harness.provision.context import Provision
from harness.scenario.arms import Arm

if TYPE_CHECKING:
    from harness.provision.prepared_base import PreparedBase

RESULTS = Path("criu-pac-results")


def prepared_bases(
    arms: Sequence[Arm], provision: Provision, *chosen: "PreparedBase"
) -> Mapping[str, "PreparedBase"]:
    """Return the bases of all arms by name, the ``chosen`` ones as they are."""
    prepared = {one.base.name: one for one in chosen}
    for base in (arm.scenario.base for arm in arms):
        if base.name not in prepared:
            prepared[base.name] = backend.prepare_base(base, provision)
    return prepared


def base_record(base: "PreparedBase") -> Mapping[str, object]:
    """Return what the manifest says of a base."""
    return {
        "route": base.route.value,
        "digest": base.digest,
        "index_digest": base.index_digest,
        "manifest_digest": base.manifest_digest,
        "notes": list(base.notes),
    }


def new_directory(started: datetime) -> Path:
    """Make and return a results directory of this run's own."""
    for number in range(1, 100):
        suffix = f"-{number}" if number > 1 else ""
        path = (RESULTS / f"{started:%Y%m%dT%H%M%SZ}{suffix}").absolute()
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(
                f"cannot make {path}: {error.strerror}", hint="name another place with --results"
            ) from error
        return path
    raise StorageError(f"no free name left in {RESULTS.absolute()}")
