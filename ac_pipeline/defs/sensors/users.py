"""The users sensor: it alone adds and removes partition keys. `plan_keys` decides which."""

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import dagster as dg

from ac_pipeline.defs.assets.catalog import USERS, users
from ac_pipeline.defs.jobs import RUNS_A_TICK, busy_keys, sync_users
from ac_pipeline.defs.pipeline import PipelineResource

KEYS_A_TICK = 10_000  # Most keys added or removed at once (Dagster facts, "Partitions")

LEGAL_KEY = re.compile(r"[a-z0-9:._-]+")  # RUN-2. Dagster checks nothing, and its own commands trip over `|` and `...`.

_HASH_BYTES = 4
"""For each owned key in the cursor: 4,201 users take 22 kB, and one takeover in a million goes unseen for a tick."""
_FEW = 10  # So many keys may vanish at once without suspicion


@dataclass(frozen=True, slots=True)
class KeyChanges:
    add: tuple[str, ...] = ()  # New keys, in order
    remove: tuple[str, ...] = ()  # Keys nobody has any more
    waiting: tuple[str, ...] = ()  # Keys to be removed whose runs are not done yet
    taken_over: tuple[str, ...] = ()  # Keys that passed from one owner to another: to be run at once
    refused: str | None = None  # Why keys that seem to have vanished are left alone, or None
    left: int = 0  # Changes that have to wait for the next tick, because there are too many


def plan_keys(
    existing: Sequence[str], owners: Mapping[str, str], remembered: str | None, busy: Collection[str]
) -> KeyChanges:
    """Compare the keys that exist with the accounts that do: `owners` has the account id of every key.

    When more than half of all keys would vanish, none is removed: that is a wrong database, not a wave of departures
    (the rule of DEL-5, for users). `remembered` is what `remember` made of the owners at the last tick, None at the
    first; `busy` keys have a run that is queued or started.
    """
    known = set(existing)
    new = [key for key in owners if key not in known and LEGAL_KEY.fullmatch(key)]
    gone = [key for key in existing if key not in owners]
    refused = None
    if len(gone) > _FEW and 2 * len(gone) > len(existing):
        refused = (
            f"{len(gone)} of {len(existing)} keys would be removed: MONGODB_NAME seems to name another database. "
            "Nothing was removed; delete keys that shall really go by hand in the UI."
        )
        gone = []
    removable = [key for key in gone if key not in busy]
    taken_over = []
    if remembered is not None:
        last = _recall(remembered)
        taken_over = [key for key, id in owners.items() if key in known and _hash(key, id) not in last]
    return KeyChanges(
        add=tuple(new[:KEYS_A_TICK]),
        remove=tuple(removable[:KEYS_A_TICK]),
        waiting=tuple(key for key in gone if key in busy),
        taken_over=tuple(taken_over),
        refused=refused,
        left=max(0, len(new) - KEYS_A_TICK) + max(0, len(removable) - KEYS_A_TICK),
    )


def remember(owners: Mapping[str, str]) -> str:
    """Who has which key, for the next tick; no id can be read from it."""
    return base64.b64encode(b"".join(sorted(_hash(key, id) for key, id in owners.items()))).decode("ascii")


def _recall(remembered: str) -> frozenset[bytes]:
    joined = base64.b64decode(remembered)
    return frozenset(joined[i : i + _HASH_BYTES] for i in range(0, len(joined), _HASH_BYTES))


def _hash(key: str, id: str) -> bytes:
    return sha256(f"{key} {id}".encode(errors="surrogateescape")).digest()[:_HASH_BYTES]


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
    remembered = {key: id for key, id in owners.items() if key not in changes.taken_over[RUNS_A_TICK:]}
    counts = f"{len(changes.add)} keys added, {len(changes.remove)} removed"
    if changed or requested:
        context.log.info(f"{counts}, {len(requested)} passed to another user")
    said = counts if changed else "All keys are as they should be"
    return dg.SensorResult(
        dynamic_partitions_requests=changed,
        run_requests=[dg.RunRequest(partition_key=key) for key in requested],
        cursor=remember(remembered),
        skip_reason=None if requested else dg.SkipReason(f"{said}. {changes.refused or ''}".strip()),
    )
