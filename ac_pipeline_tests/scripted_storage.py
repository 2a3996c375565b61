"""An object storage for tests, inside the test's process: put objects, script failures, read back what was asked.

The HTTP is `media_server.py`'s; nothing here is used by the local services.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ac_pipeline.local.services.media_server import Handler, MediaServer
from ac_pipeline.local.services.stack import media_url


@dataclass(frozen=True, slots=True)
class Request:
    """One GET or HEAD that arrived; bucket and key percent-decoded."""

    method: str
    bucket: str
    key: str


@dataclass(slots=True)
class _Fault:
    status: int | None
    cut_after: int | None
    seconds: float
    times: int | None


class _Server(MediaServer):
    """One that can be closed although clients keep their connections, and whose answers are an `ObjectServer`'s."""

    def __init__(self, scripts: ObjectServer) -> None:
        self.scripts = scripts
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(Path(), handler=_Handler)

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

    def close(self) -> None:
        """Stop serving; `serve_forever` runs in another thread."""
        self.shutdown()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(Handler):
    server: _Server

    def answer(self, bucket: str, key: str) -> None:
        self.server.scripts.answer(self, bucket, key)


class ObjectServer:
    """A running server; a context manager that stops it.

    Faults hold for one key until `heal`, or for their first `times` requests.
    """

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], bytes] = {}
        self._faults: dict[tuple[str, str], _Fault] = {}
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(self)
        self.url_template = media_url(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, or replace it."""
        with self._lock:
            self._objects[bucket, key] = data

    def remove(self, bucket: str, key: str) -> None:
        """Forget an object; it need not exist."""
        with self._lock:
            self._objects.pop((bucket, key), None)

    def fail(self, bucket: str, key: str, status: int, *, times: int | None = None) -> None:
        """Answer this status (403, 404, 503 …) instead of the object."""
        self._script(bucket, key, _Fault(status, None, 0.0, times))

    def cut(self, bucket: str, key: str, after: int, *, times: int | None = None) -> None:
        """Promise the whole object, send `after` bytes and break the connection. HEAD is answered in full."""
        self._script(bucket, key, _Fault(None, after, 0.0, times))

    def slow(self, bucket: str, key: str, seconds: float, *, times: int | None = None) -> None:
        """Wait before the answer; closing the server ends the waiting."""
        self._script(bucket, key, _Fault(None, None, seconds, times))

    def heal(self, bucket: str, key: str) -> None:
        """Take back a fault."""
        with self._lock:
            self._faults.pop((bucket, key), None)

    @property
    def requests(self) -> tuple[Request, ...]:
        """Everything that was asked so far, in order of arrival."""
        with self._lock:
            return tuple(self._requests)

    def count(self, bucket: str, key: str) -> Counter[str]:
        """Method -> how often it was asked of this key."""
        return Counter(request.method for request in self.requests if (request.bucket, request.key) == (bucket, key))

    def clear(self) -> None:
        """Forget objects, faults and requests: a fresh start for the next test."""
        with self._lock:
            self._objects.clear()
            self._faults.clear()
            self._requests.clear()

    def close(self) -> None:
        self._closing.set()
        self._server.close()
        self._thread.join()

    def __enter__(self) -> ObjectServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _script(self, bucket: str, key: str, fault: _Fault) -> None:
        with self._lock:
            self._faults[bucket, key] = fault

    def answer(self, handler: Handler, bucket: str, key: str) -> None:
        """Answer a request as scripted."""
        with self._lock:
            self._requests.append(Request(handler.command, bucket, key))
            fault = self._take_fault(bucket, key)
            data = self._objects.get((bucket, key))
        if fault is not None and fault.seconds:
            self._closing.wait(fault.seconds)
        if fault is not None and fault.status is not None:
            handler.reply(fault.status)
            return
        if data is None:
            handler.reply(404)
            return
        # Not secret: the storage's own ETag of a single-part upload is the MD5 of its bytes.
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if fault is None or fault.cut_after is None or handler.command == "HEAD":
            handler.reply(200, data, key, etag)
            return
        handler.head(200, len(data), key, etag)
        handler.wfile.write(data[: fault.cut_after])
        handler.close_connection = True

    def _take_fault(self, bucket: str, key: str) -> _Fault | None:
        fault = self._faults.get((bucket, key))
        if fault is None or fault.times is None:
            return fault
        if fault.times == 0:
            return None
        fault.times -= 1
        return fault
