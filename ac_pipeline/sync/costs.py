"""What a plan would cost, and its hash: the same plan always has the same hash.

Pure arithmetic over plans. Points and caps: ATProto facts, "Limits" and "Writing".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from ac_pipeline.atproto.batches import MAX_OPERATIONS, points, request_bytes
from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.plan import Kind
from ac_pipeline.sync.writer import REQUEST_BYTES

RECORDS_PER_SECOND = 1_000
BLOBS_PER_SECOND = 150
"""What a PDS on a disk takes without limits, rounded down (ATProto facts, "Writing")."""

POINTS_PER_HOUR = 5_000
"""What a PDS with its limits on grants one DID in an hour, unless it said otherwise."""


@dataclass(frozen=True, slots=True)
class PlannedOperation:
    """One line of a flight plan."""

    item: str
    user: str
    operation: str
    reason: str
    rkey: str
    cid: str | None

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Cost:
    """What carrying out a plan takes.

    Args:
        finishes_at: The earliest end when the PDS limits nothing.
        finishes_limited: The earliest end under the write points a PDS grants by default.
    """

    operations: int
    points: int
    blob_uploads: int
    bytes: int
    commits: int
    sessions: int
    finishes_at: datetime
    finishes_limited: datetime

    def to_json(self) -> dict[str, object]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def planned(plans: Iterable[AccountPlan]) -> list[PlannedOperation]:
    """Every operation of these plans, ordered by user and item."""
    lines = [
        PlannedOperation(op.item, plan.account.key, op.kind.value, op.reason, op.rkey, op.cid)
        for plan in plans
        for op in plan.operations()
    ]
    return sorted(lines, key=lambda line: (line.user, line.item, line.rkey))


def plan_hash(operations: Iterable[PlannedOperation]) -> str:
    """sha-256 (hex) of what would be done, whatever the reasons are called."""
    content = [[op.user, op.item, op.operation, op.rkey, op.cid] for op in operations]
    return sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def cost(plans: Iterable[AccountPlan], now: datetime) -> Cost:
    """Add up what the operations of these plans take."""
    operations = spent = uploads = size = commits = sessions = most = 0
    for plan in plans:
        writes = [op for op in plan.operations() if op.writes]
        waiting = [op for op in plan.operations() if op.kind is Kind.RENDER]
        body = sum(request_bytes(op.to_write()) for op in writes)
        present = plan.repository.blobs() if plan.repository is not None and writes else frozenset()
        blobs = {
            made.blob.cid: made.blob.size
            for op in writes
            if op.record is not None and op.wanted is not None and op.wanted.derived is not None
            for made in op.wanted.derived.renditions.values()
            if made.blob.cid not in present
        }
        own = points(op.to_write() for op in writes) + 3 * len(waiting)
        operations += len(writes) + len(waiting)
        spent += own
        most = max(most, own)
        uploads += len(blobs) + sum(len(op.media.blobs) for op in waiting)
        size += body + sum(blobs.values())
        copies = sum(op.kind is Kind.DELETE_DUPLICATE for op in writes)  # in commits of their own
        others = len(writes) + len(waiting) - copies
        commits += max(-(-others // MAX_OPERATIONS), -(-body // REQUEST_BYTES) if others else 0)
        commits += -(-copies // MAX_OPERATIONS)
        sessions += bool(writes or waiting)
    seconds = operations / RECORDS_PER_SECOND + uploads / BLOBS_PER_SECOND
    limited = max(seconds, max(0, most - POINTS_PER_HOUR) / POINTS_PER_HOUR * 3600)
    return Cost(
        operations,
        spent,
        uploads,
        size,
        commits,
        sessions,
        now + timedelta(seconds=seconds),
        now + timedelta(seconds=limited),
    )
