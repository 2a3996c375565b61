"""The index of snapshots and the audit in memory, held to the same contract suite as those on MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.mongo.ledger.audit import INTERRUPTED, Audited, AuditEntry
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


class MemoryAudit:
    """The audit as a list of lines."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.lines: list[AuditEntry] = []
        self._now = now

    @contextmanager
    def during(
        self,
        action: str,
        accounts: Iterable[Account],
        types: Iterable[str],
        *,
        why: str = "",
        plan_hash: str | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> Iterator[Audited]:
        users = tuple(name for account in accounts for name in (account.key, account.did) if name)
        entry = AuditEntry(action, "tester", self._now(), why, users, tuple(types), plan_hash, dict(counts or {}))
        self.lines.append(entry)
        audited = Audited(entry)
        try:
            yield audited
        except PipelineError as error:
            self.lines.append(replace(entry, outcome=f"failed: {error.message}"))
            raise
        except BaseException:
            self.lines.append(replace(entry, outcome=INTERRUPTED))
            raise
        self.lines.append(replace(entry, counts=audited.counts or entry.counts, outcome=audited.outcome))
