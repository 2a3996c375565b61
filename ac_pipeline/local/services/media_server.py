"""The local object storage for media: plain HTTP GET and HEAD on `/{bucket}/{key}`, as the platform's buckets answer.

`MediaServer` speaks HTTP and asks an `Answering` what to say: a folder (`python -m` this module), or a script
in the tests. No listing, no writing, no byte ranges.
"""

from __future__ import annotations

import argparse
import contextlib
import mimetypes
import os
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import httpx

from ac_pipeline.local.services.processes import LOOPBACK, Service

_HEALTH_PATH = "/_health"
_IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server sends.

    Args:
        status: HTTP status.
        body: The bytes; a HEAD gets their length only.
        etag: Without quotes, or empty for none.
        cut_after: Bytes after which the connection breaks, though the header promises all of them.
    """

    status: int
    body: bytes = b""
    etag: str = ""
    cut_after: int | None = None


Answering = Callable[[str, str, str], Answer]
"""`(method, bucket, key) -> Answer`; bucket and key are percent-decoded and hold no `.` or `..` segment."""

NOT_FOUND = Answer(HTTPStatus.NOT_FOUND)


def media_url(port: int) -> str:
    """The template of the local object storage, with `{bucket}` in it."""
    return f"http://{LOOPBACK}:{port}/{{bucket}}"


def media_service(port: int, folder: Path) -> Service:
    """The server of one folder, which holds a folder for each bucket."""
    return Service(
        name="the local media server",
        argv=(
            sys.executable,
            "-m",
            "ac_pipeline.local.services.media_server",
            "--root",
            str(folder),
            "--port",
            str(port),
        ),
        healthy=lambda: _answers(port),
    )


def object_path(root: Path, bucket: str, key: str) -> Path:
    """Where a folder keeps an object. Segments are percent-encoded where a file system might object (`|`, `:`)."""
    return root.joinpath(*(quote(part, safe="-_.~") for part in (bucket, *key.split("/"))))


class FolderAnswers:
    """Answers from the files of one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def __call__(self, method: str, bucket: str, key: str) -> Answer:
        path = object_path(self._root, bucket, key).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():  # a link out of the root is not followed either
            return NOT_FOUND
        stat = path.stat()
        return Answer(HTTPStatus.OK, path.read_bytes(), etag=f"{stat.st_mtime_ns:x}-{stat.st_size:x}")


class MediaServer(socketserver.ThreadingTCPServer):
    """An HTTP/1.1 server on the loopback interface, one thread a connection.

    Args:
        answering: What to answer to a well-formed GET or HEAD.
        port: 0 for a free one; see `server_address`.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answering: Answering, port: int = 0) -> None:
        self.answering = answering
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def close_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            with self._lock:
                self._connections.discard(request)
        super().close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle of an answer is no error of ours; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop serving, also on connections that clients keep open. `serve_forever` runs in another thread."""
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "ac-media"
    sys_version = ""
    timeout = _IDLE_SECONDS
    server: MediaServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        if path == _HEALTH_PATH:
            self._send(Answer(HTTPStatus.OK, b"ok"), "text/plain")
            return
        bucket, *segments = unquote(path.removeprefix("/")).split("/")
        if not bucket or not segments or any(part in ("", ".", "..") or "\0" in part for part in (bucket, *segments)):
            self._send(NOT_FOUND, "text/plain")
            return
        key = "/".join(segments)
        self._send(self.server.answering(self.command, bucket, key), mimetypes.guess_type(key)[0])

    def _send(self, answer: Answer, content_type: str | None) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Type", content_type or "application/octet-stream")
        if answer.etag:
            self.send_header("ETag", f'"{answer.etag}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if answer.cut_after is None else answer.body[: answer.cut_after])
        if answer.cut_after is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """No access log: the demo asks for thousands of objects."""


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}{_HEALTH_PATH}", timeout=1.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def main(argv: list[str]) -> int:
    """Serve a folder until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="ac_pipeline.local.services.media_server", description="Serves a folder.")
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder for each bucket")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # nothing to save: files are read only
    with MediaServer(FolderAnswers(arguments.root), arguments.port) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
