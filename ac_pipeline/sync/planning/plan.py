"""The plan: what is wanted of one user's records of one type, what there is, and each step from one to the other.

Values only. How a plan is made of what is wanted and what there is, is `diff.py`; what is done with one is
`writer.py` and `recorder.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import InvalidRecord, PipelineError
from ac_pipeline.items import BlobRef, Derived, Failure, Record, item_id
from ac_pipeline.media.base import Document, Link, MediaType, Verdict

Made = dict[str, tuple[str, Derived | PipelineError]]
"""What came of asking the renderer, by item, with the fingerprint of the document it was asked about."""


class Kind(StrEnum):
    """What an operation does. The first six write to the PDS, `render` will, the last three touch links only."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    DELETE_ORPHAN = "delete-orphan"
    DELETE_DUPLICATE = "delete-duplicate"
    DELETE_COPY = "delete-copy"
    RENDER = "render"
    ADOPT = "adopt"
    HEAL = "heal"
    UNLINK = "unlink"


_WRITES = {
    Kind.CREATE: "create",
    Kind.UPDATE: "update",
    Kind.DELETE: "delete",
    Kind.DELETE_ORPHAN: "delete",
    Kind.DELETE_DUPLICATE: "delete",
    Kind.DELETE_COPY: "delete",
}

ERASES: Final = frozenset({Kind.DELETE, Kind.DELETE_ORPHAN})
"""What takes all records of an item away; of its duplicates one always stays."""
BESIDE: Final = frozenset({Kind.DELETE_DUPLICATE, Kind.DELETE_COPY})
"""What is deleted beside an item, which does not wait for it."""
LINKS_ONLY: Final = frozenset({Kind.ADOPT, Kind.HEAL, Kind.UNLINK})

COPIES: Final = "site.standard.document"
"""The collection in which copies of our records lie; see `copies.py`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the mirror wants for one document.

    Args:
        document: The document, whatever its verdict.
        record: The record it shall have; None when it shall have none, or cannot be built now.
        cid: CID of `record`.
        derived: What `record` was built from.
        failure: Why an eligible document has no record to offer; its existing record then stays as it is.
        fresh: True if `failure` is of an attempt made now, not one remembered.
        until: When what `failure` says is over by itself; None where only another attempt, or a person, can tell.
        skipped: It is not selected: its records are recognised and left alone.
        unrendered: The record waits for renditions that a dry run does not make.
        known_rkey: The key the ledger remembers for it in this repository.
        salt: First salt to try for a new key; raised when the PDS refused the key before.
    """

    document: Document
    record: Record | None = None
    cid: str | None = None
    derived: Derived | None = None
    failure: Failure | None = None
    fresh: bool = False
    until: datetime | None = None
    unrendered: bool = False
    skipped: bool = False
    known_rkey: str | None = None
    salt: int = 0

    @property
    def item(self) -> str:
        return item_id(self.document.type, self.document.id)


@dataclass(frozen=True, slots=True)
class Existing:
    """One record of the repository. `ref` is the document it names by `ref`, else by `mongoId`; None if by neither."""

    rkey: str
    cid: str
    ref: str | None
    value: Record


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a plan, with its reason.

    Args:
        orphan: The missing document an orphaned record names; of a copy, the document it is of.
        blobs: What its record refers to besides the renditions of `wanted`.
        copy: True if its record is a copy in `site.standard.document`, and not one of `media`.
    """

    kind: Kind
    media: MediaType
    rkey: str
    reason: str
    wanted: Wanted | None = None
    record: Record | None = None
    cid: str | None = None
    link: Link | None = None
    orphan: str | None = None
    blobs: tuple[BlobRef, ...] = ()
    copy: bool = False

    @property
    def document(self) -> Document | None:
        return self.wanted.document if self.wanted else None

    @property
    def writes(self) -> bool:
        return self.kind in _WRITES

    @property
    def item(self) -> str:
        """The item it is about; an orphan's is that of the document it names."""
        document = self.document.id if self.document else self.orphan or self.rkey
        return item_id(self.media.name, document)

    @property
    def collection(self) -> str:
        return COPIES if self.copy else self.media.nsid

    @property
    def path(self) -> str:
        """Where its record lives in the repository: `collection/rkey`, the MST's own order."""
        return f"{self.collection}/{self.rkey}"

    def to_write(self) -> Write:
        unchecked = self.copy and self.record is not None
        return Write(_WRITES[self.kind], self.collection, self.rkey, self.record, unchecked)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that is as it should be."""

    wanted: Wanted
    rkey: str
    cid: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """An item, or a record without a document, that is left alone for a reason a person should know."""

    failure: Failure
    wanted: Wanted | None = None
    rkey: str | None = None


@dataclass(slots=True)
class TypePlan:
    """All that shall happen to one user's records of one type. `matches`: document -> keys of the records found to be
    its own, for the documents that have any."""

    media: MediaType
    operations: list[Operation] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    withheld: list[Withheld] = field(default_factory=list)
    matches: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def links(self) -> list[Operation]:
        return [op for op in self.operations if op.kind in LINKS_ONLY]


def same_content(media: MediaType, record: Existing, documents: Iterable[Document]) -> Document | None:
    """The document that holds what a record without a name holds, an eligible one first; None when no document does."""
    identity = media.identity(record.value)
    found = [each for each in documents if identity is not None and media.identity(each.fields) == identity]
    return min(found, key=lambda each: (each.verdict is not Verdict.ELIGIBLE, each.id), default=None)


def survivor(media: MediaType, records: Iterable[Existing], linked: str | None) -> Existing:
    """Of several records of one document the one that stays: the linked one, else one with its blobs, else the oldest
    key (LINK-7)."""
    needed = [blob.name for blob in media.blobs]
    return min(records, key=lambda each: (each.rkey != linked, not all(n in each.value for n in needed), each.rkey))


def existing_records(repository: Repository, media: MediaType) -> list[Existing]:
    """The repository's records of one type, in key order, with the document each one names."""
    found = []
    for rkey, cid in repository.collection(media.nsid):
        try:
            value = repository.value(f"{media.nsid}/{rkey}")
        except InvalidRecord:  # somebody else's record without a JSON form: it names nothing, but its key is taken
            value = {}
        named = [value.get(name) for name in ("ref", "mongoId")]
        found.append(Existing(rkey, cid, next((n for n in named if isinstance(n, str) and n), None), value))
    return found


@dataclass(slots=True)
class Versions:
    """Versions of one account's documents in Mongo, of the derived media their records refer to, and of the records
    that shall exist; None for what was not looked at.
    """

    documents: str | None = None
    renditions: str | None = None
    records: str | None = None


def documents_version(documents: Iterable[Document]) -> str:
    """Of all documents of one account and type: their synced fields and verdicts, in no order.

    Links do not count: the pipeline writes them itself. Neither does anything else that no record depends on, such as
    a kidlisp's hits (acceptance, SRC-9).
    """
    return _hash(f"{document.id} {document.verdict.value} {document.fingerprint}" for document in documents)


def renditions_version(wanted: Iterable[Wanted]) -> str:
    """The set of blobs, by CID, that the wanted records refer to."""
    return _hash({blob.blob.cid for each in wanted if each.derived for blob in each.derived.renditions.values()})


def records_version(wanted: Iterable[Wanted]) -> str:
    """The wanted records, by CID; an item that is held back is none."""
    return _hash(f"{each.document.id} {each.cid}" for each in wanted if each.cid is not None and not each.skipped)


def _hash(lines: Iterable[str]) -> str:
    """64 bits as hex digits, so that no two versions of the same user and type are ever taken for one."""
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
