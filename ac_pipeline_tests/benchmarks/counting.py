"""Counting what a sync asks of MongoDB and of the PDS: exact on any machine, however busy."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pymongo import monitoring

from ac_pipeline.accounts import Account
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, new_run_id


class Statements(monitoring.CommandListener):
    """Counts what the driver sends, and how long each answer took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: dict[int, str] = {}
        self.count: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def clear(self) -> None:
        with self._lock:
            self.count.clear()
            self.seconds.clear()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        command = event.command
        about = command.get("filter") or command.get("query") or {}
        collection = command.get("collection") if event.command_name == "getMore" else command.get(event.command_name)
        with self._lock:
            self._sent[event.request_id] = f"{event.command_name} {collection} ({', '.join(about)})"

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self._ended(event.request_id, event.duration_micros)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._ended(event.request_id, event.duration_micros)

    def _ended(self, request: int, micros: int) -> None:
        with self._lock:
            name = self._sent.pop(request, "?")
            self.count[name] += 1
            self.seconds[name] += micros / 1_000_000  # type: ignore[assignment]  (a counter of seconds)


class Requests:
    """The PDS of an engine, with every call counted by its method."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.count: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.count[name] += 1
        return getattr(self._server, name)


def counted_sync(
    pipeline: Pipeline, people: Sequence[Account], statements: Statements, server: Requests
) -> dict[str, Any]:
    """Synchronise these users; what it took and asked for, as JSON values."""
    statements.clear()
    server.count.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    for _, report in sync_accounts(
        pipeline.engine, people, Selection(), new_run_id(), pipeline.settings.ac_concurrent_users
    ):
        if report.error is not None or report.blocked is not None:
            raise SystemExit(f"{report.user}: {report.error or report.blocked}")
    return {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "requests": dict(server.count),
        "statements": {
            name: {"count": count, "mean_ms": round(1000 * statements.seconds[name] / count, 2)}
            for name, count in sorted(statements.count.items())
        },
    }
