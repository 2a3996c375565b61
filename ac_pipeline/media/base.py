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
    """What the mirror does with a document."""

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
    """One candidate object in object storage: raw (not percent-encoded) key, and the format its name promises.

    Args:
        version: What the document says of when it was made; another one tells that it was replaced.
    """

    bucket: str
    key: str
    format: str
    version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Document:
    """One Mongo document, interpreted.

    Args:
        type: Name of the media type.
        id: ObjectId, 24 hex digits; the `ref` of its record.
        owner: `user` of the document, None for a guest's.
        code: Its short code, or None.
        when: Normalised time in milliseconds since 1970, UTC.
        fields: The synced fields as stored.
        fingerprint: sha-256 (hex) of the synced fields: changes when, and only when, the record could.
        link: The stored link, or None.
        verdict: Whether a record of it shall exist.
        reason: Why, unless eligible.
        warnings: What was repaired on the way in, e.g. an unreadable `when`.
    """

    type: str
    id: str
    owner: str | None
    code: str | None
    when: int
    fields: Mapping[str, Any]
    fingerprint: str
    link: Link | None = None
    verdict: Verdict = Verdict.ELIGIBLE
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlobField:
    """A blob of the record: its field, and whether a record may exist without it."""

    name: str
    required: bool


@dataclass(frozen=True, slots=True)
class MediaType:
    """One media type, as data.

    Args:
        name: `painting`; what people type.
        plural: `paintings`; the last segment of its asset keys.
        collection: Its Mongo collection.
        nsid: The collection of its records.
        fields: Mongo fields that decide the record or its eligibility; projected and fingerprinted.
        facts: Those of its own fields that hold a time or a number; the others hold texts.
        anonymous: Whether guests can own one.
        outlives_owner: Whether a document can stay behind, without `user`, when its owner's account is purged; one
            whose stored link is not into the guest repository is then nobody's to publish (DEL-10).
        validate: Raises `InvalidDocument` for a document that cannot become a record.
        build_record: Document and what was derived from it -> record.
        content: Fields that mean the same in document and record; without the first a lost document is not rebuilt.
        page: Code -> its public page; None where it has none, or one that its code does not name.
        addressed_by_key: Whether the key of its record is part of a public address, which a deletion breaks.
        link_homes: Mongo fields that hold its link, the pipeline's own first.
        recipe: Name of the rendition recipe, or None for a type without blobs.
        blobs: Blob fields of its record.
        sources: Candidate objects of its source media, in the order to try them.
        companions: Name -> candidate objects whose existence decides a field, e.g. a recording.
        pending_since: When the platform began to make the media of a document that it is still making, in ms since
            1970; None for any other.
        oddities: What was passed over in a document that can become a record; joins its warnings.
        identity_fields: Fields that stand alike in document and record and tell whose a record is that names no
            document: other writers make such records (GUARD-7). Empty where nothing but `ref` tells.
        lost: Other fields that its documents often have: no record shows them, and some can only be guessed.
        hidden: The fields that no record shows and that say where its media lie in storage, by the other fields of a
            lost document: one set for each way there is, the usual one first.
        removed_by: The flag with which the platform itself removes an item.
        lexicons: Folder that holds its lexicon, where that is not in `lexicons/` of the pipeline.
    """

    name: str
    plural: str
    collection: str
    nsid: str
    fields: tuple[str, ...]
    anonymous: bool
    validate: Callable[[Document], None]
    build_record: Callable[[Document, Derived], Record]
    content: tuple[str, ...]
    page: Callable[[str], str] | None = None
    outlives_owner: bool = False
    addressed_by_key: bool = False
    link_homes: tuple[str, ...] = ("atproto",)
    recipe: str | None = None
    blobs: tuple[BlobField, ...] = field(default=())
    sources: Callable[[Document], tuple[SourceObject, ...]] = lambda document: ()
    companions: Callable[[Document], Mapping[str, tuple[SourceObject, ...]]] = lambda document: {}
    pending_since: Callable[[Document], int | None] = lambda document: None
    oddities: Callable[[Document], tuple[str, ...]] = lambda document: ()
    facts: tuple[str, ...] = ()
    identity_fields: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    hidden: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], ...]] = lambda fields: ({},)
    removed_by: str = "nuked"
    lexicons: Path | None = None

    def identity(self, values: Mapping[str, object]) -> tuple[str, ...] | None:
        """The values of `identity_fields` in a record or in the fields of a document; None where one is missing."""
        # Code of BSON is text that cannot be hashed, and no name of a work.
        given = (values.get(name) for name in self.identity_fields)
        found = tuple(value for value in given if type(value) is str and value)
        return found if found and len(found) == len(self.identity_fields) else None
