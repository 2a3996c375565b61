"""The contract of the Documents port, on the in-memory one and on MongoDB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import pytest
from bson import ObjectId
from pymongo.database import Database

from ac_pipeline.accounts import GUEST_ID, LEAVING, Account
from ac_pipeline.errors import AccountDeleted
from ac_pipeline.media.base import Document, Link, LinkUpdate, MediaType, Verdict
from ac_pipeline.media.eligibility import NOBODY
from ac_pipeline.media.kidlisp import KIDLISP
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.tape import TAPE
from ac_pipeline.mongo.documents import MongoDocuments
from ac_pipeline.sync.ports import Documents
from ac_pipeline_tests.memory_ports import FakeClock, MemoryDocuments

ANNA = Account(id="auth0|63effeeb2a7d55f8098d62f9", key="anna", did="did:plc:anna", password="pw")
BERT = Account(id="auth0|000000000000000000000001", key="bert", did="did:plc:bert", password="pw")
GUEST = Account(id=GUEST_ID, key=GUEST_ID, did="did:plc:guest", password="pw")
WHEN = datetime(2025, 10, 14, 9, 8, 7, 6_000)  # noqa: DTZ001  (naive, as pymongo hands dates out)
LINK = Link(rkey="3kaaa", uri="at://did:plc:anna/computer.aesthetic.tape/3kaaa", cid="bafy", did="did:plc:anna")


class Store(Protocol):
    """A port under test, and how to look behind it."""

    documents: Documents

    def add(self, media: MediaType, raw: Mapping[str, Any]) -> str: ...

    def raw(self, media: MediaType, document: str) -> dict[str, Any] | None: ...


class InMemory:
    def __init__(self) -> None:
        self.memory = MemoryDocuments(FakeClock())
        self.documents: Documents = self.memory

    def add(self, media: MediaType, raw: Mapping[str, Any]) -> str:
        return self.memory.add(media, raw)

    def raw(self, media: MediaType, document: str) -> dict[str, Any] | None:
        return self.memory.collections.get(media.collection, {}).get(ObjectId(document))


class InMongo:
    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self.database = database
        self.documents: Documents = MongoDocuments(database, clock=FakeClock())

    def add(self, media: MediaType, raw: Mapping[str, Any]) -> str:
        return str(self.database[media.collection].insert_one(dict(raw)).inserted_id)

    def raw(self, media: MediaType, document: str) -> dict[str, Any] | None:
        return self.database[media.collection].find_one({"_id": ObjectId(document)})


@pytest.fixture(params=["memory", "mongo"])
def store(request: pytest.FixtureRequest) -> Store:
    return InMemory() if request.param == "memory" else InMongo(request.getfixturevalue("mongo_database"))


def mood(user: object = ANNA.id, **changes: Any) -> dict[str, Any]:
    return {"user": user, "mood": "awake", "when": WHEN, **changes}


def kidlisp(**changes: Any) -> dict[str, Any]:
    return {"code": "cow", "source": "(ink)", "when": WHEN, **changes}


def tape(**changes: Any) -> dict[str, Any]:
    return {"user": ANNA.id, "code": "Gif", "slug": "2025.10.14.09.08.07.006", "when": WHEN, **changes}


def test_documents_of_several_accounts_are_those_of_each(store: Store) -> None:
    """VERIFY-11: each with its account's own verdicts; nobody else's, and no guest's."""
    leaving = replace(BERT, pending_deletion=LEAVING)
    for user in (ANNA.id, ANNA.id, BERT.id, "auth0|else"):
        store.add(MOOD, mood(user))
    store.add(KIDLISP, kidlisp())
    found: dict[str, list[Document]] = {ANNA.id: [], BERT.id: []}
    for id, document in store.documents.stream_of((ANNA, leaving), MOOD):
        found[id].append(document)
    for account in (ANNA, leaving):
        assert sorted(found[account.id], key=lambda each: each.id) == sorted(
            store.documents.stream(account, MOOD), key=lambda each: each.id
        )
    assert [len(each) for each in found.values()] == [2, 1]
    assert list(store.documents.stream_of((ANNA,), KIDLISP)) == []


def test_an_account_gets_all_of_its_own_documents_whatever_their_verdict(store: Store) -> None:
    eligible = store.add(MOOD, mood())
    nuked = store.add(MOOD, mood(deleted=True))
    broken = store.add(MOOD, mood(mood=5))
    store.add(MOOD, mood(user=BERT.id))
    found = {document.id: document.verdict for document in store.documents.stream(ANNA, MOOD)}
    assert found == {eligible: Verdict.ELIGIBLE, nuked: Verdict.WITHDRAWN, broken: Verdict.INVALID}


def test_the_guest_gets_what_has_no_user_in_any_form(store: Store) -> None:
    """SRC-4: missing, null and empty."""
    guests = {store.add(KIDLISP, kidlisp(**user)) for user in ({}, {"user": None}, {"user": ""})}
    store.add(KIDLISP, kidlisp(user=ANNA.id))
    assert {document.id for document in store.documents.stream(GUEST, KIDLISP)} == guests
    assert not list(store.documents.stream(BERT, KIDLISP))


def test_only_synced_fields_are_read(store: Store) -> None:
    """SRC-9: neither views nor anything else of a document reaches the engine."""
    store.add(KIDLISP, kidlisp(user=ANNA.id, hits=3, lastAccessed=WHEN, tezos={"x": 1}))
    (document,) = store.documents.stream(ANNA, KIDLISP)
    assert set(document.fields) == {"user", "when", "code", "source"}


def test_work_of_a_deleted_account_is_withdrawn(store: Store) -> None:
    """DEL-9."""
    store.add(MOOD, mood())
    blocked = Account(id=ANNA.id, key="anna", blocked=AccountDeleted("The account is to be deleted."))
    leaving = Account(id=ANNA.id, key="anna", pending_deletion=LEAVING)
    for account in (blocked, leaving):
        (document,) = store.documents.stream(account, MOOD)
        assert (document.verdict, document.reason) == (Verdict.WITHDRAWN, LEAVING)


def test_kidlisp_of_a_vanished_owner_is_held_back_from_the_guest(store: Store) -> None:
    """DEL-10."""
    store.add(KIDLISP, kidlisp(atproto={"rkey": "3k", "did": "did:plc:gone"}))
    store.add(KIDLISP, kidlisp(atproto={"rkey": "3l", "did": GUEST.did}))
    verdicts = sorted(document.verdict for document in store.documents.stream(GUEST, KIDLISP))
    assert verdicts == [Verdict.ELIGIBLE, Verdict.OWNERSHIP_UNCLEAR]


def test_owners_are_told_for_what_exists_and_for_nothing_else(store: Store) -> None:
    users = (ANNA.id, None, "", ObjectId(), 5)
    owned, guests, empty, *odd = (store.add(PAINTING, {"user": user, "slug": "x"}) for user in users)
    missing = str(ObjectId())
    found = store.documents.owners(PAINTING, [owned, guests, empty, *odd, missing, "not-an-id", ""])
    assert dict(found) == {owned: ANNA.id, guests: None, empty: None, **dict.fromkeys(odd, NOBODY)}
    assert dict(store.documents.owners(PAINTING, [])) == {}


def test_a_collection_is_empty_until_anybody_owns_something_in_it(store: Store) -> None:
    """DEL-5: tells an empty source from a user without documents."""
    assert store.documents.is_empty(MOOD)
    store.add(MOOD, mood(user=BERT.id))
    assert not store.documents.is_empty(MOOD)
    assert store.documents.is_empty(PAINTING)


def test_every_document_has_a_date_whoever_owns_it(store: Store) -> None:
    """GUARD-1, SEEN-3: its `when`, else that of its id, in any form of either."""
    dated = store.add(MOOD, mood(user=ANNA.id) | {"when": "2025-10-15T12:30:45.123Z"})
    undated = store.add(MOOD, {"mood": "x", "_id": ObjectId("68ef9675" + "0" * 16)})
    odd = store.add(MOOD, {"mood": "x", "_id": ObjectId("68ef9675" + "1" * 16), "when": [1]})
    found = {dated: 1_760_531_445_123, undated: 1_760_532_085_000, odd: 1_760_532_085_000}
    assert dict(store.documents.dates(MOOD)) == found
    assert dict(store.documents.dates(PAINTING)) == {}


def test_a_link_is_written_with_its_did_and_read_back(store: Store) -> None:
    """LINK-3."""
    id = store.add(MOOD, mood(atproto={"rkey": "old", "text": "rest"}))
    store.documents.write_links(MOOD, [LinkUpdate(id, LINK)])
    raw = store.raw(MOOD, id)
    assert raw is not None
    assert raw["atproto"] == {
        "rkey": "3kaaa",
        "uri": LINK.uri,
        "cid": "bafy",
        "did": "did:plc:anna",
        "syncedAt": "2026-01-02T03:04:05.006Z",
    }
    assert "at" not in raw
    assert [document.link for document in store.documents.stream(ANNA, MOOD)] == [LINK]


def test_both_homes_of_a_tape_are_written_and_cleared_together(store: Store) -> None:
    """LINK-4."""
    id = store.add(TAPE, tape(at={"rkey": "older", "uri": "at://did:plc:old/x/y", "cid": "b"}))
    store.documents.write_links(TAPE, [LinkUpdate(id, LINK)])
    raw = store.raw(TAPE, id)
    assert raw is not None
    assert raw["at"] == raw["atproto"]
    assert raw["at"]["rkey"] == "3kaaa"
    assert [document.link for document in store.documents.stream(ANNA, TAPE)] == [LINK]

    store.documents.write_links(TAPE, [LinkUpdate(id, None)])
    raw = store.raw(TAPE, id)
    assert raw is not None
    assert not {"at", "atproto"} & set(raw)


def test_writing_a_link_changes_nothing_else(store: Store) -> None:
    """SRC-9, DEL-8: the write-back is no change of the document, and no document is made or removed by it."""
    id = store.add(MOOD, mood(bluesky={"rkey": "x"}))
    before = store.raw(MOOD, id)
    assert before is not None
    before = dict(before)
    (first,) = store.documents.stream(ANNA, MOOD)
    gone = str(ObjectId())
    store.documents.write_links(MOOD, [LinkUpdate(id, LINK), LinkUpdate(gone, LINK)])
    after = store.raw(MOOD, id)
    assert after is not None
    assert {name: value for name, value in after.items() if name != "atproto"} == before
    assert store.raw(MOOD, gone) is None
    (second,) = store.documents.stream(ANNA, MOOD)
    assert second.fingerprint == first.fingerprint


def test_no_updates_are_no_write(store: Store) -> None:
    store.documents.write_links(MOOD, [])
    assert store.documents.is_empty(MOOD)
