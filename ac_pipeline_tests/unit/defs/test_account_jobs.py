"""The account jobs: what they show, what they refuse, and that no password is anywhere in a run."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.errors import PipelineError, ServiceUnreachable
from ac_pipeline.operations.handles import HandleState
from ac_pipeline.operations.provisioning import Outcome
from ac_pipeline_tests.unit.defs.desk import Desk, said, sentence
from ac_pipeline_tests.unit.defs.scripted_registrar import SECRET

LAUNCHES: list[tuple[str, dict[str, Any]]] = [
    ("list_accounts", {}),
    ("verify_credentials", {}),
    ("account_visibility", {}),
    ("provision_accounts", {}),
    ("provision_accounts", {"confirm": 2}),
    ("create_guest_account", {}),
    ("create_guest_account", {"confirm": "art-guest"}),
    ("rotate_password", {"user": "ada"}),
    ("rotate_password", {"user": "ada", "confirm": "ada"}),
    ("repair_handles", {}),
    ("repair_handles", {"confirm": 1}),
]


@pytest.mark.parametrize(("job", "config"), LAUNCHES)
def test_no_password_is_in_any_event_or_log_of_a_run(desk: Desk, job: str, config: dict[str, Any]) -> None:
    """ACCT-5."""
    result = desk.launch(job, config)
    assert result.success
    assert SECRET not in str(desk.instance.all_logs(result.run_id))


@pytest.mark.parametrize(
    ("states", "shown"), [([], ["ada", "bea", "cleo"]), (["blocked"], ["bea"]), (["leaving"], None)]
)
def test_accounts_are_shown_by_state_and_all_of_them_counted(
    desk: Desk, states: list[str], shown: list[str] | None
) -> None:
    """ACCT-1."""
    found = said(desk.launch("list_accounts", {"states": states}))
    assert [row["user"] for row in found.get("accounts", [])] == (shown or [])
    assert {row["what"]: row["number"] for row in found["states"]} == {
        "ready": 1, "blocked": 1, "leaving": 0, "on-hold": 0, "unprovisioned": 1,
    }  # fmt: skip
    if shown and "bea" in shown:
        (bea,) = [row for row in found["accounts"] if row["user"] == "bea"]
        assert (bea["cause"], bea["waiting"]) == ("wrong-password", 2)
        assert "refused the password" in bea["reason"]


def test_a_wrong_state_is_named(desk: Desk) -> None:
    assert "'asleep' is no state of an account" in sentence(desk.launch("list_accounts", {"states": ["asleep"]}))


def test_refused_sign_ins_are_a_table_for_a_person_and_no_failed_run(desk: Desk) -> None:
    """ACCT-2, ACCT-3: as everywhere, a run that has looked has done its work."""
    result = desk.launch("verify_credentials")
    assert result.success
    found = said(result)
    assert (found["accounts"], found["refused"]) == (3, 1)
    assert [(row["user"], row["state"]) for row in found["refused_accounts"]] == [("bea", "wrong-password")]
    assert found["notes"] == [{"user": "ada", "handle": "ada.test", "note": "Mongo has the handle older.test"}]


@pytest.mark.parametrize(("silent", "succeeds"), [(0, True), (1, False)])
def test_a_sign_in_that_was_not_answered_fails_the_run(desk: Desk, silent: int, succeeds: bool) -> None:
    """A failed read is never a finding."""
    desk.registrar.silent = silent
    result = desk.launch("verify_credentials")
    assert result.success is succeeds
    if not succeeds:
        assert sentence(result) == "1 accounts could not be asked for: launch again."
        assert said(result)["refused"] == 1


def test_visibility_shows_who_does_not_reach_the_network(desk: Desk) -> None:
    """VERIFY-8."""
    found = said(desk.launch("account_visibility", {"by_list": True}))
    assert (found["relay"], found["hidden"]) == ("relay.test by list", 1)
    assert {row["state"]: (row["pds"], row["relay"]) for row in found["states"]} == {
        "active": (2, 1), "throttled": (0, 1), "unknown": (0, 0),
    }  # fmt: skip
    assert [(row["user"], row["relay"]) for row in found["accounts_that_differ"]] == [("bea", "throttled")]
    assert "raise the account limit" in found["advice"]


@pytest.mark.parametrize(("limit", "number", "shown"), [(0, 2, ["cleo", "dora"]), (1, 1, ["cleo"])])
def test_provisioning_says_first_for_whom_and_the_number(desk: Desk, limit: int, number: int, shown: list[str]) -> None:
    """PLAN-5."""
    found = said(desk.launch("provision_accounts", {"limit": limit}))
    assert (found["dry_run"], found["confirm"]) == (True, number)
    assert [row["user"] for row in found["would_be_made"]] == shown
    assert found["not_for"] == [{"user": "eve", "reason": "its owner's account is being deleted"}]
    assert desk.changes == []


@pytest.mark.parametrize(("confirm", "done"), [(0, False), (1, False), (2, True), (3, False)])
def test_accounts_are_made_for_who_names_their_number(desk: Desk, confirm: int, done: bool) -> None:
    """PLAN-5."""
    result = desk.launch("provision_accounts", {"confirm": confirm, "why": "new users"})
    assert result.success is done
    assert desk.changes == ([("provision", (), None, "new users")] if done else [])
    if done:
        assert said(result)["outcomes"] == [{"what": "made", "number": 1}]
        assert "25 of 50 accounts are done." in str(desk.instance.all_logs(result.run_id))
    else:
        assert sentence(result) == f"2 accounts would be made, not {confirm}: nothing was made."


@pytest.mark.parametrize("job", ["provision_accounts", "create_guest_account"])
@pytest.mark.parametrize(
    ("outcome", "stopped", "reason"),
    [
        (Outcome.MADE, None, None),
        (Outcome.FINISHED, None, None),
        (Outcome.SKIPPED, None, None),
        (Outcome.REFUSED, None, "1 accounts could not be made: see the table."),
        (Outcome.CONFLICT, None, "1 accounts could not be made: see the table."),
        (Outcome.FAILED, ServiceUnreachable("The PDS is away."), "The PDS is away."),
    ],
)
def test_a_run_that_could_not_make_all_fails_with_what_became_of_each(
    desk: Desk, job: str, outcome: Outcome, stopped: Any, reason: str | None
) -> None:
    """PLAN-3."""
    desk.registrar.outcome, desk.registrar.stopped = outcome, stopped
    result = desk.launch(job, {"confirm": 2 if job == "provision_accounts" else "art-guest"})
    assert result.success is (reason is None)
    assert [row["outcome"] for row in said(result)["accounts"]] == [outcome.value]
    if reason is not None:
        assert sentence(result).startswith(reason)


@pytest.mark.parametrize("confirm", ["", "art-guest"])
def test_a_guest_account_that_exists_is_told_of_and_not_touched(desk: Desk, confirm: str) -> None:
    """ACCT-4."""
    desk.registrar.there = True
    found = said(desk.launch("create_guest_account", {"confirm": confirm}))
    assert (found["exists"], found["handle"]) == (True, "art.test")
    assert "`rotate_password`" in found["note"]
    assert desk.changes == []


def test_a_guest_account_is_made_only_when_told_to(desk: Desk) -> None:
    """ACCT-4."""
    found = said(desk.launch("create_guest_account"))
    assert (found["exists"], found["would_be_made"]) == (False, "art.test")
    assert desk.changes == []
    assert (
        said(desk.launch("create_guest_account", {"confirm": "art-guest", "why": "first"}))["accounts"][0]["outcome"]
        == "made"
    )
    assert desk.changes == [("guest", "first")]


@pytest.mark.parametrize(
    ("job", "config"),
    [("rotate_password", {"user": "ada"}), ("create_guest_account", {})],
)
@pytest.mark.parametrize("typed", ["true", "True", "bea", "ada bea"])
def test_an_account_is_changed_only_when_its_name_is_typed(
    desk: Desk, job: str, config: dict[str, Any], typed: str
) -> None:
    """OPS-3: what a foreign page could guess, and a slip of the hand, changes nothing."""
    result = desk.launch(job, {**config, "confirm": typed})
    assert not result.success
    assert "names another account" in sentence(result)
    assert desk.changes == []


def test_a_password_is_changed_only_when_told_to(desk: Desk) -> None:
    found = said(desk.launch("rotate_password", {"user": "ada"}))
    assert (found["changed"], found["user"], found["did"]) == (False, "ada", "did:plc:ada")
    assert desk.changes == []
    done = said(desk.launch("rotate_password", {"user": " ada ", "confirm": " ada ", "why": "it leaked"}))
    assert (done["changed"], done["repaired"]) == (True, False)
    assert desk.changes == [("rotate", "ada", "it leaked")]


@pytest.mark.parametrize(("job", "config"), LAUNCHES)
def test_whatever_the_pipeline_refuses_is_one_sentence(desk: Desk, job: str, config: dict[str, Any]) -> None:
    error: PipelineError = ServiceUnreachable("MongoDB does not answer.")
    desk.fail(error)
    result = desk.launch(job, config)
    assert not result.success
    assert sentence(result) == error.message
    assert desk.changes == []


def test_handles_are_compared_and_repaired_only_for_who_names_their_number(desk: Desk) -> None:
    found = said(desk.launch("repair_handles"))
    assert (found["dry_run"], found["confirm"], [row["user"] for row in found["handles"]]) == (True, 1, ["bea"])
    assert "1 handles would be repaired, not 2" in sentence(desk.launch("repair_handles", {"confirm": 2}))
    assert desk.registrar.changes == []
    found = said(desk.launch("repair_handles", {"confirm": 1, "why": "renamed"}))
    assert (found["dry_run"], found["handles"][0]["state"]) == (False, "repaired")
    assert desk.registrar.changes == [("handles", (), "renamed")]


def test_a_handle_the_pds_refuses_is_a_failed_repair(desk: Desk) -> None:
    desk.registrar.repaired = HandleState.REFUSED
    assert "1 handles could not be" in sentence(desk.launch("repair_handles", {"confirm": 1}))
