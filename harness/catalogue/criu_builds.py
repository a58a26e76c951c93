"""The builds of CRIU."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.catalogue.names import named

STAND_IN_SUFFIX = "-nopac"
SYSTEM = "system"  # in --criu: the one that is installed on this host


@dataclass(frozen=True, slots=True, kw_only=True)
class CriuBuild:
    """One build of CRIU.

    ``version`` is what it says of itself. ``native_keys`` says whether it saves and restores
    PAC keys by itself (upstream since 4.1), ``restorer_protected`` whether its restorer was
    compiled with branch protection, ``plugin_hooks`` how many hooks it knows (a plugin with
    more is refused), ``package_group`` its group in the package lock, ``label`` how people
    should call it. ``masks_pac``: it runs with HWCAP_PACA and HWCAP_PACG hidden from it, which
    makes it leave keys alone like a version before 4.1: a stand-in of this harness. ``path`` is
    the directory or the program of a build that comes from no package; ``libraries`` are what
    a program needs, by name and path, ``installed`` says that it is this host's own.
    """

    name: str
    version: str
    package_group: str
    native_keys: bool
    restorer_protected: bool
    plugin_hooks: int
    label: str
    masks_pac: bool = False
    path: str | None = None
    libraries: tuple[tuple[str, str], ...] = ()
    installed: bool = False

    @property
    def spelled(self) -> str:
        """What a person writes in --criu for it."""
        return SYSTEM if self.installed else self.path or self.name


def _stand_in(of: CriuBuild, label: str) -> CriuBuild:
    return CriuBuild(
        name=f"{of.name}{STAND_IN_SUFFIX}",
        version=of.version,
        package_group=of.package_group,
        native_keys=False,
        restorer_protected=of.restorer_protected,
        plugin_hooks=of.plugin_hooks,
        label=label,
        masks_pac=True,
    )


_3_17_1 = CriuBuild(
    name="3.17.1",
    version="3.17.1",
    package_group="criu-3.17.1",
    native_keys=False,
    restorer_protected=False,
    plugin_hooks=10,
    label="CRIU 3.17.1 (Debian bookworm)",
)
_4_1_1 = CriuBuild(
    name="4.1.1",
    version="4.1.1",
    package_group="criu-4.1.1",
    native_keys=True,
    restorer_protected=True,  # upstream issue 2709
    plugin_hooks=12,
    label="CRIU 4.1.1 (Debian trixie)",
)
_4_2_1 = CriuBuild(
    name="4.2.1",
    version="4.2.1",
    package_group="criu-4.2.1",
    native_keys=True,
    restorer_protected=False,
    plugin_hooks=13,
    label="CRIU 4.2.1 (Debian forky)",
)
_BUILDS = (
    _3_17_1,
    _4_1_1,
    _stand_in(_4_1_1, "stand-in for CRIU 4.0, not an upstream version: 4.1.1 that sees no PAC"),
    _4_2_1,
    _stand_in(_4_2_1, "stand-in, not an upstream version: CRIU 4.2.1 that sees no PAC"),
)

CRIU_BUILDS: Mapping[str, CriuBuild] = MappingProxyType({build.name: build for build in _BUILDS})

DEFAULT_CRIU = CRIU_BUILDS["3.17.1"]


def criu_build(name: str) -> CriuBuild:
    """Return the build ``name``; raise UsageError listing near names otherwise."""
    return named(CRIU_BUILDS, "CRIU", name)
