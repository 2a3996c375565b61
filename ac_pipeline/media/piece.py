"""Pieces: published programs, of which the record tells name and time only."""

from __future__ import annotations

from ac_pipeline.items import Derived, Record
from ac_pipeline.media import fields, slugs
from ac_pipeline.media.base import SITE, Document, MediaType
from ac_pipeline.media.eligibility import COMMON_FIELDS

_page = f"{SITE}/".__add__


def _build_record(document: Document, derived: Derived) -> Record:
    return fields.record(PIECE, document, derived, slug=slugs.of(document).published)


PIECE = MediaType(
    name="piece",
    plural="pieces",
    collection="pieces",
    nsid="computer.aesthetic.piece",
    fields=(*COMMON_FIELDS, "code", "slug"),
    anonymous=True,
    validate=slugs.of,
    build_record=_build_record,
    page=_page,  # those imported in 2023 have no code
    content=("slug", "code"),
    lost=("code", "source", "hash", "name"),
)
