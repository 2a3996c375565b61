"""The budgets in the ledger's database, so that runs and machines draw from one (RUN-8, LIMIT-5).

One document per bucket: `{_id: key, silent_until, windows: {policy: {limit, length, remaining, reset, guessed}}}`.
What they mean is `atproto/buckets.py`. Each call is one command on one document by its `_id`; buckets of a server that
names no limit have none. The policy of commits (`atproto/pace.py`) is named without its limit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import DuplicateKeyError

from ac_pipeline.atproto.buckets import Bucket, Window
from ac_pipeline.mongo.database import mongo_errors


class MongoBudgetStore:
    """The `BudgetStore` of production. Policies such as `5000;w=3600` are fit for names of fields.

    Args:
        collection: Where the documents are; needs no index beyond `_id`.

    Every method raises Transient when the database does not answer.
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
        with mongo_errors(f"keep the budget of {key}"):
            self._collection.update_one({"_id": key}, {"$max": {"silent_until": until}}, upsert=True)

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
