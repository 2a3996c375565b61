"""Which partition keys to add and to remove, decided from what is there and what shall be. Pure: no Dagster, no Mongo.

A key is a label that can pass from one user to another (design, section 3): who had it last tick is remembered as a
short hash of key and owner, so that an heir's first run does not wait for a change.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

KEYS_A_TICK = 10_000
"""Most keys added or removed at once (Dagster facts, "Partitions")."""

LEGAL_KEY = re.compile(r"[a-z0-9:._-]+")
"""RUN-2. Dagster checks nothing, and its own commands trip over `|` and `...`."""

_HASH_BYTES = 4
"""For each owned key in the cursor: 4,201 users take 22 kB, and one takeover in a million goes unseen for a tick."""
_FEW = 10
"""So many keys may vanish at once without suspicion."""


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What to do to the keys.

    Args:
        add: New keys, in order.
        remove: Keys nobody has any more.
        waiting: Keys to be removed whose runs are not done yet.
        taken_over: Keys that passed from one owner to another: to be run at once.
        refused: Why keys that seem to have vanished are left alone, or None.
        left: Changes that have to wait for the next tick, because there are too many.
    """

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    taken_over: tuple[str, ...] = ()
    refused: str | None = None
    left: int = 0


def plan_keys(
    existing: Sequence[str], owners: Mapping[str, str], remembered: str | None, busy: Collection[str]
) -> KeyChanges:
    """Compare the keys that exist with the accounts that do.

    When more than half of all keys would vanish, none is removed: that is a wrong database, not a wave of departures
    (the rule of DEL-5, for users).

    Args:
        existing: Keys in the instance.
        owners: Key -> account id, for every account.
        remembered: What `remember` made of the owners at the last tick, or None at the first.
        busy: Keys with a run that is queued or started.
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
