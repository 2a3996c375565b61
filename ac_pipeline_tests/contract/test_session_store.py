"""The contract of the port `SessionStore`, held by the one in memory and the one in MongoDB."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from ac_pipeline.atproto.sessions import SessionStore, Tokens
from ac_pipeline.errors import ServiceUnreachable
from ac_pipeline.mongo.ledger.collections import MongoSessionStore
from ac_pipeline_tests.memory_sessions import MemorySessionStore

ALICE, BOB = "did:plc:alice", "did:plc:bob"


@pytest.fixture(params=["in memory", "in MongoDB"])
def store(request: pytest.FixtureRequest) -> SessionStore:
    if request.param == "in memory":
        return MemorySessionStore()
    mongo: Database[dict[str, Any]] = request.getfixturevalue("mongo")
    return MongoSessionStore(mongo["sessions"])


def test_tokens_come_back_as_they_were_saved(store: SessionStore) -> None:
    """LIMIT-7: tokens reused across runs."""
    assert store.load(ALICE) is None
    store.save(ALICE, Tokens("access-1", "refresh-1"))
    store.save(BOB, Tokens("access-2", "refresh-2"))
    store.save(ALICE, Tokens("access-3", "refresh-3"))

    assert store.load(ALICE) == Tokens("access-3", "refresh-3")
    assert store.load(BOB) == Tokens("access-2", "refresh-2")


def test_dropped_tokens_are_gone_and_others_stay(store: SessionStore) -> None:
    store.save(ALICE, Tokens("access-1", "refresh-1"))
    store.save(BOB, Tokens("access-2", "refresh-2"))

    store.drop(ALICE)
    store.drop(ALICE)

    assert store.load(ALICE) is None
    assert store.load(BOB) is not None


def test_sign_ins_are_counted_apart_from_tokens_and_survive_them(store: SessionStore) -> None:
    """LIMIT-7, RUN-8: every run is a process of its own."""
    assert store.sign_ins(ALICE) == ()
    for at in (1.5, 2.0, 3.25):
        store.count_sign_in(ALICE, at, 2)
    store.save(ALICE, Tokens("access-1", "refresh-1"))
    store.drop(ALICE)
    assert store.load(ALICE) is None
    assert store.sign_ins(ALICE) == (2.0, 3.25)
    store.save(ALICE, Tokens("access-2", "refresh-2"))
    assert store.load(ALICE) == Tokens("access-2", "refresh-2")
    assert store.sign_ins(ALICE) == (2.0, 3.25)
    assert store.sign_ins(BOB) == ()


def test_a_document_of_another_shape_is_no_session(mongo: Database[dict[str, Any]]) -> None:
    mongo["sessions"].insert_one({"_id": ALICE, "access": 5})

    assert MongoSessionStore(mongo["sessions"]).load(ALICE) is None


def test_a_database_that_does_not_answer_is_not_an_absent_session_and_shows_no_token() -> None:
    """ACCT-5: neither does a failed read cost another login (LIMIT-7)."""
    with MongoClient[dict[str, Any]]("mongodb://127.0.0.1:1/", serverSelectionTimeoutMS=50) as client:
        store = MongoSessionStore(client["ledger"]["sessions"])
        with pytest.raises(ServiceUnreachable):
            store.load(ALICE)
        with pytest.raises(ServiceUnreachable):
            store.drop(ALICE)
        with pytest.raises(ServiceUnreachable):
            store.sign_ins(ALICE)
        with pytest.raises(ServiceUnreachable):
            store.count_sign_in(ALICE, 1.0, 300)
        with pytest.raises(ServiceUnreachable) as caught:
            store.save(ALICE, Tokens("access-secret", "refresh-secret"))

    assert "secret" not in caught.value.message
    assert ALICE in caught.value.message
