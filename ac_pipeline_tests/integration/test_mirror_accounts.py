"""Accounts in trouble on a real PDS: each is blocked with the server's own reason, and all others go on."""

from __future__ import annotations

import json
import logging

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.items import State
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import Slice


def deactivate(slice_: Slice, account: Account) -> None:
    slice_.call(account, "com.atproto.server.deactivateAccount", {})


def take_down(slice_: Slice, account: Account) -> None:
    subject = {"$type": "com.atproto.admin.defs#repoRef", "did": account.did}
    body = {"subject": subject, "takedown": {"applied": True, "ref": "test"}}
    slice_.pds.admin("com.atproto.admin.updateSubjectStatus", body)


def store_another_password(slice_: Slice, account: Account) -> None:
    change = {"$set": {"atproto.password": "not-the-password"}}
    slice_.database["users"].update_one({"_id": account.id}, change)


def forget_password(slice_: Slice, account: Account) -> None:
    slice_.database["users"].update_one({"_id": account.id}, {"$unset": {"atproto.password": ""}})


def test_accounts_in_trouble_are_blocked_with_a_reason_and_the_others_are_mirrored(
    slice_: Slice, caplog: pytest.LogCaptureFixture
) -> None:
    """ACCT-1, ACCT-2, ACCT-5, VERIFY-1: no item fails for its account; nobody reads a password anywhere."""
    caplog.set_level(logging.DEBUG)
    trouble = {
        "deactivated": (deactivate, "account-inactive"),
        "taken-down": (take_down, "account-inactive"),
        "wrong-password": (store_another_password, "wrong-password"),
        "no-password": (forget_password, "no-credentials"),
    }
    made = {name: slice_.user(name) for name in (*trouble, "fine", "fine-too")}
    documents = {name: slice_.add("mood", user, mood="fine") for name, user in made.items()}
    for name, (make, _) in trouble.items():
        make(slice_, made[name])
    accounts = [slice_.account(user.id) for user in made.values()]
    reports: dict[str, AccountReport] = {
        report.user: report
        for _, report in sync_accounts(slice_.pipeline.engine, accounts, Selection(), "test-run", workers=3)
    }
    for name, (_, code) in trouble.items():
        report = reports[name]
        assert report.blocked is not None
        assert report.blocked.code == code
        assert (report.types["mood"].blocked, report.types["mood"].planned) == (1, 1)
        assert (report.failures, report.run_again) == ([], False)
        assert slice_.entry("mood", documents[name]).state is State.BLOCKED
    assert [reports[name].types["mood"].created for name in ("fine", "fine-too")] == [1, 1]
    everything = slice_.everything()
    shown = [
        json.dumps(SyncReport("run", list(reports.values())).to_json()),
        repr([entries for name, entries in everything.items() if name.endswith((".items", ".hosts", ".leases"))]),
        caplog.text,
    ]
    secrets = [user.password for user in made.values() if user.password] + ["not-the-password"]
    assert len(secrets) == 7
    assert not [secret for secret in secrets for text in shown if secret in text]


def test_a_blocked_account_is_picked_up_once_its_password_is_right(slice_: Slice) -> None:
    """ACCT-1: by itself, with everything that waited."""
    user = slice_.user("ada")
    document = slice_.add("mood", user, mood="fine")
    store_another_password(slice_, user)
    assert slice_.sync(slice_.account(user.id)).types["mood"].blocked == 1
    slice_.database["users"].update_one({"_id": user.id}, {"$set": {"atproto.password": user.password}})
    assert slice_.sync(slice_.account(user.id)).types["mood"].created == 1
    assert slice_.entry("mood", document).state is State.WRITTEN


def test_another_handle_on_the_pds_changes_nothing(slice_: Slice) -> None:
    """ACCT-3: neither does a new name on the platform: identity is the id and the DID."""
    user = slice_.user("ada")
    slice_.add("mood", user, mood="fine")
    slice_.sync(user)
    new = f"n{str(user.did)[-10:]}.test"
    slice_.call(user, "com.atproto.identity.updateHandle", {"handle": new})
    slice_.database["@handles"].update_one({"_id": user.id}, {"$set": {"handle": "ada-renamed"}})
    slice_.database["users"].update_one({"_id": user.id}, {"$set": {"atproto.handle": new}})
    renamed = slice_.account(user.id)
    assert (renamed.key, renamed.pds_handle) == ("ada-renamed", new)
    report = slice_.sync(renamed)
    assert report.types["mood"].unchanged == report.types["mood"].planned == 1
