"""Partition keys: made for people, one for each account, the same every time."""

from __future__ import annotations

import re
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.accounts import GUEST_ID, Account, assign_keys, key_candidates

SUB = "auth0|63effeeb2a7d55f8098d62f9"
LAST = key_candidates(id=SUB, handle=None, code=None, did=None)[-1]


@pytest.mark.parametrize(
    ("handle", "code", "did", "first"),
    [
        ("Jeffrey", "ac24xyz", "did:plc:a", "jeffrey"),
        ("a.b_c-1", "ac24xyz", "did:plc:a", "a.b_c-1"),
        ("with space", "ac24xyz", "did:plc:a", "ac24xyz"),
        ("ümlaut", "AC24XYZ", "did:plc:a", "ac24xyz"),
        (None, "ac24xyz", "did:plc:a", "ac24xyz"),
        (None, None, "did:plc:a", "did:plc:a"),
        ("", "", "did:plc:a", "did:plc:a"),
        (None, None, "did:web:x%3A80", LAST),
        (None, None, None, LAST),
    ],
)
def test_a_key_is_the_handle_else_the_code_else_the_did(
    handle: str | None, code: str | None, did: str | None, first: str
) -> None:
    """RUN-2: and nobody who owns something is without one."""
    assert key_candidates(id=SUB, handle=handle, code=code, did=did)[0] == first


def test_the_key_of_last_resort_does_not_tell_the_id() -> None:
    assert re.fullmatch(r"user:[0-9a-f]{16}", LAST)


def keys(*accounts: tuple[str, str | None, str | None]) -> dict[str, str]:
    """Keys of accounts given as id, handle and code, which must not depend on their order."""
    entries = [(id, key_candidates(id=id, handle=handle, code=code, did=None), code) for id, handle, code in accounts]
    results = [assign_keys(order) for order in permutations(entries)]
    assert all(result == results[0] for result in results)
    return results[0]


def test_the_guest_always_has_its_own_key() -> None:
    assert keys((GUEST_ID, None, None), ("auth0|a", GUEST_ID, "ac1")) == {GUEST_ID: GUEST_ID, "auth0|a": "ac1"}
    assert keys(("auth0|a", GUEST_ID, "ac1")) == {"auth0|a": "ac1"}


def test_nobody_takes_the_code_of_another_as_a_handle() -> None:
    assert keys(("auth0|a", "ac24bbb", "ac24aaa"), ("auth0|b", "bert", "ac24bbb")) == {
        "auth0|a": "ac24aaa",
        "auth0|b": "bert",
    }


def test_handles_that_differ_in_case_go_to_the_smaller_id() -> None:
    assert keys(("auth0|a", "Anna", "ac1"), ("auth0|b", "anna", "ac2")) == {"auth0|a": "anna", "auth0|b": "ac2"}


def test_a_code_given_twice_goes_to_the_smaller_id() -> None:
    found = keys(("auth0|a", None, "ac1"), ("auth0|b", None, "AC1"))
    assert found["auth0|a"] == "ac1"
    assert found["auth0|b"].startswith("user:")


names = st.none() | st.sampled_from(["anna", "Anna", "ac1", "ac2", "AC1", GUEST_ID, "ü", "a b", ""])
dids = st.none() | st.sampled_from(["did:plc:a", "did:plc:b", "did:web:X"])


@given(st.dictionaries(st.sampled_from(["a|1", "a|2", "a|3", GUEST_ID]), st.tuples(names, names, dids)))
def test_every_account_has_one_key_of_its_own(accounts: dict[str, tuple[str | None, str | None, str | None]]) -> None:
    """RUN-2: only `[a-z0-9:._-]`, never an Auth0 id, nobody without, no key twice."""
    found = assign_keys(
        (id, key_candidates(id=id, handle=handle, code=code, did=did), code)
        for id, (handle, code, did) in accounts.items()
    )
    assert set(found) == set(accounts)
    assert len(set(found.values())) == len(found)
    assert all(re.fullmatch(r"[a-z0-9:._-]+", key) for key in found.values())


def test_a_password_does_not_show() -> None:
    """ACCT-5."""
    assert "hunter2" not in repr(Account(id=SUB, key="anna", password="hunter2"))
