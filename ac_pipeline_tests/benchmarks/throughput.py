"""How fast a first backfill of text records is, beside the bare PDS and beside the original's way, in one run.

Four arms in turn, several rounds, each on new accounts of the same PDS:

  pipeline   documents in MongoDB to records, links and ledger; signed in before, as the bare loop is
  sign-in    the same with its sign-ins, each 350 ms by the PDS's design
  bare       a minimal loop: signed in before, records built before, sorted `applyWrites` batches of 100, user by user
  original   one sign-in and one `createRecord` per record, 10 at a time (on a sample: it is slow)

At last some users in whom nothing changed are synchronised: what that asks of the PDS and of MongoDB is counted, which
no other load on the machine changes.

Prints one table: records per second of each arm, the median ratio of the rounds with its spread, and the machine's
load; quote the ratios, not the seconds. `--json FILE` keeps all of it; `make bench` keeps it in `bench.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from bson import ObjectId
from pymongo import monitoring

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.atproto.syntax import document_tid
from ac_pipeline.atproto.types import Write
from ac_pipeline.items import Derived
from ac_pipeline.local.services.pds_accounts import NewAccount, PdsAccounts
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.registry import media_type
from ac_pipeline.mongo.ledger.collections import MongoSessionStore
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, new_run_id
from ac_pipeline_tests.benchmarks.counting import Requests, Statements, counted_sync
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.benchmarks.services import open_services

TYPES = ("mood", "piece", "kidlisp")
BATCH = 100
ORIGINAL_SAMPLE = 100
ORIGINAL_AT_ONCE = 10
START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bench:
    """The services and the pipeline all arms use."""

    pipeline: Pipeline
    accounts: PdsAccounts
    sessions: MongoSessionStore
    database: Any
    url: str


def documents(owner: str, count: int, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Moods, pieces and kidlisp of one user in the proportions of the heavy user (facts, section 12.1)."""
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in TYPES}
    for number in range(count):
        base = {
            "_id": ObjectId(rng.randbytes(12)),
            "user": owner,
            "when": START + timedelta(milliseconds=rng.randrange(10**10)),
        }
        if number % 10 == 0:
            made["mood"].append({**base, "mood": f"feeling {rng.choice('abcdefgh') * rng.randrange(3, 60)}"})
        elif number % 100 == 1:
            made["piece"].append({**base, "slug": f"piece-{number}"})
        else:
            source = "\n".join(f"(ink {rng.randrange(256)} {rng.randrange(256)})" for _ in range(rng.randrange(2, 20)))
            code = "".join(rng.choices("bcdfghjklmnpqrstvwxyz23456789", k=8))
            made["kidlisp"].append({**base, "code": code, "source": source})
    return made


def new_users(bench: Bench, count: int) -> list[tuple[Account, NewAccount]]:
    """Users with accounts on the PDS, as the platform keeps them."""
    made = []
    for _ in range(count):
        name = f"b{secrets.token_hex(8)}"
        new = bench.accounts.create(f"{name}.test", f"pw-{ObjectId()}")
        account = Account(f"auth0|{ObjectId()}", name, new.did, name, new.handle, None, new.password)
        made.append((account, new))
    return made


def sign_in(bench: Bench, users: Sequence[tuple[Account, NewAccount]]) -> Sequence[tuple[Account, NewAccount]]:
    """Leave the sessions where an earlier run would have left them."""
    for _, new in users:
        bench.sessions.save(new.did, Tokens(new.token, ""))
    return users


def run_pipeline(bench: Bench, users: Sequence[tuple[Account, NewAccount]], items: int, rng: random.Random) -> float:
    for account, _ in users:
        for name, rows in documents(account.id, items // len(users), rng).items():
            if rows:
                bench.database[media_type(name).collection].insert_many(rows)
    selection = Selection(types=tuple(media_type(name) for name in TYPES))
    started = time.perf_counter()
    workers = bench.pipeline.settings.ac_concurrent_users
    accounts = [account for account, _ in users]
    synced = sync_accounts(bench.pipeline.engine, accounts, selection, new_run_id(), workers)
    reports = [report for _, report in synced]
    seconds = time.perf_counter() - started
    created = sum(tally.created for report in reports for tally in report.types.values())
    if created != items // len(users) * len(users):
        raise SystemExit(f"the pipeline wrote {created} of {items} records: {[r.error or r.blocked for r in reports]}")
    return created / seconds


def built(account: Account, items: int, rng: random.Random) -> list[Write]:
    """The same records, ready to send, sorted by key."""
    writes = []
    for name, rows in documents(account.id, items, rng).items():
        media = media_type(name)
        for raw in rows:
            from_mongo = {**raw, "when": raw["when"].replace(tzinfo=None)}
            document = interpret(media, from_mongo)
            rkey = document_tid(media.nsid, document.id, document.when)
            writes.append(Write("create", media.nsid, rkey, media.build_record(document, Derived())))
    return sorted(writes, key=lambda write: (write.collection, write.rkey))


def run_bare(bench: Bench, users: Sequence[tuple[Account, NewAccount]], items: int, rng: random.Random) -> float:
    work = [(new, built(account, items // len(users), rng)) for account, new in users]
    sent = 0
    with httpx.Client(base_url=bench.url, timeout=60) as http:
        started = time.perf_counter()
        for new, writes in work:
            for start in range(0, len(writes), BATCH):
                batch = writes[start : start + BATCH]
                body = {"repo": new.did, "writes": [_operation(write) for write in batch]}
                headers = {"authorization": f"Bearer {new.token}"}
                http.post("/xrpc/com.atproto.repo.applyWrites", json=body, headers=headers).raise_for_status()
                sent += len(batch)
        return sent / (time.perf_counter() - started)


def run_original(bench: Bench, users: Sequence[tuple[Account, NewAccount]], rng: random.Random) -> float:
    (account, new), *_ = users
    writes = built(account, ORIGINAL_SAMPLE, rng)

    def create(write: Write) -> None:
        with httpx.Client(base_url=bench.url, timeout=60) as http:
            login = {"identifier": new.did, "password": new.password}
            session = http.post("/xrpc/com.atproto.server.createSession", json=login).raise_for_status().json()
            body = {"repo": new.did, "collection": write.collection, "record": write.value}
            headers = {"authorization": f"Bearer {session['accessJwt']}"}
            http.post("/xrpc/com.atproto.repo.createRecord", json=body, headers=headers).raise_for_status()

    started = time.perf_counter()
    with ThreadPoolExecutor(ORIGINAL_AT_ONCE) as pool:
        list(pool.map(create, writes))
    return len(writes) / (time.perf_counter() - started)


def _operation(write: Write) -> dict[str, Any]:
    kind = "com.atproto.repo.applyWrites#create"
    return {"$type": kind, "collection": write.collection, "rkey": write.rkey, "value": write.value}


def measure(bench: Bench, users: int, items: int, rounds: int) -> dict[str, list[float]]:
    """Records per second of each arm, a value a round; the order of the arms changes from round to round."""
    found: dict[str, list[float]] = {"pipeline": [], "sign-in": [], "bare": [], "original": []}
    for number in range(rounds):
        rng = random.Random(number)
        arms: dict[str, Callable[[], float]] = {
            "pipeline": lambda rng=rng: run_pipeline(bench, sign_in(bench, new_users(bench, users)), items, rng),
            "sign-in": lambda rng=rng: run_pipeline(bench, new_users(bench, users), items, rng),
            "bare": lambda rng=rng: run_bare(bench, new_users(bench, users), items, rng),
            "original": lambda rng=rng: run_original(bench, new_users(bench, 1), rng),
        }
        for name in sorted(arms, reverse=bool(number % 2)):
            found[name].append(arms[name]())
        sys.stderr.write(f"round {number + 1}: " + ", ".join(f"{n} {v[-1]:.0f}/s" for n, v in found.items()) + "\n")
    return found


def nothing_to_do(bench: Bench, users: int, items: int, statements: Statements) -> dict[str, Any]:
    """What the second sync of some users asks for, as `counted_sync` says it."""
    people = sign_in(bench, new_users(bench, users))
    run_pipeline(bench, people, items, random.Random(1_000_000))
    server = Requests(bench.pipeline.engine.server)
    bench.pipeline.engine.server = server  # type: ignore[assignment]
    accounts = [account for account, _ in people]
    counted_sync(bench.pipeline, accounts, statements, server)  # the types the round above left out
    return counted_sync(bench.pipeline, accounts, statements, server)


RATIOS = (
    ("first sync, signed in alike", "pipeline", "bare"),
    ("first sync with its sign-ins", "sign-in", "bare"),
    ("first sync with its sign-ins", "sign-in", "original"),
)


def table(found: dict[str, list[float]], again: dict[str, Any], users: int, items: int) -> dict[str, Any]:
    """All that was measured, as JSON values: rates of both sides, their ratios, what a second sync asked for, load."""
    rows = []
    for what, one, other in RATIOS:
        ratios = [mine / theirs for mine, theirs in zip(found[one], found[other], strict=True)]
        rows.append(
            {
                "what": what,
                "against": other,
                "ours": round(statistics.median(found[one])),
                "theirs": round(statistics.median(found[other])),
                "ratio": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
            }
        )
    rates = {name: [round(value, 1) for value in values] for name, values in found.items()}
    load = [round(value, 1) for value in os.getloadavg()]
    sizes = {"users": users, "items": items, "rounds": len(found["bare"]), "cores": os.cpu_count(), "load": load}
    return {**sizes, "ratios": rows, "nothing_to_do": again, "records_per_second": rates}


def show(made: dict[str, Any]) -> None:
    load = ", ".join(str(value) for value in made["load"])
    sys.stdout.write(
        f"{made['items']} text records of {made['users']} users, {made['rounds']} rounds, {made['cores']} cores, "
        f"load {load} at the end\n\n"
        f"{'':30} {'against':>10} {'ours/s':>8} {'theirs/s':>8} {'ratio':>7}  least to most\n"
    )
    for row in made["ratios"]:
        sys.stdout.write(
            f"{row['what']:30} {row['against']:>10} {row['ours']:8} {row['theirs']:8} {row['ratio']:7.2f}  "
            f"{row['least']:.2f} to {row['most']:.2f}\n"
        )
    again = made["nothing_to_do"]
    statements = sum(each["count"] for each in again["statements"].values())
    sys.stdout.write(
        f"\nnothing to do: {statements / made['users']:.1f} statements a user, requests {again['requests']}, "
        f"{again['cpu_seconds']} CPU s\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep the table and every round here")
    options = parser.parse_args()
    statements = Statements()
    monitoring.register(statements)
    with open_services() as (pipeline, database, made):
        for name in TYPES:
            database[media_type(name).collection].create_index("user")
        sessions = MongoSessionStore(database.client[pipeline.settings.ac_ledger_database]["sessions"])
        bench = Bench(pipeline, made, sessions, database, pipeline.settings.pds_url)
        found = measure(bench, options.users, options.items, options.rounds)
        again = nothing_to_do(bench, options.users, options.items, statements)
    measured = table(found, again, options.users, options.items)
    show(measured)
    if options.json is not None:
        options.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    end_in_order()
    main()
