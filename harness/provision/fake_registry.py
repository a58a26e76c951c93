"""An image registry on the loopback interface that fails as it is told to, and images for it, for tests."""

import gzip
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from harness.provision.oci_documents import OCI_INDEX, OCI_LAYER, OCI_MANIFEST

TOKEN = "anybody-may-have-it"  # noqa: S105 -- of no real registry


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeImage:
    """One image: its manifest, and its configuration and layers by digest."""

    manifest: bytes
    blobs: dict[str, bytes]


def digest_of(data: bytes) -> str:
    """Return "sha256:..." of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_image(
    layers: Sequence[bytes],
    *,
    architecture: str = "arm64",
    pack: Callable[[bytes], bytes] = gzip.compress,
    layer_type: str = f"{OCI_LAYER}+gzip",
) -> FakeImage:
    """Return an image of plain tar ``layers``, each packed by ``pack``."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": architecture,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
    ).encode()
    packed = [pack(layer) for layer in layers]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": describe(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [describe(layer, layer_type) for layer in packed],
        }
    ).encode()
    return FakeImage(manifest=manifest, blobs={digest_of(blob): blob for blob in (config, *packed)})


def make_index(*images: tuple[FakeImage, str]) -> bytes:
    """Return the index of images, each with its platform: "linux/arm64" or "linux/arm64/v8"."""
    entries = []
    for image, platform in images:
        names = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
        entries.append({**describe(image.manifest, OCI_MANIFEST), "platform": names})
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def describe(data: bytes, media_type: str) -> dict[str, object]:
    """Return the descriptor of ``data``."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


class FakeRegistry:
    """Serves what ``add`` was given at ``url``; blobs by a redirect to another origin.

    It wants its token for everything. ``files`` maps paths to bytes and may be changed;
    ``seen`` holds (origin, path, Authorization header) of every request, with origins "registry",
    "token" and "blobs"; ``status`` maps paths to what is answered instead.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.status: dict[str, HTTPStatus] = {}
        self._servers = [_server(self, origin) for origin in ("registry", "token", "blobs")]

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return self._url(0)

    @property
    def token_url(self) -> str:
        """Where its token is had, for the challenge of another registry."""
        return f"{self._url(1)}/token"

    def add(self, repository: str, tag: str, top: bytes, *images: FakeImage) -> str:
        """Add what ``tag`` names (an index or a manifest) and the images; return its digest."""
        base = f"/v2/{repository}"
        self.files[f"{base}/manifests/{tag}"] = top
        for image in images:
            self.files[f"{base}/manifests/{digest_of(image.manifest)}"] = image.manifest
            self.files |= {f"{base}/blobs/{digest}": blob for digest, blob in image.blobs.items()}
        return digest_of(top)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def answer(self, origin: str, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        path = urlsplit(request.path).path
        authorization = request.headers.get("Authorization")
        self.seen.append((origin, path, authorization))
        if path in self.status:
            _send(request, self.status[path])
        elif origin == "token":
            _send(request, HTTPStatus.OK, json.dumps({"token": TOKEN}).encode())
        elif origin == "blobs":
            _send(request, HTTPStatus.OK, self.files[path])
        elif authorization != f"Bearer {TOKEN}":
            challenge = f'Bearer realm="{self.token_url}",service="fake"'
            _send(request, HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": challenge})
        elif path not in self.files:
            _send(request, HTTPStatus.NOT_FOUND)
        elif "/blobs/" in path:
            _send(request, HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": f"{self._url(2)}{path}"})
        else:
            _send(request, HTTPStatus.OK, self.files[path])

    def _url(self, number: int) -> str:
        return f"http://127.0.0.1:{self._servers[number].server_port}"


def _server(registry: FakeRegistry, origin: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            registry.answer(origin, self)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def _send(
    request: BaseHTTPRequestHandler,
    status: HTTPStatus,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
