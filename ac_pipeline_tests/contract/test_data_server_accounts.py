"""The contract of the port `DataServer`: accounts and repositories. Held in memory and on a real PDS."""

from __future__ import annotations

import traceback
from dataclasses import replace

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.errors import (
    AccountInactive,
    AccountUnknown,
    NoCredentials,
    PipelineError,
    WrongPassword,
)
from ac_pipeline.sync.ports import DataServer
from ac_pipeline_tests.contract.data_servers import NOWHERE, PNG, World, create, did_of


def refused(account: Account, server: DataServer, expected: type[PipelineError]) -> None:
    with pytest.raises(expected) as caught:
        server.apply_writes(account, [create("x")], swap_commit=None)
    with pytest.raises(expected):
        server.upload_blob(account, PNG, "image/png")
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value.answer)
    assert account.password is None or account.password not in text


def test_a_wrong_password_blocks_the_account_and_no_other(world: World, account: Account) -> None:
    """ACCT-2, ACCT-5"""
    refused(replace(account, password="not-the-one-it-has"), world.server, WrongPassword)

    assert world.server.apply_writes(world.create_account(), [create("a")], swap_commit=None)


def test_an_account_that_is_not_there_is_not_an_empty_repository(server: DataServer, account: Account) -> None:
    """ACCT-2, DEL-5: a PDS does not say which of DID and password is wrong."""
    refused(replace(account, did=NOWHERE), server, WrongPassword)
    with pytest.raises(AccountUnknown):
        server.read_repository(NOWHERE)
    with pytest.raises(AccountUnknown):
        server.has_blob(NOWHERE, blob_cid(PNG))
    with pytest.raises(AccountUnknown):
        server.latest_commit(NOWHERE)


@pytest.mark.parametrize("lacking", ["did", "password"])
def test_an_account_without_credentials_is_not_signed_in(server: DataServer, account: Account, lacking: str) -> None:
    """ACCT-1"""
    with pytest.raises(NoCredentials):
        server.apply_writes(replace(account, **{lacking: None}), [create("x")], swap_commit=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize("state", ["deactivated", "takendown"])
def test_an_inactive_account_is_blocked_with_the_server_s_reason(world: World, state: str, signed_in: bool) -> None:
    """ACCT-2: whether it was signed in before or not; its repository is unreadable, not empty."""
    account = world.create_account()
    if signed_in:
        world.server.apply_writes(account, [create("a")], swap_commit=None)
    (world.deactivate if state == "deactivated" else world.take_down)(account)

    with pytest.raises(AccountInactive) as caught:
        world.server.apply_writes(account, [create("b")], swap_commit=None)
    assert "eactivat" in str(caught.value.answer) or "ake" in str(caught.value.answer)
    with pytest.raises(AccountInactive):
        world.server.read_repository(did_of(account))
    with pytest.raises(AccountInactive):
        world.server.has_blob(did_of(account), blob_cid(PNG))
    with pytest.raises(AccountInactive):
        world.server.latest_commit(did_of(account))
    (status,) = [status for status in world.server.list_repositories() if status.did == account.did]
    assert (status.active, status.status) == (False, state)


def test_the_latest_commit_is_that_of_the_repository_and_of_the_last_answer(
    server: DataServer, account: Account
) -> None:
    """VERIFY-9, VERIFY-11: one small request tells whether a repository has to be read."""
    fresh, before = server.latest_commit(did_of(account)), server.read_repository(did_of(account))
    assert (fresh.did, fresh.head, fresh.rev) == (account.did, before.commit, before.rev)
    commit = server.apply_writes(account, [create("a")], swap_commit=None)

    latest = server.latest_commit(did_of(account))

    assert (latest.head, latest.rev, latest.active, latest.status) == (commit.cid, commit.rev, True, None)
    assert latest.rev > fresh.rev


def test_the_list_of_repositories_names_every_head(server: DataServer, world: World) -> None:
    """VERIFY-9, VERIFY-11: what did not change need not be read."""
    accounts = [world.create_account() for _ in range(3)]
    commit = server.apply_writes(accounts[0], [create("a")], swap_commit=None)

    listed = {status.did: status for status in server.list_repositories()}

    assert {did_of(account) for account in accounts} <= listed.keys()
    first = listed[did_of(accounts[0])]
    assert (first.head, first.rev, first.active, first.status) == (commit.cid, commit.rev, True, None)
    for account in accounts:
        assert listed[did_of(account)].head == server.read_repository(did_of(account)).commit
