"""Keys that a PDS will not have: the next deterministic one is taken, and nothing else is remembered."""

from __future__ import annotations

import pytest

from ac_pipeline.errors import RecordRefused
from ac_pipeline.items import State
from ac_pipeline.media.mood import MOOD
from ac_pipeline.sync.planning.plan import new_key
from ac_pipeline_tests.unit.sync.world import World, totals

SLUR = RecordRefused("no", status=400, answer="InvalidRequest: Unacceptable slur in record key")
STORED = "3jzfcijpj2z2a"


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("refused", [1, 3, 11])
def test_a_refused_key_gives_way_to_the_next_one(world: World, refused: int) -> None:
    """WRITE-3: the same one in every run; the others of its batch are not touched by it."""
    user = world.user()
    documents = world.moods(user, 50)
    document = world.document("mood", documents[20])
    for salt in range(refused):
        world.pds.refusals[MOOD.nsid, new_key(MOOD, document, salt)] = SLUR
    report = world.sync(user)
    assert totals(report) == {"created": 50}
    assert report.failures == []
    assert world.by_ref(user, "mood")[document.id] == [new_key(MOOD, document, refused)]
    entry = world.entry("mood", document.id)
    assert (entry.state, entry.attempts, entry.failure) == (State.WRITTEN, 1, None)
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 50}


def test_a_pds_that_refuses_every_key_quarantines_the_item(world: World) -> None:
    """WRITE-3, WRITE-6: bounded, with the server's words; a person may ask for another try."""
    user = world.user()
    documents = world.moods(user, 3)
    document = world.document("mood", documents[1])
    for salt in range(12):
        world.pds.refusals[MOOD.nsid, new_key(MOOD, document, salt)] = SLUR
    report = world.sync(user)
    assert totals(report) == {"created": 2, "quarantined": 1}
    assert world.pds.count("apply_writes") <= 16
    entry = world.entry("mood", document.id)
    assert entry.failure is not None
    assert entry.failure.answer == SLUR.answer
    world.pds.refusals.clear()
    assert totals(world.sync(user, retry=True)) == {"created": 1, "unchanged": 2}


def test_a_stored_key_that_is_refused_gives_way_as_well(world: World) -> None:
    """WRITE-3, LINK-5: the link is rewritten with the key that was taken."""
    user = world.user()
    document = world.add("mood", user, atproto={"rkey": STORED})
    world.pds.refusals[MOOD.nsid, STORED] = SLUR
    assert totals(world.sync(user)) == {"created": 1}
    link = world.link("mood", document)
    assert link is not None
    assert link.rkey == new_key(MOOD, world.document("mood", document), 1)


def test_a_refusal_of_the_record_changes_no_key(world: World) -> None:
    """WRITE-6: only what is said about the key is about the key."""
    user = world.user()
    document = world.document("mood", world.add("mood", user))
    words = RecordRefused("no", status=400, answer="InvalidRequest: Bad record")
    world.pds.refusals[MOOD.nsid, new_key(MOOD, document, 0)] = words
    assert totals(world.sync(user)) == {"quarantined": 1}
    assert world.pds.count("apply_writes") == 1


def test_a_key_refused_while_the_repository_moves_still_gives_way(world: World) -> None:
    """WRITE-3, WRITE-7: both happen in one sync, and every item is counted once."""
    user = world.user()
    documents = world.moods(user, 300)
    document = world.document("mood", documents[10])
    world.pds.refusals[MOOD.nsid, new_key(MOOD, document, 0)] = SLUR

    def posts(number: int) -> None:
        if number == 5:
            world.pds.between = lambda number: None
            world.put(user, "piece", STORED, {"slug": "posted", "when": "2025-10-15T12:30:45.123Z"})

    world.pds.between = posts
    assert totals(world.sync(user)) == {"created": 300}
    assert world.by_ref(user, "mood")[document.id] == [new_key(MOOD, document, 1)]
