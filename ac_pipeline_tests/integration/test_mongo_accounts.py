"""Accounts, joined from the collections of a real database."""

from __future__ import annotations

import logging
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.database import Database

from ac_pipeline.accounts import GUEST_ID, LEAVING, Account, key_candidates
from ac_pipeline.errors import AccountDeleted, Misconfigured, NoCredentials
from ac_pipeline.mongo.accounts import MongoAccounts
from ac_pipeline.mongo.database import connect, disconnect

Mongo = Database[dict[str, Any]]
ANNA, BERT = "auth0|000000000000000000000001", "auth0|000000000000000000000002"


def user(id: str, did: str | None = None, **changes: Any) -> dict[str, Any]:
    name = id[-1]
    atproto = {"did": did or f"did:plc:{name}", "handle": f"u{name}.at.aesthetic.computer", "password": "hunter2"}
    return {"_id": id, "code": f"ac24aa{name}", "atproto": atproto, **changes}


def accounts(database: Mongo) -> dict[str, Account]:
    return {account.id: account for account in MongoAccounts(database).all()}


def test_a_user_is_joined_with_its_handle(mongo_database: Mongo) -> None:
    mongo_database["users"].insert_one(user(ANNA))
    mongo_database["@handles"].insert_one({"_id": ANNA, "handle": "Anna"})
    assert accounts(mongo_database)[ANNA] == Account(
        id=ANNA,
        key="anna",
        did="did:plc:1",
        handle="Anna",
        pds_handle="u1.at.aesthetic.computer",
        code="ac24aa1",
        password="hunter2",
    )


def test_an_account_is_read_once_more_right_before_it_is_written_to(mongo_database: Mongo) -> None:
    """DEL-9, ACCT-1: what its owner, or an operator, has changed since the list was read."""
    users, deletions = mongo_database["users"], mongo_database["account-deletions"]
    users.insert_many([user(ANNA), user(BERT), user(GUEST_ID)])
    source = MongoAccounts(mongo_database)
    before = accounts(mongo_database)
    assert {id: source.current(each).standing for id, each in before.items()} == {
        id: each.standing for id, each in before.items()
    }
    anna = before[ANNA]
    deletions.insert_one({"_id": ANNA, "state": "scheduled"})
    assert source.current(anna) == replace(anna, pending_deletion=LEAVING)
    deletions.update_one({"_id": ANNA}, {"$set": {"state": "restoring"}})
    assert isinstance(source.current(anna).blocked, AccountDeleted)
    deletions.delete_one({})
    assert source.current(replace(anna, pending_deletion=LEAVING)) == anna
    mongo_database["account-tombstones"].insert_one({"_id": sha256(ANNA.encode()).hexdigest()})
    assert source.current(anna).pending_deletion == LEAVING
    users.update_one({"_id": BERT}, {"$set": {"atproto.password": "another"}, "$unset": {"code": ""}})
    assert source.current(before[BERT]) == replace(before[BERT], password="another")
    users.delete_one({"_id": BERT})
    assert isinstance(source.current(before[BERT]).blocked, NoCredentials)


def test_the_guest_is_always_there(mongo_database: Mongo) -> None:
    """ACCT-4: one more account, with its own partition; without credentials it is blocked like any other."""
    (guest,) = MongoAccounts(mongo_database).all()
    assert (guest.id, guest.key, guest.is_guest) == (GUEST_ID, GUEST_ID, True)
    assert isinstance(guest.blocked, NoCredentials)
    mongo_database["users"].insert_one(user(GUEST_ID))
    (guest,) = MongoAccounts(mongo_database).all()
    assert (guest.key, guest.blocked) == (GUEST_ID, None)


@pytest.mark.parametrize(
    ("atproto", "missing"),
    [
        ({"did": "did:plc:1"}, "password"),
        ({"password": "hunter2"}, "DID"),
        ({"did": "did:plc:1", "password": ""}, "password"),
        ({"did": 5, "password": 5}, "DID and no password"),
        ({}, "DID and no password"),
        (None, "DID and no password"),
        ("did:plc:1", "DID and no password"),
    ],
)
def test_an_account_without_credentials_is_blocked_with_a_reason(
    mongo_database: Mongo, atproto: object, missing: str
) -> None:
    """ACCT-1."""
    mongo_database["users"].insert_one(user(ANNA, atproto=atproto))
    blocked = accounts(mongo_database)[ANNA].blocked
    assert isinstance(blocked, NoCredentials)
    assert f"no {missing}" in blocked.message
    assert "hunter2" not in blocked.message

    mongo_database["users"].replace_one({"_id": ANNA}, user(ANNA))
    assert accounts(mongo_database)[ANNA].blocked is None, "picked up by itself once credentials appear"


def test_credentials_in_the_older_flat_fields_are_found(mongo_database: Mongo) -> None:
    flat = {"atproto_did": "did:plc:old", "atproto_handle": "old.at.aesthetic.computer", "atproto_password": "flat"}
    mongo_database["users"].insert_many([{"_id": ANNA, **flat}, user(BERT, **flat, atproto={"did": "did:plc:new"})])
    found = accounts(mongo_database)
    assert (found[ANNA].did, found[ANNA].password, found[ANNA].pds_handle) == (
        "did:plc:old",
        "flat",
        "old.at.aesthetic.computer",
    )
    assert (found[BERT].did, found[BERT].password) == ("did:plc:new", None), "one DID's password opens no other"


def bury(database: Mongo, id: str) -> None:
    database["account-tombstones"].insert_one({"_id": sha256(id.encode()).hexdigest()})


@pytest.mark.parametrize("state", ["scheduled", "running", "failed"])
def test_an_account_that_is_to_be_deleted_is_leaving(mongo_database: Mongo, state: str) -> None:
    """DEL-7, DEL-9: its records can go as long as there are credentials; without them it is blocked."""
    mongo_database["users"].insert_many([user(ANNA), user(BERT, atproto={"did": "did:plc:bert"})])
    mongo_database["account-deletions"].insert_many([{"_id": id, "state": state} for id in (ANNA, BERT)])
    found = accounts(mongo_database)
    assert (found[ANNA].pending_deletion, found[ANNA].blocked) == (LEAVING, None)
    assert isinstance(found[BERT].blocked, AccountDeleted)
    assert state in str(found[BERT].blocked)


@pytest.mark.parametrize("state", ["restoring", "something new", None, 5])
def test_a_deletion_in_an_unclear_state_blocks_and_removes_nothing(mongo_database: Mongo, state: object) -> None:
    """DEL-9: whether the records are to go or to stay is not ours to guess."""
    mongo_database["users"].insert_one(user(ANNA))
    mongo_database["account-deletions"].insert_one({"_id": ANNA, "state": state})
    found = accounts(mongo_database)[ANNA]
    assert isinstance(found.blocked, AccountDeleted)
    assert found.pending_deletion is None


def test_a_cancelled_deletion_blocks_nothing(mongo_database: Mongo) -> None:
    """DEL-9."""
    mongo_database["users"].insert_one(user(ANNA))
    mongo_database["account-deletions"].insert_one({"_id": ANNA, "state": "cancelled"})
    assert (accounts(mongo_database)[ANNA].blocked, accounts(mongo_database)[ANNA].pending_deletion) == (None, None)


def test_a_tombstone_is_the_end_and_a_purged_account_is_gone(mongo_database: Mongo) -> None:
    """DEL-7, DEL-9: once purged, there is no partition, even where a document was left behind."""
    mongo_database["users"].insert_one(user(ANNA))
    mongo_database["tapes"].insert_one({"user": ANNA, "slug": "x"})
    bury(mongo_database, ANNA)
    assert accounts(mongo_database)[ANNA].pending_deletion == LEAVING
    mongo_database["users"].delete_one({"_id": ANNA})
    assert set(accounts(mongo_database)) == {GUEST_ID}


@pytest.mark.parametrize("state", ["cancelled", "restoring"])
def test_a_tombstone_that_a_row_contradicts_blocks_and_removes_nothing(mongo_database: Mongo, state: str) -> None:
    """DEL-9."""
    mongo_database["users"].insert_one(user(ANNA))
    mongo_database["account-deletions"].insert_one({"_id": ANNA, "state": state})
    bury(mongo_database, ANNA)
    found = accounts(mongo_database)[ANNA]
    assert isinstance(found.blocked, AccountDeleted)
    assert found.pending_deletion is None


def test_the_guest_never_leaves(mongo_database: Mongo) -> None:
    """DEL-9: whatever a row says, nobody's work is removed; it waits for a person."""
    mongo_database["users"].insert_one(user(GUEST_ID))
    mongo_database["account-deletions"].insert_one({"_id": GUEST_ID, "state": "scheduled"})
    bury(mongo_database, GUEST_ID)
    found = accounts(mongo_database)[GUEST_ID]
    assert found.pending_deletion is None
    assert isinstance(found.blocked, AccountDeleted)


def test_an_account_that_leaves_and_shares_its_repository_is_blocked(mongo_database: Mongo) -> None:
    """DEL-7: what would be removed may be the other one's."""
    shared = {"did": "did:plc:shared", "password": "x"}
    mongo_database["users"].insert_many([user(ANNA, atproto=shared), user("sotce-" + ANNA, atproto=shared)])
    mongo_database["account-deletions"].insert_one({"_id": ANNA, "state": "running"})
    found = accounts(mongo_database)
    assert found[ANNA].blocked is not None
    assert found["sotce-" + ANNA].blocked is not None


def test_an_owner_without_user_document_is_listed_and_blocked(mongo_database: Mongo) -> None:
    """OPS-5, ACCT-1, BORDER-1: found by `$group`; guests and empty owners are nobody, of odd ones it is said what is
    wrong."""
    mongo_database["kidlisp"].insert_many([{"user": user} for user in (ANNA, ANNA, None, "", 5, ["x"])])
    mongo_database["kidlisp"].insert_one({"source": "x"})
    mongo_database["moods"].insert_one({"user": BERT})
    mongo_database["@handles"].insert_one({"_id": BERT, "handle": "bert"})
    found = accounts(mongo_database)
    odd = [account for id, account in found.items() if id not in {GUEST_ID, ANNA, BERT}]
    said = sorted(each.blocked.message for each in odd if each.blocked is not None)
    assert [each.partition(":")[0] for each in said] == [
        "`user` of some kidlisp is of type int, not a text",
        "`user` of some kidlisp is of type list, not a text",
    ]
    assert found[BERT].key == "bert"
    assert found[ANNA].key.startswith("user:")
    assert isinstance(found[ANNA].blocked, NoCredentials)


def test_ids_of_the_sister_tenant_count_only_with_something_to_mirror(mongo_database: Mongo) -> None:
    mongo_database["users"].insert_many([{"_id": "sotce-1", "code": "ac24s1"}, {"_id": "sotce-2", "code": "ac24s2"}])
    mongo_database["moods"].insert_one({"user": "sotce-2"})
    assert set(accounts(mongo_database)) == {GUEST_ID, "sotce-2"}


def test_two_accounts_with_one_repository_are_not_both_written(mongo_database: Mongo) -> None:
    """WRITE-12: each would take the other's records for orphans."""
    mongo_database["users"].insert_many([user(ANNA), user("sotce-1", did="did:plc:1")])
    found = accounts(mongo_database)
    assert found[ANNA].blocked is None
    assert isinstance(found["sotce-1"].blocked, NoCredentials)
    assert "ac24aa1" in str(found["sotce-1"].blocked) or found[ANNA].key in str(found["sotce-1"].blocked)

    mongo_database["users"].insert_one(user(BERT, did="did:plc:1"))
    found = accounts(mongo_database)
    assert isinstance(found[ANNA].blocked, NoCredentials)
    assert isinstance(found[BERT].blocked, NoCredentials)


def test_a_new_pds_handle_changes_neither_key_nor_identity(mongo_database: Mongo) -> None:
    """ACCT-3."""
    mongo_database["users"].insert_one(user(ANNA))
    before = accounts(mongo_database)[ANNA]
    mongo_database["users"].update_one({"_id": ANNA}, {"$set": {"atproto.handle": "new.at.aesthetic.computer"}})
    after = accounts(mongo_database)[ANNA]
    assert (after.id, after.key, after.did) == (before.id, before.key, before.did)
    assert after.pds_handle == "new.at.aesthetic.computer"


@pytest.fixture
def anna_and_bert(mongo_database: Mongo) -> MongoAccounts:
    mongo_database["users"].insert_many([user(ANNA), user(BERT)])
    mongo_database["@handles"].insert_many([{"_id": ANNA, "handle": "Anna"}, {"_id": BERT, "handle": "bert b"}])
    return MongoAccounts(mongo_database)


@pytest.mark.parametrize(
    "selector",
    ["anna", "Anna", "@anna", "@ANNA", " anna ", "ac24aa1", "AC24AA1", "did:plc:1", "u1.at.aesthetic.computer", ANNA],
)
def test_a_user_is_found_by_any_of_its_names(anna_and_bert: MongoAccounts, selector: str) -> None:
    assert anna_and_bert.find(selector).id == ANNA


@pytest.mark.parametrize("selector", ["nobody", "@ac24zzz", "", "@", ANNA.upper(), "did:plc:zz"])
def test_an_unknown_user_is_named(anna_and_bert: MongoAccounts, selector: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        anna_and_bert.find(selector)
    assert repr(selector) in caught.value.message


def test_a_handle_that_is_no_key_is_a_selector_all_the_same(anna_and_bert: MongoAccounts) -> None:
    assert anna_and_bert.find("@bert b").key == "ac24aa2"


NAMES = ("anna", "Anna", "ac1", "AC1", GUEST_ID, "auth0|2", "user:x")
IDS = ("auth0|1", "auth0|2", "auth0|3", "sotce-auth0|1", "sotce-auth0|2", GUEST_ID, "anna")
ALONE = "auth0|alone"
KEY_OF_ALONE = key_candidates(id=ALONE, handle=None, code=None, did=None)[-1]
BY_ID = [key_candidates(id=id, handle=None, code=None, did=None)[-1] for id in IDS]
SELECTORS = (*NAMES, *IDS, *BY_ID, "@anna", "did:plc:a", "nobody")


@st.composite
def platforms(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Who has a user document, a handle, a deletion, documents: any of it without any other, under names that meet."""
    made: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("users", "@handles", "account-deletions", "account-tombstones", "moods", "kidlisp")
    }
    for id in IDS:
        if draw(st.booleans()):
            stored = {"did": draw(st.sampled_from([None, None, "did:plc:a", "did:plc:b"])), "password": "hunter2"}
            made["users"].append({"_id": id, "code": draw(st.sampled_from([None, *NAMES])), "atproto": stored})
        if draw(st.booleans()):
            made["@handles"].append({"_id": id, "handle": draw(st.sampled_from(NAMES))})
        if draw(st.booleans()):
            made[draw(st.sampled_from(["moods", "kidlisp"]))].append({"user": id})
        end = draw(st.sampled_from([None, None, None, "scheduled", "cancelled", "buried"]))
        if end == "buried":
            made["account-tombstones"].append({"_id": sha256(id.encode()).hexdigest()})
        elif end is not None:
            made["account-deletions"].append({"_id": id, "state": end})
    made["kidlisp"] += [{"user": [IDS[0]]}, {"user": None}]
    return made


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(platforms())
def test_who_is_named_is_the_same_as_among_everybody(
    mongo_database: Mongo, platform: dict[str, list[dict[str, Any]]]
) -> None:
    """OPS-6: without a look at all documents, with the same keys, blocks and refusals. The key of who is known by a
    document alone takes that look."""
    for name, rows in platform.items():
        mongo_database[name].delete_many({})
        mongo_database[name].insert_many([*rows, {"_id": f"auth0|of {name}", "user": ALONE}])
    found = MongoAccounts(mongo_database)
    assert found.find(KEY_OF_ALONE).id == ALONE
    for name in SELECTORS:
        assert said_by(found, name) == said_by(found, name, KEY_OF_ALONE)


def said_by(accounts: MongoAccounts, *names: str) -> object:
    try:
        first = accounts.select(names)[0]
    except Misconfigured as error:
        return error.message
    return replace(first, blocked=None), first.password, repr(first.blocked)


def test_several_selectors_give_each_account_once(anna_and_bert: MongoAccounts) -> None:
    assert [account.id for account in anna_and_bert.select(["@bert b", "anna", ANNA, GUEST_ID])] == [
        BERT,
        ANNA,
        GUEST_ID,
    ]
    assert anna_and_bert.select([]) == []


@pytest.mark.usefixtures("anna_and_bert")
def test_passwords_stay_out_of_logs_and_reprs(mongo_database: Mongo, caplog: pytest.LogCaptureFixture) -> None:
    """ACCT-5: the driver, which logs whole answers at DEBUG, included."""
    host, port = mongo_database.client.address or ("127.0.0.1", 27017)
    with caplog.at_level(logging.DEBUG):
        found = MongoAccounts(connect(f"mongodb://{host}:{port}/")[mongo_database.name]).all()
        disconnect()
    assert "pymongo" in caplog.text
    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr(found)
    assert [account.password for account in found if account.id == ANNA] == ["hunter2"]
