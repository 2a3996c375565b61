"""What is derived from the records: the mirror's totals over time, and the list of every failed item. Both are external
assets that the job `count_mirror` materialises, so that a backfill of everything leaves them alone."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.catalog import DERIVED_GROUP, records_key
from ac_pipeline.defs.jobs import BACKFILL, SCHEDULE, UNFINISHED
from ac_pipeline.defs.metadata import ALL_FAILED_ITEMS, ROWS, Metadata, dagster_failures, item_entries
from ac_pipeline.defs.operator_jobs import KIND, answer_asset, conclude, tag_run, work_of
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.inspection.items import run_audit
from ac_pipeline.operations.totals import mirror_totals

TOTALS: Final = dg.AssetKey(["mirror", "totals"])
COUNT_MIRROR: Final = "count_mirror"
TOTALS_SENSOR: Final = "totals_sensor"

HOUR: Final = 3_600.0
_RUNS_READ: Final = 200


def derived_assets() -> list[dg.AssetSpec]:
    records = [records_key(media) for media in MEDIA_TYPES]
    return [
        answer_asset(
            TOTALS,
            "The mirror in numbers: documents, eligible ones, records, what is pending or kept back and "
            "why, blocked accounts, and how long the oldest waits. Plots: Metadata, Plots. Counted once an hour and "
            f"after schedules and backfills, once `{TOTALS_SENSOR}` is on, or by the job `{COUNT_MIRROR}`.",
            DERIVED_GROUP,
            deps=records,
            freshness_policy=dg.FreshnessPolicy.time_window(
                fail_window=timedelta(hours=4), warn_window=timedelta(hours=2)
            ),
        ),
        answer_asset(
            ALL_FAILED_ITEMS,
            "Every item of any type and user that is quarantined, deferred or blocked, the newest first, "
            "with its page, its record and the run that last tried. The job list_items lists all of them, by user, "
            "type, state and class.",
            DERIVED_GROUP,
            deps=records,
        ),
    ]


@dg.op(name="count_the_mirror", out=dg.Out(dg.Nothing))
def count(context: dg.OpExecutionContext, pipeline: dg.ResourceParam[PipelineResource]) -> None:
    """Count everything, list what failed, and what was deleted. Raises dg.Failure: something could not be read."""
    tag_run(context, "count")
    with dagster_failures():
        totals = mirror_totals(pipeline.open(), failed=ROWS)
    numbers, said = totals.numbers(), totals.headline
    context.log.info(said)
    blocked = {f"blocked: {each['user']}": each["reason"] for each in totals.blocked[:ROWS]}
    context.log_event(
        dg.AssetMaterialization(TOTALS, description=said, metadata={"answer": said, **blocked, **numbers})
    )
    by_state = {name: numbers[name] for name in ("quarantined", "deferred", "blocked")}
    kept = sum(by_state.values())
    failed: Metadata = {"items": kept, **by_state, "items_not_shown": kept - len(totals.failed)}
    failed |= item_entries(pipeline, totals.failed)
    said = f"{kept} items have not got where they should."
    context.log_event(dg.AssetMaterialization(ALL_FAILED_ITEMS, description=said, metadata=failed))
    with dagster_failures():
        using, parameters = work_of(context, pipeline), run_audit.parse({})
        conclude(context, using, run_audit, parameters, run_audit.run(using, parameters))


@dg.job(
    name=COUNT_MIRROR,
    tags=KIND,
    description="Counts documents, records and what is kept back, lists every failed item, and what was deleted: "
    "mirror/totals, operations/failed_items and operations/show_audit. Writes nothing.",
)
def count_mirror() -> None:
    count()


@dg.sensor(
    name=TOTALS_SENSOR,
    job_name=COUNT_MIRROR,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Launches count_mirror once an hour, and when the runs of a schedule or backfill have ended.",
)
def totals_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One look at the runs. The cursor is the moment of the last count that was asked for."""
    now, last = time.time(), float(context.cursor or 0)
    if context.instance.get_runs_count(dg.RunsFilter(job_name=COUNT_MIRROR, statuses=UNFINISHED)):
        return dg.SensorResult(skip_reason=dg.SkipReason("The last count goes on."))
    if now - last < HOUR and not _ended_since(context.instance, last):
        return dg.SensorResult(skip_reason=dg.SkipReason("Counted within the hour, and nothing has ended since."))
    return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=str(now))


def _ended_since(instance: dg.DagsterInstance, last: float) -> bool:
    """True if runs of a schedule or backfill ended since, and none of them goes on."""
    if any(map(_launched, instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))):
        return False
    changed = dg.RunsFilter(updated_after=datetime.fromtimestamp(last, UTC))
    return any(map(_launched, instance.get_runs(changed, limit=_RUNS_READ)))


def _launched(run: dg.DagsterRun) -> bool:
    """True if a schedule or a backfill has launched it."""
    return not {SCHEDULE, BACKFILL}.isdisjoint(run.tags)
