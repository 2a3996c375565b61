"""What a sync of some users with nothing to do asks of MongoDB and the PDS, and whether that grows with everybody else.

Some users with a few items of each text type are synchronised, then again with nothing to do; then the ledger and the
collections are filled with the work of others, and they are synchronised once more. Every statement is counted by
pymongo's command monitoring, by command, collection and filter, with its mean time on the server's side of the driver;
every request is counted by method. A statement whose time grows with the others is marked.

Counts are exact on any machine; times are of this one. Run it with `make bench-statements`; `--json FILE` keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pymongo import monitoring

from ac_pipeline.mongo.database import connect
from ac_pipeline_tests.benchmarks.arms_text import documents
from ac_pipeline_tests.benchmarks.counting import Requests, Statements, counted_sync
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.benchmarks.services import Bench, open_bench

ITEMS: Final = 10
GROWN: Final = 3.0
"""A statement that takes so many times as long beside the work of others is marked, if it takes a millisecond."""


def fill(bench: Bench, others: int, rng: random.Random) -> None:
    """Work of so many other users: their documents, links and ledger entries, as their syncs would have left them."""
    own = bench.pipeline.settings.ac_ledger_database
    ledger = connect(bench.pipeline.settings.mongodb_connection_string.get_secret_value())[own]["items"]
    (pattern,) = ledger.find({}, limit=1)
    for number in range(others):
        owner = f"auth0|other{number}"
        made = documents(owner, ITEMS, rng)
        bench.insert(made)
        for name, rows in made.items():
            if rows:
                ids = [str(row["_id"]) for row in rows]
                ledger.insert_many(
                    {**pattern, "_id": f"{name}:{id}", "document": id, "account": owner, "type": name} for id in ids
                )


def rounds(bench: Bench, users: int, others: int, statements: Statements) -> Iterator[tuple[str, dict[str, Any]]]:
    """The three syncs, each with what it asked for."""
    rng = random.Random(1)
    people = [account for account, _ in bench.new_users(users)]
    for account in people:
        bench.insert(documents(account.id, ITEMS, rng))
    server = Requests(bench.pipeline.engine.server)
    bench.pipeline.engine.server = server  # type: ignore[assignment]
    yield "first", counted_sync(bench.pipeline, people, statements, server)
    yield "again", counted_sync(bench.pipeline, people, statements, server)
    fill(bench, others, rng)
    yield "beside others", counted_sync(bench.pipeline, people, statements, server)


def growing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Statements that became more by half, or several times slower, beside the work of others. One that is sent now and
    then in either, such as the renewal of a lease, may be in one of them only."""
    found = []
    for name, row in after["statements"].items():
        known = before["statements"].get(name)
        if known is not None and (
            row["mean_ms"] > max(1.0, GROWN * known["mean_ms"]) or 2 * row["count"] > 3 * known["count"]
        ):
            found.append(name)
    return found


def show(users: int, others: int, found: Mapping[str, Any], grown: Sequence[str]) -> None:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    sys.stdout.write(f"{users} users, then {others} others beside them; load {load}\n")
    for title, row in found.items():
        counted = sum(each["count"] for each in row["statements"].values())
        sys.stdout.write(
            f"\n{title}: {counted} statements ({counted / users:.1f} a user), requests {row['requests']}, "
            f"{row['cpu_seconds']} CPU s\n"
        )
        for name, each in sorted(row["statements"].items(), key=lambda entry: -entry[1]["count"]):
            mark = "  GROWS" if title == "beside others" and name in grown else ""
            sys.stdout.write(f"  {each['count']:6} x {each['mean_ms']:8.2f} ms  {name}{mark}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=180)
    parser.add_argument("--others", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    statements = Statements()
    monitoring.register(statements)
    with open_bench() as bench:
        found = dict(rounds(bench, options.users, options.others, statements))
    grown = growing(found["again"], found["beside others"])
    show(options.users, options.others, found, grown)
    if options.json is not None:
        options.json.write_text(json.dumps({"users": options.users, "others": options.others, **found}, indent=1))


if __name__ == "__main__":
    end_in_order()
    main()
