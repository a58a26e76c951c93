"""The ubuntu-24.04 routes with real parts on the loopback interface.

Neither Docker Hub nor Ubuntu's archive can be reached where this runs, so nothing here is
Ubuntu's: the registry server is Debian's docker-registry, run from its package; the image in it
and the packages in the archive named "noble" are Debian's real arm64 ones, listed anew and signed
by a key of the test. What is proven is the way they take, not Ubuntu's content.
"""

import gzip
import hashlib
import io
import os
import socket
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import DEFAULT_CPU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.core.deadline import Deadline
from harness.core.errors import ArchiveError, IntegrityError
from harness.core.process import popen
from harness.guest.engine import DockerEngine
from harness.guest.prepare import SCENARIO_IMAGE
from harness.provision.base_protection import base_root, check_protection
from harness.provision.bases import choose_base, prepare_base
from harness.provision.bundle import Bundle, bundle
from harness.provision.context import Provision
from harness.provision.deb import control_fields
from harness.provision.fake_archive import FakeArchive
from harness.provision.fake_mirror import FakeMirror
from harness.provision.fake_registry import FakeImage, FakeRegistry, digest_of, make_image, make_index
from harness.provision.groups import GROUPS, PackageGroup, Suite
from harness.provision.guest_image import userland_archive
from harness.provision.oci_documents import OCI_INDEX, OCI_MANIFEST
from harness.provision.packages import obtain
from harness.provision.prepared_base import ImageKind, Route
from harness.provision.settings import Settings, host_architecture
from harness.scenario.lab import Lab, MachineKind

UBUNTU = BASES["ubuntu-24.04"]
SERVER = PackageGroup(
    name="test-docker-registry",
    distribution="debian",
    suites=(Suite(name="trixie"),),
    architecture=host_architecture(),
    roots=("docker-registry",),
    exclude={"adduser": "no maintainer script is run", "init-system-helpers": "the same"},
    locked=False,
)


class NobleOfDebian(FakeArchive):
    """An archive with Ubuntu's layout whose packages are real files of Debian."""

    def __init__(self, groups: tuple[str, ...], debian: Provision, suite: str = "noble") -> None:
        super().__init__("ubuntu")
        for group in groups:
            for locked, path in obtain(group, debian).packages:
                data = path.read_bytes()
                name = f"pool/main/{locked.name[0]}/{locked.name}/{path.name}.deb"
                self.files[name] = data
                self._stanzas[suite, "arm64", locked.name] = {
                    # Continuation lines carry nothing that the resolver reads.
                    **{key: value.split("\n")[0] for key, value in control_fields(path).items()},
                    "Filename": name,
                    "Size": str(len(data)),
                    "SHA256": hashlib.sha256(data).hexdigest(),
                }
        self.publish(suite)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running docker-registry."""

    url: str
    storage: Path

    def push(self, repository: str, tag: str, index: bytes, *images: FakeImage) -> str:
        """Push images and their index as a client would; return the digest the registry gives it."""
        with httpx.Client(base_url=f"{self.url}/v2/{repository}/", headers=_AUTHORIZED) as client:
            for image in images:
                for digest, blob in image.blobs.items():
                    place = httpx.URL(_created(client.post("blobs/uploads/")).headers["location"])
                    _created(client.put(place.copy_merge_params({"digest": digest}), content=blob))
                self._manifest(client, digest_of(image.manifest), image.manifest, OCI_MANIFEST)
            return self._manifest(client, tag, index, OCI_INDEX)

    def _manifest(self, client: httpx.Client, name: str, data: bytes, media_type: str) -> str:
        answer = client.put(f"manifests/{name}", content=data, headers={"content-type": media_type})
        return str(_created(answer).headers["docker-content-digest"])

    def blob(self, digest: str) -> Path:
        """Where a blob is on the server's disk."""
        sha256 = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"


_AUTHORIZED = {"authorization": "Bearer of-the-test"}


def _created(answer: httpx.Response) -> httpx.Response:
    assert answer.is_success, f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"
    return answer


@pytest.fixture(scope="module")
def debian() -> Iterator[Provision]:
    """The real packages, from the cache or Debian's real archive."""
    with Provision(Settings.from_environment(), groups={**GROUPS, SERVER.name: SERVER}) as provision:
        yield provision


@pytest.fixture(scope="module")
def server_bundle(debian: Provision) -> Bundle:
    return bundle(SERVER.name, debian)


@contextmanager
def running(program: Bundle, root: Path, realm: str) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    config = root / "config.yml"
    # "silly" challenges as real registries do and takes any token.
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {root}/storage}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
        f"auth: {{silly: {{realm: '{realm}', service: silly}}}}\n"
    )
    with (root / "log").open("wb") as log:
        process = popen(
            [*program.command("docker-registry"), "serve", str(config)],
            stdout=log,
            stderr=log,
            env={"PATH": os.defpath, "OTEL_TRACES_EXPORTER": "none"},
        )
        try:

            def answers() -> bool | None:
                assert process.poll() is None, (root / "log").read_text()
                try:
                    return httpx.get(f"{url}/v2/").status_code == httpx.codes.UNAUTHORIZED or None
                except httpx.TransportError:
                    return None

            Deadline.after(30, "start of docker-registry").poll(answers, interval=0.05)
            yield Server(url=url, storage=root / "storage")
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(server_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with (
        FakeRegistry() as tokens,
        running(server_bundle, tmp_path_factory.mktemp("registry"), tokens.token_url) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def images(debian: Provision) -> tuple[FakeImage, FakeImage]:
    """An image for another machine, and Debian 13 for arm64 with something to hide in its lower layer."""
    root = userland_archive(debian, "base-debian-13", whole=True).read_bytes()
    lower = _tar({"usr/lib/aarch64-linux-gnu/libc.so.6": b"hidden by the layer above"})
    return (
        make_image([_tar({"usr/bin/other": b"of another machine"})], architecture="amd64"),
        make_image([lower, root], pack=lambda data: gzip.compress(data, 1, mtime=0)),
    )


@pytest.fixture(scope="module")
def noble(debian: Provision) -> Iterator[tuple[NobleOfDebian, FakeMirror]]:
    archive = NobleOfDebian(("base-debian-13", "python-debian-13"), debian)
    with FakeMirror(archive.files) as mirror:
        yield archive, mirror


def ubuntu_provision(
    root: Path, noble: tuple[NobleOfDebian, FakeMirror], registry: str, *, offline: bool = False
) -> Provision:
    archive, mirror = noble
    settings = Settings.from_environment(
        {
            "CRIU_PAC_CACHE": str(root),
            "CRIU_PAC_MIRROR_UBUNTU": mirror.url,
            "CRIU_PAC_REGISTRY": registry,
            "CRIU_PAC_OFFLINE": "1" if offline else "",
        }
    )
    return Provision(settings, keyrings={"ubuntu": archive.keyring()})


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


Images = tuple[FakeImage, FakeImage]
Noble = tuple[NobleOfDebian, FakeMirror]


def test_image_of_a_registry_with_python_of_the_archive(
    tmp_path: Path, server: Server, images: Images, noble: Noble
) -> None:
    other, image = images
    index = make_index((other, "linux/amd64"), (image, "linux/arm64/v8"))
    digest = server.push("library/ubuntu", "24.04", index, other, image)
    with ubuntu_provision(tmp_path, noble, server.url) as provision:
        prepared, note = choose_base("auto", provision)
    assert (prepared.base, prepared.route, prepared.kind) == (UBUNTU, Route.REGISTRY, ImageKind.LOAD)
    assert (prepared.index_digest, prepared.manifest_digest) == (digest, digest_of(image.manifest))
    assert server.url in note
    assert check_protection(prepared) == (True, True)
    with ubuntu_provision(tmp_path, noble, server.url, offline=True) as provision:
        assert choose_base("auto", provision)[0].digest == prepared.digest


def test_image_runs_in_the_engine_of_a_machine(
    tmp_path: Path, server: Server, images: Images, noble: Noble, lab: Lab
) -> None:
    """What was pulled is loaded, built on by its Dockerfile and run by a real Docker Engine."""
    _, image = images
    server.push("library/ubuntu", "24.04", make_index((image, "linux/arm64/v8")), image)
    with ubuntu_provision(tmp_path / "cache", noble, server.url) as provision:
        prepared = prepare_base(UBUNTU, provision)
    kind = MachineKind(cpu=DEFAULT_CPU, kernel=DEFAULT_KERNEL, base=prepared, builds=())
    (tmp_path / "machine").mkdir()
    # Loads the image, builds on it by the base's Dockerfile, and runs the positive control in it.
    machine = lab.cold_machine(kind, tmp_path / "machine")
    with closing(DockerEngine(machine)) as engine:
        engine.wait(Deadline.after(10, "answer of dockerd"))
        assert engine.client.images.get(prepared.reference).attrs["Architecture"] == "arm64"
        program = "import platform; print('python3 on', platform.machine())"
        said = engine.client.containers.run(
            SCENARIO_IMAGE, ["python3", "-c", program], network_mode="none", remove=True
        )
    lab.release(machine)
    assert said == b"python3 on aarch64\n"


def test_blob_changed_on_the_registry_is_refused(
    tmp_path: Path, server_bundle: Bundle, images: Images, noble: Noble
) -> None:
    _, image = images
    with FakeRegistry() as tokens, running(server_bundle, tmp_path, tokens.token_url) as server:
        server.push("library/ubuntu", "24.04", make_index((image, "linux/arm64")), image)
        blob = server.blob(list(image.blobs)[1])
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
        with (
            ubuntu_provision(tmp_path / "cache", noble, server.url) as provision,
            pytest.raises(IntegrityError, match="has SHA-256"),
        ):
            choose_base("auto", provision)


def test_index_without_arm64_leads_to_the_archive(
    tmp_path: Path, server: Server, images: Images, noble: Noble
) -> None:
    other, _ = images
    server.push("library/ubuntu", "elsewhere", make_index((other, "linux/amd64")), other)
    with ubuntu_provision(tmp_path, noble, server.url) as provision:
        prepared = prepare_base(replace(UBUNTU, image="ubuntu:elsewhere"), provision)
    assert prepared.route is Route.ARCHIVE
    assert "no image for linux/arm64; it has linux/amd64" in prepared.notes[0]


def test_no_registry_leads_to_the_archive(tmp_path: Path, noble: Noble) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    with ubuntu_provision(tmp_path, noble, nowhere) as provision:
        prepared, note = choose_base("auto", provision)
    assert (prepared.base, prepared.route, prepared.kind) == (UBUNTU, Route.ARCHIVE, ImageKind.IMPORT)
    assert nowhere in note
    assert any("python-ubuntu-24.04 is not in the lock" in text for text in prepared.notes)
    assert check_protection(prepared) == (True, True)
    root = base_root(prepared)
    assert root.find("etc/passwd", "bin/sh") == "etc/passwd"
    assert root.find("bin/python3") == "bin/python3"  # through the links of a merged /usr
    assert prepared.python_layer is not None
    with tarfile.open(prepared.python_layer) as layer:
        assert "usr/lib/aarch64-linux-gnu/libc.so.6" not in layer.getnames()


def test_unprotected_packages_are_refused_as_ubuntu(tmp_path: Path, debian: Provision) -> None:
    """Debian 12's real packages, which sign nothing, in the place of Ubuntu's."""
    archive = NobleOfDebian(("base-debian-12", "python-debian-12"), debian)
    with (
        FakeMirror(archive.files) as mirror,
        FakeRegistry() as empty,
        ubuntu_provision(tmp_path, (archive, mirror), empty.url) as provision,
    ):
        prepared, note = choose_base("ubuntu-24.04", provision)
    assert "does not exist" in note
    with pytest.raises(ArchiveError, match=r"/usr/bin/python3 of .* carries no branch protection: 0 paciasp"):
        check_protection(prepared)
    assert check_protection(prepared, control=True) == (False, False)


def test_the_unprotected_control_of_ubuntu(tmp_path: Path, debian: Provision) -> None:
    """Debian 12's real packages, which sign nothing, in the place of Ubuntu 20.04's, which sign nothing."""
    archive = NobleOfDebian(("base-debian-12", "python-debian-12"), debian, "focal")
    with (
        FakeMirror(archive.files) as mirror,
        FakeRegistry() as empty,
        ubuntu_provision(tmp_path, (archive, mirror), empty.url) as provision,
    ):
        prepared, note = choose_base("ubuntu-20.04", provision)
    assert (prepared.base, prepared.route) == (BASES["ubuntu-20.04"], Route.ARCHIVE)
    assert "does not exist" in note
    assert check_protection(prepared) == (False, False)
    assert base_root(prepared).find("usr/bin/python3")


@pytest.mark.parametrize(("name", "protected"), [("debian-13", True), ("debian-12", False)])
def test_debian_bases_are_what_the_catalogue_says(debian: Provision, name: str, protected: bool) -> None:  # noqa: FBT001
    prepared = prepare_base(BASES[name], debian)
    assert prepared.route is Route.PACKAGES
    assert check_protection(prepared) == (protected, protected)


def test_root_file_system_of_the_user(tmp_path: Path, debian: Provision) -> None:
    """What the other routes made, as one archive and packed, is a base like any."""
    made = prepare_base(BASES["debian-13"], debian)
    assert made.python_layer is not None
    mine = tmp_path / "mine.tar.gz"
    with tarfile.open(mine, "w:gz", compresslevel=1) as target:
        for part in (made.image_archive, made.python_layer):
            with tarfile.open(part) as source:
                for member in source:
                    target.addfile(member, source.extractfile(member) if member.isreg() else None)
    prepared, _ = choose_base(str(mine), debian)
    assert prepared.route is Route.TAR
    assert check_protection(prepared) == (True, True)
