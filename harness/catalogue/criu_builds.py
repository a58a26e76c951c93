"""The builds of CRIU."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.catalogue.names import named


@dataclass(frozen=True, slots=True, kw_only=True)
class CriuBuild:
    """One build of CRIU.

    ``native_keys`` says whether it saves and restores PAC keys by itself (upstream since
    4.1), ``plugin_hooks`` how many hooks it knows (a plugin with more is refused),
    ``package_group`` its group in the package lock, ``label`` how people should call it.
    """

    name: str
    package_group: str
    native_keys: bool
    plugin_hooks: int
    label: str


CRIU_BUILDS: Mapping[str, CriuBuild] = MappingProxyType(
    {
        "3.17.1": CriuBuild(
            name="3.17.1",
            package_group="criu-3.17.1",
            native_keys=False,
            plugin_hooks=10,
            label="CRIU 3.17.1 (Debian bookworm)",
        ),
    }
)

DEFAULT_CRIU = CRIU_BUILDS["3.17.1"]


def criu_build(name: str) -> CriuBuild:
    """Return the build ``name``; raise UsageError listing near names otherwise."""
    return named(CRIU_BUILDS, "CRIU", name)
