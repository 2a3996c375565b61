"""The recorder: turns what happened to items into tallies, links and ledger entries, per committed batch.

It decides nothing about records; it stores at once how each item ended, so that a kill loses at most one batch of
records of it (design, section 1, ideas 5 and 6). An entry is made anew only when it says something new, so that a run
over unchanged data stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import TRANSIENT_CODES, AccountDeleted, Blocked, Paused, PipelineError, RateLimited, Transient
from ac_pipeline.items import Attempt, Derived, Failure, LedgerEntry, Stage, State
from ac_pipeline.media.base import Document, Link, LinkUpdate, MediaType, Verdict
from ac_pipeline.media.registry import media_type
from ac_pipeline.sync.planning.plan import (
    BESIDE,
    ERASES,
    AccountPlan,
    Kept,
    Kind,
    Operation,
    TypePlan,
    Versions,
    Wanted,
    documents_version,
    failure_of,
    records_version,
    renditions_version,
)
from ac_pipeline.sync.ports import Documents, Ledger
from ac_pipeline.sync.report import AccountReport, ItemFailure, Tally
from ac_pipeline.sync.writing.writer import Refused

_TRIED = {Stage.RENDITION, Stage.UPLOAD, Stage.WRITE}  # They cost an attempt; what cannot be built is read again

_IDENTITY = ("rkey", "did", "fingerprint", "partition", "code", "withdrawn_at")


class Entries:
    """What the ledger knows of one account's items, and what it shall know next of what a run does at `now()` (UTC)."""

    def __init__(self, account: Account, run_id: str, now: Callable[[], datetime]) -> None:
        self._account = account
        self._run_id = run_id
        self._now = now
        self._known: dict[str, LedgerEntry] = {}

    def know(self, entries: Iterable[LedgerEntry]) -> None:
        """Take over entries, from the ledger or about to be stored in it."""
        self._known.update({entry.item: entry for entry in entries})

    def all(self) -> Iterable[LedgerEntry]:
        return self._known.values()

    def of(self, item: str) -> LedgerEntry | None:
        return self._known.get(item)

    def attempts(self, item: str) -> int:
        return self._of(item).attempts

    def _of(self, item: str) -> LedgerEntry:
        """What is known of an item; of one that is new, an entry that says nothing."""
        (type, _, id), account = item.partition(":"), self._account
        return self._known.get(item) or LedgerEntry(
            item, type, id, account.id, account.key, State.PENDING, Stage.DOCUMENT
        )

    def stays_quarantined(self, item: str, document: Document, failure: Failure) -> bool:
        """True if an item of an account that is blocked has a fault of its own, which is to be seen although nobody can
        reach the account; a paused type is an operator's own choice."""
        known = self._of(item)
        own = known.state is State.QUARANTINED and known.fingerprint == document.fingerprint
        return own and failure.error_class != Paused.code

    def written(self, wanted: Wanted, rkey: str) -> LedgerEntry:
        return self._fulfilled(wanted, rkey, State.WRITTEN)

    def restored(self, item: str, rkey: str, cid: str) -> LedgerEntry:
        """A record without a document that is there again, whatever it was refused before."""
        changes = {"cid": cid, "withdrawn_at": None}
        return self._entry(item, None, State.WRITTEN, rkey=rkey, message="restored", changes=changes)

    def unchanged(self, wanted: Wanted, rkey: str) -> LedgerEntry | None:
        """None when the ledger says so already."""
        known, document, account = self._of(wanted.item), wanted.document, self._account
        if (
            known.state in {State.WRITTEN, State.UNCHANGED}
            and (known.rkey, known.cid, known.did) == (rkey, wanted.cid, account.did)
            and (known.partition, known.code, known.fingerprint) == (account.key, document.code, document.fingerprint)
            and known.derived == (wanted.derived or known.derived)
            and known.warnings == _warnings(wanted)
            and known.withdrawn_at is None
        ):
            return None
        return self._fulfilled(wanted, rkey, State.UNCHANGED)

    def rendered(self, wanted: Wanted) -> LedgerEntry | None:
        """None when these renditions are known; else the item waits for its record."""
        known, document = self._of(wanted.item), wanted.document
        # A failure that holds up the record alone is no news about its renditions.
        failed = known.failure is not None and known.failure.stage is Stage.RENDITION
        if (known.derived, known.fingerprint) == (wanted.derived, document.fingerprint) and not failed:
            return None
        changes = {"derived": wanted.derived, "warnings": _warnings(wanted)}
        return self._entry(wanted.item, document, State.PENDING, Stage.RENDITION, changes=changes)

    def deleted(self, item: str, document: Document | None, rkey: str | None, reason: str) -> LedgerEntry:
        """The key stays on record, so that an un-nuked item returns under its old address (DEL-2)."""
        changes = {"cid": None, "withdrawn_at": None}
        return self._entry(item, document, State.DELETED, rkey=rkey, message=reason, changes=changes)

    def erased(self, item: str) -> LedgerEntry | None:
        """An item without a record, that shall have none, and whose renditions are given up; None when the ledger says
        so already. Where its end is known, nothing was tried: its timeline stays."""
        known = self._known.get(item)
        if known is None:
            return None
        if known.state is not State.DELETED:
            ended = self.deleted(item, None, None, "it was withdrawn before it had a record")
            return replace(without_renditions(ended), history=ended.history)
        return without_renditions(known) if known.derived is not None else None

    def failed(
        self,
        item: str,
        subject: Wanted | None,
        failure: Failure,
        state: State,
        *,
        rkey: str | None = None,
        until: datetime | None = None,
        pending_deletion: bool = False,
    ) -> LedgerEntry | None:
        """An item that is not where it should be; None when the ledger says so already and nothing was tried.

        Args:
            subject: What was wanted; None for a record without a document.
            until: When it will be tried again, where that is known.
            pending_deletion: True if its record has to go and did not: its waiting time starts, or goes on (DEL-6).
        """
        known, document = self._of(item), subject.document if subject is not None else None
        if state is State.BLOCKED and document is not None and self.stays_quarantined(item, document, failure):
            return None
        hash_ = subject.cid or subject.document.fingerprint if subject is not None else rkey
        failure = replace(failure, payload_hash=failure.payload_hash or hash_)
        changes: dict[str, object] = {
            # Of a blocked item it says that a limit, too, held it up.
            "deferred_until": until or (known.deferred_until if state is State.BLOCKED else None),
            "withdrawn_at": (known.withdrawn_at or self._now()) if pending_deletion else None,
        }
        if subject is not None:
            changes |= _media_of(subject)
        entry = self._entry(item, document, state, failure.stage, rkey=rkey, failure=failure, changes=changes)
        tried = subject is None or (subject.fresh and failure.stage in _TRIED)
        if tried or known.state is not state or known.failure != failure:
            return entry
        if all(getattr(known, name) == getattr(entry, name) for name in _IDENTITY):
            return None
        return replace(entry, attempts=known.attempts, history=())  # no new line for its timeline

    def _fulfilled(self, wanted: Wanted, rkey: str, state: State) -> LedgerEntry:
        changes = {"cid": wanted.cid, "withdrawn_at": None, "former": None, **_media_of(wanted)}
        return self._entry(wanted.item, wanted.document, state, rkey=rkey, changes=changes)

    def _entry(
        self,
        item: str,
        document: Document | None,
        state: State,
        stage: Stage = Stage.WRITE,
        *,
        rkey: str | None = None,
        failure: Failure | None = None,
        message: str | None = None,
        changes: Mapping[str, object] = MappingProxyType({}),
    ) -> LedgerEntry:
        """What is known of an item, brought up to date, with one more line in its timeline."""
        account, now, known = self._account, self._now(), self._of(item)
        rkey = rkey or (known.rkey if known.did == account.did else None)
        before = known.former if known.account == account.id else known.account
        derived = changes.get("derived", known.derived)
        # What an erasure has given up is over once the item is wanted again.
        back = known.derived is None and derived is not None
        former, own = () if back else (*known.past_blobs, *_cids(known.derived)), _cids(derived)
        error, said = (failure.error_class, failure.message) if failure is not None else (None, message)
        return known.with_(
            account=account.id,
            partition=account.key,
            state=state,
            stage=stage,
            code=document.code if document is not None else known.code,
            did=account.did,
            fingerprint=document.fingerprint if document is not None else known.fingerprint,
            rkey=rkey,
            uri=at_uri(account.did, media_type(known.type).nsid, rkey) if account.did and rkey else None,
            failure=failure,
            run_id=self._run_id,
            updated_at=now,
            attempts=known.attempts + 1,
            history=(*known.history, Attempt(now, self._run_id, stage, state, error, said)),
            past_blobs=tuple(dict.fromkeys(cid for cid in former if cid not in own)),
            **{"deferred_until": None, "former": before, **changes},
        )


def without_renditions(entry: LedgerEntry) -> LedgerEntry:
    """An entry whose renditions are given up: their CIDs stay, by which the erasure is verified (DEL-7)."""
    past = tuple(dict.fromkeys((*entry.past_blobs, *_cids(entry.derived))))
    return replace(entry, derived=None, past_blobs=past, history=())


def _cids(derived: object) -> tuple[str, ...]:
    return tuple(made.blob.cid for made in derived.renditions.values()) if isinstance(derived, Derived) else ()


def end_of(failure: Failure) -> State:
    """How an item with this failure ends: what another attempt may overcome waits, the rest is for a person."""
    return State.DEFERRED if failure.error_class in TRANSIENT_CODES else State.QUARANTINED


def _media_of(wanted: Wanted) -> dict[str, object]:
    derived = {} if wanted.derived is None else {"derived": wanted.derived}
    return {"warnings": _warnings(wanted), **derived}


def _warnings(wanted: Wanted) -> tuple[str, ...]:
    return (*wanted.document.warnings, *(wanted.derived.warnings if wanted.derived else ()))


class ItemStates:
    """What each item of one account still waits for in a run, and in which state it ended, counted in the report. Every
    planned item ends in exactly one state, whatever happens to it in later rounds (VERIFY-1).
    """

    def __init__(self, report: AccountReport) -> None:
        self.ended: dict[str, State] = {}
        self.open: dict[str, dict[str, Operation]] = {}  # what each item still waits for, by path
        self.sent: dict[str, dict[str, Operation]] = {}  # the same of what was sent in this run
        self._report = report

    def send(self) -> None:
        """What is open now goes to the PDS, and may arrive there without an answer."""
        for item, operations in self.open.items():
            self.sent.setdefault(item, {}).update(operations)

    def reopen(self, operation: Operation) -> None:
        """An item waits for a write; one that was in order a round ago may do so, one that has ended otherwise not."""
        item = operation.item
        if not operation.writes or operation.kind in BESIDE:
            return
        if self.ended.get(item) is State.UNCHANGED:
            del self.ended[item]
            self._report.tally_of(item).count(State.UNCHANGED, -1)
        if item not in self.ended:
            self.open.setdefault(item, {})[operation.path] = operation

    def close(self, operation: Operation) -> bool:
        """An operation needs no more waiting for; True if it was its item's last."""
        waiting = self.open.get(operation.item, {})
        waiting.pop(operation.path, None)
        if not waiting:
            self.open.pop(operation.item, None)
        return not waiting

    def end(self, item: str, state: State) -> bool:
        """Count an item where it ended; False if it had ended before."""
        if item in self.ended:
            return False
        self.ended[item] = state
        self._report.tally_of(item).count(state)
        return True

    def write(self, item: str, kind: Kind) -> None:
        """An item ended with its record written: `written` is the sum of both kinds."""
        if item not in self.ended:
            self.ended[item] = State.WRITTEN
            tally = self._report.tally_of(item)
            tally.created += kind is Kind.CREATE
            tally.updated += kind is Kind.UPDATE

    def unheard_deletions(self) -> list[Operation]:
        """One deletion of each item whose deletions were sent before and need not be sent again: they arrived."""
        return [
            next(iter(operations.values()))
            for item, operations in self.sent.items()
            if item not in self.open and all(each.kind in ERASES for each in operations.values())
        ]

    def take_open(self) -> Sequence[Operation]:
        """One operation of each item that has not ended; none of them is waited for any more."""
        waiting = [next(iter(ops.values())) for item, ops in self.open.items() if item not in self.ended]
        self.open = {}
        return waiting


class Recorder:
    """Records what happens to the items of one account in one run; of a dry plan it counts only and stores nothing."""

    def __init__(
        self, documents: Documents, ledger: Ledger, plan: AccountPlan, run_id: str, now: Callable[[], datetime]
    ) -> None:
        self.report = AccountReport(plan.account.key)
        self.run_id = run_id
        self.links: dict[str, Link | None] = {}  # What it has stored in Mongo, by item; None where a link was cleared
        self._documents = documents
        self._ledger = ledger
        self._plan = plan
        self._account = plan.account
        self._now = now
        self._entries = Entries(plan.account, run_id, now)
        self.states = ItemStates(self.report)

    def count(self) -> None:
        """Count the documents and records that were read, and keep what the ledger knows of them."""
        plan = self._plan
        for media in plan.selection.types:
            tally, wanted = self._know(media), plan.wanted[media.name]
            if plan.repository is not None:
                tally.records = plan.repository.count(media.nsid)
            if media.name in self.report.versions:
                versions = self.report.versions[media.name]
                versions.renditions, versions.records = renditions_version(wanted), records_version(wanted)
            for each in wanted:
                if each.derived is not None:  # what is odd or missing beside media is never only logged (OPS-4)
                    tally.warnings += bool(each.derived.warnings and not each.document.warnings)
                    tally.companions_missing += bool(media.companions(each.document).keys() - each.derived.found)

    def untouched(self, records: Mapping[str, int]) -> None:
        """All is as it has to be: count what a run that reads the repository and its `records` would (VERIFY-11)."""
        self.count()
        for media in self._plan.selection.types:
            tally = self.report.tally(media.name)
            tally.records = records[media.name]
            tally.unchanged += tally.eligible

    def _know(self, media: MediaType) -> Tally:
        documents, chosen = self._plan.documents[media.name], self._plan.selected[media.name]
        tally = self.report.tally(media.name)
        tally.read(document for document in documents if document.id in chosen)
        if len(chosen) == len(documents):
            self.report.versions[media.name] = Versions(documents_version(documents))
        self._entries.know(self._plan.entries[media.name].values())
        return tally

    def doubt(self, media: MediaType, orphans: int, records: int, why: str) -> None:
        """Records without a document stay, as the database is doubted and not they; `why` ends a sentence."""
        self.report.tally(media.name).orphans_kept += orphans
        self.report.note(
            f"{orphans} of {records} {media.name} records have no document in Mongo, and {why}: that looks like a "
            "wrong or half-restored database, so none is deleted. If they shall go: "
            f"`ac-pipeline sync --user {self._account.key} --type {media.name} --sweep {orphans}`."
        )

    def begin(self) -> None:
        """A round starts: everything that needs no write ends now; what was written without an answer is recognised."""
        self.states.open = {}  # what the last round left open is planned anew
        plans, saved = self._plan.plans, list[LedgerEntry | None]()
        # Before their links are cleared: a kill in between must not cost the keys.
        self._save(self._remember_key(op) for plan in plans for op in plan.links() if op.kind is Kind.UNLINK)
        for plan in plans:
            for operation in plan.operations:
                self.states.reopen(operation)
            saved += [self._keep(plan.media, kept) for kept in plan.kept]
            for withheld in plan.withheld:
                if withheld.wanted is None:
                    self.report.note(withheld.failure.message)
                else:
                    saved.append(self._fail(withheld.wanted, withheld.failure, withheld.rkey))
        for plan in plans:  # after all is counted: should Mongo not answer, no item is left out
            self._heal_links(plan)
        saved += [self._delete(operation) for operation in self.states.unheard_deletions()]
        self._save(saved)
        self.states.send()

    def committed(self, operations: Sequence[Operation]) -> None:
        """A batch is durable: store its links, then its entries, each in one bulk write. What was deleted goes the
        other way round: its entry holds the key it may return under, its link no longer.
        """
        links: dict[str, tuple[MediaType, list[LinkUpdate]]] = {}
        saved: list[LedgerEntry | None] = []
        gone: list[LedgerEntry | None] = []
        for operation in operations:
            media, document = operation.media, operation.document
            if operation.kind in BESIDE:
                tally = self.report.tally(media.name)
                tally.duplicates_removed += operation.kind is Kind.DELETE_DUPLICATE
                tally.copies_removed += operation.copy
                continue
            last, link = self.states.close(operation), None
            if operation.kind in ERASES:
                if not last or operation.item in self.states.ended:
                    continue
                gone.append(self._delete(operation))
            elif operation.wanted is not None:
                did, rkey = str(self._account.did), operation.rkey
                link = Link(rkey, at_uri(did, media.nsid, rkey), operation.cid, did)
                saved.append(self._write(operation.wanted, operation.kind, rkey))
            if document is not None:
                links.setdefault(media.name, (media, []))[1].append(self._link(operation.item, document, link))
        self._save(gone)
        for media, updates in links.values():
            self._write_links(media, updates)
        self._save(saved)

    def refused(self, outcome: Refused) -> None:
        """One operation did not happen: quarantined, or to be tried again."""
        operation, error = outcome.operation, outcome.error
        failure = failure_of(outcome.stage, error, operation.cid)
        state = end_of(failure)
        until = self._wait(error) if isinstance(error, RateLimited) else None
        if state is State.DEFERRED and until is None:
            self._disturb(operation.item, failure)
        if operation.kind in BESIDE:
            what = "a copy of erased work" if operation.copy else "a duplicate"
            self.report.note(f"{operation.path}, {what}, could not be deleted: {error.message}")
            self._list(operation.item, operation.document, failure, state)
            return
        self.states.close(operation)
        if operation.item not in self.states.ended:
            self._save([self._miss(operation, failure, state, until)])

    def block(self, media: MediaType, reason: Blocked) -> None:
        """The eligible ones among the chosen documents of one type wait for their account, or for a pause to end. Of
        withdrawn ones the ledger learns since when their records have to go (DEL-6); the report counts them not."""
        self._know(media)
        failure = failure_of(Stage.WRITE, reason)
        saved = []
        for wanted in map(Wanted, self._plan.documents[media.name]):
            document = wanted.document
            if document.id in self._plan.selected[media.name] and document.verdict is Verdict.ELIGIBLE:
                faulty = self._entries.stays_quarantined(wanted.item, document, failure)
                self.states.end(wanted.item, State.QUARANTINED if faulty else State.BLOCKED)
                saved.append(self._entries.failed(wanted.item, wanted, failure, State.BLOCKED))
            elif document.id in self._plan.selected[media.name] and self._has_to_go(wanted, reason):
                entry = self._entries.failed(wanted.item, wanted, failure, State.BLOCKED, pending_deletion=True)
                saved.append(entry)
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
        """An error outlived its retries: what is not written yet has to be run again. Its items wait even for one that
        is permanent: it is about none of them, and one that is quarantined would not be tried again."""
        self.report.error = error
        saved = self._fail_rest(failure_of(Stage.WRITE, error), State.DEFERRED)
        try:
            self._save(saved)
        except Transient as other:  # the ledger itself may be what does not answer; the report still tells
            self.report.note(f"the ledger does not know of the interruption: {other.message}")

    def vanished(self) -> None:
        """Records that had to go, or have no document, and are gone without us wait no longer (DEL-6)."""
        saved: list[LedgerEntry | None] = []
        plan = self._plan
        records = plan.repository.records if plan.repository is not None else {}
        for media in plan.selection.types:
            documents = {document.id: document for document in plan.documents[media.name]}
            for entry in plan.entries[media.name].values():
                document = documents.get(entry.document)
                over = entry.withdrawn_at is not None or (document is None and entry.state is not State.DELETED)
                there = f"{media.nsid}/{entry.rkey}" in records
                if over and entry.rkey and not there and entry.item not in self.states.ended:
                    saved.append(self._entries.deleted(entry.item, document, entry.rkey, "its record is gone"))
        self._save(saved)

    def erased(self, entries: Iterable[LedgerEntry]) -> None:
        """There is no record of these items, and none is wanted; the store holds nothing of them any more, or only what
        others use (DEL-7)."""
        self._save([self._entries.erased(entry.item) for entry in entries])

    def rendered(self, wanted: Sequence[Wanted]) -> None:
        """Renditions were made ahead of their records: remember them, or why there are none."""
        saved: list[LedgerEntry | None] = []
        for each in wanted:
            if each.skipped or each.document.verdict is Verdict.WITHDRAWN:
                continue
            if each.failure is not None:
                saved.append(self._fail(each, each.failure))
                continue
            entry = self._entries.rendered(each)
            saved.append(entry)
            if entry is None:
                self.states.end(each.item, State.UNCHANGED)
            else:
                self.report.tally_of(each.item).pending += 1
        self._save(saved)

    def foresee(self) -> None:
        """Count what would happen to each item of a decided plan, in a dry run."""
        plan, refusal = self._plan, self._plan.refusal()
        if refusal is not None:
            self.report.blocked = Blocked(refusal.message)
        self.begin()
        waiting = [each for each in plan.operations() if each.writes or each.kind is Kind.RENDER]
        for operation in waiting:
            if refusal is not None:
                self.states.end(operation.item, State.BLOCKED)
            elif operation.kind is Kind.RENDER:
                self.states.end(operation.item, State.DEFERRED)
            self.report.tally_of(operation.item).pending += refusal is None
        if refusal is None:
            self.committed([operation for operation in waiting if operation.writes])

    def skip(self) -> None:
        """What was not agreed to is not done: its items wait for another sync. The ledger need not know."""
        self.report.skipped = list(self._plan.skipped.values())
        for operation in self.report.skipped:
            if operation.writes and operation.kind not in BESIDE:
                self.states.end(operation.item, State.DEFERRED)

    def finish(self) -> None:
        """Nothing is left open: every planned item has ended in exactly one state (VERIFY-1)."""
        if self.states.open:
            raise RuntimeError(f"{len(self.states.open)} items of {self._account.key} have no end")

    # --------------------------------------------------------------------------------------------------- ends of items

    def _keep(self, media: MediaType, kept: Kept) -> LedgerEntry | None:
        item = kept.wanted.item
        if item in self.states.ended:
            return None
        wanted = replace(kept.wanted, cid=kept.cid)
        sent = self.states.sent.get(item, {}).get(f"{media.nsid}/{kept.rkey}")
        if sent is not None and sent.cid == kept.cid:
            return self._write(wanted, sent.kind, kept.rkey)
        self.states.end(item, State.UNCHANGED)
        return self._entries.unchanged(wanted, kept.rkey)

    def _write(self, wanted: Wanted, kind: Kind, rkey: str) -> LedgerEntry:
        self.states.write(wanted.item, kind)
        return self._entries.written(wanted, rkey)

    def _delete(self, operation: Operation) -> LedgerEntry | None:
        """All records of an item are gone. Of several keys the linked one is remembered, else the oldest."""
        item, document = operation.item, operation.document
        if not self.states.end(item, State.DELETED):
            return None
        linked = document.link.rkey if document is not None and document.link is not None else None
        keys = [each.rkey for each in self.states.sent.get(item, {}).values()] or [operation.rkey]
        rkey = linked if linked in keys else min(keys)
        return self._entries.deleted(item, document, str(rkey), operation.reason)

    def _remember_key(self, operation: Operation) -> LedgerEntry | None:
        """The key of a withdrawn item whose link is cleared, so that it returns under its old address (DEL-2)."""
        document, item = operation.document, operation.item
        known = self._entries.of(item)
        if document is None or document.link is None or not operation.rkey:
            return None
        if document.link.did not in (None, self._account.did) or (known is not None and known.rkey is not None):
            return None
        return self._entries.deleted(item, document, operation.rkey, operation.reason)

    def _has_to_go(self, wanted: Wanted, reason: Blocked) -> bool:
        """True if the ledger knows a record of a withdrawn document."""
        known = self._entries.of(wanted.item)
        there = known is not None and known.cid is not None and known.state is not State.DELETED
        return there and wanted.document.verdict is Verdict.WITHDRAWN and not isinstance(reason, AccountDeleted)

    def _fail(self, wanted: Wanted, failure: Failure, rkey: str | None = None) -> LedgerEntry | None:
        item, state = wanted.item, end_of(failure)
        if not self.states.end(item, state):
            return None
        if wanted.until is not None:
            self.report.note(f"{item}: {failure.message}")
        else:
            if state is State.DEFERRED:
                self._disturb(item, failure)
            self._list(item, wanted.document, failure, state)
        return self._entries.failed(item, wanted, failure, state, rkey=rkey, until=wanted.until)

    def _fail_rest(self, failure: Failure, state: State, until: datetime | None = None) -> list[LedgerEntry | None]:
        return [self._miss(operation, failure, state, until) for operation in self.states.take_open()]

    def _miss(self, operation: Operation, failure: Failure, state: State, until: datetime | None) -> LedgerEntry | None:
        """An item whose operation was tried, or would have come next, and did not happen."""
        self.states.end(operation.item, state)
        if state is not State.BLOCKED:  # the account is named once, its items do not fail for it
            self._list(operation.item, operation.document, failure, state)
        return self._entries.failed(
            operation.item,
            replace(operation.wanted, fresh=True) if operation.wanted is not None else None,
            failure,
            state,
            rkey=operation.rkey,
            until=until,
            pending_deletion=operation.kind in ERASES,
        )

    # ---------------------------------------------------------------------------------------------------------- storing

    def _link(self, item: str, document: Document, link: Link | None) -> LinkUpdate:
        self.links[item] = link
        return LinkUpdate(document.id, link)

    def _heal_links(self, plan: TypePlan) -> None:
        """Store the links that are missing or wrong, unless this run has stored them just so; those of this run's own
        writes do not count as healed."""
        wrong = [op for op in plan.links() if op.item not in self.links or self.links[op.item] != op.link]
        updates = [self._link(op.item, op.document, op.link) for op in wrong if op.document is not None]
        self._write_links(plan.media, updates)
        for operation in wrong:
            withdrawn = operation.kind is Kind.UNLINK and bool(self.states.sent.get(operation.item, {}))
            own = self.states.ended.get(operation.item) is State.WRITTEN or withdrawn
            self.report.tally(plan.media.name).healed += not own

    def _write_links(self, media: MediaType, updates: Sequence[LinkUpdate]) -> None:
        if updates and not self._plan.dry:
            self._documents.write_links(media, updates)

    def _save(self, entries: Iterable[LedgerEntry | None]) -> None:
        new = [entry for entry in entries if entry is not None]
        if new and not self._plan.dry:
            self._entries.know(new)
            self._ledger.save(new)

    # -------------------------------------------------------------------------------------------------------- reporting

    def _list(self, item: str, document: Document | None, failure: Failure, state: State) -> None:
        code, attempts = document.code if document is not None else None, self._entries.attempts(item) + 1
        self.report.failures.append(
            ItemFailure.of(item, self._account.key, failure, state, code=code, attempts=attempts)
        )

    def _disturb(self, item: str, failure: Failure) -> None:
        """A transient failure of one item: the account has to be run again."""
        if self.report.error is None:
            self.report.error = Transient(f"{item} of {self._account.key}: {failure.message}", status=failure.status)

    def _wait(self, reason: RateLimited) -> datetime:
        until = self._now() + timedelta(seconds=reason.retry_after or 0)
        self.report.note(f"what is deferred waits until {until:%Y-%m-%d %H:%M:%S} UTC: {reason.message}")
        return until
