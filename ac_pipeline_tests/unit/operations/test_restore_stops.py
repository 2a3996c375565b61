"""What stops a restore, and how the same command does the rest, with every port in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ac_pipeline.errors import (
    HeldBack,
    Misconfigured,
    OutcomeUnknown,
    RateLimited,
    RecordRefused,
    ServiceUnreachable,
    SourceMissing,
)
from ac_pipeline.items import State
from ac_pipeline_tests.unit.operations.guarded import Guarded, killed_at
from ac_pipeline_tests.unit.operations.wiped import settled, wiped
from ac_pipeline_tests.unit.sync.world import totals

A, B, C, D = "3jzfcijpj2z2a", "3jzfcijpj2z2b", "3jzfcijpj2z2c", "3jzfcijpj2z2d"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


MOOD = "computer.aesthetic.mood"


@pytest.fixture
def world() -> Guarded:
    return Guarded()


def test_a_snapshot_that_is_not_whole_is_not_used(world: Guarded) -> None:
    """PLAN-6: it is read back before anything is written."""
    user, ids, _ = wiped(world)
    derived = world.entry("painting", ids["painting"]).derived
    assert derived is not None
    world.store.write_file(f"snapshots/blobs/{derived.renditions['thumbnail'].blob.cid}", b"rot")
    with pytest.raises(SourceMissing, match="damaged"):
        world.restore(user)
    assert world.contents(user) == {}
    assert world.holds(user)
    world.store.write_file(f"snapshots/repositories/{world.snapshots()[0].repository}.car", b"rot")
    with pytest.raises(SourceMissing, match="damaged"):
        world.restore(user, "mood")
    assert world.restore(user, source="mongo").clean


def test_an_incomplete_snapshot_and_that_of_another_repository_are_not_used(world: Guarded) -> None:
    """PLAN-6."""
    user, _, _ = wiped(world)
    snapshot = world.snapshots()[0]
    world.index.save(replace(snapshot, complete=False))
    with pytest.raises(Misconfigured, match="never became complete"):
        world.restore(user, source=snapshot.id)
    with pytest.raises(Misconfigured, match="no complete snapshot"):
        world.restore(user)
    with pytest.raises(HeldBack):
        world.vault.contents(world.snapshots()[0])
    world.index.save(snapshot)
    for other in (world.user(), replace(user, did="did:plc:new")):
        with pytest.raises(Misconfigured, match="another repository"):
            world.restore(other, source=snapshot.id)


def test_a_record_the_pds_refuses_is_named_and_left_to_the_next_sync(world: Guarded) -> None:
    """PLAN-6, WRITE-6: it is not quarantined, so that the sync writes it anew from its document."""
    user, ids, before = wiped(world)
    key = str(world.entry("mood", ids["mood"]).rkey)
    world.pds.refusals[MOOD, key] = RecordRefused("no", status=400, answer="not this")
    report = world.restore(user)
    assert not report.clean
    assert [failure.item for failure in report.failures] == [f"mood:{ids['mood']}"]
    assert len(world.contents(user)) == 4
    world.heal()
    assert totals(world.sync(user)) == {"created": 1}
    assert world.contents(user) == before


@pytest.mark.parametrize("error", [ServiceUnreachable("down"), RateLimited("spent", retry_after=60)])
def test_an_outage_leaves_the_hold_and_the_same_command_does_the_rest(world: Guarded, error: Any) -> None:
    """PLAN-6, LIMIT-8."""
    user = world.user()
    world.moods(user, 500)
    world.one_of_each(user)
    before = world.contents(user)
    world.wipe(user)
    for call in (2, 3):
        world.pds.fail("apply_writes", error, call=call)
    report = world.restore(user)
    assert not report.clean
    assert report.restored == {"mood": 199, "kidlisp": 1}
    assert report.on_hold
    world.heal()
    report = world.restore(user)
    assert report.clean
    assert report.present == 200
    assert world.contents(user) == before
    assert world.holds(user) == set()


@pytest.mark.parametrize("committed", [True, False])
def test_a_lost_answer_is_read_back(world: Guarded, committed: bool) -> None:
    """WRITE-8: what was written unheard is found, linked, and not written twice."""
    user = world.user()
    moods = world.moods(user, 300)
    world.sync(user)
    before = world.contents(user)
    world.wipe(user)
    world.pds.fail("apply_writes", OutcomeUnknown("cut"), after=committed)
    report = world.restore(user)
    assert report.clean
    assert report.restored == {"mood": 300}
    assert world.contents(user) == before
    assert all(world.link("mood", id) for id in moods)


def test_the_record_of_a_document_with_damaged_content_comes_back(world: Guarded) -> None:
    """PLAN-6: the mirror leaves such a record alone, so it is there again."""
    user, ids, before = wiped(world)
    world.change("mood", ids["mood"], mood=" ")
    assert world.restore(user).clean
    assert world.contents(user) == before
    assert world.link("mood", ids["mood"]) is not None
    assert world.sync(user).tally("mood").quarantined == 1
    assert world.contents(user) == before


def test_an_upload_that_hits_a_limit_leaves_the_hold(world: Guarded) -> None:
    """LIMIT-6: text comes back, media wait."""
    user, _, before = wiped(world)
    world.pds.fail("upload_blob", RateLimited("spent", retry_after=60))
    report = world.restore(user)
    assert isinstance(report.error, RateLimited)
    assert world.holds(user)
    assert world.restore(user).clean
    assert world.contents(user) == before


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_call_of_a_restore_doubles_nothing(after: bool) -> None:
    """PLAN-6, WRITE-13: the same command does the rest, links and ledger included."""
    call = 0
    while True:
        call += 1
        world = Guarded()
        user = world.user()
        moods = world.moods(user, 210)
        ids = world.one_of_each(user)
        before = world.contents(user)
        world.wipe(user)
        if not killed_at(world, call, lambda world=world, user=user: world.restore(user), after=after):
            break
        report = world.restore(user)
        assert report.clean, f"call {call}"
        assert world.contents(user) == before, f"call {call}"
        assert all(world.link("mood", id) for id in moods), f"call {call}"
        assert all(world.link(name, id) for name, id in ids.items()), f"call {call}"
        assert {entry.state for entry in world.ledger.entries.values()} == {State.WRITTEN}, f"call {call}"
        assert world.holds(user) == set()
        assert totals(settled(world, user)) == {"unchanged": 211}
    assert call > 8


def test_somebody_who_writes_in_between_keeps_what_he_wrote(world: Guarded) -> None:
    """WRITE-9, PLAN-6."""
    user = world.user()
    world.moods(user, 300)
    world.sync(user)
    before = world.contents(user)
    world.wipe(user)
    late = world.add("mood", user, mood="late")
    sent = world.pds.count("apply_writes")

    def write(number: int) -> None:
        if number == sent + 1:
            world.put(user, "mood", C, {"mood": "late", "when": WHEN_TEXT, "ref": late})

    world.pds.between = write
    assert world.restore(user).clean
    assert world.contents(user).keys() == before.keys() | {f"{MOOD}/{C}"}
