"""The plan: what is wanted of one user's records of one type, what there is, and each step from one to the other.

Values, and the planner: a pure diff of documents and records. Matching, keys, duplicates, orphans and links are decided
here only (LINK-1 to LINK-11, WRITE-2, 3, DEL-4, 5, 10).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri, document_tid, is_tid, parse_datetime, record_cid
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import AccountInactive, AccountUnknown, HeldBack, InvalidDocument, InvalidRecord, PipelineError
from ac_pipeline.items import (
    BlobRef,
    Derived,
    Failure,
    LedgerEntry,
    Record,
    RepositoryCheckpoint,
    Stage,
    State,
    item_id,
)
from ac_pipeline.media.base import Document, Link, MediaType, Verdict

if TYPE_CHECKING:
    from ac_pipeline.sync.selection import Selection

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


ERASES: Final = frozenset({Kind.DELETE, Kind.DELETE_ORPHAN})
"""What takes all records of an item away; of its duplicates one always stays."""
BESIDE: Final = frozenset({Kind.DELETE_DUPLICATE, Kind.DELETE_COPY})
"""What is deleted beside an item, which does not wait for it."""
_WRITES = {Kind.CREATE: "create", Kind.UPDATE: "update", **dict.fromkeys(ERASES | BESIDE, "delete")}
LINKS_ONLY: Final = frozenset({Kind.ADOPT, Kind.HEAL, Kind.UNLINK})

DOCUMENT_GONE: Final = "its document is gone"  # Why an orphan goes; the record may be the only copy
ANOTHERS: Final = "its document belongs to another account"
_OBJECT_ID: Final = re.compile("[0-9A-Fa-f]{24}")
COPIES: Final = "site.standard.document"  # The collection in which copies of our records lie; see `copies.py`


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the mirror wants for one document."""

    document: Document  # The document, whatever its verdict
    record: Record | None = None  # The record it shall have; None when it shall have none, or cannot be built now
    cid: str | None = None  # CID of `record`
    derived: Derived | None = None  # What `record` was built from
    failure: Failure | None = None  # Why an eligible document has no record to offer; its existing one then stays
    fresh: bool = False  # True if `failure` is of an attempt made now, not one remembered
    until: datetime | None = None  # When `failure` is over by itself; None if only an attempt or a person can tell
    unrendered: bool = False  # The record waits for renditions that a dry run does not make
    skipped: bool = False  # It is not selected: its records are recognised and left alone
    known_rkey: str | None = None  # The key the ledger remembers for it in this repository
    salt: int = 0  # First salt to try for a new key; raised when the PDS refused the key before

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
    """One step of a plan, with its reason."""

    kind: Kind
    media: MediaType
    rkey: str
    reason: str
    wanted: Wanted | None = None
    record: Record | None = None
    cid: str | None = None
    link: Link | None = None
    orphan: str | None = None  # The missing document an orphaned record names; of a copy, the document it is of
    blobs: tuple[BlobRef, ...] = ()  # What its record refers to besides the renditions of `wanted`
    copy: bool = False  # True if its record is a copy in `site.standard.document`, and not one of `media`

    @property
    def document(self) -> Document | None:
        return self.wanted.document if self.wanted else None

    @property
    def writes(self) -> bool:
        return self.kind in _WRITES

    @property
    def item(self) -> str:
        """The item it is about; an orphan's is that of the document it names, unless that is another account's."""
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
    """All that shall happen to one user's records of one type."""

    media: MediaType
    operations: list[Operation] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    withheld: list[Withheld] = field(default_factory=list)
    matches: dict[str, tuple[str, ...]] = field(default_factory=dict)  # Document -> keys of the records that are its

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
        ref = next((n for n in named if isinstance(n, str) and n), None)
        # An ObjectId is the same in capitals, where Mongo finds its document too.
        found.append(Existing(rkey, cid, ref.lower() if ref and _OBJECT_ID.fullmatch(ref) else ref, value))
    return found


def offer(lexicons: Lexicons, media: MediaType, document: Document, derived: Derived) -> Wanted:
    """The record of a document and what was derived from it, or why there is none."""
    try:
        record = media.build_record(document, derived)
        lexicons.validate(media.nsid, record)
        cid = record_cid(record)
    except (InvalidDocument, InvalidRecord) as error:
        return Wanted(document, derived=derived, failure=failure_of(Stage.RECORD, error), fresh=True)
    return Wanted(document, record, cid, derived)


def failure_of(stage: Stage, error: PipelineError, payload_hash: str | None = None) -> Failure:
    """An error as the ledger keeps it."""
    return Failure(stage, error.code, error.message, error.status, error.answer, payload_hash)


@dataclass(slots=True)
class Versions:
    """Versions of one account's documents, their derived media, and its records to be; None if not looked at."""

    documents: str | None = None
    renditions: str | None = None
    records: str | None = None


def documents_version(documents: Iterable[Document]) -> str:
    """Of all documents of one account and type: their synced fields and verdicts, in no order. Links do not count, as
    the pipeline writes them itself, nor what no record depends on, such as a kidlisp's hits (SRC-9).
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


_SEEN_BY_READING = frozenset({AccountInactive.code, AccountUnknown.code})  # Over where the repository can be read


@dataclass(slots=True)
class AccountPlan:
    """Everything that was read of one account, and what shall happen to it."""

    account: Account
    selection: Selection  # What the run is about, without the types that are paused
    dry: bool = False  # True if nothing is made, asked of storage or written
    made: Made | None = None  # What the renderer answered, which is not asked again; None to ask it in reading
    checkpoint: RepositoryCheckpoint | None = None  # How the last sync left the repository, or None
    repository: Repository | None = None
    base: str = ""  # Revision of the repository when it was last read as a whole
    documents: dict[str, list[Document]] = field(default_factory=dict)
    selected: dict[str, set[str]] = field(default_factory=dict)
    entries: dict[str, Mapping[str, LedgerEntry]] = field(default_factory=dict)
    wanted: dict[str, list[Wanted]] = field(default_factory=dict)
    gone: dict[str, Mapping[str, str]] = field(default_factory=dict)
    plans: list[TypePlan] = field(default_factory=list)
    existing: dict[str, list[Existing]] = field(default_factory=dict)  # Its records, decoded once, until planned
    # Type, key and `ref` of records whose documents are gone and came back under other ids: they name nothing any more
    renamed: set[tuple[str, str, str | None]] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # Paths of what did not happen in this run and is not sent again
    unresolved: set[str] = field(default_factory=set)  # Items with a refused write: no copy is given up
    changed: set[str] = field(default_factory=set)  # Names of the types this run has written to
    remade: dict[str, Derived] = field(default_factory=dict)  # Path -> what was derived anew, as the store had lost it
    uploaded: set[str] = field(default_factory=set)  # CIDs of blobs this run has uploaded
    stand_ins: dict[str, BlobRef] = field(default_factory=dict)  # CID of a stand-in for one commit -> the lost blob
    skipped: dict[tuple[str, str], Operation] = field(default_factory=dict)  # Not agreed to: by kind and path
    erase_copies: bool = True  # True if copies of erased work in `site.standard.document` go too

    def take(self, repository: Repository) -> None:
        self.repository, self.base = repository, repository.rev

    def records(self, media: MediaType) -> list[Existing]:
        """The records of one type; none when no repository was read."""
        if media.name not in self.existing and self.repository is not None:
            self.existing[media.name] = [
                replace(each, ref=None) if (media.name, each.rkey, each.ref) in self.renamed else each
                for each in existing_records(self.repository, media)
            ]
        return self.existing.get(media.name, [])

    def operations(self) -> list[Operation]:
        return [operation for plan in self.plans for operation in plan.operations]

    def refusal(self) -> Failure | None:
        """Why the PDS refused the account's last writes, which reading it cannot tell; None once its credentials are
        others than those that were refused."""
        found = [entry for media in self.selection.types for entry in self.entries.get(media.name, {}).values()]
        listed = sorted(found, key=lambda each: each.item)
        failures = [each.failure for each in listed if each.state is State.BLOCKED and each.failure is not None]
        refused = [each for each in failures if each.payload_hash == self.account.credentials]
        return next((each for each in refused if each.error_class not in _SEEN_BY_READING), None)


SAME_TIME_SALTS = 4
"""Salts under which a new key stays in its document's millisecond. A PDS may refuse the letters that this millisecond
stands for, which no other salt changes: from here on the key moves on by 256 ms, doubled each time."""


def new_key(media: MediaType, document: Document, salt: int) -> str:
    """The deterministic key of a document: under salt 0, or under the next one when that is taken or refused."""
    later = 0 if salt < SAME_TIME_SALTS else 256 << (salt - SAME_TIME_SALTS)
    return document_tid(media.nsid, document.id, document.when + later, salt)


def plan_type(
    media: MediaType,
    did: str,
    wanted: Iterable[Wanted],
    existing: Sequence[Existing],
    gone: Mapping[str, str] | None,
    *,
    pending_deletion: str | None = None,
) -> TypePlan:
    """Decide what has to happen so that the repository holds exactly the wanted records, each once.

    Args:
        wanted: Every document of the account and type, eligible or not.
        existing: Every record of that type in the repository.
        gone: Documents that were confirmed not to be this account's any more -> why. Records that name another
            unknown document are left alone. None: records without a document are none of this plan's business.
        pending_deletion: Why every record without a document has to go, confirmed or not: the account is being erased
            (DEL-7).
    """
    planner = _Planner(media, did, existing)
    documents = sorted(wanted, key=lambda each: each.document.id)
    # Eligible ones choose first: a link shared with a withdrawn document must not cost them their record (LINK-8).
    choosing = sorted(documents, key=lambda each: each.document.verdict is not Verdict.ELIGIBLE)
    for each in choosing:
        planner.match(each)
    planner.match_unnamed([each.document for each in choosing])
    for each in documents:
        planner.decide(each)
    if gone is not None:
        planner.sweep(gone, {each.document.id for each in documents}, pending_deletion)
    return planner.plan


class _Planner:
    def __init__(self, media: MediaType, did: str, existing: Sequence[Existing]) -> None:
        self.media = media
        self.did = did
        self.plan = TypePlan(media)
        self.by_rkey = {record.rkey: record for record in existing}
        self.by_ref: dict[str, list[Existing]] = defaultdict(list)
        for record in existing:
            if record.ref is not None:
                self.by_ref[record.ref].append(record)
        self.claimed: dict[str, str] = {}
        self.matches: dict[str, list[Existing]] = {}
        self.remembered: dict[str, str | None] = {}

    def match(self, wanted: Wanted) -> None:
        """Find the records of a document by `ref`, else `mongoId`, else the rkey in Mongo (LINK-2), and claim keys."""
        document = wanted.document
        self.remembered[document.id] = wanted.known_rkey
        named = self.by_ref.get(document.id, [])
        matches = sorted(named, key=lambda record: record.value.get("ref") != document.id)
        rkey = self._linked_rkey(document)
        if not matches and rkey in self.by_rkey and self.by_rkey[rkey].ref is None and rkey not in self.claimed:
            matches = [self.by_rkey[rkey]]
        self.matches[document.id] = []
        self._claim(document, matches)
        stored = next((k for k in (rkey, wanted.known_rkey) if k and is_tid(k) and k not in self.by_rkey), None)
        if not matches and stored and document.verdict is Verdict.ELIGIBLE:
            self.claimed.setdefault(stored, document.id)

    def match_unnamed(self, documents: Sequence[Document]) -> None:
        """Records that name no document and that nobody claims, by what they hold (GUARD-7).

        Of several documents that hold the same, those without a record get one each, in the order given and in key
        order; records that are left over are copies of the first one's. A document that may be what a deleted account
        left behind gets none, unless it is withdrawn (DEL-10).
        """
        unnamed: dict[tuple[str, ...], list[Existing]] = defaultdict(list)
        for rkey in sorted(self.by_rkey):
            record = self.by_rkey[rkey]
            identity = self.media.identity(record.value)
            if record.ref is None and rkey not in self.claimed and identity is not None:
                unnamed[identity].append(record)
        if not unnamed:
            return
        claimants: dict[tuple[str, ...], list[Document]] = defaultdict(list)
        for document in documents:
            identity = self.media.identity(document.fields)
            withdrawn = document.verdict is Verdict.WITHDRAWN
            if identity in unnamed and identity is not None and (withdrawn or not self._is_foreign(document)):
                claimants[identity].append(document)
        for identity, listed in claimants.items():
            records = unnamed[identity]
            without = [document for document in listed if not self.matches[document.id]]
            owners = [*without, *[listed[0]] * len(records)]
            for document, record in zip(owners, records, strict=False):
                self._claim(document, [record])

    def _claim(self, document: Document, records: Sequence[Existing]) -> None:
        """These records, too, are the document's own."""
        self.matches[document.id] += records
        for record in records:
            self.claimed[record.rkey] = document.id
            self.plan.matches[document.id] = (*self.plan.matches.get(document.id, ()), record.rkey)

    def decide(self, wanted: Wanted) -> None:
        document = wanted.document
        if wanted.skipped:
            return
        if document.verdict is Verdict.WITHDRAWN:
            self._withdraw(wanted)
        elif wanted.failure is not None:
            matches = self.matches[document.id]
            self.plan.withheld.append(Withheld(wanted.failure, wanted, matches[0].rkey if matches else None))
        elif self._is_foreign(document):
            failure = _held_back(
                f"{self.media.name} {document.id} has no owner, but its stored link is not of the guest repository: "
                "it may outlive a deleted account; it is not published as guest work. Clear its link to publish it."
            )
            self.plan.withheld.append(Withheld(failure, wanted))
        else:
            self._publish(wanted)

    def sweep(self, gone: Mapping[str, str], documents: set[str], pending_deletion: str | None) -> None:
        """Records no document claims: delete those of confirmed orphans, list those that name nothing."""
        for record in self.by_rkey.values():
            if self.claimed.get(record.rkey) in documents:
                continue
            reason = pending_deletion or (gone.get(record.ref) if record.ref is not None else None)
            if reason is not None:
                # What the ledger knows of another account's item is not this one's to change.
                orphan = record.ref if reason != ANOTHERS else None
                self._add(Kind.DELETE_ORPHAN, record.rkey, reason, orphan=orphan)
            else:
                what = "names no document" if record.ref is None else f"names document {record.ref}, which is not known"
                failure = _held_back(f"{self.media.name} record {record.rkey} {what}; it is left alone")
                self.plan.withheld.append(Withheld(failure, rkey=record.rkey))

    def _withdraw(self, wanted: Wanted) -> None:
        document = wanted.document
        for record in self.matches[document.id]:
            self._add(Kind.DELETE, record.rkey, document.reason, wanted)
        if not self.matches[document.id] and document.link is not None:
            rkey = document.link.rkey or ""
            self._add(Kind.UNLINK, rkey, f"{document.reason}; its record is gone", wanted)

    def _publish(self, wanted: Wanted) -> None:
        matches = self.matches[wanted.document.id]
        if not matches:
            rkey, why = self._new_key(wanted)
            kind = Kind.RENDER if wanted.unrendered else Kind.CREATE
            self._add(kind, rkey, why, wanted, record=wanted.record, cid=wanted.cid)
            return
        stays = survivor(self.media, matches, self._linked_rkey(wanted.document))
        for record in matches:
            if record is not stays:
                self._add(Kind.DELETE_DUPLICATE, record.rkey, f"duplicate of {stays.rkey}", wanted)
        if wanted.unrendered:
            self._add(Kind.RENDER, stays.rkey, "its renditions are not made yet; the record may change", wanted)
            return
        drift = difference(stays, wanted)
        if drift:
            self._add(Kind.UPDATE, stays.rkey, drift, wanted, record=wanted.record, cid=wanted.cid)
            return
        self.plan.kept.append(Kept(wanted, stays.rkey, stays.cid))
        self._heal_link(wanted, stays)

    def _heal_link(self, wanted: Wanted, record: Existing) -> None:
        link = wanted.document.link
        right = Link(record.rkey, at_uri(self.did, self.media.nsid, record.rkey), record.cid, self.did)
        if link == right:
            return
        if link is None or link.rkey is None:
            kind, reason = Kind.ADOPT, "the record exists, Mongo has no link to it"
        elif link.rkey != record.rkey or link.did not in (None, self.did):
            kind, reason = Kind.HEAL, f"the link names {link.uri or link.rkey} instead"
        else:
            stale = [n for n in ("uri", "cid", "did") if getattr(link, n) != getattr(right, n)]
            kind, reason = Kind.HEAL, f"the link's {', '.join(stale)} is missing or old"
        self._add(kind, record.rkey, reason, wanted, link=right)

    def _new_key(self, wanted: Wanted) -> tuple[str, str]:
        document, salt = wanted.document, wanted.salt
        linked = self._linked_rkey(document)
        why = "the linked record does not exist" if linked else "new"
        if linked and linked in self.by_rkey:
            why = f"new; the stored link names a record of {self.by_rkey[linked].ref}"
        for stored in (linked, wanted.known_rkey):
            if stored and salt == 0 and is_tid(stored) and self.claimed.get(stored) == document.id:
                return stored, why
        while True:
            rkey = new_key(self.media, document, salt)
            if rkey not in self.by_rkey and self.claimed.setdefault(rkey, document.id) == document.id:
                return rkey, why
            salt += 1

    def _linked_rkey(self, document: Document) -> str | None:
        """The stored rkey, unless it is stored for another repository (LINK-3)."""
        link = document.link
        return link.rkey if link is not None and link.did in (None, self.did) else None

    def _is_foreign(self, document: Document) -> bool:
        """A guest's document that may be what a deleted account left behind (DEL-10): its link is to a record that is
        not in this repository, nor was when the ledger last heard of it."""
        link = document.link
        if not self.media.outlives_owner or document.owner is not None or link is None or link.rkey is None:
            return False
        ours = link.rkey in self.by_rkey or link.rkey == self.remembered[document.id]
        return not self.matches[document.id] and (link.did not in (None, self.did) or not ours)

    def _add(self, kind: Kind, rkey: str, reason: str, wanted: Wanted | None = None, **more: Any) -> None:
        self.plan.operations.append(Operation(kind, self.media, rkey, reason, wanted, **more))


def _held_back(message: str) -> Failure:
    return Failure(Stage.RECORD, HeldBack.code, message)


WHEN_TOLERANCE_MS = 1000  # The platform's real-time writer takes the clock twice: `when` is off by so much (REC-7)


def difference(existing: Existing, wanted: Wanted) -> str:
    """In which fields a record differs from the wanted one, in words; empty when it need not be written."""
    if existing.cid == wanted.cid or wanted.record is None:
        return ""
    changed = [n for n in wanted.record if n in existing.value and existing.value[n] != wanted.record[n]]
    missing = [n for n in wanted.record if n not in existing.value]
    extra = [n for n in existing.value if n not in wanted.record]
    if changed == ["when"] and not missing and not extra:
        texts = (existing.value["when"], wanted.record["when"])
        one, other = (parse_datetime(text) if isinstance(text, str) else None for text in texts)
        if one is not None and other is not None and abs(one - other) < WHEN_TOLERANCE_MS:
            return ""
    parts = [("differs in", changed), ("lacks", missing), ("has extra", extra)]
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names) or "encoded differently"
