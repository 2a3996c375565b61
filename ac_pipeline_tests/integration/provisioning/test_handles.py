"""Who gets a PDS account, and under which handle, on a real PDS."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from ac_pipeline.operations.accounts.handles import Handle, HandleState, look_at_handles
from ac_pipeline.operations.accounts.provisioning import Outcome
from ac_pipeline_tests.integration.provisioning.site import CREATED, Faulty, Killed, Site, code, handle_of, unique

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
    assert set(row["atproto"]) == {"did", "handle", "password", "created", "createdAt"}
    assert row["atproto"]["handle"] == handle_of(site.pds, row["atproto"]["did"]) == made.handle
    assert row["atproto"]["created"] == row["atproto"]["createdAt"] == CREATED.replace(tzinfo=None)
    assert site.pipeline.accounts.find(id).created == "2026-01-02T03:04:05.000Z"
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


# ---------------------------------------------------------------- the platform makes accounts, too


def test_an_account_the_platform_makes_meanwhile_is_no_reason_for_a_second_one(site: Site) -> None:
    """Section 15: it is there after our look at the document, and stored while we wait before our own attempt."""
    name = unique()
    id = site.user(name, code=code())
    (wanted,) = site.plan().accounts
    made: list[str] = []

    class Platform:
        """The PDS, on which the platform makes the account as soon as we have begun."""

        def __getattr__(self, attribute: str) -> Any:
            return getattr(site.pipeline.administration, attribute)

        def holder_of(self, handle: str) -> str | None:
            made.append(str(site.pds.create_account(name).did))
            return site.pipeline.administration.holder_of(handle)

    provisioner = replace(site.provisioner(server=Platform()), sleep=lambda _: store())

    def store() -> None:
        site.database["users"].update_one({"_id": id}, {"$set": {"atproto": {"did": made[0], "password": "x" * 32}}})

    before = site.hosted()
    done = provisioner.make(wanted)
    assert (done.outcome, done.note) == (Outcome.SKIPPED, f"it has the DID {made[0]}")
    assert site.hosted() - before == set(made)
    assert site.row(id)["atproto"]["did"] == made[0]
    assert site.intents() == []


# ---------------------------------------------------------------- handles that do not agree


def rename(site: Site, id: str, handle: str | None) -> None:
    site.database["@handles"].delete_one({"_id": id})
    if handle is not None:
        site.database["@handles"].insert_one({"_id": id, "handle": handle})


def handles(site: Site, *ids: str, repair: bool = False) -> dict[str, Handle]:
    """By Mongo id."""
    found = look_at_handles(site.pipeline, ids, repair=repair, why="renamed")
    return {id: found[place] for place, id in enumerate(ids)}


def test_a_rename_that_did_not_reach_the_pds_is_found_and_repaired_on_both_sides(site: Site) -> None:
    """Upstream's rule; nothing is changed without being asked to, and a second repair finds nothing."""
    id, old, new = site.user(unique(), code=code()), unique(), unique(6)
    site.run()
    did = site.row(id)["atproto"]["did"]
    rename(site, id, f"{new.upper()}.b_c")
    looked = handles(site, id)[id]
    assert (looked.state, looked.wanted) == (HandleState.DIFFERS, f"{new}-b-c.test")
    assert handle_of(site.pds, did) == site.row(id)["atproto"]["handle"] == looked.pds != looked.wanted
    assert site.pipeline.audit.entries() == []
    assert handles(site, id, repair=True)[id].state is HandleState.REPAIRED
    assert handle_of(site.pds, did) == site.row(id)["atproto"]["handle"] == f"{new}-b-c.test"
    assert site.row(id)["atproto"]["syncedAt"].endswith("Z")
    assert [(each.action, each.why, dict(each.counts)) for each in site.pipeline.audit.entries()] == [
        ("repair-handles", "renamed", {"repaired": 1})
    ]
    assert handles(site, id, repair=True)[id].state is HandleState.RIGHT
    site.database["users"].update_one({"_id": id}, {"$set": {"atproto.handle": f"{old}.test"}})
    assert handles(site, id)[id].state is HandleState.STORED
    handles(site, id, repair=True)
    assert site.row(id)["atproto"]["handle"] == f"{new}-b-c.test"


@pytest.mark.parametrize("name", ["admin", "ab", "naïve", "nineteen-letters-xx", "taken", None])
def test_the_user_code_is_right_where_the_pds_would_refuse_the_platforms_handle(site: Site, name: str | None) -> None:
    """Reserved, too short, invalid, too long, taken, none: looking makes no account of it."""
    own = code()
    id = site.user(unique(), code=own)
    site.run()
    did = site.row(id)["atproto"]["did"]
    rename(site, id, site.pds.create_account(unique()).handle if name == "taken" else name)
    before = site.hosted()
    assert (handles(site, id)[id].state, handles(site, id)[id].wanted) == (HandleState.DIFFERS, f"{own}.test")
    handles(site, id, repair=True)
    assert handle_of(site.pds, did) == site.row(id)["atproto"]["handle"] == f"{own}.test"
    assert handles(site, id)[id].state is HandleState.RIGHT
    assert site.hosted() == before


def test_handles_nobody_can_judge_are_left_alone(site: Site) -> None:
    """A DID of two users, one the PDS does not host, and a user without any name."""
    first, second, gone = (site.user(unique(), code=code()) for _ in range(3))
    site.run()
    did = site.row(first)["atproto"]["did"]
    site.database["users"].update_one({"_id": second}, {"$set": {"atproto.did": did}})
    site.database["users"].update_one({"_id": gone}, {"$set": {"atproto.did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"}})
    for id in (first, second, gone):
        rename(site, id, unique())
    before = handle_of(site.pds, did)
    assert {each.state for each in handles(site, first, second, gone, repair=True).values()} == {HandleState.LEFT}
    assert handle_of(site.pds, did) == before
