"""The sensor for runs that Dagster forgets: their process is gone, or the retry it promised them does not come; either
way their backfill would never end. Only runs of our own code location are looked at: an instance may be shared by other
locations, hosts and containers. And the executor whose tag says which process executes a run."""

import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import dagster as dg

from ac_pipeline.defs.jobs import RETRIED_AS, WILL_RETRY
from ac_pipeline.mongo.ledger.leases import is_dead, own_mark

NAME: Final = "abandoned_runs_sensor"

REMINDED: Final = "ac-pipeline/retry_asked_for"  # Tag of a run: Dagster was reminded of its promised retry by us
_PROMISE_SECONDS: Final = 20.0  # A retry comes within about 5 seconds
_COULD_NOT_RETRY: Final = "Failed to retry run"  # Dagster's words
_REASON: Final = "dagster/failure_reason"
_PROMISES_OF_SECONDS: Final = 86_400.0  # An older promise is history


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
    """Report every started run of a code location as failed whose process has certainly ended; yields their ids.

    A code server notices when one of its runs dies. When they die together (a power cut, `make dev` stopped in the
    middle of a run) nobody does: run monitoring does not look at processes of the default launcher (1.13.27), and such
    a run keeps its place in the queue for ever.
    """
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
    """Report failed runs of a code location once more, each once, whose retry was promised and did not come; yields
    their ids. A failure is written before the run says that it failed: the daemon that retries, looking in between,
    passes it over for good; and it takes its promise back when it looks while the code server restarts (1.13.27)."""
    moment = now()
    promised = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={WILL_RETRY: ["true", "false"]},
        updated_after=datetime.fromtimestamp(moment - _PROMISES_OF_SECONDS, UTC),
        updated_before=datetime.fromtimestamp(moment - _PROMISE_SECONDS, UTC),
    )
    for run in instance.get_runs(promised):
        if _location(run) != location or RETRIED_AS in run.tags or REMINDED in run.tags:
            continue
        if run.tags[WILL_RETRY] == "true" or _was_promised(instance, run):
            instance.add_run_tags(run.run_id, {REMINDED: "true"})
            instance.report_run_failed(run, "The retry of this run was promised and did not come; asked for again.")
            yield run.run_id


def _was_promised(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """True if a run was to be retried, and the daemon could not."""
    if run.tags.get(_REASON) == "STEP_FAILURE":  # such runs are never retried, and there may be many
        return False
    said = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    return any(each.message.startswith(_COULD_NOT_RETRY) for each in said)


def _location(run: dg.DagsterRun) -> str | None:
    """The code location a run was launched from; None for one that was launched past every location."""
    return run.remote_job_origin.location_name if run.remote_job_origin is not None else None


RUN_PROCESS: Final = ".dagster/ac_pipeline_process"
"""Tag of a run: its id (a retry inherits the tags of the run it repeats), the machine and the mark of the process."""
_IN_PROCESS: Final[Any] = dg.in_process_executor
_NO_CONTAINER: Final = "pid:[4026531836]"
"""The namespace of process ids of a machine itself: Linux gives it this number always."""


class _MarksRuns(dg.Executor):
    """Executes as another executor does, once the run has its mark."""

    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    @property
    def retries(self) -> Any:
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        mark, run_id = own_mark(), plan_context.run_id
        storage = plan_context.instance.event_log_storage
        if storage.supports_global_concurrency_limits:
            limited = {pool.name for pool in storage.get_pool_limits()}
            for pool in sorted({step.pool for step in execution_plan.steps if step.pool} - limited):
                plan_context.log.warning(f"The pool {pool} has no limit: `ac-pipeline dagster prepare` sets it.")
        if mark is not None:
            plan_context.instance.add_run_tags(run_id, {RUN_PROCESS: f"{run_id} {_machine()} {mark}"})
        yield from self._inner.execute(plan_context, execution_plan)


@dg.executor(name="in_process", config_schema=_IN_PROCESS.config_schema)
def marked_in_process_executor(context: dg.InitExecutorContext) -> dg.Executor:
    """All steps in the process of the run, which leaves its mark. A step in a process of its own costs 1.3 s, in this
    one 0.03 s (Dagster facts, "Costs")."""
    return _MarksRuns(_IN_PROCESS.executor_creation_fn(context))


def process_is_dead(run: dg.DagsterRun) -> bool:
    """True if the process of a run has certainly ended: it is gone from here, or this very machine was started anew.

    The kernel knows of the processes of this start of this machine and of this namespace of process ids alone: of any
    other nothing is known, and a run without a mark of its own is nobody's to judge.
    """
    run_id, _, rest = run.tags.get(RUN_PROCESS, "").partition(" ")
    machine, _, mark = rest.partition(" ")
    if run_id != run.run_id:
        return False
    if is_dead(mark):
        return True
    here = own_mark()
    return here is not None and machine != "-" and machine == _machine() and _boot(mark) != _boot(here)


def _boot(mark: str) -> str:
    return mark.partition("/")[0]


def _machine() -> str:
    """The machine, for good; `-` in a container, whose names may be those of another one."""
    try:
        if str(Path("/proc/self/ns/pid").readlink()) == _NO_CONTAINER:
            return f"{Path('/etc/machine-id').read_text().strip()}@{socket.gethostname()}".replace(" ", "_")
    except OSError:
        pass
    return "-"
