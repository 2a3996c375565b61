"""The cut-over, rehearsed: what the original leaves, what a plan says of it, and that the sync does just that.

The data are what the original is known to leave (facts, sections 7.1, 11, 12 and 15.1), one line of a table for each
kind. With `pytest -s` the numbers of the operators' guide are printed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import click
import httpx
import pytest
from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.local.seed.artwork import photo_like, pixel_art, recording_zip, tape_mp4, tape_zip
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.planning.plan import COPIES
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.harness import GUEST_BUCKET, USER_BUCKET, Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.scripted_storage import ObjectServer

SITE = "https://aesthetic.computer"
WHEN_TEXT = "2025-10-15T12:30:45.123Z"
PICTURE = f"{SITE}/media/paintings/x.png"
OWNER = "OWNER/"
"""Stands for the owner's Auth0 id in a slug."""

Homes = Mapping[str, tuple[str, int]]
"""Home of a link -> the parts that it holds, and the number of the record that it names."""
PLAIN: Homes = {"atproto": ("rkey", 0)}
FULL: Homes = {"atproto": ("rkey uri cid", 0)}
BOTH: Homes = {"atproto": ("rkey", 0), "at": ("rkey uri cid", 0)}
APART: Homes = {"atproto": ("rkey", 0), "at": ("rkey uri cid", 1)}
NONE: Homes = {}

RIGHT: Mapping[str, Any] = {}
NO_TEXT, NO_REF, NO_PAGE = {"mood": None}, {"ref": None}, {"acUrl": None}
NO_PICTURE, NO_VIDEO = {"thumbnail": None}, {"video": None, "thumbnail": None}


@dataclass(frozen=True)
class Left:
    """Documents of one user that are alike, and what the original has made of each.

    Args:
        then: The operations that the first sync shall need for each, once its renditions are made.
        records: What each of its records has otherwise than it should; none where there is no record.
        stored: False if storage has not its media.
        lost: True if the documents have gone since.
    """

    user: str
    type: str
    what: str
    number: int
    then: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Mapping[str, Any], ...] = (RIGHT,)
    homes: Homes = field(default_factory=lambda: PLAIN)
    stored: bool = True
    lost: bool = False


LEFT = (
    Left("ada", "mood", "without text", 6, "update", records=(NO_TEXT,)),
    Left("ada", "mood", "right, with a full link", 2, "", homes=FULL),
    Left("ada", "mood", "3 ms off", 1, "heal", records=({"when": "2025-10-15T12:30:45.126Z"},)),
    Left("ada", "mood", "with mongoId", 2, "update", records=({"ref": None, "mongoId": True},)),
    Left("ada", "mood", "in three records", 1, "delete-duplicate delete-duplicate update", records=(NO_TEXT,) * 3),
    Left("ada", "mood", "with the rest of a link", 1, "create", records=(), homes={"atproto": ("uri", 0)}),
    Left("ada", "mood", "whose record is gone", 1, "create", records=()),
    Left("ada", "mood", "removed", 3, "delete", {"deleted": True}, (NO_TEXT,)),
    Left("ada", "mood", "private", 1, "delete", {"visibility": "private"}),
    Left("ada", "piece", "right, with a plain link", 2, "heal"),
    Left("ada", "piece", "whose slug names its owner", 1, "update", {"slug": f"{OWNER}2026/02/03/abc"}),
    Left("ada", "piece", "a draft", 1, "delete", {"draft": True}),
    Left("ada", "piece", "whose documents are gone", 8, "", lost=True),
    Left("ada", "kidlisp", "published right before an interruption", 3, "adopt", homes=NONE),
    Left("ada", "kidlisp", "without ref", 1, "update", records=(NO_REF,), homes=NONE),
    Left("ada", "kidlisp", "without acUrl", 1, "update", records=(NO_PAGE,)),
    Left("ada", "painting", "as the original makes them", 2, "update"),
    Left("ada", "painting", "without thumbnail", 1, "update", records=(NO_PICTURE,)),
    Left("ada", "painting", "whole", 1, "update", records=({"imageUrl": PICTURE, "thumbnail": "whole"},)),
    Left("ada", "painting", "whose slug names its owner", 1, "update", {"slug": f"{OWNER}painting/2026.1.2.3.4.5.678"}),
    Left("ada", "painting", "never published", 1, "create", records=(), homes=NONE),
    Left("ada", "painting", "nuked", 1, "delete", {"nuked": True}),
    Left("ada", "painting", "unfinished", 1, "delete", {"status": "wip", "slug": "wip/abcdef"}),
    Left("ada", "painting", "whose documents are gone", 2, "delete-orphan", stored=False, lost=True),
    Left("ada", "tape", "without video", 1, "update", records=(NO_VIDEO,)),
    Left("ada", "tape", "with links in both homes", 1, "update", homes=BOTH),
    Left("ada", "tape", "published twice", 1, "delete-duplicate update", records=(NO_VIDEO, RIGHT), homes=APART),
    Left("ada", "tape", "nuked", 1, "delete", {"nuked": True}, homes=BOTH),
    Left("bob", "mood", "published right before an interruption", 3, "update", records=(NO_TEXT,), homes=NONE),
    Left("bob", "mood", "that were not reached", 2, "create", records=(), homes=NONE),
    Left("bob", "piece", "published right before an interruption", 2, "adopt", homes=NONE),
    Left("bob", "painting", "without code", 1, "", {"code": None}),
    Left("bob", "painting", "that storage has not", 1, "", records=(NO_PICTURE,), stored=False),
    Left("carol", "mood", "of somebody who leaves", 2, "delete", records=(NO_TEXT,)),
    Left("dan", "mood", "of somebody without password", 2, "", records=(NO_TEXT,)),
    Left(GUEST_ID, "painting", "with its recording", 1, "update", {"slug": "abcdefgh:ijklmnop"}),
    Left(GUEST_ID, "kidlisp", "without user", 1, "adopt", homes=NONE),
    Left(GUEST_ID, "kidlisp", "with user null", 1, "adopt", {"user": None}, homes=NONE),
    Left(GUEST_ID, "tape", "without video", 1, "update", records=(NO_VIDEO,), homes=NONE),
)

BEFORE = {"painting": 12, "mood": 25, "piece": 14, "kidlisp": 7, "tape": 6}
"""Records on the PDS."""
PLANNED = {
    "adopt": 7,
    "heal": 3,
    "update": 25,
    "create": 5,
    "delete": 10,
    "delete-duplicate": 3,
    "delete-copy": 1,
    "delete-orphan": 2,
}
DONE = {"created": 5, "updated": 25, "healed": 10, "deleted": 12, "duplicates_removed": 3, "copies_removed": 1}
"""What the sync says of the same operations."""
QUARANTINED = {"invalid-document": 1, "source-missing": 1}
AFTER = {"painting": 9, "mood": 21, "piece": 13, "kidlisp": 7, "tape": 4}


@cache
def blob(name: str) -> tuple[bytes, str]:
    """A blob as the original makes it, with the type that it declares; `whole` is a painting as it is."""
    if name == "video":
        return tape_mp4(4, 96, 72, seed=3), "video/mp4"
    return photo_like(*((512, 512) if name == "thumbnail" else (640, 480)), seed=1), "image/png"


class Original:
    """A platform on which the original has been at work for years."""

    def __init__(self, slice_: Slice, store: ObjectServer) -> None:
        self.slice, self.store = slice_, store
        self.users = {name: slice_.user(name) for name in ("ada", "bob", "carol", "dan")}
        self.users[GUEST_ID] = slice_.user(id=GUEST_ID)
        self.numbers = iter(range(1, 1_000))
        self.tids = (f"3jzfcijpj2{a}{b}{c}" for a, b, c in product("abcdefghijklmnopqrstuvwxyz", repeat=3))
        self.writes: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.blobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.items: dict[str, tuple[Left, list[str]]] = {}
        for left in LEFT:
            for _ in range(left.number):
                self.leave(left)
        self.a_copy_of_a_removed_mood()
        self.commit()
        users = slice_.database["users"]
        users.update_one({"_id": self.users["bob"].id}, {"$set": {"atproto.handle": None}})
        users.update_one({"_id": self.users["dan"].id}, {"$unset": {"atproto.password": ""}})
        slice_.database["account-deletions"].insert_one({"_id": self.users["carol"].id, "state": "scheduled"})

    def leave(self, left: Left) -> None:
        """One document with its media, and what its records shall be."""
        user, number = self.users[left.user], next(self.numbers)
        slug = f"{number:08}" if user.is_guest else f"2025.10.15.12.30.{number}.123"
        needed: dict[str, dict[str, Any]] = {
            "painting": {"slug": slug, "code": f"p{number:03}"},
            "mood": {"mood": f"mood {number}"},
            "piece": {"slug": f"piece-{number}"},
            "kidlisp": {"source": f"(line {number})", "code": f"k{number:03}"},
            "tape": {"slug": slug, "code": f"t{number:03}"},
        }
        fields = needed[left.type] | left.fields
        if "slug" in fields:
            fields["slug"] = fields["slug"].replace(OWNER, f"{user.id}/")
        if left.stored and left.type in ("painting", "tape"):
            self.store_media(user, left.type, fields["slug"], number)
        id = self.slice.add(left.type, user, **fields)
        keys = [self.publish(user, left.type, id, change) for change in left.records]
        self.items[f"{left.type}:{id}"] = left, keys or [next(self.tids)]

    def store_media(self, user: Account, type: str, slug: str, number: int) -> None:
        image, _, recording = slug.partition(":")
        folder = "" if user.is_guest or slug.startswith(user.id) else f"{user.id}/"
        if folder and type == "painting":
            folder += "painting/"
        bucket = GUEST_BUCKET if user.is_guest else USER_BUCKET
        if type == "tape":
            self.store.put(bucket, f"{folder}{slug}.zip", tape_zip(4, 32, 24, seed=number))
        else:
            self.store.put(bucket, f"{folder}{image}.png", pixel_art(24, 16, seed=number))
        if recording:
            self.store.put(bucket, f"{recording}.zip", recording_zip())

    def publish(self, user: Account, type: str, id: str, change: Mapping[str, Any]) -> str:
        """A record in the original's latest form, but for what is changed; its key."""
        raw = self.slice.document(type, id)
        code, page = raw.get("code") or "undefined", {"painting": "#", "kidlisp": "$", "tape": "!"}.get(type)
        names = {"mood": ("mood",), "piece": ("slug",), "kidlisp": ("source", "code")}.get(type, ("slug", "code"))
        value: dict[str, Any] = {name: raw.get(name) for name in names} | {"when": WHEN_TEXT, "ref": id}
        value |= {"acUrl": f"{SITE}/{page}{code}"} if page else {}
        value |= {"imageUrl": f"{SITE}/media/paintings/{code}"} if type == "painting" else {}
        made = [each.name for each in media_type(type).blobs]
        value |= {name: name for name in made} | change | ({"mongoId": id} if "mongoId" in change else {})
        value |= {name: self.upload(user, value[name]) for name in made if value[name]}
        return self.write(user, media_type(type).nsid, {name: part for name, part in value.items() if part is not None})

    def upload(self, user: Account, name: str) -> dict[str, Any]:
        if (user.key, name) not in self.blobs:
            data, mime_type = blob(name)
            headers = {"authorization": f"Bearer {self.slice.pds.token(user)}", "content-type": mime_type}
            url = f"{self.slice.pds.url}/xrpc/com.atproto.repo.uploadBlob"
            answer = httpx.post(url, content=data, headers=headers, timeout=30).raise_for_status()
            self.blobs[user.key, name] = answer.json()["blob"]
        return self.blobs[user.key, name]

    def write(self, user: Account, collection: str, value: Mapping[str, Any]) -> str:
        key = next(self.tids)
        create = {"$type": "com.atproto.repo.applyWrites#create", "collection": collection, "rkey": key}
        self.writes[user.key].append({**create, "value": {"$type": collection, **value}})
        return key

    def a_copy_of_a_removed_mood(self) -> None:
        """As a script of the platform makes them."""
        item, keys = next((item, keys) for item, (left, keys) in self.items.items() if left.what == "removed")
        uri = self.uri(self.users["ada"], "mood", keys[0])
        named = {"sourceAtUri": uri, "sourceRef": item.partition(":")[2]}
        self.write(self.users["ada"], COPIES, {"site": SITE, "title": "x", "publishedAt": WHEN_TEXT, **named})

    def uri(self, user: Account, type: str, key: str) -> str:
        return f"at://{user.did}/{media_type(type).nsid}/{key}"

    def commit(self) -> None:
        """Write the records, then their links, as the original does; then documents are lost."""
        cids: dict[str, str] = {}
        for name, writes in self.writes.items():
            body = {"repo": self.users[name].did, "writes": writes}
            answer = self.slice.call(self.users[name], "com.atproto.repo.applyWrites", body)
            cids |= {each["uri"]: each["cid"] for each in answer["results"]}
        for item, (left, keys) in self.items.items():
            type, _, id = item.partition(":")
            for home, (parts, number) in left.homes.items():
                uri = self.uri(self.users[left.user], type, keys[number])
                link = {"rkey": keys[number], "uri": uri, "cid": cids.get(uri)}
                self.slice.change(type, id, **{home: {part: link[part] for part in parts.split()}})
            if left.lost:
                self.slice.database[media_type(type).collection].delete_one({"_id": ObjectId(id)})

    def records(self) -> dict[str, dict[str, tuple[str, dict[str, Any]]]]:
        """User -> type and key of each record -> its CID and content, as a client that is not ours lists them."""
        return {
            name: {f"{m.name} {k}": each for m in MEDIA_TYPES for k, each in self.slice.listed(user, m.name).items()}
            for name, user in self.users.items()
        }

    def rightly_published(self) -> Iterator[tuple[str, str, str]]:
        """User, type and key of each record of which its document wants to be shown, and the id of that."""
        for item, (left, keys) in self.items.items():
            if left.records and "delete" not in left.then.split() and not left.lost:
                yield left.user, f"{left.type} {keys[0]}", item.partition(":")[2]


def cids(records: Mapping[str, Mapping[str, tuple[str, Any]]], name: str) -> dict[str, str]:
    return {path: cid for path, (cid, _) in records[name].items()}


def by_type(records: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(path.partition(" ")[0] for each in records.values() for path in each))


def but_for_the_ledger(slice_: Slice) -> dict[str, Any]:
    """The platform's database, the repositories, and the store of renditions."""
    ledger = f"{slice_.pipeline.settings.ac_ledger_database}."
    return {name: each for name, each in slice_.everything().items() if not name.startswith(ledger)}


def counts(reports: list[dict[str, Any]]) -> Counter[str]:
    """What syncs did, in all types."""
    return sum((Counter(tally) for report in reports for tally in report["types"].values()), Counter())


@dataclass(frozen=True)
class Desk:
    """An operator who asks for numbers, and writes down what shows them."""

    cli: Run
    notes: list[str] = field(default_factory=list)

    def ask(self, *words: str, code: int = 0) -> Any:
        ended, out = self.cli(*words, "--json")
        assert ended == code, out
        return json.loads(out)

    def note(self, what: str, numbers: Mapping[str, Any]) -> None:
        self.notes.append(f"{what}: {', '.join(f'{name} {number}' for name, number in numbers.items() if number)}")


@pytest.fixture
def original(slice_: Slice, object_server: ObjectServer) -> Original:
    return Original(slice_, object_server)


@pytest.fixture
def desk(cli: Run, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[Desk]:
    made = Desk(cli)
    yield made
    if request.config.getoption("capture") == "no":
        with capsys.disabled():
            click.echo("\n" + "\n".join(made.notes))


def test_the_cut_over_does_what_its_rehearsal_says_and_there_is_a_way_back(desk: Desk, original: Original) -> None:
    """PLAN-1, LINK-1 to LINK-11, SRC-4 to SRC-7, REC-6, REC-7, MEDIA-7, DEL-1, DEL-4, DEL-9, ACCT-1, GUARD-1, GUARD-7,
    ERASE-1, VERIFY-1, VERIFY-2, WRITE-1, WRITE-10, WRITE-11, PLAN-6."""
    before = original.records()
    plan = rehearsed(desk, original)
    assert original.records() == before
    snapshots = {name: desk.ask("snapshot", name)["id"] for name in ("ada", "bob", "carol", GUEST_ID)}
    carried_out(desk, plan)
    after = original.records()
    in_order(desk, original)
    assert "auth0|" not in json.dumps(after)
    assert all("mood" in value for path, (_, value) in after["ada"].items() if path.startswith("mood "))
    assert all("video" in value for path, (_, value) in after["ada"].items() if path.startswith("tape "))
    for name, path, id in original.rightly_published():
        assert after[name][path][1]["ref"] == id, f"{path} of {name} has lost its key"
    brought_back(desk, original, before, snapshots)
    assert desk.ask("sync", code=1)["run_again"] == []
    assert original.records() == after, "the cut-over once more ends elsewhere"


def rehearsed(desk: Desk, original: Original) -> Mapping[str, Any]:
    """The rehearsal says what would be done and writes nothing; what a person decides is done; then it is exact."""
    slice_, ask = original.slice, desk.ask
    untouched = but_for_the_ledger(slice_)
    links, lost, plan = ask("links", code=1)["total"], ask("restore-documents", code=1), ask("plan")
    assert but_for_the_ledger(slice_) == untouched, "the rehearsal wrote something"
    assert by_type(original.records()) == BEFORE
    assert (links["documents"], links["orphans"], links["linked"]) == (54, 20, 12)
    assert (lost["confirm"], plan["orphans_kept"]) == (8, {"piece": 8})
    assert [each["user"] for each in plan["blocked"]] == ["dan"]
    assert plan["counts"] == PLANNED | {"update": 15, "create": 4, "render": 12}
    assert plan["quarantined"] == {"invalid-document": 1}
    desk.note("records before", BEFORE)
    desk.note("links before", links)
    desk.note("plan", plan["counts"])

    ask("restore-documents", "--type", "piece", "--confirm", "8")
    decided = but_for_the_ledger(slice_)
    for user in map(slice_.account, [each.id for each in original.users.values()]):
        for media in MEDIA_TYPES:
            if media.recipe is not None:  # as the assets of renditions do
                slice_.pipeline.engine.render(user, media, Selection(), "render")
    plan = ask("plan")
    assert but_for_the_ledger(slice_) | {"store": []} == decided | {"store": []}
    assert (plan["counts"], plan["orphans_kept"], plan["quarantined"]) == (PLANNED, {}, QUARANTINED)
    planned: dict[str, list[str]] = defaultdict(list)
    for each in plan["operations"]:
        planned[each["item"]].append(each["operation"])
    next(kinds for kinds in planned.values() if "delete-copy" in kinds).remove("delete-copy")
    expected = {item: left.then.split() for item, (left, _) in original.items.items() if left.then}
    assert {item: sorted(kinds) for item, kinds in planned.items()} == expected
    desk.note("plan with renditions", plan["counts"])
    return dict(plan)


def carried_out(desk: Desk, plan: Mapping[str, Any]) -> None:
    """One user first, then all: what was planned, number by number, and nothing has moved."""
    first = desk.ask("sync", "--plan", plan["hash"], "--canary", "1")
    rest = desk.ask("sync", "--plan", plan["hash"])
    assert [each["user"] for each in first["canary"]] == ["ada"]
    assert (first["same"] + rest["same"], rest["before"]) == (sum(PLANNED.values()), first["same"])
    assert first["moved"] + rest["moved"] == []
    done = counts([first, rest])
    assert {name: done[name] for name in DONE} == DONE
    desk.note("done", DONE)


def in_order(desk: Desk, original: Original) -> None:
    """All is as it should be, a second sync has nothing to write, and what is left for a person is said."""
    assert by_type(original.records()) == AFTER
    verified = desk.ask("verify")
    wrong = {name: verified[name] for name in ("missing", "extra", "different", "duplicates")}
    assert (verified["expected"], verified["verified"], set(wrong.values())) == (50, 50, {0})
    assert (verified["quarantined"], verified["blocked"], verified["blobs"]["missing"]) == (2, 2, 0)
    quiet = but_for_the_ledger(original.slice)
    again = desk.ask("sync", code=1)
    assert but_for_the_ledger(original.slice) == quiet, "a second sync wrote something"
    assert (counts([again])["unchanged"], counts([again])["quarantined"]) == (50, 2)
    assert Counter(each["class"] for each in again["failures"]) == QUARANTINED
    links = desk.ask("links", code=1)
    total = {name: number for name, number in links["total"].items() if number}
    assert total == {"documents": 62, "linked": 60, "unlinked": 1, "wrong-shape": 1}
    assert {each["user"] for each in links["items"]} == {"bob"}, "only what is quarantined"
    for item, (left, keys) in original.items.items():
        if left.homes == BOTH and "delete" not in left.then:
            raw = original.slice.document("tape", item.partition(":")[2])
            assert raw["at"]["rkey"] == raw["atproto"]["rkey"] == keys[0]
    desk.note("records after", AFTER)
    desk.note("links after", total)


def brought_back(
    desk: Desk, original: Original, before: Mapping[str, Mapping[str, Any]], snapshots: Mapping[str, str]
) -> None:
    """What was changed comes back byte by byte; what was removed does not, and is named with the reason."""
    report = desk.ask("restore", "ada", "--from", snapshots["ada"], "--overwrite")
    now, then = cids(original.records(), "ada"), cids(before, "ada")
    assert {path: cid for path, cid in now.items() if path in then} == {p: c for p, c in then.items() if p in now}
    assert len(now.keys() - then.keys()) == 3, "what was new stays"
    gone = {path.partition(" ")[2] for path in then.keys() - now.keys()}
    assert {each["record"].partition("/")[2] for each in report["held"]} == gone
    reasons = Counter(" ".join(each["reason"].split()[:4]) for each in report["held"])
    assert reasons == {"its document is withdrawn:": 8, "it is a duplicate": 3, "its document is gone": 2}
    desk.note("brought back of ada", {"records": sum(report["restored"].values()), **reasons})

    total = desk.ask("wipe", "bob", "--dry-run")["total"]
    desk.ask("wipe", "bob", "--confirm", str(total))
    assert desk.ask("restore", "bob", "--from", snapshots["bob"])["held"] == []
    assert cids(original.records(), "bob") == cids(before, "bob"), "without what was new"

    assert len(desk.ask("restore", "carol", "--from", snapshots["carol"])["held"]) == 2
    assert original.records()["carol"] == {}
