"""Pieces: published programs, of which the record tells name and time only."""

from __future__ import annotations

from ac_pipeline.media import fields, slugs
from ac_pipeline.media.base import SITE, MediaType
from ac_pipeline.media.eligibility import COMMON_FIELDS

_page = f"{SITE}/".__add__


PIECE: MediaType = MediaType(
    name="piece",
    plural="pieces",
    collection="pieces",
    nsid="computer.aesthetic.piece",
    fields=(*COMMON_FIELDS, "code", "slug"),
    anonymous=True,
    validate=slugs.of,
    build_record=lambda document, derived: fields.record(PIECE, document, derived, slug=slugs.of(document).published),
    page=_page,  # those imported in 2023 have no code
    content=("slug", "code"),
    lost=("code", "source", "hash", "name"),
)
