"""Which key a record gets: the existing one, the stored one, else a deterministic one."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.atproto.syntax import document_tid, is_tid
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.planning.plan import new_key
from ac_pipeline_tests.unit.sync.world import WHEN, World, totals

MS = int(WHEN.timestamp() * 1000)
FIRST, SECOND = "0000000000000000000002c3", "0000000000000000000006bc"
"""Two ids whose moods, posted in the same millisecond, have the same key under salt 0."""
OLD_KEY = "3jzfcijpj2z2a"


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_a_new_record_gets_the_deterministic_key_of_its_document(world: World, media: Any) -> None:
    """WRITE-2: only TIDs are newly made, and the same in every run."""
    user = world.user()
    document = world.add(media.name, user)
    world.sync(user)
    assert list(world.records(user, media.name)) == [document_tid(media.nsid, document, MS)]


def test_items_of_one_millisecond_get_keys_of_their_own(world: World) -> None:
    """WRITE-3."""
    user = world.user()
    documents = [world.add("mood", user, mood=f"{number}") for number in range(50)]
    world.sync(user)
    by_ref = world.by_ref(user, "mood")
    assert set(by_ref) == set(documents)
    assert all(len(keys) == 1 and is_tid(keys[0]) for keys in by_ref.values())


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
def test_two_documents_with_one_deterministic_key_are_told_apart_in_any_order(order: tuple[str, str]) -> None:
    """WRITE-3: the smaller id keeps salt 0, the other one takes the next salt, however Mongo lists them."""
    world = World()
    user = world.user()
    assert document_tid(MOOD.nsid, FIRST, MS) == document_tid(MOOD.nsid, SECOND, MS)
    for id in order:
        world.documents.add(MOOD, {"_id": ObjectId(id), "user": user.id, "mood": id, "when": WHEN})
    world.sync(user)
    assert world.by_ref(user, "mood") == {
        FIRST: [document_tid(MOOD.nsid, FIRST, MS)],
        SECOND: [document_tid(MOOD.nsid, SECOND, MS, 1)],
    }
    assert totals(world.sync(user)) == {"unchanged": 2}


def test_who_came_first_keeps_the_shared_key(world: World) -> None:
    """WRITE-3: a later document never takes the key of a record."""
    user = world.user()
    world.documents.add(MOOD, {"_id": ObjectId(SECOND), "user": user.id, "mood": "first", "when": WHEN})
    world.sync(user)
    world.documents.add(MOOD, {"_id": ObjectId(FIRST), "user": user.id, "mood": "second", "when": WHEN})
    world.sync(user)
    assert world.by_ref(user, "mood") == {
        SECOND: [document_tid(MOOD.nsid, SECOND, MS)],
        FIRST: [document_tid(MOOD.nsid, FIRST, MS, 1)],
    }


def test_a_dangling_link_gives_its_key_to_the_record_made_again(world: World) -> None:
    """LINK-5: the page address of a mood stays valid; the reason says that the link was dangling."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": OLD_KEY})
    plan, _ = world.survey(user)
    assert [operation.reason for operation in plan.operations()] == ["the linked record does not exist"]
    world.sync(user)
    assert world.by_ref(user, "mood") == {document: [OLD_KEY]}


@pytest.mark.parametrize("stored", ["self", "2025.10.15", "a" * 512])
def test_a_stored_key_that_is_no_tid_is_not_made_again(world: World, stored: str) -> None:
    """WRITE-2: the lexicons ask for TIDs."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": stored})
    world.sync(user)
    assert world.by_ref(user, "mood") == {document: [document_tid(MOOD.nsid, document, MS)]}


def test_a_link_into_another_repository_is_no_key_here(world: World) -> None:
    """LINK-3, LINK-5: a link with another DID never matches; the link is rewritten with this DID."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": OLD_KEY, "did": "did:plc:somebodyelse"})
    world.put(user, "mood", OLD_KEY, {"when": "2025-01-01T00:00:00.000Z"})
    report = world.sync(user)
    assert world.by_ref(user, "mood") == {None: [OLD_KEY], document: [document_tid(MOOD.nsid, document, MS)]}
    link = world.link("mood", document)
    assert link is not None
    assert link.did == user.did
    assert report.notes == [f"mood record {OLD_KEY} names no document; it is left alone"]


def test_two_documents_that_share_a_dangling_link_do_not_share_a_key(world: World) -> None:
    """LINK-5, LINK-6: the smaller id takes the stored key, the other one its own."""
    user = world.user()
    one, other = sorted(world.add("mood", user, mood=text, atproto={"rkey": OLD_KEY}) for text in ("a", "b"))
    world.sync(user)
    assert world.by_ref(user, "mood") == {one: [OLD_KEY], other: [document_tid(MOOD.nsid, other, MS)]}


def test_keys_stay_in_the_millisecond_until_its_letters_seem_to_be_the_trouble() -> None:
    """WRITE-3: of twelve keys the first four have the item's own time, all differ, and all come after it."""
    world = World()
    document = world.document("mood", world.add("mood", world.user(), _id=ObjectId(FIRST)))
    keys = [new_key(MOOD, document, salt) for salt in range(12)]
    assert len(set(keys)) == 12
    assert {key[:8] for key in keys[:4]} == {keys[0][:8]}
    assert len({key[:8] for key in keys}) == 9
    assert keys[4:] == sorted(keys[4:])
