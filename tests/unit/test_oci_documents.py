"""Indexes, manifests and challenges of registries: what is chosen, and what is refused."""

import json

import pytest

from harness.core.errors import ArchiveError, NotInArchiveError
from harness.provision.fake_registry import describe, digest_of, make_image, make_index
from harness.provision.oci import repository_of
from harness.provision.oci_documents import (
    DOCKER_LIST,
    is_index,
    parse_config,
    parse_manifest,
    select_platform,
)
from harness.provision.oci_token import parse_challenge

ARM, AMD, ARM32 = (make_image([bytes([n])]) for n in range(3))
GOOD = {"mediaType": "x", "digest": digest_of(b"x"), "size": 1}


def _index(*entries: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": entries}).encode()


@pytest.mark.parametrize("platform", ["linux/arm64", "linux/arm64/v8"])
def test_arm64_is_chosen_from_an_index(platform: str) -> None:
    index = make_index((AMD, "linux/amd64"), (ARM32, "linux/arm/v7"), (ARM, platform))
    assert is_index(index, "here")
    assert select_platform(index, "here").digest == digest_of(ARM.manifest)


def test_attestations_and_newer_variants_are_no_arm64() -> None:
    index = make_index((AMD, "unknown/unknown"), (ARM32, "linux/arm64/v9"), (ARM, "linux/amd64"))
    with pytest.raises(
        NotInArchiveError,
        match=r"no image for linux/arm64; it has linux/amd64, linux/arm64/v9, unknown/unknown",
    ):
        select_platform(index, "here")


def test_manifest_and_config() -> None:
    image = make_image([b"one", b"two"])
    manifest = parse_manifest(image.manifest, "here")
    assert not is_index(image.manifest, "here")
    assert [layer.size for layer in manifest.layers] == [
        len(image.blobs[one.digest]) for one in manifest.layers
    ]
    config = parse_config(image.blobs[manifest.config.digest], "here")
    assert config.architecture == "arm64"
    assert config.diff_ids == (digest_of(b"one"), digest_of(b"two"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<html>sign in to the network</html>", "is not JSON"),
        (b"[]", "lacks a part"),
        (b'{"schemaVersion": 1, "layers": []}', "neither an image index nor"),
        (b'{"schemaVersion": 2}', "neither an image index nor"),
    ],
)
def test_an_answer_that_is_no_image_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ArchiveError, match=problem):
        is_index(data, "here")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"digest": "sha256:../../../../etc/passwd"}, "which is no SHA-256 digest"),
        ({"digest": "sha512:" + "0" * 128}, "which is no SHA-256 digest"),
        ({"digest": None}, "which is no SHA-256 digest"),
        ({"size": -1}, "has -1 bytes"),
        ({"size": True}, "has True bytes"),
        ({"size": 1 << 40}, "bytes"),
        ({"platform": "linux/arm64"}, "lacks a part"),
    ],
)
def test_a_bad_descriptor_is_refused(change: dict[str, object], problem: str) -> None:
    entry = {**GOOD, "platform": {"os": "linux", "architecture": "arm64"}, **change}
    with pytest.raises(ArchiveError, match=problem):
        select_platform(_index(entry), "here")


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({"layers": [], "config": GOOD}, "no layers"),
        ({"layers": [GOOD], "config": GOOD}, "unknown type 'x'"),
        ({"layers": {}, "config": GOOD}, "lacks a part"),
        ({"layers": [describe(b"x", "application/vnd.oci.image.layer.v1.tar")]}, "lacks a part"),
    ],
)
def test_a_bad_manifest_is_refused(manifest: dict[str, object], problem: str) -> None:
    with pytest.raises(ArchiveError, match=problem):
        parse_manifest(json.dumps({"schemaVersion": 2, **manifest}).encode(), "here")


@pytest.mark.parametrize("rootfs", [None, {}, {"diff_ids": ["sha256:short"]}])
def test_a_bad_config_is_refused(rootfs: object) -> None:
    with pytest.raises(ArchiveError):
        parse_config(json.dumps({"rootfs": rootfs}).encode(), "here")


@pytest.mark.parametrize(
    ("header", "parameters"),
    [
        (
            'Bearer realm="https://auth.example/token",service="registry.example"',
            {"realm": "https://auth.example/token", "service": "registry.example"},
        ),
        ('Basic realm="x", bearer realm="https://a.example/t", scope="a:b,c:d"',
         {"realm": "https://a.example/t", "scope": "a:b,c:d"}),
        ('Basic realm="x"', {}),
        ("", {}),
    ],
)  # fmt: skip
def test_challenges(header: str, parameters: dict[str, str]) -> None:
    assert parse_challenge(header) == parameters


@pytest.mark.parametrize(
    ("reference", "repository", "tag"),
    [
        ("ubuntu:24.04", "library/ubuntu", "24.04"),
        ("team/ubuntu:24.04", "team/ubuntu", "24.04"),
        ("ubuntu", "library/ubuntu", "latest"),
    ],
)
def test_short_references(reference: str, repository: str, tag: str) -> None:
    assert repository_of(reference) == (repository, tag)
