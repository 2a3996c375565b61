"""What was to be erased, and whether it is: records, links and blobs of withdrawn items and of deleted accounts.

Looks at the PDS and Mongo themselves, not at what a run said; only times come from the ledger. Nothing is written:
erasing is what a sync does (acceptance, DEL-1, DEL-6, DEL-7). A blob counts only where nothing that stays uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import AccountInactive, AccountUnknown, Blocked, InvalidRecord
from ac_pipeline.items import LedgerEntry, State, item_id
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.snapshot import blobs_of
from ac_pipeline.sync.blobs import missing_blobs
from ac_pipeline.sync.plan import Existing, Wanted, existing_records
from ac_pipeline.sync.planner import plan_type
from ac_pipeline.sync.ports import DataServer, Documents, Ledger
from ac_pipeline.sync.reading import DOCUMENT_GONE
from ac_pipeline.sync.selection import Selection

PENDING, GONE = "pending", "gone"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One item that shall not be there.

    Args:
        item: `type:ObjectId`, else `type:rkey`; of a purged account `account:did`.
        user: Partition key, or the DID of a purged account.
        reason: Why it has to go.
        records: Its records that are still on the PDS.
        linked: Whether Mongo still holds its link.
        blobs: CIDs of its blobs, used by nothing that stays, that can still be downloaded.
        since: When a run first saw that its record has to go and could not delete it, where the ledger knows.
        gone_at: When its record was deleted, where the ledger knows.
        snapshot: The snapshot that still holds work of an account that has gone or is leaving.
    """

    item: str
    user: str
    reason: str
    records: tuple[str, ...] = ()
    linked: bool = False
    blobs: tuple[str, ...] = ()
    since: datetime | None = None
    gone_at: datetime | None = None
    snapshot: str | None = None

    @property
    def pending(self) -> bool:
        return bool(self.records or self.linked or self.blobs or self.snapshot)

    def to_json(self) -> dict[str, object]:
        return {
            "item": self.item,
            "user": self.user,
            "state": PENDING if self.pending else GONE,
            "reason": self.reason,
            "records": list(self.records),
            "linked": self.linked,
            "blobs": list(self.blobs),
            "snapshot": self.snapshot,
            "since": self.since.isoformat() if self.since else None,
            "gone_at": self.gone_at.isoformat() if self.gone_at and not self.pending else None,
        }


@dataclass(slots=True)
class _Subject:
    """One item that has to go, before its blobs were asked for."""

    media: MediaType
    id: str
    reason: str
    records: Sequence[Existing] = ()
    linked: bool = False
    entry: LedgerEntry | None = None
    blobs: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Erasures:
    """Looks for what is left of erased items.

    Args:
        documents, server, ledger: The ports; nothing is written through them.
    """

    documents: Documents
    server: DataServer
    ledger: Ledger

    def of(self, account: Account, selection: Selection) -> list[Erasure]:
        """Every selected item of an account that has to go or has gone: withdrawn ones, those whose documents are
        gone, and of an account that is being deleted everything. Items that never had a record are left out.

        Raises:
            Blocked: The account is inactive on the PDS: what it holds cannot be seen.
            Transient: Something could not be read: nothing can be said.
        """
        try:
            repository = self.server.read_repository(str(account.did))
        except AccountUnknown:
            repository = None
        subjects = [each for media in selection.types for each in self._subjects(account, media, selection, repository)]
        present = self._blobs(subjects, repository)
        return [self._told(account, each, present) for each in subjects]

    def of_purged(self, did: str, types: Sequence[MediaType]) -> Erasure:
        """What is left of a repository whose account Mongo does not know any more.

        Raises:
            Transient: The PDS did not answer.
        """
        reason = "its account is not in Mongo any more"
        try:
            repository = self.server.read_repository(did)
        except AccountUnknown:
            return Erasure(f"account:{did}", did, f"{reason}, and the PDS does not host it")
        except AccountInactive as error:
            return Erasure(f"account:{did}", did, f"{reason}; not public: {error.message}")
        left = tuple(at_uri(did, media.nsid, rkey) for media in types for rkey, _ in repository.collection(media.nsid))
        return Erasure(f"account:{did}", did, reason, left)

    def _subjects(
        self, account: Account, media: MediaType, selection: Selection, repository: Repository | None
    ) -> Iterator[_Subject]:
        documents = list(self.documents.stream(account, media))
        chosen = selection.documents(documents)
        going = {d.id for d in documents if d.id in chosen and d.verdict is Verdict.WITHDRAWN}
        records = existing_records(repository, media) if repository is not None else []
        entries = self.ledger.load(account, media)
        by_key = {record.rkey: record for record in records}
        # Matching is the plan's: whose record is whose, whatever the links say.
        wanted = [Wanted(document, skipped=document.id not in going) for document in documents]
        matches = plan_type(media, str(account.did), wanted, records, None).matches
        for document in documents:
            if document.id in going:
                own = [by_key[key] for key in matches.get(document.id, ())]
                entry = entries.get(document.id)
                if own or document.link is not None or (entry is not None and entry.rkey is not None):
                    linked = document.link is not None
                    yield _Subject(media, document.id, document.reason, own, linked, entry)
        if not selection.partial:
            claimed = {key for keys in matches.values() for key in keys}
            strays = [record for record in records if record.rkey not in claimed]
            yield from self._without_document(account, media, documents, strays, entries)

    def _without_document(
        self,
        account: Account,
        media: MediaType,
        documents: Sequence[Document],
        strays: Iterable[Existing],
        entries: Mapping[str, LedgerEntry],
    ) -> Iterator[_Subject]:
        """Records and ledger entries whose documents are gone; a collection that holds nothing says nothing (DEL-5)."""
        known = {document.id for document in documents}
        by_ref: dict[str | None, list[Existing]] = {}
        for record in strays:
            by_ref.setdefault(record.ref, []).append(record)
        deleted = [id for id, e in entries.items() if e.state is State.DELETED and id not in known]
        named = sorted({ref for ref in by_ref if ref is not None and ref not in known})
        owners = self.documents.owners(media, named)
        doubtful = self.documents.is_empty(media) and not account.owner_deleted
        for ref in named:
            if ref not in owners and not doubtful:
                reason = LEAVING if account.owner_deleted else DOCUMENT_GONE
                yield _Subject(media, ref, reason, by_ref[ref], entry=entries.get(ref))
        if account.owner_deleted:
            for record in by_ref.get(None, ()):
                yield _Subject(media, record.rkey, LEAVING, [record])
        for id in sorted(set(deleted) - set(named)):
            yield _Subject(media, id, DOCUMENT_GONE, entry=entries[id])

    def _blobs(self, subjects: Sequence[_Subject], repository: Repository | None) -> set[str]:
        """Blobs of these items that can still be downloaded and that nothing else in the repository uses."""
        for each in subjects:
            each.blobs = {blob.cid for record in each.records for blob in blobs_of(record.value)}
            derived = each.entry.derived if each.entry is not None else None
            if derived is not None:
                each.blobs |= {rendition.blob.cid for rendition in derived.renditions.values()}
        asked = {cid for each in subjects for cid in each.blobs}
        if repository is None or not asked:
            return set()
        going = {f"{each.media.nsid}/{record.rkey}" for each in subjects for record in each.records}
        alone = asked - _used(repository, set(repository.records) - going)
        return alone - missing_blobs(self.server, repository.did, alone)

    @staticmethod
    def _told(account: Account, subject: _Subject, present: set[str]) -> Erasure:
        media, entry = subject.media, subject.entry
        return Erasure(
            item_id(media.name, subject.id),
            account.key,
            subject.reason,
            tuple(at_uri(str(account.did), media.nsid, record.rkey) for record in subject.records),
            subject.linked,
            tuple(sorted(subject.blobs & present)),
            entry.withdrawn_at if entry is not None else None,
            _gone_at(entry) if entry is not None else None,
        )


def _used(repository: Repository, paths: Iterable[str]) -> set[str]:
    """CIDs of the blobs that these records refer to."""
    used: set[str] = set()
    for path in paths:
        try:
            used |= {blob.cid for blob in blobs_of(repository.value(path))}
        except InvalidRecord:  # somebody else's record without a JSON form
            continue
    return used


def _gone_at(entry: LedgerEntry) -> datetime | None:
    """When the record was last deleted: the timeline tells, or the entry itself."""
    if entry.state is not State.DELETED:
        return None
    return next((each.at for each in reversed(entry.history) if each.state is State.DELETED), entry.updated_at)


def unseen(account: Account, error: Blocked) -> Erasure:
    """An account that is being deleted and whose repository cannot be looked into: it may still hold everything."""
    uri = f"at://{account.did}"
    return Erasure(f"account:{account.did}", account.key, f"{LEAVING}; {error.message}", (uri,))


def kept_in_snapshots(
    snapshots: Iterable[Snapshot], accounts: Iterable[Account], *, everybody: bool = True
) -> Iterator[Erasure]:
    """Snapshots that hold work of accounts that are being deleted or are gone; forgetting them is `forget.py`.

    Args:
        accounts: The accounts that are looked at; all of the platform where `everybody`.
        everybody: Whether snapshots of accounts that are not among these are of purged ones.
    """
    known = {account.id: account for account in accounts}
    for each in snapshots:
        account = known.get(each.account)
        if account is None and not everybody:
            continue
        if account is not None and not account.owner_deleted:
            continue
        reason = LEAVING if account is not None else "its account is not in Mongo any more"
        number = sum(each.records.values())
        yield Erasure(
            f"snapshot:{each.id}",
            each.user,
            f"{reason}; a snapshot of {each.when:%Y-%m-%d} still holds {number} records: "
            f"ac-pipeline snapshots --forget {each.id} --confirm",
            snapshot=each.id,
        )
