"""Small collections of the ledger database: PDS sessions, rate limits, published lexicons and snapshots.

Runs and machines share one sign-in per DID (LIMIT-7) and one budget. Sessions are `{_id: did, access, refresh,
sign_ins}`, the last in epoch seconds: secrets, which nothing else reads.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pymongo import DESCENDING, ReplaceOne, ReturnDocument
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from ac_pipeline.atproto.rate_limits import Bucket, Window
from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.atproto.xrpc_errors import LONGEST
from ac_pipeline.errors import Misconfigured, ServiceUnreachable
from ac_pipeline.mongo.database import mongo_errors, own_collection, storable, value_of


class MongoSessionStore:
    """The `SessionStore` of production; every method raises ServiceUnreachable when the database does not answer."""

    def __init__(self, collection: MongoCollection[dict[str, Any]]) -> None:
        self._collection = collection

    def load(self, did: str) -> Tokens | None:
        with self._errors("reading the session of", did):
            found = self._collection.find_one({"_id": did})
        if found is None or not isinstance(found.get("access"), str) or not isinstance(found.get("refresh"), str):
            return None
        return Tokens(found["access"], found["refresh"])

    def save(self, did: str, tokens: Tokens) -> None:
        change = {"$set": {"access": tokens.access, "refresh": tokens.refresh}}
        with self._errors("keeping the session of", did):
            self._collection.update_one({"_id": did}, change, upsert=True)

    def drop(self, did: str) -> None:
        with self._errors("forgetting the session of", did):
            self._collection.update_one({"_id": did}, {"$unset": {"access": "", "refresh": ""}})

    def sign_ins(self, did: str) -> Sequence[float]:
        with self._errors("counting the sign-ins of", did):
            found = self._collection.find_one({"_id": did}, {"sign_ins": 1})
        return tuple(float(at) for at in (found or {}).get("sign_ins", ()))

    def count_sign_in(self, did: str, at: float, keep: int) -> None:
        change = {"$push": {"sign_ins": {"$each": [at], "$slice": -keep}}}
        with self._errors("counting a sign-in of", did):
            self._collection.update_one({"_id": did}, change, upsert=True)

    @contextmanager
    def _errors(self, what: str, did: str) -> Iterator[None]:
        """Only the class of an error is told: the text of a write error can repeat the document."""
        try:
            yield
        except PyMongoError as error:
            place = f"{self._collection.database.name}.{self._collection.name}"
            raise ServiceUnreachable(
                f"{what} {did} in {place} failed with {type(error).__name__}. Check the ledger database."
            ) from None


class MongoPublishedLexicons:
    """The last seen published lexicons, in the pipeline's own database."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._collection = database["lexicons"]

    def seen(self, authority: str) -> Mapping[str, Mapping[str, Any]]:
        """NSID -> lexicon as this DID published it when it was last read; empty when it never was."""
        with mongo_errors("read the published lexicons"):
            return {row["_id"]: json.loads(row["schema"]) for row in self._collection.find({"authority": authority})}

    def remember(self, authority: str, published: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep what this DID publishes now, in place of what was known."""
        rows = {nsid: {"authority": authority, "schema": json.dumps(schema)} for nsid, schema in published.items()}
        with mongo_errors("remember the published lexicons"):
            if rows:
                self._collection.bulk_write(
                    [ReplaceOne({"_id": nsid}, row, upsert=True) for nsid, row in rows.items()], ordered=False
                )
            self._collection.delete_many({"_id": {"$nin": list(rows)}})


class MongoCounters:
    """What all runs and commands together have asked for and spent; each adds its own when it ends."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._collection = own_collection(database, "counters")

    def add(self, spent: Mapping[str, float]) -> None:
        known = {name: number for name, number in spent.items() if number}
        if known:
            with mongo_errors("count what was spent"):
                self._collection.update_one({"_id": "spent"}, {"$inc": known}, upsert=True)

    def read(self) -> dict[str, float]:
        with mongo_errors("read what was spent"):
            found = self._collection.find_one({"_id": "spent"}, {"_id": 0})
        return dict(found or {})


class MongoBudgetStore:
    """The `BudgetStore` of production; every method raises Transient when the database does not answer. Policies such
    as `5000;w=3600` are fit for names of fields.
    """

    def __init__(self, collection: MongoCollection[dict[str, Any]]) -> None:
        self._collection = collection

    def read(self, key: str) -> Bucket:
        with mongo_errors(f"read the budget of {key}"):
            return _bucket(self._collection.find_one({"_id": key}))

    def take(self, key: str, policies: Collection[str], cost: int) -> Bucket:
        if not policies:
            return self.read(key)
        change = {f"windows.{policy}.remaining": -cost for policy in policies}
        known = {f"windows.{policy}": {"$exists": True} for policy in policies}  # $inc would make half a window
        with mongo_errors(f"draw from the budget of {key}"):
            found = self._collection.find_one_and_update(
                {"_id": key, **known}, {"$inc": change}, return_document=ReturnDocument.AFTER
            )
        if found is not None:
            return _bucket(found)
        bucket = self.read(key)
        # What has come since then is not taken yet, and would be mistaken for it. It does not go again.
        return self.take(key, policies, cost) if bucket.windows.keys() >= set(policies) else bucket

    def change(self, key: str, policy: str, known: Window | None, new: Window) -> bool:
        place = f"windows.{policy}"
        if known is None:
            unchanged: dict[str, Any] = {place: {"$exists": False}}
        else:
            unchanged = {f"{place}.remaining": known.remaining, f"{place}.reset": known.reset}
        with mongo_errors(f"keep the budget of {key}"):
            try:
                done = self._collection.update_one(
                    {"_id": key, **unchanged}, {"$set": {place: asdict(new)}}, upsert=known is None
                )
            except DuplicateKeyError:  # the bucket is there, with this policy in it
                return False
        return done.matched_count == 1 or done.upserted_id is not None

    def silence(self, key: str, until: float) -> None:
        known = "$silent_until"  # One that lies too far ahead is of a clock that was wrong
        later = {"$cond": [{"$gte": [known, until + LONGEST]}, until, {"$max": [known, until]}]}
        with mongo_errors(f"keep the budget of {key}"):
            self._collection.update_one({"_id": key}, [{"$set": {"silent_until": later}}], upsert=True)

    def buckets(self) -> Iterator[tuple[str, Bucket]]:
        """Every bucket, with its key: for whoever wants to know what is known of a server."""
        with mongo_errors("read the budgets"):
            for stored in self._collection.find({}):
                yield str(stored["_id"]), _bucket(stored)


def _bucket(stored: Mapping[str, Any] | None) -> Bucket:
    if stored is None:
        return Bucket()
    windows = {policy: Window(**window) for policy, window in stored.get("windows", {}).items()}
    return Bucket(windows, float(stored.get("silent_until", 0.0)))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot of one repository."""

    id: str  # Its name, for people and for `--from`
    account: str  # Mongo id of the user
    user: str  # Partition key of the user, when it was taken
    did: str  # Whose repository
    when: datetime  # When it was taken, UTC
    types: tuple[str, ...]  # Names of the types whose records it can bring back: those whose blobs it holds
    commit: str  # CID of the commit
    repository: str  # sha-256 of its CAR
    records: Mapping[str, int]  # Type name -> number of records
    blobs: int = 0  # Number of blobs
    bytes: int = 0  # Of the CAR and the blobs together
    complete: bool = False  # Everything is kept and was read back. Never true before it is.
    # An earlier snapshot of the same wipe, which holds what was deleted before this one was taken
    previous: str | None = None
    wipe: int | None = None  # How many records the wipe that took it was told to delete; None for one taken by itself
    open: bool = False  # True if that wipe has not come to its end
    # Those of `types` for which it has, or which were restored since
    ended: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As JSON values; the account's Mongo id stays inside."""
        values = {name: value for name, value in storable(self).items() if name != "account"}
        return values | {"when": self.when.isoformat()}


class MongoSnapshots:
    """The index of snapshots in the pipeline's own database."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._collection = own_collection(database, "snapshots")

    def save(self, snapshot: Snapshot) -> None:
        stored = storable(snapshot)
        del stored["id"]
        with mongo_errors(f"store the snapshot {snapshot.id}"):
            self._collection.replace_one({"_id": snapshot.id}, stored, upsert=True)

    def get(self, id: str) -> Snapshot:
        """The snapshot of this id; raises Misconfigured when there is none."""
        with mongo_errors(f"look up the snapshot {id}"):
            stored = self._collection.find_one({"_id": id})
        if stored is None:
            raise Misconfigured(f"There is no snapshot {id!r}; `ac-pipeline snapshots` lists those there are.")
        return value_of(Snapshot, stored, id=id)

    def remove(self, id: str) -> None:
        """Forget the snapshot of this id; one that is not there is forgotten already."""
        with mongo_errors(f"forget the snapshot {id}"):
            self._collection.delete_one({"_id": id})

    def find(self, *, account: str | None = None, limit: int | None = None) -> list[Snapshot]:
        """Snapshots, newest first: of one account (its Mongo id) or of all, at most `limit`."""
        query = {} if account is None else {"account": account}
        with mongo_errors("list the snapshots"):
            found = self._collection.find(query, sort=[("when", DESCENDING), ("_id", DESCENDING)], limit=limit or 0)
            return [value_of(Snapshot, stored, id=stored["_id"]) for stored in found]
