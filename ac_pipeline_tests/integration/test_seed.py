"""The demo data on real services: the same each time, and as its summary says."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured
from ac_pipeline.items import State
from ac_pipeline.local.seed.fill import COPIES, make_demo, seed
from ac_pipeline.local.seed.plan import plan_demo
from ac_pipeline.local.seed.values import COLLECTIONS, Demo, Outcome, SeedSummary
from ac_pipeline.local.services.media_server import object_path
from ac_pipeline.local.services.stack import Addresses
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline_tests.conftest import MongoServer, Pds
from ac_pipeline_tests.harness import Slice, open_slice
from ac_pipeline_tests.scripted_storage import ObjectServer

USERS = 8
ITEMS = 120
NAMELESS = ("record without ref", "projection, record without ref")
_DID = re.compile(r"did:plc:[a-z2-7]{24}")


@dataclass(frozen=True)
class Seeded:
    """A demo and the services it is on."""

    mongo: Database[dict[str, Any]]
    pds: Pds
    objects: ObjectServer
    summary: SeedSummary

    def session(self, user: str) -> httpx.Response:
        """What the PDS says to the credentials Mongo has for a user."""
        document = self.mongo["users"].find_one({"_id": user}) or {}
        kept = document.get("atproto") or {}
        return httpx.post(
            f"{self.pds.url}/xrpc/com.atproto.server.createSession",
            json={
                "identifier": kept.get("did", document.get("atproto_did")),
                "password": kept.get("password", document.get("atproto_password")),
            },
        )

    def records(self, did: str, type: str) -> dict[str, dict[str, Any]]:
        """Key -> record."""
        answer = httpx.get(
            f"{self.pds.url}/xrpc/com.atproto.repo.listRecords",
            params={"repo": did, "collection": f"computer.aesthetic.{type}", "limit": 100},
        )
        answer.raise_for_status()
        return {one["uri"].rpartition("/")[2]: {**one["value"], "cid": one["cid"]} for one in answer.json()["records"]}


@contextmanager
def _seeded(client: MongoClient[dict[str, Any]], folder: Path, demo: Demo | None = None) -> Iterator[Seeded]:
    """A demo on a PDS of its own: the handles are the same in every demo."""
    demo = demo or plan_demo(USERS, ITEMS, 1)
    name = f"test-{uuid.uuid4().hex}"
    folder.mkdir()
    pds = Pds(folder)
    with ObjectServer() as objects:
        summary = make_demo(demo, client[name], pds.accounts, objects.put)
        yield Seeded(client[name], pds, objects, summary)
    pds.close()
    client.drop_database(name)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def seeded(mongo_client: MongoClient[dict[str, Any]], services_folder: Path) -> Iterator[Seeded]:
    with _seeded(mongo_client, services_folder / "seed-pds") as seeded:
        yield seeded


def _fingerprint(mongo: Database[dict[str, Any]]) -> dict[str, str]:
    """Each collection, but for the DIDs, which the PDS draws."""
    return {
        name: hashlib.sha256(
            _DID.sub("did", json.dumps(list(mongo[name].find().sort("_id")), default=str)).encode()
        ).hexdigest()
        for name in mongo.list_collection_names()
    }


def test_two_demos_of_one_seed_hold_the_same_documents(
    seeded: Seeded, mongo_client: MongoClient[dict[str, Any]], services_folder: Path
) -> None:
    with _seeded(mongo_client, services_folder / "seed-pds-again") as again:
        assert _fingerprint(again.mongo) == _fingerprint(seeded.mongo)
        assert again.summary == seeded.summary
        assert Counter(again.objects.requests) == Counter()


def test_the_summary_is_what_is_in_the_database(seeded: Seeded) -> None:
    """VERIFY-1: what the pipeline reports is compared with these counts, so they are counted in Mongo here."""
    mongo, summary = seeded.mongo, seeded.summary
    hidden = {"$or": [{flag: True} for flag in ("nuked", "deleted", "private", "draft", "hidden")]}
    other = {"$or": [{"visibility": "unlisted"}, {"status": "wip"}]}
    leaving = [row["_id"] for row in mongo["account-deletions"].find({"state": "scheduled"})]

    assert summary.users == mongo["users"].count_documents({})
    for type, collection in COLLECTIONS.items():
        one = summary.types[type]
        assert one.documents == mongo[collection].count_documents({})
        assert one.withdrawn == mongo[collection].count_documents({"$or": [hidden, other]})
        assert one.owner_deleted == mongo[collection].count_documents({"user": {"$in": leaving}})
    assert sum(one.documents + one.orphans for one in summary.types.values()) == ITEMS
    assert mongo["kidlisp"].count_documents({"code": None}) == 1
    assert summary.types["kidlisp"].quarantined["held-back"] == mongo["kidlisp"].count_documents(
        {"user": None, "atproto.rkey": {"$exists": True}}
    ) - sum(kind.startswith("guest's correct") for kind in summary.types["kidlisp"].kinds)


def test_the_records_of_earlier_writers_are_there_and_linked_as_they_left_them(seeded: Seeded) -> None:
    """LINK-1, LINK-2, LINK-7, LINK-10, DEL-4: there is something to adopt, to repair and to delete."""
    historian = seeded.mongo["@handles"].find_one({"handle": "fifi-history"}) or {}
    did, guest = [
        (seeded.mongo["users"].find_one({"_id": id}) or {})["atproto"]["did"] for id in (historian["_id"], "art-guest")
    ]
    dids = (did, guest)
    for type, one in seeded.summary.types.items():
        records = [record for did in dids for record in seeded.records(did, type).values()]
        refs = Counter(record.get("ref") or record.get("mongoId") for record in records)
        documents = {str(document["_id"]): document for document in seeded.mongo[COLLECTIONS[type]].find()}
        assert len(records) == one.records
        nameless = sum(one.kinds.get(kind, 0) for kind in NAMELESS)
        assert refs.pop(None, 0) == nameless == (2 if type == "kidlisp" else 0), "they name no document (GUARD-7)"
        assert sum(count - 1 for count in refs.values()) == one.duplicates
        assert len(set(refs) - set(documents)) == one.orphans

    moods = [record for did in dids for record in seeded.records(did, "mood").values()]
    assert sum("mongoId" in record for record in moods) == 1
    assert sum("text" in record for record in moods) == 1
    assert sum("mood" not in record for record in moods) == 2
    linked = seeded.mongo["moods"].find_one({"user": historian["_id"], "atproto.did": did, "deleted": None}) or {}
    record = seeded.records(did, "mood")[linked["atproto"]["rkey"]]
    assert (record["cid"], record["ref"], record["mood"]) == (
        linked["atproto"]["cid"],
        str(linked["_id"]),
        linked["mood"],
    )


def test_accounts_stand_as_their_situations_say(seeded: Seeded) -> None:
    """ACCT-1, ACCT-2: blocked accounts are blocked for the reason that the summary counts."""
    answers: Counter[str] = Counter()
    for user in seeded.mongo["users"].find():
        answer = seeded.session(user["_id"]).json()
        active = "ok" if answer.get("active", True) else "inactive"
        answers[answer.get("error", active)] += 1

    assert seeded.summary.blocked == {
        "account-inactive": 1,
        "no-credentials": 1,
        "wrong-password": 1,
    }
    assert answers == {"ok": 6, "inactive": 1, "AuthenticationRequired": 1, "InvalidRequest": 1}
    assert seeded.summary.ready == 5


def test_media_lie_under_their_owners_ids_and_the_missing_are_missing(seeded: Seeded) -> None:
    """MEDIA-3, MEDIA-4: keys are made of the Auth0 id; a few objects are gone, as on the platform."""
    base = seeded.objects.url_template.format(bucket="user-aesthetic-computer")
    found = Counter(
        httpx.head(f"{base}/{one['user'].replace('|', '%7C')}/painting/{one['slug']}.png").status_code
        for one in seeded.mongo["paintings"].find({"user": {"$type": "string"}, "slug": {"$not": {"$regex": "/"}}})
    )
    assert found[404] >= seeded.summary.types["painting"].quarantined["source-missing"]
    assert found[200] > found[404]
    assert seeded.summary.objects > 30
    assert seeded.summary.media_bytes > 100_000


def test_codes_are_unique_by_index_as_upstream_has_it(seeded: Seeded) -> None:
    known = seeded.mongo["kidlisp"].find_one({"code": {"$type": "string"}}) or {}
    with pytest.raises(DuplicateKeyError):
        seeded.mongo["kidlisp"].insert_one({"code": known["code"], "hash": "another"})


def test_a_sync_makes_of_every_variant_what_the_demo_says(
    mongo_client: MongoClient[dict[str, Any]], mongo_server: MongoServer, services_folder: Path, tmp_path: Path
) -> None:
    """VERIFY-1, VERIFY-2, GUARD-6, GUARD-7, ERASE-1: one document of each, on real services, record by record."""
    whole = plan_demo(60, 2_500, 1)
    first = {(item.type, item.kind): item for item in reversed(whole.items) if not item.owner or item.owner.ready}
    owners = [item.owner for item in first.values()]
    demo = Demo(whole.maker, tuple(each for each in whole.cast if each in owners), tuple(reversed(first.values())))
    with (
        _seeded(mongo_client, services_folder / "seed-pds-of-all", demo) as seeded,
        open_slice(seeded.mongo, mongo_server.uri, seeded.pds, seeded.objects.url_template, tmp_path) as slice_,
    ):
        accounts = slice_.pipeline.accounts.all()
        before = {type: _keys(slice_, accounts, type) for type in COLLECTIONS}
        assert not [error for account in accounts if (error := slice_.sync(account).error)]
        for item in (each for each in demo.items if each.in_mongo and each.outcome is not Outcome.WITHDRAWN):
            entry = slice_.entry(item.type, str(item.document["_id"]))
            ends = {"quarantined": "quarantined", "deferred": "deferred"}.get(item.outcome, "published")
            state = "published" if entry.state in {State.WRITTEN, State.UNCHANGED} else entry.state
            assert (state, entry.failure and entry.failure.error_class) == (
                ends,
                item.error_class or ("source-pending" if ends == "deferred" else None),
            ), f"{item.type}: {item.kind}"
        for type, one in seeded.summary.types.items():
            after = _keys(slice_, accounts, type)
            assert len(after) == one.published
            assert len(before[type] - after) == one.duplicates + one.orphans + one.withdrawn_records, "the rest is kept"
        copies = sum(
            len(dict(slice_.pipeline.server.read_repository(str(account.did)).collection(COPIES)))
            for account in accounts
        )
        assert copies == sum(one.copies for one in seeded.summary.types.values()) == 2
        assert sum(one.withdrawn_copies for one in seeded.summary.types.values()) == 3
        assert all(verify(slice_.pipeline.engine, account, Selection()).complete for account in accounts)


def _keys(slice_: Slice, accounts: list[Account], type: str) -> set[tuple[str, str]]:
    return {(account.key, rkey) for account in accounts for rkey in slice_.listed(account, type)}


def test_a_database_that_is_not_empty_is_never_seeded(mongo: Database[dict[str, Any]], pds: Pds) -> None:
    """The command may be pointed at real data by mistake: it must not add to it."""
    mongo["moods"].insert_one({"mood": "real"})
    with pytest.raises(Misconfigured, match="is not empty, so no demo is made in it"):
        make_demo(plan_demo(USERS, ITEMS, 1), mongo, pds.accounts, lambda bucket, key, data: None)
    assert mongo.list_collection_names() == ["moods"]
    assert mongo["moods"].count_documents({}) == 1


def test_the_same_demo_is_made_once_and_another_one_is_refused(
    mongo: Database[dict[str, Any]], mongo_server: MongoServer, services_folder: Path, tmp_path: Path
) -> None:
    """`local seed` may be repeated: it never adds a second demo to the first."""
    folder = services_folder / "seed-once-pds"
    folder.mkdir()
    pds = Pds(folder)
    addresses = Addresses(
        mongo=mongo_server.uri,
        database=mongo.name,
        pds=pds.url,
        pds_admin_password=pds.admin_password,
        media="http://127.0.0.1:1/{bucket}",
        media_folder=tmp_path / "media",
    )
    reported: set[str] = set()

    first = seed(addresses, users=USERS, items=100, progress=lambda what, done, total: reported.add(what))
    counts = {name: mongo[name].count_documents({}) for name in mongo.list_collection_names()}
    assert seed(addresses, users=USERS, items=100) == first
    with pytest.raises(Misconfigured, match="hold another demo"):
        seed(addresses, users=USERS, items=101)
    pds.close()

    assert {name: mongo[name].count_documents({}) for name in mongo.list_collection_names()} == counts
    assert reported == {"accounts", "media", "earlier records", "collections"}
    picture = mongo["paintings"].find_one({"user": None, "slug": {"$regex": "^[^:]*$"}}) or {}
    assert object_path(tmp_path / "media", "art-aesthetic-computer", f"{picture['slug']}.png").exists()
    assert f"{first.documents} documents" in first.describe()
