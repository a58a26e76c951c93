"""The doctor on programs as distributions build them: no machine is started, packages are read."""

import json

import pytest

from harness import cli
from harness.catalogue.bases import BASES
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.parsing.criu_program import criu_program
from harness.provision.bases import prepare_base
from harness.provision.bundle import bundle
from harness.provision.context import Provision

REAL = [name for name, build in CRIU_BUILDS.items() if not build.masks_pac]


@pytest.mark.parametrize("name", REAL)
def test_a_criu_is_what_the_catalogue_says_of_it(provision: Provision, name: str) -> None:
    build = CRIU_BUILDS[name]
    found = criu_program(bundle(build.package_group, provision).program("criu").read_bytes())
    assert found.version == build.version
    assert found.native_keys is build.native_keys
    assert found.restorer_protected is build.restorer_protected
    assert found.plugin_hooks == build.plugin_hooks
    assert found.reads_gnu_hash is (name != "3.17.1")


@pytest.mark.parametrize(("name", "says"), [("debian-12", "safe"), ("debian-13", "affected")])
def test_userlands_as_debian_builds_them(
    provision: Provision, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = prepare_base(BASES[name], provision).image_archive
    capsys.readouterr()
    code = cli.main(["doctor", "--json", "--image", str(archive)])
    report = json.loads(capsys.readouterr().out)
    assert (report["conclusion"], code) == (says, int(says == "affected"))
    image = report["facts"]["image"]
    assert image["arm64"] == image["ELF files"] > 100
    assert not image["not readable"]
    (libc,) = image["C library"].values()
    assert libc["signs"] is libc["PAC note"] is BASES[name].protected
