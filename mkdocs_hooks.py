"""Hooks of mkdocs: the parts of the documentation that are made from the code.

A page holds `<!-- generated: NAME -->` where a part of PARTS belongs.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import KERNELS
from harness.catalogue.known_issues import KNOWN_ISSUES
from harness.catalogue.workloads import FLAGS
from harness.core.deadline import Deadline
from harness.core.process import run
from harness.guest.workload import available_workloads, load_workload

# mkdocs counts the warnings of its own loggers and, with --strict, fails for them.
_LOG = logging.getLogger("mkdocs.plugins.criu_pac")

# <!-- generated: cpus -->
_MARKER = re.compile(r"<!-- generated: (?P<name>[a-z-]+) -->")
# <script src="https://unpkg.com/...">, <link rel="stylesheet" href="//fonts.googleapis.com/...">
_FROM_NETWORK = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?P<url>(?:https?:)?//[^"'\s>]+)"""
)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the generated parts into a page (called by mkdocs); KeyError for a name that is none of PARTS."""
    return _MARKER.sub(lambda found: PARTS[found["name"]](), markdown)


def on_post_page(output: str, **_: object) -> None:
    """Warn of everything that a reader's browser would fetch from elsewhere (called by mkdocs)."""
    for url in from_network(output):
        _LOG.warning("a page would fetch %s: the documentation has to work without a network", url)


def from_network(html: str) -> list[str]:
    """Return the addresses of scripts, styles, fonts and pictures of a page that are not its own."""
    return [found["url"] for found in _FROM_NETWORK.finditer(html)]


def command_line() -> str:
    """Return every command with its arguments and options, as typer's own tool describes them."""
    tool = [sys.executable, "-m", "typer", "harness.cli", "utils", "docs", "--name", "criu-pac"]
    made = run(tool, Deadline.after(60, "typer's description of the commands"))
    if made.returncode != 0:
        raise RuntimeError(made.error_text)
    _, _, body = made.text.partition("\n")  # without its heading: the page has one
    return body


def _cpus() -> str:
    rows = (
        (
            f"`{one.name}`",
            f"`{one.qemu}`",
            _yes(one.pac),
            _yes(one.fpac),
            one.algorithm.value if one.algorithm else "",
            "52" if one.lva else "48",
            "; ".join(text for text in (one.core_of and f"the core of {one.core_of}", one.note) if text),
        )
        for one in CPUS.values()
    )
    return _table(("name", "`-cpu` of QEMU", "PAC", "FPAC", "algorithm", "address bits, at most", ""), rows)


def _kernels() -> str:
    rows = ((f"`{one.name}`", f"Debian {one.suite}", str(one.va_bits)) for one in KERNELS.values())
    return _table(("name", "from", "address bits, at most"), rows)


def _criu_builds() -> str:
    rows = (
        (
            f"`{one.name}`",
            one.label,
            _yes(one.native_keys),
            _yes(one.restorer_protected),
            str(one.plugin_hooks),
        )
        for one in CRIU_BUILDS.values()
    )
    return _table(("name", "", "carries keys", "restorer has branch protection", "plugin hooks"), rows)


def _bases() -> str:
    rows = ((f"`{one.name}`", one.distribution, one.release, _yes(one.protected)) for one in BASES.values())
    return _table(("name", "distribution", "release", "branch protection"), rows)


def _workloads() -> str:
    rows = (
        (
            f"`{one.name}`",
            one.language,
            str(one.min_frames),
            f"{one.tick_seconds:g} s",
            "; ".join(FLAGS[flag] for flag in one.flags),
        )
        for one in map(load_workload, available_workloads())
    )
    return _table(("name", "language", "signed frames, at least", "a tick", "special"), rows)


def _known_issues() -> str:
    rows = (
        (
            f"`{one.id}`",
            f"[{one.title}]({one.url})" if one.url else one.title,
            f"`{one.outcome.value}`",
            one.since or "",
            one.until or "",
        )
        for one in KNOWN_ISSUES
    )
    return _table(("id", "what", "outcome", "since", "until"), rows)


def _yes(value: bool) -> str:  # noqa: FBT001 -- the value is all there is
    return "yes" if value else "no"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


PARTS: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "command-line": command_line,
        "cpus": _cpus,
        "kernels": _kernels,
        "criu-builds": _criu_builds,
        "bases": _bases,
        "workloads": _workloads,
        "known-issues": _known_issues,
    }
)
