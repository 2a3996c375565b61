"""Rounds over many accounts: their order, how many are under way, and who cannot be looked at."""

from __future__ import annotations

import threading

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, ServiceUnreachable, WrongPassword
from ac_pipeline.operations.rounds import ahead, look_at


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_accounts_are_under_way_than_twice_the_workers(workers: int) -> None:
    """OPS-6: a slow listener holds the work back; the order is that of the accounts."""
    begun, lock, most, taken = [0], threading.Lock(), 0, []

    def work(account: Account) -> str:
        with lock:
            begun[0] += 1
        return account.key

    accounts = [Account(str(number), str(number)) for number in range(50)]
    for account, key in ahead(accounts, work, workers):
        taken.append(key)
        assert account.key == key
        most = max(most, begun[0] - len(taken))
    assert taken == [account.key for account in accounts]
    assert most <= 2 * workers


def test_an_account_that_cannot_be_used_is_an_answer_and_one_without_a_repository_is_not_asked() -> None:
    """RUN-1: the others are looked at all the same."""
    accounts = [Account("1", "ada", "did:plc:ada"), Account("2", "bea"), Account("3", "cyd", "did:plc:cyd")]
    refusal = WrongPassword("the PDS refuses the password of ada")

    def look(account: Account) -> str:
        if account.key == "ada":
            raise refusal
        return account.key

    answers: list[tuple[str, str | Blocked]] = [(each.key, found) for each, found in look_at(accounts, look, 2)]
    assert answers == [("ada", refusal), ("cyd", "cyd")]


def test_a_failed_read_ends_the_round() -> None:
    """A failed read is no empty answer: nothing can be said of the whole."""

    def look(account: Account) -> str:
        raise ServiceUnreachable(f"the PDS does not answer for {account.key}")

    with pytest.raises(ServiceUnreachable):
        list(look_at([Account("1", "ada", "did:plc:ada")], look, 2))
