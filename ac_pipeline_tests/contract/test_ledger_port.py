"""The contract of the Ledger port, on the in-memory one and on MongoDB."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.errors import LeaseHeld
from ac_pipeline.items import (
    Attempt,
    BlobRef,
    Derived,
    Failure,
    LedgerEntry,
    Rendition,
    RepositoryCheckpoint,
    Stage,
    State,
    item_id,
)
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.mongo.ledger.items import MongoLedger
from ac_pipeline.mongo.ledger.leases import Leases
from ac_pipeline.sync.ports import Ledger
from ac_pipeline_tests.memory_ports import FakeClock, MemoryLedger

ANNA = Account(id="auth0|63effeeb2a7d55f8098d62f9", key="anna", did="did:plc:anna")
BERT = Account(id="auth0|000000000000000000000001", key="bert", did="did:plc:bert")
PATIENCE = 10
"""Seconds: less than a lease lasts, so that waiting ends first."""
NOW = datetime(2026, 1, 2, 3, 4, 5, 6_000, tzinfo=UTC)


@dataclass
class Harness:
    ledger: Ledger
    clock: FakeClock


@pytest.fixture(params=["memory", "mongo"])
def harness(request: pytest.FixtureRequest) -> Harness:
    clock = FakeClock(NOW)
    if request.param == "memory":
        return Harness(MemoryLedger(clock, patience=PATIENCE), clock)
    database: Database[dict[str, Any]] = request.getfixturevalue("mongo_database")
    leases = Leases(
        database.get_collection("leases", codec_options=CodecOptions(tz_aware=True)),
        clock=clock,
        sleep=clock.sleep,
        patience=PATIENCE,
    )
    return Harness(MongoLedger(database, leases=leases), clock)


@pytest.fixture
def ledger(harness: Harness) -> Ledger:
    return harness.ledger


def line(number: int, state: State = State.WRITTEN) -> Attempt:
    return Attempt(at=NOW.replace(second=number % 60), run_id=f"run-{number}", stage=Stage.WRITE, state=state)


def entry(document: str | None = None, account: Account = ANNA, type: str = "painting", **changes: Any) -> LedgerEntry:
    document = document or str(ObjectId())
    base = LedgerEntry(
        item=item_id(type, document),
        type=type,
        document=document,
        account=account.id,
        partition=account.key,
        state=State.WRITTEN,
        stage=Stage.WRITE,
    )
    return replace(base, **changes)


def full_entry() -> LedgerEntry:
    thumbnail = Rendition(BlobRef("bafk1", "image/png", 9), "0" * 64, "thumb-1", {"width": 512, "photo": False})
    return entry(
        state=State.QUARANTINED,
        code="bef",
        did="did:plc:anna",
        fingerprint="f" * 64,
        rkey="3k",
        uri="at://did:plc:anna/computer.aesthetic.painting/3k",
        cid="bafyrecord",
        derived=Derived({"thumbnail": thumbnail}, frozenset({"recording"}), "key", ("a warning",)),
        attempts=3,
        failure=Failure(Stage.WRITE, "record-refused", "The PDS refuses it.", 400, "InvalidRequest", "e" * 64),
        warnings=("`when` is missing",),
        deferred_until=NOW,
        withdrawn_at=NOW,
        run_id="run-1",
        updated_at=NOW,
        history=(Attempt(NOW, "run-1", Stage.WRITE, State.QUARANTINED, "record-refused", "The PDS refuses it."),),
        former=BERT.id,
    )


def test_several_accounts_and_types_are_loaded_at_once(ledger: Ledger) -> None:
    """VERIFY-11: all of them are there, whoever has no entry too, and nobody else is."""
    mine, nobody = entry(), replace(ANNA, id="auth0|nobody")
    ledger.save([mine, entry(type="mood"), entry(account=BERT), entry(account=replace(ANNA, id="auth0|else"))])
    assert ledger.load_of((ANNA, BERT, nobody), (PAINTING, MOOD)) == {
        each.id: {media.name: ledger.load(each, media) for media in (PAINTING, MOOD)} for each in (ANNA, BERT, nobody)
    }
    assert [*ledger.load_of((ANNA,), (PAINTING,))[ANNA.id]["painting"]] == [mine.document]
    assert ledger.load_of((BERT,), (MOOD,)) == {BERT.id: {"mood": {}}}
    assert ledger.load_of((BERT,), ()) == {BERT.id: {}}
    assert ledger.load_of((), (MOOD,)) == {}


def test_several_checkpoints_are_read_at_once(ledger: Ledger) -> None:
    """VERIFY-11: with their hashes."""
    marks = [RepositoryCheckpoint(f"did:plc:{n}", "rev-1", NOW, {"mood": "h"}, {"mood": 1}) for n in "abc"]
    for mark in marks:
        ledger.keep_checkpoint(mark)
    asked = ["did:plc:a", "did:plc:c", "did:plc:none"]
    assert ledger.checkpoints_of(asked) == {mark.did: mark for mark in (marks[0], marks[2])}


def test_the_pauses_of_all_accounts_are_those_of_each(ledger: Ledger) -> None:
    ledger.hold(ANNA, [PAINTING], "look first")
    ledger.hold(BERT, [MOOD], "wiped")
    ledger.release(BERT, [MOOD])
    assert ledger.all_holds() == {ANNA.id: ledger.holds(ANNA)} == {ANNA.id: {"painting": "look first"}}


def test_an_entry_comes_back_as_it_was_saved(ledger: Ledger) -> None:
    """OPS-2: class, payload hash, attempts and the server's answer are kept with the item."""
    saved = full_entry()
    ledger.save([saved])
    assert dict(ledger.load(ANNA, PAINTING)) == {saved.document: saved}


def test_a_bare_entry_comes_back_as_it_was_saved(ledger: Ledger) -> None:
    saved = entry()
    ledger.save([saved])
    assert dict(ledger.load(ANNA, PAINTING)) == {saved.document: saved}


def test_entries_are_loaded_by_account_and_type(ledger: Ledger) -> None:
    hers, his, mood = entry(), entry(account=BERT), entry(type="mood")
    ledger.save([hers, his, mood])
    assert set(ledger.load(ANNA, PAINTING)) == {hers.document}
    assert set(ledger.load(BERT, PAINTING)) == {his.document}
    assert set(ledger.load(ANNA, MOOD)) == {mood.document}
    assert not ledger.load(BERT, MOOD)


def test_entries_of_other_accounts_are_found_by_their_items(ledger: Ledger) -> None:
    """DEL-10."""
    mine, his = entry(account=ANNA), entry(account=BERT)
    ledger.save([mine, his, entry(account=BERT)])
    asked = [mine.item, his.item, *(item_id("painting", str(ObjectId())) for _ in range(450))]
    assert ledger.of_others(ANNA, asked) == [his]
    assert ledger.of_others(ANNA, ()) == []


def test_a_known_entry_is_replaced_and_its_timeline_grows(ledger: Ledger) -> None:
    first = full_entry()
    ledger.save([first])
    (loaded,) = ledger.load(ANNA, PAINTING).values()
    done = replace(
        loaded, state=State.WRITTEN, failure=None, derived=None, code=None, history=(*loaded.history, line(2))
    )
    ledger.save([done, entry()])
    found = ledger.load(ANNA, PAINTING)
    assert len(found) == 2
    assert found[first.document] == done


def test_an_entry_taken_for_new_keeps_the_timeline_of_the_one_that_exists(ledger: Ledger) -> None:
    """Somebody who did not load the ledger first takes nothing from it."""
    document = str(ObjectId())
    ledger.save([entry(document, history=(line(1),))])
    ledger.save([entry(document, history=(line(2),)), entry(history=(line(2),)), entry(history=(line(2),))])
    found = ledger.load(ANNA, PAINTING)
    assert len(found) == 3
    assert found[document].history == (line(1), line(2))


@pytest.mark.parametrize(("attempts", "kept"), [(19, 19), (20, 20), (21, 20)])
def test_the_timeline_holds_the_last_twenty_attempts(ledger: Ledger, attempts: int, kept: int) -> None:
    document = str(ObjectId())
    for number in range(attempts):
        known = ledger.load(ANNA, PAINTING).get(document, entry(document))
        ledger.save([replace(known, history=(*known.history, line(number)))])
    history = ledger.load(ANNA, PAINTING)[document].history
    assert history == tuple(line(number) for number in range(attempts - kept, attempts))


def test_the_same_attempt_saved_twice_is_one_line(ledger: Ledger) -> None:
    document = str(ObjectId())
    for state in (State.DEFERRED, State.WRITTEN):
        ledger.save([entry(document, state=state, history=(line(1),))])
    found = ledger.load(ANNA, PAINTING)[document]
    assert (found.state, found.history) == (State.WRITTEN, (line(1),))


def test_saving_nothing_is_nothing(ledger: Ledger) -> None:
    ledger.save([])
    ledger.save(iter(()))
    assert not ledger.load(ANNA, PAINTING)


def test_a_repository_has_one_writer_and_others_go_on(harness: Harness) -> None:
    """WRITE-12: whoever waits longer than it has patience is told who is in the way, even under its own name."""
    with harness.ledger.lease("did:plc:anna", "run-1"), harness.ledger.lease("did:plc:bert", "run-1"):
        for holder in ("run-2", "run-1"):
            with pytest.raises(LeaseHeld, match="did:plc:anna"), harness.ledger.lease("did:plc:anna", holder):
                pass
    assert sum(harness.clock.slept) == pytest.approx(2 * PATIENCE, abs=2)


def test_the_lease_of_a_run_that_died_expires_and_a_late_holder_is_told(harness: Harness) -> None:
    """WRITE-12, WRITE-13: 60 seconds without renewal, and another run goes on; the first is told to read anew."""
    first, second = (harness.ledger.lease("did:plc:anna", run) for run in ("run-1", "run-2"))
    with ExitStack() as late:
        late.enter_context(first)
        harness.clock.advance(60)
        with second:
            assert harness.clock.slept == []
        with pytest.raises(LeaseHeld, match="lost"):
            late.close()


def test_a_lease_that_ended_can_be_taken_at_once(harness: Harness) -> None:
    for holder in ("run-1", "run-1", "run-2"):
        with harness.ledger.lease("did:plc:anna", holder):
            pass
    assert harness.clock.slept == []


def test_a_lease_ends_with_an_error_in_its_context_too(harness: Harness) -> None:
    with pytest.raises(ValueError, match="inside"), harness.ledger.lease("did:plc:anna", "run-1"):
        raise ValueError("inside")
    with harness.ledger.lease("did:plc:anna", "run-2"):
        assert harness.clock.slept == []


def test_the_batch_size_of_a_server_only_shrinks(ledger: Ledger) -> None:
    """WRITE-5."""
    assert ledger.batch_bytes("pds.example", 1_000_000) == 1_000_000
    ledger.remember_batch_bytes("pds.example", 150_000)
    ledger.remember_batch_bytes("pds.example", 400_000)
    assert ledger.batch_bytes("pds.example", 1_000_000) == 150_000
    assert ledger.batch_bytes("pds.example", 100_000) == 100_000
    assert ledger.batch_bytes("other.example", 1_000_000) == 1_000_000


def test_the_mark_of_a_repository_comes_back_as_it_was_remembered(ledger: Ledger) -> None:
    """VERIFY-9, VERIFY-11."""
    assert ledger.checkpoint("did:plc:anna") is None
    mark = RepositoryCheckpoint("did:plc:anna", "3kaaaaaaaaaa2", NOW, {"mood": "a" * 64}, {"mood": 3, "tape": 0})
    ledger.keep_checkpoint(mark)
    assert ledger.checkpoint("did:plc:anna") == mark
    later = RepositoryCheckpoint("did:plc:anna", "3kbbbbbbbbbb2", NOW)
    ledger.keep_checkpoint(later)
    assert ledger.checkpoint("did:plc:anna") == later


def test_a_mark_follows_our_commit_from_the_revision_where_it_stands_and_from_no_other(ledger: Ledger) -> None:
    """GUARD-5: what was written to is not settled any more; of the rest all is known that was."""
    mark = RepositoryCheckpoint("did:plc:anna", "rev-1", NOW, {"mood": "a", "tape": "b"}, {"mood": 3, "tape": 0})
    later = NOW + timedelta(seconds=1)
    followed = RepositoryCheckpoint("did:plc:anna", "rev-2", later, counts={"mood": 4, "piece": 1})
    ledger.follow_checkpoint(followed, since="rev-1")
    assert ledger.checkpoint("did:plc:anna") is None
    ledger.keep_checkpoint(mark)
    ledger.follow_checkpoint(followed, since="rev-0")
    assert ledger.checkpoint("did:plc:anna") == mark
    ledger.follow_checkpoint(followed, since="rev-1")
    known = RepositoryCheckpoint("did:plc:anna", "rev-2", later, {"tape": "b"}, {"mood": 4, "tape": 0, "piece": 1})
    assert ledger.checkpoint("did:plc:anna") == known
    ledger.follow_checkpoint(RepositoryCheckpoint("did:plc:anna", "rev-3", later), since="rev-2")
    assert ledger.checkpoint("did:plc:anna") == replace(known, rev="rev-3")


def test_the_marks_of_all_repositories_are_read_without_what_is_settled(ledger: Ledger) -> None:
    """VERIFY-9: comparing 4,200 revisions needs no hashes."""
    assert dict(ledger.checkpoints()) == {}
    marks = [RepositoryCheckpoint(f"did:plc:{name}", f"rev-{name}", NOW, {"mood": "a"}, {"mood": 1}) for name in "abc"]
    for mark in marks:
        ledger.keep_checkpoint(mark)
    assert dict(ledger.checkpoints()) == {mark.did: replace(mark, settled={}) for mark in marks}


def test_types_are_on_hold_until_they_are_released(ledger: Ledger) -> None:
    """PLAN-6: per account and type; the last reason stands."""
    assert dict(ledger.holds(ANNA)) == {}
    ledger.hold(ANNA, [MOOD, PAINTING], "wiped")
    ledger.hold(ANNA, [MOOD], "wiped again")
    assert dict(ledger.holds(ANNA)) == {"mood": "wiped again", "painting": "wiped"}
    assert dict(ledger.holds(BERT)) == {}
    ledger.release(ANNA, [MOOD])
    ledger.release(BERT, [MOOD])
    assert dict(ledger.holds(ANNA)) == {"painting": "wiped"}
    ledger.release(ANNA, [MOOD, PAINTING])
    assert dict(ledger.holds(ANNA)) == {}


def test_holding_or_releasing_no_type_changes_nothing(ledger: Ledger) -> None:
    ledger.hold(ANNA, [], "nothing")
    ledger.release(ANNA, [])
    assert dict(ledger.holds(ANNA)) == {}


@pytest.mark.parametrize(
    ("state", "used"),
    [(state, state is not State.DELETED) for state in State],
)
def test_a_blob_is_used_by_every_item_whose_record_is_not_deleted(state: State, used: bool, ledger: Ledger) -> None:
    """DEL-7, VERIFY-6: whoever owns it, whatever its type."""
    own, shared, alone = (Rendition(BlobRef(f"bafk{n}", "image/png", 1), "", "x") for n in range(3))
    mine = entry(derived=Derived({"video": own, "thumbnail": shared}))
    other = entry(account=BERT, type="tape", state=state, derived=Derived({"thumbnail": shared, "video": alone}))
    ledger.save([mine, other, entry()])
    assert ledger.used_blobs(["bafk0", "bafk1", "bafk9"], without=[mine.item]) == ({"bafk1"} if used else set())
    assert ledger.used_blobs(["bafk1"], without=[mine.item, other.item]) == set()
    assert ledger.used_blobs(["bafk0"], without=[]) == {"bafk0"}
    assert ledger.used_blobs([], without=[]) == set()


def test_past_blobs_are_kept_and_use_nothing(ledger: Ledger) -> None:
    """DEL-7: what an erasure is verified by does not keep a rendition."""
    gone = entry(state=State.DELETED, past_blobs=("bafk0", "bafk1"))
    ledger.save([gone])
    assert ledger.load(ANNA, PAINTING)[gone.document].past_blobs == ("bafk0", "bafk1")
    assert ledger.used_blobs(["bafk0"], without=[]) == set()
    ledger.save([replace(gone, state=State.WRITTEN, past_blobs=())])
    assert ledger.load(ANNA, PAINTING)[gone.document].past_blobs == ()


def test_a_last_look_is_replaced_by_the_next_version_only(harness: Harness) -> None:
    """GUARD-1: of two who change it at once, one is told to look again."""
    ledger = harness.ledger
    first = ledger.last_look("mood")
    assert (first.at, first.version) == (None, 0)
    assert ledger.keep_look(replace(first, at=NOW, documents=7, expected=9, orphans={"ab": NOW}, newest=1))
    kept = ledger.last_look("mood")
    assert kept == replace(first, at=NOW, documents=7, expected=9, orphans={"ab": NOW}, newest=1, version=1)
    assert not ledger.keep_look(first)
    assert ledger.keep_look(kept)
    assert not ledger.keep_look(kept)
    assert ledger.last_look("piece").at is None


def test_recorded_are_the_items_that_have_a_record(harness: Harness) -> None:
    """GUARD-1: what was refused before its first write has an address, and no record."""
    there, gone, never = (entry(document=f"{number:024x}") for number in range(3))
    uri = "at://did:plc:anna/computer.aesthetic.mood/1"
    written = {"uri": uri, "cid": "bafyrecord"}
    refused = replace(never, uri=uri, cid=None, state=State.BLOCKED)
    harness.ledger.save([replace(there, **written), replace(gone, **written, state=State.DELETED), refused])
    assert list(harness.ledger.recorded(there.type)) == [(there.account, there.document)]
    assert list(harness.ledger.recorded("tape")) == []
