"""What people ask the ledger, and how a lease lives, on a real database."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo.collection import Collection
from pymongo.database import Database

from ac_pipeline.errors import LeaseHeld
from ac_pipeline.items import BlobRef, Derived, Failure, LedgerEntry, Rendition, Stage, State, item_id
from ac_pipeline.mongo.ledger.items import MongoLedger, Standing
from ac_pipeline.mongo.ledger.leases import Leases
from ac_pipeline_tests.memory_ports import FakeClock

Mongo = Database[dict[str, Any]]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DID = "did:plc:anna"


def entry(number: int, type: str = "painting", state: State = State.WRITTEN, **changes: Any) -> LedgerEntry:
    document = f"{number:024x}"
    base = LedgerEntry(item_id(type, document), type, document, "auth0|a", "anna", state, Stage.WRITE)
    return replace(base, **changes)


@pytest.fixture
def ledger(mongo_database: Mongo) -> MongoLedger:
    ledger = MongoLedger(mongo_database)
    ledger.ensure_indexes()
    ledger.ensure_indexes()
    return ledger


def test_items_are_found_by_state_class_account_and_type(ledger: MongoLedger) -> None:
    """OPS-2, OPS-3."""
    missing = Failure(Stage.RENDITION, "source-missing", "No object.", payload_hash="0" * 64)
    ledger.save(
        [
            entry(1),
            entry(2, state=State.QUARANTINED, failure=missing),
            entry(3, state=State.QUARANTINED, failure=replace(missing, error_class="too-large")),
            entry(4, "tape", State.DEFERRED),
            entry(5, "tape", account="auth0|b"),
        ]
    )

    def found(**conditions: Any) -> list[int]:
        return [int(entry.document, 16) for entry in ledger.find(**conditions)]

    assert found() == [1, 2, 3, 4, 5]
    assert found(states=[State.QUARANTINED, State.DEFERRED]) == [2, 3, 4]
    assert found(error_class="source-missing") == [2]
    assert found(account="auth0|b") == [5]
    assert found(types=["tape"]) == [4, 5]
    assert found(types=["tape"], account="auth0|a", states=[State.DEFERRED]) == [4]
    assert found(limit=2) == [1, 2]
    assert found(states=[]) == []
    assert ledger.counts() == {
        "painting": {State.WRITTEN: 1, State.QUARANTINED: 2},
        "tape": {State.DEFERRED: 1, State.WRITTEN: 1},
    }
    assert ledger.counts(account="auth0|b") == {"tape": {State.WRITTEN: 1}}


def test_whose_items_stand_where_and_why_is_one_line_for_each_user_and_class(ledger: MongoLedger) -> None:
    """VERIFY-12, OPS-2: an operator's table of a hundred thousand deferred items is a few lines."""
    missing = Failure(Stage.RENDITION, "source-missing", "No object.")
    limited = Failure(Stage.WRITE, "rate-limited", "Wait.")
    ledger.save(
        [
            entry(1, state=State.QUARANTINED, failure=missing),
            entry(2, state=State.QUARANTINED, failure=missing),
            entry(3, state=State.QUARANTINED, failure=replace(missing, error_class="too-large")),
            entry(4, state=State.QUARANTINED, partition="bert", failure=missing),
            entry(5, "tape", State.QUARANTINED, failure=missing),
            entry(6, state=State.DEFERRED, failure=limited, deferred_until=NOW),
            entry(7, state=State.DEFERRED, failure=limited, deferred_until=NOW + timedelta(hours=1)),
            entry(8, state=State.DEFERRED, partition="bert"),
        ]
    )
    assert ledger.standing(State.QUARANTINED, "painting") == [
        Standing("anna", "source-missing", 2),
        Standing("anna", "too-large", 1),
        Standing("bert", "source-missing", 1),
    ]
    assert ledger.standing(State.DEFERRED, "painting") == [
        Standing("anna", "rate-limited", 2, NOW + timedelta(hours=1)),
        Standing("bert", None, 1),
    ]
    assert ledger.standing(State.BLOCKED, "painting") == []


def test_one_item_is_found_by_id_and_by_its_code_as_written(ledger: MongoLedger) -> None:
    """SRC-10: neither the case of a code nor another type with the same code misleads."""
    lower, upper, tape = entry(1, code="bef"), entry(2, code="BEF"), entry(3, "tape", code="bef")
    ledger.save([lower, upper, tape])
    assert ledger.get(lower.item) == lower
    assert ledger.get("painting:" + "f" * 24) is None
    assert ledger.by_code("painting", "bef") == [lower]
    assert ledger.by_code("painting", "BEF") == [upper]
    assert ledger.by_code("tape", "bef") == [tape]
    assert ledger.by_code("tape", "BEF") == []


def test_a_blob_leads_to_the_records_that_use_it(ledger: MongoLedger) -> None:
    """VERIFY-6."""

    def derived(*cids: str) -> Derived:
        made = {f"f{n}": Rendition(BlobRef(cid, "image/png", 1), "", "x") for n, cid in enumerate(cids)}
        return Derived(renditions=made)

    both, one = entry(1, derived=derived("bafk1", "bafk2")), entry(2, derived=derived("bafk2"))
    ledger.save([both, one, entry(3)])
    assert ledger.used_blobs(["bafk1", "bafk2", "bafk3"], without=()) == {"bafk1", "bafk2"}
    assert ledger.used_blobs(["bafk1", "bafk2"], without=[both.item]) == {"bafk2"}
    assert ledger.used_blobs(["bafk1", "bafk2"], without=[both.item, one.item]) == set()


def test_pending_deletions_come_longest_waiting_first(ledger: MongoLedger) -> None:
    """DEL-6."""
    ledger.save(
        [
            entry(1),
            entry(2, state=State.DEFERRED, withdrawn_at=NOW),
            entry(3, state=State.DEFERRED, withdrawn_at=NOW - timedelta(days=1)),
        ]
    )
    assert [found.withdrawn_at for found in ledger.pending_deletions()] == [NOW - timedelta(days=1), NOW]
    assert len(list(ledger.pending_deletions(limit=1))) == 1
    ledger.save([entry(2), entry(3)])
    assert list(ledger.pending_deletions()) == []


def test_an_entry_of_an_older_version_is_read(ledger: MongoLedger, mongo_database: Mongo) -> None:
    mongo_database["items"].insert_one(
        {"_id": "mood:1", "type": "mood", "document": "1", "account": "a", "partition": "a"}
        | {"state": "written", "stage": "write"}
    )
    assert ledger.get("mood:1") == LedgerEntry("mood:1", "mood", "1", "a", "a", State.WRITTEN, Stage.WRITE)


@pytest.fixture
def collection(mongo_database: Mongo) -> Collection[dict[str, Any]]:
    return mongo_database.get_collection("leases", codec_options=CodecOptions(tz_aware=True))


class Rounds:
    """Stands in for the waiting of the renewal thread: lets it renew a number of times, when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.first = True

    def wait(self, ended: threading.Event, seconds: float) -> bool:
        if not self.first:
            self.done.release()
        self.first = False
        while not ended.is_set():
            if self.go.acquire(timeout=0.01):
                return False
        return True

    def renew_once(self) -> None:
        self.go.release()
        assert self.done.acquire(timeout=10)


def test_a_lease_that_is_renewed_outlasts_its_time(collection: Collection[dict[str, Any]]) -> None:
    """WRITE-12: a long run keeps its repository for as long as it lives."""
    clock, rounds = FakeClock(), Rounds()
    mine = Leases(collection, clock=clock, sleep=clock.sleep, wait=rounds.wait)
    others = Leases(collection, clock=clock, sleep=clock.sleep, patience=0)
    with mine.hold(DID, "run-1"):
        for _ in range(5):
            clock.advance(40)
            rounds.renew_once()
            with pytest.raises(LeaseHeld, match="run-1"), others.hold(DID, "run-2"):
                pass


def test_waiting_outlasts_the_lease_of_a_run_that_died(collection: Collection[dict[str, Any]]) -> None:
    """WRITE-13: a restart after a kill waits for the dead run's lease, then goes on."""
    clock = FakeClock()
    collection.insert_one({"_id": DID, "holder": "dead", "token": "x", "expires_at": clock() + timedelta(seconds=60)})
    with Leases(collection, clock=clock, sleep=clock.sleep).hold(DID, "run-2"):
        assert sum(clock.slept) == pytest.approx(60, abs=1)


@pytest.mark.parametrize(("ahead", "waits"), [(timedelta(minutes=30), True), (timedelta(days=365), False)])
def test_a_lease_of_a_clock_that_was_wrong_keeps_nobody_out(
    collection: Collection[dict[str, Any]], ahead: timedelta, waits: bool
) -> None:
    """WRITE-12, WRITE-13: a machine that was a year ahead died; one that is a little ahead may be at work."""
    clock = FakeClock()
    collection.insert_one({"_id": DID, "holder": "dead", "token": "x", "expires_at": clock() + ahead})
    leases, held = Leases(collection, clock=clock, sleep=clock.sleep, patience=0), False
    try:
        with leases.hold(DID, "run-2"):
            held = True
    except LeaseHeld:
        pass
    assert held is not waits


def test_a_holder_that_was_overtaken_cannot_end_the_new_lease(collection: Collection[dict[str, Any]]) -> None:
    clock, tokens = FakeClock(), iter(["first", "second"])
    leases = Leases(collection, clock=clock, sleep=clock.sleep, token=lambda: next(tokens))
    with ExitStack() as late:
        late.enter_context(leases.hold(DID, "run-1"))
        clock.advance(60)
        with leases.hold(DID, "run-2"):
            assert not leases.renew(DID, "first")
            with pytest.raises(LeaseHeld, match="lost"):
                late.close()
            assert leases.renew(DID, "second")
        assert collection.find_one({"_id": DID}) is None


def test_of_many_that_ask_at_once_one_gets_the_lease(collection: Collection[dict[str, Any]]) -> None:
    """WRITE-12: the server decides, in one atomic step."""
    clock, start, inside, results = FakeClock(), threading.Barrier(8), threading.Event(), []

    def run(number: int) -> None:
        leases = Leases(collection, clock=clock, sleep=lambda _: None, patience=0)
        start.wait(timeout=30)
        try:
            with leases.hold(DID, f"run-{number}"):
                results.append("held")
                inside.wait(timeout=30)
        except LeaseHeld:
            results.append("refused")
        if results.count("refused") == 7:
            inside.set()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["held", *["refused"] * 7]


def test_a_document_id_is_no_key_by_itself(ledger: MongoLedger) -> None:
    """SRC-10: the same id in two collections is two items."""
    document = str(ObjectId())
    ledger.save([replace(entry(1, type), item=item_id(type, document), document=document) for type in ("mood", "tape")])
    assert ledger.get(f"mood:{document}") != ledger.get(f"tape:{document}")


def test_what_one_account_has_is_found_without_the_ledger_of_the_others(ledger: MongoLedger) -> None:
    """The same as among everybody: any order of saving, any condition, and a limit."""
    missing = Failure(Stage.RENDITION, "source-missing", "No object.")
    states = [State.WRITTEN, State.QUARANTINED, State.WRITTEN, State.DELETED, State.WRITTEN]
    for number, state in reversed(list(enumerate(states))):
        failed = missing if state is State.QUARANTINED else None
        ledger.save([entry(number, state=state, failure=failed), entry(90 + number, account="auth0|b", state=state)])

    def found(**conditions: Any) -> list[int]:
        return [int(each.document, 16) for each in ledger.find(account="auth0|a", **conditions)]

    assert found() == [0, 1, 2, 3, 4]
    assert found(states={State.WRITTEN}, types={"painting"}, limit=2) == [0, 2]
    assert found(states={State.DELETED, State.WRITTEN}, limit=4) == [0, 2, 3, 4]
    assert found(error_class="source-missing") == [1]
    assert found(types=[]) == found(states=[]) == []
