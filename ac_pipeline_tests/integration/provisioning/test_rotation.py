"""A new password is stored before the old one is given up, on a real PDS and with kills at every step."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import AccountUnknown, HeldBack, Misconfigured, WrongPassword
from ac_pipeline.mongo.accounts import Kind
from ac_pipeline.operations.accounts.passwords import Rotated, may_rotate, rotate
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.integration.provisioning.site import Faulty, Killed, Site


def hosted_user(site: Site, **fields: Any) -> Account:
    """A user whose PDS account is in Mongo, in the nested form unless told otherwise."""
    made = site.pds.create_account()
    site.user(
        id=made.id, **(fields or {"atproto": {"did": made.did, "handle": made.pds_handle, "password": made.password}})
    )
    return replace(made, key=site.pipeline.accounts.find(made.id).key)


def run(site: Site, account: Account, server: Any = None, store: Any = None) -> Rotated:
    found = site.pipeline.accounts.find(account.id)
    return rotate(
        found,
        may_rotate(found, site.pipeline.accounts.all()),
        server=server or site.pipeline.administration,
        store=store or site.pipeline.provisioning,
        ledger=site.pipeline.ledger,
    )


def opens(site: Site, account: Account, password: str) -> bool:
    return site.pipeline.administration.identify(str(account.pds_handle), password) == account.did


def test_the_new_password_is_on_the_pds_and_in_mongo_and_the_old_one_opens_nothing(site: Site) -> None:
    user = hosted_user(site)
    site.pipeline.administration.prove(site.pipeline.accounts.find(user.id))
    done = run(site, user)
    stored = site.row(user.id)["atproto"]
    assert done == Rotated(user.key, str(user.did))
    assert len(stored["password"]) == 32
    assert stored["handle"] == user.pds_handle
    assert opens(site, user, stored["password"])
    assert not opens(site, user, str(user.password))
    assert site.intents() == []
    site.pipeline.server.upload_blob(site.pipeline.accounts.find(user.id), b"bytes", "application/octet-stream")


STEPS = [
    ("server", "account_info"),
    ("store", "begin"),
    ("store", "credentials"),
    ("store", "keep_former"),
    ("server", "update_password"),
    ("store", "store_password"),
    ("server", "forget"),
    ("server", "prove"),
    ("store", "end"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("port", "step"), STEPS, ids=[step for _, step in STEPS])
def test_a_kill_at_any_step_is_repaired_by_running_it_again(site: Site, port: str, step: str, after: bool) -> None:
    user = hosted_user(site)
    ports = {"server": site.pipeline.administration, "store": site.pipeline.provisioning}
    ports[port] = Faulty(ports[port], step, Killed(), after=after)
    with pytest.raises(Killed):
        run(site, user, **ports)
    known = [site.row(user.id)["atproto"]["password"]]
    known += [each for intent in site.intents() for each in (intent.password, *intent.former)]
    assert any(opens(site, user, password) for password in known)  # no password is lost at any moment
    run(site, user)
    assert opens(site, user, site.row(user.id)["atproto"]["password"])
    assert site.intents() == []


def test_the_legacy_field_follows_where_it_holds_the_same_did(site: Site) -> None:
    made = site.pds.create_account()
    site.user(id=made.id, atproto_did=made.did, atproto_password=made.password, atproto_handle=made.pds_handle)
    run(site, made)
    row = site.row(made.id)
    assert row["atproto_password"] == row["atproto"]["password"] != made.password
    assert row["atproto"]["did"] == made.did
    assert opens(site, made, row["atproto_password"])


def test_the_legacy_field_of_another_did_stays_as_it_is(site: Site) -> None:
    made = site.pds.create_account()
    nested = {"did": made.did, "password": made.password}
    site.user(id=made.id, atproto=nested, atproto_did="did:plc:older", atproto_password="older")
    run(site, made)
    assert site.row(made.id)["atproto_password"] == "older"


@pytest.mark.parametrize("password", [None, "not-it"])
def test_an_account_with_a_wrong_or_no_password_is_repaired(site: Site, password: str | None) -> None:
    """ACCT-1, ACCT-2."""
    made = site.pds.create_account()
    site.user(id=made.id, atproto={"did": made.did, **({"password": password} if password else {})})
    run(site, made)
    assert opens(site, made, site.row(made.id)["atproto"]["password"])
    assert site.pipeline.accounts.find(made.id).blocked is None


def test_a_password_that_somebody_else_changed_meanwhile_is_kept_until_the_new_one_is_proven(site: Site) -> None:
    user = hosted_user(site)
    with pytest.raises(Killed):
        run(site, user, server=Faulty(site.pipeline.administration, "update_password", Killed(), after=True))
    site.database["users"].update_one({"_id": user.id}, {"$set": {"atproto.password": "theirs"}})
    with pytest.raises(Killed):
        run(site, user, store=Faulty(site.pipeline.provisioning, "store_password", Killed(), after=False))
    (intent,) = site.intents()
    assert set(intent.former) == {user.password, "theirs"}
    assert run(site, user).repaired
    assert opens(site, user, site.row(user.id)["atproto"]["password"])


def test_an_unproven_password_keeps_all_of_them(site: Site) -> None:
    user = hosted_user(site)
    refuses = Faulty(site.pipeline.administration, "prove", WrongPassword("refused"), after=False)
    with pytest.raises(WrongPassword):
        run(site, user, server=refuses)
    (intent,) = site.intents()
    assert intent.former == (user.password,)
    assert intent.kind is Kind.ROTATE


def test_a_did_the_pds_does_not_host_changes_nothing(site: Site) -> None:
    """The reference PDS answers 200 to a new password for nobody."""
    id = site.user(atproto={"did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "password": "kept"})
    with pytest.raises(AccountUnknown):
        run(site, site.pipeline.accounts.find(id))
    assert site.row(id)["atproto"]["password"] == "kept"
    assert site.intents() == []


def test_an_account_that_lost_its_did_meanwhile_is_held_back(site: Site) -> None:
    user = hosted_user(site)
    found = site.pipeline.accounts.find(user.id)
    site.database["users"].update_one({"_id": user.id}, {"$unset": {"atproto": ""}})
    with pytest.raises(HeldBack):
        rotate(
            found, str(found.did), server=site.pipeline.administration, store=site.pipeline.provisioning,
            ledger=site.pipeline.ledger,
        )  # fmt: skip
    assert opens(site, user, str(user.password))


def test_a_shared_did_and_a_missing_one_are_refused_before_anything_is_done(site: Site) -> None:
    user = hosted_user(site)
    site.user("twin", atproto={"did": user.did, "password": "x"})
    lone = site.pipeline.accounts.find(site.user("lone"))
    everybody = site.pipeline.accounts.all()
    with pytest.raises(Misconfigured, match="twin"):
        may_rotate(site.pipeline.accounts.find(user.id), everybody)
    with pytest.raises(Misconfigured, match="provision --user lone"):
        may_rotate(lone, everybody)


@pytest.mark.parametrize("how", ["take_down", "deactivate"])
def test_an_inactive_account_gets_its_password_and_a_note(site: Site, how: str) -> None:
    """ACCT-2: the PDS says so only to whoever has the right password."""
    user = hosted_user(site)
    if how == "take_down":
        site.pds.accounts.take_down(str(user.did))
    else:
        site.pds.accounts.deactivate(site.pds.token(user))
    assert run(site, user).note
    assert site.intents() == []


def test_the_command_wants_to_be_confirmed_and_shows_no_password(
    cli: Run, slice_: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ACCT-5."""
    caplog.set_level(logging.DEBUG)
    user = slice_.user("ada")
    code, out = cli("accounts", "rotate", "--user", "ada", "--json")
    assert code == 2
    assert json.loads(out)["command"] == "ac-pipeline accounts rotate --user ada --confirm ada"
    assert slice_.account(user.id).password == user.password
    monkeypatch.setenv("PDS_ADMIN_PASSWORD", "wrong-one")
    assert cli("accounts", "rotate", "--user", "ada", "--confirm", "ada")[0] == 2
    assert slice_.account(user.id).password == user.password
    monkeypatch.setenv("PDS_ADMIN_PASSWORD", slice_.pds.admin_password)
    code, out = cli("accounts", "rotate", "--user", "ada", "--confirm", "ada", "--why", "leaked")
    assert code == 0
    password = slice_.account(user.id).password
    assert password != user.password
    (audited, _) = slice_.pipeline.audit.entries(action="rotate-password")
    assert (audited.outcome, audited.why) == ("done", "leaked")
    shown = out + caplog.text + repr(slice_.pipeline.audit.entries())
    assert str(password) not in shown
    assert str(user.password) not in shown
    assert "wrong-one" not in shown
