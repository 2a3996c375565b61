"""The local object storage for media: plain HTTP GET and HEAD on `/{bucket}/{key}`, as the platform's buckets answer.

Serves one folder (`python -m` this module, with the folder and a port). No listing, no writing, no byte ranges.
"""

from __future__ import annotations

import mimetypes
import os
import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ac_pipeline.local.services.processes import LOOPBACK

_HEALTH_PATH = "/_health"


def object_path(root: Path, bucket: str, key: str) -> Path:
    """Where a folder keeps an object. Segments are percent-encoded where a file system might object (`|`, `:`)."""
    return root.joinpath(*(quote(part, safe="-_.~") for part in (bucket, *key.split("/"))))


class Handler(BaseHTTPRequestHandler):
    """Takes one request after another from a connection; only well-formed buckets and keys reach `answer`."""

    protocol_version = "HTTP/1.1"
    server_version = "ac-media"
    sys_version = ""
    timeout = 30.0  # Seconds
    server: MediaServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        bucket, *segments = unquote(path.removeprefix("/")).split("/")
        if path == _HEALTH_PATH:
            self.reply(HTTPStatus.OK, b"ok")
        elif not segments or any(part in ("", ".", "..") or "\0" in part for part in (bucket, *segments)):
            self.reply(HTTPStatus.NOT_FOUND)
        else:
            self.answer(bucket, "/".join(segments))

    do_HEAD = do_GET

    def answer(self, bucket: str, key: str) -> None:
        """Answer with an object of the folder; bucket and key are percent-decoded."""
        path = object_path(self.server.root, bucket, key).resolve()
        if not path.is_relative_to(self.server.root) or not path.is_file():  # nor is a link out of the root followed
            self.reply(HTTPStatus.NOT_FOUND)
            return
        stat = path.stat()
        self.reply(HTTPStatus.OK, path.read_bytes(), key, f"{stat.st_mtime_ns:x}-{stat.st_size:x}")

    def reply(self, status: int, body: bytes = b"", name: str = ".txt", etag: str = "") -> None:
        """Send an answer; a HEAD gets the length of the body only. `name`: a file name that tells its type."""
        self.head(status, len(body), name, etag)
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, length: int, name: str, etag: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", mimetypes.guess_type(name)[0] or "application/octet-stream")
        if etag:
            self.send_header("ETag", f'"{etag}"')
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """No access log: the demo asks for thousands of objects."""


class MediaServer(ThreadingHTTPServer):
    """An HTTP/1.1 server of one folder, which holds a folder for each bucket, on the loopback interface."""

    request_queue_size = 128

    def __init__(self, root: Path, port: int = 0, handler: type[Handler] = Handler) -> None:
        self.root = root.resolve()
        super().__init__((LOOPBACK, port), handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle of an answer is no error of ours; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


if __name__ == "__main__":
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, lambda *_: os._exit(0))  # nothing to save: files are read only
    with MediaServer(Path(sys.argv[1]), int(sys.argv[2])) as _server:
        _server.serve_forever()
