"""What stops a restore, and how the same command does the rest, with every port in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from ac_pipeline.errors import (
    HeldBack,
    LeaseHeld,
    Misconfigured,
    OutcomeUnknown,
    RateLimited,
    RecordRefused,
    RepositoryMoved,
    ServiceUnreachable,
    SourceMissing,
)
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES
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
    assert {failure.state for failure in report.failures} == {State.DEFERRED}
    assert world.holds(user)
    assert world.restore(user).clean
    assert world.contents(user) == before


def test_an_upload_that_hits_a_limit_leaves_the_hold_although_somebody_writes_in_between(world: Guarded) -> None:
    """LIMIT-6, WRITE-9, PLAN-6: the attempt that follows leaves the media out and does not end well for that."""
    user = world.user()
    world.one_of_each(user)
    before = world.contents(user)
    world.pds.refusals[MOOD, next(iter(world.records(user, "mood")))] = RecordRefused("no", status=400)
    assert world.wipe(user).left == 1
    world.heal()
    world.pds.fail("upload_blob", RateLimited("spent", retry_after=60))
    world.pds.fail("apply_writes", RepositoryMoved("somebody else"))
    report = world.restore(user)
    assert isinstance(report.error, RateLimited)
    assert report.restored == {"kidlisp": 1, "piece": 1}
    assert world.holds(user)
    assert world.snapshots()[0].open
    assert world.restore(user).clean
    assert world.contents(user) == before
    assert not world.snapshots()[0].open


@pytest.mark.parametrize("source", ["latest", "mongo"])
def test_a_restore_of_one_type_does_not_end_the_wipe_of_the_others(world: Guarded, source: str) -> None:
    """PLAN-5, PLAN-6: the snapshot of the wipe that goes on names the one that has what went before."""
    user = world.user()
    world.moods(user, 500)
    world.one_of_each(user)
    before = world.contents(user)
    world.pds.fail("apply_writes", ServiceUnreachable("down"), call=2)
    assert world.wipe(user).deleted == {"kidlisp": 1, "mood": 199}
    assert world.restore(user, "mood", source=source).clean
    plan = world.plan(user)
    assert (plan.unfinished, plan.confirmed) == (world.snapshots()[0].id, None)  # what came back was agreed to no more
    report = world.wipe(user)
    assert (report.clean, len(report.snapshots)) == (True, 2)
    assert world.restore(user).clean
    assert world.contents(user) == before
    assert not any(snapshot.open for snapshot in world.snapshots())


def test_restores_of_one_type_after_the_other_end_an_unfinished_wipe(world: Guarded) -> None:
    """PLAN-6: the number it was started with is not good for a later one."""
    user = world.user()
    world.moods(user, 300)
    world.one_of_each(user)
    world.pds.fail("apply_writes", ServiceUnreachable("down"), call=2)
    world.wipe(user)
    for media in MEDIA_TYPES:
        assert world.snapshots()[0].open
        assert world.restore(user, media.name).clean
    assert not world.snapshots()[0].open


@pytest.mark.parametrize("document", [True, False])
def test_a_refused_deletion_is_none_any_more_once_its_record_is_restored(world: Guarded, document: bool) -> None:
    """DEL-6: no failure, and no deletion that is due."""
    user = world.user()
    mood = world.one_of_each(user)["mood"]
    key, item = world.entry("mood", mood).rkey, mood
    if not document:
        key = item = world.put(user, "mood", A, {"text": "nobody's", "when": WHEN_TEXT})
    world.pds.refusals[MOOD, str(key)] = RecordRefused("no", status=400, answer="it stays")
    assert world.wipe(user).left == 1
    assert world.entry("mood", item).withdrawn_at is not None
    world.heal()
    world.restore(user)
    entry = world.entry("mood", item)
    assert (entry.state, entry.failure, entry.withdrawn_at, entry.deferred_until) == (State.WRITTEN, None, None, None)


def test_a_restore_that_finds_everything_there_is_audited_with_nothing(world: Guarded) -> None:
    """PLAN-6: the audit says what was changed in the end, not what was planned."""
    user, _, before = wiped(world)
    world.restore(user)
    assert sum(world.audit.lines[-1].counts.values()) == len(before)
    world.restore(user)
    assert (world.audit.lines[-1].counts, world.audit.lines[-1].outcome) == ({}, "done")


@pytest.mark.parametrize("act", ["wipe", "restore"])
def test_a_lease_that_was_lost_in_between_is_in_the_report(
    world: Guarded, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PLAN-5, PLAN-6, WRITE-12: with all that was done; one that could not be had at all begins nothing."""
    user = world.user()
    world.one_of_each(user)
    before, plan = world.contents(user), world.plan(user)
    if act == "restore":
        world.wipe(user)
    lines = len(world.audit.lines)

    @contextmanager
    def lost(*_: Any) -> Iterator[None]:
        yield
        raise LeaseHeld("it was lost")

    @contextmanager
    def never(*_: Any) -> Iterator[None]:
        raise LeaseHeld("another run has it")
        yield

    def run() -> Any:
        return world.wipe(user, confirm=plan.total) if act == "wipe" else world.restore(user)

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "lease", never)
        with pytest.raises(LeaseHeld):
            run()
        assert len(world.audit.lines) == lines
        patch.setattr(world.ledger, "lease", lost)
        report = run()
    assert isinstance(report.error, LeaseHeld)
    assert sum((report.deleted if act == "wipe" else report.restored).values()) == plan.total
    assert world.contents(user) == ({} if act == "wipe" else before)


def test_a_hold_that_cannot_be_released_is_in_the_report_and_the_audit(
    world: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PLAN-6: what came back is told all the same, and the same command does the rest."""
    user, _, before = wiped(world)

    def down(*_: Any) -> None:
        raise ServiceUnreachable("down")

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "release", down)
        report = world.restore(user)
    assert (isinstance(report.error, ServiceUnreachable), sum(report.restored.values())) == (True, len(before))
    assert world.audit.lines[-1].outcome == "stopped: down"
    assert world.holds(user)
    assert world.restore(user).clean
    assert world.holds(user) == set()


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
