"""Whole repositories: all of them verified, and one wiped and restored, beside the bare calls of the PDS."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import libipld

from ac_pipeline.accounts import Account
from ac_pipeline.operations.removal.restore import Restore, find_snapshot
from ac_pipeline.operations.removal.snapshot import open_vault
from ac_pipeline.operations.removal.wipe import Wipe
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify_accounts
from ac_pipeline.wiring import new_run_id
from ac_pipeline_tests.benchmarks.arms_text import BATCH, TYPES, built, documents, post_batches, synced
from ac_pipeline_tests.benchmarks.rows import Group, Row, Timed
from ac_pipeline_tests.benchmarks.services import Bench

TIMES = 3  # How often everybody is verified in one round


def verification(bench: Bench, users: int, items: int) -> Group:
    """Row g: everybody's records compared with their documents."""

    @functools.cache
    def everybody() -> Sequence[Account]:
        people, rng = bench.signed_in(users), random.Random(2)
        for account, _ in people:
            bench.insert(documents(account.id, items, rng))
        synced(bench, people, TYPES, users * items)
        return [account for account, _ in people]

    workers = bench.pipeline.settings.ac_concurrent_users

    def ours(_: random.Random) -> dict[str, Timed]:
        accounts, selection = everybody(), Selection(types=TYPES)
        with bench.timed(TIMES * users) as done:
            for _ in range(TIMES):
                found = list(verify_accounts(bench.pipeline.engine, accounts, selection, workers))
        if not all(each.complete for each in found) or sum(each.verified for each in found) != users * items:
            raise SystemExit(f"the verification found {[each.to_json() for each in found if not each.complete]}")
        return {"pipeline": done}

    def bare(_: random.Random) -> dict[str, Timed]:
        accounts = everybody()
        with httpx.Client(base_url=bench.url, timeout=60) as http, ThreadPoolExecutor(workers) as pool:

            def read(account: Account) -> int:
                answer = http.get("/xrpc/com.atproto.sync.getRepo", params={"did": str(account.did)})
                return len(libipld.decode_car(answer.raise_for_status().content)[1])

            with bench.timed(TIMES * users) as done:
                for _ in range(TIMES):
                    blocks = list(pool.map(read, accounts))
        if min(blocks) <= items:
            raise SystemExit("a repository has fewer blocks than records")
        return {"bare": done}

    row = Row(
        "verification",
        "verification of everybody",
        f"bare `getRepo`, {workers} at once, blocks decoded by libipld",
        f"users/s of {users} with {items} text records each",
        "pipeline",
        "bare",
        0.8,
    )
    return Group([row], [ours, bare])


def removal(bench: Bench, items: int) -> Group:
    """Rows h: the records of one user deleted after a snapshot, and brought back from it."""
    vault = open_vault(bench.pipeline)

    def ours(rng: random.Random) -> dict[str, Timed]:
        people = bench.signed_in(1)
        account = people[0][0]
        bench.insert(documents(account.id, items, rng))
        synced(bench, people, TYPES, items)
        with bench.timed(items) as wipe:
            number = Wipe(vault, account, TYPES).plan().total
            wiped = Wipe(vault, account, TYPES, new_run_id(), confirm=number).run()
        with bench.timed(items) as restore:
            snapshot = find_snapshot(vault, account, TYPES, "latest")
            restored = Restore(vault, account, TYPES, new_run_id(), snapshot=snapshot).run()
        counts = number, sum(wiped.deleted.values()), sum(restored.restored.values())
        if counts != (items, items, items) or not (wiped.clean and restored.clean):
            raise SystemExit(f"of {items} records {counts} were planned, wiped and restored")
        return {"wipe": wipe, "restore": restore}

    def bare(rng: random.Random) -> dict[str, Timed]:
        (user,) = bench.new_users(1)
        creates = built(user[0], items, rng)
        deletes = [replace(write, action="delete", value=None) for write in creates]
        with httpx.Client(base_url=bench.url, timeout=60) as http:
            with bench.timed(items) as created:
                post_batches(http, user, creates)
            with bench.timed(items) as deleted:
                post_batches(http, user, deletes)
        return {"creates": created, "deletes": deleted}

    unit, batches = f"records/s of a user with {items} text records", f"sorted batches of {BATCH}"
    rows = [
        Row("wipe", "wipe: plan, snapshot, delete", f"bare deletes: {batches}", unit, "wipe", "deletes", 0.7),
        Row("restore", "restore from the snapshot", f"bare creates: {batches}", unit, "restore", "creates", 0.7),
    ]
    return Group(rows, [ours, bare])
