"""Carrying a saved plan out: what is still as it was planned is done, what has moved since is listed.

The plan itself is made in `plan.py`; what comes of it as an answer is `sync.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, PipelineError, Transient
from ac_pipeline.items import PlannedOperation, item_id
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import media_type
from ac_pipeline.mongo.ledger.plans import SavedPlan
from ac_pipeline.operations.plan import selection_of
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts
from ac_pipeline.sync.planning.diff import AccountPlan
from ac_pipeline.sync.planning.plan import COPIES, Kind
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Agreement, Selection, line

_DELETES = {Kind.DELETE.value, Kind.DELETE_ORPHAN.value, Kind.DELETE_DUPLICATE.value, Kind.DELETE_COPY.value}
_LINKED = {Kind.ADOPT.value, Kind.HEAL.value, Kind.RENDER.value}


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
    """What became of one account's part of a plan."""

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
    engine: Engine,
    plan: SavedPlan,
    lines: Iterable[PlannedOperation],
    accounts: Sequence[Account],
    *,
    run_id: str,
    workers: int,
    dry: bool = False,
    canary: int | None = None,
    sweep: int | None = None,
) -> Iterator[AppliedPart]:
    """Carry a plan out, account after account, and look at the others it was about for what is new.

    Args:
        lines: The plan's operations, by account.
        accounts: All accounts there are now.
        dry: Only say what would be done and what has moved.
        canary: Stop after so many accounts with something to do.
        sweep: How many records without a document it deletes, of a plan that was made to do so whatever is doubted.

    Raises:
        Misconfigured: It is another number.

    Yields:
        The part of each account of the plan, then one of each other account in which something is new.
    """
    selection = selection_of(plan.selection)
    if not dry:
        number = plan.counts.get(Kind.DELETE_ORPHAN.value, 0) if selection.sweep is not None else None
        if sweep != number:
            raise Misconfigured(
                "This plan was made without --sweep: leave it out, or make another plan. Nothing was written."
                if number is None
                else f"This plan deletes {number} records without a document although the database is doubted: to "
                f"carry it out, name the number with --sweep {number}. Nothing was written."
            )
        selection = replace(selection, sweep=number)
    known = {account.id: account for account in accounts}
    about = plan.selection["accounts"]
    parts = ((id, list(part)) for id, part in groupby(lines, lambda each: each.account))
    waiting: dict[str, list[PlannedOperation]] = {}

    def planned_accounts() -> Iterator[Account]:
        for id, operations in parts:
            account = known.get(id)
            waiting[id] = operations
            yield account if account is not None else Account(id, operations[0].user)

    def part_of(account: Account) -> AppliedPart:
        operations = waiting.pop(account.id)
        if account.id not in known:
            gone = [Moved(Change.GONE, each, "its account is not on the platform any more") for each in operations]
            return AppliedPart(None, moved=gone)
        return apply_part(engine, account, selection, operations, run_id, dry=dry)

    def failed(account: Account, error: PipelineError) -> AppliedPart:
        return AppliedPart(account, error=error)

    if canary is not None:  # one by one: nobody's part may have begun when it ends
        worked = 0
        for account in planned_accounts():
            applied = part_of(account)
            yield applied
            worked += bool(applied.same)
            if worked == canary:
                return
    else:
        for _, applied in for_accounts(planned_accounts(), part_of, workers, failed, ordered=True):
            yield applied
    inside = set(plan.accounts)
    others = [each for each in accounts if each.id not in inside and (about is None or each.id in set(about))]

    def look(account: Account) -> AppliedPart:
        return apply_part(engine, account, selection, [], run_id, dry=True)

    for _, applied in for_accounts(others, look, workers, failed, ordered=True):
        if applied.moved or applied.error:
            yield applied


def apply_part(
    engine: Engine,
    account: Account,
    selection: Selection,
    operations: Sequence[PlannedOperation],
    run_id: str,
    *,
    dry: bool,
) -> AppliedPart:
    """One account: planned anew, compared with what was agreed to, and what is the same carried out."""
    applied = AppliedPart(account)
    try:
        plan, report = engine.survey(account, selection)
    except Transient as error:
        applied.error = error
        return applied
    if plan.repository is None:
        reason = report.blocked.message if report.blocked is not None else "nothing of it is mirrored"
        applied.moved = [Moved(Change.BLOCKED, each, reason) for each in operations]
        return applied
    if report.blocked is not None and not operations:  # as the plan would have it: blocked users have no operations
        return applied
    same = compare(plan, operations, applied)
    applied.same = len(same)
    if dry or not same:
        return applied
    chosen = selection.only(
        ((each.type, each.document) for each in same),
        # Records without a document are looked at only if one is to go.
        orphans=any(each.operation in (Kind.DELETE_ORPHAN.value, Kind.DELETE_COPY.value) for each in same),
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
    copy = operation.operation == Kind.DELETE_COPY.value
    held = records.get(f"{COPIES if copy else media.nsid}/{operation.rkey}")
    if operation.operation in _DELETES:
        return held is None
    if operation.operation in _LINKED:
        return held is not None and _is_kept(plan, media, operation)
    if operation.operation == Kind.UNLINK.value:
        return all(d.link is None for d in plan.documents[media.name] if d.id == operation.document)
    return held == operation.cid


def _is_kept(plan: AccountPlan, media: MediaType, operation: PlannedOperation) -> bool:
    for made in plan.plans:
        for kept in made.kept if made.media == media else ():
            document = kept.wanted.document
            if (item_id(media.name, document.id), kept.rkey) == (operation.item, operation.rkey):
                return operation.fingerprint in (None, document.fingerprint)
    return False
