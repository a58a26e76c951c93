"""Catalogues: sorted, frozen, and a wrong name lists the near ones."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import PurePath

import pytest

from harness.catalogue.bases import BASES, base, user_base
from harness.catalogue.cpus import CPUS, DEFAULT_CPU, PacAlgorithm, cpu
from harness.catalogue.criu_builds import CRIU_BUILDS, criu_build
from harness.catalogue.kernels import KERNELS, kernel
from harness.catalogue.names import named
from harness.core.errors import UsageError
from harness.provision.groups import GROUPS

CATALOGUES: list[tuple[Mapping[str, object], Callable[[str], object]]] = [
    (CPUS, cpu),
    (KERNELS, kernel),
    (CRIU_BUILDS, criu_build),
    (BASES, base),
]


@pytest.mark.parametrize(("catalogue", "look_up"), CATALOGUES)
def test_catalogues_are_sorted_and_found_by_their_own_name(
    catalogue: Mapping[str, object], look_up: Callable[[str], object]
) -> None:
    assert list(catalogue) == sorted(catalogue)
    for name, entry in catalogue.items():
        assert getattr(entry, "name") == name  # noqa: B009 -- the entries share no type
        assert look_up(name) is entry


@pytest.mark.parametrize(("catalogue", "look_up"), CATALOGUES)
def test_catalogues_cannot_be_changed(
    catalogue: Mapping[str, object], look_up: Callable[[str], object]
) -> None:
    name = next(iter(catalogue))
    with pytest.raises(TypeError):
        catalogue["new"] = catalogue[name]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        look_up(name).name = "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize("look_up", [cpu, kernel, criu_build, base])
def test_an_unknown_name_is_a_usage_error(look_up: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match=r"unknown .*'no such thing'"):
        look_up("no such thing")


def test_near_names_are_offered_and_otherwise_all() -> None:
    with pytest.raises(UsageError, match=r"unknown CPU 'neoverse-v2'; did you mean .*neoverse-v1"):
        cpu("neoverse-v2")
    with pytest.raises(UsageError, match="did you mean neoverse-n1"):
        cpu("Neoverse-N1")
    with pytest.raises(
        UsageError, match=r"unknown base 'alpine'; known: debian-12, debian-13, ubuntu-20\.04, ubuntu-24\.04"
    ):
        base("alpine")
    with pytest.raises(UsageError, match="known: none"):
        named({}, "thing", "x")


def test_a_cpu_has_an_algorithm_exactly_when_it_authenticates() -> None:
    for model in CPUS.values():
        assert (model.algorithm is not None) == model.pac
        assert model.pac or not model.fpac
    assert DEFAULT_CPU.qemu == "neoverse-v1"
    assert not DEFAULT_CPU.fpac
    assert CPUS["max"].algorithm is PacAlgorithm.IMPDEF


def test_every_package_group_named_here_exists() -> None:
    wanted = [one.package_group for one in KERNELS.values()]
    wanted += [one.package_group for one in CRIU_BUILDS.values()]
    wanted += [group for entry in BASES.values() for group in (entry.base_group, entry.python_group) if group]
    assert len(wanted) == len(KERNELS) + len(CRIU_BUILDS) + 2 * len(BASES)
    assert sorted(set(wanted) - set(GROUPS)) == []


def test_kernel_versions_are_numbers_to_compare() -> None:
    six = kernel("6.1")
    assert six.version == (6, 1)
    assert dataclasses.replace(six, name="6.12").version > (6, 11) > six.version


def test_modules_are_named_as_the_kernel_names_them() -> None:
    for entry in KERNELS.values():
        assert len(set(entry.modules)) == len(entry.modules)
        assert all("-" not in module for module in entry.modules)


def test_a_base_of_the_user_has_a_name_fit_for_ids() -> None:
    mine = user_base(PurePath("/somewhere/my-root.tar.gz"))
    assert (mine.name, mine.image, mine.base_group) == ("tar-my-root", None, None)
    assert mine.tar == PurePath("/somewhere/my-root.tar.gz")
    assert mine.protected
