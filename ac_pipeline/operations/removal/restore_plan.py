"""What a restore from a snapshot would bring back, and what it must not: a decision about values, without any writing.

Nothing is published again that its owner, or the platform, has removed since: a record comes back only when its
document is there today and nothing says that it shall not be shown. Carrying the plan out is `restore.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.errors import InvalidDocument, InvalidRecord
from ac_pipeline.items import LedgerEntry, State, item_id
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.media.eligibility import why_withdrawn
from ac_pipeline.operations.removal.snapshot import blobs_of
from ac_pipeline.operations.removal.steps import RemovalReport
from ac_pipeline.sync.costs import Price, price
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.planning.copies import COPIED, Copy, copies_of
from ac_pipeline.sync.planning.plan import COPIES, Existing, Kind, Operation, existing_records, same_content
from ac_pipeline.sync.report import AccountReport


@dataclass(frozen=True, slots=True)
class Saved:
    """One record of a snapshot. `document`: the one it belongs to, where the account has it. `copy`: it is a copy of a
    record of this type, in `site.standard.document`."""

    media: MediaType
    record: Existing
    document: Document | None
    copy: bool = False

    @property
    def shown(self) -> bool:
        """True if its document lets a record of it be there. One with damaged content does: the mirror leaves the
        record of such a document alone, so a restore brings it back. One whose flags are unclear does not."""
        document = self.document
        if document is None or document.verdict is Verdict.ELIGIBLE:
            return True
        if document.verdict is not Verdict.INVALID:
            return False
        try:
            return not why_withdrawn(document.fields, owner_deleted=False)
        except InvalidDocument:
            return False

    @property
    def item(self) -> str:
        return item_id(self.media.name, self.document.id if self.document else self.record.rkey)

    @property
    def path(self) -> str:
        return f"{COPIES if self.copy else self.media.nsid}/{self.record.rkey}"

    @property
    def counted(self) -> str:
        """What it is counted as: its type, or `copies`."""
        return COPIED if self.copy else self.media.name


@dataclass(frozen=True, slots=True)
class Held:
    """A record that is not brought back, and why."""

    saved: Saved
    reason: str

    def to_json(self) -> dict[str, object]:
        return {"item": self.saved.item, "record": self.saved.path, "reason": self.reason}


@dataclass(slots=True)
class RestorePlan:
    """What a restore would do.

    Args:
        operations: Records to write.
        saved: Path -> the record of the snapshot, for each of the operations and of `present`.
        present: Records that are there as the snapshot has them.
        held: Records that are left as they are, or left away.
        wrong_shaped: How many of those to write break their lexicon: the next sync repairs them in place.
    """

    user: str
    snapshots: tuple[str, ...]
    operations: list[Operation] = field(default_factory=list)
    saved: dict[str, Saved] = field(default_factory=dict)
    present: list[Saved] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    wrong_shaped: int = 0

    @property
    def price(self) -> Price:
        return price(self.operations)

    @property
    def counts(self) -> dict[str, int]:
        """Type name, or `copies` -> records to write."""
        return dict(Counter(self.saved[operation.path].counted for operation in self.operations))

    def to_json(self) -> dict[str, object]:
        return {
            "user": self.user,
            "snapshots": list(self.snapshots),
            "records": self.counts,
            "present": len(self.present),
            "held": [held.to_json() for held in self.held],
            "wrong_shaped": self.wrong_shaped,
            "price": self.price.to_json(),
        }


def plan_restore(
    engine: Engine,
    account: Account,
    types: Sequence[MediaType],
    snapshots: Sequence[tuple[str, Repository]],
    repository: Repository,
    *,
    overwrite: bool,
) -> RestorePlan:
    """Decide, record by record.

    Args:
        types: The types to bring back; each of the snapshots holds the blobs of all of them.
        snapshots: Ids and contents, newest first: of two records under one key the newer counts.
        repository: The account's repository as it is.
        overwrite: Write records that are there but differ, too.

    Raises:
        Transient: Documents or ledger could not be read: nothing is decided.
    """
    plan, documents = RestorePlan(account.key, tuple(id for id, _ in snapshots)), engine.documents
    for media in types:
        saved: dict[str, Existing] = {}
        for _, contents in snapshots:
            for record in existing_records(contents, media):
                saved.setdefault(record.rkey, record)
        known = {document.id: document for document in documents.stream(account, media)}
        strangers = sorted({record.ref for record in saved.values() if record.ref is not None} - known.keys())
        decider = _Decider(
            plan,
            account,
            media,
            known,
            engine.ledger.load(account, media),
            {record.rkey: record for record in existing_records(repository, media)},
            documents.owners(media, strangers) if strangers else {},
            engine.lexicons,
            overwrite,
        )
        decider.decide([saved[rkey] for rkey in sorted(saved)])
        decider.decide_copies([copy for _, contents in snapshots for copy in copies_of(contents, [media])], repository)
    return plan


@dataclass(slots=True)
class _Decider:
    """Decides about the records of one type."""

    plan: RestorePlan
    account: Account
    media: MediaType
    documents: Mapping[str, Document]
    entries: Mapping[str, LedgerEntry]
    there: Mapping[str, Existing]
    owners: Mapping[str, str | None]
    lexicons: Lexicons
    overwrite: bool

    def decide(self, records: Sequence[Existing]) -> None:
        by_key = self._keys()
        copies: dict[str, list[Saved]] = defaultdict(list)
        for record in records:
            document = self._document(record, by_key)
            saved = Saved(self.media, record, document)
            if document is None:
                self._decide(saved)
            else:
                copies[document.id].append(saved)
        there = self._documents_there(by_key)
        for document_id, saved_copies in copies.items():
            survivor = self._survivor(saved_copies, there.get(document_id, []))
            for saved in saved_copies:
                if saved is survivor:
                    self._decide(saved, there.get(document_id, []))
                elif saved.record.rkey not in self.there:
                    self._hold(saved, f"it is a duplicate of {survivor.record.rkey}")

    def decide_copies(self, copies: Sequence[Copy], repository: Repository) -> None:
        """A copy comes back with its original, and with another record of the same document; of two under one key the
        newer counts."""
        shown = [each for each in self.plan.saved.values() if each.media == self.media and each.shown]
        records = {each.record.rkey for each in shown if each.document is None or not self.account.owner_deleted}
        documents = {each.document.id for each in shown if each.document is not None and not self.account.owner_deleted}
        for copy in {copy.rkey: copy for copy in reversed(copies)}.values():
            if copy.collection is None and copy.ref not in documents:
                continue
            saved = Saved(self.media, Existing(copy.rkey, copy.cid, copy.ref, copy.value), None, copy=True)
            if copy.path in repository.records:
                if repository.records[copy.path] == copy.cid:
                    self._present(saved)
            elif copy.source in records or copy.ref in documents:
                self._write(saved, Kind.CREATE)

    def _keys(self) -> dict[str, Document]:
        """Key -> the document it is of, as the ledger remembers it, else as its link says: for records without ref."""
        did, found = self.account.did, {}
        for document in self.documents.values():
            link = document.link
            if link is not None and link.rkey is not None and link.did in (None, did):
                found[link.rkey] = document
        for entry in self.entries.values():
            if entry.rkey is not None and entry.did == did and entry.document in self.documents:
                found[entry.rkey] = self.documents[entry.document]
        return found

    def _document(self, record: Existing, by_key: Mapping[str, Document]) -> Document | None:
        if record.ref is not None:
            return self.documents.get(record.ref)
        return by_key.get(record.rkey) or same_content(self.media, record, self.documents.values())

    def _documents_there(self, by_key: Mapping[str, Document]) -> dict[str, list[str]]:
        """Document -> keys of the records that the repository has of it."""
        found: dict[str, list[str]] = defaultdict(list)
        for record in self.there.values():
            document = self._document(record, by_key)
            if document is not None:
                found[document.id].append(record.rkey)
        return found

    def _survivor(self, copies: Sequence[Saved], there: Sequence[str]) -> Saved:
        """The copy that is there, else the one whose key is remembered, else one with its blobs, else the oldest."""
        document = copies[0].document
        entry = self.entries.get(document.id) if document is not None else None
        link = document.link if document is not None else None
        remembered = link.rkey if link is not None else None
        if entry is not None and entry.rkey is not None and entry.did == self.account.did:
            remembered = entry.rkey
        needed = [blob.name for blob in self.media.blobs]
        return min(
            copies,
            key=lambda each: (
                each.record.rkey not in there,
                each.record.rkey != remembered,
                not all(name in each.record.value for name in needed),
                each.record.rkey,
            ),
        )

    def _decide(self, saved: Saved, there: Sequence[str] = ()) -> None:
        """One record; `there` are the keys of the records that the repository has of its document."""
        if saved.record.rkey in self.there:
            self._compare(saved, replaceable=saved.document is not None and saved.shown)
        elif reason := self._obstacle(saved, there):
            self._hold(saved, reason)
        else:
            self._write(saved, Kind.CREATE)

    def _obstacle(self, saved: Saved, there: Sequence[str]) -> str:
        """Why a record whose key is free does not come back, or ""."""
        record, document = saved.record, saved.document
        if document is None:
            if record.ref in self.owners:
                return "its document belongs to another account"
            if record.ref is not None:
                return "its document is gone"
            if not record.value:
                return "it has no JSON form, in which alone a record can be written"
        elif not saved.shown:
            return f"its document is {document.verdict.value}: {document.reason}"
        if self.account.owner_deleted:
            return "its owner is leaving"
        if document is None:
            return "" if self._wiped(record.rkey) else "it names no document, and no wipe deleted it: somebody else did"
        return f"its document has the record {there[0]} already" if there else ""

    def _compare(self, saved: Saved, *, replaceable: bool) -> None:
        """A record under a key that is taken: it is there, or something else is."""
        current, document = self.there[saved.record.rkey], saved.document
        if current.cid == saved.record.cid:
            self._present(saved)
        # A record that named no document may have been given its name since, under its key.
        elif current.ref is not None and current.ref != (document.id if document is not None else saved.record.ref):
            self._hold(saved, f"its key belongs to the record of document {current.ref}")
        elif self.overwrite and replaceable:
            self._write(saved, Kind.UPDATE)
        else:
            how = "`--overwrite`, or `overwrite: true` in the launchpad"
            self._hold(saved, f"it differs from the record that is there, which is left: {how}, replaces it")

    def _write(self, saved: Saved, kind: Kind) -> None:
        record = saved.record
        try:
            exact = record_cid(record.value) == record.cid
        except InvalidRecord:
            exact = False
        if not exact:
            self._hold(saved, "it holds values that no PDS takes any more, so that it cannot come back as it was")
            return
        try:
            if not saved.copy:
                self.lexicons.validate(self.media.nsid, record.value)
        except InvalidRecord:
            self.plan.wrong_shaped += 1
        self.plan.operations.append(
            Operation(
                kind,
                self.media,
                record.rkey,
                f"as in snapshot {self.plan.snapshots[0]}",
                record=record.value,
                cid=record.cid,
                orphan=saved.document.id if saved.document else None,
                blobs=blobs_of(record.value),
                copy=saved.copy,
            )
        )
        self.plan.saved[saved.path] = saved

    def _present(self, saved: Saved) -> None:
        self.plan.present.append(saved)
        self.plan.saved[saved.path] = saved

    def _hold(self, saved: Saved, reason: str) -> None:
        self.plan.held.append(Held(saved, reason))

    def _wiped(self, rkey: str) -> bool:
        """True if the ledger knows that a wipe deleted this record, and nothing brought it back since."""
        entry = self.entries.get(rkey)
        return entry is not None and entry.state is State.DELETED and entry.did == self.account.did


@dataclass(slots=True)
class RestoreReport(RemovalReport):
    """What a restore did; `on_hold`: types for which it has to be run again.

    Args:
        source: `mongo`, or the id of the snapshot.
        restored: Type name -> records written; from Mongo, those the sync wrote.
        present: Records that were there already.
        held: Records that were not brought back, each with its reason.
        wrong_shaped: Records that came back as they were and break their lexicon: the next sync repairs them in place.
        sync: What the sync did, when it was from Mongo.
    """

    source: str = ""
    restored: dict[str, int] = field(default_factory=dict)
    present: int = 0
    held: list[Held] = field(default_factory=list)
    wrong_shaped: int = 0
    sync: AccountReport | None = None

    @property
    def clean(self) -> bool:
        """True if nothing failed. What was held back on purpose is not a failure."""
        synced = self.sync is None or not (self.sync.error or self.sync.blocked or self.sync.failures)
        return synced and self.error is None and not self.failures

    def to_json(self) -> dict[str, object]:
        sync = None
        if self.sync is not None:
            sync = {
                "types": {name: tally.to_json() for name, tally in self.sync.types.items()},
                "failures": [failure.to_json() for failure in self.sync.failures],
                "blocked": self.sync.blocked.message if self.sync.blocked else None,
            }
        return RemovalReport.to_json(self) | {
            "source": self.source,
            "restored": self.restored,
            "present": self.present,
            "held": [held.to_json() for held in self.held],
            "wrong_shaped": self.wrong_shaped,
            "sync": sync,
        }
