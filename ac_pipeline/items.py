"""What the pipeline knows of one item (state, stage, renditions, last failure) and of one repository (its mark): plain
values, shared by the engine, the ledger, the assets and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

Record = dict[str, Any]
"""A record as JSON values: blob references and CIDs as `{"$link": "bafy..."}` (ATProto data model, JSON form)."""


class State(StrEnum):
    """The six ends of a planned item (`planned` is always their sum), and `pending`: rendered, not written yet."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    DEFERRED = "deferred"
    QUARANTINED = "quarantined"
    BLOCKED = "blocked"
    PENDING = "pending"


class Stage(StrEnum):
    """Where in its way from document to record an item stands, or failed."""

    DOCUMENT = "document"
    RENDITION = "rendition"
    RECORD = "record"
    UPLOAD = "upload"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob as a record refers to it: CIDv1 (raw, sha-256), sniffed MIME type, size in bytes."""

    cid: str
    mime_type: str
    size: int

    def to_json(self) -> dict[str, object]:
        return {"$type": "blob", "ref": {"$link": self.cid}, "mimeType": self.mime_type, "size": self.size}


@dataclass(frozen=True, slots=True)
class Rendition:
    """One piece of derived media, kept in the rendition store under its blob's CID."""

    blob: BlobRef  # What a record refers to
    source: str  # sha-256 (hex) of the source bytes it was made from
    spec: str  # Encoder name and version it was made with
    # Width, height, seconds, CRF and the like, for people
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Derived:
    """What was made of, or found beside, an item's source media."""

    renditions: Mapping[str, Rendition] = field(default_factory=dict)  # Record field -> rendition
    found: frozenset[str] = frozenset()  # Names of companion objects that were confirmed in storage, e.g. `recording`.
    key: str = ""  # Identity of what it was derived from (candidate objects), to tell when it is outdated
    warnings: tuple[str, ...] = ()  # Oddities of the source that a person may want to know
    # What storage said of the object when it was last looked at (`ObjectStorage.look`); empty if it was not
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item is not where it should be: the last error, kept without expiry."""

    stage: Stage
    error_class: str
    message: str
    status: int | None = None
    answer: str | None = None
    payload_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    at: datetime
    run_id: str
    stage: Stage
    state: State
    error_class: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """All that is known of one item. `item` is `type:ObjectId hex`, unique over everything.

    `withdrawn_at` is when a run first saw that the record has to go; None again once it is gone or wanted (DEL-6).
    `past_blobs` are the CIDs its record had before, of earlier media and, once it is erased, of what `derived` held:
    what is given up with it, and what the erasure is verified by (DEL-7).
    """

    item: str
    type: str
    document: str
    account: str
    partition: str
    state: State
    stage: Stage
    code: str | None = None
    did: str | None = None
    fingerprint: str = ""
    rkey: str | None = None
    uri: str | None = None
    cid: str | None = None
    derived: Derived | None = None
    past_blobs: tuple[str, ...] = ()
    attempts: int = 0
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    deferred_until: datetime | None = None
    withdrawn_at: datetime | None = None
    run_id: str = ""
    updated_at: datetime | None = None
    history: tuple[Attempt, ...] = ()
    former: str | None = None  # Mongo id of the account that had it before, until it is published for this one

    def with_(self, **changes: object) -> LedgerEntry:
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RepositoryCheckpoint:
    """How the last sync that reached its end left one repository."""

    did: str  # Whose it is
    rev: str  # Its revision after our last write, or as it was read: another one means that somebody else has written
    at: datetime  # When that sync ended, UTC
    # Type name -> sha-256 (hex) of everything that was wanted of that type, for the types of which the repository holds
    # exactly that at `rev`, every link and ledger entry included (VERIFY-11)
    settled: Mapping[str, str] = field(default_factory=dict)
    # Type name -> records it holds at `rev`, for the types that were counted
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LastLook:
    """What was there when a collection was last looked at: shared by all runs and machines."""

    type: str  # Name of the type
    at: datetime | None = None  # When that was, UTC; None when nobody has looked yet
    documents: int = 0  # How many there were
    expected: int = 0  # How many there should be: never lowered by more than the allowed share, and once a day at most
    lowered_at: datetime | None = None  # When `expected` was last lowered or begun
    known: int = 0  # Records of the type that the ledger knows of accounts in use
    lost: int = 0  # Those of them whose document does not exist
    newest: int | None = None  # `when` of the newest document ever seen, in ms since 1970, or None
    arrivals: int = 0  # How many documents came in the days before it
    # Document of each record that was let go for want of it in the last day -> when that was
    orphans: Mapping[str, datetime] = field(default_factory=dict)
    # Document of some records that are kept although it is gone -> when that was last seen
    waiting: Mapping[str, datetime] = field(default_factory=dict)
    version: int = 0  # Counts the changes, so that of two writers at once only one succeeds


def item_id(type: str, document: str) -> str:
    """`painting:65f0...`: the id of an item in the ledger, in reports and on the command line."""
    return f"{type}:{document}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One item, or one record without an item, and what was found of it by whoever looked; kinds of looks add to it."""

    item: str  # `type:ObjectId`, else `type:rkey`; `account:did` and `snapshot:id` for what is no item
    user: str  # Partition key of its account
    state: str  # `missing`, `dangling`, `changed` and the like
    reason: str = ""  # What was found
    repair: str = ""  # What puts it right, in words
    uris: tuple[str, ...] = ()  # The records concerned, the one that stays first

    shown: ClassVar[tuple[str, ...]] = ("item", "user", "state", "reason", "repair", "uri")
    """Names of what is in the JSON form."""

    @property
    def type(self) -> str:
        return self.item.partition(":")[0]

    @property
    def uri(self) -> str | None:
        return self.uris[0] if self.uris else None

    @property
    def repairable(self) -> bool:
        """True if whoever looked can also put it right."""
        return bool(self.repair)

    def to_json(self) -> dict[str, object]:
        return {name: _plain(getattr(self, name)) for name in self.shown}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class PlannedOperation:
    """One line of a plan; `user` is the partition key of its owner, `account` the Mongo id in a plan that is kept."""

    item: str
    user: str
    operation: str
    reason: str
    rkey: str
    cid: str | None
    # Of the document, where the record is not known yet (`render`): what was agreed to is this document
    fingerprint: str | None = None
    account: str = ""

    @property
    def type(self) -> str:
        return self.item.partition(":")[0]

    @property
    def document(self) -> str:
        """ObjectId of its document, else the key of its record."""
        return self.item.partition(":")[2]

    def to_json(self) -> dict[str, object]:
        """As design section 6 has it."""
        return {name: getattr(self, name) for name in ("item", "user", "operation", "reason", "rkey", "cid")}
