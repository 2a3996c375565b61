"""What stops a wipe, and how the same command does the rest, with every port in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ac_pipeline.errors import (
    AccountInactive,
    BlobMissing,
    Misconfigured,
    NoCredentials,
    OutcomeUnknown,
    RecordRefused,
    ServiceUnreachable,
    WrongPassword,
)
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline_tests.unit.operations.guarded import Guarded, killed_at

A, B, C = "3jzfcijpj2z2a", "3jzfcijpj2z2b", "3jzfcijpj2z2c"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


TYPES = [media.name for media in MEDIA_TYPES]


@pytest.fixture
def world() -> Guarded:
    return Guarded()


# ------------------------------------------------------------------------------------------------------ what it cannot


@pytest.mark.parametrize("position", [0, 1, 199, 200, 249])
def test_a_record_that_cannot_be_deleted_is_isolated_and_keeps_its_link(world: Guarded, position: int) -> None:
    """PLAN-3, PLAN-4, DEL-6: the rest goes in batches; what is left is a deletion that is due."""
    user = world.user()
    ids = world.moods(user, 250)
    world.sync(user)
    stuck = sorted(world.contents(user))[position].split("/")[1]
    world.pds.refusals["computer.aesthetic.mood", stuck] = RecordRefused("no", status=400, answer="it stays")

    report = world.wipe(user)

    assert not report.clean
    assert (report.deleted, report.left) == ({"mood": 249}, 1)
    (failure,) = report.failures
    assert failure.error_class == "record-refused"
    linked = [id for id in ids if world.link("mood", id) is not None]
    assert [f"mood:{id}" for id in linked] == [failure.item]
    entry = world.entry("mood", linked[0])
    assert entry.state is State.QUARANTINED
    assert entry.withdrawn_at is not None
    assert world.snapshots()[0].open  # the wipe has not come to its end

    world.heal()
    assert world.wipe(user).clean
    assert world.contents(user) == {}
    assert len(world.snapshots()) == 1
    assert not world.snapshots()[0].open


def test_a_tape_that_cannot_be_deleted_keeps_both_homes(world: Guarded) -> None:
    """PLAN-3, LINK-4."""
    user = world.user()
    tape = world.one_of_each(user)["tape"]
    key = str(world.entry("tape", tape).rkey)
    world.pds.refusals["computer.aesthetic.tape", key] = RecordRefused("no", status=400)
    assert world.wipe(user).left == 1
    raw = world.documents.raw(media_type("tape"), tape)
    assert raw["at"]["rkey"] == raw["atproto"]["rkey"] == key


@pytest.mark.parametrize("committed", [True, False])
def test_a_lost_answer_is_read_back(world: Guarded, committed: bool) -> None:
    """WRITE-8, PLAN-3: what was deleted unheard is found and its links are cleared."""
    user = world.user()
    ids = world.moods(user, 300)
    world.sync(user)
    world.pds.fail("apply_writes", OutcomeUnknown("cut"), after=committed)
    report = world.wipe(user)
    assert report.clean
    assert report.deleted == {"mood": 300}
    assert [id for id in ids if world.link("mood", id)] == []
    assert {world.entry("mood", id).state for id in ids} == {State.DELETED}


def test_what_may_have_gone_stays_away_though_nobody_can_look(world: Guarded) -> None:
    """PLAN-5: the answer is lost and the account taken down meanwhile; once it is back, no sync publishes it again."""
    user = world.user()
    world.one_of_each(user)
    world.pds.fail("apply_writes", OutcomeUnknown("no answer"), after=True)
    world.pds.fail("read_repository", AccountInactive("taken down"))
    world.pds.fail("download_repository", AccountInactive("taken down"), call=3)
    report = world.wipe(user)
    assert isinstance(report.error, AccountInactive)
    assert world.contents(user) == {}
    assert world.holds(user) == set(TYPES)
    world.sync(user)
    assert world.contents(user) == {}


def test_an_outage_ends_a_wipe_that_the_same_command_finishes(world: Guarded) -> None:
    """PLAN-5, DEL-6: nothing is lost count of, the types stay on hold."""
    user = world.user()
    ids = world.moods(user, 500)
    world.sync(user)
    world.pds.fail("apply_writes", ServiceUnreachable("down"), call=2)
    report = world.wipe(user, confirm=500)
    assert isinstance(report.error, ServiceUnreachable)
    assert report.deleted == {"mood": 200}
    assert world.holds(user) == set(TYPES)
    assert world.audit.lines[-1].outcome == "stopped: down"
    again = world.wipe(user, confirm=500)
    assert again.clean
    assert again.deleted == {"mood": 300}
    assert [id for id in ids if world.link("mood", id)] == []
    assert len(world.snapshots()) == 1


@pytest.mark.parametrize("since", ["another record", "another value under a key"])
def test_the_number_of_an_interrupted_wipe_is_not_good_for_what_came_since(world: Guarded, since: str) -> None:
    """PLAN-5: nobody has agreed to delete it; the number that is left is."""
    user = world.user()
    world.moods(user, 300)
    world.sync(user)
    world.pds.fail("apply_writes", ServiceUnreachable("down"), call=2)
    assert world.wipe(user, confirm=300).left == 100
    assert 300 in (world.plan(user).total, world.plan(user).confirmed)
    key = C
    if since == "another value under a key":
        key = next(iter(world.records(user, "mood")))
        world.drop(user, "mood", key)
    world.put(user, "mood", key, {"mood": "late", "when": WHEN_TEXT})
    before, plan = world.contents(user), world.plan(user)
    assert plan.unfinished is not None
    assert 300 not in (plan.total, plan.confirmed)
    with pytest.raises(Misconfigured, match=f"{plan.total} records .* not 300"):
        world.wipe(user, confirm=300)
    assert world.contents(user) == before
    report = world.wipe(user, confirm=plan.total)
    assert report.clean
    assert len(report.snapshots) == 2  # the second one holds what came since


def test_the_number_of_an_ended_wipe_is_not_good_for_another_one(world: Guarded) -> None:
    """PLAN-5."""
    user = world.user()
    world.moods(user, 3)
    world.sync(user)
    assert world.wipe(user, confirm=3).clean
    world.put(user, "mood", C, {"mood": "late", "when": WHEN_TEXT})
    with pytest.raises(Misconfigured, match="1 records"):
        world.wipe(user, confirm=3)
    assert set(world.records(user, "mood")) == {C}


# ------------------------------------------------------------------------------------------------------ snapshot first


def test_a_blob_nobody_has_stops_the_wipe_before_anything_is_deleted(world: Guarded) -> None:
    """PLAN-5: a snapshot that is not complete is never used, and nothing is put on hold."""
    user = world.user()
    painting = world.one_of_each(user)["painting"]
    entry = world.entry("painting", painting)
    assert entry.derived is not None
    cid = entry.derived.renditions["thumbnail"].blob.cid
    before = world.contents(user)
    world.pds.lose_blob(user, cid)

    report = world.wipe(user)

    assert isinstance(report.error, BlobMissing)
    assert f"computer.aesthetic.painting/{entry.rkey}" in report.error.message
    assert world.contents(user) == before
    assert world.holds(user) == set()
    assert [snapshot.complete for snapshot in world.snapshots()] == [False]
    assert world.audit.lines[-1].outcome.startswith("stopped: 1 blobs")
    world.spared[cid] = world.renderer.store[cid]
    assert world.wipe(user).clean  # the rendition store has it
    assert world.files.blob(cid) == world.renderer.store[cid]


@pytest.mark.parametrize("fault", ["download_repository", "get_blob"])
def test_a_snapshot_that_cannot_be_taken_stops_the_wipe(world: Guarded, fault: str) -> None:
    """PLAN-5."""
    user = world.user()
    world.one_of_each(user)
    before = world.contents(user)
    plan = world.plan(user)
    world.pds.fail(fault, ServiceUnreachable("down"))  # type: ignore[arg-type]
    if fault == "download_repository":
        with pytest.raises(ServiceUnreachable):
            world.wipe(user, confirm=plan.total)
    else:
        assert isinstance(world.wipe(user, confirm=plan.total).error, ServiceUnreachable)
    assert world.contents(user) == before
    assert world.holds(user) == set()


def test_a_store_that_gives_other_bytes_back_stops_the_wipe(world: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """PLAN-5: every file is read back before anything is deleted."""
    user = world.user()
    world.one_of_each(user)
    before = world.contents(user)
    monkeypatch.setattr(world.store, "write_file", lambda name, data: None)
    report = world.wipe(user)
    assert isinstance(report.error, ServiceUnreachable)
    assert "other bytes" in report.error.message
    assert world.contents(user) == before


def test_a_damaged_snapshot_of_an_unfinished_wipe_is_replaced(world: Guarded) -> None:
    """PLAN-5: it is read back before it is trusted again."""
    user = world.user()
    world.moods(user, 300)
    world.one_of_each(user)
    world.pds.fail("apply_writes", ServiceUnreachable("down"), call=2)
    world.wipe(user)
    (first,) = world.snapshots()
    entry = next(entry for entry in world.ledger.entries.values() if entry.type == "painting" and entry.derived)
    assert entry.derived is not None
    world.store.write_file(f"snapshots/blobs/{entry.derived.renditions['thumbnail'].blob.cid}", b"rot")
    report = world.wipe(user)
    assert report.clean
    assert first.id not in report.snapshots
    assert any("cannot be used" in note for note in report.notes)
    assert world.contents(user) == {}


def test_what_somebody_writes_in_between_goes_too_and_is_kept_too(world: Guarded) -> None:
    """PLAN-5, WRITE-9: a new snapshot, which names the first; a restore brings back what both hold."""
    user = world.user()
    world.moods(user, 300)
    world.sync(user)
    late = world.add("mood", user, mood="late")
    before = world.contents(user)

    def write(number: int) -> None:
        if number == sent + 1:
            world.put(user, "mood", C, {"mood": "late", "when": WHEN_TEXT, "ref": late})

    sent = world.pds.count("apply_writes")
    world.pds.between = write
    report = world.wipe(user)
    world.pds.between = lambda number: None
    assert report.clean
    assert report.deleted == {"mood": 301}
    assert world.contents(user) == {}
    assert len(report.snapshots) == 2
    assert world.restore(user).clean
    assert world.contents(user).items() >= before.items()
    assert C in world.records(user, "mood")


def test_a_refused_password_deletes_nothing_and_leaves_no_hold(world: Guarded) -> None:
    """ACCT-2."""
    user = world.user()
    world.one_of_each(user)
    world.pds.fail("apply_writes", WrongPassword("no"))
    report = world.wipe(user)
    assert isinstance(report.error, WrongPassword)
    assert world.holds(user) == set()
    assert [line.counts for line in world.audit.lines] == [dict.fromkeys(TYPES, 1), {}]


def test_an_account_without_credentials_is_not_begun(world: Guarded) -> None:
    """ACCT-1."""
    user = world.user()
    world.one_of_each(user)
    with pytest.raises(NoCredentials):
        world.wipe(replace(user, blocked=NoCredentials("none")), confirm=5)
    assert world.audit.lines == []


# ------------------------------------------------------------------------------------------------------ kills


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_call_loses_nothing_and_the_same_command_does_the_rest(after: bool) -> None:
    """PLAN-5, DEL-6: same number, one wipe; links and ledger are right, and all of it can be restored."""
    call = 0
    while True:
        call += 1
        world = Guarded()
        user = world.user()
        moods = world.moods(user, 210)
        ids = world.one_of_each(user)
        before, keys = world.contents(user), {name: world.entry(name, id).rkey for name, id in ids.items()}
        if not killed_at(world, call, lambda world=world, user=user: world.wipe(user, confirm=215), after=after):
            break
        left = world.contents(user)
        if len(left) < len(before):
            assert world.holds(user) == set(TYPES), f"call {call}"
            assert world.audit.lines[0].action == "wipe"
        ended = not left and not any(snapshot.open for snapshot in world.snapshots())
        report = world.wipe(user, confirm=0 if ended else 215)
        assert report.clean, f"call {call}"
        assert world.contents(user) == {}
        linked = [id for id in moods if world.link("mood", id)] + [n for n, id in ids.items() if world.link(n, id)]
        assert linked == [], f"call {call}"
        assert {name: world.entry(name, id).rkey for name, id in ids.items()} == keys
        assert {world.entry(name, id).state for name, id in ids.items()} == {State.DELETED}
        assert not any(snapshot.open for snapshot in world.snapshots() if snapshot.complete)
        assert world.restore(user).clean
        assert world.contents(user) == before, f"call {call}"
    assert call > 15
