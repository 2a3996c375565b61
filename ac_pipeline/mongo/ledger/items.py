"""The ledger: what the pipeline remembers of every item and repository, in a database of its own.

It is a memory, not the truth: a lost one is rebuilt by the next run.
"""

from __future__ import annotations

from collections.abc import Collection as AnyOf
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Any

from pymongo import ASCENDING, IndexModel, InsertOne, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from ac_pipeline.accounts import Account
from ac_pipeline.errors import NotPermitted
from ac_pipeline.items import (
    Attempt,
    LastLook,
    LedgerEntry,
    RepositoryCheckpoint,
    State,
)
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.database import in_parts, mongo_errors, own_collection, storable, value_of, write_together
from ac_pipeline.mongo.ledger.leases import Leases

HISTORY = 20  # Attempts an entry remembers; the last failure is kept beside them, without expiry (OPS-2)

_LONGEST_TEXT = 4_000  # Characters of one message or answer. A server's page of HTML says nothing more after that.
_LONGEST_LINE = 500  # Characters of a message in a line of the timeline
_MOST_WARNINGS = 50


def to_bson(entry: LedgerEntry) -> dict[str, Any]:
    """All of an entry but its id and history. `blobs` repeats the CIDs of its renditions, to be looked up by."""
    stored = {name: getattr(entry, name) for name in LedgerEntry.__slots__ if name not in {"item", "history"}}
    stored |= {"state": entry.state.value, "stage": entry.stage.value, "warnings": _short_warnings(entry.warnings)}
    stored |= {"past_blobs": list(entry.past_blobs) or None, "blobs": []}
    if entry.failure is not None:
        cut = {name: _short(getattr(entry.failure, name), _LONGEST_TEXT) for name in ("message", "answer")}
        stored["failure"] = {**storable(entry.failure), **cut}
    if entry.derived is not None:
        derived = storable(entry.derived)
        made = {name: {**each.pop("blob"), **each} for name, each in derived["renditions"].items()}
        found, warnings = sorted(entry.derived.found), _short_warnings(entry.derived.warnings)
        stored["blobs"] = [each["cid"] for each in made.values()]
        stored["derived"] = {**derived, "renditions": made, "found": found, "warnings": warnings}
    return stored


def from_bson(stored: Mapping[str, Any]) -> LedgerEntry:
    """The entry of a stored document; fields that an older version did not write take their defaults."""
    derived, past = stored.get("derived"), stored.get("past_blobs") or ()
    if derived is not None:
        made = {name: {**each, "blob": each} for name, each in derived["renditions"].items()}
        derived = {**derived, "renditions": made}
    entry = value_of(LedgerEntry, stored, item=stored["_id"], derived=derived, past_blobs=past)
    # An entry that is saved twice for one attempt has that line of its timeline twice in store.
    return replace(entry, history=tuple(line for line, _ in groupby(entry.history)))


def _attempt_to_bson(attempt: Attempt) -> dict[str, Any]:
    return {**storable(attempt), "message": _short(attempt.message, _LONGEST_LINE)}


def _short_warnings(warnings: Sequence[str]) -> list[str | None]:
    return [_short(text, _LONGEST_LINE) for text in warnings[:_MOST_WARNINGS]]


def _short(text: str | None, longest: int) -> str | None:
    """Cut, and made storable: half a surrogate pair, as an odd document can put into a message, is no BSON text."""
    if text is None:
        return None
    return (text if len(text) <= longest else text[: longest - 1] + "…").encode(errors="replace").decode()


_DUPLICATE = 11000  # The code of "exists already"
_BATCH = 500
_CHECKPOINTS_A_BATCH = 5_000  # Checkpoints an answer holds: those of all 4,200 repositories fit into one
_IDS_A_BATCH = 10_000
_ITEMS_A_LOOK = 200  # Ids of one query: more cost the local server far more than their share
_PENDING = [State.DEFERRED.value, State.QUARANTINED.value, State.BLOCKED.value]  # Not where they should be
_NOT_DELETED = {"$ne": State.DELETED.value}
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

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
    """Items of one user and type that are in one state for the same reason."""

    user: str  # Partition key
    error_class: str | None  # The `code` of their last failure's class, or None
    items: int
    until: datetime | None = None  # When the last of them will be tried again, where that is known
    # When the first of them came to be so, UTC, where that is known
    since: datetime | None = field(default=None, compare=False)
    mirrored: bool = field(default=False, compare=False)  # True if one of them had a record before
    message: str = field(default="", compare=False)  # Of the last failure of one of them


class MongoLedger:
    """The Ledger port of `sync/ports.py` in the pipeline's own database (`AC_LEDGER_DATABASE`), and the questions of
    people.

    Entries are in `items`, what a PDS takes in `hosts`, checkpoints in `repositories` (`{_id: did, rev, at, settled,
    counts}`), paused types in `holds` (`{_id: account id, types: {name: reason}}`), last looks in `looks`.
    """

    def __init__(self, database: Database[dict[str, Any]], *, leases: Leases | None = None) -> None:
        self._items = own_collection(database, "items")
        self._hosts = own_collection(database, "hosts")
        self._repositories = own_collection(database, "repositories")
        self._holds = own_collection(database, "holds")
        self._looks = own_collection(database, "looks")
        self._leases = leases or Leases(own_collection(database, "leases"))

    def ensure_indexes(self) -> None:
        """Make the indexes that are missing, unless we may only read (PROD-3); nothing else depends on it."""
        with suppress(NotPermitted), mongo_errors("make the indexes of the ledger"):
            self._items.create_indexes(_INDEXES)

    # ------------------------------------------------------------------------------------------------------- the port

    def load(self, account: Account, media: MediaType) -> Mapping[str, LedgerEntry]:
        return self.load_of((account,), (media,))[account.id][media.name]

    def load_of(
        self, accounts: Sequence[Account], types: Sequence[MediaType]
    ) -> Mapping[str, Mapping[str, Mapping[str, LedgerEntry]]]:
        found: dict[str, dict[str, dict[str, LedgerEntry]]]
        found = {account.id: {media.name: {} for media in types} for account in accounts}
        query = {"account": {"$in": list(found)}, "type": {"$in": [media.name for media in types]}}
        whose = accounts[0].key if len(accounts) == 1 else f"{len(accounts)} accounts"
        for entry in self._read(query, f"read the ledger of {whose}") if types and accounts else ():
            found[entry.account][entry.type][entry.document] = entry
        return found

    def of_others(self, account: Account, items: Iterable[str]) -> list[LedgerEntry]:
        parts = in_parts(items, _ITEMS_A_LOOK)
        return [entry for part in parts for entry in self.of_items(part) if entry.account != account.id]

    def save(self, entries: Iterable[LedgerEntry]) -> None:
        """Insert or replace entries; each entry's last history line is appended to its timeline.

        An entry with at most one line is taken for new and inserted, which is several times cheaper than an upsert;
        the few that exist nevertheless break on their id and are updated with the others. All can be repeated.
        """
        by_item = {entry.item: entry for entry in entries}
        new = [entry for entry in by_item.values() if len(entry.history) <= 1]
        with mongo_errors(f"save {len(by_item)} entries of the ledger"):
            existing = self._insert(new)
            known = [_as_known(entry) for entry in by_item.values() if len(entry.history) > 1 or entry.item in existing]
            if len(known) > 1:
                write_together(self._items, known)
            elif known:
                self._items.bulk_write(known, ordered=False)

    def _insert(self, entries: Sequence[LedgerEntry]) -> set[str]:
        """Insert entries; the items of those that exist already, which are left as they are."""
        if not entries:
            return set()
        try:
            self._items.bulk_write([InsertOne(_as_new(entry)) for entry in entries], ordered=False)
        except BulkWriteError as error:
            failed: list[dict[str, Any]] = error.details.get("writeErrors") or []
            if error.details.get("writeConcernErrors") or any(each.get("code") != _DUPLICATE for each in failed):
                raise
            return {failure["op"]["_id"] for failure in failed}
        return set()

    def used_blobs(self, cids: AnyOf[str], *, without: AnyOf[str]) -> set[str]:
        query = {"blobs": {"$in": sorted(cids)}, "state": _NOT_DELETED, "_id": {"$nin": sorted(without)}}
        with mongo_errors(f"look up {len(cids)} blobs in the ledger"):
            return {cid for stored in self._items.find(query, {"blobs": 1}) for cid in stored["blobs"]} & set(cids)

    def lease(self, did: str, holder: str) -> AbstractContextManager[None]:
        return self._leases.hold(did, holder)

    def batch_bytes(self, host: str, default: int) -> int:
        with mongo_errors(f"read what is known of {host}"):
            known = (self._hosts.find_one({"_id": host}) or {}).get("batch_bytes")
        return min(known, default) if isinstance(known, int) else default

    def remember_batch_bytes(self, host: str, limit: int) -> None:
        with mongo_errors(f"remember the batch size of {host}"):
            self._hosts.update_one({"_id": host}, {"$min": {"batch_bytes": limit}}, upsert=True)

    def checkpoint(self, did: str) -> RepositoryCheckpoint | None:
        return self._checkpoints({"_id": did}, f"read the checkpoint of {did}").get(did)

    def checkpoints_of(self, dids: AnyOf[str]) -> Mapping[str, RepositoryCheckpoint]:
        return self._checkpoints({"_id": {"$in": list(dids)}}, f"read the checkpoints of {len(dids)} repositories")

    def checkpoints(self) -> Mapping[str, RepositoryCheckpoint]:
        return self._checkpoints({}, "read the checkpoints of all repositories", {"settled": 0})

    def _checkpoints(
        self, query: Mapping[str, Any], action: str, fields: Mapping[str, int] | None = None
    ) -> dict[str, RepositoryCheckpoint]:
        with mongo_errors(action):
            found = self._repositories.find(query, fields, batch_size=_CHECKPOINTS_A_BATCH)
            return {row["_id"]: value_of(RepositoryCheckpoint, row, did=row["_id"]) for row in found}

    def keep_checkpoint(self, checkpoint: RepositoryCheckpoint) -> None:
        with mongo_errors(f"keep the checkpoint of {checkpoint.did}"):
            self._repositories.replace_one({"_id": checkpoint.did}, _with_id(checkpoint, "did"), upsert=True)

    def follow_checkpoint(self, checkpoint: RepositoryCheckpoint, *, since: str) -> None:
        counts = {f"counts.{name}": number for name, number in checkpoint.counts.items()}
        change: dict[str, Any] = {"$set": {"rev": checkpoint.rev, "at": checkpoint.at, **counts}}
        if counts:
            change["$unset"] = {f"settled.{name}": "" for name in checkpoint.counts}
        with mongo_errors(f"move the checkpoint of {checkpoint.did}"):
            self._repositories.update_one({"_id": checkpoint.did, "rev": since}, change)

    def recorded(self, type: str) -> Iterable[tuple[str, str]]:
        # An address alone is known before anything is written.
        query = {"type": type, "state": _NOT_DELETED, "cid": {"$gt": ""}}
        with mongo_errors(f"read which records of {type} there are"):
            found = self._items.find(query, {"_id": 0, "account": 1, "document": 1}, batch_size=_BATCH)
            return [(stored["account"], stored["document"]) for stored in found]

    def last_look(self, name: str) -> LastLook:
        with mongo_errors(f"read the last look at {name}"):
            stored = self._looks.find_one({"_id": name})
        return value_of(LastLook, stored or {}, type=name)

    def keep_look(self, look: LastLook) -> bool:
        stored = _with_id(replace(look, version=look.version + 1), "type")
        # PROD-3: a user of MongoDB who may only read goes on with what was found.
        with suppress(NotPermitted), mongo_errors(f"keep the last look at {look.type}"):
            if look.version:
                return bool(self._looks.replace_one({"_id": look.type, "version": look.version}, stored).matched_count)
            try:
                self._looks.insert_one(stored)
            except DuplicateKeyError:
                return False
        return True

    def hold(self, account: Account, types: Iterable[MediaType], reason: str) -> None:
        change = {f"types.{media.name}": reason for media in types}
        if change:
            with mongo_errors(f"put {account.key} on hold"):
                self._holds.update_one({"_id": account.id}, {"$set": change}, upsert=True)

    def release(self, account: Account, types: Iterable[MediaType]) -> None:
        change = {f"types.{media.name}": "" for media in types}
        if change:
            with mongo_errors(f"release the hold on {account.key}"):
                self._holds.update_one({"_id": account.id}, {"$unset": change})

    def holds(self, account: Account) -> Mapping[str, str]:
        with mongo_errors(f"read the holds on {account.key}"):
            stored = self._holds.find_one({"_id": account.id})
        return {} if stored is None else dict(stored.get("types") or {})

    def all_holds(self) -> Mapping[str, Mapping[str, str]]:
        with mongo_errors("read the holds on all accounts"):
            return {stored["_id"]: dict(stored["types"]) for stored in self._holds.find({}) if stored.get("types")}

    # -------------------------------------------------------------------------------------------- questions of people

    def blocked(self) -> set[tuple[str, str]]:
        """`(account id, class of the reason)` of all items that are blocked."""
        group = {"_id": {"account": "$account", "class": "$failure.error_class"}}
        rows = self._groups({"state": State.BLOCKED.value}, group, "list the blocked accounts of the ledger")
        return {(row["_id"]["account"], str(row["_id"].get("class"))) for row in rows}

    def not_deleted(self) -> Iterator[str]:
        """The ids of all items but the deleted ones; by an index alone."""
        states = [state.value for state in State if state is not State.DELETED]
        with mongo_errors("list the items of the ledger"):
            found = self._items.find({"state": {"$in": states}}, {"_id": 1}, batch_size=_IDS_A_BATCH)
            with closing(found) as cursor:
                for stored in cursor:
                    yield stored["_id"]

    def get(self, item: str) -> LedgerEntry | None:
        """The entry of `type:ObjectId hex`, or None."""
        return next(self._read({"_id": item}, f"read {item} in the ledger"), None)

    def by_code(self, type: str, code: str) -> list[LedgerEntry]:
        """Entries of this type and code, exactly as written: codes that differ in case are two (SRC-10)."""
        return list(self._read({"code": code, "type": type}, f"look up {type}:{code} in the ledger"))

    def of_items(self, items: Sequence[str]) -> Iterator[LedgerEntry]:
        """The entries of these items as far as there are any, without media and timeline."""
        return self._read({"_id": {"$in": items}}, "look up items in the ledger", without=("derived", "history"))

    def needed_blobs(self) -> set[str]:
        """CIDs of every item's renditions, and of earlier ones where its record may not have the newest yet. Those of
        deleted records are among them: a wiped one's document stays, and what is erased has none."""
        over = {State.WRITTEN.value, State.UNCHANGED.value, State.DELETED.value}
        with mongo_errors("look up all renditions in the ledger"):
            stored = self._items.find({"blobs.0": {"$exists": True}}, {"blobs": 1, "past_blobs": 1, "state": 1})
            return {
                cid
                for each in stored
                for cid in (*each["blobs"], *(() if each["state"] in over else each.get("past_blobs") or ()))
            }

    def rendered(self) -> dict[str, str | None]:
        """Mongo id of every account with items that have renditions -> its DID, where an item knows one."""
        match, group = {"blobs.0": {"$exists": True}}, {"_id": "$account", "did": {"$max": "$did"}}
        return {row["_id"]: row["did"] for row in self._groups(match, group, "look up whose renditions there are")}

    def find(
        self,
        *,
        states: AnyOf[State] | None = None,
        error_class: str | None = None,
        account: str | None = None,
        types: AnyOf[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[LedgerEntry]:
        """Entries by any of these, ordered by item: their states, the `code` of the last failure's class, the Mongo id
        of the owner, their types; None leaves a condition out, an empty collection matches nothing. At most `limit`,
        one or more.
        """
        conditions = {
            "state": None if states is None else {"$in": [state.value for state in states]},
            "failure.error_class": error_class,
            "account": account,
            "type": None if types is None else {"$in": list(types)},
        }
        if account is not None:
            # By the index on account and type alone: beside a condition on the state, a server may take the index on
            # states, and goes through the ledger of everybody.
            conditions |= {"state": None, "failure.error_class": None}
        query = {name: condition for name, condition in conditions.items() if condition is not None}
        most = limit if account is None else None
        found = self._read(query, "list items of the ledger", sort=[("_id", ASCENDING)], limit=most)
        if states is not None:
            found = (entry for entry in found if entry.state in states)
        if error_class is not None:
            found = (entry for entry in found if entry.failure and entry.failure.error_class == error_class)
        return islice(found, limit)

    def counts(self, *, account: str | None = None) -> dict[str, dict[State, int]]:
        """Entries by type and state, of one account or of all."""
        match = {} if account is None else {"account": account}
        group = {"_id": {"type": "$type", "state": "$state"}, "entries": {"$sum": 1}}
        counted: dict[str, dict[State, int]] = {}
        for row in self._groups(match, group, "count the items of the ledger"):
            counted.setdefault(row["_id"]["type"], {})[State(row["_id"]["state"])] = row["entries"]
        return counted

    def standing(self, state: State, type: str) -> list[Standing]:
        """Whose items of a type are in a state, and why: one line for each user and class of error."""
        group = {
            "_id": {"user": "$partition", "error_class": "$failure.error_class"},
            "items": {"$sum": 1},
            "until": {"$max": "$deferred_until"},
            "since": {"$min": "$updated_at"},
            "cid": {"$max": "$cid"},
            "message": {"$max": "$failure.message"},
        }
        rows = self._groups({"state": state.value, "type": type}, group, f"count the {state.value} items of the ledger")
        found = [
            value_of(
                Standing,
                {"error_class": None, **row["_id"], **row, "message": row["message"] or ""},
                mirrored=row["cid"] is not None,
            )
            for row in rows
        ]
        return sorted(found, key=lambda each: (each.user, each.error_class or ""))

    def pending_deletions(self, *, limit: int | None = None) -> Iterator[LedgerEntry]:
        """Items whose record has to go and is still there, longest waiting first (DEL-6)."""
        return self._read(
            {"state": {"$in": _PENDING}, "withdrawn_at": {"$gt": _LONG_AGO}},
            "list the pending deletions",
            sort=[("withdrawn_at", ASCENDING), ("_id", ASCENDING)],
            limit=limit,
        )

    def _groups(self, match: Mapping[str, Any], group: Mapping[str, Any], action: str) -> list[dict[str, Any]]:
        with mongo_errors(action):
            return list(self._items.aggregate([{"$match": match}, {"$group": group}]))

    def _read(
        self,
        query: Mapping[str, Any],
        action: str,
        *,
        sort: Sequence[tuple[str, int]] | None = None,
        limit: int | None = None,
        without: Sequence[str] = (),
    ) -> Iterator[LedgerEntry]:
        with mongo_errors(action):
            fields = dict.fromkeys(without, 0) or None
            found = self._items.find(query, fields, sort=sort, limit=limit or 0, batch_size=_BATCH)
            with closing(found) as cursor:
                yield from map(from_bson, cursor)


def _as_new(entry: LedgerEntry) -> dict[str, Any]:
    stored = {name: value for name, value in to_bson(entry).items() if value is not None}
    return {"_id": entry.item, **stored, "history": [_attempt_to_bson(line) for line in entry.history[-1:]]}


def _as_known(entry: LedgerEntry) -> UpdateOne:
    change: dict[str, Any] = {"$set": to_bson(entry)}
    if entry.history:
        change["$push"] = {"history": {"$each": [_attempt_to_bson(entry.history[-1])], "$slice": -HISTORY}}
    return UpdateOne({"_id": entry.item}, change, upsert=True)


def _with_id(value: RepositoryCheckpoint | LastLook, id: str) -> dict[str, Any]:
    stored = storable(value)
    return {"_id": stored.pop(id), **stored}
