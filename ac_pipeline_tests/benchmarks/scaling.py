"""How far it goes, on paper: what a first backfill of any size takes, from figures measured on this project.

Limits are those of the forecast that `ac-pipeline plan` shows (`sync/costs.py`), sizes of runs are the project's own.
`docs/scaling.md` quotes the tables; a test holds them equal, and the model to what was measured.

Run it with `python -m ac_pipeline_tests.benchmarks.scaling [USERS ITEMS]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil

from ac_pipeline.defs.assets.catalog import RECORDS_A_RUN, RENDITIONS_A_RUN
from ac_pipeline.defs.daemon import BACKFILL_SECONDS
from ac_pipeline.sync.costs import USUAL, Bill, Ceiling, Limits, UserCost
from ac_pipeline_tests.benchmarks.ending import end_in_order

CORES = 2
LOOK_SECONDS = float(BACKFILL_SECONDS)
"""The backfill daemon looks so often; a first backfill takes three looks, of which the first is at once."""
OWN_LOOK_SECONDS = 30.0
"""Dagster's own, with which was measured what the model is compared with."""
ASSETS = 7
"""Of a user: five of records, two of renditions."""
EVENT_SECONDS = {"SQLite": 0.027, "PostgreSQL": 0.022}
"""One event of one asset and user, two each (asked for, done). SQLite: 9 to 50 ms were measured, and this fits 700
users; the ratio of the two is that of 1,000 users, 120 s against 150."""
EVENT_BYTES = 2_600
"""65 MB for 4,202 users and three assets, two events each."""
SIGN_IN_SECONDS = 0.35
"""Of the PDS's processor, whatever the password."""
ITEM_SECONDS = 0.008
"""Of all processors, blobs and database included: 20 s for 59 users with 2,500 items on two cores."""
BLOB_SHARE = 0.185
"""Of items: 921 of 4,980."""
LOOK_BYTES, SEEN_BYTES = 395, 0.5
"""Memory of one document while its type is looked at for lost ones, and the share of all that the largest type has."""
ACCOUNT_BYTES, BASE_BYTES = 620, 165_000_000
"""Memory of one account; of a run with a user of 1,200 items."""
ACCOUNTS_SECONDS, COUNTS_SECONDS = 1.1 / 29_840, 1.2 / 29_840
"""Of one document, when all accounts are read (by every run), and when the ledger is counted (by checks)."""
ENTRY_BYTES = 760
"""One entry of the ledger, before MongoDB compresses it; its three indexes are small beside it."""
RELAY = 2_500


@dataclass(frozen=True, slots=True)
class Size:
    """A platform of so many users with so many items, alike."""

    users: int
    items: int

    @property
    def runs(self) -> tuple[int, int]:
        """Of a first backfill: text, paintings and tapes together; or the last two apart."""
        renditions, records = ceil(self.users / RENDITIONS_A_RUN), ceil(self.users / RECORDS_A_RUN)
        return renditions + 2 * records, renditions + 3 * records

    @property
    def events(self) -> int:
        return self.users * ASSETS * 2

    @property
    def cost(self) -> UserCost:
        """Of the average user: a commit for text, paintings and tapes each, of 200 items at most."""
        items, blobs = ceil(self.items / self.users), round(BLOB_SHARE * self.items / self.users)
        commits = ceil((items - blobs) / 200) + 2 * min(1, ceil(blobs / 400))
        return UserCost(
            user="",
            did="",
            operations=items,
            points=3 * items,
            blob_uploads=blobs,
            commits=commits,
            sessions=1,
            largest=min(600, 3 * items),
        )

    def seconds(self, storage: str = "SQLite", *, again: bool = False, look: float = LOOK_SECONDS) -> float:
        """A backfill without limits on an idle machine of two cores; a second one finds nothing to do."""
        work = 0.0 if again else self.users * SIGN_IN_SECONDS + self.items * ITEM_SECONDS
        return 2 * look + self.events * EVENT_SECONDS[storage] + work / CORES

    def hours_under(self, limits: Limits) -> tuple[float, str]:
        """When the last user is done, and for what it waited."""
        begun = datetime(2026, 1, 1, tzinfo=UTC)
        bill = Bill(begun, limits)
        for number in range(self.users):
            bill.add(replace(self.cost, did=str(number)))
        total = bill.total()
        return (total.finishes_at - begun).total_seconds() / 3600, total.waits_for

    @property
    def memory(self) -> int:
        """Of one run, at most: all accounts, and the largest type's documents while they are looked at."""
        return int(BASE_BYTES + self.users * ACCOUNT_BYTES + self.items * SEEN_BYTES * LOOK_BYTES)


SIZES = (Size(59, 2_500), Size(700, 4_980), Size(4_202, 29_840), Size(100_000, 10_000_000))


def tables(sizes: Sequence[Size] = SIZES) -> str:
    """What docs/scaling.md shows, in Markdown."""
    usual = replace(USUAL, events=(Ceiling(RELAY, 3600.0),), headroom=0.1)
    relay = Limits(points=USUAL.points, events=usual.events, headroom=0.1)
    rows: list[tuple[str, list[str]]] = [
        ("items", [f"{each.items:,}" for each in sizes]),
        ("runs", ["{:,} to {:,}".format(*each.runs) for each in sizes]),
        ("sign-ins", [f"{each.users:,}" for each in sizes]),
        ("commits", [f"{each.users * each.cost.commits:,}" for each in sizes]),
        ("blobs uploaded", [f"{each.users * each.cost.blob_uploads:,}" for each in sizes]),
        ("requests", [f"{each.users * each.cost.requests:,}" for each in sizes]),
        ("hours without limits, SQLite", [_hours(each.seconds()) for each in sizes]),
        ("hours without limits, PostgreSQL", [_hours(each.seconds("PostgreSQL")) for each in sizes]),
        ("hours, relay's pace alone", [_waited(each, relay) for each in sizes]),
        ("hours, usual limits of the PDS too", [_waited(each, usual) for each in sizes]),
        ("hours, second backfill", [_hours(each.seconds(again=True)) for each in sizes]),
        ("ledger, MB", [f"{each.items * ENTRY_BYTES / 1e6:,.0f}" for each in sizes]),
        ("Dagster's events", [f"{each.events:,}" for each in sizes]),
        ("Dagster's storage, MB", [f"{each.events * EVENT_BYTES / 1e6:,.0f}" for each in sizes]),
        ("all accounts read, seconds a run", [f"{each.items * ACCOUNTS_SECONDS:,.1f}" for each in sizes]),
        ("ledger counted, seconds a check", [f"{each.items * COUNTS_SECONDS:,.1f}" for each in sizes]),
        ("memory of a run at most, MB", [f"{each.memory / 1e6:,.0f}" for each in sizes]),
    ]
    head = ("a first backfill", [f"{each.users:,} users" for each in sizes])
    lines = [head, ("---", ["---"] * len(sizes)), *rows]
    return "".join(f"| {name} | {' | '.join(values)} |\n" for name, values in lines)


def measured() -> Iterable[tuple[str, float, float, float]]:
    """What was measured, at least and at most, and what the model says."""
    small, middle, large, _ = SIZES
    yield "59 users, first backfill, seconds", 85, 115, small.seconds(look=OWN_LOOK_SECONDS)
    yield "59 users, second backfill, seconds", 80, 95, small.seconds(again=True, look=OWN_LOOK_SECONDS)
    yield "700 users, first backfill, seconds", 474, 474, middle.seconds(look=OWN_LOOK_SECONDS)
    yield "700 users, second backfill, seconds", 330, 330, middle.seconds(again=True, look=OWN_LOOK_SECONDS)
    yield "700 users, runs of the second backfill", 10, 10, middle.runs[0]
    yield "4,202 users, runs of text", 24, 24, ceil(large.users / RECORDS_A_RUN)
    yield "4,202 users, MB of Dagster's storage for three assets", 65, 65, large.users * 6 * EVENT_BYTES / 1e6
    yield "4,202 users, seconds until all accounts are read", 1.1, 1.1, large.items * ACCOUNTS_SECONDS


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"


def _waited(size: Size, limits: Limits) -> str:
    hours, reason = size.hours_under(limits)
    own = size.seconds() / 3600
    return _hours(3600 * own) if own > hours else f"{_hours(3600 * hours)} ({reason.partition(' (')[0]})"


if __name__ == "__main__":
    end_in_order()
    given = [int(word.replace(",", "")) for word in sys.argv[1:3]]
    sys.stdout.write(tables([Size(*given)] if given else SIZES))
    for what, least, most, said in measured():
        sys.stdout.write(f"{what}: measured {least:g}{f' to {most:g}' if most != least else ''}, model {said:.4g}\n")
