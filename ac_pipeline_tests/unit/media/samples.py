"""Mongo documents as the platform stores them, one builder for each type; each test changes what it is about."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bson import ObjectId

from ac_pipeline.media.base import MediaType
from ac_pipeline.media.kidlisp import KIDLISP
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.piece import PIECE
from ac_pipeline.media.tape import TAPE

SUB = "auth0|63effeeb2a7d55f8098d62f9"
ID = "65f0c0ffee0123456789abcd"
WHEN = datetime(2025, 10, 14, 9, 8, 7, 6_000)  # noqa: DTZ001  (naive, as pymongo hands dates out)
WHEN_TEXT = "2025-10-14T09:08:07.006Z"
ALL = (PAINTING, MOOD, PIECE, KIDLISP, TAPE)

_CONTENT: dict[str, dict[str, Any]] = {
    "painting": {"code": "bef", "slug": "2023.8.24.16.21.9.123", "bucket": "user-aesthetic-computer"},
    "mood": {"mood": "finally awake"},
    "piece": {"slug": "starfield"},
    "kidlisp": {"code": "cow", "source": "(wipe blue)", "hash": "0" * 64, "hits": 1, "lastAccessed": WHEN},
    "tape": {"code": "Gif", "slug": "2025.10.14.09.08.07.006", "nuked": False},
}


def raw(media: MediaType, **changes: Any) -> dict[str, Any]:
    """A sound document of a user; a change to `...` leaves the field out."""
    document = {"_id": ObjectId(ID), "user": SUB, "when": WHEN, **_CONTENT[media.name], **changes}
    return {name: value for name, value in document.items() if value is not ...}
