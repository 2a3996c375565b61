"""Plans in MongoDB: chunks, replacements, and how many are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ac_pipeline.errors import Misconfigured
from ac_pipeline.items import PlannedOperation
from ac_pipeline.mongo.ledger.plans import KEPT, LINES, MongoPlans, SavedPlan

SELECTION = {"accounts": None, "types": ["mood"], "since": None, "until": None, "items": None, "limit": None}


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def save(plans: MongoPlans, name: str, number: int) -> SavedPlan:
    draft = plans.draft()
    for n in range(number):
        draft.add(PlannedOperation(f"mood:{n:06d}", "ada", "create", "new", f"{n:06d}", "bafy", account="auth0|ada"))
    counts = {"create": number}
    return plans.save(
        draft, hash=name.ljust(64, "0"), selection=SELECTION, cost={}, counts=counts, accounts=("auth0|ada",)
    )


@pytest.mark.parametrize(("number", "chunks"), [(1, 1), (LINES, 1), (LINES + 1, 2)])
def test_operations_come_back_in_order_from_chunks_of_bounded_length(mongo: Any, number: int, chunks: int) -> None:
    """OPS-6."""
    plans = MongoPlans(mongo)
    save(plans, "ab", number)
    found = plans.find("ab000000")
    assert [line.rkey for line in plans.lines(found)] == [f"{n:06d}" for n in range(number)]
    assert (found.operations, found.users) == (number, 1)
    assert mongo["plan_operations"].count_documents({}) == chunks
    assert max(len(chunk["lines"]) for chunk in mongo["plan_operations"].find()) <= LINES


def test_a_plan_is_found_by_a_prefix_that_fits_one_alone(mongo: Any) -> None:
    plans = MongoPlans(mongo)
    save(plans, "abcdef01a", 1)
    save(plans, "abcdef01b", 1)
    assert plans.find("abcdef01b").hash.startswith("abcdef01b")
    for wrong in ("abcdef01", "abcdef0", "abcdef02", "abcdef01$", "ABCDEF01a", ""):
        with pytest.raises(Misconfigured):
            plans.find(wrong)


@pytest.mark.parametrize(("made", "kept"), [(KEPT, KEPT), (KEPT + 1, KEPT)])
def test_the_last_fifty_are_kept(mongo: Any, made: int, kept: int) -> None:
    clock = Clock()
    plans = MongoPlans(mongo, now=clock)
    for number in range(made):
        clock.now += timedelta(hours=1)
        save(plans, f"{number:08x}", 1)
    listed = plans.list()
    assert [plan.hash[:8] for plan in listed] == [f"{number:08x}" for number in reversed(range(made - kept, made))]
    assert len(plans.list(3)) == 3
    clock.now += timedelta(days=2)
    save(plans, "ff", 1)
    assert mongo["plan_operations"].count_documents({}) == KEPT, "operations of dropped plans go a day later"


def test_a_plan_whose_operations_are_gone_is_not_carried_out_in_part(mongo: Any) -> None:
    plans = MongoPlans(mongo)
    saved = save(plans, "ab", LINES + 1)
    mongo["plan_operations"].delete_one({"number": 1})
    with pytest.raises(Misconfigured, match="make a new plan"):
        list(plans.lines(saved))
