"""Pieces: published programs, of which the record tells name and time only."""

from __future__ import annotations

from ac_pipeline.items import Derived, Record
from ac_pipeline.media import slugs
from ac_pipeline.media.base import SITE, Document, MediaType
from ac_pipeline.media.eligibility import COMMON_FIELDS
from ac_pipeline.media.times import format_when


def _page(code: str) -> str:
    return f"{SITE}/{code}"


def _validate(document: Document) -> None:
    slugs.of(document)


def _build_record(document: Document, derived: Derived) -> Record:
    return {
        "$type": PIECE.nsid,
        "slug": slugs.of(document).published,
        "when": format_when(document.when),
        "ref": document.id,
    }


PIECE = MediaType(
    name="piece",
    plural="pieces",
    collection="pieces",
    nsid="computer.aesthetic.piece",
    fields=(*COMMON_FIELDS, "code", "slug"),
    anonymous=True,
    validate=_validate,
    build_record=_build_record,
    page=_page,  # those imported in 2023 have no code
    content=("slug", "code"),
    lost=("code", "source", "hash", "name"),
)
