"""Proxies before real services that spoil one answer, or all of them, in every way in which answers are spoilt."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Literal

import httpx

from ac_pipeline_tests.http_proxy import HttpProxy

_HTML = b"<!doctype html><html><head><title>Welcome</title></head><body>Please sign in to the network</body></html>"
_DRIP_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A true answer and the connection it should go over."""

    handler: BaseHTTPRequestHandler
    answer: httpx.Response
    others: bytes
    """What the server has answered to another call, or to the same call about somebody else."""

    def send(
        self, status: int, body: bytes, kind: str = "application/json", *, promise: int = 0, **headers: str
    ) -> None:
        head = {"Content-Type": kind, "Content-Length": str(promise or len(body))}
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        if promise:
            head |= {name: value for name, value in self.answer.headers.items() if name == "etag"}
        self.handler.send_response(status)
        for name, value in head.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        if self.handler.command != "HEAD":
            self.handler.wfile.write(body)

    def without_end(self, piece: bytes, seconds: float) -> None:
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", "application/json")
        self.handler.send_header("Transfer-Encoding", "chunked")
        self.handler.end_headers()
        while self.handler.command != "HEAD":
            self.handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            time.sleep(seconds)

    def break_off(self, *, reset: bool) -> None:
        self.handler.close_connection = True
        if reset:
            self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            self.handler.connection.shutdown(socket.SHUT_RDWR) if not reset else self.handler.connection.close()

    def nulls(self) -> bytes:
        try:
            content = json.loads(self.answer.content)
        except ValueError:
            return b"{}"
        return json.dumps(_nulled(content)).encode()


def _nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _nulled(each) if isinstance(each, dict | list) else None for name, each in value.items()}
    return [_nulled(each) for each in value] if isinstance(value, list) else None


def _cut(spoilt: Spoilt) -> None:
    body = spoilt.answer.content
    spoilt.send(200, body[: len(body) // 2], promise=len(body) or 1)
    spoilt.break_off(reset=False)


def _soon(seconds: int) -> str:
    return str(int(time.time()) + seconds)


Break = Literal["before", "after", "unheard"]
Act = Callable[[Spoilt], None]
FAULTS: dict[str, tuple[bool, Act]] = {
    "portal": (False, lambda it: it.send(200, _HTML, "text/html")),
    "portal, carried out": (True, lambda it: it.send(200, _HTML, "text/html")),
    "portal without a type": (True, lambda it: it.send(200, _HTML, "application/octet-stream")),
    "other JSON": (True, lambda it: it.send(200, b'{"status": "ok", "items": []}')),
    "another's answer": (True, lambda it: it.send(200, it.others)),
    "nulls": (True, lambda it: it.send(200, it.nulls())),
    "null": (True, lambda it: it.send(200, b"null")),
    "a list": (False, lambda it: it.send(200, b"[]")),
    "nothing": (True, lambda it: it.send(200, b"")),
    "truncated": (True, lambda it: it.send(200, it.answer.content[: len(it.answer.content) // 2])),
    "drips": (True, lambda it: it.without_end(b" ", _DRIP_SECONDS)),
    "endless": (True, lambda it: it.without_end(bytes(1 << 16), 0.0)),
    "cut": (True, _cut),
    "reset": (False, lambda it: it.break_off(reset=True)),
    "reset, carried out": (True, lambda it: it.break_off(reset=True)),
    "closed": (True, lambda it: it.break_off(reset=False)),
    "400": (False, lambda it: it.send(400, _HTML, "text/html")),
    "403": (False, lambda it: it.send(403, _HTML, "text/html")),
    "404": (False, lambda it: it.send(404, _HTML, "text/html")),
    "500": (False, lambda it: it.send(500, b'{"error": "InternalServerError"}')),
    "502, carried out": (True, lambda it: it.send(502, _HTML, "text/html")),
    "503": (False, lambda it: it.send(503, b"", Retry_After="1")),
    "429": (False, lambda it: it.send(429, b'{"error": "RateLimitExceeded"}')),
    "429 with headers": (
        False,
        lambda it: it.send(
            429,
            b'{"error": "RateLimitExceeded"}',
            ratelimit_limit="10",
            ratelimit_remaining="0",
            ratelimit_reset=_soon(1),
            ratelimit_policy="10;w=1",
        ),
    ),
    "302": (False, lambda it: it.send(302, b"", Location="http://portal.invalid/")),
}
"""Name -> whether the request is carried out, and what is answered instead."""


class FaultProxy(HttpProxy):
    """A running HTTP proxy; a context manager that stops it."""

    def __init__(self, url: str) -> None:
        self._lock = threading.Lock()
        self._fault: tuple[str, str, int] | None = None
        self.spoilt = 0
        self.answers: dict[str, bytes] = {}
        super().__init__(url, timeout=60.0)

    def spoil(self, call: str, fault: str, times: int) -> None:
        """Spoil the next answers to a call: `GET` or `HEAD` of storage, or e.g. `GET getRepo` of a PDS."""
        with self._lock:
            self._fault, self.spoilt = (call, fault, times), 0

    def heal(self) -> None:
        with self._lock:
            self._fault = None

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = handler.path.partition("?")[0]
        call = f"{handler.command} {path.rpartition('.')[2]}" if path.startswith("/xrpc/") else handler.command
        fault = self._take(call)
        reaches, act = FAULTS[fault] if fault is not None else (True, None)
        answer = self.ask(handler, body) if reaches else httpx.Response(200)
        if act is not None:
            act(Spoilt(handler, answer, self.answers.get(call, b'{"blob": {"size": 1}}')))
            return
        if answer.is_success and call not in self.answers:
            self.answers[call] = answer.content
        self.reply(handler, answer)

    def _take(self, call: str) -> str | None:
        """The fault that this call meets now."""
        with self._lock:
            if self._fault is None or self._fault[0] != call or self.spoilt >= self._fault[2]:
                return None
            self.spoilt += 1
            return self._fault[1]


class MongoProxy:
    """A TCP proxy before a MongoDB server that breaks the connection of one message; a context manager that stops it.

    Args:
        port: Of the real server, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._left: int | None = None
        self._how: Break = "before"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.broken = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def spoil(self, message: int, how: Break) -> None:
        """Break the connection at the n-th message from now, counted from 1: `before` the server has it, `after` it was
        carried out, or let it and all that follow go `unheard`."""
        with self._lock:
            self._left, self._how, self.broken = message, how, 0

    def heal(self) -> None:
        with self._lock:
            self._left = None

    def __enter__(self) -> MongoProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            while message := _message(client):
                breaks = self._breaks(message)
                if breaks and self._how != "after":
                    return
                server.sendall(message)
                answer = _message(server)
                if breaks or not answer:
                    return
                client.sendall(answer)

    def _breaks(self, message: bytes) -> bool:
        with self._lock:
            if self._left is None:
                return False
            if b"hello\0" in message or b"ismaster" in message.lower():  # of the driver itself
                return self._how == "unheard" and self._left <= 0
            self._left -= 1
            breaks = self._left == 0 or (self._how == "unheard" and self._left < 0)
            self.broken += breaks
            return breaks


def _message(source: socket.socket) -> bytes:
    head = source.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return b""
    (length,) = struct.unpack("<i", head)
    rest = source.recv(length - 4, socket.MSG_WAITALL)
    return head + rest if len(rest) == length - 4 else b""
