"""The sensor of new content: what users make, change and remove reaches the PDS by itself, in seconds. Which users have
work is `mongo/changes/pending.py`, whom to ask a run for is `plan_content`. The cursor only makes things fast: whatever
it says, the work is found again from the documents."""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, NamedTuple, Self

import dagster as dg

from ac_pipeline.defs import jobs
from ac_pipeline.defs.alerts.messages import listed
from ac_pipeline.defs.assets.catalog import PRIORITY, URGENT, USERS
from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.defs.user_jobs import VERIFY_USERS
from ac_pipeline.mongo.changes.pending import Changes, Work

GROUPS_A_TICK: Final = 2
ALONE_A_TICK: Final = 3
UNFINISHED_AT_MOST: Final = 3
"""Runs of ours of each kind that may be queued or started: two at work and one to follow. Whoever changes meanwhile
goes into one larger run, which on a busy machine is what keeps up: most of a run's cost is its start. Each kind has its
own share, for runs of partitions may wait long behind a backfill's."""
ASK_AGAIN: Final = 3_600.0  # Seconds after which unfinished work is asked for again although nothing about it is new
MANY: Final = GROUPS_A_TICK * jobs.USERS_A_RUN  # More users than this waiting are a backfill's business

ITEMS_A_USER: Final = 8
USERS_REMEMBERED: Final = 1_000
"""What the memory holds at most: about 45 bytes an item, 0.4 MB in all in the worst case."""

CHECK: Final = 60.0  # Seconds after which also the work of those who rest is looked at, to see whether it is done

NOT_ASKED: Final = ""  # Stands for the mark of work that was seen and that no run was asked for yet


class Asked(NamedTuple):
    times: int  # How often a run was asked for the same work
    at: float  # When it was last asked for, epoch seconds
    items: Mapping[str, str]  # Item -> mark of the work a run was asked for, or `NOT_ASKED`


_NEVER: Final = Asked(0, 0.0, {})


@dataclass(frozen=True, slots=True)
class Memory:
    """What one tick leaves to the next."""

    position: str | None = None  # Of the last look at the changes; opaque
    users: Mapping[str, Asked] = field(default_factory=dict)  # What is remembered of users, by partition key
    checked: float = 0.0  # When the work of resting users was last looked at, epoch seconds

    def to_text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, text: str | None) -> Self:
        """What `to_text` made; one that nobody can read is empty, and everything is looked at afresh."""
        try:
            stored = json.loads(text or "{}")
            # Not by pydantic: the id of an odd document may hold half a surrogate pair.
            users = {key: Asked(int(times), at, dict(items)) for key, (times, at, items) in stored["users"].items()}
            return cls(stored["position"], users, float(stored["checked"]))
        except (ValueError, TypeError, AttributeError, KeyError):
            return cls()

    def watched(self, busy: Collection[str], now: float) -> tuple[frozenset[str], frozenset[str]]:
        """Users whose remembered work has to be looked at again, and the items of that work.

        Those with a run under way are left until it has ended; those who rest, except once a minute.
        """
        all_of_them = not _recent(self.checked, now, CHECK)
        keys = {
            key
            for key, asked in self.users.items()
            if key not in busy and (all_of_them or not _rests(asked, now)) and asked.items
        }
        return frozenset(keys), frozenset(item for key in keys for item in self.users[key].items)


@dataclass(frozen=True, slots=True)
class ContentPlan:
    together: tuple[tuple[str, ...], ...]  # Users of each run over several
    alone: tuple[str, ...]  # Users who get a run of their partition
    waiting: tuple[str, ...]  # Users with new work that this tick does not ask for, because there are too many
    busy: tuple[str, ...]  # Users with work whose run or backfill is not done
    # Users with work that two runs did not help; asked for again after an hour, or with something new
    resting: tuple[str, ...]
    unknown: tuple[str, ...]  # Users with work whose partition key does not exist yet: the users sensor adds it
    memory: Memory

    @property
    def asked(self) -> tuple[str, ...]:
        return (*self.alone, *(key for group in self.together for key in group))


def plan_content(
    works: Iterable[Work],
    memory: Memory,
    judged: Collection[str],  # Users of the memory whose items were looked at: work not in `works` is done
    *,
    existing: Collection[str],
    busy: Collection[str],  # Keys that queued and started runs, or backfills, are about
    now: float,  # Epoch seconds
    # Queued and started runs that earlier ticks asked for: over several users, and of single partitions
    unfinished: tuple[int, int] = (0, 0),
    # True if other runs are under way: then one user goes into a run like several, which does not wait for the pool
    # that the others fill
    others_run: bool = False,
) -> ContentPlan:
    """Decide for whom to ask a run."""
    by_key: defaultdict[str, list[Work]] = defaultdict(list)
    for work in works:
        by_key[work.key].append(work)
    # Whoever was looked at and shows no work is done and forgotten, who was not looked at stays as remembered.
    users = {key: asked for key, asked in memory.users.items() if key in by_key or key not in judged}
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for key, found in by_key.items():
        asked = memory.users.get(key, _NEVER)
        users[key] = _seen(asked, found, whole=key in judged)
        if key not in existing:
            keys["unknown"].append(key)
        elif key in busy:
            keys["busy"].append(key)
        elif _is_new(asked, found):
            keys["first"].append(key)
        elif asked.times == 1 or not _recent(asked.at, now, ASK_AGAIN):
            keys["again"].append(key)
        else:
            keys["resting"].append(key)
    first, again = keys["first"], keys["again"]
    groups, single = (max(0, UNFINISHED_AT_MOST - count) for count in unfinished)
    together, alone = jobs.in_groups(first)[: min(groups, GROUPS_A_TICK)], again
    if len(first) == 1 and not others_run:
        together, alone = [], [*first, *again]
    alone = alone[: min(single, ALONE_A_TICK)]
    for key in (*alone, *(each for group in together for each in group)):
        marks = {work.item: work.mark for work in by_key[key]}
        items = {item: marks.get(item, mark) for item, mark in users[key].items.items()}
        users[key] = Asked(1 if key in first else memory.users[key].times + 1, round(now), items)
    plan = ContentPlan(
        tuple(map(tuple, together)),
        tuple(alone),
        waiting=(),
        busy=tuple(keys["busy"]),
        resting=tuple(keys["resting"]),
        unknown=tuple(keys["unknown"]),
        memory=Memory(memory.position, _bounded(users), memory.checked if _recent(memory.checked, now, CHECK) else now),
    )
    return replace(plan, waiting=tuple(key for key in (*first, *again) if key not in plan.asked))


def _is_new(asked: Asked, found: Iterable[Work]) -> bool:
    """True if there is work that no run was asked for. A user with more of it than is remembered has so only by event,
    or what lies beyond the memory would be new at every compare."""
    full = len(asked.items) >= ITEMS_A_USER and asked.times > 0
    return any(asked.items.get(work.item) != work.mark for work in found if work.touched or not full)


def _seen(asked: Asked, found: Iterable[Work], *, whole: bool) -> Asked:
    """Remember that there is this work, without a run having been asked for what of it is new."""
    items = {} if whole else dict(asked.items)
    # What is remembered already first, so that it stays so; then what an event named.
    for work in sorted(found, key=lambda work: (work.item not in asked.items, not work.touched)):
        if work.item in items or len(items) < ITEMS_A_USER:
            items[work.item] = work.mark if asked.items.get(work.item) == work.mark else NOT_ASKED
    return asked._replace(items=items)


def _rests(asked: Asked, now: float) -> bool:
    return asked.times > 1 and NOT_ASKED not in asked.items.values() and _recent(asked.at, now, ASK_AGAIN)


def _recent(at: float, now: float, seconds: float) -> bool:
    """True if it was less than so long ago. A moment still to come is that of a clock that was wrong."""
    return -1 < now - at < seconds


def _bounded(users: Mapping[str, Asked]) -> dict[str, Asked]:
    """The users asked for last; whoever is left out is found again by the compare."""
    if len(users) <= USERS_REMEMBERED:
        return dict(users)
    latest = sorted(users.items(), key=lambda entry: (entry[1].times > 0, entry[1].at), reverse=True)
    return dict(latest[:USERS_REMEMBERED])


NEW_CONTENT_SENSOR: Final = "new_content_sensor"

_SECONDS: Final = 5  # As often as Dagster's daemon looks at any sensor


def log_users(context: dg.SensorEvaluationContext, lines: Iterable[tuple[int, Sequence[str], str]]) -> None:
    """A line of the tick's log, at its level, for each list of users that is not empty: how many (`{}`), and who."""
    for level, users, said in lines:
        if users:
            context.log.log(level, f"{said.format(len(users))}: {listed(users)}")


def make_content_sensor(changed_users: dg.JobDefinition, clock: Callable[[], float] = time.time) -> dg.SensorDefinition:
    def look(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[PipelineResource]) -> dg.SensorResult:
        now = clock()
        existing = context.instance.get_dynamic_partitions(USERS)
        # Before the look: work of a run that ends meanwhile is seen here as busy, and done or not at the next tick.
        busy = jobs.busy_keys(
            context.instance, existing, apart_from={VERIFY_USERS}, one_by_one={SYNC_CHANGED_USERS}
        ).ahead
        together, alone, others = _unfinished(context.instance)
        memory = Memory.of(context.cursor)
        judged, watched = memory.watched(busy, now)
        changes = pipeline.open().changes.look(memory.position, watched, lambda: pipeline.accounts().values())
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
        _log(context, plan, changes)
        tags = {PRIORITY: URGENT, jobs.REASON: "new content"}
        requests = [jobs.request_alone(key, tags) for key in plan.alone]
        requests += [jobs.request_together(group, tags) for group in plan.together]
        return dg.SensorResult(
            run_requests=requests,
            cursor=replace(plan.memory, position=changes.position).to_text(),
            skip_reason=None if requests else dg.SkipReason(_quiet(plan, changes)),
        )

    return dg.sensor(
        name=NEW_CONTENT_SENSOR,
        jobs=[jobs.sync_users, changed_users],
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Launches a sync for users who have documents without a record, records of removed documents, or "
        "edited documents: one user by a run of the partition, several by one run together. Reads MongoDB's change "
        "stream, and compares links with documents every few minutes, or when there is no stream.",
    )(look)


def _unfinished(instance: dg.DagsterInstance) -> tuple[int, int, int]:
    """How many runs are queued or started: ours over several users, ours of single partitions, and those of others."""
    ours = {jobs.SENSOR: NEW_CONTENT_SENSOR}
    together, alone = (
        instance.get_runs_count(dg.RunsFilter(job_name=name, tags=ours, statuses=jobs.UNFINISHED))
        for name in (SYNC_CHANGED_USERS, jobs.SYNC_USERS)
    )
    return together, alone, instance.get_runs_count(dg.RunsFilter(statuses=jobs.UNFINISHED)) - together - alone


def _log(context: dg.SensorEvaluationContext, plan: ContentPlan, changes: Changes) -> None:
    """The tick's log: what was found, and what a person may have to do."""
    if changes.fallback:
        context.log.warning(f"Everything is compared, because {changes.fallback}.")
    if changes.failed:
        context.log.error(f"The compare goes on at the next tick: {changes.failed}")
    if changes.compared:
        context.log.info(f"The look {changes.compared}.")
    if plan.waiting:
        level = logging.WARNING if len(plan.waiting) > MANY else logging.INFO
        context.log.log(level, f"{len(plan.waiting)} more users wait for the next ticks.{_advice(plan)}")
    first = {work.key: work for work in reversed(changes.works)}
    asked = [f"{key} ({first[key].cause} {first[key].item})" for key in plan.asked]
    lines = (
        (logging.INFO, asked, "{} users have new work"),
        (logging.INFO, plan.busy, "{} users are being synchronised or wait for it"),
        (logging.INFO, plan.unknown, "{} users have no partition yet; users_sensor adds it"),
        (logging.INFO, plan.resting, "{} users have work that two runs did not help"),
    )
    log_users(context, lines)


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
