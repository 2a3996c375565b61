"""The jobs `heal_links` and `restore_documents`: what links, records and documents lost, given back."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.operator import Operator
from ac_pipeline.defs.operators.tables import (
    KIND,
    LEFT_OUT,
    TYPES_FIELD,
    USERS_FIELD,
    WHY_FIELD,
    Metadata,
    Table,
    counts_table,
    refusals,
    refused,
    require_everybody,
    types_of,
)
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.operations.documents import Lost, LostCount
from ac_pipeline.operations.links import Diagnosis, Examination
from ac_pipeline.operations.rounds import LeftOut, failed
from ac_pipeline.sync.report import Tally

_FINDING: Final = ("user", "item", "state", "repair", "reason", "held")
_LOST: Final = ("user", "item", "inserts", "reason", "lost", "then")


class HealConfig(dg.Config):
    """Whose links to heal. Left as it is, it only says what would be healed."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)
    dry_run: bool = Field(default=True, description="Only say what would be repaired.")
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="heal_each_user", out=dg.Out(dg.Nothing))
def heal_each_user(context: dg.OpExecutionContext, config: HealConfig, operator: dg.ResourceParam[Operator]) -> None:
    """Examine links and records, and repair what has a repair unless it is a dry run.

    Raises:
        dg.Failure: It was refused, or somebody has to be run again.
    """
    tally, again = Tally(), Table(LEFT_OUT)
    with refusals():
        types = types_of(config.types)
        if not config.dry_run:
            for report in operator.heal(config.users, types, context.run.run_id, config.why):
                for each in report.types.values():
                    tally.add(each)
                trouble = report.error or report.blocked
                if trouble is not None:
                    again.add({"user": report.user, "message": trouble.message})
        seen, unread = _seen(operator.examine(config.users, types))
    names = ("healed", "created", "updated", "deleted", "duplicates_removed")
    done = {} if config.dry_run else counts_table("done", {name: getattr(tally, name) for name in names})
    metadata: Metadata = {"dry_run": config.dry_run, **done, **seen, **again.metadata("not_healed")}
    if again.count:
        raise refused(f"{again.count} users could not be healed: launch again.", metadata)
    require_everybody(unread, metadata)
    context.add_output_metadata(metadata)


@dg.job(
    name="heal_links",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Says the state of every link and record and, with dry_run false, carries the repairs out: links are "
    "written, duplicates removed, orphans deleted. A second launch does nothing.",
)
def heal_links() -> None:
    heal_each_user()


class DocumentsConfig(dg.Config):
    """Whose lost documents to rebuild. Left as it is, the job only says how many there are."""

    users: list[str] = Field(default=[], description=USERS_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)
    confirm: int = Field(
        default=-1,
        ge=-1,
        description="The number of documents that will be inserted. Launch once with -1 to be told it; nothing is "
        "inserted then.",
    )
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="restore_lost_documents", out=dg.Out(dg.Nothing))
def restore_lost_documents(
    context: dg.OpExecutionContext, config: DocumentsConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """Rebuild documents that Mongo has lost from their records.

    Raises:
        dg.Failure: The number was not confirmed, or it was refused.
    """
    with refusals():
        types = types_of(config.types)
        if config.confirm < 0:
            found, metadata = _lost(operator.lost_documents(config.users, types))
            number = found.total
            require_everybody(failed(found.left_out), metadata)
            context.add_output_metadata({"dry_run": True, "confirm": number, **metadata})
            context.log.info(f"{number} documents can be rebuilt; launch again with confirm {number} to insert them.")
            return
        found, metadata = _lost(operator.restore_documents(config.users, types, config.confirm, config.why))
    number = found.total
    metadata = {"inserted": number, **metadata}
    if number != config.confirm:
        raise refused(f"{number} of {config.confirm} documents were inserted: see the table.", metadata)
    context.add_output_metadata(metadata)


@dg.job(
    name="restore_documents",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Rebuilds documents that are missing in Mongo from their records, before a sync deletes those. Only "
    "inserts, never replaces; inserts nothing until the number of documents is confirmed.",
)
def restore_documents() -> None:
    restore_lost_documents()


def _seen(found: Iterable[Examination]) -> tuple[Metadata, int]:
    """What an examination found, in tables, and how many users could not be examined because of an error."""
    diagnosis, table, blocked = Diagnosis(), Table(_FINDING), Table(LEFT_OUT)
    for each in found:
        diagnosis.add(each)
        for finding in each.findings:
            table.add(finding.to_json())
    for left_out in diagnosis.blocked:
        blocked.add({"user": left_out.user, "message": left_out.message})
    counts = diagnosis.counts
    states = Counter({state.value: number for state, number in counts.total().items()})
    deletions = {"to be deleted": diagnosis.deletions}
    total = {"documents": counts.documents.total(), "orphans": counts.orphans.total(), **deletions}
    tables = {**counts_table("states", {**total, **states}), **table.metadata("not_simply_linked")}
    return {**tables, **blocked.metadata("not_examined")}, failed(diagnosis.blocked)


def _lost(found: Iterable[Lost | LeftOut]) -> tuple[LostCount, Metadata]:
    """How many documents can be, or were, rebuilt, and all that was found as tables."""
    counted, table, left_out = LostCount(), Table(_LOST), Table(LEFT_OUT)
    for each in found:
        counted.add(each)
        if isinstance(each, Lost):
            table.add(each.to_json())
        else:
            left_out.add({"user": each.user, "message": each.message})
    return counted, {**table.metadata("documents"), **left_out.metadata("left_alone")}
