"""The wipe: what it says before, what it deletes and what it leaves, with every port in memory."""

from __future__ import annotations

import pytest

from ac_pipeline.errors import (
    Misconfigured,
    Paused,
)
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.removal.snapshot import take_snapshot
from ac_pipeline_tests.unit.operations.guarded import Guarded, medias
from ac_pipeline_tests.unit.sync.world import totals

A, B, C = "3jzfcijpj2z2a", "3jzfcijpj2z2b", "3jzfcijpj2z2c"


WHEN_TEXT = "2025-10-15T12:30:45.123Z"


TYPES = [media.name for media in MEDIA_TYPES]


@pytest.fixture
def world() -> Guarded:
    return Guarded()


# ------------------------------------------------------------------------------------------------------ what it says


def test_a_plan_names_records_addresses_and_price_and_writes_nothing(world: Guarded) -> None:
    """PLAN-5: the records of each type, how many public mood addresses break, and what it takes."""
    user = world.user()
    world.moods(user, 250)
    world.one_of_each(user)
    world.put(user, "piece", A, {"slug": "stray", "when": WHEN_TEXT})
    before = world.contents(user), len(world.ledger.saves), len(world.documents.link_writes)

    plan = world.plan(user)

    assert plan.records == {"painting": 1, "mood": 251, "piece": 2, "kidlisp": 1, "tape": 1}
    assert plan.total == 256
    assert plan.addresses == 251
    assert plan.undocumented == 1
    assert (plan.price.operations, plan.price.commits, plan.price.points) == (256, 2, 256)
    assert (world.contents(user), len(world.ledger.saves), len(world.documents.link_writes)) == before
    assert world.snapshots() == []
    assert world.audit.lines == []


@pytest.mark.parametrize("difference", [-1, 1, None])
def test_another_number_than_that_of_the_plan_writes_nothing(world: Guarded, difference: int | None) -> None:
    """PLAN-5."""
    user = world.user()
    world.one_of_each(user)
    before = world.contents(user), len(world.ledger.saves)
    confirm = None if difference is None else world.plan(user).total + difference

    with pytest.raises(Misconfigured, match="5 records"):
        world.wipe(user, confirm=confirm if confirm is not None else -7)

    assert (world.contents(user), len(world.ledger.saves)) == before
    assert (world.snapshots(), world.audit.lines, world.holds(user)) == ([], [], set())


# ------------------------------------------------------------------------------------------------------ what it does


def test_a_wipe_empties_the_chosen_types_of_the_chosen_user_and_nothing_else(world: Guarded) -> None:
    """PLAN-5, DEL-8: other users, other types and Mongo's documents stay."""
    user, other = world.user(), world.user()
    ids, others = world.one_of_each(user), world.one_of_each(other)
    untouched = world.contents(other)
    documents = {name: dict(rows) for name, rows in world.documents.collections.items()}

    report = world.wipe(user, "mood", "tape")

    assert report.clean
    assert report.deleted == {"mood": 1, "tape": 1}
    assert {path.split("/")[0] for path in world.contents(user)} == {
        media_type(name).nsid for name in ("painting", "piece", "kidlisp")
    }
    assert world.contents(other) == untouched
    assert {name: rows.keys() for name, rows in world.documents.collections.items()} == {
        name: rows.keys() for name, rows in documents.items()
    }
    linked = {name: world.link(name, id) is not None for name, id in ids.items()}
    assert linked == {"painting": True, "mood": False, "piece": True, "kidlisp": True, "tape": False}
    assert all(world.link(name, id) is not None for name, id in others.items())


def test_the_guest_is_wiped_like_anybody(world: Guarded) -> None:
    """ACCT-4, PLAN-5."""
    guest = world.guest()
    world.one_of_each(guest)
    before = world.contents(guest)
    assert world.wipe(guest).deleted == {"painting": 1, "piece": 1, "kidlisp": 1, "tape": 1}
    assert world.contents(guest) == {}
    assert world.restore(guest).clean
    assert world.contents(guest) == before


def test_a_tapes_links_are_cleared_in_both_homes(world: Guarded) -> None:
    """PLAN-3, LINK-4."""
    user = world.user()
    tape = world.one_of_each(user)["tape"]
    assert {"at", "atproto"} <= world.documents.raw(media_type("tape"), tape).keys()
    world.wipe(user, "tape")
    assert not {"at", "atproto"} & world.documents.raw(media_type("tape"), tape).keys()


def test_records_without_a_document_go_too_and_the_snapshot_has_them(world: Guarded) -> None:
    """PLAN-5: a wipe empties the collections."""
    user = world.user()
    mood = world.one_of_each(user)["mood"]
    world.put(user, "mood", A, {"text": "nobody's", "when": WHEN_TEXT})
    world.put(user, "mood", B, {"mood": "gone", "when": WHEN_TEXT, "ref": "65f0" + "0" * 20})
    assert world.wipe(user, "mood").deleted == {"mood": 3}
    assert world.records(user, "mood") == {}
    (snapshot,) = world.snapshots()
    assert {f"computer.aesthetic.mood/{key}" for key in (A, B)} <= world.vault.contents(snapshot).records.keys()
    assert world.link("mood", mood) is None


def test_the_ledger_remembers_the_key_of_every_item(world: Guarded) -> None:
    """PLAN-6, LINK-5: what is wiped returns under the same key."""
    user = world.user()
    ids = world.one_of_each(user)
    keys = {name: world.entry(name, id).rkey for name, id in ids.items()}
    world.wipe(user)
    entries = {name: world.entry(name, id) for name, id in ids.items()}
    assert {name: entry.rkey for name, entry in entries.items()} == keys
    assert {entry.state for entry in entries.values()} == {State.DELETED}
    assert "snapshot" in str(entries["mood"].history[-1].message)


def test_a_link_that_names_another_repository_or_no_record_is_not_touched(world: Guarded) -> None:
    """PLAN-3: only links of confirmed deletes are cleared."""
    user = world.user()
    world.one_of_each(user)
    foreign = world.add("piece", user, slug="other", atproto={"rkey": A, "did": "did:plc:somebodyelse"})
    dangling = world.add("piece", user, slug="lost", atproto={"rkey": B})
    world.wipe(user, "piece")
    assert world.link("piece", foreign) is not None
    assert world.link("piece", dangling) is not None


def test_work_of_another_account_is_not_marked_as_deleted(world: Guarded) -> None:
    """PLAN-5: a record that names somebody else's document goes, that document's entry stays."""
    user, other = world.user(), world.user()
    theirs = world.add("mood", other, mood="mine")
    world.sync(other)
    world.put(user, "mood", A, {"mood": "mine", "when": WHEN_TEXT, "ref": theirs})
    assert world.wipe(user, "mood").deleted == {"mood": 1}
    assert world.entry("mood", theirs).state is State.WRITTEN
    assert world.link("mood", theirs) is not None


def test_all_copies_of_an_item_go_and_its_linked_key_is_remembered(world: Guarded) -> None:
    """LINK-7."""
    user = world.user()
    mood = world.add("mood", user, mood="twice", atproto={"rkey": B})
    for key in (A, B):
        world.put(user, "mood", key, {"mood": "twice", "when": WHEN_TEXT, "ref": mood})
    world.wipe(user, "mood")
    assert world.records(user, "mood") == {}
    assert world.entry("mood", mood).rkey == B
    assert world.link("mood", mood) is None


def test_deletes_go_in_batches(world: Guarded) -> None:
    """PLAN-4: 450 records take three requests."""
    user = world.user()
    world.moods(user, 450)
    world.sync(user)
    sent = len(world.pds.batches(user))
    world.wipe(user)
    assert [len(batch) for batch in world.pds.batches(user)[sent:]] == [200, 200, 50]


# ------------------------------------------------------------------------------------------------------ on hold


def test_wiped_types_are_on_hold_until_a_restore(world: Guarded) -> None:
    """PLAN-5: the next schedule does not publish everything again."""
    user = world.user()
    world.one_of_each(user)
    report = world.wipe(user, "mood", "piece", why="they asked")
    assert report.on_hold == ["mood", "piece"]
    assert world.holds(user) == {"mood", "piece"}
    assert "they asked" in world.ledger.holds(user)["mood"]
    world.restore(user, "mood", source="mongo")
    assert world.holds(user) == {"piece"}


def test_a_sync_leaves_what_is_on_hold_alone_and_a_restore_undoes_it(world: Guarded) -> None:
    """PLAN-5, PLAN-6: whatever the schedule does in between, all of it comes back."""
    user = world.user()
    ids = world.one_of_each(user)
    world.put(user, "mood", A, {"text": "nobody's", "when": WHEN_TEXT})
    before = world.contents(user)
    world.wipe(user)
    report = world.sync(user)
    assert world.contents(user) == {}
    assert isinstance(report.blocked, Paused)
    assert all(world.link(name, id) is None for name, id in ids.items())
    assert world.restore(user).clean
    assert world.contents(user) == before
    assert {world.entry(name, id).state for name, id in ids.items()} == {State.WRITTEN}


@pytest.mark.parametrize(
    ("types", "others", "ours"),
    [((), False, True), ((), True, True), (("mood",), False, True), (("mood",), True, False)],
)
def test_a_wipe_is_not_taken_for_a_change_by_somebody_else(
    world: Guarded, types: tuple[str, ...], others: bool, ours: bool
) -> None:
    """VERIFY-9: but a change by somebody else is not hidden behind it either."""
    user = world.user()
    world.one_of_each(user)
    if others:
        world.put(user, "piece", A, {"slug": "theirs", "when": WHEN_TEXT})
    world.wipe(user, *types)
    mark = world.ledger.checkpoint(str(user.did))
    assert mark is not None
    assert (mark.rev == world.pds.read_repository(str(user.did)).rev) is ours
    if ours:
        assert mark.counts["mood"] == 0
        assert "mood" not in mark.settled


def test_a_reset_leaves_the_hold_out_and_the_next_sync_rebuilds(world: Guarded) -> None:
    """PLAN-6."""
    user = world.user()
    world.one_of_each(user)
    before = world.contents(user)
    report = world.wipe(user, keep_syncing=True)
    assert report.on_hold == []
    world.sync(user)
    assert world.contents(user) == before


# ------------------------------------------------------------------------------------------------------ the audit


def test_a_wipe_leaves_its_line_before_it_deletes_anything(world: Guarded) -> None:
    """PLAN-5, ACCT-5: who, why, what was agreed to; no secrets."""
    user = world.user()
    world.one_of_each(user)
    plan = world.plan(user)
    seen: list[str] = []
    world.pds.between = lambda number: seen.append(world.audit.lines[-1].outcome)
    world.wipe(user, why="they asked")
    assert seen == ["started"]
    first, last = world.audit.lines
    assert (first.action, first.why, first.plan_hash) == ("wipe", "they asked", plan.hash)
    assert (first.users, first.types) == ((user.key, user.did), tuple(TYPES))
    assert (last.operation, last.outcome) == (first.operation, "done")
    assert last.counts == {"painting": 1, "mood": 1, "piece": 1, "kidlisp": 1, "tape": 1}
    assert str(user.password) not in repr(world.audit.lines) + repr(world.snapshots())


def test_a_snapshot_alone_changes_nothing_but_the_archive(world: Guarded) -> None:
    """PLAN-5: it can be restored from later, and is not the snapshot of a wipe."""
    user = world.user()
    world.one_of_each(user)
    with world.quiet():
        taken = take_snapshot(world.vault, user, medias(["painting", "mood"]))
    assert (taken.complete, taken.wipe, taken.open) == (True, None, False)
    assert taken.records == {"painting": 1, "mood": 1}
    assert taken.blobs == 1
    assert world.files.manifest(taken.id)["did"] == user.did
    assert user.id not in str(world.files.manifest(taken.id))
    assert totals(world.sync(user)) == {"unchanged": 1}
