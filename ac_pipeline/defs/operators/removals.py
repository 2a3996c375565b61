"""The jobs `wipe_user`, `restore_user` and `take_snapshot`: one user's records away, back, and kept."""

from collections.abc import Mapping
from typing import Final

import dagster as dg
from pydantic import Field

from ac_pipeline.defs.assets.sources import records_key
from ac_pipeline.defs.operator import Operator, Types
from ac_pipeline.defs.operators.plans import plan_metadata
from ac_pipeline.defs.operators.tables import (
    KIND,
    TYPES_FIELD,
    USER_FIELD,
    WHY_FIELD,
    Metadata,
    Table,
    counts_table,
    named,
    refusals,
    refused,
    types_of,
)
from ac_pipeline.defs.run_marks import marked_in_process_executor
from ac_pipeline.operations.flight_plan import FlightPlan
from ac_pipeline.operations.restore_plan import RestorePlan
from ac_pipeline.operations.restore_report import RestoreReport
from ac_pipeline.operations.wipe import WipeReport
from ac_pipeline.operations.wipe_plan import WipePlan
from ac_pipeline.sync.agreement import PlannedOperation

_FAILED: Final = ("item", "code", "stage", "class", "message", "status")


class WipeConfig(dg.Config):
    """Whose records to delete. Left as it is, the job refuses; with a user alone, it says the number to confirm."""

    user: str = Field(default="", description=USER_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)
    confirm: int = Field(
        default=-1,
        ge=-1,
        description="The number of records that will be deleted. Launch once with -1 to be told it; nothing is "
        "deleted then.",
    )
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="wipe_one_user", out=dg.Out(dg.Nothing))
def wipe_one_user(context: dg.OpExecutionContext, config: WipeConfig, operator: dg.ResourceParam[Operator]) -> None:
    """Delete every record of a user, or of some types, after a verified snapshot.

    Raises:
        dg.Failure: The number was not confirmed, or not all could be deleted.
    """
    with refusals():
        user, types = named(config.user), types_of(config.types)
        plan = operator.plan_wipe(user, types)
        if config.confirm < 0 or not plan.accepts(config.confirm):
            raise refused(_to_confirm(plan, config.confirm), _plan_metadata(plan))
        report = operator.wipe(user, types, config.confirm, config.why, context.run.run_id)
    metadata = _wipe_metadata(report)
    _observe(context, report.user, types, {name: report.deleted.get(name, 0) for name in plan.records}, "deleted")
    if report.error is not None:
        raise refused(f"The wipe stopped: {report.error.message} The same launch does the rest.", metadata)
    if not report.clean:
        raise refused(f"{len(report.failures)} records could not be deleted, {report.left} are left.", metadata)
    context.add_output_metadata(metadata)


@dg.job(
    name="wipe_user",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Deletes every record of one user, or of some types, after a snapshot that was read back, and keeps "
    "these types from being mirrored until restore_user. Refuses until the number of records is confirmed.",
)
def wipe_user() -> None:
    wipe_one_user()


class RestoreConfig(dg.Config):
    """Whose records to bring back, and from where. Left as it is, it only says what would come back."""

    user: str = Field(default="", description=USER_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)
    source: str = Field(
        default="mongo",
        description="mongo: what Mongo holds today, as a sync makes it. latest: the newest snapshot. Or a snapshot's "
        "id, as `ac-pipeline snapshots` lists them.",
    )
    overwrite: bool = Field(
        default=False, description="From a snapshot: replace records that are there but differ, too."
    )
    dry_run: bool = Field(default=True, description="Only say what would be brought back.")
    why: str = Field(default="", description=WHY_FIELD)


@dg.op(name="restore_one_user", out=dg.Out(dg.Nothing))
def restore_one_user(
    context: dg.OpExecutionContext, config: RestoreConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """Bring a user's records back and let them be mirrored again.

    Raises:
        dg.Failure: It was refused, or not all came back.
    """
    table = Table(("item", "operation", "reason", "rkey"))

    def take(operation: PlannedOperation) -> None:
        table.add(operation.to_json())

    with refusals():
        user, types = named(config.user), types_of(config.types)
        if config.dry_run:
            plan = operator.plan_restore(user, types, config.source, take, overwrite=config.overwrite)
            context.add_output_metadata({"dry_run": True, **_foreseen(plan), **table.metadata("operations_listed")})
            context.log.info("Nothing was written: launch with dry_run false to bring the records back.")
            return
        report = operator.restore(
            user, types, config.source, config.why, context.run.run_id, overwrite=config.overwrite
        )
    metadata = _restore_metadata(report)
    _observe(context, report.user, types, report.restored, "restored")
    if report.error is not None:
        raise refused(f"The restore stopped: {report.error.message} The same launch does the rest.", metadata)
    if not report.clean:
        raise refused(f"Not everything of {report.user} came back: see the table.", metadata)
    context.add_output_metadata(metadata)


@dg.job(
    name="restore_user",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Brings one user's records back, from Mongo or from a snapshot, and lets them be mirrored again. What "
    "was removed since is held back. By default it only says what would come back.",
)
def restore_user() -> None:
    restore_one_user()


class SnapshotConfig(dg.Config):
    """Whose repository to keep."""

    user: str = Field(default="", description=USER_FIELD)
    types: list[str] = Field(default=[], description=TYPES_FIELD)


@dg.op(name="take_one_snapshot", out=dg.Out(dg.Nothing))
def take_one_snapshot(
    context: dg.OpExecutionContext, config: SnapshotConfig, operator: dg.ResourceParam[Operator]
) -> None:
    """Keep what a user's repository holds, and verify it by reading it back.

    Raises:
        dg.Failure: It was refused, or the snapshot did not become complete.
    """
    with refusals():
        taken = operator.snapshot(named(config.user), types_of(config.types))
    context.add_output_metadata(
        {
            "snapshot": taken.id,
            "user": taken.user,
            "blobs": taken.blobs,
            "bytes": taken.bytes,
            **counts_table("records", taken.records),
        }
    )


@dg.job(
    name="take_snapshot",
    tags=KIND,
    executor_def=marked_in_process_executor,
    description="Keeps what one user's repository holds, records and blobs, and verifies it. Nothing else is changed; "
    "restore_user brings it back.",
)
def take_snapshot() -> None:
    take_one_snapshot()


def _to_confirm(plan: WipePlan, given: int) -> str:
    said = f"{plan.total} records of {plan.user} would be deleted"
    said += f", {plan.addresses} public addresses would break" if plan.addresses else ""
    wrong = f" {given} is another number." if given >= 0 else ""
    return f"{said}; nothing was done.{wrong} To do it, launch again with confirm {plan.total}."


def _plan_metadata(plan: WipePlan) -> Metadata:
    prices = {f"price: {name}": int(str(value)) for name, value in plan.price.to_json().items()}
    counts = {"public addresses that break": plan.addresses, "records without a document": plan.undocumented}
    return {"user": plan.user, "confirm": plan.total, **counts_table("plan", {**plan.records, **counts, **prices})}


def _wipe_metadata(report: WipeReport) -> Metadata:
    failed = Table(_FAILED)
    for each in report.failures:
        failed.add(each.to_json())
    return {
        "user": report.user,
        "snapshots": ", ".join(report.snapshots) or "none",
        "left": report.left,
        "links_cleared": report.links_cleared,
        "on_hold": ", ".join(report.on_hold) or "nothing",
        **counts_table("deleted", report.deleted),
        **failed.metadata("not_deleted"),
    }


def _foreseen(plan: RestorePlan | FlightPlan) -> Metadata:
    if isinstance(plan, FlightPlan):
        return plan_metadata(plan)
    held = Table(("item", "record", "reason"))
    for each in plan.held:
        held.add(each.to_json())
    return {
        "user": plan.user,
        "snapshots": ", ".join(plan.snapshots),
        "present": len(plan.present),
        **counts_table("would_be_restored", plan.counts),
        **held.metadata("held_back"),
    }


def _restore_metadata(report: RestoreReport) -> Metadata:
    held, failed = Table(("item", "record", "reason")), Table(_FAILED)
    for each in report.held:
        held.add(each.to_json())
    for failure in [*report.failures, *(report.sync.failures if report.sync is not None else [])]:
        failed.add(failure.to_json())
    return {
        "user": report.user,
        "source": report.source,
        "present": report.present,
        "on_hold": ", ".join(report.on_hold) or "nothing",
        **counts_table("restored", report.restored),
        **held.metadata("held_back"),
        **failed.metadata("not_restored"),
    }


def _observe(context: dg.OpExecutionContext, user: str, types: Types, counts: Mapping[str, int], what: str) -> None:
    """Leave a trace at each partition that was touched."""
    for media in types:
        metadata: Metadata = {what: counts.get(media.name, 0), "job": context.job_name}
        context.log_event(dg.AssetObservation(records_key(media), partition=user, metadata=metadata))
