"""Closures: order, alternatives, virtual packages, constraints, stacked suites, what is missing."""

import pytest

from harness.core.errors import ArchiveError, NotInArchiveError
from harness.provision.index import PackageIndex, Relation
from harness.provision.resolve import SuiteIndices, closure

PLACE = "debian arm64 at http://mirror.example/debian"


def suite(name: str, *stanzas: str, preferred: tuple[str, ...] = ()) -> SuiteIndices:
    text = "\n".join(_stanza(one) for one in stanzas).encode()
    return SuiteIndices(suite=name, indices=(PackageIndex(text, name),), preferred=preferred)


def _stanza(short: str) -> str:
    # "app 2 | Depends: lib" -> the paragraph of an index
    head, *fields = short.split(" | ")
    name, version = head.split()
    lines = [f"Package: {name}", f"Version: {version}", "Architecture: arm64"]
    lines += [field.replace("//", "|") for field in fields]
    lines += [f"Filename: pool/{name}_{version}.deb", "Size: 7", f"SHA256: {'0' * 64}"]
    return "\n".join(lines) + "\n"


def names(roots: list[str], *suites: SuiteIndices, **options: dict[str, str]) -> list[str]:
    return [f"{one.name}={one.version}" for one in closure(roots, suites, place=PLACE, **options)]


def test_closure_is_sorted_and_cycles_end() -> None:
    archive = suite("trixie", "b 1 | Depends: c", "c 1 | Depends: b", "a 1 | Pre-Depends: c")
    assert names(["a"], archive) == ["a=1", "b=1", "c=1"]


def test_first_satisfiable_alternative() -> None:
    archive = suite("trixie", "a 1 | Depends: x // y // z", "y 1", "z 1")
    assert names(["a"], archive) == ["a=1", "y=1"]


def test_root_wins_over_an_earlier_alternative() -> None:
    archive = suite("trixie", "a 1 | Depends: x // y", "x 1", "y 1")
    assert names(["a", "y"], archive) == ["a=1", "y=1"]


def test_excluded_alternative_satisfies() -> None:
    archive = suite("trixie", "a 1 | Depends: debconf (>= 0.5) // debconf-2.0, b", "b 1", "debconf 1")
    assert names(["a"], archive, exclude={"debconf": "scripts"}) == ["a=1", "b=1"]


def test_virtual_package_and_its_excluded_provider() -> None:
    archive = suite("trixie", "a 1 | Depends: awk", "gawk 1 | Provides: awk", "mawk 1 | Provides: awk")
    assert names(["a"], archive) == ["a=1", "gawk=1"]
    assert names(["a", "mawk"], archive) == ["a=1", "mawk=1"]
    assert names(["a"], archive, exclude={"mawk": "not needed"}) == ["a=1"]


def test_versioned_provides() -> None:
    archive = suite(
        "trixie", "a 1 | Depends: abi (>= 3)", "old 1 | Provides: abi", "new 1 | Provides: abi (= 3)"
    )
    assert names(["a"], archive) == ["a=1", "new=1"]


def test_constraint_is_kept() -> None:
    archive = suite("trixie", "a 1 | Depends: lib (>= 1:2.0~rc1)", "lib 1:2.0~beta")
    with pytest.raises(NotInArchiveError, match=r"lib \(>= 1:2\.0~rc1\), needed by a, is not in debian"):
        names(["a"], archive)


def test_missing_package_names_everything() -> None:
    archive = suite("trixie", "a 1 | Depends: b", "b 1 | Depends: gone // away")
    with pytest.raises(
        NotInArchiveError,
        match=r"gone \| away, needed by b, is not in .*mirror\.example.*; suites looked in: trixie",
    ):
        names(["a"], archive)


def test_missing_root_names_everything() -> None:
    with pytest.raises(NotInArchiveError, match="nosuch, needed by the request"):
        names(["nosuch"], suite("trixie", "a 1"))


def test_stacked_suites() -> None:
    stable = suite("trixie", "qemu-arm 10 | Depends: lib", "lib 1", "fresh 1")
    backports = suite(
        "trixie-backports",
        "qemu-arm 11 | Depends: lib, fresh (>= 2)",
        "lib 2",
        "fresh 2",
        preferred=("qemu-*",),
    )
    # qemu by preference, fresh because only backports has version 2, lib from stable.
    assert names(["qemu-arm"], stable, backports) == ["fresh=2", "lib=1", "qemu-arm=11"]


def test_later_constraint_moves_an_earlier_choice() -> None:
    stable = suite("trixie", "a 1 | Depends: lib, b", "b 1 | Depends: lib (>= 2)", "lib 1")
    backports = suite("trixie-backports", "lib 2")
    assert names(["a"], stable, backports) == ["a=1", "b=1", "lib=2"]


def test_contradiction_ends() -> None:
    archive = suite("trixie", "a 1 | Depends: lib (<< 2), b", "b 1 | Depends: lib (>= 2)", "lib 1", "lib 2")
    with pytest.raises(NotInArchiveError, match="lib"):
        names(["a"], archive)


def test_newest_of_several_versions() -> None:
    assert names(["a"], suite("trixie", "a 1.9", "a 1.10", "a 1.10~rc1")) == ["a=1.10"]


def test_architecture_qualifier() -> None:
    archive = suite("trixie", "a 1 | Depends: python3:any (>= 3.11)", "python3 3.13")
    assert names(["a"], archive) == ["a=1", "python3=3.13"]


def test_malformed_stanza_is_named() -> None:
    index = PackageIndex(b"Package: a\nVersion: 1\nArchitecture: arm64\nFilename: x\nSize: 1\n", "trixie")
    with pytest.raises(ArchiveError, match="trixie describes a without"):
        index.candidates("a")


@pytest.mark.parametrize(
    ("operator", "accepted"),
    [("<<", "1"), ("<=", "12"), ("=", "2"), (">=", "23"), (">>", "3")],
)
def test_operators(operator: str, accepted: str) -> None:
    relation = Relation(name="x", constraint=(operator, "2"))
    assert "".join(version for version in "123" if relation.accepts(version)) == accepted
