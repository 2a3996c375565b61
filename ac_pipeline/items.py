"""What the pipeline knows of one item (state, stage, renditions, last failure) and of one repository (its mark).

Plain values, shared by the engine, the ledger, the assets and the command line. `mongo/ledger/items.py` stores them.
"""

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
    """One piece of derived media, kept in the rendition store under its blob's CID.

    Args:
        blob: What a record refers to.
        source: sha-256 (hex) of the source bytes it was made from.
        spec: Encoder name and version it was made with.
        details: Width, height, seconds, CRF and the like, for people.
    """

    blob: BlobRef
    source: str
    spec: str
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Derived:
    """What was made of, or found beside, an item's source media.

    Args:
        renditions: Record field -> rendition.
        found: Names of companion objects that were confirmed in storage, e.g. `recording`.
        key: Identity of what it was derived from (candidate objects), to tell when it is outdated.
        warnings: Oddities of the source that a person may want to know.
        stamp: What storage said of the object when it was last looked at (`ObjectStorage.look`); empty if it was not.
    """

    renditions: Mapping[str, Rendition] = field(default_factory=dict)
    found: frozenset[str] = frozenset()
    key: str = ""
    warnings: tuple[str, ...] = ()
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
    """One line of an item's timeline."""

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

    def with_(self, **changes: object) -> LedgerEntry:
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RepositoryCheckpoint:
    """How the last sync that reached its end left one repository.

    Args:
        did: Whose it is.
        rev: Its revision after our last write, or as it was read: another one means that somebody else has written.
        at: When that sync ended, UTC.
        settled: Type name -> sha-256 (hex) of everything that was wanted of that type, for the types of which the
            repository holds exactly that at `rev`, every link and ledger entry included (VERIFY-11).
        counts: Type name -> records it holds at `rev`, for the types that were counted.
    """

    did: str
    rev: str
    at: datetime
    settled: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LastLook:
    """What was there when a collection was last looked at: shared by all runs and machines.

    Args:
        type: Name of the type.
        at: When that was, UTC; None when nobody has looked yet.
        documents: How many there were.
        expected: How many there should be: never lowered by more than the allowed share, and once a day at most.
        lowered_at: When `expected` was last lowered or begun.
        known: Records of the type that the ledger knows of accounts in use.
        lost: Those of them whose document does not exist.
        newest: `when` of the newest document ever seen, in ms since 1970, or None.
        arrivals: How many documents came in the days before it.
        orphans: Document of each record that was let go for want of it in the last day -> when that was.
        waiting: Document of some records that are kept although it is gone -> when that was last seen.
        version: Counts the changes, so that of two writers at once only one succeeds.
    """

    type: str
    at: datetime | None = None
    documents: int = 0
    expected: int = 0
    lowered_at: datetime | None = None
    known: int = 0
    lost: int = 0
    newest: int | None = None
    arrivals: int = 0
    orphans: Mapping[str, datetime] = field(default_factory=dict)
    waiting: Mapping[str, datetime] = field(default_factory=dict)
    version: int = 0


def item_id(type: str, document: str) -> str:
    """`painting:65f0...`: the id of an item in the ledger, in reports and on the command line."""
    return f"{type}:{document}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One item, or one record without an item, and what was found of it by whoever looked; kinds of looks add to it.

    Args:
        item: `type:ObjectId`, else `type:rkey`; `account:did` and `snapshot:id` for what is no item.
        user: Partition key of its account.
        state: `missing`, `dangling`, `changed` and the like.
        reason: What was found.
        repair: What puts it right, in words.
        uris: The records concerned, the one that stays first.
    """

    item: str
    user: str
    state: str
    reason: str = ""
    repair: str = ""
    uris: tuple[str, ...] = ()

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
    """One line of a plan; `user` is the partition key of its owner, `account` the Mongo id in a plan that is kept.

    Args:
        fingerprint: Of the document, where the record is not known yet (`render`): what was agreed to is this document.
    """

    item: str
    user: str
    operation: str
    reason: str
    rkey: str
    cid: str | None
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
