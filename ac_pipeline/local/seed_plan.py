"""The whole demo as values, before anything is made: who there is, what they made, and what should become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ac_pipeline.errors import Misconfigured
from ac_pipeline.local import seed_paintings, seed_tapes, seed_texts
from ac_pipeline.local.seed_kinds import Share, fill
from ac_pipeline.local.seed_maker import Maker
from ac_pipeline.local.seed_people import people
from ac_pipeline.local.seed_values import TYPES, Item, Outcome, Past, Person, SeedSummary, Situation, TypeSummary

LEAST_USERS = 8
LEAST_ITEMS = 100

_SHARES: tuple[tuple[Share, float, int], ...] = (
    (seed_paintings.SHARE, 0.28, 0),
    (seed_texts.MOODS, 0.22, 0),
    (seed_texts.PIECES, 0.03, 8),
    (seed_tapes.SHARE, 0.015, 8),
)
"""Share of all items, and the least number; what is left is kidlisp, about 45 %."""


@dataclass(frozen=True, slots=True)
class Demo:
    """People (the guest is not among them) and items, in the order in which everything is made."""

    maker: Maker
    cast: tuple[Person, ...]
    items: tuple[Item, ...]


def plan_demo(users: int, items: int, seed: int) -> Demo:
    """The demo of this size; the same numbers give the same demo.

    Args:
        users: People, 8 or more.
        items: Documents, 100 or more; a few become records without a document instead.
        seed: Another one, another demo.

    Raises:
        Misconfigured: Too few of either.
    """
    if users < LEAST_USERS or items < LEAST_ITEMS or items < 2 * users:
        raise Misconfigured(
            f"the demo needs at least {LEAST_USERS} users, {LEAST_ITEMS} items and two items a user;"
            f" asked were {users} users and {items} items"
        )
    maker = Maker(seed)
    cast = people(maker, users)
    made: list[Item] = []
    for share, part, least in _SHARES:
        made += fill(maker, share, cast, max(least, round(items * part)))
    made += fill(maker, seed_texts.KIDLISP, cast, max(users, items - len(made)))
    return Demo(maker, tuple(cast), tuple(made))


def summarise(demo: Demo, *, users: int, objects: int, media_bytes: int, seconds: float) -> SeedSummary:
    """What should be found, by counting what was planned."""
    blocked = Counter(
        person.situation.blocked
        for person in demo.cast
        if person.situation.blocked and person.situation is not Situation.SISTER_TENANT
    )
    return SeedSummary(
        users=users,
        ready=1 + sum(person.ready for person in demo.cast),
        blocked={error_class: count for error_class, count in sorted(blocked.items()) if error_class},
        types={type: _of_type([item for item in demo.items if item.type == type]) for type in TYPES},
        objects=objects,
        media_bytes=media_bytes,
        seconds=seconds,
    )


def _of_type(items: Iterable[Item]) -> TypeSummary:
    everything = list(items)
    present = [item for item in everything if item.in_mongo]
    copied = Counter(item.outcome for item in present if item.past is Past.COPIED)
    outcomes = Counter(item.outcome for item in present)
    quarantined = Counter(item.error_class for item in present if item.outcome is Outcome.QUARANTINED)
    return TypeSummary(
        documents=len(present),
        published=outcomes[Outcome.PUBLISHED],
        withdrawn=outcomes[Outcome.WITHDRAWN],
        owner_deleted=outcomes[Outcome.OWNER_DELETED],
        purged=outcomes[Outcome.PURGED],
        blocked=outcomes[Outcome.BLOCKED],
        quarantined=dict(sorted(quarantined.items())),
        deferred=outcomes[Outcome.DEFERRED],
        kinds=dict(sorted(Counter(item.kind for item in present).items())),
        records=sum(item.past.records for item in everything),
        unchanged=sum(item.unchanged for item in present),
        duplicates=sum(item.past.records - 1 for item in present if item.past.records > 1),
        orphans=sum(not item.in_mongo for item in everything),
        withdrawn_records=sum(item.past.records for item in present if item.outcome is Outcome.WITHDRAWN),
        copies=copied[Outcome.PUBLISHED],
        withdrawn_copies=copied[Outcome.WITHDRAWN],
    )
