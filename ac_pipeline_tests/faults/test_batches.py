"""Batches that fail: lost answers, refusals, limits, and somebody else writing in between."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ac_pipeline.errors import (
    OutcomeUnknown,
    PipelineError,
    RateLimited,
    RecordRefused,
    RepositoryMoved,
    ServerFailed,
    ServiceUnreachable,
    TooLarge,
)
from ac_pipeline.items import Stage, State
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.unit.sync.world import World, totals

KEY = "3jzfcijpj2z2a"
LOST = OutcomeUnknown("the connection broke")
FAILED = OutcomeUnknown("500", status=500, answer="InternalServerError: Internal Server Error")
REFUSED = RecordRefused("no", status=400, answer="InvalidRequest: the server's own words")


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_answer_lost_after_the_commit_is_read_back(world: World, call: int) -> None:
    """WRITE-8: nothing is sent twice; every item is counted as written, linked, and on record with the run."""
    user = world.user()
    documents = world.moods(user, 500)
    world.pds.fail("apply_writes", LOST, call=call, after=True)
    report = world.sync(user)
    assert totals(report) == {"created": 500}
    assert not report.run_again
    assert len(world.pds.batches(user)) == 3
    assert all(world.link("mood", document) for document in documents)
    assert {world.entry("mood", document).state for document in documents} == {State.WRITTEN}
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 500}


def test_a_lost_answer_to_a_deletion_is_read_back(world: World) -> None:
    """WRITE-8, DEL-6: the items end deleted, their links are gone, nothing counts as healed."""
    user = world.user()
    documents = world.moods(user, 3)
    world.sync(user)
    world.put(user, "mood", KEY, {"mood": "x", "when": "2025-01-01T00:00:00.000Z", "ref": "f" * 24})
    for document in documents[:2]:
        world.change("mood", document, deleted=True)
    world.pds.fail("apply_writes", LOST, after=True)
    assert totals(world.sync(user)) == {"deleted": 3, "unchanged": 1}
    assert [world.link("mood", document) is None for document in documents] == [True, True, False]
    assert world.entry("mood", documents[0]).state is State.DELETED
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 1}


def test_an_answer_lost_before_the_commit_is_sent_again(world: World) -> None:
    """WRITE-8: the repository did not move, so the batch is repeated on the same head."""
    user = world.user()
    world.moods(user, 250)
    world.pds.fail("apply_writes", LOST)
    assert totals(world.sync(user)) == {"created": 250}
    assert [len(batch) for batch in world.pds.batches(user)] == [200, 200, 50]


def test_a_pds_that_fails_on_everything_is_not_worn_out(world: World) -> None:
    """WRITE-8, OPS-3: deferred and to be run again, after a bounded number of requests."""
    user = world.user()
    world.moods(user, 2_000)
    world.pds.between = lambda number: world.pds.fail("apply_writes", FAILED)
    report = world.sync(user)
    assert totals(report) == {"deferred": 2_000}
    assert isinstance(report.error, ServerFailed)
    assert world.pds.count("apply_writes") < 100
    world.pds.between = lambda number: None
    assert totals(world.sync(user)) == {"created": 2_000}


@pytest.mark.parametrize("position", [0, 99, 100, 199])
@pytest.mark.parametrize("error", [REFUSED, FAILED], ids=["refused with words", "only a 500"])
def test_one_bad_item_anywhere_in_a_batch_is_isolated(world: World, position: int, error: PipelineError) -> None:
    """WRITE-6, VERIFY-1, OPS-2: the 199 others are written, it is quarantined with the server's words."""
    user = world.user()
    documents = world.moods(user, 200)
    bad = documents[position]
    key = world.survey(user)[0].operations()[position].rkey
    world.pds.refusals[MOOD.nsid, key] = error
    report = world.sync(user)
    assert totals(report) == {"created": 199, "quarantined": 1}
    assert not report.run_again
    assert world.by_ref(user, "mood").keys() == set(documents) - {bad}
    assert world.pds.count("apply_writes") <= 40
    entry = world.entry("mood", bad)
    assert entry.failure is not None
    assert (entry.state, entry.failure.stage, entry.failure.error_class) == (
        State.QUARANTINED,
        Stage.WRITE,
        "record-refused",
    )
    assert (entry.failure.status, entry.failure.answer) == (error.status, error.answer)
    assert entry.failure.payload_hash is not None
    assert entry.failure.payload_hash.startswith("bafyrei")
    assert (entry.attempts, world.link("mood", bad)) == (1, None)
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 199, "quarantined": 1}


def test_several_bad_items_of_each_kind_are_isolated_at_once(world: World) -> None:
    """WRITE-6, PLAN-4: creates, updates, deletes, an orphan and a duplicate among them."""
    user = world.user()
    documents = world.moods(user, 60)
    world.sync(user)
    keys = {ref: keys[0] for ref, keys in world.by_ref(user, "mood").items() if ref}
    updated, deleted, created = documents[:10], documents[10:20], world.moods(user, 10, first=60)
    for document in updated:
        world.change("mood", document, mood="changed")
    for document in deleted:
        world.change("mood", document, deleted=True)
    duplicate = {"mood": "mood 30", "when": "2025-10-15T12:31:15.123Z", "ref": documents[30]}
    world.put(user, "mood", "3jzfcijpj2z2c", duplicate)
    world.put(user, "mood", "3jzfcijpj2z2d", {**duplicate, "ref": "f" * 24})
    new = {op.document.id: op.rkey for op in world.survey(user)[0].operations() if op.document}
    for key in (keys[updated[3]], keys[deleted[4]], new[created[5]], "3jzfcijpj2z2c", "3jzfcijpj2z2d"):
        world.pds.refusals[MOOD.nsid, key] = REFUSED
    report = world.sync(user)
    assert totals(report) == {"updated": 9, "deleted": 9, "created": 9, "quarantined": 4, "unchanged": 40}
    assert len(report.failures) == 5
    assert any("3jzfcijpj2z2c, a duplicate, could not be deleted" in note for note in report.notes)
    assert world.link("mood", deleted[4]) is not None
    assert world.records(user, "mood")[keys[updated[3]]]["mood"] == "mood 3"
    world.pds.refusals.clear()
    report = world.sync(user, retry=True)
    assert totals(report) == {"updated": 1, "deleted": 2, "created": 1, "duplicates_removed": 1, "unchanged": 58}


def test_a_batch_too_large_is_halved_and_the_size_remembered() -> None:
    """WRITE-5: the next account, and the next run, start with what the PDS takes."""
    world = World(request_bytes=20_000)
    first, second = world.user(), world.user()
    world.moods(first, 300)
    assert totals(world.sync(first)) == {"created": 300}
    sent = world.pds.batches(first)
    learned = world.ledger.hosts["pds.test"]
    assert 10_000 <= learned <= 20_000
    assert len(sent) > len([batch for batch in sent if len(batch) < 100])
    world.moods(second, 300)
    assert totals(world.sync(second)) == {"created": 300}
    assert sum(len(batch) for batch in world.pds.batches(second)) == 300


def test_a_single_item_too_large_is_quarantined(world: World) -> None:
    """WRITE-5, VERIFY-1."""
    world = World(request_bytes=5_000)
    user = world.user()
    large = world.add("kidlisp", user, source="x" * 6_000)
    for number in range(5):
        world.add("kidlisp", user, code=f"k{number:03}", source="x" * 100)
    report = world.sync(user)
    assert (report.types["kidlisp"].created, report.types["kidlisp"].quarantined) == (5, 1)
    assert [(failure.item, failure.error_class) for failure in report.failures] == [(f"kidlisp:{large}", "too-large")]


def test_a_commit_too_large_is_halved_as_well(world: World) -> None:
    """WRITE-5: another cap of the PDS, answered with another name."""
    user = world.user()
    world.moods(user, 100)
    world.pds.fail("apply_writes", TooLarge("too many writes", status=400, answer="Max event size: 2MB"))
    assert totals(world.sync(user)) == {"created": 100}
    assert [len(batch) for batch in world.pds.batches(user)] == [100, 50, 50]


def test_a_moved_repository_is_read_and_planned_anew_and_counted_once(world: World) -> None:
    """WRITE-7, VERIFY-1: what was settled, healed or refused in the first round is not counted, or sent, again."""
    user = world.user()
    documents = world.moods(user, 450)
    keys = [operation.rkey for operation in world.survey(user)[0].operations()]
    world.put(user, "mood", keys[0], {"mood": "mood 0", "when": "2025-10-15T12:30:45.123Z", "ref": documents[0]})
    world.put(user, "mood", "3jzfcijpj2z2d", {"when": "2025-10-15T12:30:45.123Z"})
    invalid = world.add("mood", user, mood="")
    world.pds.refusals[MOOD.nsid, keys[5]] = REFUSED

    def somebody_posts(number: int) -> None:
        if len(world.records(user, "mood")) > 300:
            world.pds.between = lambda number: None
            world.put(user, "piece", KEY, {"slug": "posted", "when": "2025-10-15T12:30:45.123Z"})

    world.pds.between = somebody_posts
    report = world.sync(user)
    assert KEY in world.records(user, "piece")
    sent = world.pds.batches(user)
    posted = next(number for number, batch in enumerate(sent) if batch[0].rkey == KEY)
    assert keys[5] not in {write.rkey for batch in sent[posted:] for write in batch}
    assert totals(report) == {"created": 448, "unchanged": 1, "healed": 1, "quarantined": 2}
    assert {failure.item for failure in report.failures} == {f"mood:{documents[5]}", f"mood:{invalid}"}
    assert len(report.failures) == len(report.notes) == len(set(report.notes)) == 2
    links = [update.document for _, updates in world.documents.link_writes for update in updates]
    assert len(links) == len(set(links)) == 449
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 449, "quarantined": 2}


@pytest.mark.parametrize("theirs", ["same key", "another key"])
def test_the_real_time_writer_and_a_batch_on_one_item_make_one_record(world: World, theirs: str) -> None:
    """WRITE-9, WRITE-7: it commits after our read; its record is adopted, whatever its key."""
    user = world.user()
    documents = world.moods(user, 10)
    keys = [operation.rkey for operation in world.survey(user)[0].operations()]
    key = keys[4] if theirs == "same key" else KEY

    def posts(number: int) -> None:
        if number == 0:
            world.pds.between = lambda number: None
            value = {"mood": "mood 4", "when": "2025-10-15T12:30:49.125Z", "ref": documents[4]}
            world.put(user, "mood", key, value)

    world.pds.between = posts
    report = world.sync(user)
    assert totals(report) == {"created": 9, "unchanged": 1, "healed": 1}
    assert world.by_ref(user, "mood")[documents[4]] == [key]
    assert len(world.records(user, "mood")) == 10
    link = world.link("mood", documents[4])
    assert link is not None
    assert link.rkey == key


def test_a_repository_that_never_rests_is_left_for_later(world: World) -> None:
    """WRITE-7: bounded; everything is deferred and the account is to be run again."""
    user = world.user()
    world.moods(user, 5)
    world.pds.between = lambda number: world.pds.fail("apply_writes", RepositoryMoved("InvalidSwap", status=400))
    report = world.sync(user)
    assert isinstance(report.error, RepositoryMoved)
    assert totals(report) == {"deferred": 5}
    assert world.pds.count("apply_writes") == 5


def test_a_record_changed_behind_our_back_after_its_batch_is_corrected_and_counted_once(world: World) -> None:
    """WRITE-7, VERIFY-1: written in round one, overwritten by somebody, written again in round two."""
    user = world.user()
    documents = world.moods(user, 300)
    first = world.survey(user)[0].operations()[0].rkey

    def overwrites(number: int) -> None:
        if number == 1:
            world.pds.between = lambda number: None
            world.drop(user, "mood", first)
            world.put(user, "mood", first, {"mood": "forged", "when": "2025-10-15T12:30:45.123Z", "ref": documents[0]})

    world.pds.between = overwrites
    assert totals(world.sync(user)) == {"created": 300}
    assert world.records(user, "mood")[first]["mood"] == "mood 0"
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 300}


def test_a_limit_in_the_middle_defers_the_rest_with_a_time(world: World) -> None:
    """LIMIT-8, VERIFY-1: stops cleanly with a resume point; nothing failed, nothing is to be run again at once."""
    user = world.user()
    documents = world.moods(user, 500)
    limited = RateLimited("points spent", status=429, answer="RateLimitExceeded", retry_after=1800)
    world.pds.fail("apply_writes", limited, call=3)
    report = world.sync(user)
    assert totals(report) == {"created": 400, "deferred": 100}
    assert not report.run_again
    until = world.clock.now + timedelta(seconds=1800)
    assert {world.entry("mood", document).deferred_until for document in documents[400:]} == {until}
    assert report.notes == ["what is deferred waits until 2026-01-02 03:34:05 UTC: points spent"]
    assert totals(world.sync(user)) == {"unchanged": 400, "created": 100}
    assert {world.entry("mood", document).deferred_until for document in documents} == {None}


def test_a_spent_limit_does_not_keep_withdrawn_work_where_it_is(world: World) -> None:
    """LIMIT-9, DEL-1: new work waits, what has to go goes, and the next run does the rest once."""
    user = world.user()
    documents = world.moods(user, 300, first=250)
    orphan = world.add("piece", user)
    world.add("piece", user, slug="hat")
    world.sync(user)
    world.moods(user, 250)  # their keys come first, so that they fill the first commit
    for document in documents[-10:]:
        world.change("mood", document, nuked=True)
    world.documents.remove(media_type("piece"), orphan)
    world.pds.fail("apply_writes", RateLimited("the relay's hour is spent", retry_after=1800))
    report = world.sync(user)
    assert (report.types["mood"].deleted, report.types["mood"].deferred) == (10, 250)
    assert report.types["piece"].deleted == 1
    refused, erased = world.pds.batches(user)[-2:]
    assert ({write.action for write in refused}, {write.action for write in erased}) == ({"create"}, {"delete"})
    assert totals(world.sync(user)) == {"unchanged": 290, "created": 250}
    assert len(world.records(user, "mood")) == 540
    with world.quiet():
        world.sync(user)


def test_a_limit_that_holds_for_deletes_too_defers_them_with_its_time(world: World) -> None:
    """LIMIT-8, DEL-6: what the server itself refuses waits, and says for how long."""
    user = world.user()
    documents = world.moods(user, 2)
    world.sync(user)
    world.change("mood", documents[0], nuked=True)
    added = world.moods(user, 200, first=2)
    for _ in range(2):
        world.pds.fail("apply_writes", RateLimited("points spent", status=429, retry_after=1800))
    sent = world.pds.count("apply_writes")
    assert totals(world.sync(user)) == {"unchanged": 1, "deferred": 201}
    assert world.pds.count("apply_writes") == sent + 2
    until = world.clock.now + timedelta(seconds=1800)
    assert {world.entry("mood", each).deferred_until for each in (documents[0], *added)} == {until}


def test_a_limit_before_anything_is_known_is_an_interruption(world: World) -> None:
    """RUN-7, LIMIT-1: an account of which nothing was read never looks done."""
    user = world.user()
    world.moods(user, 3)
    world.pds.fail("read_repository", RateLimited("requests spent", status=429, retry_after=60))
    report = world.sync(user)
    assert report.run_again
    assert report.types == {}


def test_a_pds_that_goes_away_in_the_middle_defers_the_rest(world: World) -> None:
    """WRITE-8, OPS-3: also when it is the read-back that gets no answer; the next run finds what was committed."""
    user = world.user()
    world.moods(user, 500)
    world.pds.fail("apply_writes", LOST, call=2, after=True)
    world.pds.fail("read_repository", ServiceUnreachable("gone"), call=2)
    report = world.sync(user)
    assert totals(report) == {"created": 200, "deferred": 300}
    assert isinstance(report.error, ServiceUnreachable)
    assert totals(world.sync(user)) == {"unchanged": 400, "healed": 200, "created": 100}
    assert len(world.records(user, "mood")) == 500
