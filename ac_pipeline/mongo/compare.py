"""The compare: finds documents that may need work from the state they are in, whatever was seen of them before.

Filters that let through a little more than `pending.py` does, and reading them in the order of `_id`, so that a compare
can go on where its time ran out: an `_id` is never shared, so equal times skip nothing (RUN-10). Nothing is decided
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from bson import ObjectId
from pymongo.database import Database

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.eligibility import FLAGS, GUEST_VALUES
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.database import SOURCE_CODEC, mongo_errors
from ac_pipeline.mongo.known import LOOKUPS, in_parts

Raw = Mapping[str, Any]

_FIRST = "0" * 24
_MAX_TIME_MS: Final = 25_000
"""How long the server may work on one query: a tick has 60 s. The local server needs 9 s to sort 85,000 documents."""

_WITHDRAWN: Final[dict[str, Any]] = {
    "$or": [
        *({flag: True} for flag in FLAGS),
        {"visibility": {"$nin": [None, "public"]}},
        {"status": "wip"},
    ]
}
"""`media/eligibility.py` in Mongo's words; what the two may disagree about, Python decides."""


class Scan(StrEnum):
    """What a compare looks for in one collection.

    `unlinked` and `withdrawn` are the usual ones: documents without a stored key, and removed ones with a link.
    `leaving` are linked documents of accounts that are being deleted. `everything` reads all documents, and so finds
    edits that no event told of.
    """

    UNLINKED = "unlinked"
    WITHDRAWN = "withdrawn"
    LEAVING = "leaving"
    EVERYTHING = "everything"


LIGHT: Final = (Scan.UNLINKED, Scan.WITHDRAWN, Scan.LEAVING)
DEEP: Final = (Scan.EVERYTHING,)


class Compare:
    """Reads candidates.

    Args:
        database: The platform's database.
        types: The media types whose documents count.
    """

    def __init__(self, database: Database[dict[str, Any]], *, types: Sequence[MediaType] = MEDIA_TYPES) -> None:
        self._database = database
        self._types = tuple(types)

    def units(self, scans: Iterable[Scan]) -> list[tuple[Scan, MediaType]]:
        """The steps of a whole compare, always in this order."""
        return [(scan, media) for scan in scans for media in self._types]

    def pages(
        self, scan: Scan, media: MediaType, after: str | None, leaving: Collection[str]
    ) -> Iterator[list[dict[str, Any]]]:
        """Candidates of one step by `_id`, a few at a time, read as they are asked for.

        Documents whose `_id` is no ObjectId can have no record and are passed over.

        Args:
            after: Only those after this id; None for all.
            leaving: Ids of accounts that are being deleted.

        Raises:
            Transient: The read failed, or took longer than the server may.
        """
        place = {"_id": {"$gt": ObjectId(after or _FIRST)}}
        for condition in _conditions(scan, media, leaving):
            yield from self._read(media, {**place, **condition}, f"compare the {media.plural} ({scan})")

    def by_ids(
        self, media: MediaType, ids: Iterable[str], *, withdrawn: bool = False
    ) -> Iterator[list[dict[str, Any]]]:
        """These documents, as far as they exist; only withdrawn ones where that is asked."""
        condition = _WITHDRAWN if withdrawn else {}
        for part in in_parts((ObjectId(id) for id in ids if ObjectId.is_valid(id)), LOOKUPS):
            yield from self._read(media, {"_id": {"$in": part}, **condition}, f"read {len(part)} {media.plural}")

    def of_accounts(self, media: MediaType, accounts: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
        """Every document of these accounts."""
        for part in in_parts(accounts, LOOKUPS):
            owners: list[str | None] = [*part, *(GUEST_VALUES if GUEST_ID in part else ())]
            yield from self._read(media, {"user": {"$in": owners}}, f"read the {media.plural} of {len(part)} accounts")

    def since(self, media: MediaType, moment: datetime) -> Iterator[list[dict[str, Any]]]:
        """Documents without a stored key that were made since a moment."""
        condition = {"when": {"$gte": moment}, **_unlinked(media)}
        yield from self._read(media, condition, f"read the newest {media.plural}")

    def _read(self, media: MediaType, condition: Mapping[str, Any], action: str) -> Iterator[list[dict[str, Any]]]:
        fields = dict.fromkeys((*media.fields, *media.link_homes), 1)
        with mongo_errors(action):
            collection = self._database.get_collection(media.collection, codec_options=SOURCE_CODEC)
            cursor = collection.find(condition, fields, batch_size=LOOKUPS, max_time_ms=_MAX_TIME_MS).sort("_id", 1)
            with closing(cursor):
                yield from in_parts(cursor, LOOKUPS)


def _conditions(scan: Scan, media: MediaType, leaving: Collection[str]) -> Iterator[dict[str, Any]]:
    match scan:
        case Scan.UNLINKED:
            yield _unlinked(media)
        case Scan.WITHDRAWN:
            yield {"$and": [_WITHDRAWN, _any_link(media)]}
        case Scan.LEAVING:
            if leaving:
                yield {"user": {"$in": sorted(leaving)}, **_any_link(media)}
        case Scan.EVERYTHING:
            yield {}


def _unlinked(media: MediaType) -> dict[str, Any]:
    """No home of the type stores a key. What is stored but cannot be a key is found by reading everything."""
    return {f"{home}.rkey": {"$not": {"$gt": ""}} for home in media.link_homes}


def _any_link(media: MediaType) -> dict[str, Any]:
    return {"$or": [{home: {"$exists": True}} for home in media.link_homes]}
