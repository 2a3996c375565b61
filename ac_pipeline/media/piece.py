"""Pieces: published programs, of which the record tells name and time only."""

from __future__ import annotations

from ac_pipeline.items import Derived, Record
from ac_pipeline.media import fields, slugs, urls
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.eligibility import COMMON_FIELDS
from ac_pipeline.media.times import format_when


def _validate(document: Document) -> None:
    slugs.of(document)


def _build_record(document: Document, derived: Derived) -> Record:
    return {
        "$type": PIECE.nsid,
        "slug": slugs.of(document).published,
        "when": format_when(document.when),
        "ref": document.id,
    }


def _page(document: Document) -> str | None:
    """By its code; pieces imported in 2023 have none."""
    code = fields.code_or_none(document)
    return None if code is None else urls.piece_page(code)


PIECE = MediaType(
    name="piece",
    plural="pieces",
    collection="pieces",
    nsid="computer.aesthetic.piece",
    fields=(*COMMON_FIELDS, "code", "slug"),
    anonymous=True,
    validate=_validate,
    build_record=_build_record,
    page=_page,
)
