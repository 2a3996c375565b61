"""Moods: one line of text, always signed."""

from __future__ import annotations

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.media import fields
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.eligibility import COMMON_FIELDS


def _text(document: Document) -> str:
    """The text as stored, byte for byte: a backslash and an `n` stay two characters (aesthetic-computer facts, 13)."""
    for name in ("mood", "text"):  # no known writer sets `text`: it is a fallback only (SRC-7)
        value = fields.text(document, name)
        if value and value.strip():
            return value
    raise InvalidDocument(f"{document} has no text in `mood`: a mood without text is never published")


MOOD: MediaType = MediaType(
    name="mood",
    plural="moods",
    collection="moods",
    nsid="computer.aesthetic.mood",
    fields=(*COMMON_FIELDS, "mood", "text"),
    anonymous=False,
    validate=_text,
    build_record=lambda document, derived: fields.record(MOOD, document, derived, mood=_text(document)),
    addressed_by_key=True,  # its page is named by handle and record key: a document does not hold the key
    content=("mood",),
    removed_by="deleted",
)
