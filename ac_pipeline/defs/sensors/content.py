"""The sensor of new content: what users make, change and remove reaches the PDS by itself, in seconds.

Which users have work is the pipeline's to say (`mongo/changes.py`), whom to ask a run for is decided in
`defs/content.py`. The cursor only makes things fast: whatever it says, the work is found again from the documents.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.changed_users import SYNC_CHANGED_USERS, run_config
from ac_pipeline.defs.busy import busy_keys
from ac_pipeline.defs.content import MANY, ContentPlan, Memory, plan_content
from ac_pipeline.defs.jobs import SYNC_USERS, UNFINISHED, sync_users
from ac_pipeline.defs.partitions import USERS
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.policies import PRIORITY, URGENT
from ac_pipeline.defs.sensors.drift import REASON
from ac_pipeline.defs.verification import VERIFY_USERS
from ac_pipeline.mongo.pending import Changes, Work

NEW_CONTENT_SENSOR: Final = "new_content_sensor"

_SENSOR: Final = "dagster/sensor_name"
"""Tag that Dagster gives the runs of a sensor."""
_SECONDS: Final = 5
"""As often as Dagster's daemon looks at any sensor."""
_SHOWN: Final = 20
"""Users a line of the tick's log names."""


def make_content_sensor(changed_users: dg.JobDefinition, clock: Callable[[], float] = time.time) -> dg.SensorDefinition:
    """The sensor.

    Args:
        changed_users: The job over several users.
        clock: Epoch seconds.
    """

    @dg.sensor(
        name=NEW_CONTENT_SENSOR,
        jobs=[sync_users, changed_users],
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Launches a sync for users who have documents without a record, records of removed documents, or "
        "edited documents: one user by a run of the partition, several by one run together. Reads MongoDB's change "
        "stream, and compares links with documents every few minutes, or when there is no stream.",
    )
    def new_content_sensor(
        context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[PipelineResource]
    ) -> dg.SensorResult:
        """One look at what changed. A failed read fails the tick, and the next one begins where this one began."""
        now = clock()
        existing = context.instance.get_dynamic_partitions(USERS)
        # Before the look: work of a run that ends meanwhile is seen here as busy, and done or not at the next tick.
        seen = busy_keys(context.instance, existing, apart_from={VERIFY_USERS}, by_turns={SYNC_CHANGED_USERS})
        busy = seen.ahead
        together, alone, others = _unfinished(context.instance)
        memory = Memory.of(context.cursor)
        judged, watched = memory.watched(busy, now)
        changes = pipeline.changed(memory.position, watched)
        plan = plan_content(
            changes.works,
            memory,
            judged,
            existing=frozenset(existing),
            busy=busy,
            now=now,
            unfinished=(together, alone),
            others_run=bool(others),
        )
        _tell(context, plan, changes)
        requests = [_alone(key) for key in plan.alone] + [_together(group) for group in plan.together]
        return dg.SensorResult(
            run_requests=requests,
            cursor=plan.memory.at(changes.position).to_text(),
            skip_reason=None if requests else dg.SkipReason(_quiet(plan, changes)),
        )

    return new_content_sensor


def _unfinished(instance: dg.DagsterInstance) -> tuple[int, int, int]:
    """How many runs are queued or started: ours over several users, ours of single partitions, and those of others."""
    ours = {_SENSOR: NEW_CONTENT_SENSOR}
    together, alone = (
        instance.get_runs_count(dg.RunsFilter(job_name=name, tags=ours, statuses=UNFINISHED))
        for name in (SYNC_CHANGED_USERS, SYNC_USERS)
    )
    return together, alone, instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)) - together - alone


def _alone(key: str) -> dg.RunRequest:
    return dg.RunRequest(job_name=SYNC_USERS, partition_key=key, tags=_tags())


def _together(keys: Sequence[str]) -> dg.RunRequest:
    return dg.RunRequest(job_name=SYNC_CHANGED_USERS, run_config=run_config(list(keys)), tags=_tags())


def _tags() -> dict[str, str]:
    return {PRIORITY: URGENT, REASON: "new content"}


def _tell(context: dg.SensorEvaluationContext, plan: ContentPlan, changes: Changes) -> None:
    """The tick's log: what was found, and what a person may have to do."""
    if changes.fallback:
        context.log.warning(f"Everything is compared, because {changes.fallback}.")
    if changes.failed:
        context.log.error(f"The compare goes on at the next tick: {changes.failed}")
    if changes.compared:
        context.log.info(f"The look {changes.compared}.")
    if plan.asked:
        context.log.info(f"{len(plan.asked)} users have new work: {_named(_why(changes.works, plan.asked))}")
    if plan.waiting:
        told = f"{len(plan.waiting)} more users wait for the next ticks."
        context.log.log(logging.WARNING if len(plan.waiting) > MANY else logging.INFO, f"{told}{_advice(plan)}")
    if plan.busy:
        context.log.info(f"{len(plan.busy)} users are being synchronised or wait for it: {_named(plan.busy)}")
    if plan.unknown:
        context.log.info(
            f"{len(plan.unknown)} users have no partition yet; users_sensor adds it: {_named(plan.unknown)}"
        )
    if plan.resting:
        context.log.info(f"{len(plan.resting)} users have work that two runs did not help: {_named(plan.resting)}")


def _quiet(plan: ContentPlan, changes: Changes) -> str:
    counts = {
        "users wait for the next ticks": len(plan.waiting),
        "are being synchronised": len(plan.busy),
        "have no partition yet": len(plan.unknown),
        "were tried twice and are asked for again after an hour": len(plan.resting),
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    quiet = f"No run to ask for: {', '.join(said)}.{_advice(plan)}" if said else "No user has new work."
    why = f" Everything is compared, because {changes.fallback}." if changes.fallback else ""
    return f"{quiet}{why} {changes.failed}" if changes.failed else f"{quiet}{why}"


def _advice(plan: ContentPlan) -> str:
    return " For so many a backfill of the atproto assets is the right tool." if len(plan.waiting) > MANY else ""


def _why(works: Sequence[Work], keys: Sequence[str]) -> list[str]:
    first: dict[str, Work] = {}
    for work in works:
        first.setdefault(work.key, work)
    return [f"{key} ({first[key].cause} {first[key].item})" for key in keys]


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return f"{', '.join(texts[:_SHOWN])}{more}"
