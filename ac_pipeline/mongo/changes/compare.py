"""The compare: finds documents that may need work from the state they are in, whatever was seen of them before.

Filters that let through a little more than `pending.py` does, and reading by them in an order in which a compare can go
on where its time ran out: by `_id` where few documents pass, by (`when`, `_id`) where all do. An `_id` is never shared,
so equal times skip nothing (RUN-10). Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Final, TypeVar

from bson import ObjectId
from pymongo.database import Database

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.eligibility import GUEST_VALUES
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.database import mongo_errors, platform_collection
from ac_pipeline.mongo.documents import WITHDRAWN, unlinked

Raw = Mapping[str, Any]

_FIRST = ObjectId("0" * 24)
_MAX_TIME_MS: Final = 25_000
"""How long the server may work on one query: a tick has 60 s. Looking for links in 85,000 documents takes the local one
2 s, on a busy machine."""
_DAY = 86_400_000
_BEGINNING = 1_420_070_400_000
"""2015, in ms since 1970: the platform holds nothing older, apart from what has a wrong date."""
_FEW, _MANY = 1_000, 4_000
"""A window of time with fewer documents is followed by one four times as long; one with more is made shorter."""
_LONGEST = 365 * _DAY
_UNDATED: Final = "undated"
LOOKUPS = 200  # Ids of one query: the local server takes 0.03 s for 200 and 16 s for 5,000 of them

_Item = TypeVar("_Item")


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

    def units(self, scans: Iterable[Scan]) -> list[tuple[Scan, MediaType]]:
        """The steps of a whole compare, always in this order."""
        return [(scan, media) for scan in scans for media in self.types]

    def pages(
        self, scan: Scan, media: MediaType, after: str | None, leaving: Collection[str], now: datetime
    ) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """Candidates of one step, a few at a time, read as they are asked for; each with the place after it, at which
        `after` goes on. Documents whose `_id` is no ObjectId can have no record and are passed over.

        Raises:
            Transient: The read failed, or took longer than the server may.
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
        """All documents, one window of time after another and by `_id` in each; last those without a date.

        By the index on `when`: sorting all of 85,000 documents takes the local server 9 s, a window of 8,600 0.3 s.
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


def in_parts(values: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The values in lists of at most `size`."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
