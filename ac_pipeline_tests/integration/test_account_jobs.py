"""The jobs about accounts, differences and lexicons on real services, with the resources that production uses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.lexicon import load_lexicons
from ac_pipeline.definitions import build_defs
from ac_pipeline.sync.lexicon_gate import SCHEMA
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.dagster_rows import said, sentence
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.integration.relay import relay_server

MOOD = "computer.aesthetic.mood"


@pytest.fixture(scope="module")
def pds(services_folder: Path) -> Iterator[Pds]:
    """A PDS of its own: one guest account is made on it, and everybody on it is spoken of."""
    folder = services_folder / "pds-of-the-account-jobs"
    folder.mkdir()
    server = Pds(folder)
    yield server
    server.close()


class Desk:
    """Launches of jobs with the real resources, which read the environment, as in production."""

    def __init__(self, slice_: Slice, instance: dg.DagsterInstance) -> None:
        self.slice, self.instance = slice_, instance
        self.definitions = build_defs()

    def launch(self, job: str, **config: Any) -> dg.ExecuteInProcessResult:
        definition = self.definitions.resolve_job_def(job)
        (op,) = definition.nodes
        run_config = {"ops": {op.name: {"config": config}}}
        return definition.execute_in_process(instance=self.instance, run_config=run_config, raise_on_error=False)

    def told(self) -> str:
        """Every event and log line of every run, and the whole audit."""
        runs = self.instance.get_runs()
        return str([self.instance.all_logs(run.run_id) for run in runs]) + repr(self.audit())

    def audit(self) -> list[tuple[str, str, str]]:
        """Action, outcome and reason of everything that changed something, oldest first."""
        return [(each.action, each.outcome, each.why) for each in reversed(self.slice.pipeline.audit.entries())]

    def password(self, id: str) -> str:
        found = self.slice.database["users"].find_one({"_id": id})
        assert found is not None
        return str(found["atproto"]["password"])


@pytest.fixture
def desk(slice_: Slice, cli: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """`cli` is asked for because it makes the environment name this test's services."""
    monkeypatch.setenv("AC_ACCOUNT_EMAIL_DOMAIN", "example.test")
    with open_instance() as instance:
        yield Desk(slice_, instance)


def newcomer(slice_: Slice, handle: str) -> str:
    """A user without a PDS account; the Mongo id."""
    id = f"auth0|{ObjectId()}"
    slice_.database["users"].insert_one({"_id": id, "code": f"ac25{str(ObjectId())[-6:]}"})
    slice_.database["@handles"].insert_one({"_id": id, "handle": handle})
    return id


def hosted(slice_: Slice) -> set[str]:
    return {status.did for status in slice_.pipeline.server.list_repositories()}


def test_accounts_are_provisioned_once_by_job_and_their_passwords_stand_in_mongo_only(
    desk: Desk, slice_: Slice
) -> None:
    """ACCT-1, ACCT-5, PLAN-5."""
    ids = [newcomer(slice_, f"new{number}-by-job") for number in range(2)]
    before, everything = hosted(slice_), slice_.everything()
    plan = said(desk.launch("provision_accounts"))
    assert plan["confirm"] == 2
    assert [row["handle"] for row in plan["would_be_made"]] == ["new0-by-job.test", "new1-by-job.test"]
    assert said(desk.launch("list_accounts", states=["unprovisioned"]))["accounts"]
    wrong = desk.launch("provision_accounts", confirm=1)
    assert "1 is not 2" in sentence(wrong)
    assert slice_.everything() == everything

    done = desk.launch("provision_accounts", confirm=2, why="new users")
    assert done.success
    assert said(done)["made"] == 2
    made = {slice_.account(id).did for id in ids}
    assert hosted(slice_) - before == made
    again = desk.launch("provision_accounts", confirm=0)
    assert again.success
    assert hosted(slice_) - before == made
    assert desk.audit() == [("provision-accounts", "done", "new users")]

    signed_in = said(desk.launch("verify_credentials", users=["new0-by-job", "new1-by-job"]))
    assert (signed_in["accounts"], signed_in["refused"]) == (2, 0)
    lines = said(desk.launch("list_accounts", users=ids))["accounts"]
    assert [line["state"] for line in lines] == ["ready", "ready"]
    assert not any(desk.password(id) in desk.told() for id in ids)


def test_the_guest_account_is_made_once_by_job(desk: Desk, slice_: Slice) -> None:
    """ACCT-4, ACCT-5."""
    before = hosted(slice_)
    asked = said(desk.launch("create_guest_account"))
    assert (asked["confirm"], asked["would_be_made"]) == (GUEST_ID, "art.test")
    assert hosted(slice_) == before
    assert desk.launch("create_guest_account", confirm=GUEST_ID, why="first set-up").success
    guest = slice_.account(GUEST_ID)
    assert hosted(slice_) - before == {guest.did}
    for confirm in ("", GUEST_ID):
        told = said(desk.launch("create_guest_account", confirm=confirm))
        assert told["did"] == guest.did
    assert hosted(slice_) - before == {guest.did}
    assert slice_.account(GUEST_ID) == guest
    assert desk.audit() == [("create-guest", "done", "first set-up")]
    assert str(guest.password) not in desk.told()


def test_a_password_is_rotated_by_job_and_shown_nowhere(
    desk: Desk, slice_: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ACCT-5."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    assert said(desk.launch("rotate_password", user="ada"))["did"] == ada.did
    assert desk.password(ada.id) == ada.password
    monkeypatch.setenv("PDS_ADMIN_PASSWORD", "a-wrong-one")
    refused = desk.launch("rotate_password", user="ada", confirm="ada")
    assert "PDS_ADMIN_PASSWORD" in sentence(refused)
    assert desk.password(ada.id) == ada.password
    monkeypatch.setenv("PDS_ADMIN_PASSWORD", slice_.pds.admin_password)
    assert desk.launch("rotate_password", user="@ada", confirm="ada", why="it leaked").success
    fresh = desk.password(ada.id)
    assert fresh != ada.password
    assert slice_.pipeline.administration.identify(str(ada.did), fresh) == ada.did
    assert slice_.pipeline.administration.identify(str(ada.did), str(ada.password)) is None
    assert desk.password(bob.id) == bob.password
    last = desk.audit()[-1]
    assert last == ("rotate-password", "done", "it leaked")
    told = desk.told()
    assert not any(secret in told for secret in (fresh, str(ada.password), "a-wrong-one", slice_.pds.admin_password))


def test_refused_sign_ins_are_shown_and_the_run_is_green(desk: Desk, slice_: Slice) -> None:
    """ACCT-2."""
    slice_.user("ada")
    bob = slice_.user("bob")
    slice_.database["users"].update_one({"_id": bob.id}, {"$set": {"atproto.password": "not-it"}})
    result = desk.launch("verify_credentials", users=["ada", "bob"])
    assert result.success
    found = said(result)
    assert (found["accounts"], found["refused"]) == (2, 1)
    assert [(row["user"], row["state"]) for row in found["refused_accounts"]] == [("bob", "wrong-password")]
    assert "not-it" not in desk.told()
    assert "nobody-here" in sentence(desk.launch("verify_credentials", users=["nobody-here"]))


def test_visibility_is_asked_of_the_relay_that_is_set(
    desk: Desk, slice_: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VERIFY-8."""
    slow = slice_.user("slow")
    assert "AC_RELAY_URL is not set" in sentence(desk.launch("account_visibility"))
    states = dict.fromkeys(hosted(slice_), "active") | {str(slow.did): "throttled"}
    with relay_server(states) as url:
        monkeypatch.setenv("AC_RELAY_URL", url)
        for by_list in (False, True):
            found = said(desk.launch("account_visibility", by_list=by_list))
            assert found["hidden"] == 1
            assert [(row["user"], row["relay"]) for row in found["accounts_that_differ"]] == [("slow", "throttled")]


def edit(slice_: Slice, user: Account, text: str) -> None:
    """Another client changes every mood of a user."""
    for rkey, record in slice_.records(user, "mood").items():
        body = {"repo": user.did, "collection": MOOD, "rkey": rkey, "record": record | {"mood": text}}
        slice_.call(user, "com.atproto.repo.putRecord", body)


def test_differences_are_settled_in_both_ways_by_job(desk: Desk, slice_: Slice) -> None:
    """WRITE-10, DEL-8, PLAN-5: records and documents, only of the users who are named, and only once."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    ids = {user.key: slice_.add("mood", user, mood="ours") for user in (ada, bob)}
    for user in (ada, bob):
        slice_.sync(user)
    ours = {user.key: slice_.listed(user, "mood") for user in (ada, bob)}
    for user in (ada, bob):
        edit(slice_, user, "theirs")
    everything = slice_.everything()
    found = said(desk.launch("settle_differences"))
    assert (found["differences"], found["acceptable"]) == (2, 2)
    assert {(row["user"], row["ours"], row["theirs"]) for row in found["items"]} == {
        ("ada", "mood: ours", "mood: theirs"), ("bob", "mood: ours", "mood: theirs"),
    }  # fmt: skip
    for choice in ("push_ours", "accept_theirs"):
        chosen: dict[str, Any] = {choice: True}
        assert said(desk.launch("settle_differences", **chosen, users=["ada"]))["confirm"] == 1
        assert not desk.launch("settle_differences", **chosen, users=["ada"], confirm=2).success
        assert not desk.launch("settle_differences", **chosen, confirm=2).success
    assert slice_.everything() == everything

    push: dict[str, Any] = {"push_ours": True, "users": ["ada"], "why": "ours"}
    done = desk.launch("settle_differences", **push, confirm=1)
    assert (done.success, said(done)["pushed"]) == (True, 1)
    assert slice_.listed(ada, "mood") == ours["ada"]
    assert slice_.listed(bob, "mood") != ours["bob"]
    accept: dict[str, Any] = {"accept_theirs": True, "items": [f"mood:{ids['bob']}"], "why": "theirs"}
    done = desk.launch("settle_differences", **accept, confirm=1)
    assert (done.success, said(done)["accepted"]) == (True, 1)
    assert slice_.document("mood", ids["bob"])["mood"] == "theirs"
    assert slice_.document("mood", ids["ada"])["mood"] == "ours"
    assert desk.audit() == [("push-ours", "done", "ours"), ("accept-theirs", "done", "theirs")]

    settled = slice_.everything()
    assert said(desk.launch("settle_differences"))["differences"] == 0
    for again in (push, accept):
        assert "1 is not 0" in sentence(desk.launch("settle_differences", **again, confirm=1))
        assert desk.launch("settle_differences", **again, confirm=0).success
    assert slice_.everything() == settled
    assert slice_.sync(bob).types["mood"].written == 0


def test_a_lexicon_check_by_job_finds_what_breaks_a_promise(
    desk: Desk, slice_: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VERIFY-3."""
    ada, lexi = slice_.user("ada"), slice_.user("lexi")
    slice_.put(ada, "mood", {"when": "2025-10-15T12:30:45.123Z", "ref": "b" * 24})
    found = said(desk.launch("check_lexicons"))
    assert found["breaking"] == 0
    assert found["authority"] == "not set"
    (row,) = [row for row in found["lexicons"] if row["lexicon"] == MOOD]
    assert (row["published"], row["records"], row["invalid"]) == ("new", "1", "1")
    assert len(found["examples"]) == 1

    schema = copy.deepcopy(dict(load_lexicons().documents[MOOD]))
    schema["defs"]["main"]["record"]["required"] = []
    body = {"repo": lexi.did, "collection": SCHEMA, "rkey": MOOD, "record": {"$type": SCHEMA, **schema}}
    slice_.call(lexi, "com.atproto.repo.createRecord", body)
    monkeypatch.setenv("AC_LEXICON_AUTHORITY", str(lexi.did))
    result = desk.launch("check_lexicons", no_scan=True)
    assert result.success
    found = said(result)
    assert (found["authority"], found["breaking"]) == (lexi.did, 1)
    assert {row["lexicon"] for row in found["changes"]} == {MOOD}
    assert "records_that_break_our_lexicon" not in found
