"""Which keys the users sensor adds and removes."""

from __future__ import annotations

import pytest

from ac_pipeline.accounts import GUEST_ID, assign_keys, key_candidates
from ac_pipeline.defs.sensors.users import KEYS_A_TICK, LEGAL_KEY, plan_keys, remember

OWNERS = {"ada": "auth0|1", "bea": "auth0|2", "art-guest": "art-guest"}


def test_new_users_are_added_and_vanished_ones_removed() -> None:
    """RUN-4, RUN-11."""
    changes = plan_keys(["ada", "gone"], OWNERS, remember(OWNERS), busy=set())
    assert (changes.add, changes.remove, changes.taken_over) == (("bea", "art-guest"), ("gone",), ())


def test_a_renamed_user_gets_a_new_key_and_loses_the_old_one() -> None:
    before = {"ada": "auth0|1", "bea": "auth0|2"}
    changes = plan_keys(list(before), {"ada": "auth0|1", "beatrix": "auth0|2"}, remember(before), busy=set())
    assert (changes.add, changes.remove, changes.taken_over) == (("beatrix",), ("bea",), ())


def test_a_key_that_passed_to_another_user_is_named() -> None:
    before = {"ada": "auth0|1", "bea": "auth0|2"}
    changes = plan_keys(list(before), {"ada": "auth0|2", "bea2": "auth0|1"}, remember(before), busy=set())
    assert changes.taken_over == ("ada",)


def test_the_first_tick_takes_no_key_for_taken_over() -> None:
    assert plan_keys(list(OWNERS), OWNERS, None, busy=set()).taken_over == ()


def test_a_key_under_a_run_is_not_removed() -> None:
    changes = plan_keys([*OWNERS, "gone", "left"], OWNERS, None, busy={"gone"})
    assert (changes.remove, changes.waiting) == (("left",), ("gone",))


@pytest.mark.parametrize(("vanished", "removed"), [(10, 10), (11, 0)])
def test_keys_are_not_removed_when_most_of_them_seem_to_vanish(vanished: int, removed: int) -> None:
    """DEL-5, for users: the wrong database is not a wave of departures."""
    existing = [f"u{number}" for number in range(vanished)]
    changes = plan_keys(existing, {"art-guest": "art-guest"}, None, busy=set())
    assert len(changes.remove) == removed
    assert (changes.refused is not None) == (removed == 0)


def test_half_of_many_keys_may_vanish_at_once() -> None:
    existing = [f"u{number}" for number in range(100)]
    owners = {key: key for key in existing[:50]}
    assert len(plan_keys(existing, owners, None, busy=set()).remove) == 50
    assert plan_keys(existing, dict(list(owners.items())[:49]), None, busy=set()).remove == ()


@pytest.mark.parametrize(("new", "added", "left"), [(KEYS_A_TICK, KEYS_A_TICK, 0), (KEYS_A_TICK + 1, KEYS_A_TICK, 1)])
def test_one_tick_adds_a_bounded_number_of_keys(new: int, added: int, left: int) -> None:
    """RUN-10."""
    changes = plan_keys([], {f"u{number}": str(number) for number in range(new)}, None, busy=set())
    assert (len(changes.add), changes.left) == (added, left)


@pytest.mark.parametrize(
    ("handle", "code", "did"),
    [("Jeffrey", "ac25abcde", "did:plc:abc"), ("ünïcode", None, None), ("a|b", "AC25X", None), (None, None, None)],
)
def test_every_key_an_account_can_get_is_legal(handle: str | None, code: str | None, did: str | None) -> None:
    """RUN-2: `auth0|...` and anything else that Dagster's own commands trip over never becomes a key."""
    for candidate in key_candidates(id="auth0|65f0", handle=handle, code=code, did=did):
        assert LEGAL_KEY.fullmatch(candidate)
    assert LEGAL_KEY.fullmatch(
        assign_keys([(GUEST_ID, key_candidates(id=GUEST_ID, handle=None, code=None, did=None), None)])[GUEST_ID]
    )


@pytest.mark.parametrize("key", ["auth0|65f0", "Jeffrey", "a...b c", ""])
def test_an_illegal_key_is_never_added(key: str) -> None:
    assert plan_keys([], {key: "auth0|1"}, None, busy=set()).add == ()


def test_what_is_remembered_of_4201_users_stays_small_and_names_nobody() -> None:
    owners = {f"user{number}": f"auth0|{number:024x}" for number in range(4_201)}
    remembered = remember(owners)
    assert len(remembered) < 25_000
    assert "auth0" not in remembered
    assert plan_keys(list(owners), owners, remembered, busy=set()).taken_over == ()
