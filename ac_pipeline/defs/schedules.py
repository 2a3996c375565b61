"""The schedules: when all users whom the users sensor has made known are planned, synchronised or verified. Hours are
settings, read when the code location loads (`AC_CRON_SYNC`, `AC_CRON_RECONCILE`, `AC_CRON_VERIFY`, `AC_CRON_PLAN`)."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import dagster as dg

from ac_pipeline.defs import jobs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, RECORDS_A_RUN, USERS
from ac_pipeline.defs.assets.records import FULL, STEP, SYNC_CHANGED_USERS
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.sensors.drift import plan_drift
from ac_pipeline.defs.user_jobs import VERIFY_USERS
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.plan import run_plan
from ac_pipeline.settings import Timetable

LOOK_SECONDS: Final = 25.0
"""How long the hourly look may compare documents: a tick has 60 seconds, and one statement of MongoDB's may take 25."""

Requests = Iterator[dg.RunRequest | dg.SkipReason]


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of a schedule."""

    context: dg.ScheduleEvaluationContext
    pipeline: PipelineResource
    keys: Sequence[str]  # All known users, in the order of their partitions
    # When it is, UTC. Dagster asks for a key where there are several requests; with the hour in it, no later tick is
    # kept back.
    hour: str


def users_with_work(tick: Tick) -> Requests:
    """One look at all documents and all repositories: runs over those users who have work and are in no unfinished run.

    A look that cannot end in time decides nothing: then everybody is asked for, as far as they are in no run. Raises
    Transient, Misconfigured: something could not be read; the tick fails, and the next one looks at all again."""
    now = time.time()
    # In this order: a sync that ends while we look is busy here, or done there.
    busy = jobs.busy_keys(
        tick.context.instance, tick.keys, apart_from={VERIFY_USERS}, one_by_one={SYNC_CHANGED_USERS}
    ).ahead
    pipeline = tick.pipeline.open()
    repositories, marks = list(pipeline.server.list_repositories()), pipeline.ledger.checkpoints()
    accounts = tick.pipeline.accounts()
    drift = plan_drift(accounts, tick.keys, repositories, marks=marks, busy=busy, cursor=None, now=now)
    served = {each.did for each in repositories if each.active}
    changes = pipeline.changes.look_at_everybody(accounts.values(), marks.keys(), served, LOOK_SECONDS)
    work = {work.key for work in changes.works} | {each.key for each in drift.drifted} | set(drift.busy)
    if changes.failed is not None:
        tick.context.log.warning(f"Everybody is asked for, because the look did not end: {changes.failed}.")
    asked = [key for key in tick.keys if (key in work or changes.failed is not None) and key not in busy]
    if not asked:
        under_way = f"; {len(work & busy)} with work are being synchronised or wait for it" if work & busy else ""
        yield dg.SkipReason(
            f"No run to ask for: the look {changes.compared}, and {len(repositories)} repositories with their last "
            f"sync{under_way}."
        )
        return
    tick.context.log.info(f"{len(asked)} of {len(tick.keys)} users are asked for; the look {changes.compared}.")
    least = RECORDS_A_RUN if changes.failed is not None else jobs.USERS_A_RUN
    for group in jobs.in_groups(asked, max(least, -(-len(asked) // jobs.RUNS_A_TICK))):
        yield jobs.request_together(group, {jobs.REASON: "hourly look"}, run_key=f"{tick.hour} {group[0]}")


def all_users_in_ranges(tick: Tick) -> Requests:
    """A run for each part of the known keys, with every document and record compared."""
    config = {"ops": {STEP: {"config": {FULL: True}}}}
    for first, last in ranges(tick.keys):
        tags = {RANGE_START: first, RANGE_END: last}
        yield dg.RunRequest(run_key=f"{tick.hour} {first}", run_config=config, tags=tags)


def one_run(tick: Tick) -> Requests:
    """One run, which knows by itself who there is."""
    yield dg.RunRequest(run_key=tick.hour)


@dataclass(frozen=True, slots=True)
class UsersSchedule:
    name: str  # Its name in the UI, which people start it by
    setting: str  # Field of `Timetable` with its cron line
    job: str  # Name of the job it launches
    description: str  # For people
    requests: Callable[[Tick], Requests]  # What one tick asks for
    waits_for: tuple[str, ...] = ()  # Schedules that must have no unfinished runs, besides itself


INCREMENTAL_SYNC: Final = "incremental_sync"
NIGHTLY_RECONCILE: Final = "nightly_reconcile"
WEEKLY_VERIFICATION: Final = "weekly_verification"
DAILY_PLAN: Final = "daily_plan"

SCHEDULES: Final = (
    UsersSchedule(
        INCREMENTAL_SYNC,
        "ac_cron_sync",
        SYNC_CHANGED_USERS,
        "Looks once at the documents and the repositories of all known users, and synchronises the records of those "
        "who have work: new, changed, removed or deferred items, a repository that another client changed, or no sync "
        "yet. No run when nothing changed.",
        users_with_work,
        waits_for=(NIGHTLY_RECONCILE,),
    ),
    # It does not wait for the other, which may be at work at any hour: leases keep two runs apart.
    UsersSchedule(
        NIGHTLY_RECONCILE,
        "ac_cron_reconcile",
        jobs.SYNC_USERS,
        "Synchronises all known users with every document and record compared and no short cut taken: what events, "
        "marks and clocks missed is found here, and what a new release builds differently.",
        all_users_in_ranges,
    ),
    UsersSchedule(
        WEEKLY_VERIFICATION,
        "ac_cron_verify",
        VERIFY_USERS,
        "Verifies every record, link and blob of all users against the repositories, and repairs nothing: what is "
        "wrong fails checks.",
        one_run,
    ),
    UsersSchedule(
        DAILY_PLAN,
        "ac_cron_plan",
        run_plan.job,
        "Plans a sync of everybody without doing it: operations/flight_plan says what it would do, and what it costs.",
        one_run,
    ),
)


def ranges(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """First and last key of each run over all keys, in their order: as few runs as their size allows, 100 at most."""
    size = max(RECORDS_A_RUN, -(-len(keys) // jobs.RUNS_A_TICK))
    for part in jobs.in_groups(keys, size):
        yield part[0], part[-1]


def schedules(timetable: Timetable) -> list[dg.ScheduleDefinition]:
    """All schedules, stopped until somebody starts them. Raises Misconfigured: Dagster does not take a line of the
    timetable (UTC) for a cron line."""
    return [_schedule(each, getattr(timetable, each.setting)) for each in SCHEDULES]


def _schedule(what: UsersSchedule, cron: str) -> dg.ScheduleDefinition:
    def tick(context: dg.ScheduleEvaluationContext, pipeline: dg.ResourceParam[PipelineResource]) -> Requests:
        """What the schedule asks for, unless runs of an earlier tick are not done yet."""
        for name in (what.name, *what.waits_for):
            waiting = context.instance.get_runs_count(
                dg.RunsFilter(tags={jobs.SCHEDULE: name}, statuses=jobs.UNFINISHED)
            )
            if waiting:
                yield dg.SkipReason(f"{waiting} runs of an earlier tick of {name} are not done yet.")
                return
        keys = context.instance.get_dynamic_partitions(USERS)
        if not keys:
            yield dg.SkipReason("No user is known yet: start the sensor users_sensor.")
            return
        yield from what.requests(Tick(context, pipeline, keys, context.scheduled_execution_time.isoformat()))

    try:
        return dg.schedule(
            name=what.name,
            cron_schedule=cron,
            execution_timezone="UTC",
            job_name=what.job,
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description=f"{what.description} {what.setting.upper()} sets its hours.",
        )(tick)
    except dg.DagsterInvalidDefinitionError:
        raise Misconfigured(
            f"{what.setting.upper()} must be a cron line, such as `30 3 * * MON-FRI` or `@daily`, in UTC."
        ) from None
