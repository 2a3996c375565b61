"""The sensor for runs that Dagster forgets: their process is gone, or the retry it promised them does not come.

A code server notices when one of its runs dies. When they die together (a power cut, `make dev` stopped in the middle
of a run, a container out of memory) nobody does: Dagster's run monitoring does not look at processes of its default
launcher, and such a run stays "started" for ever, with its place in the queue. And a failure is written before the run
says that it failed: the daemon that retries, looking in between, passes it over for good. Either way the backfill never
ends. Both are of 1.13.27, and the first cure is that of the second: a failure is reported, once more.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import dagster as dg

NAME: Final = "abandoned_runs_sensor"

LAUNCHED: Final = ".dagster/grpc_info"
"""Tag of a run that a code server was asked to start. Without it somebody executes the run elsewhere, perhaps on
another machine."""
WILL_RETRY: Final = "dagster/will_retry"
RETRIED_AS: Final = "dagster/auto_retry_run_id"
REMINDED: Final = "ac-pipeline/retry_asked_for"
"""Tags of a run: Dagster promises a retry, names it, and was reminded of it by us."""
_PROMISE_SECONDS: Final = 20.0
"""A retry comes within about 5 seconds."""
_PROMISES_OF_SECONDS: Final = 86_400.0
"""An older promise is history."""
_MARGIN_SECONDS: Final = 5.0
"""A process that started so long after its run did is another one with the same number."""


@dg.sensor(
    name=NAME,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports runs as failed whose process has ended without a word, after a power cut for instance, and "
    "once more those whose promised retry does not come: they are retried, and their backfill goes on. Looks for "
    "processes of the default launcher only.",
)
def abandoned_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """One look at the started and the failed runs."""
    gone = list(fail_abandoned_runs(context.instance))
    for run_id, pid in gone:
        context.log.warning(f"Run {run_id} was started, but its process {pid} is gone: reported as failed.")
    forgotten = list(remind_of_retries(context.instance))
    for run_id in forgotten:
        context.log.warning(f"Run {run_id} has failed, and its retry does not come: reported once more.")
    if not gone and not forgotten:
        return dg.SkipReason("Every run is alive or retried.")
    return dg.SkipReason(f"Reported as failed: {len(gone)} runs without a process, {len(forgotten)} without a retry.")


def fail_abandoned_runs(
    instance: dg.DagsterInstance, started_at: Callable[[int], float | None] | None = None
) -> Iterator[tuple[str, int]]:
    """Report every started run as failed whose process is gone; yields run id and process id.

    The default launcher runs its workers where the code server runs, and so where this is called.

    Args:
        started_at: When the process with this id was started, in seconds since 1970; None when there is none.
    """
    look = started_at or process_start
    if not isinstance(instance.run_launcher, dg.DefaultRunLauncher):
        return
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        run_id = record.dagster_run.run_id
        pid = _process_of(instance, run_id) if LAUNCHED in record.dagster_run.tags else None
        if pid is None or record.start_time is None:
            continue
        started = look(pid)
        if started is not None and started <= record.start_time + _MARGIN_SECONDS:
            continue
        # A run says how it ended before its process does: one that ends just now is not started any more.
        run = instance.get_run_by_id(run_id)
        if run is not None and run.status is dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(run, f"The process of this run (pid {pid}) ended without a word.")
            yield run_id, pid


def remind_of_retries(instance: dg.DagsterInstance, now: Callable[[], float] = time.time) -> Iterator[str]:
    """Report failed runs once more whose retry was promised and did not come; yields their ids. Each run once."""
    moment = now()
    promised = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={WILL_RETRY: "true"},
        updated_after=datetime.fromtimestamp(moment - _PROMISES_OF_SECONDS, UTC),
        updated_before=datetime.fromtimestamp(moment - _PROMISE_SECONDS, UTC),
    )
    for run in instance.get_runs(promised):
        if RETRIED_AS not in run.tags and REMINDED not in run.tags:
            instance.add_run_tags(run.run_id, {REMINDED: "true"})
            instance.report_run_failed(run, "The retry of this run was promised and did not come; asked for again.")
            yield run.run_id


def process_start(pid: int) -> float | None:
    """When a process was started, in seconds since 1970; 0 where the system does not tell; None when there is none."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0.0
    with suppress(OSError, StopIteration):
        # The second field, a name in parentheses, may hold anything; the third is the state, the 22nd the start.
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if state in {"Z", "X"}:
            return None
        up = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - up + int(fields[18]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _process_of(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process a run said it runs in, or None when it has not said so yet."""
    events = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    for record in events.records:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        if pid is not None and str(pid.value).isdigit():
            return int(str(pid.value))
    return None
