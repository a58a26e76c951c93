"""Where files are kept and where they come from; read once from the environment."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from platformdirs import user_cache_path

from harness.core.errors import HostError, UsageError
from harness.provision.apt_sources import host_mirrors
from harness.provision.sizes import size

OFFICIAL_MIRRORS: Mapping[str, str] = {
    "debian": "http://ftp.debian.org/debian",
    "ubuntu": "http://ports.ubuntu.com/ubuntu-ports",
}
DOCKER_HUB = "https://registry-1.docker.io"
TEMPLATES_MAX = 20 * 10**9  # bytes: about fifty machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about provisioning that a person can choose.

    ``mirrors`` and ``snapshots`` hold base URLs per distribution, without a trailing slash,
    in the order they are asked; a snapshot is a frozen archive tree. ``registry`` is the base
    URL of the image registry: Docker Hub, or a mirror with its repository names. ``templates_max``:
    bytes of disk the templates may take before the least recently used go.
    """

    cache_root: Path
    offline: bool = False
    mirrors: Mapping[str, tuple[str, ...]]
    snapshots: Mapping[str, tuple[str, ...]]
    registry: str = DOCKER_HUB
    templates_max: int = TEMPLATES_MAX

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, apt: Path = Path("/etc/apt")
    ) -> Self:
        """Read CRIU_PAC_CACHE, _OFFLINE, _TEMPLATES_MAX, _MIRROR_*, _SNAPSHOT_*, _REGISTRY, apt sources.

        Raises UsageError for a URL that is not http or https, and for a size that is none.
        """
        env = os.environ if environment is None else environment
        chosen = env.get("CRIU_PAC_CACHE", "")
        mirrors = {
            name: _url(env, f"CRIU_PAC_MIRROR_{name.upper()}") or host_mirrors(name, apt=apt) or (official,)
            for name, official in OFFICIAL_MIRRORS.items()
        }
        return cls(
            cache_root=Path(chosen).expanduser().absolute()
            if chosen
            else user_cache_path("criu-pac-harness"),
            offline=env.get("CRIU_PAC_OFFLINE", "") == "1",
            mirrors=mirrors,
            snapshots={name: _url(env, f"CRIU_PAC_SNAPSHOT_{name.upper()}") for name in OFFICIAL_MIRRORS},
            registry=(_url(env, "CRIU_PAC_REGISTRY") or (DOCKER_HUB,))[0],
            templates_max=_size(env, "CRIU_PAC_TEMPLATES_MAX", TEMPLATES_MAX),
        )


def host_architecture() -> str:
    """Return this machine's Debian architecture name; raise HostError when it is not served."""
    machine = platform.machine()
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    if machine not in names:
        raise HostError(f"this machine is {machine}; tools are provided for {', '.join(sorted(names))} only")
    return names[machine]


def _size(env: Mapping[str, str], variable: str, default: int) -> int:
    value = env.get(variable, "").strip()
    try:
        return size(value) if value else default
    except UsageError as error:
        raise UsageError(f"{variable}: {error.message}", hint=error.hint) from error


def _url(env: Mapping[str, str], variable: str) -> tuple[str, ...]:
    value = env.get(variable, "").strip().rstrip("/")
    if not value:
        return ()
    if not value.startswith(("http://", "https://")):
        raise UsageError(f"{variable}={value} is not an http or https URL")
    return (value,)
