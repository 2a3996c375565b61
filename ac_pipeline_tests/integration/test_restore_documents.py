"""Lost documents come back from their records, on real services; none is replaced, and a sync then writes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked
from ac_pipeline.items import item_id
from ac_pipeline.local.seed.artwork import pixel_art, recording_zip, tape_mp4, tape_zip
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.inspection.lost_documents import find_lost, restore
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import GUEST_BUCKET, USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer

SLUG = "2025.10.15.12.30.45.123"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"


def lose(slice_: Slice, *ids: str) -> dict[str, dict[str, Any]]:
    """Delete documents past the pipeline; what they were."""
    gone = {}
    for media in MEDIA_TYPES:
        for id in ids:
            found = slice_.database[media.collection].find_one_and_delete({"_id": ObjectId(id)})
            if found is not None:
                gone[id] = found
    return gone


def one_of_each(slice_: Slice, store: ObjectServer, user: Account) -> dict[str, str]:
    owner = user.id
    store.put(USER_BUCKET, f"{owner}/painting/{SLUG}.png", pixel_art(24, 16, seed=1))
    store.put(USER_BUCKET, f"{owner}/chat/2.png", pixel_art(24, 16, seed=2))
    store.put(USER_BUCKET, f"{owner}/painting/with.recording.png", pixel_art(24, 16, seed=3))
    store.put(USER_BUCKET, f"{owner}/painting/with.recording.zip", recording_zip())
    store.put(USER_BUCKET, f"{owner}/{SLUG}.zip", tape_zip(4, 32, 24, seed=4))
    store.put(USER_BUCKET, f"{owner}/native.mp4", tape_mp4(4, 32, 24, seed=5))
    bucket = {"bucket": USER_BUCKET}
    return {
        "painting": slice_.add("painting", user, code="abc", slug=SLUG, nuked=False, **bucket),
        "bucketless painting": slice_.add("painting", user, code="abd", slug="with.recording"),
        "owner-qualified painting": slice_.add("painting", user, code="abe", slug=f"{owner}/chat/2", **bucket),
        "mood": slice_.add("mood", user, mood="fine\\nthanks \u00e4\u2713"),
        "piece": slice_.add("piece", user, slug="wand", code="wnd"),
        "dated piece": slice_.add("piece", user, slug=f"{owner}/2026/02/03/xyz", code="xyz"),
        "kidlisp": slice_.add("kidlisp", user, code="cow", source="(wipe blue)", hits=7),
        "tape": slice_.add("tape", user, code="tap", slug=SLUG, **bucket),
        "native tape": slice_.add("tape", user, code="nat", slug="native", kind="mp4", **bucket),
    }


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_documents_of_every_type_come_back_and_a_sync_writes_nothing(
    cli: Run, slice_: Slice, object_server: ObjectServer, ledger: str
) -> None:
    """DEL-8, WRITE-1, LINK-1: the rebuilt document gives the very record that is there, with the ledger or without."""
    user = slice_.user("ada")
    ids = one_of_each(slice_, object_server, user)
    assert slice_.sync(user).failures == []
    before = {media.name: slice_.listed(user, media.name) for media in MEDIA_TYPES}
    stays = slice_.add("mood", user, mood="stays")
    slice_.sync(user)
    gone = lose(slice_, *ids.values())
    if ledger == "lost":
        slice_.database.client[slice_.pipeline.settings.ac_ledger_database]["items"].delete_many({})
    everything = slice_.everything()

    code, out = cli("restore-documents", "--json")
    look = json.loads(out)
    assert (code, look["restorable"], look["inserted"]) == (0, len(ids), 0)
    assert "before any sync" in look["choice"]
    assert user.id not in out, "the owner's Mongo id is nobody's business"
    assert slice_.everything() == everything, "a look wrote something"
    if ledger == "kept":
        assert {each["then"] for each in look["items"]} == {""}
    assert cli("restore-documents", "--confirm", str(len(ids) - 1))[0] == 2
    assert slice_.everything() == everything

    code, out = cli("restore-documents", "--confirm", str(len(ids)), "--json")
    assert (code, json.loads(out)["inserted"]) == (0, len(ids))
    for name, id in ids.items():
        type_ = name.split()[-1]
        now, was = slice_.document(type_, id), gone[id]
        shared = now.keys() & was.keys() - {"atproto", "at", "bucket"}
        assert {n: now[n] for n in shared} == {n: was[n] for n in shared}, name
        assert slice_.link(type_, id) is not None
        assert now["user"] == user.id
    assert slice_.document("kidlisp", ids["kidlisp"])["hash"] == sha256(b"(wipe blue)").hexdigest()
    assert slice_.document("piece", ids["dated piece"])["code"] == "xyz"

    used = slice_.pipeline.server.usage()
    if ledger == "kept":
        assert [op["operation"] for op in json.loads(cli("plan", "--json")[1])["operations"]] in ([], ["render"])
    report = slice_.sync(user)
    requests = (slice_.pipeline.server.usage() - used).requests
    assert (requests["apply_writes"], requests["upload_blob"], report.failures) == (0, 0, [])
    now = {media.name: slice_.listed(user, media.name) for media in MEDIA_TYPES}
    assert {m: {k: v for k, v in records.items() if v[1]["ref"] != stays} for m, records in now.items()} == before
    assert json.loads(cli("verify", "--json")[1])["missing"] == 0
    (entry,) = slice_.pipeline.audit.entries()
    assert (entry.action, entry.counts["inserted"], entry.outcome) == ("restore-documents", len(ids), "done")
    assert cli("restore-documents", "--confirm", "0")[0] == 0


FORMS: list[tuple[str, dict[str, Any], dict[str, Any] | None, str]] = [
    ("mood", {"mood": "fine", "ref": True}, {"mood": "fine"}, ""),
    ("mood", {"mood": "fine", "mongoId": True}, {"mood": "fine"}, "lacks ref; has extra mongoId"),
    ("mood", {"text": "fine", "ref": True}, {"mood": "fine"}, "lacks mood; has extra text"),
    ("mood", {"ref": True}, None, "its record holds no `mood`"),
    ("mood", {"mood": "fine", "ref": True, "when": "yesterday"}, {"mood": "fine"}, "differs in when"),
    ("piece", {"slug": "wand", "ref": True}, {"slug": "wand"}, ""),
    ("piece", {"ref": True}, None, "its record holds no `slug`"),
    ("kidlisp", {"source": " (a) \n", "code": "cow", "acUrl": "https://aesthetic.computer/$cow", "ref": True}, {}, ""),
    ("kidlisp", {"source": "(a)", "code": "cow", "ref": True}, {"code": "cow"}, "lacks acUrl"),
    ("kidlisp", {"source": "(a)", "ref": True}, None, "has no `code`"),
]


@pytest.mark.parametrize(("type_", "value", "expected", "said"), FORMS)
def test_every_older_form_gives_its_document_or_says_why_not(
    slice_: Slice, type_: str, value: dict[str, Any], expected: dict[str, Any] | None, said: str
) -> None:
    """REC-4: where the form is not ours, the document comes back and the sync puts the record right under its key."""
    user = slice_.user("ada")
    id = str(ObjectId())
    record = {"when": WHEN_TEXT} | {name: id if part is True else part for name, part in value.items()}
    key = slice_.put(user, type_, record)
    (lost,) = find_lost(slice_.pipeline, user, Selection())
    if expected is None:
        assert lost.document is None
        assert said in lost.reason
        return
    assert lost.document is not None
    assert {name: lost.document[name] for name in expected} == expected
    assert said in lost.then
    assert (lost.then == "") == (said == "")
    list(restore(slice_.pipeline, user, Selection(), 1))
    tally = slice_.sync(user).types[type_]
    assert (tally.updated, tally.unchanged) == ((1, 0) if said else (0, 1))
    assert set(slice_.records(user, type_)) == {key}


def test_what_cannot_come_back_is_listed_with_its_reason_and_left(
    cli: Run, slice_: Slice, object_server: ObjectServer
) -> None:
    """DEL-8: media that is gone, a code or a program that somebody else has, records that name nothing or nobody's."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    pixel = pixel_art(8, 8)
    object_server.put(USER_BUCKET, f"{ada.id}/painting/{SLUG}.png", pixel)
    program = {"code": "cow", "source": "(wipe blue)", "hash": sha256(b"(wipe blue)").hexdigest()}
    ids = {
        "media": slice_.add("painting", ada, code="abc", slug=SLUG),
        "program": slice_.add("kidlisp", ada, **program),
        "code": slice_.add("kidlisp", ada, code="dup", source="(a)", hash="a"),
        "withdrawn": slice_.add("mood", ada, mood="gone"),
    }
    slice_.sync(ada)
    removed = slice_.entry("mood", ids["withdrawn"]).with_(withdrawn_at=datetime(2026, 1, 2, tzinfo=UTC))
    slice_.pipeline.ledger.save([removed])
    lose(slice_, *ids.values())
    object_server.remove(USER_BUCKET, f"{ada.id}/painting/{SLUG}.png")
    slice_.add("kidlisp", bob, **(program | {"code": "sheep"}))
    slice_.add("kidlisp", bob, code="dup", source="(b)", hash="b")
    theirs = slice_.add("mood", bob, mood="bob's")
    slice_.put(ada, "mood", {"mood": "x", "when": WHEN_TEXT, "ref": theirs})
    slice_.put(ada, "mood", {"mood": "x", "when": WHEN_TEXT})
    slice_.put(ada, "mood", {"mood": "x", "when": WHEN_TEXT, "ref": "not an id"})
    everything = slice_.everything()
    code, out = cli("restore-documents", "--json")
    look = json.loads(out)
    assert (code, look["restorable"], look["left"]) == (1, 0, 7)
    reasons = " | ".join(each["reason"] for each in look["items"])
    for words in (
        "not in object storage",
        "`hash`",
        "`code` dup belongs to",
        "what was removed stays so",
        "belongs to another account",
        "names no document",
        "no ObjectId",
    ):
        assert words in reasons
    assert slice_.everything() == everything


def test_unique_indexes_are_asked_before_and_hold_at_the_insertion(cli: Run, slice_: Slice) -> None:
    """Facts, section 3: `code` is unique and not sparse, so only one piece can be without."""
    user = slice_.user("ada")
    pieces = slice_.database["pieces"]
    first = slice_.add("piece", user, slug="one")
    slice_.sync(user)
    slice_.put(user, "piece", {"slug": "two", "when": WHEN_TEXT, "ref": str(ObjectId())})
    pieces.create_index("code", unique=True)
    (lost,) = find_lost(slice_.pipeline, user, Selection())
    assert lost.document is None
    assert f"`code` (none) belongs to {first}" in lost.reason


def test_a_document_that_comes_in_between_wins(slice_: Slice) -> None:
    """Insert, never replace."""
    user = slice_.user("ada")
    id = slice_.add("mood", user, mood="before")
    slice_.sync(user)
    (original,) = lose(slice_, id).values()
    work = restore(slice_.pipeline, user, Selection(), 5)
    insert = slice_.pipeline.documents.insert
    slice_.database["moods"].insert_one(original | {"mood": "the platform's own"})
    assert insert(media_type("mood"), original) is False
    assert list(work) == []
    assert slice_.document("mood", id)["mood"] == "the platform's own"


@pytest.mark.parametrize("row", ["deletion", "tombstone"])
def test_nothing_comes_back_for_an_account_that_leaves(cli: Run, slice_: Slice, row: str) -> None:
    """DEL-9: not when it is looked at, and not when it began to leave after that."""
    user = slice_.user("ada")
    id = slice_.add("mood", user, mood="gone")
    slice_.sync(user)
    lose(slice_, id)
    assert len(find_lost(slice_.pipeline, user, Selection())) == 1
    if row == "deletion":
        slice_.database["account-deletions"].insert_one({"_id": user.id, "state": "scheduled"})
    else:
        slice_.database["account-tombstones"].insert_one({"_id": sha256(user.id.encode()).hexdigest()})
    _, out = cli("restore-documents", "--json")
    look = json.loads(out)
    assert (look["restorable"], [each["user"] for each in look["refused"]]) == (0, ["ada"])
    assert cli("restore-documents", "--confirm", "1")[0] == 2
    assert slice_.database["moods"].count_documents({}) == 0


def test_an_account_that_begins_to_leave_in_between_gets_nothing(slice_: Slice) -> None:
    """DEL-9."""
    user = slice_.user("ada")
    id = slice_.add("mood", user, mood="gone")
    slice_.sync(user)
    lose(slice_, id)
    work = restore(slice_.pipeline, user, Selection(), 1)
    slice_.database["account-deletions"].insert_one({"_id": user.id, "state": "running"})
    with pytest.raises(Blocked):
        next(work)
    assert slice_.database["moods"].count_documents({}) == 0


def test_guests_work_comes_back_as_guests_work(slice_: Slice, object_server: ObjectServer) -> None:
    """SRC-4, DEL-10: without `user`, in the guests' bucket, and not held back."""
    guest = slice_.user(id="art-guest")
    object_server.put(GUEST_BUCKET, "abcd1234.png", pixel_art(16, 16))
    object_server.put(GUEST_BUCKET, "efgh5678.zip", recording_zip())
    painting = slice_.add("painting", guest, code="abc", slug="abcd1234:efgh5678", bucket=GUEST_BUCKET)
    program = slice_.add("kidlisp", guest, code="cow", source="(wipe)")
    slice_.sync(guest)
    lose(slice_, painting, program)
    assert {lost.then for lost in restore(slice_.pipeline, guest, Selection(), 2)} == {""}
    assert "user" not in slice_.document("painting", painting)
    report = slice_.sync(guest)
    assert sum(tally.unchanged for tally in report.types.values()) == 2
    assert sum(tally.written + tally.deleted for tally in report.types.values()) == 0


def test_of_several_copies_one_gives_the_document_and_a_part_can_be_chosen(cli: Run, slice_: Slice) -> None:
    """PLAN-2, LINK-7: by id, since nothing in Mongo knows its code; duplicates go with the next sync."""
    user = slice_.user("ada")
    ids = [slice_.add("mood", user, mood=text) for text in "ab"]
    slice_.sync(user)
    twin = slice_.put(user, "mood", {"mood": "a", "when": WHEN_TEXT, "ref": ids[0]}, "3jzfcijpj2z2a")
    lose(slice_, *ids)
    code, out = cli("restore-documents", "--user", "ada", "--item", item_id("mood", ids[0]), "--confirm", "1", "--json")
    (item,) = json.loads(out)["items"]
    assert (code, item["item"]) == (0, f"mood:{ids[0]}")
    assert "deletes 1 more copies" in item["then"]
    assert [str(each["_id"]) for each in slice_.database["moods"].find()] == [ids[0]]
    assert not item["uri"].endswith(twin), "the copy that the pipeline wrote is the one that stays"
