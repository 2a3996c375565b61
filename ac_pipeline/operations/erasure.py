"""What was to be erased, and whether it is: records, their copies, links, blobs and renditions of withdrawn items and
of deleted accounts.

Looks at the PDS, Mongo and the rendition store themselves, not at what a run said; only times come from the ledger.
Nothing is written: erasing is what a sync does (acceptance, DEL-1, DEL-6, DEL-7). A blob counts only where nothing that
stays uses it. Looking at everybody is `erasure_search.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import AccountInactive, AccountUnknown, Blocked, RepositoryUnreadable
from ac_pipeline.items import LedgerEntry, State, item_id
from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.snapshot import blobs_of
from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.blobs import missing_blobs
from ac_pipeline.sync.copies import copies_of, deletions, find_lost_sources
from ac_pipeline.sync.erased import made_of
from ac_pipeline.sync.plan import COPIES, Existing, Wanted, existing_records
from ac_pipeline.sync.planner import plan_type
from ac_pipeline.sync.ports import DataServer, Documents, Ledger
from ac_pipeline.sync.reading import ANOTHERS, DOCUMENT_GONE
from ac_pipeline.sync.selection import Selection

PENDING, GONE = "pending", "gone"
PURGED = "its account is not in Mongo any more"


class Shelf(Protocol):
    """Where renditions are kept."""

    def has(self, cid: str) -> bool:
        """Whether a rendition is there."""


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
        renditions: CIDs of its renditions, used by nothing that stays, that the rendition store still has.
        since: When a run first saw that its record has to go and could not delete it, where the ledger knows.
        gone_at: When its record was deleted, where the ledger knows.
        snapshot: The snapshot that still holds work of an account that has gone or is leaving.
        entries: What the ledger knows of whatever these renditions were made for.
        copies: Copies of its records that are still on the PDS, in `site.standard.document` of the same repository.
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
    renditions: tuple[str, ...] = ()
    entries: tuple[LedgerEntry, ...] = field(default=(), repr=False)
    copies: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        return bool(self.records or self.copies or self.linked or self.blobs or self.renditions or self.snapshot)

    def to_json(self) -> dict[str, object]:
        return {
            "item": self.item,
            "user": self.user,
            "state": PENDING if self.pending else GONE,
            "reason": self.reason,
            "records": list(self.records),
            "copies": list(self.copies),
            "linked": self.linked,
            "blobs": list(self.blobs),
            "renditions": list(self.renditions),
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
    copies: list[str] = field(default_factory=list)

    @property
    def made(self) -> set[str]:
        """CIDs of all renditions the ledger knows of."""
        return _made(self.entry) if self.entry is not None else set()


@dataclass(frozen=True, slots=True)
class Erasures:
    """Looks for what is left of erased items.

    Args:
        documents, server, ledger, store: The ports; nothing is written through them.
    """

    documents: Documents
    server: DataServer
    ledger: Ledger
    store: Shelf

    def of(self, account: Account, selection: Selection) -> list[Erasure]:
        """Every selected item of an account that has to go or has gone: withdrawn ones, those whose documents are
        gone, and of an account that is being deleted everything. Items that never had a record or a rendition are left
        out.

        Raises:
            Blocked: The account is inactive on the PDS: what it holds cannot be seen.
            Transient: Something could not be read: nothing can be said.
        """
        try:
            repository = self.server.read_repository(account.did) if account.did is not None else None
        except AccountUnknown:
            repository = None
        plan = AccountPlan(account, repository=repository)
        subjects = [each for media in selection.types for each in self._subjects(plan, media, selection)]
        find_lost_sources(plan, selection, self.documents)
        subjects += self._copies(plan, {(each.media.name, each.id): each for each in subjects})
        present = self._blobs(subjects, repository)
        kept = self._kept([each.entry for each in subjects if each.entry is not None])
        return [self._told(account, each, present, kept) for each in subjects]

    def of_purged(
        self, did: str | None, types: Sequence[MediaType], entries: Sequence[LedgerEntry] = (), *, id: str = ""
    ) -> Erasure:
        """What is left of an account that Mongo does not know any more.

        Args:
            did: Its repository; None where it had none.
            entries: What the ledger knows of its items.
            id: The Mongo id it had, to name it by where it had no repository.

        Raises:
            Transient: The PDS or the store did not answer. A repository that cannot be read is named as it is.
        """
        reason = PURGED
        left: tuple[str, ...] = ()
        copies: tuple[str, ...] = ()
        try:
            repository = self.server.read_repository(did) if did is not None else None
        except AccountUnknown:
            repository, reason = None, f"{PURGED}, and the PDS does not host it"
        except AccountInactive as error:
            repository, reason = None, f"{PURGED}; not public: {error.message}"
        except RepositoryUnreadable as error:  # it may still hold everything
            repository, reason, left = None, f"{PURGED}; {error.message}", (f"at://{did}",)
        if did is not None and repository is not None:
            left = tuple(at_uri(did, each.nsid, rkey) for each in types for rkey, _ in repository.collection(each.nsid))
            copies = tuple(at_uri(did, COPIES, copy.rkey) for copy in copies_of(repository, types))
        name, kept = did or id, self._kept(entries)
        owning = tuple(entry for entry in entries if _made(entry) & kept)
        renditions = tuple(sorted(kept))
        return Erasure(f"account:{name}", name, reason, left, renditions=renditions, entries=owning, copies=copies)

    @staticmethod
    def _copies(plan: AccountPlan, subjects: dict[tuple[str, str], _Subject]) -> Iterator[_Subject]:
        """Put the copies to the items they are of; of an item that has nothing else left, one is made."""
        for made in plan.plans:
            for operation in deletions(plan, made):
                key = made.media.name, str(operation.orphan)
                if key not in subjects:
                    entry = plan.entries[made.media.name].get(key[1])
                    subjects[key] = _Subject(made.media, key[1], operation.reason, entry=entry)
                    yield subjects[key]
                subjects[key].copies.append(operation.rkey)

    def _subjects(self, plan: AccountPlan, media: MediaType, selection: Selection) -> Iterator[_Subject]:
        account, repository = plan.account, plan.repository
        documents = list(self.documents.stream(account, media))
        chosen = selection.documents(documents)
        going = {d.id for d in documents if d.id in chosen and d.verdict is Verdict.WITHDRAWN}
        records = existing_records(repository, media) if repository is not None else []
        entries = self.ledger.load(account, media)
        by_key = {record.rkey: record for record in records}
        # Matching is the plan's: whose record is whose, whatever the links say.
        wanted = [Wanted(document, skipped=document.id not in going) for document in documents]
        made = plan_type(media, str(account.did), wanted, records, None)
        plan.documents[media.name], plan.entries[media.name] = documents, dict(entries)
        plan.selected[media.name], plan.existing[media.name] = chosen, records
        plan.plans.append(made)
        matches = made.matches
        for document in documents:
            if document.id in going:
                own = [by_key[key] for key in matches.get(document.id, ())]
                entry = entries.get(document.id)
                known = entry is not None and (entry.rkey is not None or made_of(entry))
                if own or document.link is not None or known:
                    linked = document.link is not None
                    yield _Subject(media, document.id, document.reason, own, linked, entry)
        if not selection.partial:
            claimed = {key for keys in matches.values() for key in keys}
            strays = [record for record in records if record.rkey not in claimed]
            yield from self._without_document(plan, media, strays)

    def _without_document(
        self,
        plan: AccountPlan,
        media: MediaType,
        strays: Iterable[Existing],
    ) -> Iterator[_Subject]:
        """Records and ledger entries whose documents are gone; a collection that holds nothing says nothing (DEL-5)."""
        account, entries = plan.account, plan.entries[media.name]
        known = {document.id for document in plan.documents[media.name]}
        by_ref: dict[str | None, list[Existing]] = {}
        for record in strays:
            by_ref.setdefault(record.ref, []).append(record)
        missing = {id: entry for id, entry in entries.items() if id not in known}
        named = sorted({ref for ref in by_ref if ref is not None and ref not in known})
        rendered = {id for id, entry in missing.items() if made_of(entry)}
        owners = self.documents.owners(media, sorted({*named, *rendered}))
        doubtful = self.documents.is_empty(media) and not account.owner_deleted
        plan.gone[media.name] = {} if doubtful else {ref: ANOTHERS if ref in owners else DOCUMENT_GONE for ref in named}
        for ref in named:
            if ref not in owners and not doubtful:
                reason = LEAVING if account.owner_deleted else DOCUMENT_GONE
                yield _Subject(media, ref, reason, by_ref[ref], entry=entries.get(ref))
        if account.owner_deleted:
            for record in by_ref.get(None, ()):
                yield _Subject(media, record.rkey, LEAVING, [record])
        deleted = {id for id, entry in missing.items() if entry.state is State.DELETED and entry.rkey is not None}
        undoubted = set() if doubtful else rendered
        for id in sorted((deleted | undoubted) - set(named) - owners.keys()):
            yield _Subject(media, id, DOCUMENT_GONE, entry=entries[id])

    def _blobs(self, subjects: Sequence[_Subject], repository: Repository | None) -> set[str]:
        """Blobs of these items that can still be downloaded and that nothing else in the repository uses."""
        for each in subjects:
            each.blobs = each.made | {blob.cid for record in each.records for blob in blobs_of(record.value)}
        asked = {cid for each in subjects for cid in each.blobs}
        if repository is None or not asked:
            return set()
        going = {f"{each.media.nsid}/{record.rkey}" for each in subjects for record in each.records}
        going |= {f"{COPIES}/{rkey}" for each in subjects for rkey in each.copies}
        alone = asked - {cid for path, cid in repository.blob_references() if path not in going}
        return alone - missing_blobs(self.server, repository.did, alone)

    def _kept(self, entries: Sequence[LedgerEntry]) -> set[str]:
        """Renditions of these items alone that the store still has; the ledger is asked only when it has some."""
        stored = {cid for cid in {cid for entry in entries for cid in _made(entry)} if self.store.has(cid)}
        return stored - self.ledger.used_blobs(stored, without=[e.item for e in entries]) if stored else set()

    @staticmethod
    def _told(account: Account, subject: _Subject, present: set[str], kept: set[str]) -> Erasure:
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
            renditions=tuple(sorted(subject.made & kept)),
            entries=(entry,) if entry is not None and subject.made & kept else (),
            copies=tuple(at_uri(str(account.did), COPIES, rkey) for rkey in subject.copies),
        )


def _made(entry: LedgerEntry) -> set[str]:
    return {*entry.past_blobs, *(made.blob.cid for made in made_of(entry))}


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
            f"ac-pipeline snapshots --forget {each.id} --confirm 1",
            snapshot=each.id,
        )
