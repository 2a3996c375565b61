"""Records of other writers that name no document: whose they are, told by what they hold (GUARD-7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.items import State
from ac_pipeline.media.base import Link
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.inspection.differences import find_differences
from ac_pipeline.operations.inspection.links import LinkState, Repair, examine
from ac_pipeline.operations.removal.wipe import DeletionRecorder
from ac_pipeline.sync.planning.plan import Kind, existing_records
from ac_pipeline.sync.verify import compare
from ac_pipeline_tests.unit.sync.world import World, chosen, totals

THEIRS, OTHER = "3mxtheirskey2", "3mxtheirskey3"
FIRST, SECOND = "00000000000000000000000a", "00000000000000000000000b"
COW = {
    "source": "(wipe blue)",
    "code": "cow",
    "acUrl": "https://aesthetic.computer/$cow",
    "when": "2025-10-15T12:30:45.123Z",
}


@pytest.fixture
def world() -> World:
    return World()


def kept(world: World, user: Account) -> dict[str, str | None]:
    """Key -> the document its record names."""
    return {rkey: record.get("ref") for rkey, record in world.records(user, "kidlisp").items()}


def test_a_record_of_the_same_account_code_and_source_is_adopted(world: World) -> None:
    """GUARD-7: updated in place, linked, and left alone from then on; no second record."""
    user = world.user()
    world.put(user, "kidlisp", THEIRS, COW)
    document = world.add("kidlisp", user)
    plan, _ = world.survey(user)
    assert [(each.kind, each.rkey, each.reason) for each in plan.operations()] == [(Kind.UPDATE, THEIRS, "lacks ref")]
    assert totals(world.sync(user), "kidlisp") == {"updated": 1}
    assert kept(world, user) == {THEIRS: document}
    link = world.link("kidlisp", document)
    assert link is not None
    assert (link.rkey, link.did) == (THEIRS, user.did)
    assert totals(world.sync(user), "kidlisp") == {"unchanged": 1}


@pytest.mark.parametrize("theirs", [{"source": "(wipe red)"}, {"code": "pig"}, {"source": ""}, {"code": 7}])
def test_a_record_that_holds_anything_else_is_left_alone(world: World, theirs: dict[str, Any]) -> None:
    """GUARD-7: both must be the same."""
    user = world.user()
    world.put(user, "kidlisp", THEIRS, {**COW, **theirs})
    document = world.add("kidlisp", user)
    assert totals(world.sync(user), "kidlisp") == {"created": 1}
    assert sorted(kept(world, user).values(), key=str) == sorted([document, None], key=str)


@pytest.mark.parametrize("number", [1, 14])
def test_programs_that_were_made_anew_under_other_ids_keep_their_records(world: World, number: int) -> None:
    """GUARD-7: by the platform's projection; no second record, however many they are, and no database is doubted."""
    user, media = world.user(), media_type("kidlisp")
    names = [{"code": f"cow{each}", "source": f"(wipe {each})"} for each in range(number)]
    old = [world.add("kidlisp", user, **each) for each in names]
    world.sync(user)
    keys = world.records(user, "kidlisp").keys()
    for each in old:
        world.documents.remove(media, each)
    new = [world.add("kidlisp", user, **each) for each in names]
    plan, _ = world.survey(user)
    assert {each.kind for each in plan.operations()} == {Kind.UPDATE}
    report = world.sync(user)
    assert (totals(report, "kidlisp"), report.notes) == ({"updated": number}, [])
    assert world.records(user, "kidlisp").keys() == keys
    assert set(kept(world, user).values()) == set(new)
    assert {world.entry("kidlisp", each).state for each in old} == {State.DELETED}
    assert totals(world.sync(user), "kidlisp") == {"unchanged": number}


@pytest.mark.parametrize("fields", [{"source": "(ink red)"}, {"nuked": True}, {"code": None}], ids=str)
def test_what_was_made_anew_and_changed_has_not_the_record_it_had(world: World, fields: dict[str, Any]) -> None:
    """DEL-1, DEL-4: another program is another program, a removed one is removed."""
    user, media = world.user(), media_type("kidlisp")
    for number in range(8):
        world.add("kidlisp", user, code=f"cow{number}", source=f"(wipe {number})")
    old = world.add("kidlisp", user)
    world.sync(user)
    world.documents.remove(media, old)
    new = world.add("kidlisp", user, **fields)
    world.sync(user)
    found = world.by_ref(user, "kidlisp")
    assert old not in found
    assert (new in found) is ("source" in fields)


def test_a_program_made_anew_beside_its_own_record_has_one(world: World) -> None:
    """LINK-7: as earlier versions left it, with two."""
    user, media = world.user(), media_type("kidlisp")
    for number in range(8):
        world.add("kidlisp", user, code=f"cow{number}", source=f"(wipe {number})")
    old, new = world.add("kidlisp", user), world.add("kidlisp", user)
    world.sync(user)
    assert (len(world.by_ref(user, "kidlisp")[old]), len(world.by_ref(user, "kidlisp")[new])) == (1, 1)
    linked = world.link("kidlisp", new)
    world.documents.remove(media, old)
    assert totals(world.sync(user), "kidlisp") == {"unchanged": 9, "duplicates_removed": 1}
    assert linked is not None
    assert world.by_ref(user, "kidlisp")[new] == [linked.rkey]


def test_a_record_of_another_account_or_document_is_not_adopted(world: World) -> None:
    """GUARD-7: what names a document, or is named by a link, is that document's."""
    user, other = world.user(), world.user()
    world.put(other, "kidlisp", THEIRS, COW)
    world.put(user, "kidlisp", OTHER, COW)
    linked = world.add("kidlisp", user, source="(ink red)", code="pig", _id=ObjectId(SECOND), atproto={"rkey": OTHER})
    document = world.add("kidlisp", user, _id=ObjectId(FIRST))
    assert totals(world.sync(user), "kidlisp") == {"created": 1, "updated": 1}
    assert world.by_ref(user, "kidlisp")[linked] == [OTHER]
    assert len(world.by_ref(user, "kidlisp")[document]) == 1
    assert kept(world, other) == {THEIRS: None}


def test_only_types_that_say_so_are_matched_by_content(world: World) -> None:
    user = world.user()
    world.put(user, "mood", THEIRS, {"mood": "fine", "when": COW["when"]})
    world.add("mood", user)
    assert totals(world.sync(user)) == {"created": 1}


def test_the_second_record_of_an_adopted_item_is_a_duplicate(world: World) -> None:
    """GUARD-7, LINK-7: the platform's writer publishes beside ours; ours, which is linked, stays."""
    user = world.user()
    document = world.add("kidlisp", user)
    world.sync(user)
    (ours,) = world.records(user, "kidlisp")
    world.put(user, "kidlisp", THEIRS, COW)
    report = world.sync(user)
    assert totals(report, "kidlisp") == {"unchanged": 1, "duplicates_removed": 1}
    assert kept(world, user) == {ours: document}


@pytest.mark.parametrize("order", [(FIRST, SECOND), (SECOND, FIRST)])
def test_two_documents_that_hold_the_same_end_with_a_record_each(order: tuple[str, str]) -> None:
    """GUARD-7: in whatever order Mongo lists them; none of three records is anybody's but theirs."""
    world = World()
    user = world.user()
    for id in order:
        world.add("kidlisp", user, _id=ObjectId(id))
    for rkey in (OTHER, THEIRS):
        world.put(user, "kidlisp", rkey, COW)
    assert totals(world.sync(user), "kidlisp") == {"updated": 2}
    assert kept(world, user) == {THEIRS: FIRST, OTHER: SECOND}
    assert totals(world.sync(user), "kidlisp") == {"unchanged": 2}


def test_a_withdrawn_twin_does_not_cost_an_eligible_document_its_record(world: World) -> None:
    """GUARD-7, LINK-8: one record, two documents of which one is withdrawn."""
    user = world.user()
    world.add("kidlisp", user, _id=ObjectId(FIRST), nuked=True)
    eligible = world.add("kidlisp", user, _id=ObjectId(SECOND))
    world.put(user, "kidlisp", THEIRS, COW)
    world.sync(user)
    assert kept(world, user) == {THEIRS: eligible}


def test_a_withdrawn_document_takes_the_record_with_it(world: World) -> None:
    """GUARD-7, DEL-1: also the copy beside a record of ours."""
    user = world.user()
    document = world.add("kidlisp", user)
    world.sync(user)
    world.put(user, "kidlisp", THEIRS, COW)
    world.change("kidlisp", document, nuked=True)
    assert totals(world.sync(user), "kidlisp") == {"deleted": 1}
    assert world.records(user, "kidlisp") == {}


def test_what_a_deleted_account_left_behind_does_not_become_guest_work(world: World) -> None:
    """GUARD-7, DEL-10: a link into another repository holds it back, whatever the guest's repository has."""
    guest = world.guest()
    world.put(guest, "kidlisp", THEIRS, COW)
    did = "did:plc:00000000000000000000gone"
    document = world.add("kidlisp", guest, atproto={"rkey": OTHER, "did": did})
    assert totals(world.sync(guest), "kidlisp") == {"quarantined": 1}
    assert kept(world, guest) == {THEIRS: None}
    world.change("kidlisp", document, nuked=True)
    world.sync(guest)
    assert kept(world, guest) == {}


def test_every_look_agrees_on_whose_the_record_is(world: World) -> None:
    """GUARD-7: links, verification, differences, wipe and restore."""
    user = world.user()
    media = media_type("kidlisp")
    document = world.add("kidlisp", user)
    world.put(user, "kidlisp", THEIRS, COW)
    selection = chosen(types=["kidlisp"])
    (finding,) = examine(world.engine, user, selection).findings
    assert (finding.item, finding.state, finding.repair) == (
        f"kidlisp:{document}",
        LinkState.WRONG_SHAPE,
        Repair.UPDATE,
    )
    plan, report = world.engine.survey(user, selection)
    found = compare(world.engine, plan, report, blobs=False)["kidlisp"]
    assert (found.expected, found.missing, found.different, found.extra, found.duplicates) == (1, 0, 1, 0, 0)
    assert find_differences(world.engine, user, selection) == []
    (record,) = existing_records(world.pds.read_repository(str(user.did)), media)
    recorder = DeletionRecorder(world.engine, user, (media,), "run")
    assert recorder.document(media, record) is not None
    assert recorder.item(media, record) == f"kidlisp:{document}"


def test_an_adopted_record_keeps_the_link_it_got(world: World) -> None:
    """GUARD-7, LINK-3: a link without a repository of its own names ours."""
    user = world.user()
    document = world.add("kidlisp", user, atproto={"rkey": THEIRS})
    world.put(user, "kidlisp", THEIRS, COW)
    world.sync(user)
    link = world.link("kidlisp", document)
    assert link is not None
    assert replace(link, cid=None) == Link(
        THEIRS, f"at://{user.did}/{media_type('kidlisp').nsid}/{THEIRS}", None, user.did
    )
