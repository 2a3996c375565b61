"""Links and ledger of a wipe: for records that are confirmed gone, and only for those, both are changed.

What is deleted is decided in `wipe.py`. A link is cleared when the very record it names is gone, in all homes of its
type (LINK-4); the ledger remembers the key, so that a restore brings it back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ac_pipeline.accounts import Account
from ac_pipeline.errors import PipelineError
from ac_pipeline.items import LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import Document, LinkUpdate, MediaType
from ac_pipeline.operations.removal.steps import failed_item
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.planning.plan import Existing, Wanted, failure_of, same_content
from ac_pipeline.sync.report import ItemFailure
from ac_pipeline.sync.writing.recorder import Entries, end_of

Records = Mapping[str, Sequence[Existing]]
"""Type name -> records."""


class Removals:
    """Keeps links and ledger of one account right while its records of these types go."""

    def __init__(self, engine: Engine, account: Account, types: Sequence[MediaType], run_id: str) -> None:
        self._engine = engine
        self._account = account
        self._types = {media.name: media for media in types}
        self._entries = Entries(account, run_id, engine.now)
        self._documents: dict[str, dict[str, Document]] = {}
        self._linked: dict[str, dict[str, list[Document]]] = {}
        self._foreign: set[str] = set()
        self._asked: set[str] = set()
        self._left: dict[str, set[str]] = {}  # item -> keys of its records that are still there
        self._removed: dict[str, set[str]] = defaultdict(set)
        self._cleared: set[str] = set()
        for media in types:
            self._entries.know(engine.ledger.load(account, media).values())
            documents = {document.id: document for document in engine.documents.stream(account, media)}
            linked: dict[str, list[Document]] = defaultdict(list)
            for document in documents.values():
                link = document.link
                if link is not None and link.rkey is not None and link.did in (None, account.did):
                    linked[link.rkey].append(document)
            self._documents[media.name], self._linked[media.name] = documents, linked

    def documented(self, media: MediaType, record: Existing) -> bool:
        """True if a document of this account stands behind a record."""
        return self._document(media, record) is not None

    def begin(self, present: Records, gone: Records, reason: str) -> None:
        """Before each attempt: record what went without our hearing of it, in this run or in one that was killed.

        Args:
            present: Every record of the types as the repository holds them now.
            gone: Records that a snapshot of this wipe has and the repository has not.
            reason: For the timelines.
        """
        self._ask(present, gone)
        self._left = defaultdict(set)
        for name, records in present.items():
            for record in records:
                self._left[self.item(self._types[name], record)].add(record.rkey)
        self.record_gone(gone, reason)

    def record_gone(self, gone: Records, reason: str) -> None:
        """These records are confirmed gone: their links and their entries, each in one bulk write per type."""
        entries: list[LedgerEntry] = []
        for name, records in gone.items():
            media = self._types[name]
            updates = [
                LinkUpdate(document.id, None)
                for record in records
                for document in self._linked[name].get(record.rkey, ())
                if document.id not in self._cleared
            ]
            if updates:
                self._engine.documents.write_links(media, updates)
                self._cleared.update(update.document for update in updates)
            entries += self._entries_of(media, records, reason)
        if entries:
            self._entries.know(entries)
            self._engine.ledger.save(entries)

    def refused(self, media: MediaType, record: Existing, error: PipelineError) -> ItemFailure:
        """A record that could not be deleted: its link stays, and it is a deletion that is due (PLAN-4, DEL-6)."""
        item, document = self.item(media, record), self._document(media, record)
        failure = failure_of(Stage.WRITE, error, record.cid)
        state = end_of(failure)
        subject = None if document is None else Wanted(document, fresh=True)
        entry = self._entries.failed(item, subject, failure, state, rkey=record.rkey, pending_deletion=True)
        if entry is not None:
            known = self._entries.of(item)
            entry = entry.with_(fingerprint=known.fingerprint if known is not None else "")
            self._entries.know([entry])
            self._engine.ledger.save([entry])
        code = document.code if document is not None else None
        return failed_item(item, self._account.key, failure, state, code=code, attempts=self._entries.attempts(item))

    def item(self, media: MediaType, record: Existing) -> str:
        """The item a record belongs to; that of its key when no document of this account can be meant."""
        document = self._document(media, record)
        if document is not None:
            return item_id(media.name, document.id)
        named = record.ref is not None and item_id(media.name, record.ref) not in self._foreign
        return item_id(media.name, str(record.ref) if named else record.rkey)

    @property
    def links_cleared(self) -> int:
        return len(self._cleared)

    def _document(self, media: MediaType, record: Existing) -> Document | None:
        """The document a record names; of one that names nothing, the document whose link names it, else one that
        holds the same."""
        if record.ref is not None:
            return self._documents[media.name].get(record.ref)
        linked = self._linked[media.name].get(record.rkey)
        return linked[0] if linked else same_content(media, record, self._documents[media.name].values())

    def _entries_of(self, media: MediaType, records: Iterable[Existing], reason: str) -> list[LedgerEntry]:
        """Entries of the items that have no record any more. Of several keys the linked one is remembered."""
        items: dict[str, Existing] = {}
        for record in records:
            item = self.item(media, record)
            self._removed[item].add(record.rkey)
            self._left[item].discard(record.rkey)
            items[item] = record
        made = []
        for item, record in items.items():
            if self._left[item]:
                continue
            document, known = self._document(media, record), self._entries.of(item)
            linked = document.link.rkey if document is not None and document.link is not None else None
            keys = self._removed[item]
            rkey = linked if linked in keys else min(keys)
            if known is not None and (known.state, known.rkey, known.did) == (
                State.DELETED,
                rkey,
                self._account.did,
            ):
                continue
            # The document may have changed since its renditions were made: that is for the next sync to find, so a
            # known fingerprint stays as it is.
            entry = self._entries.deleted(item, None if known is not None else document, rkey, reason)
            made.append(entry)
        return made

    def _ask(self, *records: Records) -> None:
        """Find records that name a document of somebody else, whose item is not this account's to change."""
        for each in records:
            for name, listed in each.items():
                known = self._documents[name]
                named = {record.ref for record in listed if record.ref is not None and record.ref not in known}
                strangers = sorted(named - self._asked)
                if strangers:
                    self._asked.update(strangers)
                    found = self._engine.documents.owners(self._types[name], strangers)
                    self._foreign.update(item_id(name, id) for id in found)
