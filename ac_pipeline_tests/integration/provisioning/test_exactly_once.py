"""PDS accounts are made exactly once: with kills at every step, lost answers, limits and outages."""

from __future__ import annotations

from typing import Any

import pytest

from ac_pipeline.errors import OutcomeUnknown, RateLimited, ServerFailed, ServiceUnreachable
from ac_pipeline.mongo.accounts import Credentials, Kind
from ac_pipeline.operations.accounts.provisioning import GOOD, Outcome
from ac_pipeline_tests.integration.provisioning.site import Faulty, Killed, Site, code, unique

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
    assert {"did", "handle", "password", "created", "createdAt"} == set(stored)


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


def test_an_intent_shows_no_secret(site: Site) -> None:
    """ACCT-5."""
    site.user(unique(), code=code())
    with pytest.raises(Killed):
        site.run(server=Faulty(site.pipeline.administration, "create_account", Killed(), after=False))
    (intent,) = site.intents()
    assert intent.kind is Kind.PROVISION
    assert intent.password not in repr(intent)
    assert intent.password not in repr(Credentials("did:plc:x", intent.password))
