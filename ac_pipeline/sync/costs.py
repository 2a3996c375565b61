"""What carrying out plans takes, and when it can be done: arithmetic over one account's plan after another.

Points and caps: ATProto facts, "Limits" and "Writing".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from operator import itemgetter
from typing import NamedTuple

from ac_pipeline.atproto.types import MAX_OPERATIONS, POINTS, Write, erases, points, request_bytes
from ac_pipeline.sync.planning.plan import AccountPlan, Kind, Operation
from ac_pipeline.sync.writing.writer import BatchLimits

RECORDS_PER_SECOND = 1_000
BLOBS_PER_SECOND = 150  # What a PDS on a disk takes without limits, rounded down (ATProto facts, "Writing")

_HOUR, _DAY = 3_600.0, 86_400.0
_UNITS = ((_DAY, "day", "a"), (_HOUR, "hour", "an"), (60.0, "minute", "a"), (1.0, "second", "a"))


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One limit of one bucket: so many points, uploads, requests or events in a window of so many seconds."""

    limit: int
    seconds: float
    left: int | None = None  # What is left of the window that is under way; None when none is
    resets_in: float = 0.0  # Seconds until that one ends

    def __str__(self) -> str:
        length, unit, article = next(each for each in _UNITS if self.seconds >= each[0] or each[0] == 1.0)
        number = self.seconds / length
        return f"{self.limit:,} {f'{article} {unit}' if number == 1 else f'in {number:g} {unit}s'}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one PDS, and the relay that reads it, let through as far as it is known; empty where nothing is."""

    points: tuple[Ceiling, ...] = ()  # Write points of any one DID
    spent: Mapping[str, tuple[Ceiling, ...]] = field(default_factory=dict)  # DID -> the same, where some are spent
    # `uploads` and `requests`: of all users together
    uploads: tuple[Ceiling, ...] = ()
    requests: tuple[Ceiling, ...] = ()
    events: tuple[Ceiling, ...] = ()  # Commits an hour that the relay takes from this PDS, which we keep to
    headroom: float = 0.0  # Share of each DID's points left to its owner (LIMIT-5), 0 to 1

    def named(self) -> list[tuple[str, Ceiling]]:
        """Every limit with what it is about."""
        listed = {WRITE_POINTS: self.points, UPLOADS: self.uploads, REQUESTS: self.requests, EVENTS: self.events}
        return [(name, ceiling) for name, ceilings in listed.items() for ceiling in ceilings]


WRITE_POINTS, UPLOADS, REQUESTS = "write points of one user", "blob uploads", "requests"
EVENTS = "commits the relay takes"
SPEED = "the speed of the PDS"

USUAL = Limits(
    points=(Ceiling(5_000, _HOUR), Ceiling(35_000, _DAY)),
    uploads=(Ceiling(1_000, _DAY),),
    requests=(Ceiling(3_000, 300.0),),
)
"""What the reference PDS limits when its limits are on (ATProto facts, "Limits")."""


class Ending(NamedTuple):
    """When something is done: seconds from now, and what it waits for until then."""

    seconds: float = 0.0
    waits_for: str = SPEED


@dataclass(slots=True)
class _Window:
    ceiling: Ceiling
    usable: int
    left: int
    ends: float | None

    def spend(self, amount: int, now: float) -> None:
        self.left -= amount
        self.ends = now + self.ceiling.seconds if self.ends is None else self.ends


class Timeline:
    """One bucket, spent as fast as its ceilings allow, but for `headroom` (0 to 1); without any, nothing ever waits."""

    def __init__(self, ceilings: Sequence[Ceiling], headroom: float = 0.0) -> None:
        self._now = 0.0
        self._waited: Ceiling | None = None
        self._windows = []
        for each in ceilings:
            kept, begun = int(each.limit * headroom), each.left is not None and each.resets_in > 0
            left = each.left if each.left is not None and begun else each.limit
            ends = each.resets_in if begun else None
            self._windows.append(_Window(each, max(each.limit - kept, 1), left - kept, ends))

    def spend(self, amount: int, unit: int = 1) -> None:
        """Spend so much, in parts of `unit` (the last one smaller) that each fit into a window as a whole."""
        if not self._windows:
            return
        unit = max(1, min([unit, *(window.usable for window in self._windows)]))
        while amount > 0:
            room = min(window.left for window in self._windows)
            taken = amount if room >= amount else max(room, 0) // unit * unit
            if not taken:
                self._wait(min(unit, amount))
                continue
            for window in self._windows:
                window.spend(taken, self._now)
            amount -= taken

    def count(self, amount: int) -> None:
        """Spend so much now, whether it fits or not."""
        for window in self._windows if amount else ():
            window.spend(amount, self._now)

    def ending(self, name: str) -> Ending:
        """When everything that was spent so far is spent."""
        return Ending(self._now, f"{name} ({self._waited})" if self._waited is not None else name)

    def _wait(self, needed: int) -> None:
        """Until the last window has ended into which not even the next part fits."""
        full = [window for window in self._windows if window.left < needed and window.ends is not None]
        last = max(full, key=lambda window: window.ends or 0.0)
        self._now, self._waited = last.ends or self._now, last.ceiling
        for window in self._windows:
            if window.ends is not None and window.ends <= self._now:
                window.left, window.ends = window.usable, None


REQUESTS_A_USER = 2  # Requests besides commits, uploads and a login: the latest commit, and one to spare


@dataclass(frozen=True, slots=True, kw_only=True)
class _Amounts:
    """What plans take, added up."""

    operations: int = 0  # Records written or deleted
    points: int = 0  # Write points
    blob_uploads: int = 0  # Blobs that the repositories do not hold yet
    bytes: int = 0  # Of the request bodies and these blobs, as far as they are known
    commits: int = 0  # Requests that write
    sessions: int = 0  # Logins, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCost(_Amounts):
    """What the operations of one account take."""

    user: str = ""
    did: str = ""
    largest: int = 0  # Points of the largest commit, which fits into a window whole or not at all
    erasing: int = 0  # Commits that delete something: they count in the relay's hour and do not wait for it (LIMIT-9)

    @property
    def requests(self) -> int:
        return self.commits + self.blob_uploads + self.sessions + REQUESTS_A_USER

    @property
    def seconds(self) -> float:
        """What the PDS needs for it without any limit."""
        return self.operations / RECORDS_PER_SECOND + self.blob_uploads / BLOBS_PER_SECOND


class Forecast:
    """Adds users up in the order given: points are each user's own, everything else is shared."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._uploads = Timeline(limits.uploads)
        self._requests = Timeline(limits.requests)
        self._events = Timeline(limits.events)
        self._seconds = 0.0
        self.end = Ending()

    def add(self, cost: UserCost) -> Ending:
        """When this user, who comes after those added before, is done."""
        limits, events = self._limits, cost.commits - cost.erasing
        points = Timeline(limits.spent.get(cost.did, limits.points), limits.headroom)
        points.spend(cost.points, cost.largest)
        self._uploads.spend(cost.blob_uploads)
        self._requests.spend(cost.requests)
        self._events.count(cost.erasing)
        self._events.spend(events)
        self._seconds += cost.seconds
        ends = [Ending(self._seconds), points.ending(WRITE_POINTS), self._requests.ending(REQUESTS)]
        ends += [self._uploads.ending(UPLOADS)] if cost.blob_uploads else []
        ends += [self._events.ending(EVENTS)] if events else []
        ending = max(ends, key=itemgetter(0))
        self.end = max(self.end, ending, key=itemgetter(0))
        return ending


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(_Amounts):
    """What carrying out a plan takes (design, section 6)."""

    finishes_at: datetime  # The earliest end under the limits that are known of this PDS; without any, at its own speed
    waits_for: str  # What binds until then: a limit, or the speed of the PDS
    finishes_limited: datetime  # The same under the limits a PDS has by default when they are on, with the same relay
    limited_by: str

    def to_json(self) -> dict[str, object]:
        ends = {name: getattr(self, name).isoformat() for name in ("finishes_at", "finishes_limited")}
        return {**asdict(self), **ends}


class Bill:
    """Adds up what accounts take, in the order given, from a start `now` (UTC) under the limits that are `known`."""

    def __init__(self, now: datetime, known: Limits) -> None:
        self._now = now
        self._known = Forecast(known)
        self._usual = Forecast(replace(USUAL, events=known.events))
        self._sums = dict.fromkeys((each.name for each in fields(_Amounts)), 0)

    def add(self, cost: UserCost) -> UserBill:
        """One more account that has something to do."""
        for name in self._sums:
            self._sums[name] += getattr(cost, name)
        end = self._known.add(cost)
        self._usual.add(cost)
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
    """
    limits = limits or BatchLimits()
    writes = [operation for operation in plan.operations() if operation.writes]
    waiting = [operation for operation in plan.operations() if operation.kind is Kind.RENDER]
    copies = [operation for operation in writes if operation.kind is Kind.DELETE_DUPLICATE]  # in commits of their own
    others = [operation for operation in writes if operation.kind is not Kind.DELETE_DUPLICATE]
    main, extra = list(packed(others, limits)), list(packed(copies, limits))
    batches = [points(batch) for batch in (*main, *extra)]
    there = {document for made in plan.plans for document in made.matches}
    later = sum(POINTS["update" if op.document and op.document.id in there else "create"] for op in waiting)
    commits = max(len(main), -(-(len(others) + len(waiting)) // MAX_OPERATIONS))
    blobs = _uploads(plan, writes)
    return UserCost(
        user=plan.account.key,
        did=str(plan.account.did),
        operations=len(writes) + len(waiting),
        points=sum(batches) + later,
        blob_uploads=len(blobs) + sum(len(operation.media.blobs) for operation in waiting),
        bytes=_bytes([*main, *extra]) + sum(blobs.values()),
        commits=commits + len(extra),
        sessions=int(bool(writes or waiting)),
        largest=max([*batches, min(later, MAX_OPERATIONS * POINTS["create"])]),
        erasing=sum(map(erases, main)) + len(extra),
    )


def packed(operations: Iterable[Operation], limits: BatchLimits) -> Iterator[list[Write]]:
    """Operations in the commits in which the writer sends them."""
    rest = sorted(operations, key=lambda operation: operation.path)
    while rest:
        batch, rest = limits.pack(rest)
        yield [operation.to_write() for operation in batch]


def _bytes(commits: Iterable[list[Write]]) -> int:
    return sum(request_bytes(write) for commit in commits for write in commit)


def _uploads(plan: AccountPlan, writes: Iterable[Operation]) -> dict[str, int]:
    """CID and size of each blob that these operations refer to and the repository does not."""
    derived = [op.wanted.derived for op in writes if op.record is not None and op.wanted is not None]
    made = {r.blob.cid: r.blob.size for each in derived if each is not None for r in each.renditions.values()}
    if not made or plan.repository is None:
        return made
    present = plan.repository.blobs()
    return {cid: size for cid, size in made.items() if cid not in present}


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(UserCost):
    """What operations of one repository take; `blob_uploads` are all their records refer to: the most there can be."""

    hours: float = 0.0  # To wait on a PDS with the usual limits and nothing spent; 0 when they are enough
    waits_for: str = SPEED

    @property
    def sentence(self) -> str:
        """What it takes of the PDS, and how long that is under the usual limits."""
        said = (
            f"It takes {self.operations} writes in {self.commits} commits, {self.points} write points and at most "
            f"{self.blob_uploads} blobs, {self.bytes} bytes in all."
        )
        if self.hours:
            said += f"\nOn a PDS with the usual limits it takes {self.hours:.1f} hours, for {self.waits_for}."
        return said

    def to_json(self) -> dict[str, object]:
        counts = {name: getattr(self, name) for name in ("operations", "commits", "points")}
        return {**counts, "blobs": self.blob_uploads, "bytes": self.bytes}


def price(operations: Sequence[Operation]) -> Price:
    """Add up what these operations of one repository take."""
    commits = list(packed(operations, BatchLimits()))
    blobs = {blob.cid: blob.size for operation in operations for blob in operation.blobs}
    found = Price(
        operations=len(operations),
        points=sum(map(points, commits)),
        blob_uploads=len(blobs),
        bytes=_bytes(commits) + sum(blobs.values()),
        commits=len(commits),
        largest=max(map(points, commits), default=0),
    )
    end = Forecast(USUAL).add(found)
    return replace(found, hours=end.seconds / _HOUR if end.waits_for != SPEED else 0.0, waits_for=end.waits_for)
