"""CRIU built from Debian's upstream sources, and what branch protection in its restorer does."""

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from debian.deb822 import Sources

from harness.catalogue.criu_builds import criu_build
from harness.catalogue.outcome import Outcome, Verdict
from harness.core.errors import NotInArchiveError
from harness.provision.context import Provision
from harness.provision.criu_build import build_criu, read_build
from harness.provision.fetch import RemoteFile
from harness.provision.packages import archive_of
from harness.pytest_plugin import RunScenario

SUITES = {"3.17.1": "bookworm", "4.1.1": "trixie", "4.2.1": "forky"}
INDEX = "main/source/Sources.xz"

Build = Callable[..., Path]


def upstream_source(version: str, provision: Provision) -> Path:
    """The orig archive of Debian's source package, verified by the chain that its InRelease starts."""
    archive, suite = archive_of("debian", provision), SUITES[version]
    sha256, size = archive.release(suite).files[INDEX]
    urls = tuple(f"{mirror}/dists/{suite}/{INDEX}" for mirror in archive.mirrors)
    index = provision.fetcher.get(RemoteFile(urls=urls, sha256=sha256, size=size, name=f"{suite} {INDEX}"))
    text = lzma.decompress(index.read_bytes())
    start = text.index(b"Package: criu\n")
    package = Sources(text[start : text.index(b"\n\n", start)])
    file = next(one for one in package["Checksums-Sha256"] if ".orig.tar." in one["name"])
    directory = package["Directory"]
    return provision.fetcher.get(
        RemoteFile(
            urls=tuple(f"{mirror}/{directory}/{file['name']}" for mirror in archive.mirrors),
            sha256=file["sha256"],
            size=int(file["size"]),
            name=file["name"],
        )
    )


@pytest.fixture(scope="module")
def build(provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> Build:
    made: dict[str, Path] = {}

    def built(version: str, *, protected: bool = False) -> Path:
        name = f"{version}-{'protected' if protected else 'plain'}"
        if name not in made:
            try:
                source = upstream_source(version, provision)
            except NotInArchiveError as error:
                pytest.skip(f"no mirror has this source: {error}")
            made[name] = tmp_path_factory.mktemp("criu") / name
            build_criu(str(source), None, made[name], provision, restorer_branch_protection=protected)
        return made[name]

    return built


@pytest.mark.parametrize("version", list(SUITES))
def test_it_is_what_debian_packages_under_that_number(build: Build, version: str) -> None:
    found, known = read_build(build(version)), criu_build(version)
    assert (found.version, found.plugin_hooks) == (known.version, known.plugin_hooks)
    assert found.native_keys is known.native_keys


@pytest.mark.machine(kernel="6.12", criu=["4.2.1"])
@pytest.mark.parametrize("protected", [False, True])
def test_a_protected_restorer_hangs_and_a_plain_one_does_not(
    run_scenario: RunScenario, build: Build, *, protected: bool
) -> None:
    result = run_scenario(criu=str(build("4.1.1", protected=protected)))
    assert all(one.holds for one in result.premises)
    if protected:
        assert (result.outcome, result.known_issue) == (Outcome.HUNG, "criu-2709"), result.reason
    else:
        assert (result.outcome, result.verdict) == (Outcome.SURVIVED, Verdict.AS_PREDICTED), result.reason
