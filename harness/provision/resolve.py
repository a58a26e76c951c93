"""The closure of a few packages under Depends and Pre-Depends, deterministic."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from harness.core.errors import NotInArchiveError
from harness.provision.index import Candidate, PackageIndex, Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteIndices:
    """One suite's indices; ``preferred`` are name patterns for which it is asked before the others."""

    suite: str
    indices: tuple[PackageIndex, ...]
    preferred: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Search:
    """One attempt; ``demands`` are the constraints known so far on each name."""

    demands: Mapping[str, Sequence[Relation]]
    chosen: dict[str, Candidate] = field(default_factory=dict)
    queue: deque[tuple[tuple[Relation, ...], str]] = field(default_factory=deque)


class _ConflictError(Exception):
    """A package already chosen does not satisfy a later constraint."""

    def __init__(self, relation: Relation) -> None:
        super().__init__(str(relation))
        self.relation = relation


def closure(
    roots: Iterable[str],
    suites: Sequence[SuiteIndices],
    *,
    place: str,
    exclude: Mapping[str, str] | None = None,
) -> tuple[Candidate, ...]:
    """Return ``roots`` with everything they need, sorted by name.

    Suites are asked in order, save where one prefers a name; a later suite also serves what
    only it can satisfy. Of alternatives the first satisfiable one is taken, unless another one
    is a root; a name in ``exclude`` counts as satisfied. ``place`` names archive and architecture.
    Raises NotInArchiveError naming the package, who needs it, and where it was looked for.
    """
    roots = tuple(sorted(set(roots)))
    skipped = exclude or {}
    demands: dict[str, list[Relation]] = defaultdict(list)
    while True:
        try:
            return _attempt(roots, suites, place, skipped, demands)
        except _ConflictError as conflict:
            # Begin again knowing the constraint: constraints only grow, so this ends.
            known = demands[conflict.relation.name]
            if conflict.relation in known:
                raise _missing(conflict.relation, "several packages at once", suites, place) from conflict
            known.append(conflict.relation)


def _attempt(
    roots: tuple[str, ...],
    suites: Sequence[SuiteIndices],
    place: str,
    exclude: Mapping[str, str],
    demands: Mapping[str, Sequence[Relation]],
) -> tuple[Candidate, ...]:
    search = _Search(demands=demands)
    search.queue.extend(((Relation(name=root),), "the request") for root in roots)
    while search.queue:
        alternatives, needed_by = search.queue.popleft()
        candidate = _choose(search, alternatives, suites, frozenset(roots), exclude)
        if candidate is _SATISFIED:
            continue
        if not isinstance(candidate, Candidate):
            raise _missing(alternatives, needed_by, suites, place)
        search.chosen[candidate.name] = candidate
        search.queue.extend((group, candidate.name) for group in candidate.depends)
    return tuple(search.chosen[name] for name in sorted(search.chosen))


_SATISFIED = object()


def _choose(
    search: _Search,
    alternatives: tuple[Relation, ...],
    suites: Sequence[SuiteIndices],
    roots: frozenset[str],
    exclude: Mapping[str, str],
) -> object:
    if any(relation.name in exclude for relation in alternatives):
        return _SATISFIED
    ordered = sorted(alternatives, key=lambda relation: relation.name not in roots)
    for relation in ordered:
        if chosen := search.chosen.get(relation.name):
            if relation.accepts(chosen.version):
                return _SATISFIED
            if len(alternatives) == 1:
                raise _ConflictError(relation)
            continue
        if candidate := _find(relation, suites, search.demands):
            return candidate
        providers = [one for part in _order(relation.name, suites) for one in _providers(relation, part)]
        if any(one.name in search.chosen or one.name in exclude for one in providers):
            return _SATISFIED
        if providers:
            return min(providers, key=lambda one: one.name not in roots)
    return None


def _find(
    relation: Relation, suites: Sequence[SuiteIndices], demands: Mapping[str, Sequence[Relation]]
) -> Candidate | None:
    wanted = (relation, *demands.get(relation.name, ()))
    for part in _order(relation.name, suites):
        for index in part.indices:
            for candidate in index.candidates(relation.name):
                if all(one.accepts(candidate.version) for one in wanted):
                    return candidate
    return None


def _providers(relation: Relation, part: SuiteIndices) -> list[Candidate]:
    return [candidate for index in part.indices for candidate in index.providers(relation)]


def _order(name: str, suites: Sequence[SuiteIndices]) -> list[SuiteIndices]:
    return sorted(suites, key=lambda part: not any(fnmatchcase(name, glob) for glob in part.preferred))


def _missing(
    wanted: Relation | tuple[Relation, ...], needed_by: str, suites: Sequence[SuiteIndices], place: str
) -> NotInArchiveError:
    names = " | ".join(map(str, wanted)) if isinstance(wanted, tuple) else str(wanted)
    looked = ", ".join(part.suite for part in suites)
    return NotInArchiveError(f"{names}, needed by {needed_by}, is not in {place}; suites looked in: {looked}")
