"""The command line on real services: what each command prints, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline_tests import media_samples as samples
from ac_pipeline_tests.harness import USER_BUCKET, WHEN, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer
from ac_pipeline_tests.unit.renditions.fake_ffmpeg import script

# In a process of its own: the package's client has no way to close its connections.
_LIST = """
import sys
from atproto import Client
query = {"repo": sys.argv[2], "collection": "computer.aesthetic.piece"}
print(len(Client(base_url=sys.argv[1]).com.atproto.repo.list_records(query).records))
"""


def test_plan_sync_status_verify_tell_one_story(cli: Run, slice_: Slice) -> None:
    """PLAN-1, WRITE-1, VERIFY-1, OPS-7: a dry run writes nothing, the run does what it said, the next does nothing."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    for number in range(3):
        slice_.add("mood", ada, mood=f"mood {number}")
    slice_.add("kidlisp", bob, code="abc", source="(wipe blue)")
    slice_.add("kidlisp", bob, code="abd", source="(wipe red)", nuked=True)

    code, out = cli("plan", "--json")
    plan = json.loads(out)
    assert code == 0
    assert sorted((op["user"], op["operation"]) for op in plan["operations"]) == [("ada", "create")] * 3 + [
        ("bob", "create")
    ]
    assert plan["cost"]["points"] == 12
    assert slice_.records(ada, "mood") == {}

    code, out = cli("sync", "--json")
    report = json.loads(out)
    assert code == 0
    assert {name: tally["written"] for name, tally in report["types"].items() if tally["written"]} == {
        "mood": 3,
        "kidlisp": 1,
    }
    planned = {(op["user"], op["rkey"], op["cid"]) for op in plan["operations"]}
    assert planned == {
        (user.key, rkey, cid)
        for user in (ada, bob)
        for media in MEDIA_TYPES
        for rkey, (cid, _) in slice_.listed(user, media.name).items()
    }

    code, out = cli("sync", "--json")
    again = json.loads(out)
    assert (code, again["requests"]["apply_writes"], again["requests"]["upload_blob"]) == (0, 0, 0)
    assert sum(tally["unchanged"] for tally in again["types"].values()) == 4

    code, out = cli("status", "--json")
    status = json.loads(out)
    assert (
        status["types"]["kidlisp"] | {"unchanged": 1, "withdrawn": 1, "records": 1, "pending": 0}
        == status["types"]["kidlisp"]
    )
    assert status["users"]["ready"] == 2

    code, out = cli("verify", "--json")
    verified = json.loads(out)
    assert (code, verified["expected"], verified["verified"], verified["items"]) == (0, 4, 4, [])


def test_counts_agree_with_a_client_that_is_not_ours(cli: Run, slice_: Slice) -> None:
    """The `atproto` package reads what `status` counts."""
    ada = slice_.user("ada")
    for number in range(5):
        slice_.add("piece", ada, slug=f"piece-{number}")
    cli("sync")
    _, out = cli("status", "--json")
    answer = subprocess.run(
        [sys.executable, "-c", _LIST, f"{slice_.pds.url}/xrpc", str(ada.did)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(answer.stdout) == json.loads(out)["types"]["piece"]["records"] == 5


SLUG = "2025.10.15.12.30.45.123"


def test_a_tape_that_is_being_baked_waits_and_ends_with_one_record_and_its_warning(
    cli: Run, slice_: Slice, object_server: ObjectServer
) -> None:
    """GUARD-6, MEDIA-18, OPS-4: until when it waits and what was odd about it are in `items` and `item`."""
    ada = slice_.user("ada")
    now = datetime.now(UTC)
    object_server.put(USER_BUCKET, f"{ada.id}/{SLUG}.zip", tape_zip(2, 16, 16))
    tape = slice_.add("tape", ada, code="xyz", slug=SLUG, when=now, mp4Status="pending")
    code, out = cli("sync", "--json")
    report = json.loads(out)
    assert (code, report["types"]["tape"]["deferred"], report["failures"], report["run_again"]) == (0, 1, [], [])
    assert "is still making its video" in report["notes"][0]["note"]
    assert cli("verify")[0] == 0
    (row,) = csv.DictReader(io.StringIO(cli("items", "--csv")[1]))
    assert (row["state"], row["class"]) == ("deferred", "source-pending")
    assert row["until"] == f"{now + timedelta(seconds=600):%Y-%m-%d %H:%M:%S}"

    object_server.put(USER_BUCKET, "baked.mp4", samples.mp4(video="mpeg4", sound="aac", fragmented=True))
    address = f"https://{USER_BUCKET}.sfo3.digitaloceanspaces.com/baked.mp4"
    slice_.change("tape", tape, mp4Status="complete", mp4Url=address)
    slice_.put(ada, "tape", {"ref": tape, "slug": SLUG, "code": "xyz", "when": "2025-10-15T12:30:45.123Z"})
    assert cli("sync")[0] == 0
    (record,) = slice_.records(ada, "tape").values()
    assert record["ref"] == tape
    (row,) = csv.DictReader(io.StringIO(cli("items", "--csv")[1]))
    assert (row["state"], row["until"]) == ("written", "")
    assert "its picture is mpeg4, not H.264" in row["warnings"]
    assert "its picture is mpeg4, not H.264" in " ".join(cli("item", "tape:xyz")[1].split())
    assert cli("verify")[0] == 0


def test_an_encoder_that_is_too_slow_twice_is_a_verdict_with_its_limit(
    cli: Run, slice_: Slice, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MEDIA-23."""
    ada = slice_.user("ada")
    object_server.put(USER_BUCKET, f"{ada.id}/{SLUG}.zip", tape_zip(2, 16, 16))
    slice_.add("tape", ada, code="xyz", slug=SLUG)
    monkeypatch.setenv("AC_FFMPEG", script(tmp_path, "exec sleep 600"))
    monkeypatch.setenv("AC_ENCODE_TIMEOUT_SECONDS", "0.5")
    ends = []
    for _ in range(3):
        cli("sync")
        (row,) = csv.DictReader(io.StringIO(cli("items", "--csv")[1]))
        ends.append((row["state"], row["class"], row["attempts"]))
    assert ends == [("deferred", "encoder-timed-out", "1"), *[("quarantined", "encoding-failed", "2")] * 2]
    assert "longer than 0.5 s" in row["message"]
    assert "AC_ENCODE_TIMEOUT_SECONDS" in row["message"]
    monkeypatch.setenv("AC_ENCODE_MEGAPIXELS", "1")
    object_server.put(USER_BUCKET, f"{ada.id}/{SLUG}.zip", samples.tape(2, picture=samples.blank(1001, 1000)))
    cli("retry", "--item", "tape:xyz")
    (row,) = csv.DictReader(io.StringIO(cli("items", "--csv")[1]))
    assert (row["state"], row["class"]) == ("quarantined", "too-large")
    assert "2 million pixels; at most 1 million are encoded (AC_ENCODE_MEGAPIXELS)" in row["message"]


def test_failed_items_are_listed_with_reason_and_timeline(cli: Run, slice_: Slice) -> None:
    """OPS-2, OPS-4, SRC-2, MEDIA-4: every failed item can be found with class, attempts and message."""
    ada = slice_.user("ada")
    slice_.add("painting", ada, code="xyz", slug="2025.10.15.12.30.45.123")
    nameless = slice_.add("kidlisp", ada, source="(line)")
    code, out = cli("sync", "--json")
    assert code == 1
    assert {(f["class"], f["stage"]) for f in json.loads(out)["failures"]} == {
        ("source-missing", "rendition"),
        ("invalid-document", "document"),
    }
    _, out = cli("items", "--state", "quarantined", "--json")
    assert {(e["type"], e["failure"]["error_class"], e["user"]) for e in json.loads(out)} == {
        ("painting", "source-missing", "ada"),
        ("kidlisp", "invalid-document", "ada"),
    }
    _, out = cli("items", "--error-class", "source-missing", "--csv")
    assert [row["code"] for row in csv.DictReader(io.StringIO(out))] == ["xyz"]
    code, out = cli("item", "painting:xyz", "--json")
    (entry,) = json.loads(out)
    assert (code, entry["attempts"], entry["history"][0]["state"]) == (0, 1, "quarantined")
    assert entry["failure"]["payload_hash"]
    assert (entry["page"], entry["record"]) == ("https://aesthetic.computer/#xyz", None)
    code, out = cli("item", f"kidlisp:{nameless}")
    assert code == 0
    assert "Timeline" in out


def test_a_repaired_item_is_retried_alone(cli: Run, slice_: Slice, object_server: Any) -> None:
    """OPS-3: a quarantined item is not tried again by itself; `retry` runs it, and only it."""
    ada = slice_.user("ada")
    slice_.add("painting", ada, code="xyz", slug="2025.10.15.12.30.45.123")
    assert cli("sync")[0] == 1
    slice_.add("mood", ada, mood="not part of the retry")
    asked = len(object_server.requests)
    assert cli("sync", "--type", "painting")[0] == 1
    assert len(object_server.requests) == asked, "a quarantined item was tried again"

    object_server.put("user-aesthetic-computer", f"{ada.id}/painting/2025.10.15.12.30.45.123.png", pixel_art(64, 64))
    code, out = cli("retry", "--error-class", "source-missing", "--json")
    assert (code, json.loads(out)["types"]["painting"]["created"]) == (0, 1)
    assert len(slice_.records(ada, "painting")) == 1
    assert slice_.records(ada, "mood") == {}
    assert "No failed item fits" in cli("retry")[1]


def test_selectors_narrow_a_run_to_users_types_dates_and_items(cli: Run, slice_: Slice) -> None:
    """PLAN-2."""
    ada, bob = slice_.user("Ada"), slice_.user("bob")
    for user in (ada, bob):
        slice_.add("mood", user, mood="here")
        slice_.add("piece", user, slug=f"piece-of-{user.key}")
    slice_.add("kidlisp", bob, code="k1d", source="(box)")

    def operations(*arguments: str) -> set[tuple[str, str]]:
        code, out = cli("plan", "--json", *arguments)
        assert code == 0, out
        return {(op["user"], op["item"].partition(":")[0]) for op in json.loads(out)["operations"]}

    assert operations("--user", "@ada") == {("ada", "mood"), ("ada", "piece")}
    assert operations("--type", "mood") == {("ada", "mood"), ("bob", "mood")}
    assert operations("--item", "kidlisp:k1d") == {("bob", "kidlisp")}
    assert operations("--user", str(bob.did), "--limit", "1", "--type", "kidlisp") == {("bob", "kidlisp")}
    assert operations("--since", "2025-10-16") == set()
    assert operations("--until", "2025-10-16", "--type", "piece") == {("ada", "piece"), ("bob", "piece")}
    assert cli("plan", "--user", "nobody")[0] == 2
    assert cli("plan", "--item", "kidlisp:zzz")[0] == 2


def test_an_unreachable_service_ends_with_three(cli: Run, monkeypatch: pytest.MonkeyPatch, slice_: Slice) -> None:
    slice_.user("ada")
    monkeypatch.setenv("PDS_URL", "http://127.0.0.1:9")
    assert cli("verify", "--json")[0] == 3


def test_no_secret_is_printed_by_any_command(cli: Run, slice_: Slice) -> None:
    """ACCT-5."""
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="secretive")
    slice_.database["users"].update_one({"_id": ada.id}, {"$set": {"atproto.password": "not-the-password-4711"}})
    printed = "".join(
        cli(*arguments)[1]
        for arguments in (["plan"], ["sync", "--json"], ["status"], ["items"], ["verify", "--json"], ["sync"])
    )
    assert "wrong-password" in printed
    assert "not-the-password-4711" not in printed


def test_an_account_whose_password_is_refused_is_blocked_for_every_command(cli: Run, slice_: Slice) -> None:
    """ACCT-2, VERIFY-1, SEEN-2: reading cannot tell a wrong password; what the last sync was told still counts."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    for user in (ada, bob):
        slice_.add("mood", user, mood="hello")
    slice_.database["users"].update_one({"_id": ada.id}, {"$set": {"atproto.password": "not-the-password-4711"}})
    code, out = cli("sync", "--json")
    report = json.loads(out)
    assert (code, report["failures"], report["requests"]["create_session"]) == (0, [], 2)
    assert {each["user"]: each["class"] for each in report["blocked"]} == {
        "ada": "wrong-password",
        "art-guest": "no-credentials",
    }
    assert (report["types"]["mood"]["written"], report["types"]["mood"]["blocked"]) == (1, 1)

    verified = json.loads(cli("verify", "--json")[1])
    assert (verified["expected"], verified["verified"], verified["missing"], verified["blocked"]) == (1, 1, 0, 1)
    status = json.loads(cli("status", "--json")[1])
    assert (status["types"]["mood"]["pending"], status["types"]["mood"]["blocked"]) == (0, 1)
    assert status["users"]["blocked"] == 2, "ada and the guest, who has no account here"

    plan = json.loads(cli("plan", "--json")[1])
    assert (plan["operations"], plan["cost"]["operations"], plan["cost"]["points"]) == ([], 0, 0)
    assert {each["user"] for each in plan["blocked"]} == {"ada", "art-guest"}
    assert "Blocked users, of whom nothing is planned" in cli("plan")[1]

    slice_.database["users"].update_one({"_id": ada.id}, {"$set": {"atproto.password": ada.password}})
    assert [each["operation"] for each in json.loads(cli("plan", "--json")[1])["operations"]] == ["create"]
    assert json.loads(cli("sync", "--json")[1])["types"]["mood"]["written"] == 1


def test_looking_at_a_blocked_account_writes_nothing(cli: Run, slice_: Slice) -> None:
    """PLAN-1."""
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="hello")
    slice_.database["users"].update_one({"_id": ada.id}, {"$unset": {"atproto.password": ""}})
    for command in ("plan", "status", "verify"):
        cli(command)
    assert list(slice_.pipeline.ledger.find()) == []


@pytest.mark.parametrize(("orphans", "kept"), [(10, 0), (11, 11)])
def test_most_of_a_users_records_are_never_swept_away_unasked(cli: Run, slice_: Slice, orphans: int, kept: int) -> None:
    """DEL-4, DEL-5: a few orphans go; so many that the database must be doubted stay until somebody says so."""
    ada = slice_.user("ada")
    bob = slice_.user("bob")
    ids = [slice_.add("mood", ada, mood=f"mood {number}") for number in range(orphans + 1)]
    slice_.database["moods"].insert_many([{"user": bob.id, "mood": f"{n}", "when": WHEN} for n in range(100)])
    cli("sync")
    slice_.database["moods"].delete_many({"_id": {"$in": [ObjectId(id) for id in ids[1:]]}})

    report = json.loads(cli("sync", "--json")[1])
    assert report["types"]["mood"]["deleted"] == orphans - kept
    assert len(slice_.records(ada, "mood")) == 1 + kept
    doubts = [each["note"] for each in report["notes"] if "half-restored" in each["note"]]
    assert len(doubts) == (1 if kept else 0)

    assert cli("sync", "--sweep", str(kept), "--user", "ada")[0] == 0
    assert len(slice_.records(ada, "mood")) == 1
