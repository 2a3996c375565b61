"""What a media type is, and what one of its documents means.

Values only: each type fills them in in its own module, generic code reads them. No media name appears here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ac_pipeline.items import Derived, Record

SITE = "https://aesthetic.computer"


class Verdict(StrEnum):
    ELIGIBLE = "eligible"
    WITHDRAWN = "withdrawn"
    INVALID = "invalid"
    OWNERSHIP_UNCLEAR = "held"


@dataclass(frozen=True, slots=True)
class Link:
    """Where Mongo says the record of a document is (aesthetic-computer facts, section 11). Any part may be missing."""

    rkey: str | None = None
    uri: str | None = None
    cid: str | None = None
    did: str | None = None


@dataclass(frozen=True, slots=True)
class LinkUpdate:
    """Write the link of one document in all homes of its type, or clear it (`link` None)."""

    document: str
    link: Link | None


@dataclass(frozen=True, slots=True)
class SourceObject:
    bucket: str
    key: str  # Raw, not percent-encoded
    format: str  # Which one its name promises
    # What the document says of when it was made; another one tells that it was replaced
    version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Document:
    type: str  # Name of the media type
    id: str  # ObjectId, 24 hex digits; the `ref` of its record
    owner: str | None  # `user` of the document, None for a guest's
    code: str | None  # Its short code
    when: int  # Normalised time in milliseconds since 1970, UTC
    fields: Mapping[str, Any]  # The synced fields as stored
    fingerprint: str  # sha-256 (hex) of the synced fields: changes when, and only when, the record could
    link: Link | None = None  # The stored link
    verdict: Verdict = Verdict.ELIGIBLE  # Whether a record of it shall exist
    reason: str = ""  # Why, unless eligible
    warnings: tuple[str, ...] = ()  # What was repaired on the way in, e.g. an unreadable `when`

    def __str__(self) -> str:
        return f"{self.type} {self.id}"


@dataclass(frozen=True, slots=True)
class BlobField:
    """A blob of the record: its field, and True if no record may exist without it."""

    name: str
    required: bool


@dataclass(frozen=True, slots=True)
class MediaType:
    name: str  # `painting`; what people type
    plural: str  # `paintings`; the last segment of its asset keys
    collection: str  # Its Mongo collection
    nsid: str  # The collection of its records
    fields: tuple[str, ...]  # Mongo fields that decide the record or its eligibility; projected and fingerprinted
    anonymous: bool  # True if guests can own one
    validate: Callable[[Document], object]  # Raises `InvalidDocument` for a document that cannot become a record
    build_record: Callable[[Document, Derived], Record]  # Document and what was derived from it -> record
    # Fields that mean the same in document and record; without the first a lost document is not rebuilt
    content: tuple[str, ...]
    page: Callable[[str], str] | None = None  # Code -> its public page; None where it has none, or its code names none
    # True if a document can stay behind, without `user`, when its owner's account is purged; one whose stored link is
    # not into the guest repository is then nobody's to publish (DEL-10)
    outlives_owner: bool = False
    addressed_by_key: bool = False  # True if the key of its record is part of a public address, which a deletion breaks
    link_homes: tuple[str, ...] = ("atproto",)  # Mongo fields that hold its link, the pipeline's own first
    recipe: str | None = None  # Name of the rendition recipe, None for a type without blobs
    blobs: tuple[BlobField, ...] = ()  # Blob fields of its record
    # Candidate objects of its source media, in the order to try them
    sources: Callable[[Document], tuple[SourceObject, ...]] = lambda document: ()
    # Name -> candidate objects whose existence decides a field, e.g. a recording
    companions: Callable[[Document], Mapping[str, tuple[SourceObject, ...]]] = lambda document: {}
    # When the platform began to make the media that it is still making, in ms since 1970; None for any other document
    pending_since: Callable[[Document], int | None] = lambda document: None
    # What was passed over in a document that can become a record; joins its warnings
    oddities: Callable[[Document], tuple[str, ...]] = lambda document: ()
    facts: tuple[str, ...] = ()  # Those of its own fields that hold a time or a number; the others hold texts
    # Fields that stand alike in document and record and tell whose a record is that names no document: other writers
    # make such records (GUARD-7). Empty where nothing but `ref` tells.
    identity_fields: tuple[str, ...] = ()
    # Other fields that its documents often have: no record shows them, and some can only be guessed
    lost: tuple[str, ...] = ()
    # The fields that no record shows and that say where its media lie in storage, by the other fields of a lost
    # document: one set for each way there is, the usual one first
    hidden: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], ...]] = lambda fields: ({},)
    removed_by: str = "nuked"  # The flag with which the platform itself removes an item
    lexicons: Path | None = None  # Folder that holds its lexicon, where that is not in `lexicons/` of the pipeline

    def identity(self, values: Mapping[str, object]) -> tuple[str, ...] | None:
        """The values of `identity_fields` in a record or in the fields of a document; None where one is missing."""
        # Code of BSON is text that cannot be hashed, and no name of a work.
        given = (values.get(name) for name in self.identity_fields)
        found = tuple(value for value in given if type(value) is str and value)
        return found if found and len(found) == len(self.identity_fields) else None
