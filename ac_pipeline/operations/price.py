"""What a wipe or a restore takes of the PDS, said before it starts. A sync's cost is `sync/costs.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ac_pipeline.atproto.batches import MAX_OPERATIONS, points, request_bytes
from ac_pipeline.sync.costs import POINTS_PER_HOUR
from ac_pipeline.sync.plan import Operation
from ac_pipeline.sync.writer import REQUEST_BYTES


@dataclass(frozen=True, slots=True)
class Price:
    """What some operations take.

    Args:
        operations: Records written or deleted.
        commits: Requests that write them.
        points: Write points of the repository.
        blobs: Blobs their records refer to: the most that is uploaded.
        bytes: Of the request bodies and these blobs.
    """

    operations: int = 0
    commits: int = 0
    points: int = 0
    blobs: int = 0
    bytes: int = 0

    @property
    def hours(self) -> float:
        """Hours to wait for write points on a PDS that grants what is usual; 0 when they are enough."""
        return max(0, self.points - POINTS_PER_HOUR) / POINTS_PER_HOUR

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


def price(operations: Sequence[Operation]) -> Price:
    """Add up what these operations take."""
    writes = [operation.to_write() for operation in operations]
    body = sum(map(request_bytes, writes))
    blobs = {blob.cid: blob.size for operation in operations for blob in operation.blobs}
    commits = max(-(-len(writes) // MAX_OPERATIONS), -(-body // REQUEST_BYTES))
    return Price(len(writes), commits, points(writes), len(blobs), body + sum(blobs.values()))
