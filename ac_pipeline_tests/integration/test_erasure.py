"""What was to be erased is gone, on real services: no record, no link, no blob that only it used."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.items import State
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.planning.plan import COPIES
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer


def blobs_of(slice_: Slice, user: Account, type: str, id: str) -> list[str]:
    """CIDs that the item's record refers to."""
    (record,) = [each for each in slice_.records(user, type).values() if each["ref"] == id]
    return [part["ref"]["$link"] for part in record.values() if isinstance(part, dict) and part.get("$type") == "blob"]


def status_of_blob(slice_: Slice, user: Account, cid: str) -> int:
    """What `getBlob` answers to anybody."""
    query = {"did": str(user.did), "cid": cid}
    return httpx.get(f"{slice_.pds.url}/xrpc/com.atproto.sync.getBlob", params=query, timeout=30).status_code


def report(cli: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out = cli("erasure", "--json", *arguments)
    return code, json.loads(out)


@pytest.fixture
def ada(slice_: Slice, object_server: ObjectServer) -> Account:
    user = slice_.user("ada")
    for name, seed in (("one", 1), ("twin", 1), ("two", 2)):
        object_server.put(USER_BUCKET, f"{user.id}/painting/{name}.png", pixel_art(24, 16, seed=seed))
    object_server.put(USER_BUCKET, f"{user.id}/tape.zip", tape_zip(4, 32, 24, seed=4))
    return user


def test_after_an_erasure_neither_the_record_nor_its_own_blobs_are_found(cli: Run, slice_: Slice, ada: Account) -> None:
    """DEL-7: a blob that another record uses as well stays, and is not counted against the erasure."""
    ids = {
        "one": slice_.add("painting", ada, code="one", slug="one"),
        "twin": slice_.add("painting", ada, code="twn", slug="twin"),
        "two": slice_.add("painting", ada, code="two", slug="two"),
        "tape": slice_.add("tape", ada, code="tap", slug="tape"),
    }
    mood = slice_.add("mood", ada, mood="said")
    slice_.sync(ada)
    (shared,) = blobs_of(slice_, ada, "painting", ids["one"])
    assert blobs_of(slice_, ada, "painting", ids["twin"]) == [shared]
    alone = blobs_of(slice_, ada, "painting", ids["two"]) + blobs_of(slice_, ada, "tape", ids["tape"])
    assert len(alone) == 3
    assert report(cli)[1]["pending"] == 0

    for type_, name in (("painting", "one"), ("painting", "two"), ("tape", "tape")):
        slice_.change(type_, ids[name], nuked=True)
    slice_.change("mood", mood, deleted=True)
    code, found = report(cli)
    assert (code, found["pending"], found["records"], found["links"], found["blobs"]) == (1, 4, 4, 4, 3)
    assert {cid for each in found["items"] for cid in each["blobs"]} == set(alone)
    assert found["renditions"] == 3
    assert {cid for each in found["items"] for cid in each["renditions"]} == set(alone)
    assert all(status_of_blob(slice_, ada, cid) == 200 for cid in [*alone, shared])

    slice_.sync(ada)
    code, found = report(cli)
    assert (code, found["pending"], found["gone"], found["renditions"]) == (0, 0, 4, 0)
    assert [slice_.pipeline.store.has(cid) for cid in (*alone, shared)] == [False, False, False, True]
    assert {each["state"] for each in found["items"]} == {"gone"}
    for each in found["items"]:
        gone_at = datetime.fromisoformat(each["gone_at"])
        assert datetime.now(UTC) - gone_at < timedelta(minutes=5)
    assert all(status_of_blob(slice_, ada, cid) == 400 for cid in alone)
    assert status_of_blob(slice_, ada, shared) == 200
    assert "4 erased" in cli("erasure")[1]


def test_what_waits_shows_since_when(cli: Run, slice_: Slice, ada: Account) -> None:
    """DEL-6: the age of the oldest pending deletion, as the ledger knows it."""
    ids = [slice_.add("mood", ada, mood=text) for text in "ab"]
    slice_.sync(ada)
    since = datetime(2026, 1, 2, 3, tzinfo=UTC)
    for id in ids:
        slice_.change("mood", id, deleted=True)
    waiting = slice_.entry("mood", ids[0]).with_(state=State.QUARANTINED, withdrawn_at=since)
    slice_.pipeline.ledger.save([waiting])
    code, found = report(cli)
    assert (code, found["oldest_pending"]) == (1, since.isoformat())
    assert found["oldest_pending_seconds"] > 0
    assert {each["item"]: each["since"] for each in found["items"]} == {
        f"mood:{ids[0]}": since.isoformat(),
        f"mood:{ids[1]}": None,
    }


def test_a_link_that_is_left_in_mongo_is_pending_too(cli: Run, slice_: Slice, ada: Account) -> None:
    slice_.add("mood", ada, mood="x", deleted=True, atproto={"rkey": "3jzfcijpj2z2a"})
    slice_.add("mood", ada, mood="never published", deleted=True)
    code, found = report(cli)
    assert (code, found["pending"], found["links"], found["records"]) == (1, 1, 1, 0)
    slice_.sync(ada)
    assert report(cli)[0] == 0


def test_a_document_that_is_gone_counts_until_its_record_is(cli: Run, slice_: Slice, ada: Account) -> None:
    """DEL-4: with the time of its deletion afterwards, though nothing in Mongo remembers it."""
    ids = [slice_.add("mood", ada, mood=text) for text in "ab"]
    slice_.sync(ada)
    slice_.database["moods"].delete_one({"_id": ObjectId(ids[0])})
    assert report(cli)[1]["items"][0]["item"] == f"mood:{ids[0]}"
    slice_.sync(ada)
    code, found = report(cli)
    assert (code, found["gone"], found["items"][0]["item"]) == (0, 1, f"mood:{ids[0]}")
    assert found["items"][0]["gone_at"]


def test_a_deleted_account_is_pending_until_nothing_of_it_is_left(cli: Run, slice_: Slice, ada: Account) -> None:
    """DEL-7, DEL-9: every record and blob while the account is leaving, its repository once Mongo forgot it."""
    slice_.user("somebody-else")  # a database without anybody is refused
    painting = slice_.add("painting", ada, code="one", slug="one")
    mood = slice_.add("mood", ada, mood="said")
    slice_.sync(ada)
    slice_.put(ada, "mood", {"mood": "of nobody", "when": "2025-10-15T12:30:45.123Z"})
    (blob,) = blobs_of(slice_, ada, "painting", painting)
    slice_.database["account-deletions"].insert_one({"_id": ada.id, "state": "scheduled"})
    code, found = report(cli)
    assert (code, found["pending"], found["records"], found["blobs"]) == (1, 3, 3, 1)

    leaving = slice_.account(ada.id)
    slice_.sync(leaving)
    code, found = report(cli)
    assert (code, found["pending"]) == (0, 0), found["items"]
    assert {f"painting:{painting}", f"mood:{mood}"} <= {each["item"] for each in found["items"]}
    assert status_of_blob(slice_, ada, blob) == 400

    for media in MEDIA_TYPES:
        slice_.database[media.collection].delete_many({})
    slice_.database["users"].delete_one({"_id": ada.id})
    slice_.put(ada, "mood", {"mood": "left behind", "when": "2025-10-15T12:30:45.123Z"})
    code, found = report(cli)
    (purged,) = found["items"]
    assert (code, purged["item"], len(purged["records"])) == (1, f"account:{ada.did}", 1)
    slice_.pds.admin("com.atproto.admin.deleteAccount", {"did": ada.did})
    code, found = report(cli)
    (purged,) = found["items"]
    assert (code, purged["state"]) == (0, "gone")


def test_looking_writes_nothing_and_asks_only_for_who_is_selected(cli: Run, slice_: Slice, ada: Account) -> None:
    """PLAN-1, PLAN-2."""
    bob = slice_.user("bob")
    for user in (ada, bob):
        slice_.add("mood", user, mood="x", deleted=True, atproto={"rkey": "3jzfcijpj2z2a"})
    before = slice_.everything()
    assert {each["user"] for each in report(cli, "--user", "bob")[1]["items"]} == {"bob"}
    assert report(cli, "--since", "2026-01-01")[1]["pending"] == 0
    assert slice_.everything() == before


def test_snapshots_of_a_deleted_account_are_pending_until_they_are_forgotten(
    cli: Run, slice_: Slice, ada: Account, object_server: ObjectServer
) -> None:
    """DEL-7: the work of somebody who left is kept nowhere; what others' snapshots share with it stays."""
    bob = slice_.user("bob")
    object_server.put(USER_BUCKET, f"{bob.id}/painting/same.png", pixel_art(24, 16, seed=1))
    slice_.add("painting", ada, code="one", slug="one")
    slice_.add("painting", ada, code="two", slug="two")
    slice_.add("painting", bob, code="bob", slug="same")
    assert cli("sync")[0] == 0
    for user in ("ada", "bob"):
        assert cli("snapshot", user)[0] == 0
    assert report(cli)[1]["snapshots"] == 0
    slice_.database["account-deletions"].insert_one({"_id": ada.id, "state": "scheduled"})
    assert cli("sync")[0] == 0
    code, found = report(cli)
    (pending,) = [each for each in found["items"] if each["state"] == "pending"]
    assert (code, found["pending"], found["snapshots"]) == (1, 1, 1)
    assert pending["item"] == f"snapshot:{pending['snapshot']}"
    looked = json.loads(cli("erasure", "--user", "ada", "--json")[1])["items"]
    assert [each["item"] for each in looked if each["state"] == pending["state"]] == [pending["item"]]

    slice_.database["paintings"].delete_many({"user": ada.id})
    slice_.database["users"].delete_one({"_id": ada.id})
    slice_.pds.admin("com.atproto.admin.deleteAccount", {"did": ada.did})
    assert report(cli)[1]["snapshots"] == 1
    code, out = cli("snapshots", "--forget-user", str(ada.did), "--json")
    assert (code, json.loads(out)["blobs"], json.loads(out)["shared_blobs"]) == (2, 1, 1)
    assert len(json.loads(cli("snapshots", "--json")[1])) == 2, "without --confirm nothing goes"
    code, out = cli("snapshots", "--forget-user", str(ada.did), "--confirm", "1", "--why", "she left", "--json")
    assert (code, json.loads(out)["blobs"]) == (0, 1)
    assert [each["user"] for each in json.loads(cli("snapshots", "--json")[1])] == ["bob"]
    assert report(cli)[0] == 0
    (line,) = json.loads(cli("audit", "--action", "forget-snapshots", "--json")[1])
    assert (line["users"], line["why"], line["outcome"]) == (["ada", ada.did], "she left", "done")
    assert cli("wipe", "bob", "--confirm", "1")[0] == 0
    (bobs,) = [each for each in json.loads(cli("snapshots", "--json")[1]) if each["wipe"] is None]
    assert cli("restore", "bob", "--from", bobs["id"])[0] == 0
    assert cli("snapshots", "--forget", "nonsense", "--confirm", "1")[0] == 2
    assert cli("snapshots", "--forget", bobs["id"], "--forget-user", "bob")[0] == 2
    assert cli("snapshots", "--confirm")[0] == 2


def test_renditions_that_could_not_be_removed_are_pending_until_a_later_sync_removes_them(
    cli: Run, slice_: Slice, ada: Account
) -> None:
    """DEL-7: the record goes all the same; the thumbnail is what is left, and is found without any run's word."""
    id = slice_.add("painting", ada, code="one", slug="one")
    slice_.sync(ada)
    (cid,) = blobs_of(slice_, ada, "painting", id)
    kept = Path(slice_.pipeline.settings.ac_renditions_url, "blobs", cid)
    kept.unlink()
    kept.mkdir()  # as a store that refuses to delete
    slice_.change("painting", id, nuked=True)
    synced = slice_.sync(ada)
    assert (synced.types["painting"].deleted, synced.error, synced.failures) == (1, None, [])
    assert [note for note in synced.notes if "AC_RENDITIONS_URL" in note]
    code, found = report(cli)
    (pending,) = found["items"]
    assert (code, found["pending"], found["records"], found["blobs"], found["renditions"]) == (1, 1, 0, 0, 1)
    assert (pending["item"], pending["renditions"]) == (f"painting:{id}", [cid])
    assert "1 renditions" in cli("erasure")[1]
    kept.rmdir()
    kept.write_bytes(b"still there")
    assert slice_.sync(ada).notes == []
    assert not kept.exists()
    code, found = report(cli)
    assert (code, found["pending"], found["gone"]) == (0, 0, 1)


def test_what_returns_after_an_erasure_has_its_thumbnail_made_again(cli: Run, slice_: Slice, ada: Account) -> None:
    """DEL-2, DEL-7: once, under its old key, with the same bytes."""
    id = slice_.add("painting", ada, code="one", slug="one")
    slice_.sync(ada)
    before, (cid,) = slice_.records(ada, "painting"), blobs_of(slice_, ada, "painting", id)
    slice_.change("painting", id, nuked=True)
    slice_.sync(ada)
    slice_.change("painting", id, nuked=False)
    assert slice_.sync(ada).types["painting"].created == 1
    assert slice_.records(ada, "painting") == before
    assert status_of_blob(slice_, ada, cid) == 200
    assert slice_.pipeline.store.has(cid)
    assert report(cli)[1]["renditions"] == 0
    assert slice_.sync(ada).types["painting"].unchanged == 1


def test_renditions_of_a_purged_account_go_when_told_to(cli: Run, slice_: Slice, ada: Account) -> None:
    """DEL-7: no sync reaches it any more. While its records are there, so are its renditions."""
    slice_.add("painting", ada, code="one", slug="one")
    bob = slice_.user("bob")
    slice_.sync(ada)
    assert len(list(Path(slice_.pipeline.settings.ac_renditions_url, "blobs").iterdir())) == 1
    slice_.database["paintings"].delete_many({})
    slice_.database["users"].delete_one({"_id": ada.id})
    slice_.database["@handles"].delete_one({"_id": ada.id})
    code, found = report(cli, "--forget-renditions")
    assert (code, found["pending"], found["records"], found["renditions"]) == (1, 1, 1, 1)
    slice_.pds.admin("com.atproto.admin.deleteAccount", {"did": ada.did})
    code, found = report(cli)
    assert (code, found["items"][0]["item"], found["renditions"]) == (1, f"account:{ada.did}", 1)
    assert report(cli, "--user", str(bob.key))[0] == 0
    assert report(cli, "--forget-renditions")[0] == 0
    assert [path for path in Path(slice_.pipeline.settings.ac_renditions_url).rglob("*") if path.is_file()] == []
    assert report(cli)[0] == 0


def test_work_of_somebody_without_a_repository_that_is_withdrawn_is_found_and_forgotten(
    cli: Run, slice_: Slice, ada: Account
) -> None:
    """DEL-7: a rendition may be made before there is anywhere to publish it."""
    slice_.database["users"].update_one({"_id": ada.id}, {"$unset": {"atproto": ""}})
    waiting = slice_.account(ada.id)
    assert waiting.did is None
    id = slice_.add("painting", ada, code="one", slug="one")
    slice_.pipeline.engine.render(waiting, media_type("painting"), Selection(), "run-1")
    assert report(cli)[0] == 0
    slice_.change("painting", id, nuked=True)
    code, found = report(cli)
    assert (code, [each["item"] for each in found["items"]], found["renditions"]) == (1, [f"painting:{id}"], 1)
    assert report(cli, "--forget-renditions")[0] == 0
    assert report(cli)[1]["items"] == []


def test_snapshots_are_forgotten_once_their_number_is_confirmed(cli: Run, slice_: Slice, ada: Account) -> None:
    """DEL-7: what it would delete is said first, another number is refused, and what it did is in the audit."""
    slice_.add("mood", ada, mood="said")
    slice_.sync(ada)
    assert [cli("snapshot", "ada")[0] for _ in range(2)] == [0, 0]
    code, out = cli("snapshots", "--forget-user", "ada", "--json")
    assert (code, json.loads(out)["confirm"]) == (2, 2)
    assert cli("snapshots", "--forget-user", "ada", "--confirm", "1")[0] == 2
    (newest, oldest) = [each["id"] for each in json.loads(cli("snapshots", "--json")[1])]
    assert cli("snapshots", "--forget", oldest, "--confirm", "1", "--why", "she asked")[0] == 0
    assert [each["id"] for each in json.loads(cli("snapshots", "--json")[1])] == [newest]
    (line,) = json.loads(cli("audit", "--action", "forget-snapshots", "--json")[1])
    assert (line["why"], line["outcome"], line["counts"]["snapshots"]) == ("she asked", "done", 1)


def test_copies_of_erased_work_go_with_it(cli: Run, slice_: Slice, ada: Account) -> None:
    """ERASE-1: on the real PDS; nuked, and left by an earlier deletion; a wipe counts them, a restore brings them."""
    ids = {name: slice_.add("mood", ada, mood=f"said {name}") for name in ("kept", "nuked", "left")}
    slice_.sync(ada)

    def copy(name: str) -> None:
        link = slice_.link("mood", ids[name])
        assert link is not None
        value = {
            "$type": COPIES,
            "site": "https://aesthetic.computer",
            "path": f"/mood/{link.rkey}",
            "title": f"said {name}",
            "textContent": f"said {name}",
            "tags": ["mood"],
            "publishedAt": "2026-01-02T03:04:05.000Z",
            "sourceAtUri": link.uri,
            "sourceCollection": "computer.aesthetic.mood",
            "sourceRef": ids[name],
        }
        body = {"repo": ada.did, "collection": COPIES, "rkey": name, "record": value, "validate": False}
        slice_.call(ada, "com.atproto.repo.createRecord", body)

    def copies() -> dict[str, str]:
        repository = slice_.pipeline.server.read_repository(str(ada.did))
        return dict(repository.collection(COPIES))

    for name in ids:
        copy(name)
    before = copies()
    slice_.pipeline.engine.erase_copies = False
    slice_.change("mood", ids["left"], nuked=True)
    slice_.sync(ada)
    slice_.pipeline.engine.erase_copies = True
    slice_.change("mood", ids["nuked"], nuked=True)
    code, found = report(cli)
    assert (code, found["pending"], found["records"], found["copies"]) == (1, 2, 1, 2)
    planned = json.loads(cli("plan", "--json")[1])
    assert [each["operation"] for each in planned["operations"]].count("delete-copy") == 2
    assert planned["cost"]["operations"] == 3

    assert cli("sync", "--json")[0] == 0
    assert copies().keys() == {"kept"}
    assert "nuked" not in str(slice_.listed(ada, "mood"))
    assert report(cli)[1]["pending"] == 0
    assert cli("verify", "--json")[0] == 0

    wiping = json.loads(cli("wipe", "ada", "--dry-run", "--json")[1])
    assert (wiping["records"]["mood"], wiping["records"]["copies"], wiping["total"]) == (1, 1, 2)
    assert cli("wipe", "ada", "--confirm", "2", "--json")[0] == 0
    assert copies() == {}
    code, out = cli("restore", "ada", "--from", "latest", "--json")
    assert (code, json.loads(out)["restored"]) == (0, {"mood": 1, "copies": 1})
    assert copies() == {"kept": before["kept"]}
    assert cli("sync", "--json")[0] == 0
    assert copies() == {"kept": before["kept"]}
