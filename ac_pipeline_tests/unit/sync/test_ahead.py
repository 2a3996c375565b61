"""What is read of many accounts ahead saves statements, and changes nothing that a run does or says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import Misconfigured, NoCredentials, ServiceUnreachable
from ac_pipeline.media.base import Link
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.planning.ahead import Ahead
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import Verification, verify, verify_accounts
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.unit.sync.home import said
from ac_pipeline_tests.unit.sync.world import World

USERS = 24
MOOD, PAINTING = media_type("mood"), media_type("painting")


def mirrored(users: int = USERS) -> tuple[World, list[Account]]:
    """So many users, with the guest, who have a mood and a painting each, mirrored once."""
    world = World()
    accounts = [*(world.user() for _ in range(users - 1)), world.guest()]
    for account in accounts:
        world.add("painting", account)
        if not account.is_guest:
            world.add("mood", account)
    assert all(report.error is None for report in together(world, accounts).values())
    world.ledger.calls.clear()
    world.documents.calls.clear()
    world.pds.calls.clear()
    return world, accounts


def together(world: World, accounts: list[Account], selection: Selection | None = None) -> dict[str, AccountReport]:
    found = sync_accounts(world.engine, accounts, selection or Selection(), "run-2", workers=2)
    return {account.id: report for account, report in found}


def one_by_one(world: World, accounts: list[Account]) -> dict[str, AccountReport]:
    return {account.id: world.engine.sync(account, Selection(), "run-2") for account in accounts}


def document(world: World, account: Account, type: str) -> str:
    return next(each.id for each in world.documents.stream(account, media_type(type)))


def test_who_is_as_the_last_sync_left_them_costs_no_statement_and_no_lease_of_their_own() -> None:
    """VERIFY-11: only the guest, who owns what names nobody, is looked at alone."""
    world, accounts = mirrored()
    with world.quiet():
        reports = together(world, accounts)
    assert all(report.types["painting"].unchanged == 1 for report in reports.values())
    assert world.ledger.calls.count("lease") == 1
    assert world.ledger.calls.count("checkpoints_of") == world.ledger.calls.count("all_holds") == 1


# ---------------------------------------------------------------------------------------- the same as one after another

Change = Callable[[World, list[Account], int], None]


def _other_client(world: World, accounts: list[Account], place: int) -> None:
    paths = world.pds.records(accounts[place])
    if paths:
        nsid, _, rkey = next(iter(paths)).partition("/")
        write = Write("delete", nsid, rkey, None)
        MemoryPds.apply_writes(world.pds, accounts[place], [write], swap_commit=None)


def _becomes(**fields: object) -> Change:
    def change(world: World, accounts: list[Account], place: int) -> None:
        if not accounts[place].is_guest:
            accounts[place] = replace(accounts[place], **fields)  # type: ignore[arg-type]

    return change


def _forget_rendition(world: World, accounts: list[Account], place: int) -> None:
    item = f"painting:{document(world, accounts[place], 'painting')}"
    world.ledger.entries[item] = replace(world.ledger.entries[item], derived=None)


CHANGES: dict[str, Change] = {
    "an edit": lambda world, accounts, place: world.change(
        "painting", document(world, accounts[place], "painting"), slug="2025.10.16.12.30.45.123"
    ),
    "a removal": lambda world, accounts, place: world.change(
        "painting", document(world, accounts[place], "painting"), nuked=True
    ),
    "a new item": lambda world, accounts, place: world.add("kidlisp", accounts[place], code=f"new{place}") and None,
    "a lost link": lambda world, accounts, place: world.documents.raw(
        PAINTING, document(world, accounts[place], "painting")
    ).pop("atproto", None),
    "another client": _other_client,
    "a pause": lambda world, accounts, place: world.ledger.hold(accounts[place], [PAINTING], "look first"),
    "a pause of what it has not": lambda world, accounts, place: world.ledger.hold(
        accounts[place], [media_type("tape")], "look first"
    ),
    "no password": _becomes(password=None, blocked=NoCredentials("no password")),
    "a deletion": _becomes(pending_deletion=LEAVING),
    "a new key": _becomes(key="renamed"),
    "a lost rendition": _forget_rendition,
    "a lost checkpoint": lambda world, accounts, place: (
        world.ledger.repositories.pop(str(accounts[place].did)) and None
    ),
}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, USERS - 1), st.sampled_from(sorted(CHANGES))), max_size=8))
def test_reports_and_results_are_those_of_one_account_after_another(changes: list[tuple[int, str]]) -> None:
    """VERIFY-11: whatever happened to whom between two runs."""
    ends = []
    for run in (together, one_by_one):
        world, accounts = mirrored()
        accounts = [replace(each, key=f"user{place}") for place, each in enumerate(accounts)]
        done = set()
        for place, name in changes:
            if place not in done:
                done.add(place)
                CHANGES[name](world, accounts, place)
        reports = run(world, accounts)
        places = {account.id: place for place, account in enumerate(accounts)}
        counted = {places[id]: said(report)["types"] for id, report in reports.items()}
        blocked = {places[id]: type(report.blocked) for id, report in reports.items()}
        held = {place: len(world.pds.records(account)) for place, account in enumerate(accounts)}
        states = sorted((entry.type, entry.state, entry.partition) for entry in world.ledger.entries.values())
        ends.append((counted, blocked, held, states))
    assert ends[0] == ends[1]


# ------------------------------------------------------------------------------------------------------- in between


@pytest.mark.parametrize("step", ["checkpoints_of", "all_holds", "load"])
@pytest.mark.parametrize("name", sorted(CHANGES.keys() - {"no password", "a deletion", "a new key"}))
def test_what_happens_while_accounts_are_read_harms_nobody_and_is_done_by_the_next_run(step: str, name: str) -> None:
    """VERIFY-11: between any two of the statements; a pause that came in between finds nothing written after it."""
    world, accounts = mirrored()
    world.ledger.before[step] = lambda: CHANGES[name](world, accounts, 3)
    first = together(world, accounts)
    assert all(report.error is None for report in first.values())
    together(world, accounts)
    with world.quiet():
        whole = {each.id: world.engine.sync(each, Selection(full=True), "run-3") for each in accounts}
    for report in whole.values():
        planned = sum(tally.planned for tally in report.types.values())
        assert planned == sum(tally.unchanged + tally.blocked for tally in report.types.values())


def test_a_sync_of_another_run_in_between_is_answered_for_by_that_run() -> None:
    """WRITE-12: it has written and moved the checkpoint after the accounts were listed."""
    world, accounts = mirrored()

    def another() -> None:
        world.change("mood", document(world, accounts[3], "mood"), mood="other")
        world.engine.sync(accounts[3], Selection(), "another")

    world.ledger.before["all_holds"] = another
    commits = world.pds.count("apply_writes")
    reports = together(world, accounts)
    assert world.pds.count("apply_writes") == commits + 1
    assert reports[accounts[3].id].types["mood"].unchanged == 1


def test_a_closed_gate_ends_the_run_although_nobody_has_work() -> None:
    """REC-6: as it does where each is looked at alone."""
    world, accounts = mirrored()

    def closed() -> None:
        raise Misconfigured("the lexicons break what is published")

    world.engine.gate = closed
    with pytest.raises(Misconfigured):
        together(world, accounts)


@pytest.mark.parametrize("method", ["checkpoints_of", "all_holds", "load"])
def test_where_nothing_can_be_read_ahead_everybody_is_looked_at_alone(method: str) -> None:
    world, accounts = mirrored()
    world.ledger.fail_next(method, ServiceUnreachable("down"))
    with world.quiet():
        reports = together(world, accounts)
    assert all(report.error is None for report in reports.values())
    assert world.ledger.calls.count("lease") == USERS


def test_of_several_who_ask_at_once_the_first_need_not_come_first() -> None:
    """Also where one part ends and the next begins."""
    world, accounts = mirrored(450)
    ahead = Ahead(world.documents, world.ledger, world.pds, accounts, Selection())
    order = [place ^ 1 for place in range(448)]
    assert [place for place in order if ahead.take(accounts[place]) is None] == []
    assert world.ledger.calls.count("checkpoints_of") == 9


def test_what_was_read_a_minute_ago_is_read_again() -> None:
    world, accounts = mirrored()
    now = [0.0]
    ahead = Ahead(world.documents, world.ledger, world.pds, accounts, Selection(), clock=lambda: now[0])
    assert ahead.take(accounts[0]) is not None
    assert ahead.take(accounts[0]) is None, "once"
    now[0] = 61.0
    world.ledger.hold(accounts[1], MEDIA_TYPES, "look first")
    assert ahead.take(accounts[1]) is None
    assert ahead.take(accounts[2]) is not None
    assert world.ledger.calls.count("checkpoints_of") == 2
    assert world.pds.count("list_repositories") == 2


def test_a_heavy_user_and_one_with_many_new_items_do_not_fill_the_memory() -> None:
    """OPS-6: the first is not read ahead at all, and of the others nothing is kept."""
    world, accounts = mirrored()
    did = str(accounts[0].did)
    known = world.ledger.repositories[did]
    world.ledger.repositories[did] = replace(known, counts={**known.counts, "mood": 100_000})
    ahead = Ahead(world.documents, world.ledger, world.pds, accounts, Selection())
    assert ahead.take(accounts[0]) is None
    assert ahead.take(accounts[1]) is not None
    world.moods(accounts[1], 10_001)
    world.ledger.calls.clear()
    ahead = Ahead(world.documents, world.ledger, world.pds, accounts, Selection())
    assert [ahead.take(account) for account in accounts[:3]] == [None, None, None]
    assert world.ledger.calls == ["checkpoints_of", "all_holds"]


def test_a_link_into_another_repository_is_not_taken_for_ours() -> None:
    """LINK-3: the hash of the checkpoint is of the links as well."""
    world, accounts = mirrored()
    id = document(world, accounts[2], "mood")
    link = world.link("mood", id)
    assert isinstance(link, Link)
    world.documents.raw(MOOD, id)["atproto"]["did"] = "did:plc:other"
    together(world, accounts)
    assert world.link("mood", id) == link


# ------------------------------------------------------------------------------------------------- whoever is verified


def verified(world: World, accounts: list[Account]) -> list[Verification]:
    return list(verify_accounts(world.engine, accounts, Selection(), workers=2))


def test_who_is_as_the_last_sync_left_them_is_verified_without_a_statement_of_their_own() -> None:
    """VERIFY-11: every repository is read whole, whatever its revision."""
    world, accounts = mirrored()
    found = verified(world, accounts)
    assert all(each.complete and each.verified for each in found)
    assert world.ledger.calls.count("holds") == 1  # the guest's
    assert [call.method for call in world.pds.calls].count("read_repository") == len(accounts)


@pytest.mark.parametrize("change", ["another client", "an edit", "a removal", "a new item"])
def test_a_verification_finds_the_same_whether_it_reads_ahead_or_not(change: str) -> None:
    world, accounts = mirrored()
    CHANGES[change](world, accounts, 3)
    ahead = {each.user: each.to_json() for each in verified(world, accounts) for each in each.items}
    alone = {
        each.user: each.to_json() for account in accounts for each in verify(world.engine, account, Selection()).items
    }
    assert ahead == alone
    assert len(ahead) == 1


def test_what_a_sync_writes_while_others_are_read_ahead_is_no_finding() -> None:
    """Its documents were read before, its repository after: all is read again before anything is said."""
    world, accounts = mirrored()
    ahead = Ahead(world.documents, world.ledger, world.pds, accounts, Selection())
    assert ahead.take(accounts[0]) is not None  # so that all have been read
    world.add("mood", accounts[1])
    world.engine.sync(accounts[1], Selection(), "run-3")
    found = verify(replace(world.engine, ahead=ahead), accounts[1], Selection())
    assert found.complete
    assert found.verified == 3
