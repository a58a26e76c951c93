"""An HTTP mirror on the loopback interface that fails as it is told to, for tests."""

import threading
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class FakeMirror:
    """Serves ``files`` (path to bytes) at ``url``; understands Range.

    ``cut`` maps a path to the bytes after which the connection is dropped once, ``busy`` to how many
    times it answers 503 first; ``requests`` counts requests, ``sent`` bytes of bodies, both by path.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.cut: dict[str, int] = {}
        self.busy: dict[str, int] = {}
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True
        )

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return f"http://127.0.0.1:{self._server.server_port}/debian"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        path = request.path.removeprefix("/debian/")
        self.requests[path] += 1
        if self.busy.get(path, 0) > 0:
            self.busy[path] -= 1
            _respond(request, HTTPStatus.SERVICE_UNAVAILABLE)
            return
        if path not in self.files:
            _respond(request, HTTPStatus.NOT_FOUND)
            return
        data = self.files[path]
        # Range: bytes=4096-
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start > len(data):
            _respond(request, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        request.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        body = data[start:]
        if (limit := self.cut.pop(path, None)) is not None:
            body = body[:limit]
            request.close_connection = True
        request.wfile.write(body)
        self.sent[path] += len(body)


def _respond(request: BaseHTTPRequestHandler, status: HTTPStatus) -> None:
    request.send_response(status)
    request.send_header("Content-Length", "0")
    request.end_headers()
