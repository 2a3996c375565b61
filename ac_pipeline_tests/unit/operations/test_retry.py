"""Which failed items are run again, and as what."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, NoCredentials
from ac_pipeline.items import LedgerEntry, Stage, State
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.declare import Declaration, Work
from ac_pipeline.operations.inspection.items import run_items
from ac_pipeline.operations.parameters import item_name
from ac_pipeline.operations.sync import FailedItems, RetryParameters, group_by_account, in_order, narrowed, run_retry
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection

ADA, BEA = Account("auth0|1", "ada"), Account("auth0|2", "bea")
MOOD = media_type("mood")


def failed(type_: str, document: str, owner: str = ADA.id, code: str | None = None) -> LedgerEntry:
    item = f"{type_}:{document}"
    return LedgerEntry(item, type_, document, owner, "key", State.QUARANTINED, Stage.RENDITION, code=code)


ENTRIES = [
    failed("painting", "1", code="abc"),
    failed("painting", "2", code="ABC"),
    failed("mood", "3"),
    failed("painting", "4", BEA.id),
    failed("tape", "5", "auth0|gone"),
]


def test_each_account_has_one_turn_about_exactly_its_failed_items() -> None:
    """OPS-3, PLAN-2."""
    plan = group_by_account(ENTRIES, [BEA, ADA], FailedItems(Selection(since=7)))
    assert [turn.account.key for turn in plan.accounts] == ["ada", "bea"]
    ada, bea = (turn.selection for turn in plan.accounts)
    assert ada.items == {("painting", "1"), ("painting", "2"), ("mood", "3")}
    assert bea.items == {("painting", "4")}
    assert ([media.name for media in ada.types], [media.name for media in bea.types]) == (
        ["painting", "mood"],
        ["painting"],
    )
    assert all((each.retry, each.since, each.judges_orphans) == (True, 7, False) for each in (ada, bea))
    assert plan.accounts[0].counts == {"painting": 2, "mood": 1}
    assert plan.items == 4
    assert plan.entries == tuple(ENTRIES[:4])
    assert plan.ownerless == ("tape:5",)


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        ({("painting", "abc")}, ["painting:1"]),
        ({("painting", "ABC")}, ["painting:2"]),
        ({("painting", "1"), ("mood", "3")}, ["painting:1", "mood:3"]),
        ({("mood", "abc")}, []),
        (set(), []),
        (None, [entry.item for entry in ENTRIES]),
    ],
)
def test_items_are_named_by_code_or_id_of_their_type(named: set[tuple[str, str]] | None, chosen: list[str]) -> None:
    """SRC-10: codes that differ only in case are two items."""
    wanted = FailedItems(Selection(items=None if named is None else frozenset(named)))
    assert [entry.item for entry in narrowed(ENTRIES, wanted)] == chosen


def test_an_item_that_was_named_and_has_not_failed_is_told() -> None:
    wanted = FailedItems(Selection(items=frozenset({("painting", "abc"), ("mood", "well")})))
    assert group_by_account(list(narrowed(ENTRIES, wanted)), [ADA], wanted).unknown == ("mood:well",)


@pytest.mark.parametrize(("limit", "items"), [(1, 1), (4, 4), (5, 5), (6, 5), (None, 5)])
def test_a_limit_counts_the_items_of_all_users(limit: int | None, items: int) -> None:
    assert len(list(narrowed(ENTRIES, FailedItems(limit=limit)))) == items


@pytest.mark.parametrize("each", [1, 2, 9])
def test_a_limit_of_each_counts_the_items_of_one_user_and_type(each: int) -> None:
    """PLAN-2: as in every other command."""
    found = Counter((entry.account, entry.type) for entry in narrowed(ENTRIES, FailedItems(Selection(limit=each))))
    all_of_them = Counter((entry.account, entry.type) for entry in ENTRIES)
    assert found == {cell: min(number, each) for cell, number in all_of_them.items()}


def test_the_record_of_a_lost_document_is_dealt_with_in_its_turn() -> None:
    """DEL-6: an item without a document is reached by no selection of documents."""
    plan = group_by_account(ENTRIES, [ADA, BEA], FailedItems(), lost=frozenset({"mood:3"}))
    assert [turn.selection.judges_orphans for turn in plan.accounts] == [True, False]


@pytest.mark.parametrize("text", ["painting", "painting:", "poem:abc", ":abc", ""])
def test_what_is_no_item_is_refused_with_the_form_it_should_have(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"write TYPE:CODE or TYPE:ID with one of painting, mood"):
        item_name(text)


def test_a_type_is_in_order_when_a_dry_run_finds_nothing_to_do_and_nothing_left_out() -> None:
    def report(note: str | None = None, blocked: NoCredentials | None = None, **counts: int) -> AccountReport:
        made = AccountReport("ada", blocked=blocked, notes=[note] if note else [])
        for name, count in {"unchanged": 2, **counts}.items():
            setattr(made.tally("mood"), name, count)
        made.tally("painting").quarantined = 1
        return made

    assert in_order(report(), MOOD)
    assert in_order(report(warnings=1, withdrawn=3), MOOD)
    for count in ("created", "updated", "deleted", "deferred", "quarantined", "blocked", "healed", "pending"):
        assert not in_order(report(**{count: 1}), MOOD)
    assert not in_order(report(duplicates_removed=1), MOOD)
    assert not in_order(report(note="11 records have no document"), MOOD)
    assert not in_order(report(blocked=NoCredentials("no password")), MOOD)


def test_a_dry_run_lists_the_items_and_runs_nothing() -> None:
    """PLAN-1."""
    accounts = SimpleNamespace(all=lambda: [ADA, BEA])
    ledger = SimpleNamespace(find=lambda **_: iter(ENTRIES))
    guard = SimpleNamespace(check_platform=lambda _: None)
    pipeline: Any = SimpleNamespace(accounts=accounts, ledger=ledger, safeguard=guard)
    said: list[str] = []
    work = Work(pipeline, "run", lambda *_: None, said.append)
    report = run_retry(work, RetryParameters(dry_run=True))
    assert report.headline == "4 items of 2 users would be run again. Nothing was done."
    assert [row["item"] for row in report.tables[0]] == [entry.item for entry in ENTRIES[:4]]
    assert "tape:5" in said[0]


@pytest.mark.parametrize("operation", [run_retry, run_items], ids=lambda each: each.command)
def test_an_unknown_class_of_error_is_refused_with_those_there_are(operation: Declaration[Any]) -> None:
    assert operation.parse({"error_class": "source-missing"}).error_class == "source-missing"
    assert not operation.parse({"error_class": ""}).error_class
    with pytest.raises(Misconfigured, match=r"'source-mising' is none of .*source-missing, .*wrong-password"):
        operation.parse({"error_class": "source-mising"})
