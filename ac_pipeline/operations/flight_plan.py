"""The flight plan: the dry run of many users, with its cost under the limits that are known, kept under its hash.

One user's plan is in memory for each worker; operations go out as they come (OPS-6). What one user's plan is decided
by is the engine's; carrying a saved plan out is `agreed_sync.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.buckets import Bucket
from ac_pipeline.atproto.pace import HOUR, commits_key, hour_under_way
from ac_pipeline.errors import PipelineError
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.plans import Draft, Line, SavedPlan
from ac_pipeline.operations.rounds import Progress, unwatched
from ac_pipeline.sync.agreement import PlanHash, PlannedOperation, planned
from ac_pipeline.sync.costs import Bill, Cost, UserBill, UserCost, user_cost
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.forecast import Ceiling, Limits
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writer import REQUEST_BYTES, BatchLimits
from ac_pipeline.wiring import Pipeline

SLOWEST = 10
"""Users that a plan names of those that take longest."""


class Plans(Protocol):
    """Where plans are kept."""

    def draft(self) -> Draft:
        """A new plan's operations."""

    def save(
        self,
        draft: Draft,
        *,
        hash: str,
        selection: Mapping[str, Any],
        cost: Mapping[str, Any],
        counts: Mapping[str, int],
        accounts: tuple[str, ...],
    ) -> SavedPlan:
        """Make a draft the plan of this hash."""


@dataclass(slots=True)
class FlightPlan:
    """A dry run's sums; its operations went to the listener.

    Args:
        hash: Of all operations.
        users: How many users have operations.
        counts: Kind of operation -> how many.
        slowest: The users who are done last.
        blocked: User -> why nothing can be done.
        notes: User and what a person may want to know.
        limits: What is known of the PDS's limits.
        saved: Whether it is kept, to be carried out later.
        orphans_kept: Type -> records without a document that stay because the database is doubted.
        unread: User -> the error for which nothing is planned for them.
    """

    hash: str
    cost: Cost
    users: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    slowest: list[UserBill] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    saved: bool = False
    orphans_kept: Counter[str] = field(default_factory=Counter)
    unread: dict[str, PipelineError] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As design section 6 has it, without the operations."""
        return {
            "hash": self.hash,
            "cost": self.cost.to_json(),
            "counts": dict(self.counts),
            "users": self.users,
            "slowest": [bill.to_json() for bill in self.slowest],
            "limits": [{"what": what, "limit": str(ceiling)} for what, ceiling in self.limits.named()],
            "headroom": self.limits.headroom,
            "blocked": [{"user": user, "message": message} for user, message in self.blocked.items()],
            "unread": [
                {"user": user, "class": error.code, "message": error.message} for user, error in self.unread.items()
            ],
            "notes": [{"user": user, "note": note} for user, note in self.notes],
            "orphans_kept": dict(self.orphans_kept),
            "saved": self.saved,
        }


@dataclass(frozen=True, slots=True)
class _Survey:
    """What is kept of one user's dry run."""

    lines: list[PlannedOperation]
    cost: UserCost
    report: AccountReport


def draw_up(
    engine: Engine,
    accounts: Sequence[Account],
    selection: Selection,
    *,
    limits: Limits,
    workers: int,
    plans: Plans | None = None,
    chosen: Sequence[Account] | None = None,
    take: Callable[[PlannedOperation, UserBill], None] = lambda operation, bill: None,
    progress: Progress = unwatched,
) -> FlightPlan:
    """Plan these users, one after another in their order.

    Args:
        limits: Under which the finishing time is reckoned.
        plans: Where the plan is kept, or None.
        chosen: The accounts that were named; None when the plan is about whoever there is.
        take: Told every operation, with what its user's take.
        progress: Passes the users on.

    Raises:
        ServiceUnreachable: A service is down: there is no plan.
    """
    caps = BatchLimits(request_bytes=engine.ledger.batch_bytes(engine.host, REQUEST_BYTES))

    def survey(account: Account) -> _Survey:
        plan, report = engine.survey(account, selection)
        if report.blocked is not None:  # what cannot be done is no work
            plan.plans = []
        return _Survey(planned([plan]), user_cost(plan, caps), report)

    digest, bill = PlanHash(), Bill(engine.now(), limits)
    draft = plans.draft() if plans is not None else None
    made = FlightPlan("", bill.total(), limits=limits)
    touched: list[str] = []
    surveys: Iterable[tuple[Account, _Survey | PipelineError]] = for_accounts(
        accounts, survey, workers, unread, ordered=True
    )
    for account, found in progress(surveys, len(accounts)):
        if isinstance(found, PipelineError):
            made.unread[account.key] = found
            continue
        made.notes += [(account.key, note) for note in found.report.notes]
        kept = {name: tally.orphans_kept for name, tally in found.report.types.items() if tally.orphans_kept}
        made.orphans_kept.update(kept)
        if found.report.blocked is not None:
            made.blocked[account.key] = found.report.blocked.message
        if not found.lines:
            continue
        touched.append(account.id)
        priced = bill.add(found.cost) if found.cost.operations else UserBill(found.cost, engine.now(), "")
        made.slowest = sorted([*made.slowest, priced], key=_by_time, reverse=True)[:SLOWEST]
        for each in found.lines:
            digest.add(each)
            made.counts[each.operation] += 1
            if draft is not None:
                draft.add(_stored(account, each))
            take(each, priced)
    made.hash, made.cost, made.users = digest.hexdigest(), bill.total(), len(touched)
    if plans is not None and draft is not None and touched:
        plans.save(
            draft,
            hash=made.hash,
            selection=selection_to_json(selection, chosen),
            cost=made.cost.to_json(),
            counts=made.counts,
            accounts=tuple(touched),
        )
        made.saved = True
    return made


def learned_limits(
    buckets: Iterable[tuple[str, Bucket]], host: str, now: float, *, headroom: float, relay: int = 0
) -> Limits:
    """What answers of the PDS have taught, as limits of a forecast.

    What was learned of one DID holds for all of them: the policies are those of the bucket that was renewed last.

    Args:
        buckets: All that is known, by key.
        host: Of the PDS.
        now: Epoch seconds.
        headroom: Share of each DID's points left to its owner.
        relay: Commits an hour that the relay takes; 0 for no such limit.
    """
    spent: dict[str, tuple[Ceiling, ...]] = {}
    shared: dict[str, tuple[Ceiling, ...]] = {}
    newest = 0.0
    points: tuple[Ceiling, ...] = ()
    events = (Ceiling(relay, HOUR),) if relay else ()
    names = {host: "requests", f"{host} uploadBlob": "uploads"}
    for key, bucket in buckets:
        ceilings = tuple(
            Ceiling(window.limit, window.length, window.remaining, window.reset - now)
            if window.reset > now
            else Ceiling(window.limit, window.length)
            for _, window in sorted(bucket.windows.items())
        )
        if key in names:
            shared[names[key]] = ceilings
        hour = hour_under_way(bucket, relay, now) if key == commits_key(host) else None
        if hour is not None and relay:
            events = (Ceiling(relay, HOUR, hour.remaining, hour.reset - now),)
        if not key.startswith("did:") or not ceilings:
            continue
        if any(each.left is not None for each in ceilings):
            spent[key] = ceilings
        renewed = max(window.reset for window in bucket.windows.values())
        if renewed > newest:
            newest, points = renewed, tuple(replace(each, left=None, resets_in=0.0) for each in ceilings)
    return Limits(points, spent, shared.get("uploads", ()), shared.get("requests", ()), events, headroom)


def known_limits(pipeline: Pipeline, relay: int | None = None) -> Limits:
    """The limits of the pipeline's PDS as they are known now; with a bypass key none of its own holds.

    Args:
        relay: Commits an hour that a relay takes, 0 for none; None for what a sync keeps to.

    Raises:
        Transient: They could not be read.
    """
    settings, host = pipeline.settings, pipeline.engine.host
    bypassed = settings.pds_rate_limit_bypass_key is not None
    now = pipeline.engine.now().timestamp()
    return learned_limits(
        ((key, each) for key, each in pipeline.budgets.buckets() if not bypassed or key == commits_key(host)),
        host,
        now,
        headroom=0.0 if bypassed else settings.ac_points_headroom,
        relay=settings.ac_relay_commits_per_hour if relay is None else relay,
    )


def selection_to_json(selection: Selection, chosen: Sequence[Account] | None) -> dict[str, Any]:
    """A selection as it is kept with its plan."""
    return {
        "accounts": None if chosen is None else [account.id for account in chosen],
        "types": [media.name for media in selection.types],
        "since": selection.since,
        "until": selection.until,
        "items": None if selection.items is None else [list(each) for each in sorted(selection.items)],
        "limit": selection.limit,
        "sweep": selection.sweep is not None,
    }


def selection_of(stored: Mapping[str, Any]) -> Selection:
    """The selection that a plan was made of."""
    items = stored["items"]
    return Selection(
        types=tuple(media for media in MEDIA_TYPES if media.name in stored["types"]),
        since=stored["since"],
        until=stored["until"],
        items=None if items is None else frozenset((type_, name) for type_, name in items),
        limit=stored["limit"],
        sweep=0 if stored["sweep"] else None,  # a dry run takes any number for enough; to carry it out needs its own
    )


def operation_of(stored: Line) -> PlannedOperation:
    """A saved line as the plan had it."""
    return PlannedOperation(
        stored.item, stored.user, stored.operation, stored.reason, stored.rkey, stored.cid, stored.fingerprint
    )


def _stored(account: Account, each: PlannedOperation) -> Line:
    return Line(account.id, each.item, each.user, each.operation, each.reason, each.rkey, each.cid, each.fingerprint)


def _by_time(bill: UserBill) -> tuple[datetime, int]:
    return bill.finishes_at, bill.cost.points
