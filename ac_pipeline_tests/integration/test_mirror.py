"""The mirror end to end on real services: documents in MongoDB, records on a PDS, links and ledger in between."""

from __future__ import annotations

from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.items import Record, State
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.media.base import Link
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline_tests.harness import GUEST_BUCKET, USER_BUCKET, Slice
from ac_pipeline_tests.scripted_storage import ObjectServer

KEY = "3jzfcijpj2z2a"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"
SLUG = "2025.10.15.12.30.45.123"
PERFORMED = {"apply_writes", "upload_blob", "create_session"}


def test_a_second_sync_over_unchanged_data_writes_and_uploads_nothing(slice_: Slice) -> None:
    """WRITE-1, WRITE-4, VERIFY-1, LIMIT-7."""
    user = slice_.user("ada")
    for number in range(300):
        slice_.add("mood", user, mood=f"mood {number}")
    start = slice_.pipeline.server.usage()
    first = slice_.sync(user)
    assert first.error is None
    assert first.types["mood"].created == first.types["mood"].planned == 300
    before = slice_.pipeline.server.usage()
    assert (before - start).requests["apply_writes"] == 2
    assert (before - start).requests["create_session"] == 1
    second = slice_.sync(user)
    used = (slice_.pipeline.server.usage() - before).requests
    assert second.types["mood"].unchanged == second.types["mood"].planned == 300
    assert used["apply_writes"] == used["upload_blob"] == used["create_session"] == 0
    assert len(slice_.records(user, "mood")) == 300


def test_one_item_of_every_type_becomes_a_record_with_its_media(slice_: Slice, object_server: ObjectServer) -> None:
    """WRITE-1, LINK-3, LINK-4, MEDIA-7, MEDIA-15, VERIFY-2, VERIFY-5, OPS-2: and then nothing is left to do."""
    user = slice_.user("ada")
    object_server.put(USER_BUCKET, f"{user.id}/painting/{SLUG}.png", pixel_art(64, 48))
    object_server.put(USER_BUCKET, f"{user.id}/{SLUG}.zip", tape_zip(6, 32, 24))
    ids = {
        "painting": slice_.add("painting", user, code="abc", slug=SLUG),
        "mood": slice_.add("mood", user, mood="fine\\nthanks"),
        "piece": slice_.add("piece", user, slug="wand"),
        "kidlisp": slice_.add("kidlisp", user, code="abc", source="(wipe blue)"),
        "tape": slice_.add("tape", user, code="xyz", slug=SLUG),
    }
    report = slice_.sync(user)
    assert (report.failures, report.error) == ([], None)
    for media in MEDIA_TYPES:
        assert report.types[media.name].created == 1
        ((rkey, (cid, record)),) = slice_.listed(user, media.name).items()
        assert record["ref"] == ids[media.name]
        assert record_cid(record) == cid
        assert all(blob.name in record for blob in media.blobs)
        uri = f"at://{user.did}/{media.nsid}/{rkey}"
        assert slice_.link(media.name, ids[media.name]) == Link(rkey, uri, cid, user.did)
        entry = slice_.entry(media.name, ids[media.name])
        assert (entry.state, entry.cid, entry.rkey, entry.attempts) == (State.WRITTEN, cid, rkey, 1)
    tape = slice_.document("tape", ids["tape"])
    assert tape["at"] == tape["atproto"]
    before = slice_.pipeline.server.usage()
    again = slice_.sync(user)
    assert all(tally.unchanged == tally.planned == 1 for tally in again.types.values())
    used = (slice_.pipeline.server.usage() - before).requests
    assert {name: used[name] for name in PERFORMED} == dict.fromkeys(PERFORMED, 0)
    found = verify(slice_.pipeline.engine, user, Selection())
    assert (found.complete, found.expected, found.verified, found.blobs_expected) == (True, 5, 5, 3)


def test_records_follow_their_documents(slice_: Slice) -> None:
    """WRITE-10, DEL-1, DEL-2, DEL-4: changed in place, withdrawn, brought back under its key, orphaned."""
    user = slice_.user("ada")
    changed, nuked, lost = (slice_.add("mood", user, mood=text) for text in ("a", "b", "c"))
    slice_.sync(user)
    keys = {record["ref"]: rkey for rkey, record in slice_.records(user, "mood").items()}
    moods = slice_.database["moods"]
    slice_.change("mood", changed, mood="better")
    slice_.change("mood", nuked, deleted=True)
    moods.delete_one({"mood": "c"})
    report = slice_.sync(user)
    assert (report.types["mood"].updated, report.types["mood"].deleted) == (1, 2)
    assert {rkey: record["mood"] for rkey, record in slice_.records(user, "mood").items()} == {keys[changed]: "better"}
    assert slice_.link("mood", nuked) is None
    assert slice_.entry("mood", lost).state is State.DELETED
    assert slice_.sync(user).types["mood"].planned == 1
    slice_.change("mood", nuked, deleted=False)
    assert slice_.sync(user).types["mood"].created == 1
    assert set(slice_.records(user, "mood")) == {keys[changed], keys[nuked]}


def test_what_the_original_left_behind_is_adopted_repaired_and_reduced_to_one(slice_: Slice) -> None:
    """LINK-1, LINK-2, LINK-7, LINK-10, REC-7: legacy fields, no links, duplicates; no key changes hands."""
    user = slice_.user("ada")
    ids = {text: slice_.add("mood", user, mood=text) for text in ("right", "legacy", "no text", "double", "clock")}
    records: dict[str, Record] = {
        "3jzfcijpj2z2a": {"mood": "right", "when": WHEN_TEXT, "ref": ids["right"]},
        "3jzfcijpj2z2b": {"mood": "legacy", "when": WHEN_TEXT, "mongoId": ids["legacy"]},
        "3jzfcijpj2z2c": {"when": WHEN_TEXT, "ref": ids["no text"]},
        "3jzfcijpj2z2d": {"mood": "double", "when": WHEN_TEXT, "ref": ids["double"]},
        "3jzfcijpj2z2e": {"mood": "double", "when": WHEN_TEXT, "ref": ids["double"]},
        "3jzfcijpj2z2f": {"mood": "clock", "when": "2025-10-15T12:30:45.127Z", "ref": ids["clock"]},
    }
    for rkey, value in records.items():
        slice_.put(user, "mood", value, rkey)
    slice_.change("mood", ids["double"], atproto={"rkey": "3jzfcijpj2z2e"})
    tally = slice_.sync(user).types["mood"]
    assert (tally.unchanged, tally.updated, tally.created, tally.duplicates_removed) == (3, 2, 0, 1)
    after = {rkey: record["mood"] for rkey, record in slice_.records(user, "mood").items()}
    assert after == {
        "3jzfcijpj2z2a": "right",
        "3jzfcijpj2z2b": "legacy",
        "3jzfcijpj2z2c": "no text",
        "3jzfcijpj2z2e": "double",
        "3jzfcijpj2z2f": "clock",
    }
    assert all(slice_.link("mood", id) is not None for id in ids.values())
    again = slice_.sync(user).types["mood"]
    assert (again.unchanged, again.healed) == (again.planned, 0) == (5, 0)


def test_guests_work_of_every_form_is_one_more_account(slice_: Slice, object_server: ObjectServer) -> None:
    """ACCT-4, SRC-4, DEL-10: tapes included; a program that outlived its owner is held back."""
    guest = slice_.user(id="art-guest")
    object_server.put(GUEST_BUCKET, "abcd1234.png", pixel_art(16, 16))
    object_server.put(GUEST_BUCKET, "efgh5678.zip", tape_zip(3, 16, 16))
    slice_.add("painting", guest, code="abc", slug="abcd1234", user=None)
    slice_.add("piece", guest, slug="wand", user="")
    slice_.add("kidlisp", guest, code="cow", source="(wipe)")
    slice_.add("tape", guest, code="xyz", slug="efgh5678")
    survivor = slice_.add("kidlisp", guest, code="old", source="(old)", atproto={"rkey": KEY, "did": "did:plc:gone"})
    report = slice_.sync(guest)
    assert [failure.item for failure in report.failures] == [f"kidlisp:{survivor}"]
    assert {name: len(slice_.records(guest, name)) for name in report.types} == {
        "painting": 1,
        "mood": 0,
        "piece": 1,
        "kidlisp": 1,
        "tape": 1,
    }


def test_a_dry_run_leaves_every_service_as_it_was(slice_: Slice, object_server: ObjectServer) -> None:
    """PLAN-1: nothing in the database, in the ledger, on the PDS or in the store; storage is not asked."""
    user = slice_.user("ada")
    slice_.add("painting", user, code="abc", slug=SLUG)
    slice_.add("mood", user, mood="fine")
    before = slice_.everything()
    plan, report = slice_.pipeline.engine.survey(user, Selection())
    assert sorted(operation.kind for operation in plan.operations()) == ["create", "render"]
    assert report.types["mood"].pending == 1
    assert slice_.everything() == before
    assert object_server.requests == ()
