"""The sensor for runs that Dagster forgets: their process is gone, or the retry it promised them does not come.

A code server notices when one of its runs dies. When they die together (a power cut, `make dev` stopped in the middle
of a run) nobody does: Dagster's run monitoring does not look at processes of its default launcher, and such a run stays
"started" for ever, with its place in the queue. And a failure is written before the run says that it failed: the daemon
that retries, looking in between, passes it over for good. Either way the backfill never ends. Both are of 1.13.27, and
the first cure is that of the second: a failure is reported, once more.

Only runs of our own code location are looked at, and only those of which `run_marks.py` knows for certain that their
process has ended: an instance may be shared by other locations, hosts and containers.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from ac_pipeline.defs.jobs import RETRIED_AS, WILL_RETRY
from ac_pipeline.defs.run_marks import process_is_dead

NAME: Final = "abandoned_runs_sensor"

REMINDED: Final = "ac-pipeline/retry_asked_for"
"""Tag of a run: Dagster was reminded of its promised retry by us."""
_PROMISE_SECONDS: Final = 20.0
"""A retry comes within about 5 seconds."""
_PROMISES_OF_SECONDS: Final = 86_400.0
"""An older promise is history."""


@dg.sensor(
    name=NAME,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports runs of this code location as failed whose process has certainly ended, after a power cut for "
    "instance, and once more those whose promised retry does not come: they are retried, and their backfill goes on. "
    "Runs of other code locations, hosts and containers are left alone.",
)
def abandoned_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """One look at the started and the failed runs."""
    origin = context.code_location_origin
    location = origin.location_name if origin is not None else None
    gone = list(fail_abandoned_runs(context.instance, location))
    for run_id in gone:
        context.log.warning(f"Run {run_id} was started, but its process is gone: reported as failed.")
    forgotten = list(remind_of_retries(context.instance, location))
    for run_id in forgotten:
        context.log.warning(f"Run {run_id} has failed, and its retry does not come: reported once more.")
    if not gone and not forgotten:
        return dg.SkipReason("No run of this code location is known to be abandoned.")
    return dg.SkipReason(f"Reported as failed: {len(gone)} runs without a process, {len(forgotten)} without a retry.")


def fail_abandoned_runs(instance: dg.DagsterInstance, location: str | None) -> Iterator[str]:
    """Report every started run of a code location as failed whose process has certainly ended; yields their ids."""
    if not isinstance(instance.run_launcher, dg.DefaultRunLauncher):
        return
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        if _location(run) != location or not process_is_dead(run):
            continue
        # A run says how it ended before its process does: one that ends just now is not started any more.
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status is dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(now, "The process of this run ended without a word.")
            yield run.run_id


def remind_of_retries(
    instance: dg.DagsterInstance, location: str | None, now: Callable[[], float] = time.time
) -> Iterator[str]:
    """Report failed runs of a code location once more whose retry was promised and did not come; yields their ids.

    Each run once.
    """
    moment = now()
    promised = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={WILL_RETRY: "true"},
        updated_after=datetime.fromtimestamp(moment - _PROMISES_OF_SECONDS, UTC),
        updated_before=datetime.fromtimestamp(moment - _PROMISE_SECONDS, UTC),
    )
    for run in instance.get_runs(promised):
        if _location(run) == location and RETRIED_AS not in run.tags and REMINDED not in run.tags:
            instance.add_run_tags(run.run_id, {REMINDED: "true"})
            instance.report_run_failed(run, "The retry of this run was promised and did not come; asked for again.")
            yield run.run_id


def _location(run: dg.DagsterRun) -> str | None:
    """The code location a run was launched from; None for one that was launched past every location."""
    return run.remote_job_origin.location_name if run.remote_job_origin is not None else None
