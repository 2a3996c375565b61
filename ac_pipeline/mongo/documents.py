"""The platform's documents: reading them as a stream, and writing links back. Nothing here deletes a document (DEL-8).

What a document means is `media/documents.py`; who its owner is, is `accounts.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from ac_pipeline.accounts import Account
from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media.base import Document, Link, LinkUpdate, MediaType
from ac_pipeline.media.documents import interpret, owner_of
from ac_pipeline.media.eligibility import FLAGS, GUEST_VALUES, is_guest
from ac_pipeline.media.fields import is_text
from ac_pipeline.media.times import format_when, object_id_time, read_when
from ac_pipeline.mongo.database import in_parts, mongo_errors, platform_collection

_NO_TRANSACTIONS = {20, 263}  # IllegalOperation, OperationNotSupportedInTransaction: a server without replication
_CONFLICT_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, *(2.0 for _ in range(37)))
"""Seconds between two tries while another transaction holds a document, 75 in all: MongoDB ends the transaction of a
client that died after 60 s, and the local server does so only when the next one begins."""
_BATCH = 1_000  # Documents an answer holds: about 1 KB each, under the server's 16 MB, and few round trips

_ALWAYS_UNIQUE = ("code", "hash")
"""Unique by the platform's rules, whatever indexes there are: codes per collection, programs by their hash over all
users (aesthetic-computer facts, sections 3.4 and 5). Documents without them are no conflict here."""


@dataclass(slots=True)
class MongoDocuments:
    """The Documents port on the platform's database, and writes to single documents."""

    database: Database[dict[str, Any]]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)  # The time for `syncedAt`
    sleep: Callable[[float], None] = time.sleep  # Waits between two tries of a transaction that met another one

    def stream(self, account: Account, media: MediaType) -> Iterator[Document]:
        """As the port has it; a read may fail after some documents: what was read then is not the whole."""
        for raw in self._read(media, owned_by(account), f"read the {media.plural} of {account.key}"):
            yield interpret(media, raw, owner_deleted=account.owner_deleted, account_did=account.did)

    def stream_of(self, accounts: Sequence[Account], media: MediaType) -> Iterator[tuple[str, Document]]:
        by_id = {account.id: account for account in accounts}
        query = {"user": {"$in": list(by_id)}}
        for raw in self._read(media, query, f"read the {media.plural} of {len(accounts)} accounts"):
            user = raw["user"]
            for id in {each for each in user if is_text(each)} if isinstance(user, list) else {user}:
                if (account := by_id.get(id)) is not None:
                    deleted = account.owner_deleted
                    yield id, interpret(media, raw, owner_deleted=deleted, account_did=account.did)

    def _read(self, media: MediaType, query: Mapping[str, Any], action: str) -> Iterator[dict[str, Any]]:
        fields = dict.fromkeys((*media.fields, *media.link_homes), 1)
        with mongo_errors(action), closing(self._collection(media).find(query, fields, batch_size=_BATCH)) as cursor:
            yield from cursor

    def owners(self, media: MediaType, documents: Sequence[str]) -> Mapping[str, str | None]:
        owners: dict[str, str | None] = {}
        for part in in_parts((ObjectId(id) for id in dict.fromkeys(documents) if ObjectId.is_valid(id)), _BATCH):
            with mongo_errors(f"look up the owners of {len(part)} {media.plural}"):
                for raw in self._collection(media).find({"_id": {"$in": part}}, {"user": 1}, batch_size=_BATCH):
                    owners[str(raw["_id"])] = _owner(raw)
        return owners

    def owners_of(self, media: MediaType, name: str) -> set[str | None]:
        """Owners (None: guest) of the documents whose code or ObjectId this is; none when there is no such document."""
        either: list[dict[str, Any]] = [{"code": name}]
        if ObjectId.is_valid(name):
            either.append({"_id": ObjectId(name)})
        with mongo_errors(f"look up {media.name}:{name}"):
            found = self._collection(media).find({"$or": either}, {"user": 1})
            return {_owner(raw) for raw in found}

    def dates(self, media: MediaType) -> Mapping[str, int]:
        """As the port has it; a document without `when` has the time of its id."""
        with mongo_errors(f"read the ids of the {media.plural}"):
            found = self._collection(media).find({}, {"when": 1}, batch_size=_BATCH)
            ids = ((str(raw["_id"]), raw.get("when")) for raw in found)
            return {id: read_when(when) or object_id_time(id) or 0 for id, when in ids}

    def unlinked(
        self, media: MediaType, accounts: Iterable[Account], without: Collection[str] = ()
    ) -> tuple[int, int | None]:
        """How many documents of these accounts have no record stored in them, removed ones and those `without` left
        out, and the `when` of the oldest in ms since 1970, None where there is none with a date.
        """
        others = {"_id": {"$nin": [ObjectId(each) for each in without if ObjectId.is_valid(each)]}}
        owners = [owner for each in accounts for owner in (GUEST_VALUES if each.is_guest else (each.id,))]
        dated = {"$cond": [{"$eq": [{"$type": "$when"}, "date"]}, "$when", None]}
        stages: list[dict[str, Any]] = [
            {"$match": {**unlinked(media), **others, "user": {"$in": owners}, "$nor": WITHDRAWN["$or"]}},
            {"$group": {"_id": None, "number": {"$sum": 1}, "oldest": {"$min": dated}}},
        ]
        with mongo_errors(f"count the {media.plural} without a record"):
            row = next(iter(self._collection(media).aggregate(stages)), None)
        return (int(row["number"]), read_when(row["oldest"])) if row is not None else (0, None)

    def is_empty(self, media: MediaType) -> bool:
        with mongo_errors(f"look into the collection {media.collection}"):
            return self._collection(media).find_one({}, {"_id": 1}) is None

    def write_links(self, media: MediaType, updates: Sequence[LinkUpdate]) -> None:
        """Store or clear links in every home of the type, all in one bulk write. A document that vanished in between is
        left alone: a link is never a reason to create one.
        """
        if not updates:
            return
        synced_at = format_when(read_when(self.clock()) or 0)
        operations = [
            UpdateOne({"_id": ObjectId(update.document)}, link_change(media, update.link, synced_at))
            for update in updates
        ]
        with mongo_errors(f"write the links of {len(operations)} {media.plural}"):
            self._write_together(self._collection(media), operations)

    def _write_together(self, collection: MongoCollection[dict[str, Any]], operations: list[UpdateOne]) -> None:
        """One transaction, so that a batch costs the server one journal write and not one per document.

        Another transaction may hold a document: the platform's for a moment (`kidlisp` counts its views), that of a
        killed run until the server ends it. So it is tried again for longer than that takes. After that, or where the
        server has no transactions, the same updates are made one by one, which is right as well.
        """
        for wait in _CONFLICT_WAITS:
            try:
                with collection.database.client.start_session() as session, session.start_transaction():
                    collection.bulk_write(operations, ordered=False, session=session)
            except PyMongoError as error:
                unsupported = isinstance(error, OperationFailure) and error.code in _NO_TRANSACTIONS
                passing = error.has_error_label("TransientTransactionError")
                if not unsupported and not passing:
                    raise
                if unsupported or not isinstance(error, OperationFailure):  # the latter: the connection broke
                    break
            else:
                return
            self.sleep(wait)
        collection.bulk_write(operations, ordered=False)

    def conflicts(self, media: MediaType, raw: Mapping[str, Any], *, among: Collection[str] | None = None) -> list[str]:
        """Unique fields of a document as it would be, with its `_id`, whose values another one holds already, as `code
        abc`; empty when it can be stored. Asks for the platform's own rules and for every unique index, or only for
        rules `among` whose fields is one of these.
        """
        found = []
        with mongo_errors(f"look for {media.plural} with the same unique fields"):
            collection = self._collection(media)
            for names in _unique(collection, raw):
                if among is not None and not set(names) & set(among):
                    continue
                values = {name: raw.get(name) for name in names}
                other = collection.find_one({**values, "_id": {"$ne": raw.get("_id")}}, {"_id": 1})
                if other is not None:
                    shown = ", ".join(f"`{name}` {_short(value)}" for name, value in values.items() if name != "user")
                    found.append(f"{shown} belongs to {other['_id']} already")
        return found

    def insert(self, media: MediaType, raw: Mapping[str, Any]) -> bool:
        """Insert a document under its own `_id`; False when one with that id has come in between: it stays as it is.
        Raises InvalidDocument when another document holds one of its unique values.
        """
        with mongo_errors(f"insert {media.name} {raw['_id']}"):
            collection = self._collection(media)
            try:
                collection.insert_one(dict(raw))
            except DuplicateKeyError as error:
                if collection.find_one({"_id": raw["_id"]}, {"_id": 1}) is not None:
                    return False
                raise _taken(media, str(raw["_id"]), error) from None
        return True

    def change(self, media: MediaType, document: Document, changes: Mapping[str, Any]) -> bool:
        """Set fields of a document, unless one of them is not as it was read; False then, and nothing is changed.
        Raises InvalidDocument when another document holds one of the unique values.
        """
        as_read = {name: document.fields.get(name) for name in changes if name in media.fields}
        with mongo_errors(f"change {media.name} {document.id}"):
            try:
                done = self._collection(media).update_one(
                    {"_id": ObjectId(document.id), **as_read}, {"$set": dict(changes)}
                )
            except DuplicateKeyError as error:
                raise _taken(media, document.id, error) from None
        return done.matched_count == 1

    def _collection(self, media: MediaType) -> MongoCollection[dict[str, Any]]:
        return platform_collection(self.database, media.collection)


WITHDRAWN: Final[dict[str, Any]] = {
    "$or": [*({flag: True} for flag in FLAGS), {"visibility": {"$nin": [None, "public"]}}, {"status": "wip"}]
}
"""`media/eligibility.py` in Mongo's words; what the two may disagree about, Python decides."""


def unlinked(media: MediaType) -> dict[str, Any]:
    """The filter of documents without a stored key in any home of the type. What is stored but cannot be a key passes
    for one."""
    return {f"{home}.rkey": {"$not": {"$gt": ""}} for home in media.link_homes}


def owned_by(account: Account) -> dict[str, Any]:
    """The filter of an account's documents; for the guest the one definition of anonymous work (SRC-4)."""
    return {"user": {"$in": list(GUEST_VALUES)}} if account.is_guest else {"user": account.id}


def link_change(media: MediaType, link: Link | None, synced_at: str) -> dict[str, Any]:
    """The update that stores a link in all homes of a type, or takes it out of all of them (LINK-4). Each home is
    replaced as a whole: parts of an older link never survive beside a newer one.
    """
    if link is None:
        return {"$unset": dict.fromkeys(media.link_homes, "")}
    parts = {"rkey": link.rkey, "uri": link.uri, "cid": link.cid, "did": link.did}
    home = {name: value for name, value in parts.items() if value is not None} | {"syncedAt": synced_at}
    return {"$set": dict.fromkeys(media.link_homes, home)}


def _owner(raw: Mapping[str, Any]) -> str | None:
    return None if is_guest(raw.get("user")) else owner_of(raw["user"])


def _unique(collection: MongoCollection[dict[str, Any]], raw: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The sets of fields of a document that no other may hold; a partial index is left to the insertion itself."""
    rules = {(name,) for name in _ALWAYS_UNIQUE if raw.get(name) is not None}
    for index in collection.list_indexes():
        names = tuple(index["key"])
        if not index.get("unique") or names == ("_id",) or "partialFilterExpression" in index:
            continue
        if not index.get("sparse") or any(name in raw for name in names):
            rules.add(names)
    return sorted(rules)


def _taken(media: MediaType, document: str, error: DuplicateKeyError) -> InvalidDocument:
    key = (error.details or {}).get("keyPattern") or {}
    return InvalidDocument(
        f"{media.name} {document}: another one holds the same {', '.join(key) or 'unique value'}; it stays as it is"
    )


def _short(value: object) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
