"""The users sensor: it alone adds and removes partition keys. What it decides is in `defs/keys.py`."""

import dagster as dg

from ac_pipeline.defs.busy import busy_keys
from ac_pipeline.defs.jobs import sync_users
from ac_pipeline.defs.keys import plan_keys, remember
from ac_pipeline.defs.partitions import USERS, users
from ac_pipeline.defs.pipeline import PipelineResource

RUNS_A_TICK = 100
"""Most runs one tick requests (Dagster facts, "Sensors, automation, pools")."""


@dg.sensor(
    name="users_sensor",
    job=sync_users,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Keeps the partition keys equal to the users of the platform: adds new ones, removes vanished ones "
    "once no run or backfill needs them, and launches a run for a key that passed to another user.",
)
def users_sensor(context: dg.SensorEvaluationContext, pipeline: dg.ResourceParam[PipelineResource]) -> dg.SensorResult:
    """One look at the accounts. A failed read fails the tick and changes no key."""
    owners = {key: account.id for key, account in pipeline.accounts().items()}
    existing = context.instance.get_dynamic_partitions(USERS)
    vanished = [key for key in existing if key not in owners]
    busy = busy_keys(context.instance, existing).keys if vanished else frozenset()
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
