"""A gate before a PDS: passes every request on, counts the writes, and can keep back the answer to one of them.

A writer whose answer is kept back is in the middle of its work for as long as a test wants: its batch is committed, and
it does not know. Nothing is changed on the way.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from ac_pipeline_tests.http_proxy import HttpProxy

_WRITES = "/xrpc/com.atproto.repo.applyWrites"


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


class PdsGate(HttpProxy):
    """A running gate; a context manager that stops it."""

    def __init__(self, url: str) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], Held] = {}
        self._batches: Counter[str] = Counter()
        self._operations: Counter[tuple[str, str]] = Counter()
        super().__init__(url)

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
        super().close()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Pass a request on and its answer back, now or when it is let go."""
        answer = self.ask(handler, body)
        if handler.path == _WRITES and answer.is_success:
            self._committed(body)
        with suppress(ConnectionError):  # the writer may have died meanwhile
            self.reply(handler, answer)

    def _committed(self, body: bytes) -> None:
        request = json.loads(body)
        with self._lock:
            self._batches[request["repo"]] += 1
            for write in request["writes"]:
                self._operations[request["repo"], write["$type"].rpartition("#")[2]] += 1
            held = self._held.get((request["repo"], self._batches[request["repo"]]))
        if held is not None:
            held.stand()
