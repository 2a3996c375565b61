"""The contract of the receipts, on the in-memory ones and on MongoDB."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ac_pipeline.items import Finding
from ac_pipeline.mongo.ledger.receipts import Aspect, MongoReceipts, Part, Receipt, Total
from ac_pipeline_tests.memory_receipts import MemoryReceipts

NOW = datetime(2026, 1, 2, 3, 4, 5, 6_000, tzinfo=UTC)
URI = "at://did:plc:ada/computer.aesthetic.mood/1"
MISSING = Finding("mood:1", "ada", "missing", "new", "sync writes it", (URI,))
TYPES = ("painting", "mood", "piece", "kidlisp", "tape")


@pytest.fixture(params=["memory", "mongo"])
def receipts(request: pytest.FixtureRequest) -> Any:
    return MemoryReceipts() if request.param == "memory" else MongoReceipts(request.getfixturevalue("mongo_database"))


def receipt(user: str, *, at: datetime = NOW, blocked: str | None = None, **parts: Part) -> Receipt:
    """`mood_records=Part(...)` and the like."""
    cells = {(name.split("_")[0], Aspect(name.split("_")[1])): part for name, part in parts.items()}
    return Receipt(f"auth0|{user}", user, f"did:plc:{user}", at, "run-1", cells, blocked)


def test_without_receipts_nobody_is_verified(receipts: Any) -> None:
    assert receipts.totals(TYPES)["mood", Aspect.RECORDS] == Total()
    assert list(receipts.unsound(TYPES)) == []


def test_what_was_found_of_all_users_adds_up(receipts: Any) -> None:
    receipts.save(receipt("ada", mood_records=Part(3, 2, {"missing": 1}, 0, (MISSING,)), tape_blobs=Part(4, 4)))
    receipts.save(receipt("bea", at=NOW - timedelta(hours=1), mood_records=Part(5, 5, warnings=2)))
    totals = receipts.totals(TYPES)
    assert totals["mood", Aspect.RECORDS] == Total(2, 8, 7, 1, 2, NOW - timedelta(hours=1))
    assert totals["tape", Aspect.BLOBS] == Total(1, 4, 4, 0, 0, NOW)
    assert totals["tape", Aspect.RECORDS] == Total()


def test_what_is_wrong_is_listed_with_its_user_and_nothing_else_is(receipts: Any) -> None:
    """VERIFY-2, VERIFY-12."""
    part = Part(3, 2, {"missing": 1}, 0, (MISSING,))
    receipts.save(receipt("cyd", mood_links=Part(1, 1)))
    receipts.save(receipt("bea", mood_records=part, mood_links=Part(3, 3), tape_records=part))
    receipts.save(receipt("ada", mood_records=part))
    found = list(receipts.unsound({"mood"}))
    assert [(each.user, each.type, each.aspect) for each in found] == [
        ("ada", "mood", Aspect.RECORDS),
        ("bea", "mood", Aspect.RECORDS),
    ]
    assert (found[0].did, found[0].at, found[0].part) == ("did:plc:ada", NOW, part)


def test_a_later_receipt_replaces_its_own_parts_and_leaves_the_others(receipts: Any) -> None:
    """A verification without blobs says nothing new of blobs."""
    wrong = Part(1, 0, {"missing": 1}, 0, (MISSING,))
    receipts.save(receipt("ada", mood_records=wrong, tape_blobs=wrong))
    receipts.save(receipt("ada", at=NOW + timedelta(days=7), mood_records=Part(1, 1)))
    assert [(each.type, each.at) for each in receipts.unsound(TYPES)] == [("tape", NOW)]
    assert receipts.totals(TYPES)["mood", Aspect.RECORDS].sound == 1


def test_what_was_found_of_an_account_stays_while_it_is_blocked(receipts: Any) -> None:
    """SEEN-1: what was wrong does not become right by being out of reach."""
    receipts.save(receipt("ada", mood_records=Part(1, 0, {"missing": 1}, 0, (MISSING,))))
    before = receipts.totals(TYPES), list(receipts.unsound(TYPES))
    receipts.save(receipt("ada", blocked="account-inactive"))
    assert (receipts.totals(TYPES), list(receipts.unsound(TYPES))) == before
    assert receipts.totals(TYPES)["mood", Aspect.RECORDS].unsound == 1


def test_accounts_that_are_gone_are_forgotten(receipts: Any) -> None:
    for user in ("ada", "bea"):
        receipts.save(receipt(user, mood_records=Part(1, 1)))
    receipts.forget({"auth0|bea"})
    assert receipts.totals(TYPES)["mood", Aspect.RECORDS].users == 1
