"""The schedule that keeps every known user in step. Who is known is the users sensor's: a schedule adds no keys."""

from collections.abc import Iterator, Sequence

import dagster as dg

from ac_pipeline.defs.jobs import UNFINISHED, sync_users
from ac_pipeline.defs.partitions import RANGE_END, RANGE_START, USERS
from ac_pipeline.defs.policies import RECORDS_A_RUN

RUNS_A_TICK = 100
"""Most runs one tick requests: a tick has 60 seconds (Dagster facts, "Sensors, automation, pools")."""

_SCHEDULE = "dagster/schedule_name"


def ranges(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """First and last key of each run over all keys, in their order: as few runs as their size allows, 100 at most."""
    size = max(RECORDS_A_RUN, -(-len(keys) // RUNS_A_TICK))
    for first in range(0, len(keys), size):
        part = keys[first : first + size]
        yield part[0], part[-1]


@dg.schedule(
    name="sync_every_hour",
    cron_schedule="0 * * * *",
    job=sync_users,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Synchronises the records of all known users; an unchanged one costs one read of "
    "documents and repository.",
)
def sync_every_hour(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One ranged run for each part of the known keys, unless runs of an earlier tick are not done yet."""
    earlier = dg.RunsFilter(tags={_SCHEDULE: "sync_every_hour"}, statuses=UNFINISHED)
    waiting = context.instance.get_runs_count(earlier)
    if waiting:
        yield dg.SkipReason(f"{waiting} runs of an earlier hour are not done yet.")
        return
    keys = context.instance.get_dynamic_partitions(USERS)
    if not keys:
        yield dg.SkipReason("No user is known yet: start the sensor users_sensor.")
        return
    for first, last in ranges(keys):
        # Dagster asks for a key where there are several requests. With the hour in it, no later tick is kept back.
        run_key = f"{context.scheduled_execution_time.isoformat()} {first}"
        yield dg.RunRequest(run_key=run_key, tags={RANGE_START: first, RANGE_END: last})
