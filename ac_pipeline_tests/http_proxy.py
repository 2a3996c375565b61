"""A proxy before a real server, inside the test's process. What it does to requests and answers is a subclass's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"})


class HttpProxy:
    """A running proxy that passes everything on unchanged; a context manager that stops it.

    Args:
        url: Address of the real server.
        timeout: Seconds that it may take for an answer.
    """

    def __init__(self, url: str, timeout: float = 300.0) -> None:
        self._upstream = httpx.Client(base_url=url, timeout=timeout, trust_env=False)
        self._server = _Server(("127.0.0.1", 0), _handler(self.handle))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer one request."""
        self.reply(handler, self.ask(handler, body))

    def ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> httpx.Response:
        """The server's own answer to a request."""
        sent = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP_BY_HOP}
        sent["accept-encoding"] = "identity"
        return self._upstream.request(handler.command, handler.path, headers=sent, content=body)

    def reply(self, handler: BaseHTTPRequestHandler, answer: httpx.Response) -> None:
        """Send an answer as it is."""
        handler.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                handler.send_header(name, value)
        handler.send_header("content-length", str(len(answer.content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(answer.content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._upstream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what such proxies are for, on either side."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _handler(handle: Callable[[BaseHTTPRequestHandler, bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            handle(self, self.rfile.read(int(self.headers.get("content-length", 0))))

        do_GET = do_HEAD = do_POST = _handle

        def log_message(self, format: str, *args: object) -> None:
            """No access log."""

    return Handler
