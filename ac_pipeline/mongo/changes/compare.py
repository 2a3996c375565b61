"""Where to look for work: documents that may need some by the state they are in, and those that somebody touched.

The compare has filters that let through a little more than `pending.py` does, and reads by them in an order in which it
can go on where its time ran out: by `_id` where few documents pass, by (`when`, `_id`) where all do. An `_id` is never
shared, so equal times skip nothing (RUN-10). The feed is MongoDB's change stream: it makes things fast and brings
edits, and is never the truth. One watch over the whole database is drained for a moment: a stream cannot stay open
between two ticks of a sensor (Dagster facts, "Sensors, automation, pools"). Nothing is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from bson import ObjectId
from pymongo.change_stream import DatabaseChangeStream
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.items import item_id
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.eligibility import GUEST_VALUES
from ac_pipeline.media.fields import sound_text
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.database import SOURCE_CODEC, in_parts, mongo_errors, platform_collection
from ac_pipeline.mongo.documents import WITHDRAWN, unlinked

Raw = Mapping[str, Any]

_FIRST = ObjectId("0" * 24)
_MAX_TIME_MS: Final = 25_000
"""How long the server may work on one query: a tick has 60 s. Looking for links in 85,000 documents takes the local one
2 s, on a busy machine."""
_DAY = 86_400_000
_BEGINNING = 1_420_070_400_000  # 2015, in ms since 1970: the platform holds nothing older, but for wrong dates
_FEW, _MANY = 1_000, 4_000
"""A window of time with fewer documents is followed by one four times as long; one with more is made shorter."""
_LONGEST = 365 * _DAY
_UNDATED: Final = "undated"
LOOKUPS = 200  # Ids of one query: the local server takes 0.03 s for 200 and 16 s for 5,000 of them


class Scan(StrEnum):
    """What a compare looks for in one collection: documents without a stored key, removed ones with a link, linked ones
    of accounts that are being deleted, or, to find edits that no event told of, everything.
    """

    UNLINKED = "unlinked"
    WITHDRAWN = "withdrawn"
    LEAVING = "leaving"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class _Window:
    """A span of `when` in ms since 1970, UTC, its end not included (None at the very beginning and the very end), and
    the last `_id` that was read of it; the last span of all is that of documents whose `when` is no date (`undated`).
    """

    start: int | None = None
    end: int | None = _BEGINNING
    undated: bool = False
    after: str = ""

    @classmethod
    def of(cls, text: str | None) -> _Window:
        if not text:
            return cls()
        start, end, after = text.split(" ")
        if start == _UNDATED:
            return cls(None, None, undated=True, after=after)
        return cls(int(start) if start else None, int(end) if end else None, after=after)

    def __str__(self) -> str:
        bounds = ("" if bound is None else str(bound) for bound in (self.start, self.end))
        return " ".join((*([_UNDATED, ""] if self.undated else bounds), self.after))

    def condition(self) -> dict[str, Any]:
        when: dict[str, Any] = {"$not": {"$type": "date"}} if self.undated else {}
        if self.start is not None:
            when["$gte"] = _moment(self.start)
        if self.end is not None:
            when["$lt"] = _moment(self.end)
        return {"when": when, **({"_id": {"$gt": ObjectId(self.after)}} if self.after else {})}

    def following(self, held: int, now: int) -> _Window | None:
        """The next one, longer or shorter as this one was empty or full; None after the last."""
        if self.undated:
            return None
        if self.end is None:
            return _Window(None, None, undated=True)
        span = self.end - self.start if self.start is not None else 30 * _DAY
        span = min(span * 4, _LONGEST) if held < _FEW else span
        return _Window(self.end, self.end + span if self.end < now else None)


LIGHT: Final = (Scan.UNLINKED, Scan.WITHDRAWN, Scan.LEAVING)
DEEP: Final = (Scan.EVERYTHING,)


@dataclass(slots=True)
class Compare:
    """Reads candidates of these types from the platform's database."""

    database: Database[dict[str, Any]]
    types: Sequence[MediaType] = MEDIA_TYPES

    def pages(
        self, scan: Scan, media: MediaType, after: str | None, leaving: Collection[str], now: datetime
    ) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """Candidates of one step, a few at a time, read as they are asked for; each with the place after it, at which
        `after` goes on. Documents whose `_id` is no ObjectId can have no record and are passed over. Raises Transient
        when the read failed, or took longer than the server may.
        """
        action = f"compare the {media.plural} ({scan})"
        if scan is Scan.EVERYTHING:
            yield from self._everything(media, after, now, action)
            return
        link = {"$or": [{home: {"$exists": True}} for home in media.link_homes]}
        condition = {
            Scan.UNLINKED: unlinked(media),
            Scan.WITHDRAWN: {"$and": [WITHDRAWN, link]},
            Scan.LEAVING: {"user": {"$in": sorted(leaving)}, **link},
        }[scan]
        place = {"_id": {"$gt": ObjectId(after) if after else _FIRST}}
        if scan is not Scan.LEAVING or leaving:
            for raws in self._read(media, {**place, **condition}, action):
                yield raws, str(raws[-1]["_id"])

    def _everything(
        self, media: MediaType, after: str | None, now: datetime, action: str
    ) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """All documents, one window of time after another and by `_id` in each; last those without a date. By the index
        on `when`: sorting all of 85,000 documents takes the local server 9 s, a window of 8,600 0.3 s.
        """
        window: _Window | None = _Window.of(after)
        while window is not None:
            held = 0
            for raws in self._read(media, window.condition(), action):
                dated = [raw for raw in raws if isinstance(raw["_id"], ObjectId)]
                held += len(raws)
                if dated:
                    yield dated, str(replace(window, after=str(dated[-1]["_id"])))
            window = window.following(held, int(now.timestamp() * 1000))
            if window is not None:
                window = self._fitted(media, window, action)
                yield [], str(window)

    def _fitted(self, media: MediaType, window: _Window, action: str) -> _Window:
        """The beginning of a window, no longer than that it holds at most `_MANY` documents, or one moment."""
        with mongo_errors(action):
            collection = self.database.get_collection(media.collection)
            while window.start is not None and window.end is not None and window.end - window.start > 1:
                held = collection.count_documents(window.condition(), limit=_MANY + 1, maxTimeMS=_MAX_TIME_MS)
                if held <= _MANY:
                    break
                window = replace(window, end=window.start + (window.end - window.start) // 4)
        return window

    def by_ids(
        self, media: MediaType, ids: Iterable[str], *, withdrawn: bool = False
    ) -> Iterator[list[dict[str, Any]]]:
        """These documents, as far as they exist; only withdrawn ones where that is asked."""
        condition = WITHDRAWN if withdrawn else {}
        for part in in_parts((ObjectId(id) for id in ids if ObjectId.is_valid(id)), LOOKUPS):
            yield from self._read(media, {"_id": {"$in": part}, **condition}, f"read {len(part)} {media.plural}")

    def of_accounts(self, media: MediaType, accounts: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
        """Every document of these accounts."""
        for part in in_parts(accounts, LOOKUPS):
            owners: list[str | None] = [*part, *(GUEST_VALUES if GUEST_ID in part else ())]
            yield from self._read(media, {"user": {"$in": owners}}, f"read the {media.plural} of {len(part)} accounts")

    def since(self, media: MediaType, moment: datetime) -> Iterator[list[dict[str, Any]]]:
        """Documents without a stored key that were made since a moment."""
        condition = {"when": {"$gte": moment}, **unlinked(media)}
        yield from self._read(media, condition, f"read the newest {media.plural}")

    def _read(self, media: MediaType, condition: Mapping[str, Any], action: str) -> Iterator[list[dict[str, Any]]]:
        fields = dict.fromkeys((*media.fields, *media.link_homes), 1)
        with mongo_errors(action):
            collection = platform_collection(self.database, media.collection)
            cursor = collection.find(condition, fields, batch_size=LOOKUPS, max_time_ms=_MAX_TIME_MS).sort("_id", 1)
            with closing(cursor):
                yield from in_parts(cursor, LOOKUPS)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


Token = Mapping[str, Any]  # A resume token: opaque, JSON after `bson.json_util`

_OF_ACCOUNTS = ("users", "@handles", "account-deletions")  # Collections whose documents have the account's id as `_id`

_STRUCTURE = frozenset({"drop", "rename", "dropDatabase", "invalidate"})  # After these nothing is certain

_NO_STREAMS = frozenset({13, 59, 115, 323, 40324, 40573})
"""Codes of a server or user without change streams: Unauthorized, CommandNotFound, CommandNotSupported, APIStrictError,
an unknown aggregation stage, and "only supported on replica sets"."""

_AWAIT_MS = 250  # How long the server waits for an event before it answers that there is none

_MOST_EVENTS = 20_000  # Events of one drain, about a second of decoding; the rest waits in the stream

_EVENTS_A_BATCH = 1_000


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
        """Read what happened since `token`, where the last drain ended, for at most about `seconds`; at once when
        something has happened. None begins now, with everything before it unknown. Raises Transient.
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
        elif collection in _OF_ACCOUNTS:
            if (id := sound_text(key)) is not None:
                drained.accounts.add(id)
        elif media is not None and isinstance(key, ObjectId):
            item, said = item_id(media.name, str(key)), _meaning(media, kind, event)
            if said is not None and (said != RELINKED or item not in drained.items):
                drained.items[item] = said

    def _open(self, token: Token | None) -> DatabaseChangeStream[dict[str, Any]]:
        """Only names of fields come over the wire: a changed user document holds a password."""
        stages: list[dict[str, Any]] = [
            {"$match": {"ns.coll": {"$in": [*(media.collection for media in self.types), *_OF_ACCOUNTS]}}},
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
        return database.watch(stages, resume_after=token, max_await_time_ms=_AWAIT_MS, batch_size=_EVENTS_A_BATCH)


def _refusal(error: OperationFailure) -> str:
    return f"this MongoDB offers us no change stream (code {error.code})"
