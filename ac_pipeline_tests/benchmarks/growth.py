"""What a sync costs as users and items become more: whether the cost of a user and of an item stays what it is.

Users with a few items of each text type, so many at each step, are synchronised, then again with nothing to do, and
all accounts, one of them, and the hourly look are read. Then one user with more and more items is synchronised, with
nothing to do, and with everything compared, each in a process of its own, whose memory is measured.

Costs are CPU seconds of the pipeline's process, which other load on the machine changes little, and statements and
requests, which it does not change; seconds of the wall are shown beside them. The last column is the cost of a user or
an item against that of the first step. Run it with `make bench-growth`; `--json FILE` keeps it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from pymongo import monitoring

from ac_pipeline.accounts import Account
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.settings import Settings
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import new_run_id, open_pipeline
from ac_pipeline_tests.benchmarks.arms_text import documents
from ac_pipeline_tests.benchmarks.counting import Requests, Statements, counted_sync
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.benchmarks.services import Bench, open_bench

ITEMS: Final = 7
"""Of a user: 29,840 items of 4,202 users."""
LOOK_SECONDS: Final = 600.0
ROUNDS: Final = 3
HEAVY: Final = (("first", {}), ("again", {}), ("compared", {"full": True}))

Row = dict[str, Any]


def add_users(bench: Bench, count: int, items: int, rng: random.Random) -> list[Account]:
    """So many more users, as the platform keeps them, signed in, with their documents."""
    made = bench.signed_in(count)
    for account, _ in made:
        bench.insert(documents(account.id, items, rng))
    return [account for account, _ in made]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it returns, with the median CPU seconds and seconds of some rounds."""
    cpu, wall, found = [], [], None
    for _ in range(ROUNDS):
        began = time.process_time(), time.perf_counter()
        found = work()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return found, sorted(cpu)[ROUNDS // 2], sorted(wall)[ROUNDS // 2]


def of_users(bench: Bench, sizes: Sequence[int], statements: Statements) -> list[Row]:
    """A row for each thing that is done at each size, with the cost of one user."""
    rows, people, rng = list[Row](), list[Account](), random.Random(1)
    pipeline, server = bench.pipeline, Requests(bench.pipeline.engine.server)
    pipeline.engine.server = server  # type: ignore[assignment]
    for size in sizes:
        new = add_users(bench, size - len(people), ITEMS, rng)
        people += new
        for what, whom in (("first sync", new), ("nothing to do", people)):
            found = counted_sync(pipeline, whom, statements, server)
            asked = sum(each["count"] for each in found["statements"].values())
            rows.append(
                {
                    "what": what,
                    "size": size,
                    "of": len(whom),
                    "cpu": found["cpu_seconds"],
                    "wall": found["wall_seconds"],
                    "statements": asked,
                    "requests": sum(found["requests"].values()),
                }
            )
        for what, work in (
            ("all accounts", pipeline.accounts.all),
            ("one account", partial(pipeline.accounts.find, people[0].key)),
            ("hourly look", partial(_look, bench)),
        ):
            statements.clear()
            _, cpu, wall = timed(work)
            asked = statements.count.total() // ROUNDS
            rows.append({"what": what, "size": size, "of": size, "cpu": cpu, "wall": wall, "statements": asked})
    return rows


def _look(bench: Bench) -> None:
    """What `incremental_sync` reads before it asks for runs; here for none."""
    pipeline = bench.pipeline
    listed, marks = list(pipeline.server.list_repositories()), pipeline.ledger.checkpoints()
    served = {each.did for each in listed if each.active}
    found = pipeline.changes.look_at_everybody(pipeline.accounts.all(), marks.keys(), served, LOOK_SECONDS)
    if found.failed is not None or found.works:
        raise SystemExit(f"the look found {len(found.works)} pieces of work ({found.failed})")


def of_items(bench: Bench, settings: Settings, sizes: Sequence[int]) -> list[Row]:
    """A row for each sync of one user at each size, with the cost of one item."""
    rows, rng = list[Row](), random.Random(2)
    for size in sizes:
        (account,) = add_users(bench, 1, size, rng)
        for what, how in HEAVY:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                rows.append(
                    {
                        "what": f"one user, {what}",
                        "size": size,
                        "of": size,
                        **pool.submit(synced, settings, account, how).result(),
                    }
                )
    return rows


def synced(settings: Settings, account: Account, how: dict[str, bool]) -> Row:
    """One sync of one account in this process: what it took, and what the process held at most."""
    with open_pipeline(settings) as pipeline:
        began = time.process_time(), time.perf_counter()
        ((_, report),) = sync_accounts(pipeline.engine, [account], Selection(**how), new_run_id(), 1)
        took = time.process_time() - began[0], time.perf_counter() - began[1]
    if report.error is not None or report.blocked is not None:
        raise SystemExit(f"{report.user}: {report.error or report.blocked}")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": took[0], "wall": took[1], "megabytes": round(held)}


def show(rows: Sequence[Row]) -> None:
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    sys.stdout.write(
        f"load {load} on {os.cpu_count()} cores\n\n{'':22}{'size':>8}{'CPU s':>9}{'wall s':>9}{'statements':>12}"
        f"{'requests':>10}{'MB':>6}{'CPU ms each':>13}{'of the first':>14}\n"
    )
    first: dict[str, float] = {}
    for row in sorted(rows, key=lambda each: each["what"]):
        each = 1000 * row["cpu"] / row["of"]
        ratio = each / first.setdefault(row["what"], each or 1e-9)
        sys.stdout.write(
            f"{row['what']:22}{row['size']:8}{row['cpu']:9.2f}{row['wall']:9.2f}{row.get('statements', ''):>12}"
            f"{row.get('requests', ''):>10}{row.get('megabytes', ''):>6}{each:13.3f}{ratio:14.2f}\n"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, nargs="*", default=[100, 1000], help="4202 takes five minutes more")
    parser.add_argument("--items", type=int, nargs="*", default=[1000, 10_000], help="100000 takes ten minutes more")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    statements = Statements()
    monitoring.register(statements)
    with open_bench() as bench:
        for media in MEDIA_TYPES:
            bench.database[media.collection].create_index("when")
        rows = of_users(bench, options.users, statements) + of_items(bench, bench.pipeline.settings, options.items)
    show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=1))


if __name__ == "__main__":
    end_in_order()
    main()
