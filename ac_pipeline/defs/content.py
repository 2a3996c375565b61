"""Whom to ask a run for, decided from the work there is and from what was asked before. Pure: no Dagster, no Mongo.

Work that is new is asked for at once: one user by a run of the partition, several by one run together. Work that is
still there after such a run gets a run of the user's own partition, which turns red if it fails; after that it is asked
for again only when the user has something new, or an hour has passed. What the memory of this holds is never the truth
about the work: a lost one costs runs that write nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ac_pipeline.mongo.pending import Work

USERS_A_RUN: Final = 60
"""Users in one run together: a few seconds' work, so that nobody's content waits long behind somebody's tape."""
GROUPS_A_TICK: Final = 2
ALONE_A_TICK: Final = 3
UNFINISHED_AT_MOST: Final = 3
"""Runs of ours of each kind that may be queued or started: two at work and one to follow. Whoever changes meanwhile
goes into one larger run, which on a busy machine is what keeps up: most of a run's cost is its start. Each kind has its
own share, for runs of partitions may wait long behind a backfill's."""
ASK_AGAIN: Final = 3_600.0
"""Seconds after which unfinished work is asked for again although nothing about it is new."""
MANY: Final = GROUPS_A_TICK * USERS_A_RUN
"""More users than this waiting are a backfill's business."""

ITEMS_A_USER: Final = 8
USERS_REMEMBERED: Final = 1_000
"""What the memory holds at most: about 45 bytes an item, 0.4 MB in all in the worst case."""

CHECK: Final = 60.0
"""Seconds after which also the work of those who rest is looked at, to see whether it is done."""

NOT_ASKED: Final = ""
"""Stands for the mark of work that was seen and that no run was asked for yet."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is remembered of one user.

    Args:
        items: Item -> mark of the work a run was asked for, or `NOT_ASKED`.
        times: How often a run was asked for the same work.
        at: When it was last asked for, epoch seconds.
    """

    items: Mapping[str, str] = field(default_factory=dict)
    times: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What one tick leaves to the next.

    Args:
        position: Of the last look at the changes; opaque.
        users: What is remembered of users, by partition key.
        checked: When the work of resting users was last looked at, epoch seconds.
    """

    position: str | None = None
    users: Mapping[str, Asked] = field(default_factory=dict)
    checked: float = 0.0

    def at(self, position: str) -> Memory:
        """The same, with another place in the changes."""
        return replace(self, position=position)

    def to_text(self) -> str:
        users = {key: [each.times, int(each.at), each.items] for key, each in self.users.items()}
        stored = {"position": self.position, "users": users, "checked": int(self.checked)}
        return json.dumps(stored, separators=(",", ":"))

    @classmethod
    def of(cls, text: str | None) -> Memory:
        """What `to_text` made; one that nobody can read is empty, and everything is looked at afresh."""
        try:
            stored: Any = json.loads(text) if text else {}
            users = {
                key: Asked(dict(items), int(times), float(at))
                for key, (times, at, items) in stored.get("users", {}).items()
            }
            return cls(stored.get("position"), users, float(stored.get("checked", 0)))
        except (ValueError, TypeError, AttributeError):
            return cls()

    def watched(self, busy: Collection[str], now: float) -> tuple[frozenset[str], frozenset[str]]:
        """Users whose remembered work has to be looked at again, and the items of that work.

        Those with a run under way are left until it has ended; those who rest, except once a minute.
        """
        all_of_them = now - self.checked >= CHECK
        keys = {
            key
            for key, asked in self.users.items()
            if key not in busy and (all_of_them or not _rests(asked, now)) and asked.items
        }
        return frozenset(keys), frozenset(item for key in keys for item in self.users[key].items)


@dataclass(frozen=True, slots=True)
class ContentPlan:
    """What one tick asks for.

    Args:
        together: Users of each run over several.
        alone: Users who get a run of their partition.
        waiting: Users with new work that this tick does not ask for, because there are too many.
        busy: Users with work whose run or backfill is not done.
        resting: Users with work that two runs did not help; asked for again after an hour, or with something new.
        unknown: Users with work whose partition key does not exist yet: the users sensor adds it.
        memory: For the next tick.
    """

    together: tuple[tuple[str, ...], ...]
    alone: tuple[str, ...]
    waiting: tuple[str, ...]
    busy: tuple[str, ...]
    resting: tuple[str, ...]
    unknown: tuple[str, ...]
    memory: Memory

    @property
    def asked(self) -> tuple[str, ...]:
        """All users of all runs."""
        return (*self.alone, *(key for group in self.together for key in group))


def plan_content(
    works: Sequence[Work],
    memory: Memory,
    judged: Collection[str],
    *,
    existing: Collection[str],
    busy: Collection[str],
    now: float,
    unfinished: tuple[int, int] = (0, 0),
    others_run: bool = False,
) -> ContentPlan:
    """Decide for whom to ask a run.

    Args:
        works: What the look at the changes found.
        memory: Of the last tick.
        judged: Users of the memory whose items were looked at: work that is not in `works` is done.
        existing: All partition keys.
        busy: Keys that queued and started runs, or backfills, are about.
        now: Epoch seconds.
        unfinished: Queued and started runs that earlier ticks asked for: over several users, and of single partitions.
        others_run: Whether other runs are under way: then one user goes into a run like several, which does not wait
            for the pool that the others fill.
    """
    by_key = _by_key(works)
    # Whoever was looked at and shows no work is done and forgotten, who was not looked at stays as remembered.
    users = {key: asked for key, asked in memory.users.items() if key in by_key or key not in judged}
    first: list[str] = []
    again: list[str] = []
    places: dict[str, list[str]] = {"busy": [], "resting": [], "unknown": []}
    for key, found in by_key.items():
        asked = memory.users.get(key, Asked())
        users[key] = _seen(asked, found, whole=key in judged)
        if key not in existing:
            places["unknown"].append(key)
        elif key in busy:
            places["busy"].append(key)
        elif _is_new(asked, found):
            first.append(key)
        elif asked.times == 1 or now - asked.at >= ASK_AGAIN:
            again.append(key)
        else:
            places["resting"].append(key)
    together, alone = _runs(first, again, unfinished, others_run=others_run)
    chosen = {*alone, *(key for group in together for key in group)}
    for key in chosen:
        times = 1 if key in first else memory.users[key].times + 1
        users[key] = _remembered(users[key], by_key[key], times, now)
    waiting = tuple(key for key in (*first, *again) if key not in chosen)
    checked = now if now - memory.checked >= CHECK else memory.checked
    kept = Memory(memory.position, _bounded(users), checked)
    return ContentPlan(
        tuple(together),
        tuple(alone),
        waiting,
        tuple(places["busy"]),
        tuple(places["resting"]),
        tuple(places["unknown"]),
        kept,
    )


def _runs(
    first: Sequence[str], again: Sequence[str], unfinished: tuple[int, int], *, others_run: bool
) -> tuple[list[tuple[str, ...]], list[str]]:
    """New work in groups, old work alone, as many runs of each as there is room for."""
    groups, single = (max(0, UNFINISHED_AT_MOST - count) for count in unfinished)
    if len(first) == 1 and not others_run:
        return [], [*first, *again][: min(single, ALONE_A_TICK)]
    together = [tuple(first[i : i + USERS_A_RUN]) for i in range(0, len(first), USERS_A_RUN)]
    return together[: min(groups, GROUPS_A_TICK)], list(again[: min(single, ALONE_A_TICK)])


def _by_key(works: Iterable[Work]) -> dict[str, list[Work]]:
    found: dict[str, list[Work]] = {}
    for work in works:
        found.setdefault(work.key, []).append(work)
    return found


def _is_new(asked: Asked, found: Iterable[Work]) -> bool:
    """Whether there is work that no run was asked for. A user with more of it than is remembered has so only by event,
    or what lies beyond the memory would be new at every compare."""
    full = len(asked.items) >= ITEMS_A_USER and asked.times > 0
    return any(asked.items.get(work.item) != work.mark for work in found if work.touched or not full)


def _seen(asked: Asked, found: Sequence[Work], *, whole: bool) -> Asked:
    """Remember that there is this work, without a run having been asked for what of it is new."""
    items = {} if whole else dict(asked.items)
    for work in _in_order(asked, found):
        known = asked.items.get(work.item)
        if work.item in items or len(items) < ITEMS_A_USER:
            items[work.item] = work.mark if known == work.mark else NOT_ASKED
    return replace(asked, items=items)


def _remembered(seen: Asked, found: Sequence[Work], times: int, now: float) -> Asked:
    """Remember that a run was asked for."""
    marks = {work.item: work.mark for work in found}
    items = {item: marks.get(item, mark) for item, mark in seen.items.items()}
    return Asked(items, times, now)


def _in_order(asked: Asked, found: Sequence[Work]) -> Iterator[Work]:
    """What is remembered already first, so that it stays so; then what an event named."""
    yield from sorted(found, key=lambda work: (work.item not in asked.items, not work.touched))


def _rests(asked: Asked, now: float) -> bool:
    return asked.times > 1 and NOT_ASKED not in asked.items.values() and now - asked.at < ASK_AGAIN


def _bounded(users: Mapping[str, Asked]) -> dict[str, Asked]:
    """The users asked for last; whoever is left out is found again by the compare."""
    if len(users) <= USERS_REMEMBERED:
        return dict(users)
    latest = sorted(users.items(), key=lambda entry: (entry[1].times > 0, entry[1].at), reverse=True)
    return dict(latest[:USERS_REMEMBERED])
