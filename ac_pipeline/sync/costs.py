"""What carrying out plans takes: operations, points, uploads, bytes, commits, sessions, and when it can be done.

Pure arithmetic over one account's plan after another; nothing of a plan is kept. The lines of a plan are
`agreement.py`, the windows of limits `forecast.py`. Points and caps: ATProto facts, "Limits" and "Writing".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ac_pipeline.atproto.budget import erases
from ac_pipeline.atproto.messages import MAX_OPERATIONS, POINTS, points, request_bytes
from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.forecast import BLOBS_PER_SECOND, RECORDS_PER_SECOND, USUAL, Demand, Forecast, Limits
from ac_pipeline.sync.plan import Kind, Operation
from ac_pipeline.sync.writer import BatchLimits

REQUESTS_A_USER = 2
"""Requests of a user's turn besides commits, uploads and a login: the latest commit, and one to spare."""


@dataclass(frozen=True, slots=True)
class UserCost:
    """What one account's plan takes.

    Args:
        operations: Records written or deleted.
        points: Write points of its repository.
        blob_uploads: Blobs that the repository does not hold yet.
        bytes: Of the request bodies and these blobs, as far as they are known.
        commits: Requests that write.
        sessions: Logins, at most.
        largest: Points of the largest commit.
        erasing: Commits that delete something, which the relay's hour does not hold back (LIMIT-9).
    """

    user: str
    did: str
    operations: int = 0
    points: int = 0
    blob_uploads: int = 0
    bytes: int = 0
    commits: int = 0
    sessions: int = 0
    largest: int = 0
    erasing: int = 0

    def demand(self) -> Demand:
        return Demand(
            self.did,
            self.points,
            self.largest,
            self.blob_uploads,
            self.commits + self.blob_uploads + self.sessions + REQUESTS_A_USER,
            self.commits - self.erasing,
            self.erasing,
            self.operations / RECORDS_PER_SECOND + self.blob_uploads / BLOBS_PER_SECOND,
        )


@dataclass(frozen=True, slots=True)
class UserBill:
    """One account's cost, and when it is done at the earliest, those before it included."""

    cost: UserCost
    finishes_at: datetime
    waits_for: str

    def to_json(self) -> dict[str, object]:
        names = ("user", "operations", "points", "blob_uploads", "bytes", "commits")
        counts = {name: getattr(self.cost, name) for name in names}
        return {**counts, "finishes_at": self.finishes_at.isoformat(), "waits_for": self.waits_for}


@dataclass(frozen=True, slots=True)
class Cost:
    """What carrying out a plan takes (design, section 6).

    Args:
        finishes_at: The earliest end under the limits that are known of this PDS; without any, at its own speed.
        waits_for: What binds until then: a limit, or the speed of the PDS.
        finishes_limited: The same under the limits a PDS has by default when they are on, with the same relay.
        limited_by: What would bind until then.
    """

    operations: int
    points: int
    blob_uploads: int
    bytes: int
    commits: int
    sessions: int
    finishes_at: datetime
    waits_for: str
    finishes_limited: datetime
    limited_by: str

    def to_json(self) -> dict[str, object]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


class Bill:
    """Adds up what accounts take, in the order of their turns.

    Args:
        now: When it would start, UTC.
        known: The limits that are known.
    """

    def __init__(self, now: datetime, known: Limits) -> None:
        self._now = now
        self._known = Forecast(known)
        self._usual = Forecast(replace(USUAL, events=known.events))
        self._sums = dict.fromkeys(("operations", "points", "blob_uploads", "bytes", "commits", "sessions"), 0)

    def add(self, cost: UserCost) -> UserBill:
        """One more account that has something to do."""
        for name in self._sums:
            self._sums[name] += getattr(cost, name)
        end = self._known.add(cost.demand())
        self._usual.add(cost.demand())
        return UserBill(cost, self._now + timedelta(seconds=end.seconds), end.waits_for)

    def total(self) -> Cost:
        known, usual = self._known.end, self._usual.end
        return Cost(
            **self._sums,
            finishes_at=self._now + timedelta(seconds=known.seconds),
            waits_for=known.waits_for,
            finishes_limited=self._now + timedelta(seconds=usual.seconds),
            limited_by=usual.waits_for,
        )


def user_cost(plan: AccountPlan, limits: BatchLimits | None = None) -> UserCost:
    """What the operations of one account's plan take, packed as the writer packs them.

    A record whose rendition is still to be made is counted with its points and blobs; its bytes are not known.

    Args:
        limits: Caps of a batch; the reference PDS's when None.
    """
    limits = limits or BatchLimits()
    writes = [operation for operation in plan.operations() if operation.writes]
    waiting = [operation for operation in plan.operations() if operation.kind is Kind.RENDER]
    copies = [operation for operation in writes if operation.kind is Kind.DELETE_DUPLICATE]  # in commits of their own
    others = [operation for operation in writes if operation.kind is not Kind.DELETE_DUPLICATE]
    main = list(packed(others, limits))
    batches = [_points(batch) for batch in main]
    later = sum(_later(plan, operation) for operation in waiting)
    commits = max(len(batches), -(-(len(others) + len(waiting)) // MAX_OPERATIONS))
    largest = max([*batches, min(later, MAX_OPERATIONS * POINTS["create"])])
    extra = [_points(batch) for batch in packed(copies, limits)]
    blobs = _uploads(plan, writes)
    return UserCost(
        plan.account.key,
        str(plan.account.did),
        len(writes) + len(waiting),
        sum(batches) + sum(extra) + later,
        len(blobs) + sum(len(operation.media.blobs) for operation in waiting),
        sum(request_bytes(operation.to_write()) for operation in writes) + sum(blobs.values()),
        commits + len(extra),
        int(bool(writes or waiting)),
        max([largest, *extra]),
        sum(erases(operation.to_write() for operation in batch) for batch in main) + len(extra),
    )


def cost(plans: Iterable[AccountPlan], now: datetime, known: Limits | None = None) -> Cost:
    """Add up what the operations of these plans take."""
    bill = Bill(now, known or Limits())
    for plan in plans:
        price = user_cost(plan)
        if price.operations:
            bill.add(price)
    return bill.total()


def packed(operations: Iterable[Operation], limits: BatchLimits) -> Iterator[list[Operation]]:
    """Operations in the commits in which the writer sends them."""
    rest = sorted(operations, key=lambda operation: operation.path)
    while rest:
        batch, rest = limits.pack(rest)
        yield batch


def _points(batch: Iterable[Operation]) -> int:
    return points(operation.to_write() for operation in batch)


def _later(plan: AccountPlan, operation: Operation) -> int:
    """Points of a record whose rendition is still to be made: whether it exists is known."""
    document = operation.document
    there = document is not None and any(document.id in made.matches for made in plan.plans)
    return POINTS["update" if there else "create"]


def _uploads(plan: AccountPlan, writes: Iterable[Operation]) -> dict[str, int]:
    """CID and size of each blob that these operations refer to and the repository does not."""
    derived = [op.wanted.derived for op in writes if op.record is not None and op.wanted is not None]
    made = {r.blob.cid: r.blob.size for each in derived if each is not None for r in each.renditions.values()}
    if not made or plan.repository is None:
        return made
    present = plan.repository.blobs()
    return {cid: size for cid, size in made.items() if cid not in present}
