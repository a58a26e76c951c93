"""A suite's package index, looked into without parsing what is not asked for."""

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from debian.deb822 import Deb822, PkgRelation
from debian.debian_support import Version

from harness.core.errors import ArchiveError

_NAME = re.compile(rb"^Package: (\S+)$", re.MULTILINE)
_PROVIDES = re.compile(rb"^Provides: (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One alternative of a dependency: a name and perhaps a constraint such as (">=", "1.2")."""

    name: str
    constraint: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.name} ({' '.join(self.constraint)})" if self.constraint else self.name

    def accepts(self, version: str) -> bool:
        """Tell whether a package of this version satisfies the constraint (Debian policy 7.1)."""
        if self.constraint is None:
            return True
        operator, wanted = self.constraint
        left, right = Version(version), Version(wanted)
        return bool(
            {
                "<<": left < right,
                "<=": left <= right,
                "=": left == right,
                ">=": left >= right,
                ">>": left > right,
            }[operator]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One package of one suite; ``depends`` is a conjunction of alternatives; ``size`` in bytes."""

    name: str
    version: str
    architecture: str
    suite: str
    filename: str
    sha256: str
    size: int
    depends: tuple[tuple[Relation, ...], ...]


class PackageIndex:
    """The packages of one component of one suite for one architecture, from a Packages file."""

    def __init__(self, text: bytes, suite: str) -> None:
        self.suite = suite
        self._text = text
        self._parsed: dict[str, tuple[Candidate, ...]] = {}
        names = list(_NAME.finditer(text))
        starts = [match.start() for match in names]
        ends = [*starts[1:], len(text)]
        self._slices: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for match, start, end in zip(names, starts, ends, strict=True):
            self._slices[match[1].decode()].append((start, end))
        self._providers: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
        for match in _PROVIDES.finditer(text):
            owner = names[bisect_right(starts, match.start()) - 1][1].decode()
            for name, version in _provided(match[1].decode()):
                self._providers[name].append((owner, version))

    def __len__(self) -> int:
        return len(self._slices)

    def candidates(self, name: str) -> tuple[Candidate, ...]:
        """Return the packages called ``name``, newest first; raises ArchiveError when one is malformed."""
        if name not in self._parsed:
            found = [self._parse(start, end) for start, end in self._slices.get(name, ())]
            found.sort(key=lambda candidate: Version(candidate.version), reverse=True)
            self._parsed[name] = tuple(found)
        return self._parsed[name]

    def providers(self, relation: Relation) -> tuple[Candidate, ...]:
        """Return the packages that provide what ``relation`` names, sorted by name.

        A constrained relation is satisfied only by a provision of a version (policy 7.5).
        """
        names = sorted(
            {
                owner
                for owner, version in self._providers.get(relation.name, ())
                if relation.constraint is None or (version is not None and relation.accepts(version))
            }
        )
        return tuple(found[0] for name in names if (found := self.candidates(name)))

    def _parse(self, start: int, end: int) -> Candidate:
        fields = Deb822(self._text[start:end])
        try:
            return Candidate(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                suite=self.suite,
                filename=fields["Filename"],
                sha256=fields["SHA256"].lower(),
                size=int(fields["Size"]),
                depends=_dependencies(fields),
            )
        except (KeyError, ValueError) as error:
            what = fields.get("Package", "a package")
            raise ArchiveError(f"the index of {self.suite} describes {what} without {error}") from error


def _dependencies(fields: Deb822) -> tuple[tuple[Relation, ...], ...]:
    groups = []
    for field in ("Pre-Depends", "Depends"):
        if value := fields.get(field):
            for alternatives in PkgRelation.parse_relations(value):
                groups.append(  # noqa: PERF401 -- nested comprehensions hide the order
                    tuple(
                        Relation(name=one["name"], constraint=_constraint(one.get("version")))
                        for one in alternatives
                    )
                )
    return tuple(groups)


def _constraint(version: tuple[str, str] | None) -> tuple[str, str] | None:
    return None if version is None else (str(version[0]), str(version[1]))


def _provided(value: str) -> list[tuple[str, str | None]]:
    # Provides: awk, libfoo-abi (= 3)
    return [
        (one["name"], constraint[1] if (constraint := _constraint(one.get("version"))) else None)
        for alternatives in PkgRelation.parse_relations(value)
        for one in alternatives
    ]
