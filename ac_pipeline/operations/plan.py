"""The plan: the dry run of many users, with its cost under the limits that are known, kept under its hash.

One user's plan is in memory for each worker; operations go out as they come (OPS-6). What one user's plan is decided
by is the engine's; carrying a saved plan out is `apply_plan.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Any, Final

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.rate_limits import HOUR, Bucket, commits_key, hour_under_way
from ac_pipeline.errors import NotPermitted, PipelineError
from ac_pipeline.items import PlannedOperation, State
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.plans import KEPT, SHORTEST, MongoPlans
from ac_pipeline.operations.declare import Declaration, LeftOut, Progress, Report, Table, Work, command_line, unwatched
from ac_pipeline.operations.parameters import Parameters, Selected, option
from ac_pipeline.sync.costs import Bill, Ceiling, Cost, Limits, UserBill, UserCost, user_cost
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import PlanHash, Selection, planned
from ac_pipeline.sync.writing.writer import REQUEST_BYTES, BatchLimits
from ac_pipeline.wiring import Pipeline

SLOWEST = 10
"""Users that a plan names of those that take longest."""


@dataclass(slots=True)
class DryRun:
    """A dry run's sums; its operations went to the listener.

    Args:
        users: How many users have operations.
        counts: Kind of operation -> how many.
        slowest: The users who are done last.
        blocked: User -> why nothing can be done.
        notes: User and what a person may want to know.
        limits: What is known of the PDS's limits.
        saved: True if it is kept, to be carried out later.
        orphans_kept: Type -> records without a document that stay because the database is doubted.
        quarantined: Class -> items that cannot be published as they are; what there is of them stays.
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
    quarantined: Counter[str] = field(default_factory=Counter)
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
            "quarantined": dict(self.quarantined),
            "saved": self.saved,
        }


_Survey = tuple[list[PlannedOperation], UserCost, AccountReport]
"""What is kept of one user's dry run."""


def dry_run(
    engine: Engine,
    accounts: Sequence[Account],
    selection: Selection,
    *,
    limits: Limits,
    workers: int,
    plans: MongoPlans | None = None,
    chosen: Sequence[Account] | None = None,
    take: Callable[[PlannedOperation, UserBill], None] = lambda operation, bill: None,
    progress: Progress = unwatched,
) -> DryRun:
    """Plan these users, one after another in their order.

    Args:
        limits: Under which the finishing time is reckoned.
        plans: Where the plan is kept, or None.
        chosen: The accounts that were named; None when the plan is about whoever there is.
        take: Is passed every operation, with what its user's cost.

    Raises:
        ServiceUnreachable: A service is down: there is no plan.
    """
    caps = BatchLimits(request_bytes=engine.ledger.batch_bytes(engine.host, REQUEST_BYTES))

    def survey(account: Account) -> _Survey:
        plan, report = engine.survey(account, selection)
        if report.blocked is not None:  # what cannot be done is no work
            plan.plans = []
        return planned([plan]), user_cost(plan, caps), report

    digest, bill = PlanHash(), Bill(engine.now(), limits)
    draft = plans.draft() if plans is not None else None
    made, touched = DryRun("", bill.total(), limits=limits), list[str]()
    surveys: Iterable[tuple[Account, _Survey | PipelineError]] = for_accounts(
        accounts, survey, workers, unread, ordered=True
    )
    for account, found in progress(surveys, len(accounts)):
        if isinstance(found, PipelineError):
            made.unread[account.key] = found
            continue
        operations, cost, report = found
        made.notes += [(account.key, note) for note in report.notes]
        made.orphans_kept.update(orphans_kept(report))
        made.quarantined.update(each.error_class for each in report.failures if each.state is State.QUARANTINED)
        if report.blocked is not None:
            made.blocked[account.key] = report.blocked.message
        if not operations:
            continue
        touched.append(account.id)
        priced = bill.add(cost) if cost.operations else UserBill(cost, engine.now(), "")
        made.slowest.append(priced)
        made.slowest = nlargest(SLOWEST, made.slowest, key=lambda bill: (bill.finishes_at, bill.cost.points))
        for each in operations:
            digest.add(each)
            made.counts[each.operation] += 1
            if draft is not None:
                draft.add(replace(each, account=account.id))
            take(each, priced)
    made.hash, made.cost, made.users = digest.hexdigest(), bill.total(), len(touched)
    if plans is not None and draft is not None and touched:
        with suppress(NotPermitted):  # PROD-3: a user who may only read sees a plan that is not kept
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


def orphans_kept(report: AccountReport) -> dict[str, int]:
    """Type name -> records without a document that stay because the database is doubted."""
    return {name: tally.orphans_kept for name, tally in report.types.items() if tally.orphans_kept}


OPERATION_COLUMNS = ("item", "user", "operation", "reason", "rkey", "cid")


def plan_report(made: DryRun, operations: Table, by_user: Sequence[UserBill] = (), kept: Sequence[str] = ()) -> Report:
    """The answer of a dry run: its operations, what they cost, and how it is carried out.

    Args:
        kept: What is to be said of records without a document that stay because the database is doubted.
    """
    cost, limits = made.cost, made.limits.named()
    lines = [*kept, *(f"{user}: {note}" for user, note in made.notes)]
    whose = f" of all but the {len(made.blocked)} blocked users" if made.blocked else ""
    headline = f"Nothing to do. Every record and link{whose} is as it should be."
    if made.quarantined:
        headline = "Nothing to do."
        classes = ", ".join(f"{name} {number}" for name, number in sorted(made.quarantined.items()))
        lines.append(f"Items that cannot be published as they are: {classes}. `ac-pipeline verify --json` names them.")
    if operations.count:
        headline = f"{operations.count} operations of {made.users} users. Nothing was written."
    if made.saved:
        lines.append(f"To do exactly this: ac-pipeline sync --plan {made.hash[:12]}")
    amounts = Table.of("cost", ("what", "amount"), _amounts(made), "Cost")
    title = f"Blocked users, of whom nothing is planned: {len(made.blocked)}"
    blocked = Table.of("blocked_users", ("user", "message"), made.blocked.items(), title)
    slowest = Table("users_who_take_longest", _USER, "Users who take longest")
    slowest.extend(bill.to_json() for bill in (made.slowest if len(made.slowest) > 1 else ()))
    return Report(
        headline,
        {**made.to_json(), "by_user": [bill.to_json() for bill in by_user], "operations": operations},
        [operations, *([amounts, slowest] if operations.count else ()), blocked],
        {
            "hash": made.hash[:12],
            "operations": operations.count,
            "users": made.users,
            "finishes_at": f"{cost.finishes_at:%Y-%m-%d %H:%M} UTC" + ("" if limits else ", no limit is known"),
            "waits_for": cost.waits_for,
            **{f"{kind} operations": number for kind, number in sorted(made.counts.items())},
            **{f"{name} records kept without a document": kept for name, kept in sorted(made.orphans_kept.items())},
        },
        lines,
        [LeftOut(user, error) for user, error in made.unread.items()],
    )


_USER = ("user", "operations", "points", "blob_uploads", "commits", "finishes_at", "waits_for")


def _amounts(made: DryRun) -> list[tuple[str, str]]:
    """Amounts, when it ends and what binds, under the limits that are known and the usual ones."""
    cost, limits = made.cost, made.limits.named()
    lines = [
        ("users with something to do", f"{made.users:,}"),
        *((f"operations: {name}", f"{number:,}") for name, number in sorted(made.counts.items())),
        ("write points", f"{cost.points:,}"),
        ("blob uploads", f"{cost.blob_uploads:,}"),
        ("bytes", f"{cost.bytes:,}"),
        ("commits", f"{cost.commits:,}"),
        ("logins, at most", f"{cost.sessions:,}"),
        *((f"limit: {what}", str(ceiling)) for what, ceiling in limits),
    ]
    if made.limits.points and made.limits.headroom:
        lines.append(("left to the users themselves", f"{made.limits.headroom:.0%} of their points"))
    known = "under the limits known" if limits else "no limit is known of this PDS"
    return [
        *lines,
        ("finished at the earliest (UTC)", f"{cost.finishes_at:%Y-%m-%d %H:%M:%S}, {known}"),
        ("what it waits for", cost.waits_for),
        ("with the usual limits on (UTC)", f"{cost.finishes_limited:%Y-%m-%d %H:%M:%S}, waits for {cost.limited_by}"),
    ]


class PlanParameters(Selected):
    """What to plan."""

    sweep: bool = option(False, "Plan to delete records without a document although the database is doubted.")
    relay_events: int | None = option(
        None,
        "Reckon with a relay that takes so many commits an hour, 0 for none. Left out: AC_RELAY_COMMITS_PER_HOUR, "
        "which syncs keep to.",
        metavar="N",
        ge=0,
    )


def run_plan(work: Work, parameters: PlanParameters) -> Report:
    """The dry run: every operation of a sync with its reason, and what it costs. Nothing is written to the PDS, to
    the documents or to storage.

    The plan is kept under its hash: `ac-pipeline sync --plan HASH` carries out exactly these operations.
    """
    return make_plan(
        work,
        parameters.accounts(work.pipeline),
        parameters.selection(sweep=0 if parameters.sweep else None),
        everybody=parameters.everybody,
        swept=lambda types, number: command_line("sync", parameters, types=types, sweep=number),
        relay=parameters.relay_events,
    )


def make_plan(
    work: Work,
    accounts: Sequence[Account],
    selection: Selection,
    *,
    everybody: bool,
    swept: Callable[[list[str], int], str],
    relay: int | None = None,
) -> Report:
    """Plan, keep the plan under its hash, and say what it costs. Operations go to a file as they come (OPS-6).

    Args:
        swept: The command that deletes so many records of these types although the database is doubted.
        relay: As for `known_limits`.
    """
    pipeline, bills = work.pipeline, dict[str, UserBill]()
    operations = Table("operations", OPERATION_COLUMNS, "Plan (nothing was written)")

    def take(operation: PlannedOperation, bill: UserBill) -> None:
        operations.add(operation.to_json())
        bills[operation.user] = bill

    made = dry_run(
        pipeline.engine,
        accounts,
        selection,
        limits=known_limits(pipeline, relay),
        workers=pipeline.settings.ac_concurrent_users,
        plans=pipeline.plans,
        chosen=None if everybody else accounts,
        take=take,
        progress=work.watch("Planning"),
    )
    return plan_report(made, operations, list(bills.values()), kept_lines(made.orphans_kept, swept))


def kept_lines(kept: Mapping[str, int], swept: Callable[[list[str], int], str]) -> list[str]:
    """How many records without a document stay because the database is doubted, and how they would go."""
    number = sum(kept.values())
    if not number:
        return []
    said = f"{number} records without a document are kept, because the database is doubted. If they shall go:"
    return [said, "", f"  {swept([name for name, each in kept.items() if each], number)}", ""]


PLAN: Final = Declaration(
    "plan", "plan_users", "plan_each_user", PlanParameters, run_plan, csv="operations", asset="flight_plan"
)


class PlansParameters(Parameters):
    """How many plans to show."""

    limit: int = option(KEPT, "The newest so many.", metavar="N", ge=1, le=KEPT)


def run_plans(work: Work, parameters: PlansParameters) -> Report:
    """List the plans that are kept, newest first; `ac-pipeline sync --plan HASH` carries one out."""
    found = work.pipeline.plans.list(parameters.limit)
    table = Table("plans", ("plan", "made", "who", "users", "operations", "points", "finishes_at"))
    for each in found:
        table.add(
            {
                "plan": each.hash[:SHORTEST],
                "made": f"{each.when:%Y-%m-%d %H:%M:%S}",
                "who": each.who,
                "users": each.users,
                "operations": ", ".join(f"{name} {number}" for name, number in each.counts.items()),
                "points": each.cost.get("points"),
                "finishes_at": each.cost.get("finishes_at"),
            }
        )
    return Report(f"{len(found)} plans.", [each.to_json() for each in found], [table])


PLANS: Final = Declaration("plans", "list_plans", "list_kept_plans", PlansParameters, run_plans)
