"""The change feed: which documents and accounts somebody touched since a place in MongoDB's change stream.

It makes things fast and brings edits; it is never the truth. Whatever it lost is found by `compare.py`, and what an
event means is decided by reading the document again. One watch over the whole database, drained for a moment: a stream
cannot stay open between two ticks of a sensor (Dagster facts, "Sensors, automation, pools").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class Drained:
    """What happened since a place in the stream."""

    token: Token | None = None  # The place after it; None where there is no stream
    # Items to judge anew: inserted, replaced, or changed in a field that decides their record
    touched: Collection[str] = ()
    relinked: Collection[str] = ()  # Items of which only the link was stored; almost always our own writes
    gone: Collection[str] = ()  # Items whose document was deleted
    accounts: Collection[str] = ()  # Ids of accounts whose user, handle or deletion row changed
    events: int = 0  # How many events were read, noise included
    lost: str | None = None  # Why earlier events may be missing, or None: everything has to be compared
    unavailable: str | None = None  # Why there is no stream at all, or None


@dataclass(slots=True)
class _Events:
    types: Mapping[str, MediaType]
    last: dict[str, str] = field(default_factory=dict)
    accounts: set[str] = field(default_factory=set)
    count: int = 0
    broken: str | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        self.count += 1
        kind, collection = event["operationType"], (event.get("ns") or {}).get("coll", "")
        if kind in _STRUCTURE:
            self.broken = f"{kind} of {collection or 'the database'}"
            return
        key = (event.get("documentKey") or {}).get("_id")
        if collection in _ACCOUNTS:
            if (id := sound_text(key)) is not None:
                self.accounts.add(id)
            return
        media = self.types.get(collection)
        if media is None or not isinstance(key, ObjectId):
            return
        item = item_id(media.name, str(key))
        said = _meaning(media, kind, event)
        if said == "relinked":
            self.last.setdefault(item, said)
        elif said is not None:
            self.last[item] = said

    def drained(self, place: Token | None, lost: str | None) -> Drained:
        def of(meaning: str) -> frozenset[str]:
            return frozenset(item for item, said in self.last.items() if said == meaning)

        touched, relinked, gone = map(of, ("touched", "relinked", "gone"))
        return Drained(place, touched, relinked, gone, frozenset(self.accounts), self.count, lost)


def _meaning(media: MediaType, kind: str, event: Mapping[str, Any]) -> str | None:
    """What an event says of its item; None for noise, such as a counted view (SRC-9)."""
    if kind == "delete":
        return "gone"
    if kind != "update":
        return "touched"
    removed = {name.partition(".")[0] for name in (event.get("updateDescription") or {}).get("removedFields") or ()}
    stored = {name.partition(".")[0] for name in event.get("set") or ()}
    homes = set(media.link_homes)
    if (removed | stored) & set(media.fields) or removed & homes:
        return "touched"
    return "relinked" if stored & homes else None


class ChangeFeed:
    """The change stream of the platform's database; `clock` tells seconds that only go forward."""

    def __init__(
        self,
        database: Database[dict[str, Any]],
        *,
        types: Sequence[MediaType] = MEDIA_TYPES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database.with_options(codec_options=SOURCE_CODEC)
        self._types = {media.collection: media for media in types}
        self._clock = clock

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
                events, place, alive = self._read(token, seconds)
            except OperationFailure as error:
                if error.code in _NO_STREAMS:
                    return Drained(unavailable=_refusal(error))
                return self._begin(f"MongoDB refuses our place in the change stream (code {error.code})", seconds)
            if events.broken is not None or not alive:
                return self._begin(f"the change stream ended ({events.broken or 'invalidated'})", seconds)
            return events.drained(place, None)

    def _begin(self, why: str, seconds: float) -> Drained:
        """A new place, from now on; whatever happened before has to be found by comparing."""
        try:
            events, place, _ = self._read(None, min(seconds, _AWAIT_MS / 1000))
        except OperationFailure as error:
            return Drained(unavailable=_refusal(error))
        return events.drained(place, why)

    def _read(self, token: Token | None, seconds: float) -> tuple[_Events, Token | None, bool]:
        events = _Events(self._types)
        with self._open(token) as stream:
            deadline = self._clock() + seconds
            while stream.alive and events.count < _MOST_EVENTS and events.broken is None:
                event = stream.try_next()
                if event is not None:
                    events.add(event)
                elif events.count or self._clock() >= deadline:
                    break
                if self._clock() >= deadline + seconds:  # a busy stream is left for the next drain
                    break
            return events, stream.resume_token, stream.alive

    def _open(self, token: Token | None) -> DatabaseChangeStream[dict[str, Any]]:
        """Only names of fields come over the wire: a changed user document holds a password."""
        stages: list[dict[str, Any]] = [
            {"$match": {"ns.coll": {"$in": [*self._types, *_ACCOUNTS]}}},
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
        return self._database.watch(stages, resume_after=token, max_await_time_ms=_AWAIT_MS, batch_size=_BATCH)


def _refusal(error: OperationFailure) -> str:
    return f"this MongoDB offers us no change stream (code {error.code})"
