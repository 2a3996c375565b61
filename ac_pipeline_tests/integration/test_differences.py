"""Records that others changed or deleted, on real services: seen, pushed back, or taken over."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.local.seed.artwork import pixel_art, tape_zip
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.inspection.differences import accept_theirs, find_differences
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer

SLUG = "2025.10.15.12.30.45.123"


def add(slice_: Slice, store: ObjectServer, user: Account) -> dict[str, str]:
    """One item of every type, synchronised."""
    for name in (SLUG, "other"):
        store.put(USER_BUCKET, f"{user.id}/painting/{name}.png", pixel_art(24, 16, seed=len(name)))
        store.put(USER_BUCKET, f"{user.id}/{name}.zip", tape_zip(4, 32, 24, seed=len(name)))
    ids = {
        "painting": slice_.add("painting", user, code="abc", slug=SLUG),
        "mood": slice_.add("mood", user, mood="ours"),
        "piece": slice_.add("piece", user, slug="wand"),
        "kidlisp": slice_.add("kidlisp", user, code="cow", source="(a)", hash=sha256(b"(a)").hexdigest()),
        "tape": slice_.add("tape", user, code="tap", slug=SLUG),
    }
    assert slice_.sync(user).failures == []
    return ids


def edit(slice_: Slice, user: Account, type: str, id: str, **fields: Any) -> None:
    """Another client changes a record."""
    ((rkey, record),) = ((k, r) for k, r in slice_.records(user, type).items() if r["ref"] == id)
    value = {name: part for name, part in (record | fields).items() if part is not None}
    body = {"repo": user.did, "collection": media_type(type).nsid, "rkey": rkey, "record": value}
    slice_.call(user, "com.atproto.repo.putRecord", body)


def drop(slice_: Slice, user: Account, type: str, id: str) -> None:
    """Another client deletes a record."""
    ((rkey, _),) = ((k, r) for k, r in slice_.records(user, type).items() if r["ref"] == id)
    body = {"repo": user.did, "collection": media_type(type).nsid, "rkey": rkey}
    slice_.call(user, "com.atproto.repo.deleteRecord", body)


THEIRS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("mood", {"mood": "theirs"}, {"mood": "theirs"}),
    ("piece", {"slug": "staff"}, {"slug": "staff"}),
    ("kidlisp", {"source": " (b) "}, {"source": " (b) ", "hash": sha256(b"(b)").hexdigest()}),
    ("painting", {"slug": "other"}, {"slug": "other"}),
    ("tape", {"slug": "other"}, {"slug": "other"}),
]


def test_what_we_wrote_ourselves_is_no_difference(cli: Run, slice_: Slice, object_server: ObjectServer) -> None:
    """Nor is what only our side changed, what is withdrawn, or what was never written."""
    user = slice_.user("ada")
    ids = add(slice_, object_server, user)
    assert json.loads(cli("differences", "--json")[1])["differences"] == 0
    slice_.change("mood", ids["mood"], mood="edited in Mongo")
    slice_.change("piece", ids["piece"], nuked=True)
    drop(slice_, user, "piece", ids["piece"])
    slice_.add("mood", user, mood="new")
    assert cli("differences")[0] == 0


@pytest.mark.parametrize(("type_", "theirs", "expected"), THEIRS, ids=[each[0] for each in THEIRS])
def test_a_record_that_others_changed_can_be_pushed_back_or_taken_over(  # noqa: PLR0917 - fixtures
    cli: Run, slice_: Slice, object_server: ObjectServer, type_: str, theirs: dict[str, Any], expected: dict[str, Any]
) -> None:
    """WRITE-10, DEL-8: by default nothing happens but a list; both ways end with one record and nothing left to say."""
    user = slice_.user("ada")
    ids = add(slice_, object_server, user)
    ours = slice_.listed(user, type_)
    before = slice_.document(type_, ids[type_])
    edit(slice_, user, type_, ids[type_], **theirs)
    everything = slice_.everything()
    code, out = cli("differences", "--json")
    (item,) = json.loads(out)["items"]
    (name,) = theirs
    assert (code, item["kind"], item["item"]) == (1, "changed", f"{type_}:{ids[type_]}")
    assert item["fields"] == {name: {"ours": before[name], "theirs": theirs[name]}}
    for choice in ("--push-ours", "--accept-theirs"):
        assert cli("differences", choice, "--confirm", "1")[0] == 2, "a choice without saying whose"
        assert cli("differences", choice, "--user", "ada")[0] == 2
        assert cli("differences", choice, "--user", "ada", "--confirm", "2")[0] == 2
    assert slice_.everything() == everything

    assert cli("differences", "--push-ours", "--user", "ada", "--confirm", "1")[0] == 0
    assert slice_.listed(user, type_) == ours
    assert slice_.document(type_, ids[type_])[name] == before[name]
    assert cli("differences")[0] == 0

    edit(slice_, user, type_, ids[type_], **theirs)
    code, out = cli("differences", "--accept-theirs", "--user", "ada", "--confirm", "1", "--json")
    assert (code, json.loads(out)["accepted"]) == (0, 1)
    now = slice_.document(type_, ids[type_])
    assert {field: now[field] for field in expected} == expected
    assert now.keys() == before.keys() | expected.keys()
    report = slice_.sync(user)
    assert (report.failures, len(slice_.records(user, type_))) == ([], 1)
    assert slice_.records(user, type_)[next(iter(ours))][name] == theirs[name]
    if not media_type(type_).recipe:
        assert report.types[type_].written == 0, "what was taken over needs no write"
    assert cli("differences")[0] == 0
    actions = {entry.action: entry.outcome for entry in slice_.pipeline.audit.entries()}
    assert actions == {"push-ours": "done", "accept-theirs": "done"}


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_a_record_that_others_deleted_comes_back_or_its_item_is_removed(
    cli: Run, slice_: Slice, object_server: ObjectServer, media: Any
) -> None:
    """DEL-8, LINK-5: with the platform's own flag; the document stays, and no later sync brings the record back."""
    user = slice_.user("ada")
    ids = add(slice_, object_server, user)
    name = media.name
    ours = slice_.listed(user, name)
    drop(slice_, user, name, ids[name])
    code, out = cli("differences", "--json")
    assert (code, [each["kind"] for each in json.loads(out)["items"]]) == (1, ["deleted"])
    assert cli("differences", "--push-ours", "--item", f"{name}:{ids[name]}", "--confirm", "1")[0] == 0
    assert slice_.listed(user, name) == ours
    drop(slice_, user, name, ids[name])
    assert cli("differences", "--accept-theirs", "--item", f"{name}:{ids[name]}", "--confirm", "1")[0] == 0
    document = slice_.document(name, ids[name])
    flags = {flag for flag in ("deleted", "nuked") if document.get(flag)}
    assert flags == {"deleted" if name == "mood" else "nuked"}
    for _ in range(2):
        assert slice_.sync(user).failures == []
        assert slice_.records(user, name) == {}
    assert slice_.link(name, ids[name]) is None
    assert cli("differences")[0] == 0


def test_a_plain_sync_puts_ours_back(slice_: Slice, object_server: ObjectServer) -> None:
    """The default, whatever others did."""
    user = slice_.user("ada")
    ids = add(slice_, object_server, user)
    before = {media.name: slice_.listed(user, media.name) for media in MEDIA_TYPES}
    edit(slice_, user, "mood", ids["mood"], mood="theirs")
    drop(slice_, user, "kidlisp", ids["kidlisp"])
    slice_.sync(user)
    assert {media.name: slice_.listed(user, media.name) for media in MEDIA_TYPES} == before
    assert find_differences(slice_.pipeline.engine, user, Selection()) == []


@pytest.mark.parametrize(
    ("type_", "theirs", "said"),
    [
        ("mood", {"mood": ""}, "no text"),
        ("mood", {"mood": 5}, "not a text"),
        ("mood", {"mood": "x" * 5001}, "at most 5,000"),
        ("mood", {"ref": "f" * 24}, "names another document"),
        ("mood", {"extra": "field"}, "holds no extra"),
        ("kidlisp", {"code": "x"}, "not 3 to 12"),
        ("painting", {"imageUrl": "https://example.com/x.png"}, "holds no imageUrl"),
        ("painting", {"slug": "a?b"}, "unknown shape"),
    ],
)
def test_what_cannot_become_a_document_is_not_taken_over(  # noqa: PLR0917 - fixtures
    cli: Run, slice_: Slice, object_server: ObjectServer, type_: str, theirs: dict[str, Any], said: str
) -> None:
    """A document that could not be published, or that holds no such field; ours can still be pushed."""
    user = slice_.user("ada")
    ids = add(slice_, object_server, user)
    edit(slice_, user, type_, ids[type_], **theirs)
    found = json.loads(cli("differences", "--json")[1])
    (item,) = found["items"]
    assert found["acceptable"] == 0
    assert said in item["accept_theirs"]
    assert cli("differences", "--accept-theirs", "--user", "ada", "--confirm", "1")[0] == 2


def test_values_that_others_hold_and_media_that_is_not_there_stop_it_at_the_last_moment(
    cli: Run, slice_: Slice, object_server: ObjectServer
) -> None:
    """Facts, section 3.4: a program is unique over all users by its hash."""
    user, bob = slice_.user("ada"), slice_.user("bob")
    ids = add(slice_, object_server, user)
    slice_.add("kidlisp", bob, code="sheep", source="(b)", hash=sha256(b"(b)").hexdigest())
    edit(slice_, user, "kidlisp", ids["kidlisp"], source="(b)")
    edit(slice_, user, "painting", ids["painting"], slug="nowhere")
    before = [slice_.document(type_, ids[type_]) for type_ in ("kidlisp", "painting")]
    code, out = cli("differences", "--accept-theirs", "--user", "ada", "--confirm", "2", "--json")
    outcomes = " ".join(each["outcome"] for each in json.loads(out)["items"])
    assert (code, json.loads(out)["accepted"]) == (1, 0)
    assert "`hash`" in outcomes
    assert "no media under that name" in outcomes
    assert [slice_.document(type_, ids[type_]) for type_ in ("kidlisp", "painting")] == before


def test_a_document_that_changed_in_between_is_left_as_it_is(slice_: Slice, object_server: ObjectServer) -> None:
    user = slice_.user("ada")
    ids = add(slice_, object_server, user)
    edit(slice_, user, "mood", ids["mood"], mood="theirs")
    (one,) = find_differences(slice_.pipeline.engine, user, Selection())
    slice_.change("mood", ids["mood"], mood="edited meanwhile")
    assert slice_.pipeline.documents.change(one.media, one.document, one.changes) is False
    assert slice_.document("mood", ids["mood"])["mood"] == "edited meanwhile"
    outcome = list(accept_theirs(slice_.pipeline, user, Selection(), 0))
    assert [problem for _, problem in outcome] == ["it was not there when the number was confirmed: look again"]


def test_only_the_selected_item_is_settled(cli: Run, slice_: Slice, object_server: ObjectServer) -> None:
    """PLAN-2."""
    user = slice_.user("ada")
    ids = add(slice_, object_server, user)
    other = slice_.add("mood", user, mood="other")
    slice_.sync(user)
    for id in (ids["mood"], other):
        edit(slice_, user, "mood", id, mood=f"theirs {id}")
    assert cli("differences", "--push-ours", "--item", f"mood:{other}", "--confirm", "1")[0] == 0
    texts = {record["ref"]: record["mood"] for record in slice_.records(user, "mood").values()}
    assert texts == {ids["mood"]: f"theirs {ids['mood']}", other: "other"}
    assert ObjectId(other)
