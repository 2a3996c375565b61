"""Types an operator has put on hold: left alone, counted as blocked, and as they were once they are released."""

from __future__ import annotations

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Paused
from ac_pipeline.items import State
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline_tests.unit.sync.world import World, chosen, totals

REASON = "wiped on 2026-01-02"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def user(world: World) -> Account:
    user = world.user()
    world.moods(user, 3)
    world.add("painting", user)
    world.add("piece", user)
    return user


def wipe(world: World, user: Account) -> None:
    """An operator takes the records away, and the links with them."""
    for key in list(world.records(user, "mood")):
        world.drop(user, "mood", key)
    for raw in world.documents.collections[MOOD.collection].values():
        raw.pop("atproto", None)


def test_a_wipe_stays_until_its_hold_is_released(world: World, user: Account) -> None:
    """PLAN-5, PLAN-6: every schedule in between leaves the type alone; then it returns under its keys."""
    world.sync(user)
    before = world.by_ref(user, "mood")
    world.ledger.hold(user, [MOOD], REASON)
    wipe(world, user)
    world.add("piece", user, slug="new")
    for created in (1, 0):
        report = world.sync(user)
        assert (totals(report), report.types["piece"].created) == ({"blocked": 3}, created)
        assert report.blocked is None, "the account itself can be used"
        assert report.notes == [f"the moods of {user.key} are on hold: {REASON}"]
    assert world.records(user, "mood") == {}
    world.ledger.release(user, [MOOD])
    report = world.sync(user)
    assert (totals(report), report.notes) == ({"created": 3}, [])
    assert world.by_ref(user, "mood") == before


def test_items_on_hold_say_so_in_the_ledger_once(world: World, user: Account) -> None:
    """OPS-2: class and reason, and no new attempt with every schedule."""
    world.ledger.hold(user, [MOOD], REASON)
    world.sync(user)
    entries = [entry for entry in world.ledger.entries.values() if entry.type == "mood"]
    assert len(entries) == 3
    for entry in entries:
        assert entry.state is State.BLOCKED
        assert entry.failure is not None
        assert (entry.failure.error_class, REASON in entry.failure.message) == ("on-hold", True)
    with world.quiet():
        world.sync(user)
    assert {entry.attempts for entry in world.ledger.entries.values() if entry.type == "mood"} == {1}


def test_nothing_of_a_type_on_hold_is_written_healed_or_deleted(world: World, user: Account) -> None:
    """PLAN-5: not even what would be right to do; other types are done in full."""
    world.sync(user)
    nuked, *_ = (str(id) for id in world.documents.collections[MOOD.collection])
    world.change("mood", nuked, nuked=True)
    world.put(user, "mood", "3jzfcijpj2z2a", {"mood": "x", "when": "2025-10-15T12:30:45.123Z", "ref": "f" * 24})
    before = world.records(user, "mood")
    world.ledger.hold(user, [MOOD], REASON)
    report = world.sync(user)
    assert (report.types["mood"].blocked, report.types["mood"].deleted) == (2, 0)
    assert world.records(user, "mood") == before
    assert world.link("mood", nuked) is not None


def test_an_account_with_everything_on_hold_is_blocked_and_not_asked_for(world: World, user: Account) -> None:
    world.ledger.hold(user, MEDIA_TYPES, REASON)
    report = world.sync(user)
    assert isinstance(report.blocked, Paused)
    assert REASON in report.blocked.message
    assert world.pds.calls == []
    assert sum(tally.blocked for tally in report.types.values()) == 5
    only = world.sync(user, types=["mood"])
    assert isinstance(only.blocked, Paused)


def test_a_survey_and_a_verification_leave_out_what_is_on_hold(world: World, user: Account) -> None:
    """PLAN-1: nothing is planned, found missing or stored for it."""
    world.sync(user)
    world.ledger.hold(user, [MOOD], REASON)
    wipe(world, user)
    with world.quiet():
        plan, report = world.survey(user)
        found = verify(world.engine, user, chosen())
    assert (plan.operations(), report.types["mood"].blocked) == ([], 3)
    assert (found.missing, found.verified, found.blocked) == (0, 2, 3)
    world.ledger.hold(user, MEDIA_TYPES, REASON)
    asked = len(world.pds.calls)
    with world.quiet():
        plan, report = world.survey(user)
    assert (plan.operations(), isinstance(report.blocked, Paused)) == ([], True)
    assert len(world.pds.calls) == asked


def test_what_was_released_is_planned_although_the_ledger_remembers_the_hold(world: World, user: Account) -> None:
    """PLAN-1: a dry run shows what the next run does."""
    world.ledger.hold(user, [MOOD], REASON)
    world.sync(user)
    world.ledger.release(user, [MOOD])
    plan, report = world.survey(user, types=["mood"])
    assert (len(plan.operations()), report.types["mood"].created, report.blocked) == (3, 3, None)


def test_nothing_is_rendered_for_a_type_on_hold(world: World, user: Account) -> None:
    world.ledger.hold(user, [PAINTING], REASON)
    report = world.engine.render(user, PAINTING, Selection(), "run-1")
    assert report.types["painting"].blocked == 1
    assert isinstance(report.blocked, Paused)
    assert world.renderer.derived == []
    world.ledger.release(user, [PAINTING])
    assert world.engine.render(user, PAINTING, Selection(), "run-2").types["painting"].pending == 1


def test_a_hold_that_is_put_on_while_somebody_waits_for_the_lease_counts(world: World, user: Account) -> None:
    """WRITE-12: an operator takes the lease, puts the hold on and wipes; the sync that waited does not undo it."""
    with_lease = world.ledger.lease

    def lease(did: str, holder: str):  # type: ignore[no-untyped-def]
        world.ledger.before["holds"] = lambda: world.ledger.hold(user, [media_type("mood")], REASON)
        return with_lease(did, holder)

    world.ledger.lease = lease  # type: ignore[method-assign]
    assert totals(world.sync(user)) == {"blocked": 3}


def test_types_that_are_not_on_hold_keep_their_short_cut(world: World, user: Account) -> None:
    """VERIFY-11."""
    world.sync(user)
    world.ledger.hold(user, [MOOD], REASON)
    world.sync(user)
    world.pds.calls.clear()
    world.sync(user)
    assert [call.method for call in world.pds.calls] == ["latest_commit"]


def test_what_somebody_else_writes_is_seen_once_although_a_type_is_on_hold(world: World, user: Account) -> None:
    """VERIFY-9: the mark follows a run that was asked for everything, or every tick would find the same drift."""
    world.sync(user)
    world.ledger.hold(user, [MOOD], REASON)
    wipe(world, user)
    did = str(user.did)
    assert world.ledger.repositories[did].rev != world.pds.latest_commit(did).rev
    world.sync(user)
    assert world.ledger.repositories[did].rev == world.pds.latest_commit(did).rev
    world.ledger.release(user, [MOOD])
    assert world.sync(user).types["mood"].created == 3


def test_holds_of_one_account_are_no_holds_of_another(world: World, user: Account) -> None:
    other = world.user()
    world.add("mood", other)
    world.ledger.hold(user, [MOOD], REASON)
    assert totals(world.sync(other)) == {"created": 1}
