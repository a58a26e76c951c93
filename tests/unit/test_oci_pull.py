"""Pulling from a registry on the loopback interface."""

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from socket import create_server

import httpx
import pytest
import zstandard

from harness.core.deadline import Deadline
from harness.core.errors import ArchiveError, IntegrityError, NetworkError, NotInArchiveError
from harness.provision.cache import Cache
from harness.provision.context import Provision
from harness.provision.fake_registry import TOKEN, FakeImage, FakeRegistry, digest_of, make_image, make_index
from harness.provision.fetch import Fetcher
from harness.provision.oci import PulledImage, Registry, pull
from harness.provision.reach import check_answers, within
from harness.provision.settings import Settings

LAYERS = [b"lower layer", b"upper layer"]
IMAGE, OTHER = make_image(LAYERS), make_image([b"of another machine"], architecture="amd64")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        index = make_index((OTHER, "linux/amd64"), (IMAGE, "linux/arm64/v8"))
        running.add("library/ubuntu", "24.04", index, IMAGE, OTHER)
        yield running


def provisioning(root: Path, url: str, *, offline: bool = False) -> Provision:
    settings = Settings(cache_root=root, offline=offline, mirrors={}, snapshots={}, registry=url)
    return Provision(settings, fetcher=Fetcher(Cache(root), offline=offline, backoff=0.001), lock={})


def pulled(root: Path, url: str, *, seconds: float = 5) -> PulledImage:
    with provisioning(root, url) as provision:
        return pull("ubuntu:24.04", provision, seconds=seconds)


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive, "r:") as tar:
        names = tar.getnames()
        assert len(names) == len(set(names))
        return {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]


def test_image_becomes_an_archive_for_either_kind_of_engine(tmp_path: Path, registry: FakeRegistry) -> None:
    image = pulled(tmp_path, registry.url)
    files = contents(image.archive)
    (docker,) = json.loads(files["manifest.json"])
    assert docker["RepoTags"] == ["ubuntu:24.04"]
    assert [files[name] for name in docker["Layers"]] == list(IMAGE.blobs.values())[1:]
    assert json.loads(files[docker["Config"]])["architecture"] == "arm64"
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/ubuntu:24.04"
    assert files["blobs/sha256/" + entry["digest"].removeprefix("sha256:")] == IMAGE.manifest
    assert image.manifest_digest == entry["digest"] == digest_of(IMAGE.manifest)
    assert image.index_digest == digest_of(registry.files["/v2/library/ubuntu/manifests/24.04"])
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_token_goes_to_the_registry_and_to_nobody_else(tmp_path: Path, registry: FakeRegistry) -> None:
    pulled(tmp_path, registry.url)
    blobs = [authorization for origin, _, authorization in registry.seen if origin == "blobs"]
    assert len(blobs) == 3
    assert set(blobs) == {None}
    assert {one[2] for one in registry.seen if one[0] == "token"} == {None}
    assert {one[2] for one in registry.seen if one[0] == "registry"} == {None, f"Bearer {TOKEN}"}
    # One challenge to learn the token, none after it.
    refused = [path for origin, path, sent in registry.seen if origin == "registry" and sent is None]
    assert refused == ["/v2/", "/v2/library/ubuntu/manifests/24.04"]


def test_second_pull_downloads_the_index_only(tmp_path: Path, registry: FakeRegistry) -> None:
    first = pulled(tmp_path, registry.url)
    registry.seen.clear()
    assert pulled(tmp_path, registry.url) == first
    assert {path for origin, path, _ in registry.seen if origin == "registry"} == {
        "/v2/", "/v2/library/ubuntu/manifests/24.04",
    }  # fmt: skip


def test_tag_of_a_single_image(tmp_path: Path, registry: FakeRegistry) -> None:
    digest = registry.add("library/ubuntu", "24.04", IMAGE.manifest, IMAGE)
    image = pulled(tmp_path, registry.url)
    assert image.index_digest == image.manifest_digest == digest


def test_downloads_are_counted(tmp_path: Path, registry: FakeRegistry) -> None:
    with provisioning(tmp_path, registry.url) as provision:
        pull("ubuntu:24.04", provision)
        index = registry.files["/v2/library/ubuntu/manifests/24.04"]
        documents = len(index) + len(IMAGE.manifest)
        assert provision.fetcher.bytes_downloaded == documents + sum(map(len, IMAGE.blobs.values()))


def _swap_index(registry: FakeRegistry) -> None:
    registry.add("library/ubuntu", "24.04", make_index((OTHER, "linux/amd64")), OTHER)


def _swap_config(registry: FakeRegistry) -> None:
    registry.add("library/ubuntu", "24.04", make_index((OTHER, "linux/arm64")), OTHER)


def _too_few_diff_ids(registry: FakeRegistry) -> None:
    image = make_image(LAYERS)
    config = json.loads(next(iter(image.blobs.values())))
    config["rootfs"]["diff_ids"].pop()
    data = json.dumps(config).encode()
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": digest_of(data), "size": len(data)}
    changed = FakeImage(manifest=json.dumps(manifest).encode(), blobs=image.blobs | {digest_of(data): data})
    registry.add("library/ubuntu", "24.04", changed.manifest, changed)


def _change(kind: str, *, grow: bool = False) -> Callable[[FakeRegistry], None]:
    def change(registry: FakeRegistry) -> None:
        digests = {"manifests": [digest_of(IMAGE.manifest)], "blobs": list(IMAGE.blobs)[-1:]}
        for digest in digests[kind]:
            path = f"/v2/library/ubuntu/{kind}/{digest}"
            data = registry.files[path]
            registry.files[path] = data + b"more" if grow else bytes(reversed(data))

    return change


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        (_change("blobs"), IntegrityError, "has SHA-256"),
        (_change("blobs", grow=True), IntegrityError, "is larger than"),
        (_change("manifests"), IntegrityError, "has SHA-256"),
        (_swap_index, NotInArchiveError, "no image for linux/arm64; it has linux/amd64"),
        (_swap_config, NotInArchiveError, "is for linux/amd64, not linux/arm64"),
        (_too_few_diff_ids, ArchiveError, "has 2 layers and tells 1"),
        (lambda registry: registry.files.clear(), NotInArchiveError, "24.04 does not exist"),
    ],
    ids=["layer", "longer layer", "manifest", "no arm64", "config not arm64", "diff ids", "no image"],
)
def test_what_is_not_as_promised_is_refused(
    tmp_path: Path,
    registry: FakeRegistry,
    change: Callable[[FakeRegistry], None],
    error: type[Exception],
    problem: str,
) -> None:
    change(registry)
    with pytest.raises(error, match=problem) as caught:
        pulled(tmp_path, registry.url)
    assert type(caught.value) is error
    assert not list(tmp_path.glob("artifacts/oci-image/*"))


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/v2/", HTTPStatus.NOT_FOUND, "is no image registry"),
        ("/v2/", HTTPStatus.BAD_GATEWAY, "HTTP 502"),
        ("/token", HTTPStatus.FORBIDDEN, "answered HTTP 403"),
        ("/v2/library/ubuntu/manifests/24.04", HTTPStatus.UNAUTHORIZED, "answered HTTP 401"),
    ],
)
def test_a_registry_that_refuses_is_a_network_error_naming_its_setting(
    tmp_path: Path, registry: FakeRegistry, path: str, status: HTTPStatus, problem: str
) -> None:
    registry.status[path] = status
    with pytest.raises(NetworkError, match=problem) as caught:
        pulled(tmp_path, registry.url)
    assert "CRIU_PAC_REGISTRY" in str(caught.value)


def test_nobody_listens(tmp_path: Path, registry: FakeRegistry) -> None:
    with closing(create_server(("127.0.0.1", 0))) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(NetworkError, match="the registry http"):
        pulled(tmp_path, url)


def test_somebody_listens_and_says_nothing(tmp_path: Path) -> None:
    with closing(create_server(("127.0.0.1", 0))) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(NetworkError, match=r"did not answer within 0\.05 s"):
            pulled(tmp_path, url, seconds=0.05)
        with pytest.raises(NetworkError, match=r"did not answer within 0\.05 s|timed out"):
            check_answers(url, seconds=0.05)
        assert time.monotonic() - started < 5


def test_offline_asks_nobody(tmp_path: Path, registry: FakeRegistry) -> None:
    with (
        provisioning(tmp_path, registry.url, offline=True) as provision,
        pytest.raises(NetworkError, match="is not in the cache and the harness is offline"),
    ):
        pull("ubuntu:24.04", provision)
    assert not registry.seen


@pytest.mark.parametrize("answer", [b"no json", b"{}", b'{"token": "a\\nb"}', b"[]"])
def test_a_token_that_is_none(tmp_path: Path, answer: bytes) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return httpx.Response(200, content=answer)
        return httpx.Response(401, headers={"www-authenticate": 'Bearer realm="/token"'})

    with (
        _mocked(tmp_path, "https://registry.example", reply) as client,
        pytest.raises(NetworkError, match=r"https://registry\.example/token gave no token"),
    ):
        client.resolve("1")


def test_a_token_is_not_fetched_unencrypted_for_an_encrypted_registry(tmp_path: Path) -> None:
    challenge = {"www-authenticate": 'Bearer realm="http://auth.example/token"'}
    with (
        _mocked(
            tmp_path, "https://registry.example", lambda _: httpx.Response(401, headers=challenge)
        ) as client,
        pytest.raises(NetworkError, match="unencrypted"),
    ):
        client.resolve("1")


def _mocked(root: Path, url: str, reply: Callable[[httpx.Request], httpx.Response]) -> Registry:
    client = Registry(Cache(root), url, "library/ubuntu", backoff=0.001)
    client._client._transport = httpx.MockTransport(reply)
    client._client._mounts = {}
    return client


def _tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def test_zstd_layers_are_unpacked_and_the_layout_says_so(tmp_path: Path, registry: FakeRegistry) -> None:
    image = make_image([_tar("one"), _tar("two")], pack=zstandard.ZstdCompressor().compress)
    registry.add("library/ubuntu", "24.04", image.manifest, image)
    pulled_image = pulled(tmp_path, registry.url)
    files = contents(pulled_image.archive)
    assert [files[name] for name in json.loads(files["manifest.json"])[0]["Layers"]] == [
        _tar("one"), _tar("two"),
    ]  # fmt: skip
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files["blobs/sha256/" + entry["digest"].removeprefix("sha256:")])
    assert [layer["digest"] for layer in manifest["layers"]] == [
        digest_of(_tar("one")),
        digest_of(_tar("two")),
    ]
    assert {digest_of(data).removeprefix("sha256:") for name, data in files.items() if "blobs" in name} == {
        name.rpartition("/")[2] for name in files if "blobs" in name
    }
    assert [path.name for path in pulled_image.archive.parent.glob("*.layer")] == []


def test_zstd_layer_of_other_content_is_refused(tmp_path: Path, registry: FakeRegistry) -> None:
    image = make_image([_tar("one")], pack=lambda _: zstandard.ZstdCompressor().compress(b"other"))
    registry.add("library/ubuntu", "24.04", image.manifest, image)
    with pytest.raises(IntegrityError, match="an image layer unpacks to"):
        pulled(tmp_path, registry.url)


def test_a_layer_that_comes_twice_is_stored_once(tmp_path: Path, registry: FakeRegistry) -> None:
    image = make_image([b"same", b"same"])
    registry.add("library/ubuntu", "24.04", image.manifest, image)
    files = contents(pulled(tmp_path, registry.url).archive)
    assert len(json.loads(files["manifest.json"])[0]["Layers"]) == 2


def test_within_passes_results_and_errors_on() -> None:
    deadline = Deadline.after(5, "it")
    assert within(deadline, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(deadline, lambda: 1 // 0)
