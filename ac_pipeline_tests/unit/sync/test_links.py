"""Links in Mongo and duplicates on the PDS: what is matched, what is repaired, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.errors import RecordRefused, SourceMissing
from ac_pipeline.items import State
from ac_pipeline.media.base import Link
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.tape import TAPE
from ac_pipeline.sync.planning.plan import Kind
from ac_pipeline_tests.unit.sync.world import World, totals

A, B, C, D = "3jzfcijpj2z2a", "3jzfcijpj2z2b", "3jzfcijpj2z2c", "3jzfcijpj2z2d"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"


@pytest.fixture
def world() -> World:
    return World()


def mood(ref: str, **fields: Any) -> dict[str, Any]:
    return {"mood": "fine", "when": WHEN_TEXT, "ref": ref, **fields}


def test_a_record_without_a_link_is_linked_and_then_left_alone(world: World) -> None:
    """LINK-1, LINK-3."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", A, mood(document))
    assert totals(world.sync(user)) == {"unchanged": 1, "healed": 1}
    link = world.link("mood", document)
    assert link is not None
    assert link == Link(A, f"at://{user.did}/computer.aesthetic.mood/{A}", link.cid, user.did)
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 1}


@pytest.mark.parametrize("field", ["ref", "mongoId"])
def test_a_record_that_names_its_document_in_capitals_is_its_record(world: World, field: str) -> None:
    """LINK-2: it is adopted under its key and put right, not taken for an orphan beside a second record."""
    user = world.user()
    document = world.add("mood", user, _id=ObjectId("65f0abcdef65f0abcdef65f0"))
    world.put(user, "mood", A, {"mood": "fine", "when": WHEN_TEXT, field: document.upper()})
    assert totals(world.sync(user)) == {"updated": 1}
    assert {key: record["ref"] for key, record in world.records(user, "mood").items()} == {A: document}


@pytest.mark.parametrize(
    "stored",
    [
        {"rkey": A},
        {"rkey": A, "uri": "at://did:plc:000000000000000000000001/computer.aesthetic.mood/" + A},
        {"uri": "at://did:plc:000000000000000000000001/computer.aesthetic.mood/" + A},
        {"rkey": A, "cid": "bafyreiaold"},
        {},
    ],
)
def test_every_incomplete_form_of_a_link_is_completed(world: World, stored: dict[str, str]) -> None:
    """LINK-3: whatever form the original left behind, key, URI, CID and DID are there afterwards."""
    user = world.user()
    document = world.add("mood", user, atproto=stored)
    world.put(user, "mood", A, mood(document))
    assert totals(world.sync(user)) == {"unchanged": 1, "healed": 1}
    link = world.link("mood", document)
    assert link is not None
    assert None not in (link.rkey, link.uri, link.cid, link.did)
    assert totals(world.sync(user)) == {"unchanged": 1}


def test_matching_goes_by_ref_then_mongo_id_then_the_stored_key(world: World) -> None:
    """LINK-2: a legacy record is adopted in place, not duplicated."""
    user = world.user()
    by_ref, by_mongo_id, by_key = (world.add("mood", user, mood=text) for text in ("a", "b", "c"))
    world.change("mood", by_key, atproto={"rkey": C})
    world.put(user, "mood", A, mood(by_ref, mood="a"))
    world.put(user, "mood", B, {"mood": "b", "when": WHEN_TEXT, "mongoId": by_mongo_id})
    world.put(user, "mood", C, {"mood": "c", "when": WHEN_TEXT})
    assert totals(world.sync(user)) == {"unchanged": 1, "updated": 2, "healed": 1}
    assert world.by_ref(user, "mood") == {by_ref: [A], by_mongo_id: [B], by_key: [C]}
    assert all("mongoId" not in record for record in world.records(user, "mood").values())


def test_a_record_found_by_ref_goes_before_the_one_under_the_stored_key(world: World) -> None:
    """LINK-2, LINK-9: the key of a link proves nothing when another record names the document."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": B})
    world.put(user, "mood", A, mood(document))
    world.put(user, "mood", B, {"when": WHEN_TEXT})
    world.sync(user)
    link = world.link("mood", document)
    assert link is not None
    assert link.rkey == A
    assert set(world.records(user, "mood")) == {A, B}


@pytest.mark.parametrize("home", ["atproto", "at"])
def test_both_homes_of_a_tape_are_read_and_written_and_cleared_together(world: World, home: str) -> None:
    """LINK-4."""
    user = world.user()
    document = world.add("tape", user)
    world.sync(user)
    (key,) = world.records(user, "tape")
    raw = world.documents.raw(TAPE, document)
    assert raw["atproto"] == raw["at"]
    del raw[home]
    world.sync(user)
    assert raw["atproto"] == raw["at"]
    assert raw["at"]["rkey"] == key
    world.change("tape", document, nuked=True)
    world.sync(user)
    assert not {"atproto", "at"} & world.documents.raw(TAPE, document).keys()


def test_a_link_to_the_record_of_another_document_overwrites_nothing(world: World) -> None:
    """LINK-6: the crossed link is named as the reason; both documents end with a record of their own."""
    user = world.user()
    one, other = world.add("mood", user, mood="mine"), world.add("mood", user, mood="theirs")
    world.put(user, "mood", A, mood(other, mood="theirs"))
    world.change("mood", one, atproto={"rkey": A})
    plan, _ = world.survey(user)
    (create,) = [operation for operation in plan.operations() if operation.kind is Kind.CREATE]
    assert create.reason == f"new; the stored link names a record of {other}"
    world.sync(user)
    assert world.by_ref(user, "mood")[other] == [A]
    assert world.records(user, "mood")[A]["mood"] == "theirs"
    link = world.link("mood", one)
    assert link is not None
    assert [link.rkey] == world.by_ref(user, "mood")[one]


def test_of_duplicates_the_linked_one_survives(world: World) -> None:
    """LINK-7."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": B})
    for key in (A, B, C):
        world.put(user, "mood", key, mood(document))
    assert totals(world.sync(user)) == {"unchanged": 1, "healed": 1, "duplicates_removed": 2}
    assert world.by_ref(user, "mood") == {document: [B]}


def test_of_unlinked_duplicates_one_with_its_blobs_survives_else_the_oldest(world: World) -> None:
    """LINK-7: a copy that lost its thumbnail goes before one that has it, however old."""
    user = world.user()
    document = world.add("painting", user)
    world.sync(user)
    (first,) = world.records(user, "painting")
    whole = world.records(user, "painting")[first]
    bare = {name: value for name, value in whole.items() if name != "thumbnail"}
    world.put(user, "painting", A, bare)
    world.put(user, "painting", B, whole)
    world.documents.raw(PAINTING, document).pop("atproto")
    assert A < B < first
    assert totals(world.sync(user), "painting") == {
        "unchanged": 1,
        "healed": 1,
        "duplicates_removed": 2,
        "companions_missing": 1,
    }
    assert world.by_ref(user, "painting") == {document: [B]}
    link = world.link("painting", document)
    assert link is not None
    assert link.rkey == B


def test_one_of_many_copies_is_corrected_and_linked_in_the_same_sync(world: World) -> None:
    """LINK-7, WRITE-10: the survivor is updated, the others go, the link names the survivor."""
    user = world.user()
    document = world.add("mood", user, mood="new")
    for key in (C, A, B):
        world.put(user, "mood", key, mood(document, mood="old"))
    assert totals(world.sync(user)) == {"updated": 1, "duplicates_removed": 2}
    assert {key: record["mood"] for key, record in world.records(user, "mood").items()} == {A: "new"}
    link = world.link("mood", document)
    assert link is not None
    assert link.rkey == A
    assert totals(world.sync(user)) == {"unchanged": 1}


def test_the_copies_of_a_quarantined_item_are_all_left_alone(world: World) -> None:
    """LINK-8: as long as nobody knows what its record shall be, none of its copies is deleted."""
    user = world.user()
    document = world.add("painting", user)
    world.renderer.failures[document] = SourceMissing("no object")
    for key in (A, B):
        world.put(user, "painting", key, {"ref": document, "code": "abc", "when": WHEN_TEXT})
    assert totals(world.sync(user), "painting") == {"quarantined": 1}
    assert world.by_ref(user, "painting") == {document: [A, B]}
    assert world.pds.count("apply_writes") == 2


def test_an_invalid_document_leaves_its_record_as_it_is(world: World) -> None:
    """SRC-7, LINK-8: a mood whose text vanished is quarantined; what was published stays, with its link."""
    user = world.user()
    document = world.add("mood", user)
    world.sync(user)
    before = world.records(user, "mood"), world.link("mood", document)
    world.change("mood", document, mood="")
    assert totals(world.sync(user)) == {"quarantined": 1}
    assert (world.records(user, "mood"), world.link("mood", document)) == before
    assert world.entry("mood", document).state is State.QUARANTINED
    assert world.entry("mood", document).rkey == before[1].rkey  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [{}, {"ref": 5}, {"ref": None}, {"ref": ""}, {"mongoId": ["x"]}, {"when": 7}])
def test_a_record_without_the_fields_of_its_type_crashes_nothing(world: World, value: dict[str, Any]) -> None:
    """LINK-9: it names no document, so it is listed and left alone."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", A, value)
    report = world.sync(user)
    assert totals(report) == {"created": 1}
    assert report.notes == [f"mood record {A} names no document; it is left alone"]
    refs = {key: record.get("ref") for key, record in world.records(user, "mood").items()}
    assert refs.pop(A) == value.get("ref")
    assert list(refs.values()) == [document]


@pytest.mark.parametrize(
    "value",
    [
        {"text": "fine", "when": WHEN_TEXT, "ref": True},
        {"when": WHEN_TEXT, "ref": True},
        {"mood": "fine", "when": WHEN_TEXT, "mongoId": True},
        {"mood": 5, "when": WHEN_TEXT, "ref": True},
        {"mood": "fine", "when": "yesterday", "ref": True},
    ],
)
def test_a_mood_of_another_shape_is_repaired_under_its_key(world: World, value: dict[str, Any]) -> None:
    """LINK-10, WRITE-11: the key is part of a public address, so it is one update and nothing else."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", A, {name: document if part is True else part for name, part in value.items()})
    assert totals(world.sync(user)) == {"updated": 1}
    assert world.records(user, "mood") == {A: {"$type": "computer.aesthetic.mood", **mood(document)}}
    (batch,) = world.pds.batches(user)[1:]
    assert [write.action for write in batch] == ["update"]


def test_a_painting_without_its_thumbnail_is_completed_in_place(world: World) -> None:
    """LINK-11: never deleted first."""
    user = world.user()
    document = world.add("painting", user)
    world.put(user, "painting", A, {"ref": document, "code": "abc", "when": WHEN_TEXT})
    totals_ = totals(world.sync(user), "painting")
    assert (totals_["updated"], totals_.get("duplicates_removed")) == (1, None)
    assert "thumbnail" in world.records(user, "painting")[A]
    assert all(write.action != "delete" for batch in world.pds.batches(user) for write in batch)


def test_moods_are_never_taken_for_records_without_their_blob(world: World) -> None:
    """LINK-11: the original deleted and made again every mood on every second run."""
    user = world.user()
    world.moods(user, 5)
    world.sync(user)
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 5}


def test_copies_go_in_commits_of_their_own_after_the_one_that_stays_is_right(world: World) -> None:
    """LINK-7, LINK-8: never in the commit that makes a record equal to them, which breaks a repository."""
    user = world.user()
    documents = world.moods(user, 3)
    for number, document in enumerate(documents):
        world.put(user, "mood", f"3jzfcijpj2z2{'abc'[number]}", {"when": WHEN_TEXT, "ref": document})
        world.put(user, "mood", f"3jzfcijpj2z3{'abc'[number]}", mood(document, mood=f"mood {number}"))
    sent = len(world.pds.batches(user))
    assert totals(world.sync(user)) == {"updated": 3, "duplicates_removed": 3}
    actions = [{write.action for write in batch} for batch in world.pds.batches(user)[sent:]]
    assert actions == [{"update"}, {"delete"}]


def test_no_copy_is_given_up_for_one_that_could_not_be_corrected(world: World) -> None:
    """LINK-8, LINK-11: the linked record stays without its text, so the one that has it stays, too."""
    user = world.user()
    document, other = world.add("mood", user, atproto={"rkey": A}), world.add("mood", user, mood="other")
    world.put(user, "mood", A, {"when": WHEN_TEXT, "ref": document})
    world.put(user, "mood", B, mood(document))
    world.pds.refusals["computer.aesthetic.mood", A] = RecordRefused("no", status=400, answer="InvalidRequest: no")
    for _ in range(2):
        report = world.sync(user)
        assert (report.types["mood"].quarantined, report.types["mood"].duplicates_removed) == (1, 0)
        assert world.by_ref(user, "mood")[document] == [A, B]
    assert len(world.by_ref(user, "mood")[other]) == 1


def test_a_link_shared_with_a_withdrawn_document_costs_nobody_a_record(world: World) -> None:
    """LINK-8, LINK-2: the record names neither; it is taken for the one that is to be seen."""
    user = world.user()
    withdrawn = world.add("mood", user, _id=ObjectId("1" * 24), deleted=True, atproto={"rkey": A})
    shown = world.add("mood", user, _id=ObjectId("2" * 24), atproto={"rkey": A})
    world.put(user, "mood", A, {"mood": "fine", "when": WHEN_TEXT})
    assert totals(world.sync(user)) == {"updated": 1, "healed": 1}
    assert world.by_ref(user, "mood") == {shown: [A]}
    assert world.link("mood", withdrawn) is None
