"""The index of snapshots in memory, held to the same contract suite as the one on MongoDB, and the audit as a list."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from ac_pipeline.errors import Misconfigured
from ac_pipeline.mongo.ledger.audit import AuditEntry, MongoAudit
from ac_pipeline.mongo.ledger.collections import Snapshot


class MemorySnapshots:
    """The index of snapshots on a dictionary. `saved` lists every version, in order."""

    def __init__(self) -> None:
        self.saved: list[Snapshot] = []
        self._snapshots: dict[str, Snapshot] = {}

    def save(self, snapshot: Snapshot) -> None:
        self.saved.append(snapshot)
        self._snapshots[snapshot.id] = snapshot

    def get(self, id: str) -> Snapshot:
        if id not in self._snapshots:
            raise Misconfigured(f"There is no snapshot {id!r}.")
        return self._snapshots[id]

    def remove(self, id: str) -> None:
        self._snapshots.pop(id, None)

    def find(self, *, account: str | None = None, limit: int | None = None) -> list[Snapshot]:
        found = [each for each in self._snapshots.values() if account in (None, each.account)]
        order = {each.id: number for number, each in enumerate(self._snapshots.values())}
        return sorted(found, key=lambda each: (each.when, order[each.id]), reverse=True)[:limit]


class MemoryAudit(MongoAudit):
    """The audit as a list of lines."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.lines: list[AuditEntry] = []
        self.who, self.now = "tester", now

    def record(self, entry: AuditEntry) -> None:
        self.lines.append(entry)
