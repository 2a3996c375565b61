"""PDS accounts are made exactly once, with the right handle, on a real PDS and with kills at every step."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.errors import Misconfigured, OutcomeUnknown, RateLimited, ServerFailed, ServiceUnreachable
from ac_pipeline.items import State
from ac_pipeline.local.pds_server import PdsOptions
from ac_pipeline.mongo.provisioning import Credentials, Kind
from ac_pipeline.operations.provision_plan import ProvisionPlan, plan_provision, planned
from ac_pipeline.operations.provisioning import GOOD, Outcome, Provisioner, ProvisionReport
from ac_pipeline.settings import Settings
from ac_pipeline.wiring import Pipeline, open_pipeline
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.integration.conftest import Run

EMAIL = "example.test"
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Killed(BaseException):
    """The process ends here."""


class Faulty:
    """A port that ends at one of its calls: before it reaches the real one, or after."""

    def __init__(self, real: Any, method: str, fault: BaseException, *, after: bool, times: int = 1) -> None:
        self.real, self.method, self.fault, self.after, self.left = real, method, fault, after, times

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        if name != self.method:
            return real

        def call(*arguments: Any, **more: Any) -> Any:
            if not self.left:
                return real(*arguments, **more)
            self.left -= 1
            if self.after:
                real(*arguments, **more)
            raise self.fault

        return call


class Site:
    """A pipeline whose operator knows the PDS's administrator password."""

    def __init__(self, pipeline: Pipeline, database: Any, pds: Any) -> None:
        self.pipeline, self.database, self.pds = pipeline, database, pds
        self.slept: list[float] = []

    def user(self, handle: str | None = None, *, code: str | None = None, id: str | None = None, **fields: Any) -> str:
        """A platform user without a PDS account; the Mongo id."""
        id = id or f"auth0|{ObjectId()}"
        self.database["users"].insert_one({"_id": id, **({"code": code} if code else {}), **fields})
        if handle is not None:
            self.database["@handles"].insert_one({"_id": id, "handle": handle})
        return id

    def provisioner(self, server: Any = None, store: Any = None, inactive: Any = frozenset) -> Provisioner:
        real = self.pipeline.administration
        return Provisioner(
            server or real,
            store or self.pipeline.provisioning,
            real.describe(),
            inactive,
            now=lambda: CREATED,
            sleep=self.slept.append,
        )

    def plan(self, limit: int | None = None) -> ProvisionPlan:
        return plan_provision(
            self.pipeline.accounts.all(),
            users=self.pipeline.provisioning.users(),
            unfinished=self.pipeline.provisioning.unfinished(),
            description=self.pipeline.administration.describe(),
            domain=EMAIL,
            limit=limit,
        )

    def run(self, server: Any = None, store: Any = None, inactive: Any = frozenset) -> ProvisionReport:
        return self.provisioner(server, store, inactive).run(self.plan().accounts, lambda done, total: None)

    def row(self, id: str) -> dict[str, Any]:
        found = self.database["users"].find_one({"_id": id})
        assert found is not None
        return dict(found)

    def hosted(self) -> set[str]:
        return {status.did for status in self.pipeline.server.list_repositories()}

    def intents(self) -> list[Any]:
        return list(self.pipeline.provisioning.unfinished())


@contextmanager
def open_site(database: Any, uri: str, pds: Any, folder: Path, **more: Any) -> Iterator[Site]:
    settings = Settings(
        mongodb_connection_string=uri,
        mongodb_name=database.name,
        pds_url=pds.url,
        pds_admin_password=more.pop("admin_password", pds.admin_password),
        ac_renditions_url=str(folder / "renditions"),
        dagster_home=folder,
        **more,
    )
    with open_pipeline(settings) as pipeline:
        yield Site(pipeline, database, pds)
    database.client.drop_database(settings.ac_ledger_database)


@pytest.fixture
def site(mongo_database: Any, mongo_server: Any, pds: Any, tmp_path: Path) -> Iterator[Site]:
    with open_site(mongo_database, mongo_server.uri, pds, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def pds_with_invites(services_folder: Path) -> Iterator[Pds]:
    folder = services_folder / "pds-with-invites"
    folder.mkdir()
    server = Pds(folder, PdsOptions(invites=True))
    yield server
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


def unique(length: int = 10) -> str:
    return f"u{secrets.token_hex(16)}"[:length]


def code() -> str:
    return f"ac25{secrets.token_hex(4)}"


def handle_of(pds: Any, did: str) -> str:
    return str(httpx.get(f"{pds.url}/xrpc/com.atproto.repo.describeRepo", params={"repo": did}).json()["handle"])


# ---------------------------------------------------------------- handles


def test_the_pds_handle_is_the_platforms_with_dots_and_underscores_as_hyphens(site: Site) -> None:
    name = unique(6)
    id = site.user(f"{name.upper()}.b_c", code=code(), theme="dark")
    report = site.run()
    (made,) = report.made
    row = site.row(id)
    assert made.outcome is Outcome.MADE
    assert made.handle == f"{name}-b-c.test"
    assert row["theme"] == "dark"
    assert set(row["atproto"]) == {"did", "handle", "password", "created"}
    assert row["atproto"]["handle"] == handle_of(site.pds, row["atproto"]["did"]) == made.handle
    assert row["atproto"]["created"] == CREATED.replace(tzinfo=None)
    assert re.fullmatch(r"[A-Za-z0-9]{32}", row["atproto"]["password"])
    assert site.pipeline.administration.identify(made.handle, row["atproto"]["password"]) == row["atproto"]["did"]
    assert site.pipeline.administration.account_info(made.did or "").handle == made.handle
    assert site.intents() == []


@pytest.mark.parametrize(
    "handle", ["admin", "test", "ab", "a.", "-abc", "naïve", "nineteen-letters-xx", None],
    ids=["reserved", "reserved too", "2 characters", "ends in a hyphen", "begins with one", "no ASCII", "19", "none"],
)  # fmt: skip
def test_a_handle_the_pds_refuses_gives_way_to_the_user_code(site: Site, handle: str | None) -> None:
    """Aesthetic-computer facts, section 2.1; reserved names are not forced."""
    own = code()
    id = site.user(handle, code=own)
    (made,) = site.run().made
    assert (made.outcome, made.handle) == (Outcome.MADE, f"{own}.test")
    assert site.row(id)["atproto"]["handle"] == f"{own}.test"


@pytest.mark.parametrize("length", [3, 18])
def test_handles_of_3_to_18_characters_are_taken_as_they_are(site: Site, length: int) -> None:
    name = secrets.token_hex(16)[:length] if length > 3 else f"q{secrets.token_hex(1)}"
    site.user(name, code=code())
    (made,) = site.run().made
    assert made.outcome is Outcome.MADE
    if length > 3 or not made.note:  # 256 names of three characters may meet one of another test
        assert made.handle == f"{name}.test"


def test_a_handle_that_somebody_else_has_is_never_adopted(site: Site) -> None:
    other = site.pds.create_account(unique())
    own = code()
    id = site.user(other.handle, code=own)
    (made,) = site.run().made
    assert made.handle == f"{own}.test"
    assert other.did in made.note
    assert site.row(id)["atproto"]["did"] != other.did


def test_two_users_whose_handles_become_one_get_an_account_each(site: Site) -> None:
    name, second = unique(6), code()
    site.user(f"{name}.x", code=code())
    site.user(f"{name}_x", code=second)
    made = {each.handle for each in site.run().made}
    assert len(made) == 2
    assert f"{name}-x.test" in made


def test_a_handle_of_a_deactivated_account_is_taken_though_the_pds_does_not_say_so(site: Site) -> None:
    """The reference PDS answers 500."""
    other, own = site.pds.create_account(unique()), code()
    site.pds.accounts.deactivate(site.pds.token(other))
    site.user(other.handle, code=own)
    before = site.hosted()
    (first,) = site.run().made
    assert first.outcome is Outcome.FAILED
    assert site.hosted() == before
    (made,) = site.run(inactive=lambda: {other.pds_handle}).made
    assert (made.outcome, made.handle) == (Outcome.MADE, f"{own}.test")


def test_a_user_for_whom_no_handle_is_left_is_refused_and_the_others_are_made(site: Site) -> None:
    other = site.pds.create_account(unique())
    lost = site.user("admin", code=other.handle)
    site.user(unique(), code=code())
    report = site.run()
    assert sorted(each.outcome for each in report.made) == [Outcome.MADE, Outcome.REFUSED]
    assert not report.clean
    assert "atproto" not in site.row(lost)
    assert site.intents() == []


def test_an_address_the_pds_has_already_is_a_users_account_from_before_and_no_second_one_is_made(site: Site) -> None:
    """The e-mail address follows from the code: not even a lost ledger leads to a second account."""
    own = code()
    id = site.user(unique(), code=own)
    site.run()
    site.database["users"].update_one({"_id": id}, {"$unset": {"atproto": ""}})
    before = site.hosted()
    (made,) = site.run().made
    assert made.outcome is Outcome.REFUSED
    assert "Email already taken" in made.note
    assert site.hosted() == before


# ---------------------------------------------------------------- who gets one


def test_nobody_gets_an_account_who_has_one_leaves_or_is_unclear(site: Site) -> None:
    """ACCT-1, DEL-9: users with a DID in either form, leaving, purged, of the sister tenant without work, or odd."""
    made = site.user(unique(), code=code())
    site.user("has", code=code(), atproto={"did": "did:plc:has"})
    site.user("flat", code=code(), atproto_did="did:plc:flat")
    site.user("odd", code=code(), atproto={"password": "kept"})
    site.user("sister", id="sotce-auth0|1")
    site.user()  # neither handle nor code
    for state in ("scheduled", "running", "failed", "restoring"):
        site.database["account-deletions"].insert_one({"_id": site.user(f"l{state}", code=code()), "state": state})
    purged = "auth0|purged"
    site.database["account-tombstones"].insert_one({"_id": sha256(purged.encode()).hexdigest()})
    site.database["moods"].insert_one({"user": purged, "mood": "gone"})
    site.database["moods"].insert_one({"user": "auth0|no-document", "mood": "here"})
    plan = site.plan()
    assert [each.account.id for each in plan.accounts] == [made]
    assert len(plan.skipped) == 8  # the guest, odd, nameless, four that leave, one without a user document


def test_who_leaves_or_gets_a_did_after_the_plan_was_made_gets_no_account(site: Site) -> None:
    first, second = site.user("one", code=code()), site.user("two", code=code())
    plan = site.plan()
    site.database["account-deletions"].insert_one({"_id": first, "state": "scheduled"})
    site.database["users"].update_one({"_id": second}, {"$set": {"atproto.did": "did:plc:theirs"}})
    before = site.hosted()
    report = site.provisioner().run(plan.accounts, lambda done, total: None)
    assert [each.outcome for each in report.made] == [Outcome.SKIPPED] * 2
    assert site.hosted() == before
    assert site.row(second)["atproto"] == {"did": "did:plc:theirs"}


def test_the_limit_takes_what_is_unfinished_first(site: Site) -> None:
    for _ in range(3):
        site.user(unique(), code=code())
    last = max(site.plan().accounts, key=lambda each: each.account.key)
    with pytest.raises(Killed):
        site.provisioner(server=Faulty(site.pipeline.administration, "create_account", Killed(), after=True)).make(last)
    (first,) = site.plan(limit=1).accounts
    assert first.unfinished
    assert first.account.id == last.account.id


# ---------------------------------------------------------------- exactly once

STEPS = [
    ("store", "begin"),
    ("server", "create_account"),
    ("store", "store_account"),
    ("store", "end"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("port", "step"), STEPS, ids=[step for _, step in STEPS])
def test_a_kill_at_any_step_neither_loses_the_password_nor_makes_a_second_account(
    site: Site, port: str, step: str, after: bool
) -> None:
    id = site.user(unique(), code=code())
    before = site.hosted()
    ports = {"server": site.pipeline.administration, "store": site.pipeline.provisioning}
    ports[port] = Faulty(ports[port], step, Killed(), after=after)
    with pytest.raises(Killed):
        site.run(**ports)
    midway = site.hosted() - before
    report = site.run()
    assert all(each.outcome in GOOD for each in report.made)
    (did,) = site.hosted() - before
    assert midway in (set(), {did})
    stored = site.row(id)["atproto"]
    assert stored["did"] == did
    assert site.pipeline.administration.identify(stored["handle"], stored["password"]) == did
    assert site.intents() == []
    assert site.run().made == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_between_two_handles_is_repaired_too(site: Site, after: bool) -> None:
    own = code()
    id = site.user("admin", code=own)
    before = site.hosted()
    with pytest.raises(Killed):
        site.run(store=Faulty(site.pipeline.provisioning, "try_handle", Killed(), after=after))
    (made,) = site.run().made
    assert made.handle == site.row(id)["atproto"]["handle"] == f"{own}.test"
    assert len(site.hosted() - before) == 1


def test_a_lost_answer_is_looked_up_by_signing_in(site: Site) -> None:
    id = site.user(unique(), code=code())
    before = site.hosted()
    lost = Faulty(site.pipeline.administration, "create_account", OutcomeUnknown("no answer"), after=True)
    (made,) = site.run(server=lost).made
    assert made.outcome is Outcome.MADE
    assert site.hosted() - before == {site.row(id)["atproto"]["did"]}


def test_a_lost_request_is_tried_again_by_the_next_run_with_the_same_password(site: Site) -> None:
    id = site.user(unique(), code=code())
    lost = Faulty(site.pipeline.administration, "create_account", OutcomeUnknown("no answer"), after=False)
    (failed,) = site.run(server=lost).made
    assert failed.outcome is Outcome.FAILED
    (intent,) = site.intents()
    (made,) = site.run().made
    assert made.outcome is Outcome.MADE
    assert site.row(id)["atproto"]["password"] == intent.password


def test_our_own_account_is_recognised_where_its_handle_is_taken(site: Site) -> None:
    """The first request was still on its way when the next run looked."""
    site.user(unique(), code=code())
    before = site.hosted()
    with pytest.raises(Killed):
        site.run(server=Faulty(site.pipeline.administration, "create_account", Killed(), after=True))

    class Late(Faulty):
        """Does not find the account at first."""

        def identify(self, handle: str, password: str) -> str | None:
            if self.left:
                self.left -= 1
                return None
            return site.pipeline.administration.identify(handle, password)

    (made,) = site.run(server=Late(site.pipeline.administration, "", Killed(), after=False)).made
    assert made.outcome is Outcome.MADE
    assert site.hosted() - before == {made.did}


def test_an_account_that_mongo_cannot_hold_any_more_is_named_and_its_password_is_kept(site: Site) -> None:
    id = site.user(unique(), code=code())
    with pytest.raises(Killed):
        site.run(server=Faulty(site.pipeline.administration, "create_account", Killed(), after=True))
    site.database["users"].update_one({"_id": id}, {"$set": {"atproto": {"did": "did:plc:theirs", "password": "x"}}})
    (made,) = site.run().made
    assert made.outcome is Outcome.CONFLICT
    assert "did:plc:theirs" in made.note
    assert site.row(id)["atproto"] == {"did": "did:plc:theirs", "password": "x"}
    assert len(site.intents()) == 1


def test_an_unfinished_account_of_a_purged_user_is_named(site: Site) -> None:
    id = site.user(unique(), code=code())
    with pytest.raises(Killed):
        site.run(server=Faulty(site.pipeline.administration, "create_account", Killed(), after=True))
    site.database["users"].delete_one({"_id": id})
    (made,) = site.run().made
    assert made.outcome is Outcome.CONFLICT
    assert "no user document" in made.note


def test_what_was_begun_for_a_user_who_leaves_is_dropped_when_no_account_was_made(site: Site) -> None:
    id = site.user(unique(), code=code())
    with pytest.raises(Killed):
        site.run(server=Faulty(site.pipeline.administration, "create_account", Killed(), after=False))
    site.database["account-deletions"].insert_one({"_id": id, "state": "scheduled"})
    before = site.hosted()
    (made,) = site.run().made
    assert made.outcome is Outcome.SKIPPED
    assert site.intents() == []
    assert site.hosted() == before


@pytest.mark.parametrize("nested", [None, {}, {"handle": "kept.test"}, "a text"])
def test_credentials_are_stored_in_their_form_whatever_stood_there(site: Site, nested: Any) -> None:
    id = site.user(unique(), code=code(), atproto=nested)
    site.run()
    stored = site.row(id)["atproto"]
    assert {"did", "handle", "password", "created"} == set(stored)


# ---------------------------------------------------------------- limits


def test_a_limit_of_new_accounts_is_waited_for(site: Site) -> None:
    """LIMIT-1: 100 accounts in 5 minutes."""
    site.user(unique(), code=code())
    full = Faulty(
        site.pipeline.administration, "create_account", RateLimited("full", retry_after=240.0), after=False, times=2
    )
    (made,) = site.run(server=full).made
    assert made.outcome is Outcome.MADE
    assert site.slept == [240.0, 240.0]


@pytest.mark.parametrize(
    ("fault", "tried"), [(ServiceUnreachable("gone"), 1), (ServerFailed("500"), 3)], ids=["unreachable", "in trouble"]
)
def test_a_pds_in_trouble_ends_the_run_and_the_next_one_does_the_rest(
    site: Site, fault: BaseException, tried: int
) -> None:
    for _ in range(4):
        site.user(unique(), code=code())
    report = site.run(server=Faulty(site.pipeline.administration, "create_account", fault, after=False, times=9))
    assert report.error is fault
    assert (len(report.made), report.left) == (tried, 4 - tried)
    assert [each.outcome for each in site.run().made] == [Outcome.MADE] * 4


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
    pds = Pds(folder, PdsOptions())
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


def test_an_intent_shows_no_secret(site: Site) -> None:
    """ACCT-5."""
    site.user(unique(), code=code())
    with pytest.raises(Killed):
        site.run(server=Faulty(site.pipeline.administration, "create_account", Killed(), after=False))
    (intent,) = site.intents()
    assert intent.kind is Kind.PROVISION
    assert intent.password not in repr(intent)
    assert intent.password not in repr(Credentials("did:plc:x", intent.password))
