"""Accounts that cannot be used, and what nobody may ever read in what is kept of them."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from typing import Literal

import pytest

from ac_pipeline.errors import (
    AccountDeleted,
    AccountInactive,
    Blocked,
    LeaseHeld,
    NoCredentials,
    RateLimited,
    ServerFailed,
    ServiceUnreachable,
    WrongPassword,
)
from ac_pipeline.items import State
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.report import SyncReport
from ac_pipeline.sync.selection import Selection, planned
from ac_pipeline_tests.unit.sync.world import World, cost, totals


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("lacking", ["did", "password"])
def test_a_user_without_credentials_is_blocked_and_picked_up_once_they_appear(world: World, lacking: str) -> None:
    """ACCT-1: no request, no item error; eligible items wait, the others do not count."""
    user = world.user()
    document = world.add("mood", user)
    world.add("mood", user, deleted=True)
    reason = NoCredentials(f"no {lacking}")
    blocked = replace(user, blocked=reason, **{lacking: None})
    report = world.sync(blocked)
    assert report.blocked is reason
    assert (totals(report), report.failures, report.run_again) == ({"blocked": 1}, [], False)
    assert world.pds.calls == []
    assert world.entry("mood", document).state is State.BLOCKED
    with world.quiet():
        world.sync(blocked)
    assert totals(world.sync(user)) == {"created": 1}


@pytest.mark.parametrize("status", ["deactivated", "takendown", "suspended"])
def test_an_inactive_account_is_blocked_with_the_servers_reason(
    world: World, status: Literal["deactivated", "takendown", "suspended"]
) -> None:
    """ACCT-2."""
    user = world.user()
    world.moods(user, 3)
    world.pds.set_status(user, status)
    report = world.sync(user)
    assert isinstance(report.blocked, AccountInactive)
    assert status in report.blocked.message
    assert totals(report) == {"blocked": 3}
    world.pds.set_status(user, None)
    assert totals(world.sync(user)) == {"created": 3}


def test_a_wrong_password_blocks_what_needs_writing_only(world: World) -> None:
    """ACCT-2: what is right already is right without a password."""
    user = world.user()
    old = world.add("mood", user)
    world.sync(user)
    new = world.add("mood", user, mood="new")
    report = world.sync(replace(user, password="wrong"))
    assert isinstance(report.blocked, WrongPassword)
    assert totals(report) == {"unchanged": 1, "blocked": 1}
    assert world.entry("mood", old).state is State.WRITTEN
    assert world.entry("mood", new).state is State.BLOCKED
    assert totals(world.sync(user)) == {"unchanged": 1, "created": 1}


def test_an_account_that_is_blocked_in_the_middle_keeps_what_was_written(world: World) -> None:
    """ACCT-2, VERIFY-1: the first batch is linked, the rest is blocked and comes with the next run."""
    user = world.user()
    documents = world.moods(user, 500)
    world.pds.fail("apply_writes", AccountInactive("taken down", status=401), call=2)
    report = world.sync(user)
    assert totals(report) == {"created": 200, "blocked": 300}
    assert isinstance(report.blocked, AccountInactive)
    assert [world.link("mood", document) is not None for document in documents] == [True] * 200 + [False] * 300
    assert totals(world.sync(user)) == {"unchanged": 200, "created": 300}


def test_an_account_that_is_blocked_while_uploading_is_blocked_once(world: World) -> None:
    """ACCT-2, LIMIT-7: one refused sign-in, not one for each upload."""
    user = world.user()
    for number in range(20):
        world.add("painting", user, code=f"p{number:03}", slug=f"2025.10.15.12.30.45.{number:03}")
    world.add("mood", user)
    report = world.sync(replace(user, password="wrong"))
    assert isinstance(report.blocked, WrongPassword)
    assert (report.types["painting"].blocked, report.types["mood"].blocked) == (20, 1)
    assert world.pds.count("upload_blob") + world.pds.count("apply_writes") == 1


@pytest.mark.parametrize("how", ["no password", "refused by the PDS", "paused"])
def test_a_removal_that_a_blocked_account_holds_up_is_seen_to_wait(world: World, how: str) -> None:
    """DEL-6: the record is still public, and its age is known."""
    user = world.user()
    gone, kept = world.moods(user, 2)
    world.sync(user)
    world.change("mood", gone, deleted=True)
    blocked, since = user, world.clock.now
    if how == "no password":
        blocked = replace(user, password=None, blocked=NoCredentials("Mongo holds no password"))
    elif how == "paused":
        world.ledger.hold(user, [MOOD], "an operator looks at it")
    else:
        world.pds.set_status(user, "deactivated")
    report = world.sync(blocked)
    assert report.types["mood"].blocked == report.types["mood"].planned == 1
    assert (world.entry("mood", gone).state, world.entry("mood", gone).withdrawn_at) == (State.BLOCKED, since)
    world.clock.advance(3_600)
    world.sync(blocked)
    assert world.entry("mood", gone).withdrawn_at == since
    assert world.entry("mood", kept).withdrawn_at is None
    world.ledger.release(user, [MOOD])
    world.pds.set_status(user, None)
    assert totals(world.sync(user)) == {"deleted": 1, "unchanged": 1}
    assert world.entry("mood", gone).withdrawn_at is None


def test_work_of_a_deleted_account_is_not_touched(world: World) -> None:
    """DEL-9: neither written nor, while the platform purges the account itself, removed."""
    user = world.user()
    world.moods(user, 2)
    world.sync(user)
    report = world.sync(replace(user, blocked=AccountDeleted("scheduled for deletion")))
    assert isinstance(report.blocked, AccountDeleted)
    assert (report.types["mood"].withdrawn, report.types["mood"].planned) == (2, 0)
    assert len(world.records(user, "mood")) == 2


def test_one_account_in_trouble_does_not_stop_the_others(world: World) -> None:
    """ACCT-2, RUN-1: four of six end well, each in its own report."""
    users = [world.user(f"user{number}") for number in range(6)]
    for user in users:
        world.moods(user, 3)
    world.pds.set_status(users[1], "takendown")
    accounts = [*users[:4], replace(users[4], password="wrong"), users[5]]
    reports = {report.user: report for _, report in sync_accounts(world.engine, accounts, Selection(), "run", 3)}
    assert {key for key, report in reports.items() if report.blocked} == {"user1", "user4"}
    assert sum(report.types["mood"].created for report in reports.values()) == 12


def test_a_repository_that_another_run_writes_to_is_left_to_it(world: World) -> None:
    """WRITE-12: one writer per DID; the account is to be run again."""
    user = world.user()
    world.moods(user, 2)
    world.ledger.leases[str(user.did)] = (object(), world.clock.now.replace(year=2030))
    report = world.sync(user)
    assert isinstance(report.error, LeaseHeld)
    assert world.pds.calls == []
    assert world.records(user, "mood") == {}


@pytest.mark.parametrize("change", [{"pds_handle": "new.test"}, {"handle": "new"}, {"code": "ac26new"}])
def test_another_handle_changes_nothing(world: World, change: dict[str, str]) -> None:
    """ACCT-3: identity is the id and the DID."""
    user = world.user()
    for media in MEDIA_TYPES:
        world.add(media.name, user)
    world.sync(user)
    with world.quiet():
        report = world.sync(replace(user, **change))  # type: ignore[arg-type]
    assert all(tally.unchanged == tally.planned == 1 for tally in report.types.values())


def test_a_renamed_user_finds_everything_unchanged_under_the_new_key(world: World) -> None:
    """ACCT-3: only the ledger learns the new partition key."""
    user = world.user()
    document = world.add("mood", user)
    world.sync(user)
    assert totals(world.sync(replace(user, key="renamed"))) == {"unchanged": 1}
    assert world.entry("mood", document).partition == "renamed"
    assert world.pds.count("apply_writes") == 1


def test_the_guest_account_is_one_more_account(world: World) -> None:
    """ACCT-4, SRC-4: guests' work of the four anonymous types, tapes included, in each form of no owner."""
    guest = world.guest()
    user = world.user()
    world.add("painting", user)
    for number, owner in enumerate(({}, {"user": None}, {"user": ""})):
        for type in ("painting", "piece", "kidlisp", "tape"):
            world.add(type, guest, code=f"g{number:03}", slug=f"abcdefg{number}", **owner)
    report = world.sync(guest)
    assert report.user == "art-guest"
    created = {name: tally.created for name, tally in report.types.items()}
    assert created == {"painting": 3, "mood": 0, "piece": 3, "kidlisp": 3, "tape": 3}
    assert totals(world.sync(user), "painting")["created"] == 1


def test_no_password_or_token_is_in_anything_that_is_kept_or_shown(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """ACCT-5: report, plan, cost, ledger, log and the texts of errors."""
    caplog.set_level(logging.DEBUG)
    user = world.user()
    world.moods(user, 3)
    secret = "correct-horse-battery-staple"
    wrong = replace(user, password=secret)
    world.add("mood", user, mood="x" * 6000)
    plan, foreseen = world.survey(wrong)
    world.pds.fail("read_repository", ServerFailed("502", status=502))
    reports = [foreseen, world.sync(wrong), world.sync(wrong), world.sync(user)]
    shown = [
        json.dumps(SyncReport("run", reports).to_json()),
        json.dumps([operation.to_json() for operation in planned([plan])]),
        json.dumps(cost(plan, world.clock.now).to_json()),
        repr(plan),
        repr(reports),
        repr([asdict(entry) for entry in world.ledger.entries.values()]),
        caplog.text,
    ]
    for text in shown:
        assert secret not in text
        assert str(user.password) not in text


def test_a_ledger_that_does_not_answer_ends_one_account_and_not_the_run(world: World) -> None:
    """RUN-1, WRITE-13: the report tells; links and entries are healed by the next run."""
    user = world.user()
    world.moods(user, 300)
    world.ledger.fail_next("save", *[ServiceUnreachable("MongoDB does not answer")] * 2)
    report = world.sync(user)
    assert isinstance(report.error, ServiceUnreachable)
    assert totals(report) == {"created": 200, "deferred": 100}
    again = world.sync(user)
    assert totals(again) == {"unchanged": 200, "created": 100}
    assert len(world.ledger.entries) == 300


def test_what_is_blocked_says_why_in_the_ledger(world: World) -> None:
    """OPS-2: class, message, hash of what was to be written, and the number of attempts."""
    user = world.user()
    document = world.add("mood", user)
    world.sync(replace(user, blocked=Blocked("for a reason", status=403, answer="Forbidden")))
    entry = world.entry("mood", document)
    assert entry.failure is not None
    assert (entry.failure.error_class, entry.failure.status, entry.failure.answer) == ("blocked", 403, "Forbidden")
    assert entry.failure.payload_hash == entry.fingerprint
    assert (entry.attempts, entry.history[-1].run_id) == (1, "run-1")


@pytest.mark.parametrize("how", ["no credentials", "deactivated", "wrong password"])
def test_what_was_wrong_with_an_item_stays_wrong_while_its_account_is_blocked(world: World, how: str) -> None:
    """SEEN-1: no check of quarantined items turns green; an item whose document changed meanwhile waits."""
    user = world.user()
    faulty, corrected, fine = (world.add("mood", user, mood=mood) for mood in ("x" * 6000, "y" * 6000, "fine"))
    assert totals(world.sync(user)) == {"quarantined": 2, "created": 1}
    before = world.entry("mood", faulty)
    world.change("mood", corrected, mood="short")
    world.change("mood", fine, mood="finer")
    if how == "deactivated":
        world.pds.set_status(user, "deactivated")
    blocked = {
        "no credentials": replace(user, password=None, blocked=NoCredentials("no password")),
        "deactivated": user,
        "wrong password": replace(user, password="wrong"),
    }[how]
    report = world.sync(blocked)
    assert report.blocked is not None
    assert totals(report) == {"quarantined": 1, "blocked": 2}
    assert world.entry("mood", faulty) == before
    assert (world.entry("mood", corrected).state, world.entry("mood", fine).state) == (State.BLOCKED, State.BLOCKED)
    world.pds.set_status(user, None)
    assert totals(world.sync(user)) == {"quarantined": 1, "created": 1, "updated": 1}


def test_a_deferred_item_of_a_blocked_account_is_known_to_have_waited_before(world: World) -> None:
    """SEEN-1."""
    user = world.user()
    document = world.add("mood", user)
    world.pds.fail("apply_writes", RateLimited("spent", retry_after=3600))
    assert totals(world.sync(user)) == {"deferred": 1}
    until = world.entry("mood", document).deferred_until
    for _ in range(2):
        world.sync(replace(user, blocked=NoCredentials("no password")))
    entry = world.entry("mood", document)
    assert (entry.state, entry.deferred_until) == (State.BLOCKED, until)
    world.sync(user)
    assert world.entry("mood", document).deferred_until is None
