"""The contract of the port `BudgetStore`, held by the one in memory and the one in MongoDB."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from ac_pipeline.atproto.rate_limits import HOUR as HOUR_LONG
from ac_pipeline.atproto.rate_limits import POLICY, Bucket, BudgetStore, MemoryBudgetStore, Pace, Window, commits_key
from ac_pipeline.errors import RateLimited, ServiceUnreachable
from ac_pipeline.mongo.ledger.collections import MongoBudgetStore

DID = "did:plc:alice"
HOURLY, DAILY = "5000;w=3600", "35000;w=86400"
HOUR = Window(5_000, 3_600.0, 4_400, 1_800_000_000.0)
DAY = Window(35_000, 86_400.0, 30_000, 1_800_050_000.5, True)


@pytest.fixture(params=["in memory", "in MongoDB"])
def store(request: pytest.FixtureRequest) -> BudgetStore:
    if request.param == "in memory":
        return MemoryBudgetStore()
    mongo: Database[dict[str, Any]] = request.getfixturevalue("mongo")
    return MongoBudgetStore(mongo["budgets"])


@pytest.fixture
def filled(store: BudgetStore) -> BudgetStore:
    assert store.change(DID, HOURLY, None, HOUR)
    assert store.change(DID, DAILY, None, DAY)
    return store


def test_what_nobody_has_learned_is_an_empty_bucket(store: BudgetStore) -> None:
    assert store.read(DID) == Bucket()
    assert store.take(DID, [], 3) == Bucket()
    assert store.take(DID, [HOURLY], 3).windows.get(HOURLY) is None


def test_what_is_learned_comes_back_as_it_was(filled: BudgetStore) -> None:
    assert filled.read(DID) == Bucket({HOURLY: HOUR, DAILY: DAY})
    assert filled.read("did:plc:bob") == Bucket()


def test_a_cost_is_taken_off_the_named_policies_and_given_back(filled: BudgetStore) -> None:
    after = filled.take(DID, [HOURLY, DAILY], 600)
    assert {policy: window.remaining for policy, window in after.windows.items()} == {HOURLY: 3_800, DAILY: 29_400}
    assert filled.take(DID, [HOURLY], 4_000).windows[HOURLY].remaining == -200
    after = filled.take(DID, [HOURLY], -4_000)
    assert {policy: window.remaining for policy, window in after.windows.items()} == {HOURLY: 3_800, DAILY: 29_400}
    assert filled.read(DID) == after


def test_where_one_of_the_policies_is_not_known_nothing_is_taken_of_any(filled: BudgetStore) -> None:
    """LIMIT-9: a window that nobody has begun is not begun by halves."""
    before = filled.read(DID)
    assert filled.take(DID, ["relay;w=3600"], 1) == before
    assert filled.take(DID, [HOURLY, "relay;w=3600"], 1) == before
    assert filled.read(DID) == before


def test_a_window_is_changed_only_by_who_knows_it_as_it_is(filled: BudgetStore) -> None:
    """Two processes that see the end of a window begin the next one once."""
    begun = replace(HOUR, remaining=4_997, reset=HOUR.reset + 3_600)
    assert filled.change(DID, HOURLY, HOUR, begun)
    assert not filled.change(DID, HOURLY, HOUR, replace(begun, remaining=4_000))
    assert not filled.change(DID, HOURLY, None, HOUR)
    assert filled.read(DID).windows == {HOURLY: begun, DAILY: DAY}
    filled.take(DID, [HOURLY], 3)
    assert not filled.change(DID, HOURLY, begun, HOUR)


def test_a_silence_is_never_shortened(filled: BudgetStore) -> None:
    """LIMIT-1."""
    filled.silence(DID, 1_800_000_060.0)
    filled.silence(DID, 1_800_000_030.0)
    assert filled.read(DID) == Bucket({HOURLY: HOUR, DAILY: DAY}, 1_800_000_060.0)
    filled.silence(DID, 1_900_000_000.0)
    filled.silence(DID, 1_800_000_090.0)  # a clock that was wrong said the one before
    assert filled.read(DID).silent_until == 1_800_000_090.0
    filled.silence("host", 5.5)
    assert filled.read("host") == Bucket({}, 5.5)
    assert filled.change("host", HOURLY, None, HOUR)
    assert filled.read("host") == Bucket({HOURLY: HOUR}, 5.5)


def test_nothing_is_lost_when_many_take_at_once(filled: BudgetStore) -> None:
    """RUN-8."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: filled.take(DID, [HOURLY, DAILY], 3), range(100)))
    remaining = {policy: window.remaining for policy, window in filled.read(DID).windows.items()}
    assert remaining == {HOURLY: 4_100, DAILY: 29_700}


@pytest.mark.parametrize("before", [None, Window(3, HOUR_LONG, -2, 1_799_999_999.0)])
@pytest.mark.parametrize("round_", range(3))
def test_an_hour_that_many_begin_at_once_has_no_more_commits_than_one_may_make(
    store: BudgetStore, round_: int, before: Window | None
) -> None:
    """LIMIT-9, RUN-8: the first commits of all, or after an earlier hour, by processes that know nothing yet."""
    gate = Barrier(8)
    if before is not None:
        assert store.change(commits_key("pds.test"), POLICY, None, before)

    def first() -> bool:
        pace = Pace("pds.test", 3, store=store, clock=lambda: 1_800_000_000.0, sleep=lambda _: None)
        gate.wait()
        try:
            with pace.commit(DID, held=True):
                return True
        except RateLimited:
            return False

    with ThreadPoolExecutor(8) as pool:
        made = [future.result() for future in [pool.submit(first) for _ in range(8)]]
    assert sum(made) == 3


def test_a_database_that_does_not_answer_is_not_an_empty_bucket() -> None:
    with MongoClient[dict[str, Any]]("mongodb://127.0.0.1:1/", serverSelectionTimeoutMS=50) as client:
        store = MongoBudgetStore(client["ledger"]["budgets"])
        for call in (
            lambda: store.read(DID),
            lambda: store.take(DID, [HOURLY], 3),
            lambda: store.change(DID, HOURLY, None, HOUR),
            lambda: store.silence(DID, 1.0),
        ):
            with pytest.raises(ServiceUnreachable, match=DID):
                call()
