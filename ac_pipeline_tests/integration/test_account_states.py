"""`accounts list`, `verify` and `visibility` say what Mongo, the PDS and a relay know, on real services."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.errors import RateLimited, ServerFailed
from ac_pipeline.items import State
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.accounts.listing import compare_visibility
from ac_pipeline.operations.accounts.passwords import check_sign_in
from ac_pipeline.settings import Settings
from ac_pipeline.wiring import open_relay
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.integration.relay import relay_server


def cases(slice_: Slice) -> dict[str, str]:
    """A user for each state; key -> the cause that is expected."""
    users = slice_.database["users"]
    for handle in ("fine", "held", "wrong", "down", "off", "renamed", "unknown", "nopass", "bare", "going"):
        user = slice_.user(handle)
        change: dict[str, Any] = {}
        match handle:
            case "wrong":
                change = {"$set": {"atproto.password": "not-it"}}
            case "down":
                slice_.pds.accounts.take_down(user.did)
            case "off":
                made = slice_.pds.accounts.call(
                    "com.atproto.server.createSession", {"identifier": user.did, "password": user.password}
                )
                slice_.pds.accounts.deactivate(made["accessJwt"])
            case "renamed":
                change = {"$set": {"atproto.handle": "older.test"}}
            case "unknown":
                change = {"$set": {"atproto.did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"}}
            case "nopass":
                change = {"$unset": {"atproto.password": ""}}
            case "bare":
                change = {"$unset": {"atproto": ""}}
            case "going":
                slice_.database["account-deletions"].insert_one({"_id": user.id, "state": "scheduled"})
            case "held":
                slice_.pipeline.ledger.hold(user, MEDIA_TYPES[:1], "asked for")
        if change:
            users.update_one({"_id": user.id}, change)
    twin = slice_.user("twin")
    users.insert_one({"_id": "auth0|other", "code": "ac25other", "atproto": {"did": twin.did, "password": "x"}})
    return {
        "fine": "ready", "renamed": "ready", "held": "on-hold", "wrong": "wrong-password", "down": "takendown",
        "off": "deactivated", "unknown": "unknown-did", "nopass": "no-credentials", "bare": "no-credentials",
        "going": "leaving", "twin": "shared-did", "ac25other": "shared-did", "art-guest": "no-credentials",
    }  # fmt: skip


def test_every_account_is_listed_with_its_state_and_why(cli: Run, slice_: Slice) -> None:
    """ACCT-1, ACCT-2: a wrong password is known from the last run, the rest from Mongo and the PDS."""
    expected = cases(slice_)
    wrong = slice_.pipeline.accounts.find("wrong")
    slice_.add("mood", wrong, mood="one")
    slice_.add("mood", wrong, mood="two", deleted=True)
    slice_.sync(wrong)
    code, out = cli("accounts", "--json")
    assert code == 0
    found = json.loads(out)
    assert {line["user"]: line["cause"] or line["state"] for line in found["accounts"]} == expected
    assert found["states"] == {"ready": 2, "blocked": 7, "leaving": 1, "on-hold": 1, "unprovisioned": 2}
    assert all(line["reason"] for line in found["accounts"] if line["state"] != "ready")
    assert {line["user"]: line["waiting"] for line in found["accounts"]}["wrong"] == 1
    assert cli("accounts", "list", "--json")[1] == out
    blocked = json.loads(cli("accounts", "list", "--state", "blocked", "--json")[1])
    assert {line["state"] for line in blocked["accounts"]} == {"blocked"}
    (one,) = json.loads(cli("accounts", "list", "--user", "@fine", "--json")[1])["accounts"]
    assert one["user"] == "fine"
    stored = [row.get("atproto", {}).get("password") for row in slice_.database["users"].find()]
    text = cli("accounts")[1] + out
    assert "not-it" not in text
    assert not any(password in text for password in stored if password and password != "x")


def test_what_was_blocked_is_ready_once_it_was_mirrored(cli: Run, slice_: Slice) -> None:
    """ACCT-1."""
    user = slice_.user("ada")
    item = slice_.add("mood", user, mood="hello")
    users = slice_.database["users"]
    users.update_one({"_id": user.id}, {"$set": {"atproto.password": "not-it"}})
    slice_.sync(slice_.account(user.id))
    assert slice_.entry("mood", item).state is State.BLOCKED
    users.update_one({"_id": user.id}, {"$set": {"atproto.password": user.password}})
    slice_.sync(slice_.account(user.id))
    (line,) = json.loads(cli("accounts", "list", "--user", "ada", "--json")[1])["accounts"]
    assert (line["state"], line["waiting"]) == ("ready", 0)


def test_sign_ins_are_checked_account_by_account(cli: Run, slice_: Slice) -> None:
    """ACCT-2, ACCT-3, ACCT-5: a handle that differs is mentioned and fails nothing."""
    cases(slice_)
    code, out = cli("accounts", "verify", "--json")
    assert code == 1
    found = {each["user"]: each for each in json.loads(out)["accounts"]}
    assert {user: each["state"] for user, each in found.items()} == {
        "fine": "ok", "renamed": "ok", "held": "ok", "wrong": "wrong-password", "down": "takendown",
        "off": "deactivated", "unknown": "unknown", "nopass": "no-credentials", "bare": "unprovisioned",
        "going": "ok", "twin": "ok", "ac25other": "wrong-password", "art-guest": "unprovisioned",
    }  # fmt: skip
    assert "older.test" in found["renamed"]["note"]
    assert "not-it" not in out
    assert cli("accounts", "verify", "--user", "fine", "--user", "renamed")[0] == 0
    assert "not-it" not in cli("accounts", "verify")[1]


def test_a_refused_sign_in_leaves_the_session_that_works(cli: Run, slice_: Slice) -> None:
    """LIMIT-7: looking costs nothing that a run needs."""
    user = slice_.user("ada")
    slice_.add("mood", user, mood="one")
    slice_.sync(user)
    slice_.database["users"].update_one({"_id": user.id}, {"$set": {"atproto.password": "not-it"}})
    own = slice_.database.client[slice_.pipeline.settings.ac_ledger_database]
    session = own["sessions"].find_one({"_id": user.did})
    assert cli("accounts", "verify", "--user", "ada")[0] == 1
    assert own["sessions"].find_one({"_id": user.did})["access"] == session["access"]
    slice_.add("mood", user, mood="two")
    slice_.sync(slice_.account(user.id))
    assert len(slice_.records(user, "mood")) == 2


class Signing:
    """Refuses at first."""

    authorised = False

    def __init__(self, faults: list[Exception]) -> None:
        self.faults = faults

    def prove(self, account: Any) -> None:
        if self.faults:
            raise self.faults.pop(0)


@pytest.mark.parametrize(
    ("faults", "state", "slept"),
    [
        ([RateLimited("full", retry_after=300.0)], "ok", [300.0]),
        ([RateLimited("full", retry_after=40_000.0)], "unreached", []),
        ([ServerFailed("500")], "unreached", []),
    ],
)
def test_a_limit_of_minutes_is_waited_for_and_one_of_hours_is_not(
    slice_: Slice, faults: list[Exception], state: str, slept: list[float]
) -> None:
    """LIMIT-7."""
    paused: list[float] = []
    server: Any = Signing(faults)
    found = check_sign_in(slice_.user(), server, {}, paused.append)
    assert (found.state, paused) == (state, slept)


# ---------------------------------------------------------------- visibility


@pytest.mark.parametrize("by_list", [False, True], ids=["one by one", "by list"])
@pytest.mark.parametrize(("active", "throttled"), [(443, 100), (100, 443)])
def test_a_pds_over_the_relays_limit_has_its_active_and_throttled_accounts_counted(
    active: int, throttled: int, by_list: bool
) -> None:
    """VERIFY-7, VERIFY-8: 543 accounts, all active on the PDS."""
    dids = [f"did:plc:{number:024d}" for number in range(543)]
    states = {did: "active" if number < active else "throttled" for number, did in enumerate(dids)}
    hosted = [RepositoryStatus(did, "x", "y", active=True, status=None) for did in dids]
    settings = Settings(mongodb_connection_string="mongodb://127.0.0.1:1", mongodb_name="unused")
    with relay_server(states) as url, open_relay(settings, url) as relay:
        found = compare_visibility(hosted, {dids[-1]: "zoe"}, relay, workers=8, by_list=by_list)
    assert found.pds == {"active": 543, "throttled": 0, "unknown": 0}
    assert found.relay == {"active": active, "throttled": throttled, "unknown": 0}
    assert found.hidden == len(found.differences) == throttled
    assert (found.differences[-1]["user"], found.differences[-1]["relay"]) == ("zoe", "throttled")
    assert "100 accounts" in str(found.to_json()["advice"])


def test_relay_and_pds_are_shown_where_they_differ(cli: Run, slice_: Slice) -> None:
    """VERIFY-8: throttled, taken down on one side only, and never heard of."""
    users = {name: slice_.user(name) for name in ("same", "slow", "down", "lost")}
    slice_.pds.accounts.take_down(users["down"].did)
    states = {status.did: "active" for status in slice_.pipeline.server.list_repositories()}
    states[str(users["slow"].did)] = "throttled"
    del states[str(users["lost"].did)]
    with relay_server(states) as url:
        code, out = cli("accounts", "visibility", "--relay", url, "--json")
        text = cli("accounts", "visibility", "--relay", url, "--by-list")[1]
    found = json.loads(out)
    ours = {each["user"]: (each["pds"], each["relay"]) for each in found["differences"] if each["user"]}
    assert code == 1
    assert ours == {"slow": ("active", "throttled"), "down": ("takendown", "active"), "lost": ("active", "unknown")}
    assert found["relay"]["throttled"] == found["relay"]["unknown"] == 1
    assert "throttled" in text
    assert "raise the account limit" in " ".join(text.split())


def test_without_a_relay_the_command_says_what_to_set(
    cli: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ac_pipeline.cli.main import run

    assert run(["accounts", "visibility"]) == 2
    assert "AC_RELAY_URL is not set" in capsys.readouterr().err
    monkeypatch.setenv("AC_RELAY_URL", "http://127.0.0.1:1")
    assert run(["accounts", "visibility"]) == 3
    assert "AC_RELAY_URL" in capsys.readouterr().err
