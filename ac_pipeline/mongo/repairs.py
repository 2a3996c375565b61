"""The few writes into the platform's documents that a person asked for: inserting what was lost, taking over a change.

Nothing here replaces or deletes a document (DEL-8), and nothing is written over what changed since it was read. Reading
documents, and the links that every sync writes, are `documents.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection as Stored
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.mongo.database import SOURCE_CODEC, mongo_errors

_ALWAYS_UNIQUE = ("code", "hash")
"""Unique by the platform's rules, whatever indexes there are: codes per collection, programs by their hash over all
users (aesthetic-computer facts, sections 3.4 and 5). Documents without them are no conflict here."""


class MongoRepairs:
    """Writes to single documents.

    Args:
        database: The platform's database.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._database = database

    def conflicts(self, media: MediaType, raw: Mapping[str, Any], *, among: Collection[str] | None = None) -> list[str]:
        """Unique fields whose values another document holds already, as `code abc`; empty when it can be stored.

        Asks for the platform's own rules and for every unique index of the collection.

        Args:
            raw: The document as it would be; with `_id`, which does not count as another.
            among: Only rules about one of these fields; None for all.
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

        Raises:
            InvalidDocument: Another document holds one of its unique values.
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

        Raises:
            InvalidDocument: Another document holds one of the unique values.
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

    def _collection(self, media: MediaType) -> Stored[dict[str, Any]]:
        return self._database.get_collection(media.collection, codec_options=SOURCE_CODEC)


def _unique(collection: Stored[dict[str, Any]], raw: Mapping[str, Any]) -> list[tuple[str, ...]]:
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
