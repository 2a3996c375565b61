"""Documents, links and users that hold any BSON value, in a real database: what is said of them, and nobody else."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from bson import ObjectId
from bson.errors import BSONError
from pymongo.errors import PyMongoError

from ac_pipeline.accounts import Account
from ac_pipeline.errors import NoCredentials
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.accounts import MongoAccounts
from ac_pipeline.mongo.changes.pending import MongoChanges
from ac_pipeline_tests.bson_values import VALUES
from ac_pipeline_tests.harness import WHEN, Slice
from ac_pipeline_tests.integration.conftest import Run

ANNA, BERT = "auth0|000000000000000000000001", "auth0|000000000000000000000002"
NEEDED = {"painting": "code", "mood": "mood", "piece": "slug", "kidlisp": "source", "tape": "slug"}
_REFUSED = {"surrogate", "uuid", "date-with-zone", "date-out-of-range"}
_STORED = {name: value for name, value in VALUES.items() if name not in _REFUSED}
"""What the driver can send, and the local server takes."""


def insert(collection: Any, document: dict[str, Any]) -> None:
    """Where a server takes it: an array or a regular expression is no `_id`, nor are two equal ones."""
    with suppress(PyMongoError, BSONError):
        collection.insert_one(document)


def test_odd_documents_are_quarantined_and_everybody_else_is_published(cli: Run, slice_: Slice) -> None:
    """BORDER-1: every value, in the field each type needs, in links, ids, times, flags and owners; all commands end."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    slice_.add("mood", bob, mood="fine")
    good = [
        slice_.add("mood", ada, mood=f"mood {n}", atproto={"rkey": v, "did": v}) for n, v in enumerate(_STORED.values())
    ]
    for value in _STORED.values():
        for media in MEDIA_TYPES:
            slice_.add(media.name, ada, **{NEEDED[media.name]: value})
        slice_.add("mood", ada, mood="when", when=value)
        slice_.add("piece", ada, slug="home", atproto=value)
        moods = slice_.database["moods"]
        insert(moods, {"_id": value, "user": ada.id, "when": WHEN, "mood": "odd id"})
        insert(moods, {"user": value, "when": WHEN, "mood": "odd owner"})
        insert(moods, {"user": ada.id, "when": WHEN, "mood": "odd flag", "deleted": value, "visibility": value})
    code, out = cli("sync", "--json")
    report = json.loads(out)
    assert (code, report["run_again"]) == (1, [])
    assert {failure["user"] for failure in report["failures"]} == {"ada"}
    unclear = [each for each in report["failures"] if "`" not in each["message"] and "Mongo" not in each["message"]]
    assert [each for each in unclear if each["class"] != "source-missing" and "slug" not in each["message"]] == []
    assert len(slice_.records(bob, "mood")) == 1
    refs = {record.get("ref") for record in slice_.records(ada, "mood").values()}
    assert set(good) <= refs
    for command in ("plan", "status", "verify", "items", "links", "differences", "erasure"):
        code, _ = cli(command, "--json")
        assert code in {0, 1}, command
    code, out = cli("sync", "--json")
    assert json.loads(out)["types"]["mood"]["written"] == 0


def test_an_item_whose_owner_is_no_text_is_nobodys_and_not_the_guests(cli: Run, slice_: Slice) -> None:
    """BORDER-1: whoever names it is told so, and its owner's list shows what is wrong."""
    id = slice_.database["moods"].insert_one({"user": 5, "when": WHEN, "mood": "odd owner"}).inserted_id
    assert cli("plan", "--item", f"mood:{id}")[0] == 2
    code, out = cli("accounts", "list", "--json")
    assert code in {0, 1}
    assert "`user` of some moods is of type int, not a text" in out


def test_odd_documents_and_users_do_not_blind_the_content_sensor(slice_: Slice) -> None:
    """BORDER-1, RUN-12: neither its feed nor its compare."""
    ada = slice_.user("ada")
    own = slice_.database.client[slice_.pipeline.settings.ac_ledger_database]
    changes = MongoChanges(slice_.database, own, feed_seconds=0.2)
    place = changes.look(None, (), slice_.pipeline.accounts.all).position
    for name, value in _STORED.items():
        slice_.add("painting", ada, code=value, slug=value, atproto=value)
        insert(slice_.database["moods"], {"_id": value, "user": ada.id, "mood": value, "when": value})
        insert(slice_.database["moods"], {"user": value, "mood": "x", "when": WHEN})
        insert(slice_.database["users"], {"_id": value, "code": value, "atproto": value})
        insert(slice_.database["users"], {"_id": f"auth0|{name}", "code": value, "atproto": {"did": value}})
    item = f"mood:{slice_.add('mood', slice_.user('bob'), mood='new')}"
    for start in (place, None):
        seen = changes.look(start, (), slice_.pipeline.accounts.all)
        assert seen.failed is None
        assert item in {work.item for work in changes.look(start, (item,), slice_.pipeline.accounts.all).works}


@pytest.mark.parametrize("name", list(_STORED))
def test_a_user_document_with_any_value_is_blocked_by_name_and_changes_nobody_else(
    mongo_database: Any, name: str
) -> None:
    """BORDER-1: `_id`, code, credentials and their places, handles and deletions."""
    value = _STORED[name]
    anna = {"_id": ANNA, "code": "ac24aa1", "atproto": {"did": "did:plc:1", "password": "hunter2"}}
    mongo_database["users"].insert_one(anna)
    mongo_database["@handles"].insert_one({"_id": ANNA, "handle": "anna"})
    before = _accounts(mongo_database)[ANNA]
    odd = {
        "did": {"atproto": {"did": value, "password": "hunter3"}},
        "password": {"atproto": {"did": "did:plc:3", "password": value, "handle": value}},
        "atproto": {"atproto": value},
        "flat": {"atproto_did": value, "atproto_password": value, "atproto_handle": value},
    }
    for number, (where, fields) in enumerate(odd.items()):
        mongo_database["users"].insert_one({"_id": f"auth0|{where}", "code": value, **fields})
        insert(mongo_database["@handles"], {"_id": f"auth0|{where}", "handle": value})
        if number % 2:
            insert(mongo_database["account-deletions"], {"_id": f"auth0|{where}", "state": value})
    same = {} if type(value) is str else {"atproto": anna["atproto"], "code": "ac24aa1"}  # a text is a user of its own
    for collection in ("users", "@handles", "account-deletions", "account-tombstones"):
        insert(mongo_database[collection], {"_id": value, "state": value, **same})
    found = _accounts(mongo_database)
    assert found[ANNA] == before
    assert len({account.key for account in found.values()}) == len(found)
    for where in odd:
        account = found[f"auth0|{where}"]
        if where == "atproto" or value is None or (type(value) is not str and where in {"did", "password", "flat"}):
            assert account.blocked is not None
    if type(value) not in {str, type(None)}:
        message = _reason(found["auth0|did"])
        assert "`users.atproto.did` is of type" in message
        assert "correct it in Mongo" in message
    assert all("hunter" not in (account.blocked.message if account.blocked else "") for account in found.values())


def _accounts(database: Any) -> dict[str, Account]:
    return {account.id: account for account in MongoAccounts(database).all()}


def _reason(account: Account) -> str:
    assert isinstance(account.blocked, NoCredentials)
    return account.blocked.message


def test_a_user_whose_id_is_no_text_is_listed_and_takes_nothing_from_anybody(mongo_database: Any) -> None:
    """BORDER-1: not the key, not the DID."""
    anna = {"_id": ANNA, "code": "ac24aa1", "atproto": {"did": "did:plc:1", "password": "hunter2"}}
    mongo_database["users"].insert_many([anna, {**anna, "_id": ObjectId()}, {**anna, "_id": 5}])
    found = _accounts(mongo_database)
    assert found[ANNA].blocked is None
    assert found[ANNA].key == "ac24aa1"
    odd = [account for id, account in found.items() if id not in {ANNA, "art-guest"}]
    assert sorted(_reason(each).split(",")[0] for each in odd) == [
        "`users._id` is of type ObjectId",
        "`users._id` is of type int",
    ]
