"""A gate before a PDS: passes every request on, counts the writes, and can keep back the answer to one of them.

A writer whose answer is kept back is in the middle of its work for as long as a test wants: its batch is committed, and
it does not know. Nothing is changed on the way.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import httpx

_WRITES = "/xrpc/com.atproto.repo.applyWrites"
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"})


class Held:
    """One answer that is kept back, or will be."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._open = threading.Event()

    def wait(self, seconds: float) -> None:
        """Return when the batch is committed and its writer waits for the answer.

        Raises:
            TimeoutError: It was not sent in time.
        """
        if not self._arrived.wait(seconds):
            raise TimeoutError(f"no writer came to the gate within {seconds:.0f} s")

    def release(self) -> None:
        """Let the answer go, to whoever still waits for it."""
        self._open.set()

    def stand(self) -> None:
        """Keep the answer back until it is released; called by the gate."""
        self._arrived.set()
        self._open.wait()


class PdsGate:
    """A running gate; a context manager that stops it.

    Args:
        url: Address of the PDS.
    """

    def __init__(self, url: str) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Held] = {}
        self._batches: Counter[str] = Counter()
        self._operations: Counter[tuple[str, str]] = Counter()
        self._upstream = httpx.Client(base_url=url, timeout=300.0)
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def keep_back(self, did: str, batch: int) -> Held:
        """Keep back the answer to a repository's batch, counted from now and from 1."""
        with self._lock:
            return self._held.setdefault((did, self._batches[did] + batch), Held())

    def operations(self, did: str) -> Counter[str]:
        """Kind -> how many operations of this repository were committed through the gate."""
        with self._lock:
            return Counter({kind: count for (repo, kind), count in self._operations.items() if repo == did})

    def close(self) -> None:
        for held in self._held.values():
            held.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._upstream.close()

    def __enter__(self) -> PdsGate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pass_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """Send a request to the PDS and return its answer, now or when it is let go."""
        answer = self._upstream.request(method, path, headers=headers, content=body)
        if path == _WRITES and answer.is_success:
            request = json.loads(body)
            with self._lock:
                self._batches[request["repo"]] += 1
                for write in request["writes"]:
                    self._operations[request["repo"], write["$type"].rpartition("#")[2]] += 1
                held = self._held.get((request["repo"], self._batches[request["repo"]]))
            if held is not None:
                held.stand()
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A writer that was killed breaks its connection: that is what the gate is for."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(gate: PdsGate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on()

        def do_HEAD(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            sent["accept-encoding"] = "identity"
            answer = gate.pass_on(self.command, self.path, sent, body)
            try:
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.content)
            except ConnectionError:  # the writer died meanwhile
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """No access log."""

    return Handler
