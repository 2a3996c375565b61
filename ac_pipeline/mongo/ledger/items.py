"""The ledger: what the pipeline remembers of every item, in a database of its own, and what people ask it.

The form of an entry and what is known of whole repositories belong here; who may write to a repository is `leases.py`,
sessions and budgets are `collections.py`. The ledger is a memory, not the truth: a lost one is rebuilt by
the next run.
"""

from __future__ import annotations

from collections.abc import Collection as AnyOf
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from bson.codec_options import CodecOptions
from pymongo import ASCENDING, IndexModel, InsertOne, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from ac_pipeline.accounts import Account
from ac_pipeline.errors import NotPermitted
from ac_pipeline.items import (
    Attempt,
    BlobRef,
    Derived,
    Failure,
    LastLook,
    LedgerEntry,
    Rendition,
    RepositoryMark,
    Stage,
    State,
)
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.database import is_only_duplicates, mongo_errors
from ac_pipeline.mongo.ledger.leases import Leases

HISTORY = 20
"""Attempts an entry remembers; the last failure is kept beside them, without expiry (OPS-2)."""

_LONGEST_TEXT = 4_000
"""Characters of one message or answer. A server's page of HTML says nothing more after that."""
_LONGEST_LINE = 500
"""Characters of a message in a line of the timeline."""
_MOST_WARNINGS = 50

_PLAIN = (
    "type",
    "document",
    "account",
    "partition",
    "code",
    "did",
    "fingerprint",
    "rkey",
    "uri",
    "cid",
    "attempts",
    "deferred_until",
    "withdrawn_at",
    "run_id",
    "updated_at",
)
"""Fields that BSON holds as they are."""


def to_bson(entry: LedgerEntry) -> dict[str, Any]:
    """All of an entry but its id and history. `blobs` repeats the CIDs of its renditions, to be looked up by."""
    stored: dict[str, Any] = {name: getattr(entry, name) for name in _PLAIN}
    stored["state"] = entry.state.value
    stored["stage"] = entry.stage.value
    stored["warnings"] = [_short(text, _LONGEST_LINE) for text in entry.warnings[:_MOST_WARNINGS]]
    stored["derived"] = None if entry.derived is None else _derived_to_bson(entry.derived)
    stored["blobs"] = [] if entry.derived is None else [made.blob.cid for made in entry.derived.renditions.values()]
    stored["past_blobs"] = list(entry.past_blobs) or None
    stored["failure"] = None if entry.failure is None else _failure_to_bson(entry.failure)
    return stored


def attempt_to_bson(attempt: Attempt) -> dict[str, Any]:
    """One line of the timeline."""
    return {
        "at": attempt.at,
        "run_id": attempt.run_id,
        "stage": attempt.stage.value,
        "state": attempt.state.value,
        "error_class": attempt.error_class,
        "message": _short(attempt.message, _LONGEST_LINE),
    }


def from_bson(stored: Mapping[str, Any]) -> LedgerEntry:
    """The entry of a stored document; fields that an older version did not write take their defaults."""
    failure, derived = stored.get("failure"), stored.get("derived")
    return LedgerEntry(
        item=stored["_id"],
        state=State(stored["state"]),
        stage=Stage(stored["stage"]),
        derived=None if derived is None else _derived_from_bson(derived),
        past_blobs=tuple(stored.get("past_blobs") or ()),
        failure=None if failure is None else _failure_from_bson(failure),
        warnings=tuple(stored.get("warnings") or ()),
        history=_timeline(stored.get("history") or ()),
        **{name: stored[name] for name in _PLAIN if name in stored},
    )


def _derived_to_bson(derived: Derived) -> dict[str, Any]:
    return {
        "key": derived.key,
        "stamp": derived.stamp,
        "found": sorted(derived.found),
        "warnings": [_short(text, _LONGEST_LINE) for text in derived.warnings[:_MOST_WARNINGS]],
        "renditions": {
            field: {
                "cid": made.blob.cid,
                "mime_type": made.blob.mime_type,
                "size": made.blob.size,
                "source": made.source,
                "spec": made.spec,
                "details": dict(made.details),
            }
            for field, made in derived.renditions.items()
        },
    }


def _derived_from_bson(stored: Mapping[str, Any]) -> Derived:
    return Derived(
        key=stored["key"],
        stamp=stored.get("stamp", ""),
        found=frozenset(stored["found"]),
        warnings=tuple(stored["warnings"]),
        renditions={
            field: Rendition(
                blob=BlobRef(cid=made["cid"], mime_type=made["mime_type"], size=made["size"]),
                source=made["source"],
                spec=made["spec"],
                details=made["details"],
            )
            for field, made in stored["renditions"].items()
        },
    )


def _failure_to_bson(failure: Failure) -> dict[str, Any]:
    return {
        "stage": failure.stage.value,
        "error_class": failure.error_class,
        "message": _short(failure.message, _LONGEST_TEXT),
        "status": failure.status,
        "answer": _short(failure.answer, _LONGEST_TEXT),
        "payload_hash": failure.payload_hash,
    }


def _failure_from_bson(stored: Mapping[str, Any]) -> Failure:
    return Failure(
        stage=Stage(stored["stage"]),
        error_class=stored["error_class"],
        message=stored["message"],
        status=stored["status"],
        answer=stored["answer"],
        payload_hash=stored["payload_hash"],
    )


def _timeline(stored: Iterable[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    """Without repeated lines: an entry that is saved twice for one attempt has that line twice in store."""
    return tuple(line for line, _ in groupby(map(_attempt_from_bson, stored)))


def _attempt_from_bson(stored: Mapping[str, Any]) -> Attempt:
    at: datetime = stored["at"]
    return Attempt(
        at=at,
        run_id=stored["run_id"],
        stage=Stage(stored["stage"]),
        state=State(stored["state"]),
        error_class=stored["error_class"],
        message=stored["message"],
    )


def _short(text: str | None, longest: int) -> str | None:
    """Cut, and made storable: half a surrogate pair, as an odd document can put into a message, is no BSON text."""
    if text is None:
        return None
    return (text if len(text) <= longest else text[: longest - 1] + "…").encode(errors="replace").decode()


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
        """Make the indexes that are missing; nothing else depends on having been called before (PROD-3: not by users
        who may only read)."""
        with suppress(NotPermitted), mongo_errors("make the indexes of the ledger"):
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


_CHECKPOINTS_A_BATCH = 5_000
"""Marks an answer holds: those of all 4,200 repositories fit into one."""


class Marks:
    """The marks of repositories: `{_id: did, rev, at, settled, counts}`.

    Args:
        database: The pipeline's own database.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._repositories = database.get_collection("repositories", codec_options=_AWARE)

    def of(self, did: str) -> RepositoryMark | None:
        """How the last sync left this repository; None when none ever reached its end."""
        with mongo_errors(f"read the mark of {did}"):
            stored = self._repositories.find_one({"_id": did})
        return None if stored is None else _mark(stored)

    def all(self) -> dict[str, RepositoryMark]:
        """All marks by DID, without `settled`, which is most of their bytes and says nothing about revisions."""
        with mongo_errors("read the marks of all repositories"):
            found = self._repositories.find({}, {"settled": 0}, batch_size=_CHECKPOINTS_A_BATCH)
            return {stored["_id"]: _mark(stored) for stored in found}

    def remember(self, mark: RepositoryMark) -> None:
        """Keep a mark in place of what was known."""
        stored = {
            "_id": mark.did,
            "rev": mark.rev,
            "at": mark.at,
            "settled": dict(mark.settled),
            "counts": dict(mark.counts),
        }
        with mongo_errors(f"keep the mark of {mark.did}"):
            self._repositories.replace_one({"_id": mark.did}, stored, upsert=True)

    def follow(self, mark: RepositoryMark, since: str) -> None:
        """Move a mark that stands at the revision `since`; the types counted in `mark` are not settled any more."""
        counts = {f"counts.{name}": number for name, number in mark.counts.items()}
        change: dict[str, Any] = {"$set": {"rev": mark.rev, "at": mark.at, **counts}}
        if counts:
            change["$unset"] = {f"settled.{name}": "" for name in mark.counts}
        with mongo_errors(f"move the mark of {mark.did}"):
            self._repositories.update_one({"_id": mark.did, "rev": since}, change)


class Holds:
    """Types that are not mirrored: `{_id: account id, types: {name: reason}}`.

    Args:
        database: The pipeline's own database.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._holds = database["holds"]

    def add(self, account: Account, types: Iterable[MediaType], reason: str) -> None:
        """Put types on hold; a later reason replaces an earlier one."""
        change = {f"types.{media.name}": reason for media in types}
        if change:
            with mongo_errors(f"put {account.key} on hold"):
                self._holds.update_one({"_id": account.id}, {"$set": change}, upsert=True)

    def remove(self, account: Account, types: Iterable[MediaType]) -> None:
        """Release types; those that are not on hold stay as they are."""
        change = {f"types.{media.name}": "" for media in types}
        if change:
            with mongo_errors(f"release the hold on {account.key}"):
                self._holds.update_one({"_id": account.id}, {"$unset": change})

    def of(self, account: Account) -> Mapping[str, str]:
        """Name of each type on hold -> the reason."""
        with mongo_errors(f"read the holds on {account.key}"):
            stored = self._holds.find_one({"_id": account.id})
        return {} if stored is None else dict(stored.get("types") or {})

    def all(self) -> dict[str, dict[str, str]]:
        """The types on hold and their reasons by account id, for the accounts that have any."""
        with mongo_errors("read the holds on all accounts"):
            return {stored["_id"]: dict(stored["types"]) for stored in self._holds.find({}) if stored.get("types")}


class LastLooks:
    """What was there at the last look: `{_id: type, ...}` as `LastLook` has it.

    Args:
        database: The pipeline's own database.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._looks = database.get_collection("looks", codec_options=_AWARE)

    def of(self, name: str) -> LastLook:
        """What is remembered under this name; one without `at` when that is nothing."""
        with mongo_errors(f"read the last look at {name}"):
            stored = self._looks.find_one({"_id": name})
        return LastLook(name) if stored is None else LastLook(type=stored.pop("_id"), **stored)

    def keep(self, look: LastLook) -> bool:
        """Keep it in place of the version before it; False when that is not the newest any more. A user of MongoDB who
        may only read keeps nothing, and looks at what it found (PROD-3)."""
        stored = asdict(replace(look, version=look.version + 1))
        stored["_id"] = stored.pop("type")
        with suppress(NotPermitted), mongo_errors(f"keep the last look at {look.type}"):
            if look.version:
                return bool(self._looks.replace_one({"_id": look.type, "version": look.version}, stored).matched_count)
            try:
                self._looks.insert_one(stored)
            except DuplicateKeyError:
                return False
        return True


def _mark(stored: Mapping[str, Any]) -> RepositoryMark:
    return RepositoryMark(
        did=stored["_id"],
        rev=stored["rev"],
        at=stored["at"],
        settled=stored.get("settled") or {},
        counts=stored.get("counts") or {},
    )
