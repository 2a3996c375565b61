"""The change feed: which documents and accounts somebody touched since a place in MongoDB's change stream.

It makes things fast and brings edits; it is never the truth. Whatever it lost is found by `compare.py`, and what an
event means is decided by reading the document again. One watch over the whole database, drained for a moment: a stream
cannot stay open between two ticks of a sensor (Dagster facts, "Sensors, automation, pools").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId
from pymongo.change_stream import DatabaseChangeStream
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ac_pipeline.items import item_id
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.fields import sound_text
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.database import SOURCE_CODEC, mongo_errors

Token = Mapping[str, Any]  # A resume token: opaque, JSON after `bson.json_util`

_ACCOUNTS = ("users", "@handles", "account-deletions")  # Collections whose documents have the account's id as `_id`

_STRUCTURE = frozenset({"drop", "rename", "dropDatabase", "invalidate"})
"""Events after which nothing that was read before is certain."""

_NO_STREAMS = frozenset({13, 59, 115, 323, 40324, 40573})
"""Codes of a server or user without change streams: Unauthorized, CommandNotFound, CommandNotSupported, APIStrictError,
an unknown aggregation stage, and "only supported on replica sets"."""

_AWAIT_MS = 250  # How long the server waits for an event before it answers that there is none

_MOST_EVENTS = 20_000
"""Events of one drain; about as many as the driver decodes in a second. The rest waits in the stream."""

_BATCH = 1_000


TOUCHED, RELINKED, GONE = "touched", "relinked", "gone"
"""What events say of an item: it is to be judged anew, as it was inserted, replaced or changed in a field that decides
its record; only its link was stored, which is almost always our own write; or its document was deleted."""


@dataclass(slots=True)
class Drained:
    """What happened since a place in the stream."""

    token: Token | None = None  # The place after it; None where there is no stream
    items: dict[str, str] = field(default_factory=dict)  # Item -> what the last event that counts says of it
    accounts: set[str] = field(default_factory=set)  # Ids of accounts whose user, handle or deletion row changed
    events: int = 0  # How many events were read, noise included
    lost: str | None = None  # Why earlier events may be missing, or None: everything has to be compared
    unavailable: str | None = None  # Why there is no stream at all, or None

    def of(self, meaning: str) -> list[str]:
        """The items of which this was said."""
        return [item for item, said in self.items.items() if said == meaning]


def _meaning(media: MediaType, kind: str, event: Mapping[str, Any]) -> str | None:
    """What an event says of its item; None for noise, such as a counted view (SRC-9)."""
    if kind == "delete":
        return GONE
    if kind != "update":
        return TOUCHED
    removed = {name.partition(".")[0] for name in (event.get("updateDescription") or {}).get("removedFields") or ()}
    stored = {name.partition(".")[0] for name in event.get("set") or ()}
    homes = set(media.link_homes)
    if (removed | stored) & set(media.fields) or removed & homes:
        return TOUCHED
    return RELINKED if stored & homes else None


@dataclass(slots=True)
class ChangeFeed:
    """The change stream of the platform's database."""

    database: Database[dict[str, Any]]
    types: Sequence[MediaType] = MEDIA_TYPES
    clock: Callable[[], float] = time.monotonic  # Seconds that only go forward

    def drain(self, token: Token | None, seconds: float) -> Drained:
        """Read what happened since `token`, for at most about `seconds`; at once when something has happened.

        Args:
            token: Where the last drain ended; None begins now, with everything before it unknown.

        Raises:
            Transient: MongoDB did not answer.
        """
        with mongo_errors("read the change stream"):
            if token is None:
                return self._begin("the change stream begins here", seconds)
            try:
                drained, alive = self._read(token, seconds)
            except OperationFailure as error:
                if error.code in _NO_STREAMS:
                    return Drained(unavailable=_refusal(error))
                return self._begin(f"MongoDB refuses our place in the change stream (code {error.code})", seconds)
            if drained.lost is not None or not alive:
                return self._begin(f"the change stream ended ({drained.lost or 'invalidated'})", seconds)
            return drained

    def _begin(self, why: str, seconds: float) -> Drained:
        """A new place, from now on; whatever happened before has to be found by comparing."""
        try:
            drained, _ = self._read(None, min(seconds, _AWAIT_MS / 1000))
        except OperationFailure as error:
            return Drained(unavailable=_refusal(error))
        drained.lost = why
        return drained

    def _read(self, token: Token | None, seconds: float) -> tuple[Drained, bool]:
        """What happened, `lost` when the structure changed; and True if the stream can be read on."""
        drained = Drained()
        with self._open(token) as stream:
            deadline = self.clock() + seconds
            while stream.alive and drained.events < _MOST_EVENTS and drained.lost is None:
                event = stream.try_next()
                if event is not None:
                    self._add(drained, event)
                elif drained.events or self.clock() >= deadline:
                    break
                if self.clock() >= deadline + seconds:  # a busy stream is left for the next drain
                    break
            drained.token = stream.resume_token
            return drained, stream.alive

    def _add(self, drained: Drained, event: Mapping[str, Any]) -> None:
        drained.events += 1
        kind, collection = event["operationType"], (event.get("ns") or {}).get("coll", "")
        key = (event.get("documentKey") or {}).get("_id")
        media = next((media for media in self.types if media.collection == collection), None)
        if kind in _STRUCTURE:
            drained.lost = f"{kind} of {collection or 'the database'}"
        elif collection in _ACCOUNTS:
            if (id := sound_text(key)) is not None:
                drained.accounts.add(id)
        elif media is not None and isinstance(key, ObjectId):
            item, said = item_id(media.name, str(key)), _meaning(media, kind, event)
            if said is not None and (said != RELINKED or item not in drained.items):
                drained.items[item] = said

    def _open(self, token: Token | None) -> DatabaseChangeStream[dict[str, Any]]:
        """Only names of fields come over the wire: a changed user document holds a password."""
        stages: list[dict[str, Any]] = [
            {"$match": {"ns.coll": {"$in": [*(media.collection for media in self.types), *_ACCOUNTS]}}},
            {
                "$project": {
                    "operationType": 1,
                    "ns": 1,
                    "documentKey": 1,
                    "updateDescription.removedFields": 1,
                    "set": {
                        "$map": {
                            "input": {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}},
                            "as": "field",
                            "in": "$$field.k",
                        }
                    },
                }
            },
        ]
        database = self.database.with_options(codec_options=SOURCE_CODEC)
        return database.watch(stages, resume_after=token, max_await_time_ms=_AWAIT_MS, batch_size=_BATCH)


def _refusal(error: OperationFailure) -> str:
    return f"this MongoDB offers us no change stream (code {error.code})"
