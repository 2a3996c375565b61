"""A sync that is held to what was agreed to: nothing else ever happens, whatever has changed since."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.accounts import Account
from ac_pipeline.errors import RecordRefused
from ac_pipeline.items import PlannedOperation, State
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.plan import AppliedPart, Change, apply_part
from ac_pipeline.sync.planning.plan import Kind
from ac_pipeline.sync.selection import Agreement, PlanHash, Selection, planned
from ac_pipeline_tests.unit.sync.test_dry_run import a_bit_of_everything
from ac_pipeline_tests.unit.sync.world import World

KEYS = [f"3jzfcijpj2z2{letter}" for letter in "abcdef"]
WHEN_TEXT = "2025-10-15T12:30:45.123Z"


@pytest.fixture
def world() -> World:
    return World()


def carry_out(world: World, user: Account, lines: list[PlannedOperation], **options: Any) -> AppliedPart:
    return apply_part(world.engine, user, Selection(), lines, "run-2", **{"dry": False, **options})


def listed(turn: AppliedPart) -> Counter[tuple[str, str]]:
    return Counter((moved.change.name, moved.operation.operation) for moved in turn.moved)


def test_an_unchanged_plan_is_carried_out_as_a_whole(world: World) -> None:
    """PLAN-1: every kind of operation, renditions included, of which the record was not known."""
    user = world.user()
    a_bit_of_everything(world, user)
    lines = planned([world.survey(user)[0]])
    turn = carry_out(world, user, lines)
    assert (turn.same, turn.done_before, turn.moved) == (len(lines), 0, [])
    assert planned([world.survey(user)[0]]) == []
    again = carry_out(world, user, lines)
    assert (again.same, again.done_before, again.moved, again.report) == (0, len(lines), [], None)
    assert again.clean


def test_a_dry_run_of_a_plan_writes_nothing(world: World) -> None:
    user = world.user()
    a_bit_of_everything(world, user)
    lines = planned([world.survey(user)[0]])
    with world.quiet():
        turn = carry_out(world, user, lines, dry=True)
    assert turn.same == len(lines)


@given(chosen=st.sets(st.integers(0, 10)))
def test_whatever_part_is_agreed_to_nothing_else_happens(chosen: set[int]) -> None:
    """PLAN-2, LINK-8: any subset of a plan, deletes and links included; what is left is what the next plan has."""
    world = World()
    user = world.user()
    a_bit_of_everything(world, user)
    lines = planned([world.survey(user)[0]])
    agreed = [each for number, each in enumerate(lines) if number in chosen]
    before, documents = world.records(user, "mood"), {op.item: op for op in lines}
    links = {item: world.link(*item.split(":")) for item, op in documents.items() if op.operation != "delete-orphan"}
    turn = carry_out(world, user, agreed)
    left = planned([world.survey(user)[0]])
    outside = [each for each in lines if each not in agreed]
    # What somebody agreed to is gone from the plan, except copies beside something that was not agreed to.
    assert {(e.item, e.operation) for e in left} >= {(e.item, e.operation) for e in outside}
    assert {e.item for e in left} <= {e.item for e in outside}
    after = world.records(user, "mood")
    for each in outside:
        if each.operation in {"delete", "delete-orphan", "delete-duplicate", "update"}:
            assert after[each.rkey] == before[each.rkey]
        elif each.operation in {"adopt", "heal", "unlink"} and each.item not in {a.item for a in agreed}:
            assert world.link(*each.item.split(":")) == links[each.item]
    assert {moved.change for moved in turn.moved} <= {Change.NEW, Change.CHANGED}


def test_a_sync_that_is_held_to_nothing_does_nothing(world: World) -> None:
    user = world.user()
    a_bit_of_everything(world, user)
    before, links = world.pds.records(user), len(world.documents.link_writes)
    report = world.engine.sync(user, Selection(agreed=Agreement(())), "run-2")
    assert (world.pds.records(user), len(world.documents.link_writes)) == (before, links)
    assert len(report.skipped) == 10, "all there is to do but the orphan, which is not even looked for"


def test_what_moves_between_the_look_and_the_write_is_left_alone(world: World) -> None:
    """WRITE-7, DEL-3: somebody else writes in the middle; the new plan is held to the old agreement."""
    user = world.user()
    documents = world.moods(user, 4)
    lines = planned([world.survey(user)[0]])

    def meanwhile(number: int) -> None:
        world.pds.between = lambda number: None
        world.change("mood", documents[1], mood="another text")
        world.put(user, "mood", KEYS[0], {"mood": "mood 2", "when": WHEN_TEXT, "ref": documents[2]})

    world.pds.between = meanwhile
    turn = carry_out(world, user, lines)
    refs = {record["ref"] for record in world.records(user, "mood").values()}
    assert refs == set(documents)
    assert world.records(user, "mood")[KEYS[0]]["when"] == WHEN_TEXT, "an update that nobody has agreed to"
    assert [(moved.change, moved.operation.operation) for moved in turn.moved] == [(Change.CHANGED, "update")]
    assert turn.report is not None
    assert turn.report.types["mood"].deferred == 1, "it waits for another sync"


def test_a_copy_stays_while_its_survivor_is_not_as_agreed(world: World) -> None:
    """LINK-7, LINK-8: the update of the survivor has changed, so the duplicate is not given up for it."""
    user = world.user()
    document = world.add("mood", user, mood="old")
    for key in KEYS[:2]:
        world.put(user, "mood", key, {"mood": "older", "when": WHEN_TEXT, "ref": document})
    lines = planned([world.survey(user)[0]])
    assert {each.operation for each in lines} == {"update", "delete-duplicate"}
    world.change("mood", document, mood="new")
    turn = carry_out(world, user, lines)
    assert sorted(world.records(user, "mood")) == KEYS[:2]
    assert not turn.clean


def test_a_changed_document_breaks_the_promise_of_its_rendition(world: World) -> None:
    """PLAN-1: the record was not known, so what was agreed to is this document."""
    user = world.user()
    same, changed = world.add("painting", user, code="one"), world.add("painting", user, code="two")
    lines = planned([world.survey(user)[0]])
    assert [each.operation for each in lines] == ["render", "render"]
    assert PlanHash(lines).hexdigest() != PlanHash([replace(each, fingerprint="other") for each in lines]).hexdigest()
    world.change("painting", changed, code="three")
    turn = carry_out(world, user, lines)
    assert listed(turn) == {("CHANGED", "render"): 1}
    assert [record["ref"] for record in world.records(user, "painting").values()] == [same]
    assert world.renderer.derived == [same]


def test_a_rendition_that_was_made_since_is_still_the_same_operation(world: World) -> None:
    user = world.user()
    world.add("painting", user)
    lines = planned([world.survey(user)[0]])
    world.engine.render(user, media_type("painting"), Selection(), "run-1")
    assert carry_out(world, user, lines).clean
    assert len(world.records(user, "painting")) == 1


def test_a_blocked_account_is_listed_with_its_reason(world: World) -> None:
    """ACCT-2."""
    user = world.user()
    world.moods(user, 2)
    lines = planned([world.survey(user)[0]])
    world.pds.set_status(user, "deactivated")
    turn = carry_out(world, user, lines)
    assert listed(turn) == {("BLOCKED", "create"): 2}
    assert all(moved.why for moved in turn.moved)


def test_a_key_that_is_refused_is_not_replaced_by_one_nobody_has_agreed_to(world: World) -> None:
    """WRITE-3: the next key is for the next plan."""
    user = world.user()
    world.add("mood", user)
    lines = planned([world.survey(user)[0]])
    refusal = RecordRefused("refused", status=400, answer="Unacceptable slur in record key")
    world.pds.refusals[media_type("mood").nsid, lines[0].rkey] = refusal
    turn = carry_out(world, user, lines)
    assert world.records(user, "mood") == {}
    assert listed(turn) == {("CHANGED", "create"): 1}
    assert not turn.clean


def test_items_in_a_plan_that_became_unchanged_are_noted_in_the_ledger_only_as_such(world: World) -> None:
    user = world.user()
    document = world.add("mood", user, mood="new text")
    world.put(user, "mood", KEYS[0], {"mood": "old", "when": WHEN_TEXT, "ref": document})
    lines = planned([world.survey(user)[0]])
    assert [each.operation for each in lines] == [Kind.UPDATE.value]
    world.sync(user)
    assert carry_out(world, user, lines).clean
    assert world.entry("mood", document).state in {State.WRITTEN, State.UNCHANGED}


def test_the_hash_is_the_same_however_the_lines_come() -> None:
    lines = [PlannedOperation(f"mood:{n}", "ada", "create", f"why {n}", str(n), f"cid {n}") for n in range(3)]
    digest = PlanHash()
    for each in lines:
        digest.add(replace(each, reason="for another reason"))
    assert (
        digest.hexdigest() == PlanHash(lines).hexdigest() != PlanHash(lines[:2]).hexdigest() != PlanHash([]).hexdigest()
    )
