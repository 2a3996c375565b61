"""The plan: the dry run of many users, with its cost under the limits that are known, kept under its hash; and how a
saved plan is carried out: what is still as it was planned is done, what has moved since is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from heapq import nlargest
from itertools import groupby
from typing import Any

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.rate_limits import HOUR, Bucket, commits_key, hour_under_way
from ac_pipeline.errors import Misconfigured, NotPermitted, PipelineError
from ac_pipeline.items import PlannedOperation, State, item_id
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.mongo.ledger.plans import KEPT, SHORTEST, MongoPlans, SavedPlan
from ac_pipeline.operations.declare import LeftOut, Progress, Report, Table, Work, command_line, declared, unwatched
from ac_pipeline.operations.parameters import Parameters, Selected, option
from ac_pipeline.sync.costs import Bill, Ceiling, Cost, Limits, UserBill, UserCost, user_cost
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.planning.plan import BESIDE, COPIES, ERASES, AccountPlan, Kind
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Agreement, PlanHash, Selection, line, planned
from ac_pipeline.sync.writing.writer import REQUEST_BYTES, BatchLimits
from ac_pipeline.wiring import Pipeline

SLOWEST = 10  # Users that a plan names of those that take longest


@dataclass(slots=True)
class DryRun:
    """A dry run's sums, and its operations in a table."""

    hash: str
    cost: Cost
    operations: Table
    limits: Limits  # What is known of the PDS's limits
    users: int = 0  # How many users have operations
    counts: Counter[str] = field(default_factory=Counter)  # Kind of operation -> how many
    by_user: list[UserBill] = field(default_factory=list)  # Of the users who have operations
    blocked: dict[str, str] = field(default_factory=dict)  # User -> why nothing can be done
    notes: list[tuple[str, str]] = field(default_factory=list)  # User and what a person may want to know
    saved: bool = False  # True if it is kept, to be carried out later
    # Type -> records without a document that stay because the database is doubted
    orphans_kept: Counter[str] = field(default_factory=Counter)
    # Class -> items that cannot be published as they are; what there is of them stays
    quarantined: Counter[str] = field(default_factory=Counter)
    # User -> the error for which nothing is planned for them
    unread: dict[str, PipelineError] = field(default_factory=dict)

    @property
    def slowest(self) -> list[UserBill]:
        return nlargest(SLOWEST, self.by_user, key=lambda bill: (bill.finishes_at, bill.cost.points))

    def to_json(self) -> dict[str, object]:
        """As design section 6 has it."""
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
            "by_user": [bill.to_json() for bill in self.by_user],
            "operations": self.operations,
        }


_Survey = tuple[list[PlannedOperation], UserCost, AccountReport]  # What is kept of one user's dry run


def dry_run(
    engine: Engine,
    accounts: Sequence[Account],
    selection: Selection,
    *,
    limits: Limits,  # Under which the finishing time is reckoned
    workers: int,
    plans: MongoPlans | None = None,  # Where the plan is kept
    chosen: Sequence[Account] | None = None,  # Those that were named; None when the plan is about whoever there is
    title: str = "Plan (nothing was written)",  # Of the table of operations
    progress: Progress = unwatched,
) -> DryRun:
    """Plan these users, one after another in their order; operations go to a file as they come (OPS-6). Raises
    ServiceUnreachable: a service is down, and there is no plan."""
    caps = BatchLimits(request_bytes=engine.ledger.batch_bytes(engine.host, REQUEST_BYTES))

    def survey(account: Account) -> _Survey:
        plan, report = engine.survey(account, selection)
        if report.blocked is not None:  # what cannot be done is no work
            plan.plans = []
        return planned([plan]), user_cost(plan, caps), report

    digest, bill = PlanHash(), Bill(engine.now(), limits)
    draft = plans.draft() if plans is not None else None
    table = Table("operations", ("item", "user", "operation", "reason", "rkey", "cid"), title)
    made, touched = DryRun("", bill.total(), table, limits), list[str]()
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
        made.by_user.append(bill.add(cost) if cost.operations else UserBill(cost, engine.now(), ""))
        for each in operations:
            digest.add(each)
            made.counts[each.operation] += 1
            if draft is not None:
                draft.add(replace(each, account=account.id))
            made.operations.add(each.to_json())
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
    """What answers of the PDS have taught, as limits of a forecast at this moment (epoch seconds). What was learned of
    one DID holds for all of them: the policies are those of the bucket that was renewed last. `headroom` is the share
    of each DID's points left to its owner, `relay` the commits an hour that the relay takes, 0 for no such limit."""
    known = dict(buckets)
    ceilings = {
        key: tuple(
            Ceiling(window.limit, window.length, window.remaining, window.reset - now)
            if window.reset > now
            else Ceiling(window.limit, window.length)
            for _, window in sorted(bucket.windows.items())
        )
        for key, bucket in known.items()
    }
    commits = known.get(commits_key(host))
    hour = hour_under_way(commits, relay, now) if relay and commits is not None else None
    full = Ceiling(relay, HOUR) if hour is None else Ceiling(relay, HOUR, hour.remaining, hour.reset - now)
    users = {key: each for key, each in ceilings.items() if key.startswith("did:") and each}
    newest = max(users, key=lambda key: max(window.reset for window in known[key].windows.values()), default="")
    return Limits(
        tuple(replace(each, left=None, resets_in=0.0) for each in users.get(newest, ())),
        {key: each for key, each in users.items() if any(one.left is not None for one in each)},
        ceilings.get(f"{host} uploadBlob", ()),
        ceilings.get(host, ()),
        (full,) if relay else (),
        headroom,
    )


def known_limits(pipeline: Pipeline, relay: int | None = None) -> Limits:
    """The limits of the pipeline's PDS as they are known now; with a bypass key none of its own holds. `relay`: commits
    an hour that a relay takes, 0 for none; None for what a sync keeps to."""
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
    return {name: tally.orphans_kept for name, tally in report.types.items() if tally.orphans_kept}


def plan_report(made: DryRun, kept: Sequence[str] = ()) -> Report:
    """The answer of a dry run: its operations, what they cost, and how it is carried out; `kept` is what is to be said
    of records without a document that stay because the database is doubted."""
    cost, limits, operations = made.cost, made.limits.named(), made.operations
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
        made.to_json(),
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
    sweep: bool = option(False, "Plan to delete records without a document although the database is doubted.")
    relay_events: int | None = option(
        None,
        "Reckon with a relay that takes so many commits an hour, 0 for none. Left out: AC_RELAY_COMMITS_PER_HOUR, "
        "which syncs keep to.",
        metavar="N",
        ge=0,
    )


@declared("plan", "plan_users", "plan_each_user", csv="operations", asset="flight_plan")
def run_plan(work: Work, parameters: PlanParameters) -> Report:
    """The dry run: every operation of a sync with its reason, and what it costs. Nothing is written to the PDS, to
    the documents or to storage.

    The plan is kept under its hash: `ac-pipeline sync --plan HASH` carries out exactly these operations.
    """
    selection = parameters.selection(sweep=0 if parameters.sweep else None)
    return make_plan(work, parameters, parameters.accounts(work.pipeline), selection, parameters.relay_events)


def make_plan(
    work: Work, parameters: Selected, accounts: Sequence[Account], selection: Selection, relay: int | None = None
) -> Report:
    """Plan, keep the plan under its hash, and say what it costs; `relay` is as for `known_limits`."""
    pipeline = work.pipeline
    made = dry_run(
        pipeline.engine,
        accounts,
        selection,
        limits=known_limits(pipeline, relay),
        workers=pipeline.settings.ac_concurrent_users,
        plans=pipeline.plans,
        chosen=None if parameters.everybody else accounts,
        progress=work.watch("Planning"),
    )
    return plan_report(made, kept_lines(made.orphans_kept, parameters))


def kept_lines(kept: Mapping[str, int], parameters: Selected) -> list[str]:
    """How many records without a document stay because the database is doubted, and the command by which they go."""
    number, types = sum(kept.values()), [name for name, each in kept.items() if each]
    if not number:
        return []
    said = f"{number} records without a document are kept, because the database is doubted. If they shall go:"
    return [said, "", f"  {command_line('sync', parameters, types=types, sweep=number, relay_events=None)}", ""]


class PlansParameters(Parameters):
    limit: int = option(KEPT, "The newest so many.", metavar="N", ge=1, le=KEPT)


@declared("plans", "list_plans", "list_kept_plans")
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


# ----------------------------------------------------------------------------------------- saved plans, carried out


class Change(StrEnum):
    """How a line of a plan, or what is found now, differs from the other."""

    NEW = "new since"
    GONE = "no longer needed"
    CHANGED = "changed"
    BLOCKED = "not possible"


@dataclass(frozen=True, slots=True)
class Moved:
    """One operation that is not carried out, and why."""

    change: Change
    operation: PlannedOperation  # As the plan has it; what is found now where the plan has none
    why: str = ""  # What is so different, in words

    def to_json(self) -> dict[str, object]:
        return {"moved": self.change.value, **self.operation.to_json(), "why": self.why}


@dataclass(slots=True)
class AppliedPart:
    account: Account | None
    same: int = 0  # Operations that were as planned, and done unless it was a dry run
    # Operations whose result is there already: by an earlier run of the same plan, or by somebody else
    done_before: int = 0
    moved: list[Moved] = field(default_factory=list)  # What was not done
    report: AccountReport | None = None  # What the sync did, or None when nothing was to be done
    error: PipelineError | None = None  # Why the account could not be looked at

    @property
    def clean(self) -> bool:
        """True if everything agreed to is done and nothing moved."""
        report = self.report
        unwell = report is not None and (report.error or report.blocked or report.failures)
        return not (self.moved or self.error or unwell)


def apply_plan(
    work: Work,
    plan: SavedPlan,
    accounts: Sequence[Account],  # All there are now
    *,
    dry: bool,  # Only say what would be done and what has moved
    canary: int | None,  # Stop after so many accounts with something to do
    sweep: int | None,  # How many records without a document it deletes, if it was made to do so whatever is doubted
) -> Iterator[AppliedPart]:
    """Carry a plan out, account after account, and look at the others it was about for what is new; yields the part of
    each account of the plan, then one of each other account in which something is new. Raises Misconfigured where
    `sweep` is another number."""
    pipeline = work.pipeline
    selection = selection_of(plan.selection)
    if not dry:
        number = plan.counts.get(Kind.DELETE_ORPHAN, 0) if selection.sweep is not None else None
        if sweep != number:
            raise Misconfigured(
                "This plan was made without --sweep: leave it out, or make another plan. Nothing was written."
                if number is None
                else f"This plan deletes {number} records without a document although the database is doubted: to "
                f"carry it out, name the number with --sweep {number}. Nothing was written."
            )
        selection = replace(selection, sweep=number)
    known, inside = {account.id: account for account in accounts}, set(plan.accounts)
    about = known.keys() if plan.selection["accounts"] is None else set(plan.selection["accounts"])
    waiting: dict[str, list[PlannedOperation]] = {}

    def everybody() -> Iterator[Account]:
        for id, part in groupby(pipeline.plans.lines(plan), lambda each: each.account):
            waiting[id] = list(part)
            yield known.get(id) or Account(id, waiting[id][0].user)
        yield from (each for each in accounts if each.id in about and each.id not in inside)

    def part_of(account: Account) -> AppliedPart:
        operations = waiting.pop(account.id, [])
        if account.id not in known:
            gone = [Moved(Change.GONE, each, "its account is not on the platform any more") for each in operations]
            return AppliedPart(None, moved=gone)
        return apply_part(pipeline.engine, account, selection, operations, work.run_id, dry=dry)

    def failed(account: Account, error: PipelineError) -> AppliedPart:
        return AppliedPart(account, error=error)

    workers = pipeline.settings.ac_concurrent_users
    # Before a canary ends, nobody else's part may have begun.
    groups = [everybody()] if canary is None else ([account] for account in everybody())
    worked = 0
    for group in groups:
        for account, applied in for_accounts(group, part_of, workers, failed, ordered=True):
            if account.id in inside or applied.moved or applied.error:
                yield applied
            worked += bool(applied.same)
            if worked == canary:
                return


def apply_part(
    engine: Engine, account: Account, selection: Selection, lines: list[PlannedOperation], run_id: str, *, dry: bool
) -> AppliedPart:
    """One account: planned anew, compared with what was agreed to, and what is the same carried out."""
    applied = AppliedPart(account)
    plan, report = engine.survey(account, selection)
    if plan.repository is None:
        reason = report.blocked.message if report.blocked is not None else "nothing of it is mirrored"
        applied.moved = [Moved(Change.BLOCKED, each, reason) for each in lines]
        return applied
    if report.blocked is not None and not lines:  # as the plan would have it: blocked users have no operations
        return applied
    same = compare(plan, lines, applied)
    applied.same = len(same)
    if dry or not same:
        return applied
    chosen = selection.only(
        ((each.type, each.document) for each in same),
        # Records without a document are looked at only if one is to go.
        orphans=any(each.operation in {Kind.DELETE_ORPHAN, Kind.DELETE_COPY} for each in same),
        agreed=Agreement(tuple(same)),
    )
    applied.report = engine.sync(account, chosen, run_id)
    known = {(each.operation.item, each.operation.rkey) for each in applied.moved}
    for operation in applied.report.skipped:
        if (operation.item, operation.rkey) not in known:  # moved between our look and the write
            now = line(account.key, operation)
            applied.moved.append(Moved(Change.CHANGED, now, "left alone: something about its item is not as agreed"))
    return applied


def compare(plan: AccountPlan, operations: Sequence[PlannedOperation], applied: AppliedPart) -> list[PlannedOperation]:
    """Which of the agreed operations are to be done now; what differs is put into `applied`."""
    agreement = Agreement(tuple(operations))
    matched, others = set[tuple[str, str]](), dict[str, list[PlannedOperation]]()
    for operation in plan.operations():
        if agreement.allows(operation):
            matched.add((operation.item, operation.rkey))
        else:
            others.setdefault(operation.item, []).append(line(plan.account.key, operation))
    same = [each for each in operations if (each.item, each.rkey) in matched]
    unmatched = [each for each in operations if (each.item, each.rkey) not in matched]
    for each in unmatched:
        if each.item in others:
            now = others[each.item]
            said = ", ".join(f"{other.operation} {other.rkey}" for other in now)
            applied.moved.append(Moved(Change.CHANGED, each, f"now it is {said}: {now[0].reason}"))
        elif in_place(plan, each):
            applied.done_before += 1
        else:
            applied.moved.append(Moved(Change.GONE, each))
    replaced = {each.item for each in unmatched}
    for item, listed in others.items():
        if item not in replaced:
            applied.moved += [Moved(Change.NEW, each) for each in listed]
    return same


def in_place(plan: AccountPlan, operation: PlannedOperation) -> bool:
    """True if the repository and the link are as this operation would have left them."""
    media = media_type(operation.type)
    records: Mapping[str, str] = plan.repository.records if plan.repository is not None else {}
    copy = operation.operation == Kind.DELETE_COPY
    held = records.get(f"{COPIES if copy else media.nsid}/{operation.rkey}")
    if operation.operation in ERASES | BESIDE:
        return held is None
    if operation.operation in {Kind.ADOPT, Kind.HEAL, Kind.RENDER}:
        return held is not None and _is_kept(plan, media, operation)
    if operation.operation == Kind.UNLINK:
        return all(d.link is None for d in plan.documents[media.name] if d.id == operation.document)
    return held == operation.cid


def _is_kept(plan: AccountPlan, media: MediaType, operation: PlannedOperation) -> bool:
    for made in plan.plans:
        for kept in made.kept if made.media == media else ():
            document = kept.wanted.document
            if (item_id(media.name, document.id), kept.rkey) == (operation.item, operation.rkey):
                return operation.fingerprint in (None, document.fingerprint)
    return False
