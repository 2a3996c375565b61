"""The users sensor: it alone adds and removes partition keys. What it decides is in `defs/keys.py`."""

from collections.abc import Iterable, Sequence

import dagster as dg

from ac_pipeline.defs.jobs import UNFINISHED, sync_users
from ac_pipeline.defs.keys import plan_keys, remember
from ac_pipeline.defs.mirror import Mirror
from ac_pipeline.defs.partitions import PARTITION, RANGE_END, RANGE_START, USERS, users

RUNS_A_TICK = 100
"""Most runs one tick requests (Dagster facts, "Sensors, automation, pools")."""

_BACKFILL_ENDED = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
_BACKFILLS_LOOKED_AT = 50
"""Newest backfills; one that still runs is hardly older than fifty others."""


@dg.sensor(
    name="users_sensor",
    job=sync_users,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Keeps the partition keys equal to the users of the platform: adds new ones, removes vanished ones "
    "once no run or backfill needs them, and launches a run for a key that passed to another user.",
)
def users_sensor(context: dg.SensorEvaluationContext, mirror: dg.ResourceParam[Mirror]) -> dg.SensorResult:
    """One look at the accounts. A failed read fails the tick and changes no key."""
    owners = {key: account.id for key, account in mirror.accounts().items()}
    existing = context.instance.get_dynamic_partitions(USERS)
    vanished = [key for key in existing if key not in owners]
    busy = _busy(context.instance, existing, vanished) if vanished else set()
    changes = plan_keys(existing, owners, context.cursor, busy)
    requested = changes.taken_over[:RUNS_A_TICK]
    changed: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if changes.add:
        changed.append(users.build_add_request(list(changes.add)))
    if changes.remove:
        changed.append(users.build_delete_request(list(changes.remove)))
    if changes.refused is not None:
        context.log.error(changes.refused)
    if changes.waiting:
        context.log.info(f"{len(changes.waiting)} keys of vanished users wait for their runs: {changes.waiting[:5]}")
    if changes.left:
        context.log.info(f"{changes.left} more keys follow in the next tick.")
    # A takeover whose run was not requested yet stays out of the memory, and is seen again at the next tick.
    settled = {key: id for key, id in owners.items() if key not in changes.taken_over[RUNS_A_TICK:]}
    if changed or requested:
        context.log.info(
            f"{len(changes.add)} keys added, {len(changes.remove)} removed, {len(requested)} passed to another user"
        )
    return dg.SensorResult(
        dynamic_partitions_requests=changed,
        run_requests=[dg.RunRequest(partition_key=key) for key in requested],
        cursor=remember(settled),
        skip_reason=None if requested else dg.SkipReason(_said(len(changes.add), len(changes.remove), changes.refused)),
    )


def _said(added: int, removed: int, refused: str | None) -> str:
    counts = f"{added} keys added, {removed} removed" if added or removed else "All keys are as they should be"
    return f"{counts}. {refused}" if refused else f"{counts}."


def _busy(instance: dg.DagsterInstance, existing: Sequence[str], vanished: Iterable[str]) -> set[str]:
    """Keys a queued or started run is about; while a backfill goes on, all that vanished (RUN-4)."""
    backfills = instance.get_backfills(limit=_BACKFILLS_LOOKED_AT)
    if any(backfill.status.value not in _BACKFILL_ENDED for backfill in backfills):
        return set(vanished)
    places = {key: place for place, key in enumerate(existing)}
    busy: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if (key := run.tags.get(PARTITION)) is not None:
            busy.add(key)
        first, last = places.get(run.tags.get(RANGE_START, "")), places.get(run.tags.get(RANGE_END, ""))
        if first is not None and last is not None:
            busy.update(existing[first : last + 1])
    return busy
