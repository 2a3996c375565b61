"""Looks at many accounts: who cannot be looked at, and what ends all of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, ServerFailed, ServiceUnreachable, WrongPassword
from ac_pipeline.items import Finding
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.declare import LeftOut, Table, Work, audited, search
from ac_pipeline_tests.memory_vault import MemoryAudit


def work_with(**pipeline: Any) -> Work:
    """Work of two workers that nobody watches."""
    parts: Any = SimpleNamespace(settings=SimpleNamespace(ac_concurrent_users=2), **pipeline)
    return Work(parts, "run", lambda what, done, total: None, lambda sentence: None)


def test_an_account_that_cannot_be_used_is_an_answer_and_one_without_a_repository_is_not_asked() -> None:
    """RUN-1: the others are looked at all the same."""
    accounts = [Account("1", "ada", "did:plc:ada"), Account("2", "bea"), Account("3", "cyd", "did:plc:cyd")]
    refusal = WrongPassword("the PDS refuses the password of ada")

    def look(account: Account) -> list[Finding]:
        if account.key == "ada":
            raise refusal
        return [Finding("mood:1", account.key, "missing")]

    found = search(work_with(), "Looking", accounts, look, Table("items", ()))
    assert [(each.user, each.error) for each in found.left_out] == [("ada", refusal)]
    assert found.found == {"cyd": 1}


def test_an_account_that_cannot_be_read_costs_its_own_answer_and_is_told_from_a_blocked_one() -> None:
    """BORDER-2, GUARD-8: the others are looked at; who was left out because of an error is counted."""
    accounts = [Account(str(n), key, f"did:plc:{key}") for n, key in enumerate(("ada", "bea", "cyd", "dan"))]
    troubles = {"bea": ServerFailed("the PDS answered 500"), "cyd": WrongPassword("refused"), "dan": KeyError("x")}

    def look(account: Account) -> str:
        if account.key in troubles:
            raise troubles[account.key]
        return account.key

    found = [(each.key, answer) for each, answer in work_with().for_each("Looking", accounts, look)]
    assert found[0] == ("ada", "ada")
    missing = [LeftOut(key, answer) for key, answer in found if not isinstance(answer, str)]
    assert [(each.user, each.failed) for each in missing] == [("bea", True), ("cyd", False), ("dan", True)]


def test_a_service_that_does_not_answer_ends_it_all() -> None:
    """A failed read is no empty answer: nothing can be said of the whole."""

    def look(account: Account) -> str:
        raise ServiceUnreachable(f"the PDS does not answer for {account.key}")

    with pytest.raises(ServiceUnreachable):
        list(work_with().for_each("Looking", [Account("1", "ada", "did:plc:ada")], look))


def test_findings_of_many_are_counted_by_user_type_and_state_and_each_becomes_a_row() -> None:
    """OPS-6, VERIFY-2: what can be put right is told from what cannot, and who was left out is named."""
    accounts = [Account(str(n), key, f"did:plc:{key}") for n, key in enumerate(("ada", "bea", "cyd"))]

    def look(account: Account) -> list[Finding]:
        if account.key == "bea":
            raise WrongPassword("refused")
        uris = (f"at://{account.did}/x/1",)
        return [
            Finding("mood:1", account.key, "missing", "new", "a sync writes it", uris),
            Finding("tape:2", "cyd", "odd"),
        ]

    table = Table("items", ())
    count = search(work_with(), "Looking", accounts, look, table)
    rows = list(table)
    assert count.states == {"mood": {"missing": 2}, "tape": {"odd": 2}}
    assert (count.found, +count.repairable, count.left) == ({"ada": 1, "cyd": 3}, {"ada": 1, "cyd": 1}, 2)
    assert [each.to_json() for each in count.left_out] == [{"user": "bea", "message": "refused"}]
    assert [(row["item"], row["user"], row["uri"]) for row in rows[:2]] == [
        ("mood:1", "ada", "at://did:plc:ada/x/1"),
        ("tape:2", "cyd", None),
    ]


def test_what_is_changed_in_one_account_after_another_is_in_the_audit_and_a_blocked_one_is_left_alone() -> None:
    """DEL-9, RUN-1: an account that begins to leave in between costs only its own turn."""
    accounts = [Account(str(n), key, f"did:plc:{key}") for n, key in enumerate(("ada", "bea", "cyd"))]
    audit = MemoryAudit(lambda: datetime(2026, 1, 2, tzinfo=UTC))
    work = work_with(audit=audit)

    def act(account: Account) -> Iterator[int]:
        if account.key == "bea":
            raise Blocked("bea is leaving")
        yield 2

    def changed(some: list[Account]) -> list[int | LeftOut]:
        words: Any = {"action": "change", "types": MEDIA_TYPES[:1], "why": "asked", "counted_as": "changed"}
        return list(audited(work, "Changing", some, act, int, counts={"items": 6}, **words))

    assert changed([]) == []
    assert audit.lines == []
    first, left, last = changed(accounts)
    assert isinstance(left, LeftOut)
    assert (first, left.user, last) == (2, "bea", 2)
    started, ended = audit.lines
    assert (started.counts, ended.counts, ended.outcome) == ({"items": 6}, {"changed": 4}, "done")
