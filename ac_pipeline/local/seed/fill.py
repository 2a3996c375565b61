"""Fills the local services with a demo that is realistic in shape: people, documents, media, and an uneven past.

What is made is `plan.py`. Everything is the same for the same seed but the DIDs, which the PDS draws, and the times of
the one tape that is being baked: it is posted as the demo is made. The records of earlier writers are put together from
the facts (sections 7, 7.1, 11 and 15), not by the pipeline's own builders, which are to be compared with them.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymongo import IndexModel, MongoClient
from pymongo.database import Database
from pymongo.server_api import ServerApi

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.local.seed.plan import GUEST_LABEL, PRESENT, deletion_documents, label_of, plan_demo, user_document
from ac_pipeline.local.seed.values import COLLECTIONS, NOW, Demo, Item, Maker, Past, SeedSummary, Situation, iso, naive
from ac_pipeline.local.services.media_server import object_path
from ac_pipeline.local.services.pds_accounts import NewAccount, PdsAccounts
from ac_pipeline.local.services.stack import HANDLE_DOMAIN, Addresses

COPIES = "site.standard.document"

Progress = Callable[[str, int, int], None]  # `(what, done, total)`
Store = Callable[[str, str, bytes], object]  # `(bucket, key, data)`: keeps one object

_EDITION = 2  # Another one when the same numbers give another demo
_INSERT_BATCH = 5_000  # Documents an insert holds; the local server wants no more (local services facts)
_WRITES = 200  # Operations an `applyWrites` takes (ATProto facts)
_ACCOUNTS_AT_ONCE = 8
_GUEST_CODE = "ac24guest"
_SITE = "https://aesthetic.computer"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,16})[a-z0-9]")  # What the reference PDS takes as first label of a handle

_UNIQUE, _SPARSE = {"unique": True}, {"sparse": True}
_INDEXES: dict[str, dict[str, dict[str, bool]]] = {
    "@handles": {"handle": _UNIQUE},
    "paintings": {"code": _UNIQUE | _SPARSE, "user": {}, "when": {}, "slug": {}, "slug user": _UNIQUE},
    "moods": {"user": {}, "when": {}},
    "pieces": {"code": _UNIQUE | _SPARSE, "hash": _UNIQUE | _SPARSE, "when": {}, "user": _SPARSE},
    "kidlisp": {"code": _UNIQUE | _SPARSE, "hash": _UNIQUE, "when": {}, "user": _SPARSE},
    "tapes": {"code": _UNIQUE, "user": {}, "when": {}, "slug": {}, "slug user": _UNIQUE},
}
"""As upstream has them (aesthetic-computer facts, section 3); sparse where documents without the field exist."""


def into_folder(root: Path) -> Store:

    def store(bucket: str, key: str, data: bytes) -> None:
        path = object_path(root, bucket, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return store


def seed(
    addresses: Addresses, *, users: int, items: int, seed: int = 1, progress: Progress | None = None
) -> SeedSummary:
    """Fill running local services with the demo of `plan.plan_demo`, unless they hold this very demo already; returns
    what was made, now or then. `progress`: called with what is being made, how many are done, and of how many. Raises
    Misconfigured if they hold another demo, or other data; nothing was changed."""
    note = addresses.media_folder.with_name("seed.json")
    asked = {"users": users, "items": items, "seed": seed, "edition": _EDITION}
    if note.exists():
        made = json.loads(note.read_text())
        if made["asked"] == asked:
            return SeedSummary.from_json(made["summary"])
        raise Misconfigured(
            f"the local services hold another demo ({made['asked']}): to make a new one, run `ac-pipeline local down`"
            f" and delete {note.parent}"
        )
    demo, api = plan_demo(users, items, seed), ServerApi("1", strict=True, deprecation_errors=True)
    with (
        MongoClient[dict[str, Any]](addresses.mongo, server_api=api) as client,
        PdsAccounts(addresses.pds, addresses.pds_admin_password) as accounts,
    ):
        store = into_folder(addresses.media_folder)
        summary = make_demo(demo, client[addresses.database], accounts, store, progress)
    note.write_text(json.dumps({"asked": asked, "summary": summary.to_json()}, indent=2) + "\n")
    return summary


def make_demo(
    demo: Demo,
    database: Database[dict[str, Any]],
    accounts: PdsAccounts,
    store: Store,
    progress: Progress | None = None,
) -> SeedSummary:
    """Make a demo in an empty database, on a PDS without these accounts, and in a storage. Raises Misconfigured (the
    database is not empty), PipelineError (the PDS refused something)."""
    started = time.monotonic()
    report = progress or (lambda what, done, total: None)
    if database.list_collection_names():
        raise Misconfigured(
            f"the database {database.name} is not empty, so no demo is made in it: a demo that was interrupted, or real"
            " data. For a fresh local one run `ac-pipeline local down` and delete .local/"
        )
    with ThreadPoolExecutor(_ACCOUNTS_AT_ONCE, thread_name_prefix="accounts") as pool:
        waiting = _start_accounts(pool, accounts, demo)
        objects, media_bytes = _store_objects(demo, store, report)
        made = {}
        for done, (id, future) in enumerate(waiting.items(), 1):
            made[id] = future.result()
            report("accounts", done, len(waiting))
    count = _insert(database, demo, made, _write_past(demo, accounts, made, report), report)
    for person in demo.cast:
        if person.situation is Situation.DEACTIVATED:
            accounts.deactivate(made[person.id].token)
        if person.situation is Situation.TAKEN_DOWN:
            accounts.take_down(made[person.id].did)
    seconds = round(time.monotonic() - started, 1)
    return SeedSummary.of(demo, users=count, objects=objects, media_bytes=media_bytes, seconds=seconds)


def _start_accounts(pool: ThreadPoolExecutor, accounts: PdsAccounts, demo: Demo) -> dict[str, Future[NewAccount]]:
    """An account for everybody who has one, by id; handles are given out in the order of the cast."""
    taken = {GUEST_LABEL}
    waiting = {GUEST_ID: pool.submit(_create, accounts, GUEST_LABEL, _GUEST_CODE, demo.maker.password())}
    for person in demo.cast:
        if person.situation.has_account:
            label = label_of(person)
            if label in taken or _LABEL.fullmatch(label) is None:
                label = person.code
            taken.add(label)
            waiting[person.id] = pool.submit(_create, accounts, label, person.code, person.password)
    return waiting


def _create(accounts: PdsAccounts, label: str, code: str, password: str) -> NewAccount:
    """By the platform's rule: the user code where the PDS refuses the handle, e.g. a reserved one."""
    try:
        return accounts.create(label + HANDLE_DOMAIN, password)
    except PipelineError as error:
        if error.status != 400 or label == code:
            raise
        return accounts.create(code + HANDLE_DOMAIN, password)


def _store_objects(demo: Demo, store: Store, report: Progress) -> tuple[int, int]:
    wanted = [one for item in demo.items if item.in_mongo for one in item.objects]
    total = 0
    for done, one in enumerate(wanted, 1):
        data = one.make()
        store(one.bucket, one.key, data)
        total += len(data)
        report("media", done, len(wanted))
    return len(wanted), total


@dataclass(slots=True)
class _Repository:
    """Records to write to one account before anything else is there."""

    account: NewAccount
    writes: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)  # Media type -> a key in use, for links that got crossed

    def write(self, collection: str, rkey: str, value: Mapping[str, Any]) -> str:
        """Note a record; returns its at-URI."""
        kind = "com.atproto.repo.applyWrites#create"
        self.writes.append({"$type": kind, "collection": collection, "rkey": rkey, "value": value})
        return f"at://{self.account.did}/{collection}/{rkey}"


def _write_past(
    demo: Demo, accounts: PdsAccounts, made: Mapping[str, NewAccount], report: Progress
) -> dict[int, dict[str, Any]]:
    """Write the records of earlier writers; returns the link of each item that has one, by its place in the demo."""
    repositories: dict[str, _Repository] = {}
    links: dict[int, dict[str, Any]] = {}
    linked: dict[str, dict[str, Any]] = {}
    for place, item in enumerate(demo.items):
        owner = item.owner.id if item.owner else GUEST_ID
        if owner not in made:
            continue
        repository = repositories.setdefault(owner, _Repository(made[owner]))
        if not item.past.records:
            link = _link_alone(demo.maker, item, repository.keys)
        else:
            uri, link = _write_records(demo.maker, item, repository, accounts)
            linked |= {uri: link} if link else {}
        if link is not None:
            links[place] = link
    for done, repository in enumerate(repositories.values(), 1):
        for start in range(0, len(repository.writes), _WRITES):
            batch = {"repo": repository.account.did, "writes": repository.writes[start : start + _WRITES]}
            answer = accounts.call("com.atproto.repo.applyWrites", batch, token=repository.account.token)
            for result in answer["results"]:
                if "cid" in linked.get(result["uri"], {}):
                    linked[result["uri"]]["cid"] = result["cid"]
        report("earlier records", done, len(repositories))
    return links


def _write_records(
    maker: Maker, item: Item, repository: _Repository, accounts: PdsAccounts
) -> tuple[str, dict[str, Any] | None]:
    """The records an earlier writer left of one item: the address of one, and its link, whose CID is known later."""
    past, when, account = item.past, item.document["_id"].generation_time, repository.account
    keys = [maker.tid(when + timedelta(minutes=minute)) for minute in range(past.records)]
    repository.keys.setdefault(item.type, keys[0])
    record = _record(item)
    if past is Past.WHOLE_PICTURE:
        record["thumbnail"] = accounts.upload(item.objects[0].make(), "image/png", token=account.token)
    uris = [repository.write(_nsid(item.type), rkey, record) for rkey in keys]
    rkey, uri = list(zip(keys, uris, strict=True))[past is Past.DUPLICATES]  # the second of three
    if past is Past.COPIED:
        repository.write(COPIES, maker.tid(NOW), _copy(record, uri))
    parts = {"uri": uri, "cid": "", "did": account.did, "syncedAt": iso(NOW)}
    return uri, None if past.link is None else {"rkey": rkey, **{name: parts[name] for name in past.link}}


def _link_alone(maker: Maker, item: Item, others: Mapping[str, str]) -> dict[str, Any] | None:
    """A link to a record that is not there, or not this document's. `others`: media type -> a key that holds another
    document's record of the same repository."""
    past = item.past
    rkey = maker.tid(item.document["_id"].generation_time)
    if past is Past.DANGLING or past is Past.FOREIGN_RKEY:
        return {"rkey": rkey}
    if past is Past.CROSSED:
        return {"rkey": others[item.type]} if item.type in others else {}
    if past is Past.WIPED or past is Past.FOREIGN_DID:
        did = maker.did()
        uri = f"at://{did}/{_nsid(item.type)}/{rkey}"
        return {"uri": uri} if past is Past.WIPED else {"rkey": rkey, "uri": uri, "did": did, "syncedAt": iso(NOW)}
    return {} if past is Past.EMPTY_LINK else None


def _nsid(type: str) -> str:
    return f"computer.aesthetic.{type}"


def _record(item: Item) -> dict[str, Any]:
    """The record as an earlier writer made it, but for its blobs."""
    document, owner = item.document, item.owner
    code, slug = document.get("code"), document.get("slug")
    handle = (owner.handle or owner.code) if owner else ""
    picture, stored = f"{_SITE}/media/paintings/{code}", item.objects[0].url if item.objects else ""
    own: dict[str, dict[str, Any]] = {
        "painting": {"slug": slug, "code": code, "imageUrl": picture, "acUrl": f"{_SITE}/#{code}"},
        "mood": {"mood": document.get("mood")},
        "piece": {"slug": slug},
        "kidlisp": {"source": document.get("source"), "code": code, "acUrl": f"{_SITE}/${code}"},
        "tape": {"slug": slug, "code": code, "acUrl": f"{_SITE}/!{code}"},
    }
    when, ref = _iso_of(document["when"]), str(document["_id"])
    right = {"$type": _nsid(item.type), **own[item.type], "when": when, "ref": ref}
    changes: dict[Past, dict[str, Any]] = {
        Past.TEXT_FIELD: {"mood": None, "text": right.get("mood")},
        Past.TEXTLESS: {"mood": None},
        Past.MONGO_ID: {"ref": None, "mongoId": ref},
        # The real-time writer looks at the clock twice.
        Past.WHEN_OFF: {"when": _iso_of(document["when"] + timedelta(milliseconds=3))},
        Past.PNG_URL: {"imageUrl": f"{picture}.png"},
        Past.HANDLE_URL: {"imageUrl": f"{_SITE}/media/@{handle}/painting/{slug}.png"},
        Past.SPACES_URL: {"imageUrl": stored},
        Past.NO_PAGE: {"acUrl": None},
        Past.NO_REF: {"ref": None},
        Past.NO_VIDEO: {"zipUrl": stored},
    }
    return {name: value for name, value in {**right, **changes.get(item.past, {})}.items() if value is not None}


def _copy(record: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """The copy of a record that a script of the platform makes for readers of other apps."""
    text = record.get("mood") or record.get("source") or record["slug"]
    shown = {"path": f"/{uri.rpartition('/')[2]}", "title": text.partition("\n")[0], "textContent": text}
    source = {"sourceAtUri": uri, "sourceCollection": record["$type"], "sourceRef": record["ref"]}
    return {"$type": COPIES, "site": _SITE, **shown, "publishedAt": record["when"], **source}


def _iso_of(when: datetime) -> str:
    """A stored time (naive, UTC) as records write it."""
    return iso(when.replace(tzinfo=UTC))


def _insert(
    database: Database[dict[str, Any]],
    demo: Demo,
    made: Mapping[str, NewAccount],
    links: Mapping[int, dict[str, Any]],
    report: Progress,
) -> int:
    """Put everything into Mongo; returns the number of `users` documents."""
    for collection, indexes in _INDEXES.items():
        models = [IndexModel(dict.fromkeys(names.split(), 1), **options) for names, options in indexes.items()]
        database[collection].create_indexes(models)
    documents: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    now = naive(datetime.now(UTC))
    for place, item in enumerate(demo.items):
        if item.in_mongo:
            home = "at" if item.type == "tape" and item.past.records else "atproto"
            fields = {name: now if value is PRESENT else value for name, value in item.document.items()}
            documents[item.type].append({**fields, **({home: links[place]} if place in links else {})})
    deletions, tombstones = deletion_documents(demo.cast)
    guest = made[GUEST_ID]
    credentials = {"did": guest.did, "handle": guest.handle, "password": guest.password, "created": iso(NOW)}
    users: list[dict[str, Any]] = [{"_id": GUEST_ID, "code": _GUEST_CODE, "atproto": credentials}]
    for person in demo.cast:
        account = made.get(person.id)
        did = demo.maker.did() if person.situation is Situation.UNKNOWN_DID else account.did if account else None
        document = user_document(person, did, account.handle if account else None)
        if document is not None:
            users.append(document)
    collections: dict[str, list[dict[str, Any]]] = {
        "users": users,
        "@handles": [{"_id": one.id, "handle": one.handle} for one in demo.cast if one.handle],
        "account-deletions": deletions,
        "account-tombstones": tombstones,
        **{collection: documents[type] for type, collection in COLLECTIONS.items()},
    }
    for done, (collection, rows) in enumerate(collections.items(), 1):
        for start in range(0, len(rows), _INSERT_BATCH):
            database[collection].insert_many(rows[start : start + _INSERT_BATCH])
        report("collections", done, len(collections))
    return len(users)
