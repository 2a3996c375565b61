"""The media types, in the order in which reports list them: the platform's five, one line each, then those of other
packages, by entry points of the group `ac_pipeline.media_types` that name their `MediaType`."""

from __future__ import annotations

from importlib.metadata import entry_points

from ac_pipeline.errors import Misconfigured
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.fields import is_code
from ac_pipeline.media.kidlisp import KIDLISP
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.piece import PIECE
from ac_pipeline.media.tape import TAPE

ENTRY_POINTS = "ac_pipeline.media_types"

MEDIA_TYPES: tuple[MediaType, ...] = (
    *(PAINTING, MOOD, PIECE, KIDLISP, TAPE),
    *(found.load() for found in entry_points(group=ENTRY_POINTS)),
)

_BY_NAME = {media.name: media for media in MEDIA_TYPES}


def media_type(name: str) -> MediaType:
    """The type of this name. Raises Misconfigured if there is none; the message lists those there are."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise Misconfigured(f"There is no media type {name!r}; the types are {', '.join(_BY_NAME)}.") from None


def page_of(media: MediaType, code: str | None) -> str | None:
    """The public page of an item of this code; None where it has none, or the code is not one."""
    return media.page(code) if media.page is not None and code and is_code(code) else None
