"""The link doctor on a real PDS: every state and every form that older writers left, prepared by raw calls, and healed.

`make bench-links` prints the tables before and after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
import httpx
import pytest
from bson import ObjectId

from ac_pipeline.local.seed.artwork import photo_like, pixel_art, recording_zip, tape_mp4, tape_zip
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer

SITE = "https://aesthetic.computer"
STORE = "https://user-aesthetic-computer.sfo3.digitaloceanspaces.com"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"
ELSEWHERE = "did:plc:somebodyelseslongago"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Past:
    """A user's repository and documents as years of other writers left them."""

    def __init__(self, slice_: Slice, store: ObjectServer) -> None:
        self.slice, self.store = slice_, store
        self.user = slice_.user("ada")
        self.keys = iter(f"3jzfcijpj2{a}{b}{c}" for a in _LETTERS for b in _LETTERS for c in _LETTERS)
        self.numbers = iter(range(1, 1_000))
        self.expected: dict[str, str] = {}

    def item(self, type: str, state: str, *, pictures: bool = True, **fields: Any) -> str:
        """A document with its media; `state` is what the doctor shall say of it."""
        number = next(self.numbers)
        slug = f"2025.10.15.12.30.{number}.123"
        needed: dict[str, dict[str, Any]] = {
            "painting": {"slug": slug, "code": f"p{number:03}"},
            "mood": {"mood": f"mood {number}"},
            "piece": {"slug": f"piece-{number}"},
            "kidlisp": {"source": f"(line {number})", "code": f"k{number:03}"},
            "tape": {"slug": slug, "code": f"t{number:03}"},
        }
        if type == "painting" and pictures:
            self.store.put(USER_BUCKET, f"{self.user.id}/painting/{slug}.png", pixel_art(24, 16, seed=number))
        if type == "tape":
            self.store.put(USER_BUCKET, f"{self.user.id}/{slug}.zip", tape_zip(4, 32, 24, seed=number))
        id = self.slice.add(type, self.user, **(needed[type] | fields))
        self.expected[f"{type}:{id}"] = state
        return id

    def right(self, type: str, id: str) -> dict[str, Any]:
        """The record as the original wrote it in its latest form, but for blobs."""
        raw = self.slice.document(type, id)
        code = raw.get("code")
        page = {"painting": "#", "kidlisp": "$", "tape": "!"}
        value = {
            "painting": {"slug": raw.get("slug"), "code": code, "imageUrl": f"{SITE}/media/paintings/{code}"},
            "mood": {"mood": raw.get("mood")},
            "piece": {"slug": raw.get("slug")},
            "kidlisp": {"source": raw.get("source"), "code": code},
            "tape": {"slug": raw.get("slug"), "code": code},
        }[type]
        if type in page:
            value["acUrl"] = f"{SITE}/{page[type]}{code}"
        return {**value, "when": WHEN_TEXT, "ref": id}

    def thumbnail(self, id: str) -> dict[str, Any]:
        """The thumbnail as the pipeline makes it."""
        derived = self.slice.entry("painting", id).derived
        assert derived is not None
        rendition = derived.renditions["thumbnail"]
        return self.blob(self.slice.pipeline.renderer.open(rendition.blob), rendition.blob.mime_type)

    def video(self, id: str) -> dict[str, Any]:
        derived = self.slice.entry("tape", id).derived
        assert derived is not None
        return {
            name: self.blob(self.slice.pipeline.renderer.open(made.blob), made.blob.mime_type)
            for name, made in derived.renditions.items()
        }

    def blob(self, data: bytes, mime_type: str) -> dict[str, Any]:
        """Upload a blob as some other client does."""
        headers = {"authorization": f"Bearer {self.slice.pds.token(self.user)}", "content-type": mime_type}
        answer = httpx.post(
            f"{self.slice.pds.url}/xrpc/com.atproto.repo.uploadBlob", content=data, headers=headers, timeout=30
        )
        return dict(answer.raise_for_status().json()["blob"])

    def put(self, type: str, value: Mapping[str, Any], key: str | None = None) -> str:
        kept = {name: part for name, part in value.items() if part is not None}
        return self.slice.put(self.user, type, kept, key or next(self.keys))

    def link(self, type: str, id: str, **home: Any) -> None:
        self.slice.change(type, id, **dict.fromkeys(media_type(type).link_homes[:1], home))

    def full_link(self, type: str, id: str, key: str) -> None:
        """The pipeline's own form of a link, right in every part."""
        cid, _ = self.slice.listed(self.user, type)[key]
        uri = f"at://{self.user.did}/{media_type(type).nsid}/{key}"
        home = {"rkey": key, "uri": uri, "cid": cid, "did": self.user.did, "syncedAt": WHEN_TEXT}
        self.slice.change(type, id, **dict.fromkeys(media_type(type).link_homes, home))

    def orphan(self, type: str, value: Mapping[str, Any]) -> str:
        """A record without a document; counted under its key."""
        return self.put(type, value)


def every_link(past: Past) -> dict[str, Any]:
    """Every state a link can be in, and every form of a link (facts, section 11)."""
    slice_, user = past.slice, past.user
    kept: dict[str, Any] = {}
    linked = past.item("mood", "linked")
    past.full_link("mood", linked, past.put("mood", past.right("mood", linked)))
    past.item("mood", "unlinked")
    past.item("mood", "linked", deleted=True)
    past.item("mood", "linked", visibility="private")
    forms: list[dict[str, Any] | None] = [None, {}, {"rkey": "KEY"}, {"rkey": "KEY", "uri": "URI"}, {"uri": "URI"}]
    forms += [{"rkey": "KEY", "uri": "URI", "cid": "CID"}, {"rkey": "KEY", "uri": "URI", "syncedAt": WHEN_TEXT}]
    for form in forms:
        # With URI and CID nothing is missing: the URI says which DID it is.
        id = past.item("mood", "linked" if form and "cid" in form else "unlinked")
        key = past.put("mood", past.right("mood", id))
        cid, _ = slice_.listed(user, "mood")[key]
        words = {"KEY": key, "URI": f"at://{user.did}/{media_type('mood').nsid}/{key}", "CID": cid}
        if form is not None:
            past.link("mood", id, **{name: words.get(part, part) for name, part in form.items()})
    for type_ in ("mood", "piece", "kidlisp", "painting", "tape"):
        dangling = past.item(type_, "dangling")
        kept[type_] = (dangling, next(past.keys))
        past.link(type_, dangling, rkey=kept[type_][1])
        double = past.item(type_, "duplicate")
        value = past.right(type_, double)
        for _ in range(3):
            last = past.put(type_, value)
        past.link(type_, double, rkey=last)
        kept[f"{type_} double"] = (double, last)
        # A program of the same code and source would be the record of a row that was made anew.
        other = {"source": "(wipe gone)"} if type_ == "kidlisp" else {}
        past.orphan(type_, {**past.right(type_, double), **other, "ref": str(ObjectId())})
    past.link("mood", past.item("mood", "dangling", deleted=True), rkey=next(past.keys))
    other = past.item("mood", "unlinked")
    theirs = past.put("mood", past.right("mood", other))
    past.link("mood", past.item("mood", "crossed"), rkey=theirs)
    past.link("mood", past.item("mood", "crossed"), rkey=next(past.keys), did=ELSEWHERE)
    own = past.item("mood", "crossed")
    past.put("mood", past.right("mood", own))
    past.link("mood", own, rkey=theirs)
    withdrawn = past.item("mood", "linked", deleted=True)
    past.full_link("mood", withdrawn, past.put("mood", past.right("mood", withdrawn)))
    kept["crossed"] = (other, theirs)
    kept["withdrawn"] = withdrawn
    return kept


def every_form(past: Past) -> dict[str, tuple[str, str]]:
    """Every form of section 7.1 that a PDS takes, each under a key that has to stay: name -> item, key."""
    made: dict[str, tuple[str, str]] = {}

    def form(name: str, type: str, id: str, **change: Any) -> None:
        key = past.put(type, past.right(type, id) | change)
        past.full_link(type, id, key)
        made[name] = (f"{type}:{id}", key)

    for name, change in {
        "mongoId": {"ref": None, "mongoId": True},
        "textless": {"mood": None},
        "text": {"mood": None, "text": "fine"},
    }.items():
        id = past.item("mood", "wrong-shape")
        form(name, "mood", id, **{n: id if part is True else part for n, part in change.items()})
    for name, change in {
        ".png": {"imageUrl": f"{SITE}/media/paintings/x.png"},
        "@handle": {"imageUrl": f"{SITE}/media/@ada/painting/x.png"},
        "spaces": {"imageUrl": f"{STORE}/x.png", "recordingUrl": f"{STORE}/x.zip"},
        "no thumbnail": {"thumbnail": None},
        "full original": {"thumbnail": "whole"},
        "no acUrl": {"acUrl": None},
    }.items():
        id = past.item("painting", "wrong-shape")
        slug = past.slice.document("painting", id)["slug"]
        if name == "spaces":
            past.store.put(USER_BUCKET, f"{past.user.id}/painting/{slug}.zip", recording_zip())
        past.slice.pipeline.engine.render(past.user, media_type("painting"), Selection(), "render")
        value = {"thumbnail": past.thumbnail(id)} | change
        if value["thumbnail"] == "whole":
            value["thumbnail"] = past.blob(photo_like(640, 480, seed=3), "image/png")
        form(name, "painting", id, **value)
    form("kidlisp without acUrl", "kidlisp", past.item("kidlisp", "wrong-shape"), acUrl=None)
    for name, change in {
        "zipUrl": {"zipUrl": f"{STORE}/x.zip"},
        "tape without acUrl": {"acUrl": None},
        "no video": {"video": None, "thumbnail": None},
        "other poster": {"thumbnail": "poster"},
        "other video": {"video": "video"},
    }.items():
        id = past.item("tape", "wrong-shape")
        past.slice.pipeline.engine.render(past.user, media_type("tape"), Selection(), "render")
        value = past.video(id) | change
        if value["thumbnail"] == "poster":
            value["thumbnail"] = past.blob(photo_like(512, 512, format="JPEG"), "image/jpeg")
        if value["video"] == "video":
            value["video"] = past.blob(tape_mp4(4, 32, 24, seed=9), "video/mp4")
        form(name, "tape", id, **value)
    id = past.item("piece", "wrong-shape", slug=f"{past.user.id}/2026/02/03/abc")
    form("owner in the slug", "piece", id)
    when_off = past.item("mood", "linked")
    form("when off by 3 ms", "mood", when_off, when="2025-10-15T12:30:45.126Z")
    return made


@pytest.fixture
def past(slice_: Slice, object_server: ObjectServer) -> Past:
    return Past(slice_, object_server)


def summed(row: Mapping[str, int]) -> int:
    return sum(n for name, n in row.items() if name not in {"documents", "orphans"})


def test_every_state_and_every_older_form_is_named_and_healed_once(
    cli: Run,
    past: Past,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """LINK-1 to LINK-11, REC-4 to REC-7, VERIFY-3, WRITE-10, WRITE-11, DEL-4: before, after, and never again."""
    forms, links = every_form(past), every_link(past)
    slice_, user = past.slice, past.user
    for media in MEDIA_TYPES:
        slice_.pipeline.engine.render(user, media, Selection(), "render")

    code, before = cli("links")
    found = json.loads(cli("links", "--json")[1])
    assert code == 1
    said = {each["item"]: each["state"] for each in found["items"] if each["state"] != "orphan"}
    expected = past.expected
    assert {item: said.get(item, "linked") for item in expected} == expected
    assert found["total"]["orphan"] == found["total"]["orphans"] == 6
    assert all(found["total"][state] for state in set(expected.values()))
    for row in (*found["types"].values(), found["total"]):
        assert summed(row) == row["documents"] + row["orphans"]
    state_before = slice_.everything()
    cli("links")
    assert slice_.everything() == state_before, "looking wrote something"

    records = {media.name: slice_.records(user, media.name) for media in MEDIA_TYPES}
    code, healing = cli("links", "--heal")
    assert code == 0, healing
    code, after = cli("links")
    healed = json.loads(cli("links", "--json")[1])
    assert code == 0
    assert healed["total"]["linked"] + healed["total"]["unlinked"] == healed["total"]["documents"]
    assert (healed["total"]["unlinked"], healed["total"]["orphans"]) == (1, 0)

    now = {media.name: slice_.records(user, media.name) for media in MEDIA_TYPES}
    for name, (item, key) in forms.items():
        type_, id = item.split(":")
        assert now[type_][key]["ref"] == id, f"{name} has lost its key"
        assert all(blob.name in now[type_][key] for blob in media_type(type_).blobs), name
    for name in ("mood", "piece", "kidlisp", "painting", "tape"):
        id, key = links[name]
        assert now[name][key]["ref"] == id, "a dangling link's record has another key"
        id, key = links[f"{name} double"]
        assert [rkey for rkey, record in now[name].items() if record["ref"] == id] == [key]
    _, theirs = links["crossed"]
    assert now["mood"][theirs] == records["mood"][theirs]
    assert slice_.link("mood", links["withdrawn"]) is None
    audit = slice_.pipeline.audit.entries()
    assert [(entry.action, entry.outcome) for entry in audit] == [("heal-links", "done")]

    quiet = slice_.everything()
    code, again = cli("links", "--heal")
    assert (code, slice_.everything()) == (0, quiet), "a second healing did something"
    plan = json.loads(cli("plan", "--json")[1])
    assert [op["operation"] for op in plan["operations"]] == ["create"], "only what was never published is left"
    if request.config.getoption("capture") == "no":
        with capsys.disabled():
            click.echo(
                f"\n--- before\n{before}\n--- healing\n{healing}\n--- after\n{after}\n--- healing again\n{again}"
            )


def test_all_links_of_an_account_are_rebuilt_without_a_write(cli: Run, past: Past) -> None:
    """LINK-1, LINK-2: every link of a user lost in Mongo, all of them back from `ref`, no record written."""
    for type_ in ("painting", "mood", "mood", "piece", "kidlisp", "tape"):
        past.item(type_, "unlinked")
    slice_, user = past.slice, past.user
    slice_.sync(user)
    whole = {item: slice_.link(*item.split(":")) for item in past.expected}
    for media in MEDIA_TYPES:
        slice_.database[media.collection].update_many({}, {"$unset": dict.fromkeys(media.link_homes, "")})
    assert json.loads(cli("links", "--json")[1])["total"]["unlinked"] == 6
    code, out = cli("links", "--heal", "--json")
    report = json.loads(out)
    assert (code, report["after"]["total"]["linked"]) == (0, 6)
    assert sum(tally["healed"] for tally in report["healed"]["types"].values()) == 6
    assert sum(tally["written"] for tally in report["healed"]["types"].values()) == 0
    assert {item: slice_.link(*item.split(":")) for item in past.expected} == whole
    assert slice_.pipeline.audit.entries() == [], "nothing was deleted, so nothing is in the audit"
