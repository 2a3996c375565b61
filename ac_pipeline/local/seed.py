"""Fills the local services with a demo that is realistic in shape: people, documents, media, and an uneven past.

Only the making is here: accounts on the PDS, objects in storage, records of earlier writers, documents in Mongo. What
is made is `seed_plan.py`. Everything is the same for the same seed but the DIDs, which the PDS draws, and the times of
the one tape that is being baked: it is posted as the demo is made.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo import ASCENDING, IndexModel, MongoClient
from pymongo.database import Database
from pymongo.server_api import ServerApi

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.errors import Misconfigured, PipelineError
from ac_pipeline.local.media_server import object_path
from ac_pipeline.local.pds_accounts import NewAccount, PdsAccounts
from ac_pipeline.local.pds_server import HANDLE_DOMAIN
from ac_pipeline.local.seed_kinds import PRESENT
from ac_pipeline.local.seed_maker import NOW, Maker, iso, naive
from ac_pipeline.local.seed_people import GUEST_LABEL, deletion_documents, label_of, user_document
from ac_pipeline.local.seed_plan import Demo, plan_demo, summarise
from ac_pipeline.local.seed_records import COPIES, Left, Whole, copy_of, left_behind, nsid
from ac_pipeline.local.seed_values import COLLECTIONS, TYPES, Item, Person, SeedSummary, Situation
from ac_pipeline.local.services import Addresses, LocalServices

USERS = 60
ITEMS = 2_500
SEED = 1

Progress = Callable[[str, int, int], None]
"""`(what, done, total)`."""

_INSERT_BATCH = 5_000
"""Documents an insert holds; the local server wants no more (local services facts)."""
_WRITES = 200
"""Operations an `applyWrites` takes (ATProto facts)."""
_ACCOUNTS_AT_ONCE = 8
_GUEST_CODE = "ac24guest"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,16})[a-z0-9]")
"""What the reference PDS takes as first label of a handle."""

_USER = (("user", ASCENDING),)
_WHEN = (("when", ASCENDING),)
_CODE = (("code", ASCENDING),)
_SLUG = (("slug", ASCENDING),)
_SLUG_OF_USER = (("slug", ASCENDING), ("user", ASCENDING))
_HASH = (("hash", ASCENDING),)
_UNIQUE, _SPARSE = {"unique": True}, {"sparse": True}
_UNIQUE_SPARSE = {**_UNIQUE, **_SPARSE}

_INDEXES: dict[str, list[tuple[tuple[tuple[str, int], ...], dict[str, bool]]]] = {
    "@handles": [((("handle", ASCENDING),), _UNIQUE)],
    "paintings": [(_CODE, _UNIQUE_SPARSE), (_USER, {}), (_WHEN, {}), (_SLUG, {}), (_SLUG_OF_USER, _UNIQUE)],
    "moods": [(_USER, {}), (_WHEN, {})],
    "pieces": [(_CODE, _UNIQUE_SPARSE), (_HASH, _UNIQUE_SPARSE), (_WHEN, {}), (_USER, _SPARSE)],
    "kidlisp": [(_CODE, _UNIQUE_SPARSE), (_HASH, _UNIQUE), (_WHEN, {}), (_USER, _SPARSE)],
    "tapes": [(_CODE, _UNIQUE), (_USER, {}), (_WHEN, {}), (_SLUG, {}), (_SLUG_OF_USER, _UNIQUE)],
}
"""As upstream has them (aesthetic-computer facts, section 3); sparse where documents without the field exist."""

Store = Callable[[str, str, bytes], object]
"""`(bucket, key, data)`: keeps one object."""


def into_folder(root: Path) -> Store:
    """Keeps objects where the local media server looks for them."""

    def store(bucket: str, key: str, data: bytes) -> None:
        path = object_path(root, bucket, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return store


def seed(
    addresses: Addresses,
    *,
    users: int = USERS,
    items: int = ITEMS,
    seed: int = SEED,
    progress: Progress | None = None,
) -> SeedSummary:
    """Fill running local services, unless they hold this very demo already.

    Args:
        addresses: What `LocalServices.up` returned.
        users, items, seed: See `seed_plan.plan_demo`.
        progress: Called with what is being made, how many are done, and of how many.

    Returns:
        What was made, now or then.

    Raises:
        Misconfigured: They hold another demo, or other data; nothing was changed.
    """
    note = addresses.media_folder.with_name("seed.json")
    asked = {"users": users, "items": items, "seed": seed}
    if note.exists():
        made = json.loads(note.read_text())
        if made["asked"] == asked:
            return SeedSummary.from_json(made["summary"])
        raise Misconfigured(
            f"the local services hold another demo ({made['asked']}): to make a new one, run `ac-pipeline local down`"
            f" and delete {note.parent}"
        )
    with (
        MongoClient[dict[str, Any]](
            addresses.mongo, server_api=ServerApi("1", strict=True, deprecation_errors=True)
        ) as client,
        PdsAccounts(addresses.pds, addresses.pds_admin_password) as accounts,
    ):
        summary = make_demo(
            client[addresses.database],
            accounts,
            into_folder(addresses.media_folder),
            users=users,
            items=items,
            seed=seed,
            progress=progress,
        )
    note.write_text(json.dumps({"asked": asked, "summary": summary.to_json()}, indent=2) + "\n")
    return summary


_seed = seed
"""`seed` under a name that no parameter hides."""


def seed_services(
    services: LocalServices,
    *,
    users: int = USERS,
    items: int = ITEMS,
    seed: int = SEED,
    progress: Progress | None = None,
) -> SeedSummary:
    """Start the local services and `seed` them."""
    return _seed(services.up(), users=users, items=items, seed=seed, progress=progress)


def make_demo(
    database: Database[dict[str, Any]],
    accounts: PdsAccounts,
    store: Store,
    *,
    users: int = USERS,
    items: int = ITEMS,
    seed: int = SEED,
    progress: Progress | None = None,
) -> SeedSummary:
    """Make the demo of this size in an empty database, on a PDS without these accounts, and in a storage.

    Raises:
        Misconfigured: The database is not empty, or the sizes are too small.
        PipelineError: The PDS refused something.
    """
    started = time.monotonic()
    report = progress or (lambda what, done, total: None)
    if database.list_collection_names():
        raise Misconfigured(
            f"the database {database.name} is not empty, so no demo is made in it: a demo that was interrupted, or real"
            " data. For a fresh local one run `ac-pipeline local down` and delete .local/"
        )
    demo = plan_demo(users, items, seed)
    with ThreadPoolExecutor(_ACCOUNTS_AT_ONCE, thread_name_prefix="accounts") as pool:
        waiting = _start_accounts(pool, accounts, demo)
        objects, media_bytes = _store_objects(demo, store, report)
        made = {}
        for done, (id, future) in enumerate(waiting.items(), 1):
            made[id] = future.result()
            report("accounts", done, len(waiting))
    links = _write_past(demo, accounts, made, report)
    count = _insert(database, demo, made, links, report)
    for person in demo.cast:
        if person.situation is Situation.DEACTIVATED:
            accounts.deactivate(made[person.id].token)
        if person.situation is Situation.TAKEN_DOWN:
            accounts.take_down(made[person.id].did)
    return summarise(
        demo, users=count, objects=objects, media_bytes=media_bytes, seconds=round(time.monotonic() - started, 1)
    )


def _start_accounts(pool: ThreadPoolExecutor, accounts: PdsAccounts, demo: Demo) -> dict[str, Future[NewAccount]]:
    """An account for everybody who has one, by id; handles are given out in the order of the cast."""
    taken = {GUEST_LABEL}
    waiting = {GUEST_ID: pool.submit(_create, accounts, GUEST_LABEL, _GUEST_CODE, demo.maker.password())}
    for person in demo.cast:
        if not person.situation.has_account:
            continue
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
    keys: dict[str, str] = field(default_factory=dict)
    """Media type -> a key in use, for links that got crossed."""

    def write(self, collection: str, rkey: str, value: Mapping[str, Any]) -> None:
        kind = "com.atproto.repo.applyWrites#create"
        self.writes.append({"$type": kind, "collection": collection, "rkey": rkey, "value": value})


def _write_past(
    demo: Demo, accounts: PdsAccounts, made: Mapping[str, NewAccount], report: Progress
) -> dict[int, dict[str, Any]]:
    """Write the records of earlier writers; returns the link of each item that has one, by its place in the demo."""
    repositories: dict[str, _Repository] = {}
    left: dict[int, tuple[str, Left]] = {}
    for place, item in enumerate(demo.items):
        owner = item.owner.id if item.owner else GUEST_ID
        if owner not in made:
            continue
        repository = repositories.setdefault(owner, _Repository(made[owner]))
        one = left_behind(demo.maker, item, repository.keys)
        left[place] = (owner, one)
        for rkey, record in one.records.items():
            repository.keys.setdefault(item.type, rkey)
            repository.write(nsid(item.type), rkey, _with_blobs(record, accounts, repository.account))
            if one.copy is not None:
                uri = f"at://{repository.account.did}/{nsid(item.type)}/{rkey}"
                repository.write(COPIES, one.copy, copy_of(record, uri))
    cids: dict[tuple[str, str], str] = {}
    for done, (owner, repository) in enumerate(repositories.items(), 1):
        for start in range(0, len(repository.writes), _WRITES):
            batch = repository.writes[start : start + _WRITES]
            answer = accounts.call(
                "com.atproto.repo.applyWrites",
                {"repo": repository.account.did, "writes": batch},
                token=repository.account.token,
            )
            for write, result in zip(batch, answer["results"], strict=True):
                cids[owner, write["rkey"]] = result["cid"]
        report("earlier records", done, len(repositories))
    links = {}
    for place, (owner, one) in left.items():
        link = _link(one, demo.items[place], made[owner].did, cids, owner)
        if link is not None:
            links[place] = link
    return links


def _with_blobs(record: Mapping[str, Any], accounts: PdsAccounts, account: NewAccount) -> dict[str, Any]:
    return {
        name: accounts.upload(value.data, "image/png", token=account.token) if isinstance(value, Whole) else value
        for name, value in record.items()
    }


def _link(left: Left, item: Item, did: str, cids: Mapping[tuple[str, str], str], owner: str) -> dict[str, Any] | None:
    if left.linked is None:
        return dict(left.link) if left.link is not None else None
    parts = {
        "uri": f"at://{did}/{nsid(item.type)}/{left.linked}",
        "cid": cids[owner, left.linked],
        "did": did,
        "syncedAt": iso(NOW),
    }
    return {"rkey": left.linked, **{name: parts[name] for name in left.form}}


def _insert(
    database: Database[dict[str, Any]],
    demo: Demo,
    made: Mapping[str, NewAccount],
    links: Mapping[int, dict[str, Any]],
    report: Progress,
) -> int:
    """Put everything into Mongo; returns the number of `users` documents."""
    for collection, indexes in _INDEXES.items():
        database[collection].create_indexes([IndexModel(list(keys), **options) for keys, options in indexes])
    documents: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    now = naive(datetime.now(UTC))
    for place, item in enumerate(demo.items):
        if item.in_mongo:
            home = "at" if item.type == "tape" and item.past.records else "atproto"
            fields = {name: now if value is PRESENT else value for name, value in item.document.items()}
            documents[COLLECTIONS[item.type]].append({**fields, **({home: links[place]} if place in links else {})})
    deletions, tombstones = deletion_documents(list(demo.cast))
    users = list(_users(demo.maker, demo.cast, made))
    collections = {
        "users": users,
        "@handles": [{"_id": one.id, "handle": one.handle} for one in demo.cast if one.handle],
        "account-deletions": deletions,
        "account-tombstones": tombstones,
        **{COLLECTIONS[type]: documents[COLLECTIONS[type]] for type in TYPES},
    }
    for done, (collection, rows) in enumerate(collections.items(), 1):
        for start in range(0, len(rows), _INSERT_BATCH):
            database[collection].insert_many(rows[start : start + _INSERT_BATCH])
        report("collections", done, len(collections))
    return len(users)


def _users(maker: Maker, cast: Iterable[Person], made: Mapping[str, NewAccount]) -> Iterable[dict[str, Any]]:
    guest = made[GUEST_ID]
    credentials = {"did": guest.did, "handle": guest.handle, "password": guest.password, "created": iso(NOW)}
    yield {"_id": GUEST_ID, "code": _GUEST_CODE, "atproto": credentials}
    for person in cast:
        account = made.get(person.id)
        did = maker.did() if person.situation is Situation.UNKNOWN_DID else account.did if account else None
        document = user_document(person, did, account.handle if account else None)
        if document is not None:
            yield document
