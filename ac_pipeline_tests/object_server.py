"""A small object storage for tests: real HTTP on 127.0.0.1, replies to script per path, requests to read back."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """An answer other than "here it is": a status, headers, another body, or one cut off after `cut_after` bytes."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    body: bytes | None = None


class ObjectServer:
    """Objects by path (`/bucket/key`, percent-encoded as requested) and scripted replies, used up in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.template = f"{address}/{{bucket}}"
        self.objects: dict[str, bytes] = {}
        self.replies: defaultdict[str, list[Reply]] = defaultdict(list)
        self.requests: list[tuple[str, str]] = []
        self.connections = 0
        self._lock = threading.Lock()

    def answer(self, method: str, path: str) -> tuple[Reply, bytes]:
        with self._lock:
            self.requests.append((method, path))
            if self.replies[path]:
                return self.replies[path].pop(0), self.objects.get(path, b"")
        return (Reply(), self.objects[path]) if path in self.objects else (Reply(404), b"")

    def paths(self, method: str) -> list[str]:
        return [path for asked, path in self.requests if asked == method]


@contextmanager
def object_server(tls: ssl.SSLContext | None = None) -> Iterator[ObjectServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            state.connections += 1

        def do_GET(self) -> None:
            self._respond("GET")

        def do_HEAD(self) -> None:
            self._respond("HEAD")

        def _respond(self, method: str) -> None:
            reply, body = state.answer(method, self.path)
            body = (body if reply.body is None else reply.body) if reply.status == 200 else b""
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(body)))
            if reply.status == 200 and "ETag" not in reply.headers:
                self.send_header("ETag", f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"')
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if method == "GET":
                self.wfile.write(body[: reply.cut_after])
            if reply.cut_after is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: requests are read back from `ObjectServer.requests`."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Nothing: a client that breaks off is part of some tests."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state = ObjectServer(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
