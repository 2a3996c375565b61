"""KidLisp: short programs, carried whole in their record."""

from __future__ import annotations

from ac_pipeline.errors import InvalidDocument
from ac_pipeline.items import Derived, Record
from ac_pipeline.media import fields
from ac_pipeline.media.base import SITE, Document, MediaType
from ac_pipeline.media.eligibility import COMMON_FIELDS

_page = f"{SITE}/$".__add__


def _source(document: Document) -> str:
    source = fields.text(document, "source")
    if not source:
        raise InvalidDocument(f"{document} has no `source`: there is no program to publish")
    return source


def _build_record(document: Document, derived: Derived) -> Record:
    source, code = _source(document), fields.code(document)
    return fields.record(KIDLISP, document, derived, source=source, code=code, acUrl=_page(code))


KIDLISP = MediaType(
    name="kidlisp",
    plural="kidlisp",
    collection="kidlisp",
    nsid="computer.aesthetic.kidlisp",
    # Not `hits` and `lastAccessed`, which change at every view (SRC-9).
    fields=(*COMMON_FIELDS, "code", "source"),
    anonymous=True,
    validate=lambda document: (_source(document), fields.code(document)),
    build_record=_build_record,
    page=_page,
    # The platform's live writer names no document, and its key is not in Mongo (aesthetic-computer facts, 15).
    identity_fields=("code", "source"),
    # Minted and shared programs stay, without `user`, when an account is purged (aesthetic-computer facts, 2.4).
    outlives_owner=True,
    content=("source", "code"),
    lost=("hits", "lastAccessed", "handle", "kept"),
)
