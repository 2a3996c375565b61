"""The drift sensor: asks for a sync of users whose repository somebody else has touched.

What it decides is in `defs/drift.py`. It is the safety net under the real-time writer and every other client: it needs
no event, only the revision of each repository (VERIFY-9, VERIFY-10).
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import dagster as dg

from ac_pipeline.defs.assets.changed_users import SYNC_CHANGED_USERS, run_config
from ac_pipeline.defs.busy import busy_keys
from ac_pipeline.defs.content import USERS_A_RUN
from ac_pipeline.defs.drift import Drift, DriftPlan, plan_drift
from ac_pipeline.defs.jobs import SYNC_USERS, sync_users
from ac_pipeline.defs.partitions import USERS
from ac_pipeline.defs.pipeline import PipelineResource

RUNS_A_TICK: Final = 100
"""Most runs one tick requests (Dagster facts, "Sensors, automation, pools")."""

REASON: Final = "ac_pipeline/reason"
"""Tag that says why a run was requested."""

_SHOWN: Final = 20
"""Users a line of the tick's log names."""


def make_drift_sensor(changed_users: dg.JobDefinition, clock: Callable[[], float] = time.time) -> dg.SensorDefinition:
    """The sensor.

    Args:
        changed_users: The job over several users.
        clock: Epoch seconds.
    """

    @dg.sensor(
        name="drift_sensor",
        jobs=[sync_users, changed_users],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Compares the revision of every repository on the PDS with the one our last sync left, and "
        "launches a sync for users whose repository another client has changed. Costs one request for each 1,000 "
        "repositories. A drift that is still there after an hour is asked about again.",
    )
    def drift_sensor(
        context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[PipelineResource]
    ) -> dg.SensorResult:
        """One look at all repositories. A failed read fails the tick and requests nothing."""
        now = clock()
        existing = context.instance.get_dynamic_partitions(USERS)
        # In this order: a sync that ends while we look is busy here, or too young there.
        busy = busy_keys(context.instance, existing).ahead
        repositories, marks = list(pipeline.repositories()), pipeline.marks()
        accounts = pipeline.accounts()
        plan = plan_drift(accounts, existing, repositories, marks=marks, busy=busy, cursor=context.cursor, now=now)
        requested = plan.drifted[: RUNS_A_TICK * USERS_A_RUN]
        _tell(context, plan, len(plan.drifted) - len(requested))
        return dg.SensorResult(
            run_requests=_requests(requested),
            cursor=plan.cursor(requested),
            skip_reason=None if requested else dg.SkipReason(_quiet(plan, len(marks))),
        )

    return drift_sensor


def _requests(drifted: Sequence[Drift]) -> list[dg.RunRequest]:
    """One user by a run of the partition, several by runs together: neighbours or not."""
    tags, keys = {REASON: "drift"}, [each.key for each in drifted]
    if len(keys) == 1:
        return [dg.RunRequest(job_name=SYNC_USERS, partition_key=keys[0], tags=tags)]
    groups = [keys[first : first + USERS_A_RUN] for first in range(0, len(keys), USERS_A_RUN)]
    return [dg.RunRequest(job_name=SYNC_CHANGED_USERS, run_config=run_config(group), tags=tags) for group in groups]


def _tell(context: dg.SensorEvaluationContext, plan: DriftPlan, left: int) -> None:
    """The tick's log: who drifted, and what a person may have to look at."""
    if plan.drifted:
        revisions = [f"{each.key} ({each.left} -> {each.found})" for each in plan.drifted]
        context.log.info(f"{len(plan.drifted)} repositories were changed by somebody else: {_named(revisions)}")
    if left:
        context.log.info(f"{left} of them follow in the next tick.")
    if plan.busy:
        context.log.info(f"{len(plan.busy)} drifted users are being synchronised or wait for it: {_named(plan.busy)}")
    if plan.asked:
        context.log.info(f"{len(plan.asked)} drifted users were asked for in the last hour: {_named(plan.asked)}")
    if plan.inactive:
        said = [f"{key} ({status})" for key, status in plan.inactive]
        context.log.warning(f"The PDS does not serve {len(said)} repositories of accounts in use: {_named(said)}")
    if plan.gone:
        context.log.error(f"The PDS no longer lists {len(plan.gone)} repositories that we filled: {_named(plan.gone)}")


def _quiet(plan: DriftPlan, marked: int) -> str:
    waiting = len(plan.busy) + len(plan.asked)
    if waiting:
        return f"{waiting} repositories were changed by somebody else; a sync of each is under way or was tried."
    return f"All {marked} repositories are as their last sync left them."


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return f"{', '.join(texts[:_SHOWN])}{more}"
