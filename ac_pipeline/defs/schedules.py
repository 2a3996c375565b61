"""The schedules: when all known users are synchronised or verified. Who is known is the users sensor's: a schedule
adds no keys.

The hours are settings, read when the code location loads (`AC_CRON_SYNC`, `AC_CRON_RECONCILE`, `AC_CRON_VERIFY`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg

from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, RECORDS_A_RUN, USERS
from ac_pipeline.defs.assets.records import FULL, STEP
from ac_pipeline.defs.jobs import SYNC_USERS, UNFINISHED
from ac_pipeline.defs.verification import VERIFY_USERS
from ac_pipeline.errors import Misconfigured
from ac_pipeline.settings import Timetable

RUNS_A_TICK: Final = 100
"""Most runs one tick requests: a tick has 60 seconds (Dagster facts, "Sensors, automation, pools")."""

SCHEDULE: Final = "dagster/schedule_name"
"""Tag that Dagster gives the runs of a schedule."""


@dataclass(frozen=True, slots=True)
class UsersSchedule:
    """One schedule over all users.

    Args:
        name: Its name in the UI, which people start it by.
        setting: Field of `Timetable` with its cron line.
        job: Name of the job it launches.
        description: For people.
        run_config: Of each run.
        waits_for: Schedules that must have no unfinished runs, besides itself.
        ranged: True if its runs are about ranges of keys; else it is one run, which knows by itself who there is.
    """

    name: str
    setting: str
    job: str
    description: str
    run_config: Mapping[str, Any] = field(default_factory=dict)
    waits_for: tuple[str, ...] = ()
    ranged: bool = True


INCREMENTAL_SYNC: Final = "incremental_sync"
NIGHTLY_RECONCILE: Final = "nightly_reconcile"
WEEKLY_VERIFICATION: Final = "weekly_verification"

SCHEDULES: Final = (
    UsersSchedule(
        INCREMENTAL_SYNC,
        "ac_cron_sync",
        SYNC_USERS,
        "Synchronises the records of all known users; one in which nothing changed costs a look.",
        waits_for=(NIGHTLY_RECONCILE,),
    ),
    # It does not wait for the other, which may be at work at any hour: leases keep two runs apart.
    UsersSchedule(
        NIGHTLY_RECONCILE,
        "ac_cron_reconcile",
        SYNC_USERS,
        "The same with every document and record compared and no short cut taken: what events, marks and clocks "
        "missed is found here.",
        run_config={"ops": {STEP: {"config": {FULL: True}}}},
    ),
    UsersSchedule(
        WEEKLY_VERIFICATION,
        "ac_cron_verify",
        VERIFY_USERS,
        "Verifies every record, link and blob of all users against the repositories, and repairs nothing: what is "
        "wrong fails checks.",
        ranged=False,
    ),
)


def ranges(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """First and last key of each run over all keys, in their order: as few runs as their size allows, 100 at most."""
    size = max(RECORDS_A_RUN, -(-len(keys) // RUNS_A_TICK))
    for first in range(0, len(keys), size):
        part = keys[first : first + size]
        yield part[0], part[-1]


def schedules(timetable: Timetable) -> list[dg.ScheduleDefinition]:
    """All schedules, stopped until somebody starts them.

    Args:
        timetable: When they tick, UTC.

    Raises:
        Misconfigured: Dagster does not take a line for a cron line.
    """
    made = []
    for each in SCHEDULES:
        try:
            made.append(_schedule(each, getattr(timetable, each.setting)))
        except dg.DagsterInvalidDefinitionError:
            raise Misconfigured(
                f"{each.setting.upper()} must be a cron line, such as `30 3 * * MON-FRI` or `@daily`, in UTC."
            ) from None
    return made


def _schedule(what: UsersSchedule, cron: str) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=what.name,
        cron_schedule=cron,
        execution_timezone="UTC",
        job_name=what.job,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"{what.description} {what.setting.upper()} sets its hours.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """A run for each part of the known keys, or one for all, unless runs of an earlier tick are not done yet."""
        for name in (what.name, *what.waits_for):
            waiting = context.instance.get_runs_count(dg.RunsFilter(tags={SCHEDULE: name}, statuses=UNFINISHED))
            if waiting:
                yield dg.SkipReason(f"{waiting} runs of an earlier tick of {name} are not done yet.")
                return
        keys = context.instance.get_dynamic_partitions(USERS)
        if not keys:
            yield dg.SkipReason("No user is known yet: start the sensor users_sensor.")
            return
        # Dagster asks for a key where there are several requests. With the hour in it, no later tick is kept back.
        hour = context.scheduled_execution_time.isoformat()
        if not what.ranged:
            yield dg.RunRequest(run_key=hour, run_config=dict(what.run_config))
            return
        for first, last in ranges(keys):
            tags = {RANGE_START: first, RANGE_END: last}
            yield dg.RunRequest(run_key=f"{hour} {first}", run_config=dict(what.run_config), tags=tags)

    return tick
