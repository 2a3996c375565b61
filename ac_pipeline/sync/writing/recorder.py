"""The bookkeeper: turns what happened to items into tallies, links and ledger entries, per committed batch.

One per account and run. It decides nothing about records; it stores at once how each item ended, so that a kill loses
at most one batch of bookkeeping (design, section 1, ideas 5 and 6). What an entry says is `entries.py`, which items
still wait, how they ended and what their links are by now is `item_states.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import Blocked, PipelineError, RateLimited, Transient
from ac_pipeline.items import Failure, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import Document, Link, LinkUpdate, MediaType, Verdict
from ac_pipeline.sync.planning.diff import AccountPlan
from ac_pipeline.sync.planning.plan import (
    Kept,
    Kind,
    Operation,
    TypePlan,
    Versions,
    Wanted,
    Withheld,
    documents_version,
    records_version,
    renditions_version,
)
from ac_pipeline.sync.planning.wanted import failure_of
from ac_pipeline.sync.ports import Documents, Ledger
from ac_pipeline.sync.report import AccountReport, ItemFailure
from ac_pipeline.sync.writing.entries import Entries, end_of
from ac_pipeline.sync.writing.item_states import BESIDE, DELETES, Endings, LinkBook
from ac_pipeline.sync.writing.writer import Refused


class Bookkeeper:
    """Keeps the books of one account in one run.

    Args:
        documents: Where links are stored.
        ledger: Where entries are stored.
        account: Whose items they are.
        run_id: The run, as the ledger names it.
        now: The time, UTC.
        dry: Count only; store nothing.
    """

    def __init__(
        self,
        documents: Documents,
        ledger: Ledger,
        account: Account,
        run_id: str,
        now: Callable[[], datetime],
        *,
        dry: bool = False,
    ) -> None:
        self.report = AccountReport(account.key)
        self.run_id, self.dry = run_id, dry
        self._ledger = ledger
        self._account = account
        self._now = now
        self._entries = Entries(account, run_id, now)
        self._endings = Endings(self.report)
        self._links = LinkBook(documents, account)

    def count(self, plan: AccountPlan, types: Iterable[MediaType]) -> None:
        """Count the documents of these types, and keep what the ledger knows of them."""
        for media in types:
            name = media.name
            tally, wanted = self.report.tally(name), plan.wanted[name]
            self._know(media, plan.documents[name], plan.selected[name], plan.entries[name])
            if name in self.report.versions:
                versions = self.report.versions[name]
                versions.renditions, versions.records = renditions_version(wanted), records_version(wanted)
            for each in wanted:
                if each.derived is not None:  # what is odd or missing beside media is never only logged (OPS-4)
                    tally.warnings += bool(each.derived.warnings and not each.document.warnings)
                    tally.companions_missing += bool(media.companions(each.document).keys() - each.derived.found)

    def untouched(self, plan: AccountPlan, types: Iterable[MediaType], records: Mapping[str, int]) -> None:
        """Everything is known to be as it has to be: what a run that reads the repository would count (VERIFY-11).

        Args:
            records: Records of each type in the repository.
        """
        self.count(plan, types)
        for media in types:
            tally = self.report.tally(media.name)
            tally.records = records[media.name]
            tally.unchanged += tally.eligible

    def _know(
        self, media: MediaType, documents: Sequence[Document], chosen: set[str], known: Mapping[str, LedgerEntry]
    ) -> None:
        self.report.tally(media.name).read(document for document in documents if document.id in chosen)
        if len(chosen) == len(documents):
            self.report.versions[media.name] = Versions(documents_version(documents))
        self._entries.know(known.values())

    def records(self, repository: Repository, types: Iterable[MediaType]) -> None:
        """Count the records the repository holds before the run."""
        for media in types:
            self.report.tally(media.name).records = sum(1 for _ in repository.collection(media.nsid))

    def doubt(self, media: MediaType, orphans: int, records: int, why: str) -> None:
        """Records without a document are kept, because the database is doubted and not the records.

        Args:
            why: The end of a sentence.
        """
        self.report.tally(media.name).orphans_kept += orphans
        self.report.note(
            f"{orphans} of {records} {media.name} records have no document in Mongo, and {why}: that looks like a "
            "wrong or half-restored database, so none is deleted. If they shall go: "
            f"`ac-pipeline sync --user {self._account.key} --type {media.name} --sweep {orphans}`."
        )

    def begin(self, plans: Sequence[TypePlan]) -> None:
        """A round starts: everything that needs no write is settled now; what was written unheard is recognised."""
        self._endings.begin()
        saved: list[LedgerEntry | None] = []
        # Before their links are cleared: a kill in between must not cost the keys.
        self._save(self._remember_key(op) for plan in plans for op in plan.links() if op.kind is Kind.UNLINK)
        for plan in plans:
            for operation in plan.operations:
                self._endings.reopen(operation)
            for kept in plan.kept:
                saved.append(self._keep(plan.media, kept))
            for withheld in plan.withheld:
                saved.append(self._withhold(plan.media, withheld))
        for plan in plans:  # after all is counted: should Mongo not answer, no item is left out
            self._mend_links(plan)
        saved += [self._delete(item, operation) for item, operation in self._endings.unheard_deletions()]
        self._save(saved)
        self._endings.send()

    def committed(self, operations: Sequence[Operation]) -> None:
        """A batch is durable: store its links, then its entries, each in one bulk write.

        What was deleted goes the other way round: its entry holds the key it may return under, its link no longer.
        """
        links: dict[str, list[LinkUpdate]] = defaultdict(list)
        types: dict[str, MediaType] = {}
        saved: list[LedgerEntry | None] = []
        gone: list[LedgerEntry | None] = []
        for operation in operations:
            media, item = operation.media, operation.item
            types[media.name] = media
            if operation.kind in BESIDE:
                tally = self.report.tally(media.name)
                tally.duplicates_removed += operation.kind is Kind.DELETE_DUPLICATE
                tally.copies_removed += operation.copy
                continue
            last = self._endings.close(operation)
            if operation.kind in DELETES:
                if last and self._endings.of(item) is None:
                    gone.append(self._delete(item, operation))
                    if operation.document is not None:
                        links[media.name].append(self._links.update(item, operation.document, None))
            elif operation.wanted is not None:
                document, rkey = operation.wanted.document, operation.rkey
                links[media.name].append(self._links.to_record(item, document, media, rkey, operation.cid))
                saved.append(self._write(media, operation.wanted, operation.kind, rkey, item))
        self._save(gone)
        for name, updates in links.items():
            self._links.write(types[name], updates)
        self._save(saved)

    def refused(self, outcome: Refused) -> None:
        """One operation did not happen: quarantined, or to be tried again."""
        operation, error = outcome.operation, outcome.error
        item = operation.item
        failure = failure_of(outcome.stage, error, operation.cid)
        state = end_of(failure)
        until = self._wait(error) if isinstance(error, RateLimited) else None
        if state is State.DEFERRED and until is None:
            self._disturb(item, failure)
        if operation.kind in BESIDE:
            what = "a copy of erased work" if operation.copy else "a duplicate"
            self.report.note(f"{operation.path}, {what}, could not be deleted: {error.message}")
            self._list(item, operation.document, failure, state)
            return
        self._endings.close(operation)
        if self._endings.of(item) is None:
            self._save([self._miss(operation, failure, item, state, until)])

    def block(
        self,
        media: MediaType,
        documents: Sequence[Document],
        chosen: set[str],
        known: Mapping[str, LedgerEntry],
        reason: Blocked,
    ) -> None:
        """The eligible ones among the chosen documents of one type wait for their account, or for a hold to end."""
        self._know(media, documents, chosen, known)
        failure = failure_of(Stage.WRITE, reason)
        saved = []
        for document in documents:
            if document.id in chosen and document.verdict is Verdict.ELIGIBLE:
                item = item_id(media.name, document.id)
                faulty = self._entries.stays_quarantined(item, document, failure)
                self._endings.end(media, item, State.QUARANTINED if faulty else State.BLOCKED)
                saved.append(self._entries.failed(media, item, Wanted(document), failure, State.BLOCKED))
        self._save(saved)

    def block_rest(self, reason: Blocked) -> None:
        """The PDS refused the account in the middle: what is not written yet is blocked."""
        self.report.blocked = reason
        failure = failure_of(Stage.WRITE, reason, self._account.credentials)  # what was refused is not the items
        self._save(self._fail_rest(failure, State.BLOCKED))

    def defer_rest(self, reason: RateLimited) -> None:
        """A limit is reached: what is not written yet waits until it resets."""
        self._save(self._fail_rest(failure_of(Stage.WRITE, reason), State.DEFERRED, self._wait(reason)))

    def interrupt(self, error: PipelineError) -> None:
        """An error outlived its retries: what is not written yet has to be run again."""
        self.report.error = error
        saved = self._fail_rest(failure_of(Stage.WRITE, error), State.DEFERRED)
        try:
            self._save(saved)
        except Transient as other:  # the ledger itself may be what does not answer; the report still tells
            self.report.note(f"the ledger does not know of the interruption: {other.message}")

    def mended(self, media: MediaType) -> None:
        """The PDS has the blobs of an item again that it had lost."""
        self.report.tally(media.name).healed += 1

    def vanished(self, plan: AccountPlan, types: Iterable[MediaType]) -> None:
        """Records that had to go, or have no document, and are gone without us wait no longer (DEL-6)."""
        saved: list[LedgerEntry | None] = []
        records = plan.repository.records if plan.repository is not None else {}
        for media in types:
            documents = {document.id: document for document in plan.documents[media.name]}
            for entry in plan.entries[media.name].values():
                over = entry.withdrawn_at is not None or (
                    entry.document not in documents and entry.state is not State.DELETED
                )
                if not over or self._endings.of(entry.item) is not None or not entry.rkey:
                    continue
                if f"{media.nsid}/{entry.rkey}" not in records:
                    document = documents.get(entry.document)
                    saved.append(self._entries.deleted(media, entry.item, document, entry.rkey, "its record is gone"))
        self._save(saved)

    def erased(self, media: MediaType, entries: Iterable[LedgerEntry]) -> None:
        """There is no record of these items, and none is wanted; the store holds nothing of them any more, or only what
        others use (DEL-7)."""
        self._save([self._entries.erased(media, entry.item) for entry in entries])

    def rendered(self, media: MediaType, wanted: Sequence[Wanted]) -> None:
        """Renditions were made ahead of their records: remember them, or why there are none."""
        saved: list[LedgerEntry | None] = []
        for each in wanted:
            if each.skipped or each.document.verdict is Verdict.WITHDRAWN:
                continue
            item = item_id(media.name, each.document.id)
            if each.failure is not None:
                saved.append(self._fail(media, each, each.failure, item))
                continue
            entry = self._entries.rendered(media, item, each)
            saved.append(entry)
            if entry is None:
                self._endings.end(media, item, State.UNCHANGED)
            else:
                self.report.tally(media.name).pending += 1
        self._save(saved)

    def set_aside(self, operations: Iterable[Operation]) -> None:
        """What was not agreed to is not done: its items wait for another sync. The ledger need not know."""
        for operation in operations:
            if operation.writes and operation.kind not in BESIDE:
                self._endings.end(operation.media, operation.item, State.DEFERRED)

    @property
    def links(self) -> Mapping[str, Link | None]:
        """What this run has stored in Mongo, by item; None where a link was cleared."""
        return self._links.stored

    def reopen(self, operation: Operation) -> None:
        """An item waits for a write again, unless it has ended otherwise than in order."""
        self._endings.reopen(operation)

    def finish(self) -> None:
        """Nothing is left open: every planned item has ended in exactly one state (VERIFY-1)."""
        if self._endings.left_open:
            raise RuntimeError(f"{self._endings.left_open} items of {self._account.key} have no end")

    # --------------------------------------------------------------------------------------------------- ends of items

    def _keep(self, media: MediaType, kept: Kept) -> LedgerEntry | None:
        item = item_id(media.name, kept.wanted.document.id)
        if self._endings.of(item) is not None:
            return None
        wanted = replace(kept.wanted, cid=kept.cid)
        sent = self._endings.sent(item).get(f"{media.nsid}/{kept.rkey}")
        if sent is not None and sent.cid == kept.cid:
            return self._write(media, wanted, sent.kind, kept.rkey, item)
        self._endings.end(media, item, State.UNCHANGED)
        return self._entries.unchanged(media, item, wanted, kept.rkey)

    def _withhold(self, media: MediaType, withheld: Withheld) -> LedgerEntry | None:
        if withheld.wanted is None:
            self.report.note(withheld.failure.message)
            return None
        item = item_id(media.name, withheld.wanted.document.id)
        return self._fail(media, withheld.wanted, withheld.failure, item, withheld.rkey)

    def _write(self, media: MediaType, wanted: Wanted, kind: Kind, rkey: str, item: str) -> LedgerEntry:
        self._endings.write(media, item, kind)
        return self._entries.written(media, item, wanted, rkey)

    def _delete(self, item: str, operation: Operation) -> LedgerEntry | None:
        """All records of an item are gone. Of several keys the linked one is remembered, else the oldest."""
        if not self._endings.end(operation.media, item, State.DELETED):
            return None
        document = operation.document
        linked = document.link.rkey if document is not None and document.link is not None else None
        keys = [each.rkey for each in self._endings.sent(item).values()] or [operation.rkey]
        rkey = linked if linked in keys else min(keys)
        return self._entries.deleted(operation.media, item, document, str(rkey), operation.reason)

    def _remember_key(self, operation: Operation) -> LedgerEntry | None:
        """The key of a withdrawn item whose link is cleared, so that it returns under its old address (DEL-2)."""
        document, item = operation.document, operation.item
        known = self._entries.of(item)
        if document is None or document.link is None or not operation.rkey:
            return None
        if document.link.did not in (None, self._account.did) or (known is not None and known.rkey is not None):
            return None
        return self._entries.deleted(operation.media, item, document, operation.rkey, operation.reason)

    def _fail(
        self, media: MediaType, wanted: Wanted, failure: Failure, item: str, rkey: str | None = None
    ) -> LedgerEntry | None:
        state = end_of(failure)
        if not self._endings.end(media, item, state):
            return None
        if wanted.until is not None:
            self.report.note(f"{item}: {failure.message}")
            return self._entries.failed(media, item, wanted, failure, state, rkey=rkey, until=wanted.until)
        if state is State.DEFERRED:
            self._disturb(item, failure)
        self._list(item, wanted.document, failure, state)
        return self._entries.failed(media, item, wanted, failure, state, rkey=rkey)

    def _fail_rest(self, failure: Failure, state: State, until: datetime | None = None) -> list[LedgerEntry | None]:
        waiting = self._endings.take_open()
        return [self._miss(operation, failure, operation.item, state, until) for operation in waiting]

    def _miss(
        self, operation: Operation, failure: Failure, item: str, state: State, until: datetime | None
    ) -> LedgerEntry | None:
        """An item whose operation was tried, or had its turn, and did not happen."""
        self._endings.end(operation.media, item, state)
        if state is not State.BLOCKED:  # the account is named once, its items do not fail for it
            self._list(item, operation.document, failure, state)
        return self._entries.failed(
            operation.media,
            item,
            replace(operation.wanted, fresh=True) if operation.wanted is not None else None,
            failure,
            state,
            rkey=operation.rkey,
            until=until,
            leaving=operation.kind in DELETES,
        )

    # ---------------------------------------------------------------------------------------------------------- storing

    def _mend_links(self, plan: TypePlan) -> None:
        """Put right what links are missing or wrong; those of this run's own writes do not count as healed."""
        for operation in self._links.mend(plan):
            item = operation.item
            withdrawn = operation.kind is Kind.UNLINK and bool(self._endings.sent(item))
            own = self._endings.of(item) is State.WRITTEN or withdrawn
            self.report.tally(plan.media.name).healed += not own

    def _save(self, entries: Iterable[LedgerEntry | None]) -> None:
        new = [entry for entry in entries if entry is not None]
        if new and not self.dry:
            self._entries.know(new)
            self._ledger.save(new)

    # -------------------------------------------------------------------------------------------------------- reporting

    def _list(self, item: str, document: Document | None, failure: Failure, state: State) -> None:
        user, code = self._account.key, document.code if document is not None else None
        what = (failure.stage, state, failure.error_class, failure.message, failure.status)
        self.report.failures.append(ItemFailure(item, user, *what, code, self._entries.attempts(item) + 1))

    def _disturb(self, item: str, failure: Failure) -> None:
        """A transient failure of one item: the account has to be run again."""
        if self.report.error is None:
            self.report.error = Transient(f"{item} of {self._account.key}: {failure.message}", status=failure.status)

    def _wait(self, reason: RateLimited) -> datetime:
        until = self._now() + timedelta(seconds=reason.retry_after or 0)
        self.report.note(f"what is deferred waits until {until:%Y-%m-%d %H:%M:%S} UTC: {reason.message}")
        return until
