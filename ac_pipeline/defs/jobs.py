"""The jobs that people, schedules and sensors launch together, and the keys that unfinished runs use: sensors pass such
users over, and no key is removed under a run (RUN-4)."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import dagster as dg

from ac_pipeline.defs.assets.catalog import PARTITION, RANGE_END, RANGE_START, records_key
from ac_pipeline.defs.assets.records import SYNC_CHANGED_USERS, run_config
from ac_pipeline.media.registry import MEDIA_TYPES

SYNC_USERS: Final = "sync_users"

# Without the renditions: in one run of both stages, one user's failing rendition would skip the records of the whole
# range (Dagster facts, "One user fails, the others do not"), and a records run makes missing renditions by itself.
sync_users = dg.define_asset_job(
    SYNC_USERS,
    selection=dg.AssetSelection.key_prefixes("atproto"),
    description="Makes the records of some users equal to their documents, missing renditions included. To fill the "
    "renditions assets as well, launch a backfill of both: it runs the two stages apart.",
)

USERS_A_RUN: Final = 60
"""Users in one run together: a few seconds' work, so that nobody's content waits long behind somebody's tape."""
RUNS_A_TICK: Final = 100
"""Most runs one tick requests: a tick has 60 seconds (Dagster facts, "Sensors, automation, pools")."""
REASON: Final = "ac_pipeline/reason"  # Tag that says why a run was requested


def in_groups(keys: Sequence[str], size: int = USERS_A_RUN) -> list[list[str]]:
    """The keys in their order, in lists of at most `size`."""
    return [list(keys[first : first + size]) for first in range(0, len(keys), size)]


def request_alone(key: str, tags: Mapping[str, str]) -> dg.RunRequest:
    return dg.RunRequest(job_name=SYNC_USERS, partition_key=key, tags=dict(tags))


def request_together(keys: Sequence[str], tags: Mapping[str, str], *, run_key: str | None = None) -> dg.RunRequest:
    """One run of `sync_changed_users` over these users, neighbours or not."""
    return dg.RunRequest(
        run_key=run_key, job_name=SYNC_CHANGED_USERS, run_config=run_config(list(keys)), tags=dict(tags)
    )


UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Statuses of a run that may still touch its partitions."""


BACKFILL: Final = "dagster/backfill"
SCHEDULE: Final = "dagster/schedule_name"
SENSOR: Final = "dagster/sensor_name"
"""Tags of a run: what launched it."""

WILL_RETRY: Final = "dagster/will_retry"
RETRIED_AS: Final = "dagster/auto_retry_run_id"
"""Tags of a run: Dagster promises a retry, and names it."""

USERS_FIELD: Final = "users"  # Field of an op's config that lists the keys a run without partitions is about

_RECORDS: Final = frozenset(records_key(media) for media in MEDIA_TYPES)

BACKFILL_ENDED: Final = frozenset({"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"})
_BACKFILLS_LOOKED_AT: Final = 50  # Newest backfills; one that still runs is hardly older than fifty others


class Busy(NamedTuple):
    """Keys with unfinished work: of queued and started runs, and of unfinished backfills."""

    keys: set[str]  # Those of backfills as they were launched, done ones included
    ahead: set[str]  # Whoever is being synchronised or will be: their work need not be asked for


def busy_keys(
    instance: dg.DagsterInstance,
    existing: Sequence[str],  # All partition keys, in the order in which they were added: what ranges of runs refer to
    *,
    apart_from: Collection[str] = (),  # Names of jobs whose runs do not count, because they write nothing
    one_by_one: Collection[str] = (),  # Names of jobs whose runs count no more for the users they are done with
) -> Busy:
    """Look at all unfinished runs and backfills."""
    places = {key: place for place, key in enumerate(existing)}
    runs: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if run.job_name not in apart_from:
            keys = set(keys_of_run(run, existing, places))
            runs |= keys - _over(instance, run.run_id) if keys and run.job_name in one_by_one else keys
    busy = Busy(runs, set(runs))
    for backfill in instance.get_backfills(limit=_BACKFILLS_LOOKED_AT):
        if backfill.status.value not in BACKFILL_ENDED:
            launched, to_come = _keys_of_backfill(backfill, existing)
            busy.keys.update(launched)
            busy.ahead.update(to_come)
    return busy


def keys_of_run(run: dg.DagsterRun, existing: Sequence[str], places: Mapping[str, int]) -> Iterator[str]:
    """The partition keys a run is about. Its range refers to all `existing` keys in their order, with their
    `places`."""
    if (key := run.tags.get(PARTITION)) is not None:
        yield key
    first, last = places.get(run.tags.get(RANGE_START, "")), places.get(run.tags.get(RANGE_END, ""))
    if first is not None and last is not None:
        yield from existing[first : last + 1]
    ops: Any = run.run_config.get("ops")
    for op in ops.values() if isinstance(ops, Mapping) else ():
        config = op.get("config") if isinstance(op, Mapping) else None
        listed = config.get(USERS_FIELD) if isinstance(config, Mapping) else None
        if isinstance(listed, Sequence) and not isinstance(listed, str):
            yield from (str(key) for key in listed)


def _over(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """The users that a run is done with, and well: all of their records assets are materialised in it."""
    made: Counter[str] = Counter()
    events = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    for record in events.records:
        event = record.asset_materialization
        if event is not None and event.partition is not None and event.asset_key in _RECORDS:
            made[event.partition] += 1
    return {key for key, assets in made.items() if assets >= len(_RECORDS)}


def _keys_of_backfill(backfill: Any, existing: Sequence[str]) -> tuple[set[str], set[str]]:
    """The keys a backfill was launched for (all there are when it does not say, as those of older releases do not), and
    those of which some asset was neither materialised nor given up yet, as the daemon's last look has it."""
    data = backfill.asset_backfill_data
    if data is None:
        keys = set(backfill.partition_names or existing)
        return keys, keys
    launched: set[str] = set()
    to_come: set[str] = set()
    for asset, subset in data.target_subset.partitions_subsets_by_asset_key.items():
        left = set(subset.get_partition_keys())
        launched |= left
        for over in (data.materialized_subset, data.failed_and_downstream_subset):
            done = over.partitions_subsets_by_asset_key.get(asset)
            left.difference_update(done.get_partition_keys() if done is not None else ())
        to_come |= left
    return launched, to_come
