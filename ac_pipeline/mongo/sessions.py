"""PDS sessions kept in the ledger database, so that runs and machines share one sign-in per DID (LIMIT-7).

One plain document per DID: `{_id: did, access, refresh, sign_ins}`, its tokens replaced on each renewal, its sign-ins
in epoch seconds. The documents are secrets; the collection belongs to the pipeline alone and nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.errors import ServiceUnreachable


class MongoSessionStore:
    """The `SessionStore` of production.

    Args:
        collection: Where the documents are; needs no index beyond `_id`.

    Every method raises ServiceUnreachable when the database does not answer.
    """

    def __init__(self, collection: Collection[dict[str, Any]]) -> None:
        self._collection = collection

    def load(self, did: str) -> Tokens | None:
        try:
            found = self._collection.find_one({"_id": did})
        except PyMongoError as error:
            raise self._unreachable("reading the session of", did, error) from None
        if found is None or not isinstance(found.get("access"), str) or not isinstance(found.get("refresh"), str):
            return None
        return Tokens(found["access"], found["refresh"])

    def save(self, did: str, tokens: Tokens) -> None:
        change = {"$set": {"access": tokens.access, "refresh": tokens.refresh}}
        try:
            self._collection.update_one({"_id": did}, change, upsert=True)
        except PyMongoError as error:
            raise self._unreachable("keeping the session of", did, error) from None

    def drop(self, did: str) -> None:
        try:
            self._collection.update_one({"_id": did}, {"$unset": {"access": "", "refresh": ""}})
        except PyMongoError as error:
            raise self._unreachable("forgetting the session of", did, error) from None

    def sign_ins(self, did: str) -> Sequence[float]:
        try:
            found = self._collection.find_one({"_id": did}, {"sign_ins": 1})
        except PyMongoError as error:
            raise self._unreachable("counting the sign-ins of", did, error) from None
        return tuple(float(at) for at in (found or {}).get("sign_ins", ()))

    def count_sign_in(self, did: str, at: float, keep: int) -> None:
        change = {"$push": {"sign_ins": {"$each": [at], "$slice": -keep}}}
        try:
            self._collection.update_one({"_id": did}, change, upsert=True)
        except PyMongoError as error:
            raise self._unreachable("counting a sign-in of", did, error) from None

    def _unreachable(self, what: str, did: str, error: PyMongoError) -> ServiceUnreachable:
        # Only the class of the error: the text of a write error can repeat the document.
        place = f"{self._collection.database.name}.{self._collection.name}"
        return ServiceUnreachable(
            f"{what} {did} in {place} failed with {type(error).__name__}. Check the ledger database."
        )
