"""The ledger: what the pipeline remembers of every item, in a database of its own, and what people ask it.

The form of an entry is `entries.py`, who may write to a repository is `leases.py`, what is known of whole repositories
is `marks.py`, sessions and budgets are `sessions.py`. The ledger is a memory, not the truth: a lost one is rebuilt by
the next run.
"""

from __future__ import annotations

from collections.abc import Collection as AnyOf
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bson.codec_options import CodecOptions
from pymongo import ASCENDING, IndexModel, InsertOne, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from ac_pipeline.accounts import Account
from ac_pipeline.items import LastLook, LedgerEntry, RepositoryMark, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.database import is_only_duplicates, mongo_errors
from ac_pipeline.mongo.entries import HISTORY, attempt_to_bson, from_bson, to_bson
from ac_pipeline.mongo.leases import Leases
from ac_pipeline.mongo.marks import Holds, LastLooks, Marks

_BATCH = 500
_PENDING = [State.DEFERRED.value, State.QUARANTINED.value, State.BLOCKED.value]
"""The states of an item that is not yet where it should be."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)

# Three, because each costs up to a fifth of the speed of saving on the local server. That of blobs costs 7 % where an
# item has none and 21 % where it has one, which is little beside rendering it; every erasure asks for blobs under its
# lease, which among 200,000 items took 8.6 s by a scan and takes 1 ms so. What people look up now and then, a code, is
# found by a scan. None is sparse: Stable API v1 strict does not use sparse indexes.
_INDEXES = [
    IndexModel([("account", ASCENDING), ("type", ASCENDING)], name="account_type"),
    IndexModel([("state", ASCENDING), ("_id", ASCENDING)], name="state_id"),
    IndexModel([("blobs", ASCENDING)], name="blobs"),
]


@dataclass(frozen=True, slots=True)
class Standing:
    """Items of one user and type that are in one state for the same reason.

    Args:
        user: Partition key.
        error_class: The `code` of their last failure's class, or None.
        items: How many.
        until: When the last of them will be tried again, where that is known.
        since: When the first of them came to be so, UTC, where that is known.
        mirrored: Whether one of them had a record before.
    """

    user: str
    error_class: str | None
    items: int
    until: datetime | None = None
    since: datetime | None = field(default=None, compare=False)
    mirrored: bool = field(default=False, compare=False)


class MongoLedger:
    """The Ledger port on a real database, and the questions of the command line.

    Args:
        database: The pipeline's own database (`AC_LEDGER_DATABASE`).
        leases: How repositories are leased; by default in the same database.
    """

    def __init__(self, database: Database[dict[str, Any]], *, leases: Leases | None = None) -> None:
        self._items = database.get_collection("items", codec_options=_AWARE)
        self._hosts = database.get_collection("hosts", codec_options=_AWARE)
        self._leases = leases or Leases(database.get_collection("leases", codec_options=_AWARE))
        self._marks = Marks(database)
        self._holds = Holds(database)
        self._looks = LastLooks(database)

    def ensure_indexes(self) -> None:
        """Make the indexes that are missing; nothing else depends on having been called before."""
        with mongo_errors("make the indexes of the ledger"):
            self._items.create_indexes(_INDEXES)

    def load(self, account: Account, media: MediaType) -> Mapping[str, LedgerEntry]:
        """Entries of one account and type, by document id."""
        query = {"account": account.id, "type": media.name}
        return {entry.document: entry for entry in self._read(query, f"read the ledger of {account.key}")}

    def save(self, entries: Iterable[LedgerEntry]) -> None:
        """Insert or replace entries; each entry's last history line is appended to its timeline.

        An entry with at most one line is taken for new and inserted, which is several times cheaper than an upsert;
        the few that exist nevertheless break on their id and are replaced in a second write. Both can be repeated.
        """
        by_item = {entry.item: entry for entry in entries}
        if not by_item:
            return
        operations = [
            InsertOne(_as_new(entry)) if len(entry.history) <= 1 else _as_known(entry) for entry in by_item.values()
        ]
        with mongo_errors(f"save {len(by_item)} entries of the ledger"):
            try:
                self._items.bulk_write(operations, ordered=False)
            except BulkWriteError as error:
                if not is_only_duplicates(error):
                    raise
                failed: list[dict[str, Any]] = error.details["writeErrors"]
                existing = {failure["op"]["_id"] for failure in failed if "_id" in failure["op"]}
                existing |= {failure["op"]["q"]["_id"] for failure in failed if "q" in failure["op"]}
                self._items.bulk_write([_as_known(by_item[item]) for item in existing], ordered=False)

    def lease(self, did: str, holder: str) -> AbstractContextManager[None]:
        """Be the only writer of a repository while the context is open; see `Leases.hold`."""
        return self._leases.hold(did, holder)

    def batch_bytes(self, host: str, default: int) -> int:
        """Largest request body a PDS is known to take, in bytes; never more than `default`."""
        with mongo_errors(f"read what is known of {host}"):
            known = (self._hosts.find_one({"_id": host}) or {}).get("batch_bytes")
        return min(known, default) if isinstance(known, int) else default

    def remember_batch_bytes(self, host: str, limit: int) -> None:
        """Keep a smaller body size learned from a 413; a larger one changes nothing."""
        with mongo_errors(f"remember the batch size of {host}"):
            self._hosts.update_one({"_id": host}, {"$min": {"batch_bytes": limit}}, upsert=True)

    def mark(self, did: str) -> RepositoryMark | None:
        """How the last sync left this repository; None when none ever reached its end."""
        return self._marks.of(did)

    def marks(self) -> Mapping[str, RepositoryMark]:
        """The marks of all repositories by DID, without `settled`."""
        return self._marks.all()

    def remember_mark(self, mark: RepositoryMark) -> None:
        """Keep how a repository was left, in place of what was known."""
        self._marks.remember(mark)

    def follow_mark(self, mark: RepositoryMark, *, since: str) -> None:
        """Move a mark that stands at the revision `since`; the types counted in `mark` are not settled any more."""
        self._marks.follow(mark, since)

    def recorded(self, type: str) -> Iterable[tuple[str, str]]:
        """Account id and document id of every item of a type that has a record."""
        query = {"type": type, "state": {"$ne": State.DELETED.value}, "uri": {"$gt": ""}}
        with mongo_errors(f"read which records of {type} there are"):
            found = self._items.find(query, {"_id": 0, "account": 1, "document": 1}, batch_size=_BATCH)
            return [(stored["account"], stored["document"]) for stored in found]

    def last_look(self, name: str) -> LastLook:
        """What is remembered under this name; one without `at` when that is nothing."""
        return self._looks.of(name)

    def keep_look(self, look: LastLook) -> bool:
        """Keep it in place of the version before it; False when somebody else has changed that meanwhile."""
        return self._looks.keep(look)

    def hold(self, account: Account, types: Iterable[MediaType], reason: str) -> None:
        """Keep these types of an account from being mirrored until `release`."""
        self._holds.add(account, types, reason)

    def release(self, account: Account, types: Iterable[MediaType]) -> None:
        """Let these types be mirrored again."""
        self._holds.remove(account, types)

    def holds(self, account: Account) -> Mapping[str, str]:
        """Name of each type of the account that is on hold -> the reason."""
        return self._holds.of(account)

    def all_holds(self) -> Mapping[str, Mapping[str, str]]:
        """The types on hold and their reasons by Mongo id of their account, for the accounts that have any."""
        return self._holds.all()

    def get(self, item: str) -> LedgerEntry | None:
        """The entry of `type:ObjectId hex`, or None."""
        return next(self._read({"_id": item}, f"read {item} in the ledger"), None)

    def by_code(self, type: str, code: str) -> list[LedgerEntry]:
        """Entries of this type and code, exactly as written: codes that differ in case are two (SRC-10)."""
        return list(self._read({"code": code, "type": type}, f"look up {type}:{code} in the ledger"))

    def by_blob(self, cid: str) -> list[LedgerEntry]:
        """Entries whose record uses a blob (VERIFY-6)."""
        return list(self._read({"blobs": cid}, f"look up the blob {cid} in the ledger"))

    def rendered(self) -> dict[str, str | None]:
        """Mongo id of every account with items that have renditions -> its DID, where an item knows one."""
        pipeline: list[dict[str, Any]] = [
            {"$match": {"blobs.0": {"$exists": True}}},
            {"$group": {"_id": "$account", "did": {"$max": "$did"}}},
        ]
        with mongo_errors("look up whose renditions there are"):
            return {row["_id"]: row["did"] for row in self._items.aggregate(pipeline)}

    def used_blobs(self, cids: AnyOf[str], *, without: AnyOf[str]) -> set[str]:
        """Those of these blobs that an item uses whose record is not deleted, besides the items `without`."""
        query = {
            "blobs": {"$in": sorted(cids)},
            "state": {"$ne": State.DELETED.value},
            "_id": {"$nin": sorted(without)},
        }
        with mongo_errors(f"look up {len(cids)} blobs in the ledger"):
            return {cid for stored in self._items.find(query, {"blobs": 1}) for cid in stored["blobs"]} & set(cids)

    def find(
        self,
        *,
        states: AnyOf[State] | None = None,
        error_class: str | None = None,
        account: str | None = None,
        types: AnyOf[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[LedgerEntry]:
        """Entries by any of these, ordered by item; None leaves a condition out, an empty collection matches nothing.

        Args:
            states: Any of these states.
            error_class: The `code` of the last failure's class, e.g. `source-missing`.
            account: Mongo id of the owner (`art-guest` for the guest).
            types: Any of these media types.
            limit: At most so many, one or more.
        """
        query: dict[str, Any] = {}
        if states is not None:
            query["state"] = {"$in": [state.value for state in states]}
        if error_class is not None:
            query["failure.error_class"] = error_class
        if account is not None:
            query["account"] = account
        if types is not None:
            query["type"] = {"$in": list(types)}
        return self._read(query, "list items of the ledger", sort=[("_id", ASCENDING)], limit=limit)

    def counts(self, *, account: str | None = None) -> dict[str, dict[State, int]]:
        """Entries by type and state, of one account or of all."""
        pipeline: list[dict[str, Any]] = [
            {"$match": {} if account is None else {"account": account}},
            {"$group": {"_id": {"type": "$type", "state": "$state"}, "entries": {"$sum": 1}}},
        ]
        counted: dict[str, dict[State, int]] = {}
        with mongo_errors("count the items of the ledger"):
            for row in self._items.aggregate(pipeline):
                counted.setdefault(row["_id"]["type"], {})[State(row["_id"]["state"])] = row["entries"]
        return counted

    def standing(self, state: State, type: str) -> list[Standing]:
        """Whose items of a type are in a state, and why: one line for each user and class of error."""
        pipeline: list[dict[str, Any]] = [
            {"$match": {"state": state.value, "type": type}},
            {
                "$group": {
                    "_id": {"user": "$partition", "class": "$failure.error_class"},
                    "items": {"$sum": 1},
                    "until": {"$max": "$deferred_until"},
                    "since": {"$min": "$updated_at"},
                    "cid": {"$max": "$cid"},
                }
            },
        ]
        with mongo_errors(f"count the {state.value} items of the ledger"):
            return sorted(
                (
                    Standing(
                        row["_id"]["user"],
                        row["_id"].get("class"),
                        row["items"],
                        row["until"],
                        row["since"],
                        row["cid"] is not None,
                    )
                    for row in self._items.aggregate(pipeline)
                ),
                key=lambda each: (each.user, each.error_class or ""),
            )

    def pending_deletions(self, *, limit: int | None = None) -> Iterator[LedgerEntry]:
        """Items whose record has to go and is still there, longest waiting first (DEL-6)."""
        return self._read(
            {"state": {"$in": _PENDING}, "withdrawn_at": {"$gt": _LONG_AGO}},
            "list the pending deletions",
            sort=[("withdrawn_at", ASCENDING), ("_id", ASCENDING)],
            limit=limit,
        )

    def _read(
        self,
        query: Mapping[str, Any],
        action: str,
        *,
        sort: Sequence[tuple[str, int]] | None = None,
        limit: int | None = None,
    ) -> Iterator[LedgerEntry]:
        with mongo_errors(action):
            cursor = self._items.find(query, sort=sort, limit=limit or 0, batch_size=_BATCH)
            with closing(cursor):
                for stored in cursor:
                    yield from_bson(stored)


def _as_new(entry: LedgerEntry) -> dict[str, Any]:
    stored = {name: value for name, value in to_bson(entry).items() if value is not None}
    return {"_id": entry.item, **stored, "history": [attempt_to_bson(line) for line in entry.history[-1:]]}


def _as_known(entry: LedgerEntry) -> UpdateOne:
    change: dict[str, Any] = {"$set": to_bson(entry)}
    if entry.history:
        change["$push"] = {"history": {"$each": [attempt_to_bson(entry.history[-1])], "$slice": -HISTORY}}
    return UpdateOne({"_id": entry.item}, change, upsert=True)
