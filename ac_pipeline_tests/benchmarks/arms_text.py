"""Text records: the first sync beside the bare PDS, and beside what the original does for the same documents."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from bson import ObjectId
from pymongo import UpdateOne

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import document_tid
from ac_pipeline.atproto.types import Write
from ac_pipeline.items import Derived
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.registry import media_type
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import new_run_id
from ac_pipeline_tests.benchmarks.rows import Group, Row, Timed
from ac_pipeline_tests.benchmarks.services import Bench, User

TYPES = tuple(media_type(name) for name in ("mood", "piece", "kidlisp"))
BATCH = 100
ORIGINAL_AT_ONCE = 10
START = datetime(2025, 1, 1, tzinfo=UTC)


def documents(owner: str, count: int, rng: random.Random) -> dict[str, Sequence[dict[str, Any]]]:
    """Moods, pieces and kidlisp of one user in the proportions of the heavy user (facts, section 12.1)."""
    made: dict[str, list[dict[str, Any]]] = {media.name: [] for media in TYPES}
    for number in range(count):
        base = {
            "_id": ObjectId(),
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
    return dict(made)


def record_of(media: MediaType, stored: Mapping[str, Any], derived: Derived | None = None) -> Write:
    """The record of a document, ready to be sent."""
    document = interpret(media, {**stored, "when": stored["when"].replace(tzinfo=None)})
    rkey = document_tid(media.nsid, document.id, document.when)
    return Write("create", media.nsid, rkey, media.build_record(document, derived or Derived()))


def built(account: Account, items: int, rng: random.Random) -> list[Write]:
    """The records of new documents of an account, sorted by key."""
    rows = documents(account.id, items, rng)
    writes = [record_of(media, stored) for media in TYPES for stored in rows[media.name]]
    return sorted(writes, key=lambda write: (write.collection, write.rkey))


def synced(bench: Bench, users: Sequence[User], types: Sequence[MediaType], expected: int) -> Timed:
    """Synchronise users whose documents are in place. Ends the program unless so many records are written."""
    accounts, selection = [account for account, _ in users], Selection(types=tuple(types))
    workers = bench.pipeline.settings.ac_concurrent_users
    with bench.timed(expected) as done:
        reports = [each for _, each in sync_accounts(bench.pipeline.engine, accounts, selection, new_run_id(), workers)]
    created = sum(tally.created for report in reports for tally in report.types.values())
    if created != expected:
        why = [report.error or report.blocked or report.failures for report in reports]
        raise SystemExit(f"the pipeline wrote {created} of {expected} records: {why}")
    return done


def post_batches(http: httpx.Client, user: User, writes: Sequence[Write]) -> None:
    """The bare loop: sorted batches of `applyWrites`, one after another."""
    new = user[1]
    for start in range(0, len(writes), BATCH):
        operations: list[dict[str, Any]] = []
        for write in writes[start : start + BATCH]:
            kind = f"com.atproto.repo.applyWrites#{write.action}"
            value = {} if write.value is None else {"value": write.value}
            operations.append({"$type": kind, "collection": write.collection, "rkey": write.rkey, **value})
        body, headers = {"repo": new.did, "writes": operations}, {"authorization": f"Bearer {new.token}"}
        http.post("/xrpc/com.atproto.repo.applyWrites", json=body, headers=headers).raise_for_status()


def first_sync(bench: Bench, users: int, items: int) -> Group:
    """Rows a: what the pipeline adds to a bare loop of writes."""
    each = items // users

    def pipeline(rng: random.Random) -> dict[str, Timed]:
        people = bench.signed_in(users)
        for account, _ in people:
            bench.insert(documents(account.id, each, rng))
        return {"pipeline": synced(bench, people, TYPES, each * users)}

    def bare(rng: random.Random) -> dict[str, Timed]:
        work = [(user, built(user[0], each, rng)) for user in bench.new_users(users)]
        with httpx.Client(base_url=bench.url, timeout=60) as http, bench.timed(each * users) as done:
            for user, writes in work:
                post_batches(http, user, writes)
        return {"bare": done}

    row = Row(
        "text",
        "first sync of text, signed in",
        f"a bare loop: records ready, batches of {BATCH}, user by user",
        f"records/s of {users} users with {each} each",
        "pipeline",
        "bare",
        0.9,
    )
    return Group([row], [pipeline, bare])


def small_users(bench: Bench, users: int, originals: int, items: int) -> Group:
    """Row b: many small users who sign in first, and the original's way with a few of them."""

    def pipeline(rng: random.Random) -> dict[str, Timed]:
        people = bench.new_users(users)
        for account, _ in people:
            bench.insert(documents(account.id, items, rng))
        return {"pipeline": synced(bench, people, TYPES, items * users)}

    def original(rng: random.Random) -> dict[str, Timed]:
        people = bench.new_users(originals)
        for account, _ in people:
            bench.insert(documents(account.id, items, rng))
        with bench.timed(items * originals) as done:
            for user in people:
                _as_the_original(bench, user)
        return {"original": done}

    row = Row(
        "small",
        "small users with their sign-ins",
        f"the original: a sign-in for each record, {ORIGINAL_AT_ONCE} at once",
        f"records/s of {users} users with {items} each",
        "pipeline",
        "original",
        40,
    )
    return Group([row], [pipeline, original])


def _as_the_original(bench: Bench, user: User) -> None:
    """One user as the original's `sync-atproto` mirrors one (facts, section 12), but for its pauses: type after type,
    with a sign-in, the records that are there, and for each missing one a sign-in and a `createRecord`."""
    account, new = user
    for media in TYPES:
        rows = list(bench.database[media.collection].find({"user": account.id}).sort("when", 1))
        with httpx.Client(base_url=bench.url, timeout=60) as http:
            token = _sign_in(http, user)
            query, head = (
                {"repo": new.did, "collection": media.nsid, "limit": 100},
                {"authorization": f"Bearer {token}"},
            )
            http.get("/xrpc/com.atproto.repo.listRecords", params=query, headers=head).raise_for_status()
        with ThreadPoolExecutor(ORIGINAL_AT_ONCE) as pool:
            made = list(pool.map(lambda stored, media=media: _create(bench, user, media, stored), rows))
        if made:
            links = [
                UpdateOne({"_id": stored["_id"]}, {"$set": {"atproto.rkey": uri.rpartition("/")[2]}})
                for stored, uri in zip(rows, made, strict=True)
            ]
            bench.database[media.collection].bulk_write(links, ordered=False)


def _create(bench: Bench, user: User, media: MediaType, stored: Mapping[str, Any]) -> str:
    with httpx.Client(base_url=bench.url, timeout=60, verify=False) as http:  # certificates take 20 ms to read
        token = _sign_in(http, user)
        body = {"repo": user[1].did, "collection": media.nsid, "record": record_of(media, stored).value}
        made = http.post("/xrpc/com.atproto.repo.createRecord", json=body, headers={"authorization": f"Bearer {token}"})
        return str(made.raise_for_status().json()["uri"])


def _sign_in(http: httpx.Client, user: User) -> str:
    login = {"identifier": user[1].did, "password": user[1].password}
    made = http.post("/xrpc/com.atproto.server.createSession", json=login)
    return str(made.raise_for_status().json()["accessJwt"])
