"""The five media types, in the order in which reports list them. A new type is one module and one line here."""

from __future__ import annotations

from ac_pipeline.errors import Misconfigured
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.kidlisp import KIDLISP
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.painting import PAINTING
from ac_pipeline.media.piece import PIECE
from ac_pipeline.media.tape import TAPE

MEDIA_TYPES: tuple[MediaType, ...] = (PAINTING, MOOD, PIECE, KIDLISP, TAPE)

_BY_NAME = {media.name: media for media in MEDIA_TYPES}


def media_type(name: str) -> MediaType:
    """The type of this name.

    Raises:
        Misconfigured: There is none; the message lists those there are.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise Misconfigured(f"There is no media type {name!r}; the types are {', '.join(_BY_NAME)}.") from None


def page_of(media: MediaType, code: str | None) -> str | None:
    """The public page of an item that is known by its code alone; None where it has none."""
    return media.page(Document(media.name, "", None, code, 0, {}, "")) if code else None
