"""Counting a dry run: what a plan would do to one account, in the words of a report. Nothing is stored."""

from __future__ import annotations

from ac_pipeline.errors import Blocked
from ac_pipeline.items import item_id
from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.entries import end_of
from ac_pipeline.sync.plan import Kind, TypePlan, Wanted, Withheld
from ac_pipeline.sync.report import AccountReport, ItemFailure

_DELETES = {Kind.DELETE, Kind.DELETE_ORPHAN}
_LINKS_ONLY = {Kind.ADOPT, Kind.HEAL, Kind.UNLINK}


def foresee(plan: AccountPlan, report: AccountReport) -> None:
    """Count what would happen to each item of a decided plan."""
    refusal = plan.refusal()
    if refusal is not None:
        report.blocked = Blocked(refusal.message)
    for made in plan.plans:
        waits = {op.item for op in made.operations if op.writes or op.kind is Kind.RENDER} if refusal else set()
        _count_operations(made, waits, report)
        for withheld in made.withheld:
            if withheld.wanted is None:
                report.note(withheld.failure.message)
            elif withheld.wanted.until is not None:
                report.note(f"{item_id(made.media.name, withheld.wanted.document.id)}: {withheld.failure.message}")
                report.tally(made.media.name).deferred += 1
            else:
                _count_withheld(plan, made, withheld, withheld.wanted, report)


def _count_operations(made: TypePlan, waiting: set[str], report: AccountReport) -> None:
    tally = report.tally(made.media.name)
    tally.unchanged += len(made.kept)
    tally.blocked += len(waiting)
    moving = [operation for operation in made.operations if operation.item not in waiting]
    tally.deleted += len({operation.item for operation in moving if operation.kind in _DELETES})
    for operation in moving:
        tally.created += operation.kind is Kind.CREATE
        tally.updated += operation.kind is Kind.UPDATE
        tally.duplicates_removed += operation.kind is Kind.DELETE_DUPLICATE
        tally.copies_removed += operation.copy
        tally.healed += operation.kind in _LINKS_ONLY
        tally.deferred += operation.kind is Kind.RENDER
        tally.pending += operation.writes or operation.kind is Kind.RENDER


def _count_withheld(
    plan: AccountPlan, made: TypePlan, withheld: Withheld, wanted: Wanted, report: AccountReport
) -> None:
    document, failure = wanted.document, withheld.failure
    state = end_of(failure)
    report.tally(made.media.name).count(state)
    entry = plan.entries[made.media.name].get(document.id)
    report.failures.append(
        ItemFailure(
            item_id(made.media.name, document.id),
            plan.account.key,
            failure.stage,
            state,
            failure.error_class,
            failure.message,
            failure.status,
            document.code,
            (entry.attempts if entry is not None else 0) + 1,
        )
    )
