"""The bookkeeper: turns what happened to items into tallies, links and ledger entries, per committed batch.

One per account and run. It decides nothing about records; it knows how each item ended and stores it at once, so that
a kill loses at most one batch of bookkeeping (design, section 1, ideas 5 and 6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import TRANSIENT_CODES, Blocked, PipelineError, RateLimited, Transient
from ac_pipeline.items import Attempt, Failure, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import Document, Link, LinkUpdate, MediaType, Verdict
from ac_pipeline.sync.plan import Kept, Kind, Operation, TypePlan, Wanted
from ac_pipeline.sync.ports import Documents, Ledger
from ac_pipeline.sync.render import failure_of
from ac_pipeline.sync.report import AccountReport, ItemFailure

_SETTLED = {State.WRITTEN, State.UNCHANGED}
_DELETES = {Kind.DELETE, Kind.DELETE_ORPHAN}


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
        self._documents = documents
        self._ledger = ledger
        self._account = account
        self._run_id = run_id
        self._now = now
        self._dry = dry
        self._entries: dict[str, LedgerEntry] = {}
        self._ended: dict[str, State] = {}
        self._open: dict[str, Operation] = {}
        self._sent: dict[str, Operation] = {}

    def know(
        self, media: MediaType, documents: Sequence[Document], entries: Mapping[str, LedgerEntry], chosen: set[str]
    ) -> None:
        """Count the documents of one type, and keep what the ledger knows of them."""
        tally = self.report.tally(media.name)
        for document in documents:
            if document.id not in chosen:
                continue
            tally.documents += 1
            tally.eligible += document.verdict is Verdict.ELIGIBLE
            tally.withdrawn += document.verdict is Verdict.WITHDRAWN
            tally.invalid += document.verdict in {Verdict.INVALID, Verdict.HELD}
            tally.warnings += bool(document.warnings)
        self._entries.update({entry.item: entry for entry in entries.values()})

    def records(self, repository: Repository, types: Iterable[MediaType]) -> None:
        """Count the records the repository holds before the run."""
        for media in types:
            self.report.tally(media.name).records = sum(1 for _ in repository.collection(media.nsid))

    def begin(self, plans: Sequence[TypePlan]) -> None:
        """A round starts: everything that needs no write is settled now; what was written unheard is recognised."""
        self._open = {}
        saved: list[LedgerEntry] = []
        planned: set[str] = set()
        for plan in plans:
            for operation in plan.operations:
                item = self._item(operation)
                planned.add(item)
                if operation.writes and operation.kind is not Kind.DELETE_DUPLICATE and item not in self._ended:
                    self._open[item] = operation
            for kept in plan.kept:
                saved += self._keep(plan.media, kept)
            for withheld in plan.withheld:
                if withheld.wanted is None:
                    self.report.notes.append(withheld.failure.message)
                elif (item := item_id(plan.media.name, withheld.wanted.document.id)) not in self._ended:
                    saved += self._fail(plan.media, withheld.wanted, withheld.failure, item, withheld.rkey)
            self._mend_links(plan)
            saved += [each for op in plan.links() if op.kind is Kind.UNLINK for each in self._remember_key(op)]
        for item, operation in self._sent.items():
            if operation.kind in _DELETES and item not in self._ended and item not in self._open:
                saved += self._delete(item, operation)
        self._save(saved)
        self._sent.update(self._open)

    def committed(self, operations: Sequence[Operation]) -> None:
        """A batch is durable: store its links, then its entries, each in one bulk write."""
        links: dict[str, list[LinkUpdate]] = defaultdict(list)
        types: dict[str, MediaType] = {}
        saved: list[LedgerEntry] = []
        for operation in operations:
            item = self._item(operation)
            types[operation.media.name] = operation.media
            if operation.kind is Kind.DELETE_DUPLICATE:
                self.report.tally(operation.media.name).duplicates_removed += 1
            elif operation.kind in _DELETES:
                if operation.document is not None:
                    links[operation.media.name].append(LinkUpdate(operation.document.id, None))
                saved += self._delete(item, operation)
            elif operation.wanted is not None:
                link = self._link(operation.media, operation.rkey, operation.cid)
                links[operation.media.name].append(LinkUpdate(operation.wanted.document.id, link))
                saved.append(self._written(operation.media, operation.wanted, operation.kind, operation.rkey, item))
            self._open.pop(item, None) if operation.kind is not Kind.DELETE_DUPLICATE else None
        for name, updates in links.items():
            self._documents.write_links(types[name], updates)
        self._save(saved)

    def refused(self, operation: Operation, error: PipelineError) -> None:
        """One operation did not happen."""
        item = self._item(operation)
        self._open.pop(item, None)
        stage = Stage.UPLOAD if isinstance(error, Transient) else Stage.WRITE
        failure = failure_of(stage, error, operation.cid)
        if operation.wanted is None or operation.kind is Kind.DELETE_DUPLICATE:
            self.report.notes.append(f"{operation.path} could not be deleted: {error.message}")
            self.report.error = self.report.error or (error if isinstance(error, Transient) else None)
            return
        self._save(self._fail(operation.media, replace(operation.wanted, fresh=True), failure, item, operation.rkey))

    def block(self, media: MediaType, documents: Sequence[Document], reason: Blocked) -> None:
        """Items of an account that cannot be used at all."""
        failure = failure_of(Stage.WRITE, reason)
        saved = []
        for document in documents:
            item = item_id(media.name, document.id)
            self._end(media, item, State.BLOCKED)
            saved += self._entry_of_failure(media, Wanted(document), failure, item, State.BLOCKED, None)
        self._save(saved)

    def blocked(self, reason: Blocked) -> None:
        self.report.blocked = reason

    def block_rest(self, reason: Blocked) -> None:
        """The PDS refused the account in the middle: what is not written yet is blocked."""
        self.report.blocked = reason
        self._fail_rest(failure_of(Stage.WRITE, reason), State.BLOCKED)

    def defer_rest(self, reason: RateLimited) -> None:
        """A limit is reached: what is not written yet waits until it resets."""
        until = self._now() + timedelta(seconds=reason.retry_after or 0)
        self.report.notes.append(f"the rest waits until {until:%Y-%m-%d %H:%M:%S} UTC: {reason.message}")
        self._fail_rest(failure_of(Stage.WRITE, reason), State.DEFERRED, until)

    def interrupt(self, error: Transient) -> None:
        """A transient error outlived its retries: what is not written yet has to be run again."""
        self.report.error = error
        self._fail_rest(failure_of(Stage.WRITE, error), State.DEFERRED)

    def rendered(self, media: MediaType, wanted: Sequence[Wanted]) -> None:
        """Renditions were made ahead of their records: remember them, or why there are none."""
        saved: list[LedgerEntry] = []
        for each in wanted:
            if each.skipped or each.document.verdict is Verdict.WITHDRAWN:
                continue
            item = item_id(media.name, each.document.id)
            known = self._entries.get(item)
            if each.failure is not None:
                saved += self._fail(media, each, each.failure, item, None)
            elif known is None or known.derived != each.derived or known.fingerprint != each.document.fingerprint:
                fresh = self._entry(media, each, item, State.PENDING, Stage.RENDITION)
                saved.append(self._logged(fresh, State.PENDING, Stage.RENDITION))
                self.report.tally(media.name).pending += 1
            else:
                self._end(media, item, State.UNCHANGED)
        self._save(saved)

    def foresee(self, plans: Sequence[TypePlan]) -> None:
        """The dry run: count what would happen."""
        for plan in plans:
            tally = self.report.tally(plan.media.name)
            tally.unchanged += len(plan.kept)
            for operation in plan.operations:
                tally.created += operation.kind is Kind.CREATE
                tally.updated += operation.kind is Kind.UPDATE
                tally.deleted += operation.kind in _DELETES
                tally.duplicates_removed += operation.kind is Kind.DELETE_DUPLICATE
                tally.healed += operation.kind in {Kind.ADOPT, Kind.HEAL, Kind.UNLINK}
                tally.deferred += operation.kind is Kind.RENDER
                tally.pending += operation.writes or operation.kind is Kind.RENDER
            for withheld in plan.withheld:
                if withheld.wanted is None:
                    self.report.notes.append(withheld.failure.message)
                    continue
                item = item_id(plan.media.name, withheld.wanted.document.id)
                state = self._state_of(withheld.failure)
                tally.count(state)
                self._list(plan.media, withheld.wanted.document, withheld.failure, item, state)

    def finish(self) -> None:
        """Nothing is left open: every planned item has ended in exactly one state (VERIFY-1)."""
        if self._open:
            raise RuntimeError(f"{len(self._open)} items of {self._account.key} have no end")

    def _remember_key(self, operation: Operation) -> list[LedgerEntry]:
        """The key of a withdrawn item whose link is cleared, so that it returns under its old address (DEL-2)."""
        document, item = operation.document, self._item(operation)
        known = self._entries.get(item)
        if document is None or not operation.rkey or (known is not None and known.rkey is not None):
            return []
        link = document.link
        if link is None or link.did not in (None, self._account.did):
            return []
        entry = self._entry(operation.media, Wanted(document), item, State.DELETED, Stage.WRITE, rkey=operation.rkey)
        return [self._logged(entry, State.DELETED, Stage.WRITE, message=operation.reason)]

    def _keep(self, media: MediaType, kept: Kept) -> list[LedgerEntry]:
        document = kept.wanted.document
        item = item_id(media.name, document.id)
        if item in self._ended:
            return []
        sent = self._sent.get(item)
        if sent is not None and sent.kind in {Kind.CREATE, Kind.UPDATE}:
            return [self._written(media, replace(kept.wanted, cid=kept.cid), sent.kind, kept.rkey, item)]
        self._end(media, item, State.UNCHANGED)
        known = self._entries.get(item)
        wanted = replace(kept.wanted, cid=kept.cid)
        entry = self._entry(media, wanted, item, State.UNCHANGED, Stage.WRITE, rkey=kept.rkey)
        if known is not None and known.state in _SETTLED and _same(known, entry):
            return []
        return [self._logged(entry, State.UNCHANGED, Stage.WRITE)]

    def _written(self, media: MediaType, wanted: Wanted, kind: Kind, rkey: str, item: str) -> LedgerEntry:
        self._ended[item] = State.WRITTEN
        tally = self.report.tally(media.name)
        tally.created += kind is Kind.CREATE
        tally.updated += kind is Kind.UPDATE
        entry = self._entry(media, wanted, item, State.WRITTEN, Stage.WRITE, rkey=rkey)
        return self._logged(entry, State.WRITTEN, Stage.WRITE)

    def _delete(self, item: str, operation: Operation) -> list[LedgerEntry]:
        self._end(operation.media, item, State.DELETED)
        type_, _, document = item.partition(":")
        known = self._entries.get(item) or LedgerEntry(
            item, type_, document, self._account.id, self._account.key, State.DELETED, Stage.WRITE
        )
        entry = replace(
            known,
            state=State.DELETED,
            stage=Stage.WRITE,
            did=self._account.did,
            rkey=operation.rkey,
            uri=at_uri(str(self._account.did), operation.media.nsid, operation.rkey),
            cid=None,
            failure=None,
            withdrawn_at=None,
            run_id=self._run_id,
            updated_at=self._now(),
            fingerprint=operation.document.fingerprint if operation.document else known.fingerprint,
            code=operation.document.code if operation.document else known.code,
        )
        return [self._logged(entry, State.DELETED, Stage.WRITE, message=operation.reason)]

    def _fail(
        self, media: MediaType, wanted: Wanted, failure: Failure, item: str, rkey: str | None
    ) -> list[LedgerEntry]:
        state = self._state_of(failure)
        if state is State.DEFERRED and self.report.error is None:
            self.report.error = Transient(f"{item} of {self._account.key}: {failure.message}", status=failure.status)
        self._end(media, item, state)
        self._list(media, wanted.document, failure, item, state)
        return self._entry_of_failure(media, wanted, failure, item, state, rkey)

    def _fail_rest(self, failure: Failure, state: State, until: datetime | None = None) -> None:
        saved: list[LedgerEntry] = []
        for item, operation in self._open.items():
            self._end(operation.media, item, state)
            if operation.wanted is None:
                continue
            self._list(operation.media, operation.wanted.document, failure, item, state)
            wanted = replace(operation.wanted, fresh=True)
            entries = self._entry_of_failure(operation.media, wanted, failure, item, state, operation.rkey)
            waiting = self._now() if operation.kind in _DELETES else None
            saved += [
                replace(e, deferred_until=until, withdrawn_at=e.withdrawn_at or waiting if waiting else None)
                for e in entries
            ]
        self._open = {}
        self._save(saved)

    def _entry_of_failure(  # noqa: PLR0917
        self, media: MediaType, wanted: Wanted, failure: Failure, item: str, state: State, rkey: str | None
    ) -> list[LedgerEntry]:
        known = self._entries.get(item)
        failure = replace(failure, payload_hash=failure.payload_hash or wanted.cid or wanted.document.fingerprint)
        if known is not None and known.state is state and known.failure == failure:
            return []
        entry = self._entry(media, wanted, item, state, failure.stage, rkey=rkey, failure=failure)
        if not wanted.fresh and known is not None and known.failure is not None:
            return [entry]
        return [self._logged(entry, state, failure.stage, failure.error_class, failure.message)]

    def _entry(
        self,
        media: MediaType,
        wanted: Wanted,
        item: str,
        state: State,
        stage: Stage,
        *,
        rkey: str | None = None,
        failure: Failure | None = None,
    ) -> LedgerEntry:
        document, known = wanted.document, self._entries.get(item)
        did = self._account.did
        rkey = rkey or (known.rkey if known is not None and known.did == did else None)
        cid = wanted.cid if state in _SETTLED else (known.cid if known is not None else None)
        return LedgerEntry(
            item=item,
            type=media.name,
            document=document.id,
            account=self._account.id,
            partition=self._account.key,
            state=state,
            stage=stage,
            code=document.code,
            did=did,
            fingerprint=document.fingerprint,
            rkey=rkey,
            uri=at_uri(did, media.nsid, rkey) if did and rkey else None,
            cid=cid,
            derived=wanted.derived or (known.derived if known is not None else None),
            attempts=known.attempts if known is not None else 0,
            failure=failure,
            warnings=(*document.warnings, *(wanted.derived.warnings if wanted.derived else ())),
            withdrawn_at=known.withdrawn_at if known is not None and failure is not None else None,
            run_id=self._run_id,
            updated_at=self._now(),
            history=known.history if known is not None else (),
        )

    def _logged(
        self,
        entry: LedgerEntry,
        state: State,
        stage: Stage,
        error_class: str | None = None,
        message: str | None = None,
    ) -> LedgerEntry:
        line = Attempt(self._now(), self._run_id, stage, state, error_class, message)
        return replace(entry, attempts=entry.attempts + 1, history=(*entry.history, line))

    def _mend_links(self, plan: TypePlan) -> None:
        mended = [op for op in plan.links() if self._ended.get(self._item(op)) is not State.WRITTEN]
        updates = [LinkUpdate(op.document.id, op.link) for op in plan.links() if op.document is not None]
        if updates:
            self._documents.write_links(plan.media, updates)
        self.report.tally(plan.media.name).healed += len(mended)

    def _end(self, media: MediaType, item: str, state: State) -> None:
        self._ended[item] = state
        self.report.tally(media.name).count(state)

    def _list(self, media: MediaType, document: Document, failure: Failure, item: str, state: State) -> None:
        known = self._entries.get(item)
        self.report.failures.append(
            ItemFailure(
                item,
                self._account.key,
                failure.stage,
                state,
                failure.error_class,
                failure.message,
                failure.status,
                document.code,
                (known.attempts if known is not None else 0) + 1,
            )
        )

    def _save(self, entries: list[LedgerEntry]) -> None:
        for entry in entries:
            self._entries[entry.item] = entry
        if entries and not self._dry:
            self._ledger.save(entries)

    def _link(self, media: MediaType, rkey: str, cid: str | None) -> Link:
        did = str(self._account.did)
        return Link(rkey, at_uri(did, media.nsid, rkey), cid, did)

    @staticmethod
    def _state_of(failure: Failure) -> State:
        return State.DEFERRED if failure.error_class in TRANSIENT_CODES else State.QUARANTINED

    @staticmethod
    def _item(operation: Operation) -> str:
        if operation.document is not None:
            return item_id(operation.media.name, operation.document.id)
        return item_id(operation.media.name, operation.orphan or operation.rkey)


def _same(one: LedgerEntry, other: LedgerEntry) -> bool:
    names = ("rkey", "cid", "did", "fingerprint", "derived", "partition", "warnings", "withdrawn_at")
    return all(getattr(one, name) == getattr(other, name) for name in names)
