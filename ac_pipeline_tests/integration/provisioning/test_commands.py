"""The commands that make PDS accounts, and what a PDS asks of an administrator."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.errors import Misconfigured
from ac_pipeline.items import State
from ac_pipeline.operations.accounts.provisioning import Outcome, planned
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.integration.provisioning.site import EMAIL, Faulty, Killed, code, open_site, unique


@pytest.fixture(scope="module")
def pds_with_invites(services_folder: Path) -> Iterator[Pds]:
    folder = services_folder / "pds-with-invites"
    folder.mkdir()
    server = Pds(folder, PDS_INVITE_REQUIRED="true")
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- invites and admins


def test_a_pds_that_asks_for_invite_codes_gets_one_for_each_account(
    mongo_database: Any, mongo_server: Any, pds_with_invites: Pds, tmp_path: Path
) -> None:
    with open_site(mongo_database, mongo_server.uri, pds_with_invites, tmp_path) as site:
        site.user(unique(), code=code())
        site.user("admin", code=code())
        assert site.plan().invites
        assert [each.outcome for each in site.run().made] == [Outcome.MADE] * 2


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_admin_password_is_a_setting_to_correct_and_nothing_is_lost(
    mongo_database: Any, mongo_server: Any, pds_with_invites: Pds, tmp_path: Path, password: str | None
) -> None:
    with open_site(mongo_database, mongo_server.uri, pds_with_invites, tmp_path, admin_password=password) as site:
        site.user(unique(), code=code())
        with pytest.raises(Misconfigured, match="PDS_ADMIN_PASSWORD") as caught:
            site.run()
        assert "wrong" not in caught.value.message.replace("the right one", "")
    with open_site(mongo_database, mongo_server.uri, pds_with_invites, tmp_path) as site:
        assert [each.outcome for each in site.run().made] == [Outcome.MADE]


# ---------------------------------------------------------------- the command line


@pytest.fixture
def command(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("AC_ACCOUNT_EMAIL_DOMAIN", EMAIL)
    return cli


def add_user(slice_: Any, handle: str, *, password: str | None = None) -> str:
    id = f"auth0|{ObjectId()}"
    slice_.database["users"].insert_one({"_id": id, "code": code()})
    slice_.database["@handles"].insert_one({"_id": id, "handle": handle})
    return id


def test_provision_says_first_for_whom_and_does_it_for_who_names_the_number(
    command: Run, slice_: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """ACCT-1, ACCT-5: picked up by the sensor's look and the next run; no password in output, audit or log."""
    name = unique()
    id = add_user(slice_, name)
    mood = slice_.add("mood", slice_.account(id), mood="hello")
    slice_.sync(slice_.account(id))
    assert slice_.entry("mood", mood).state is State.BLOCKED
    look = slice_.pipeline.changes.look(None, (), slice_.pipeline.accounts.all)
    assert look.works == ()

    caplog.set_level(logging.DEBUG)
    code_, out = command("accounts", "provision", "--json")
    plan = json.loads(out)
    assert code_ == 0
    assert (plan["number"], plan["accounts"][0]["handle"]) == (1, f"{name}.test")
    assert "atproto" not in slice_.database["users"].find_one({"_id": id})
    assert command("accounts", "provision", "--confirm", "2")[0] == 2
    assert "atproto" not in slice_.database["users"].find_one({"_id": id})
    code_, out = command("accounts", "provision", "--confirm", "1", "--json", "--why", "new users")
    assert (code_, json.loads(out)["counts"]["made"]) == (0, 1)
    password = slice_.database["users"].find_one({"_id": id})["atproto"]["password"]
    shown = out + caplog.text + repr(slice_.pipeline.audit.entries()) + command("accounts", "--json")[1]
    assert password not in shown
    (audited,) = slice_.pipeline.audit.entries(action="provision-accounts")
    assert (audited.why, audited.outcome, audited.counts["made"]) == ("new users", "done", 1)

    found = slice_.pipeline.changes.look(look.position, (), slice_.pipeline.accounts.all)
    assert [work.key for work in found.works] == [name]
    slice_.sync(slice_.account(id))
    assert [each["ref"] for each in slice_.records(slice_.account(id), "mood").values()] == [mood]


def test_a_changed_password_is_picked_up_by_itself(slice_: Any) -> None:
    """ACCT-1, ACCT-2: blocked for a wrong password, until Mongo holds the right one."""
    user = slice_.user()
    mood = slice_.add("mood", user, mood="hello")
    users = slice_.database["users"]
    users.update_one({"_id": user.id}, {"$set": {"atproto.password": "not-it"}})
    slice_.sync(slice_.account(user.id))
    assert slice_.entry("mood", mood).failure.error_class == "wrong-password"
    look = slice_.pipeline.changes.look(None, (), slice_.pipeline.accounts.all)
    assert look.works == ()
    users.update_one({"_id": user.id}, {"$set": {"atproto.password": user.password}})
    found = slice_.pipeline.changes.look(look.position, (), slice_.pipeline.accounts.all)
    assert [work.key for work in found.works] == [user.key]
    slice_.sync(slice_.account(user.id))
    assert len(slice_.records(user, "mood")) == 1


def test_without_a_domain_for_addresses_nothing_is_begun(cli: Run, slice_: Any, capsys: Any) -> None:
    add_user(slice_, unique())
    assert cli("accounts", "provision", "--confirm", "1")[0] == 2
    assert slice_.pipeline.provisioning.unfinished() == []


def test_the_guest_account_is_made_once(
    mongo_database: Any, mongo_server: Any, tmp_path: Path, services_folder: Path
) -> None:
    """ACCT-4: `art` is its handle; the user document is made with it."""
    folder = services_folder / f"pds-{secrets.token_hex(4)}"
    folder.mkdir()
    pds = Pds(folder)
    try:
        with open_site(mongo_database, mongo_server.uri, pds, tmp_path) as site:
            guest = site.pipeline.accounts.find(GUEST_ID)
            wanted = planned(guest, site.pipeline.administration.describe(), EMAIL)
            with pytest.raises(Killed):
                site.provisioner(
                    server=Faulty(site.pipeline.administration, "create_account", Killed(), after=True)
                ).make(wanted)
            made = site.provisioner().make(wanted)
            assert (made.outcome, made.handle) == (Outcome.FINISHED, "art.test")
            assert site.pipeline.accounts.find(GUEST_ID).blocked is None
            assert site.hosted() == {made.did}
            assert site.provisioner().make(wanted).outcome is Outcome.SKIPPED
            site.database["users"].delete_one({"_id": GUEST_ID})
            (lost,) = site.provisioner().run([wanted], lambda done, total: None).made
            assert lost.outcome is Outcome.REFUSED
            assert site.hosted() == {made.did}
            assert site.database["users"].find_one({"_id": GUEST_ID}) is None
    finally:
        pds.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_create_guest_says_that_it_exists_and_changes_nothing(command: Run, slice_: Any) -> None:
    """ACCT-4."""
    made = slice_.pds.create_account()
    slice_.database["users"].insert_one({"_id": GUEST_ID, "atproto": {"did": made.did, "password": made.password}})
    before = slice_.everything()
    code_, out = command("accounts", "create-guest", "--json")
    assert code_ == 0
    assert json.loads(out)["did"] == made.did
    after = slice_.everything()
    assert {name: kept for name, kept in after.items() if "leases" not in name} == {
        name: kept for name, kept in before.items() if "leases" not in name
    }


def test_the_command_says_which_handles_differ_and_repairs_them(command: Run, slice_: Any) -> None:
    """The dry run ends with 1 and the command to type; what it says then works, and nothing is left to do."""
    ada = slice_.user(unique())
    new = unique()
    slice_.database["@handles"].replace_one({"_id": ada.id}, {"handle": new}, upsert=True)
    status, out = command("accounts", "handles", "--json")
    (line,) = json.loads(out)["handles"]
    assert (status, line["state"], line["wanted"]) == (1, "differs", f"{new}.test")
    printed = command("accounts", "handles", "--user", new)[1]
    assert f"ac-pipeline accounts handles --user {new} --confirm 1" in printed
    assert ada.password not in printed
    assert command("accounts", "handles", "--user", new, "--confirm", "1", "--why", "renamed")[0] == 0
    status, out = command("accounts", "handles", "--json")
    answer = json.loads(out)
    assert (status, answer["states"], answer["handles"]) == (0, {"right": 1}, [])
