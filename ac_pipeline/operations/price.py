"""What a wipe or a restore takes of the PDS, said before it starts.

Packed and reckoned as a plan is: commits by `sync/costs.py`, times by `sync/forecast.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ac_pipeline.atproto.messages import points, request_bytes
from ac_pipeline.sync.costs import REQUESTS_A_USER, packed
from ac_pipeline.sync.forecast import SPEED, USUAL, Demand, Forecast
from ac_pipeline.sync.plan import Operation
from ac_pipeline.sync.writer import BatchLimits

_COUNTS = ("operations", "commits", "points", "blobs", "bytes")


@dataclass(frozen=True, slots=True)
class Price:
    """What some operations take.

    Args:
        operations: Records written or deleted.
        commits: Requests that write them.
        points: Write points of the repository.
        blobs: Blobs their records refer to: the most that is uploaded.
        bytes: Of the request bodies and these blobs.
        hours: Hours to wait on a PDS with the usual limits of which nothing is spent; 0 when they are enough.
        waits_for: The limit that binds then.
    """

    operations: int = 0
    commits: int = 0
    points: int = 0
    blobs: int = 0
    bytes: int = 0
    hours: float = 0.0
    waits_for: str = SPEED

    @property
    def sentence(self) -> str:
        """What it takes of the PDS, and how long that is under the usual limits."""
        said = (
            f"It takes {self.operations} writes in {self.commits} commits, {self.points} write points and at most "
            f"{self.blobs} blobs, {self.bytes} bytes in all."
        )
        if self.hours:
            said += f"\nOn a PDS with the usual limits it takes {self.hours:.1f} hours, for {self.waits_for}."
        return said

    def to_json(self) -> dict[str, object]:
        """The counts."""
        return {name: getattr(self, name) for name in _COUNTS}


def price(operations: Sequence[Operation]) -> Price:
    """Add up what these operations of one repository take."""
    commits = [[operation.to_write() for operation in batch] for batch in packed(operations, BatchLimits())]
    blobs = {blob.cid: blob.size for operation in operations for blob in operation.blobs}
    demand = Demand(
        "",
        points=sum(map(points, commits)),
        largest=max(map(points, commits), default=0),
        uploads=len(blobs),
        requests=len(commits) + len(blobs) + REQUESTS_A_USER,
    )
    end = Forecast(USUAL).add(demand)
    return Price(
        len(operations),
        len(commits),
        demand.points,
        len(blobs),
        sum(request_bytes(write) for batch in commits for write in batch) + sum(blobs.values()),
        end.seconds / 3_600 if end.waits_for != SPEED else 0.0,
        end.waits_for,
    )
