"""Which mirrors the host's own apt sources name, in both of apt's formats."""

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from debian.deb822 import Deb822

# deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian trixie main
_ONE_LINE = re.compile(r"^\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s")
_ARCH_OPTION = re.compile(r"\barch\+?=(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSource:
    """One URI of one binary source; ``architectures`` is empty when the source names none."""

    uri: str
    architectures: frozenset[str]


def host_mirrors(
    distribution: str, *, apt: Path = Path("/etc/apt"), machine: str | None = None
) -> tuple[str, ...]:
    """Return the mirrors of ``distribution`` ("debian" or "ubuntu") that apt uses on this host.

    Only http and https URIs whose path ends in the archive's own name count, so a security
    archive (``/debian-security``) never does. Ubuntu's arm64 packages are in the ports
    archive: a plain ``/ubuntu`` archive counts only where the source says it carries arm64,
    or says nothing on an arm64 host. Unreadable files are as good as none.
    """
    on_arm64 = (machine or platform.machine()) == "aarch64"
    found: dict[str, None] = {}
    for source in _sources(apt):
        parts = urlsplit(source.uri)
        if parts.scheme not in {"http", "https"} or "security." in (parts.hostname or ""):
            continue
        last = parts.path.rstrip("/").rpartition("/")[2]
        carries_arm64 = "arm64" in source.architectures if source.architectures else on_arm64
        if (distribution == "debian" and last == "debian") or (
            distribution == "ubuntu" and (last == "ubuntu-ports" or (last == "ubuntu" and carries_arm64))
        ):
            found[source.uri.rstrip("/")] = None
    return tuple(found)


def _sources(apt: Path) -> Iterator[AptSource]:
    directory = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(directory.glob("*.list"))):
        for line in _read(path).splitlines():
            if match := _ONE_LINE.match(line):
                named = _ARCH_OPTION.search(match["options"] or "")
                architectures = frozenset(named[1].split(",")) if named else frozenset()
                yield from _expand(match["uri"], architectures)
    for path in sorted(directory.glob("*.sources")):
        for stanza in Deb822.iter_paragraphs(_read(path).splitlines(keepends=True), use_apt_pkg=False):
            if stanza.get("Enabled", "yes").strip().lower() in {"no", "false", "0"}:
                continue
            if "deb" not in stanza.get("Types", "").split():
                continue
            for uri in stanza.get("URIs", "").split():
                yield from _expand(uri, frozenset(stanza.get("Architectures", "").split()))


def _expand(uri: str, architectures: frozenset[str]) -> Iterator[AptSource]:
    # Debian's cloud images name a file of mirrors instead of a mirror:
    # URIs: mirror+file:///etc/apt/mirrors/debian.list
    if uri.startswith("mirror+file:"):
        for line in _read(Path(urlsplit(uri).path)).splitlines():
            if words := line.split("#", 1)[0].split():
                yield AptSource(uri=words[0], architectures=architectures)
        return
    yield AptSource(uri=uri, architectures=architectures)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
