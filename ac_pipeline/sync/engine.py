"""The engine: mirrors one account at a time, from documents to records, links and ledger.

Decide, then do: reads the repository and the documents, lets `plan.py` decide, lets `writer.py` write, and after each
committed batch stores links and ledger entries. Sources: design, section 1; acceptance, "Writing" and "Deletions".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import (
    Blocked,
    NoCredentials,
    Permanent,
    RateLimited,
    RepositoryMoved,
    SourceMissing,
    Transient,
)
from ac_pipeline.items import BlobRef, Derived, Failure, LedgerEntry, State
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.sync.bookkeeper import Bookkeeper
from ac_pipeline.sync.plan import Existing, Kind, Operation, TypePlan, Wanted, existing_records, plan_type
from ac_pipeline.sync.ports import DataServer, Documents, Ledger, Renderer
from ac_pipeline.sync.render import RecordBuilder, offer
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writer import REQUEST_BYTES, BatchLimits, Committed, Refused, Writer

ROUNDS = 5
"""How often a repository that somebody else writes to is planned anew before its sync is left for later."""

KEY_ATTEMPTS = 12
"""Keys a PDS may refuse for one item. The last ones lie up to 32 s apart, so that no letters are common to all."""

MANY_ORPHANS = 10
"""More orphans than this, and more than half of a user's records of a type, look like a wrong or half-restored
database: they are left alone until a person says that they shall go."""

DOCUMENT_GONE = "its document is gone"
"""Why a record is an orphan whose document could still be rebuilt from it."""


@dataclass(slots=True)
class AccountPlan:
    """Everything that was read of one account, and what shall happen to it.

    Args:
        existing: Its records as they were read, decoded once; given up as soon as the plan is made.
        refused: Paths of operations that did not happen in this run and are not sent again.
        unsettled: Items of which a write was refused, so that no copy of their records is given up.
        remade: Path -> what was derived anew in this run because the store had lost its bytes.
        uploaded: CIDs of blobs this run has uploaded.
    """

    account: Account
    repository: Repository | None = None
    documents: dict[str, list[Document]] = field(default_factory=dict)
    selected: dict[str, set[str]] = field(default_factory=dict)
    entries: dict[str, dict[str, LedgerEntry]] = field(default_factory=dict)
    wanted: dict[str, list[Wanted]] = field(default_factory=dict)
    gone: dict[str, dict[str, str]] = field(default_factory=dict)
    plans: list[TypePlan] = field(default_factory=list)
    existing: dict[str, list[Existing]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unsettled: set[str] = field(default_factory=set)
    remade: dict[str, Derived] = field(default_factory=dict)
    uploaded: set[str] = field(default_factory=set)

    def records(self, media: MediaType) -> list[Existing]:
        """The records of one type; none when no repository was read."""
        if media.name not in self.existing and self.repository is not None:
            self.existing[media.name] = existing_records(self.repository, media)
        return self.existing.get(media.name, [])

    def operations(self) -> list[Operation]:
        return [operation for plan in self.plans for operation in plan.operations]

    def stuck(self) -> dict[str, Failure]:
        """Items whose last write was refused because of the account: reading it cannot tell that it is blocked."""
        return {
            entry.item: entry.failure
            for entries in self.entries.values()
            for entry in entries.values()
            if entry.state is State.BLOCKED and entry.failure is not None
        }


@dataclass(slots=True)
class Engine:
    """Mirrors accounts. All it touches comes in through ports.

    Args:
        documents, server, ledger, renderer: The ports.
        lexicons: What records must satisfy.
        host: Name of the PDS, under which its learned limits are kept.
        holder: Who holds the leases: unique to this process.
        now: The time, UTC.
        renders: Pool in which renditions are made.
    """

    documents: Documents
    server: DataServer
    ledger: Ledger
    renderer: Renderer
    lexicons: Lexicons
    host: str
    holder: str
    now: Callable[[], datetime]
    renders: Executor

    def sync(self, account: Account, selection: Selection, run_id: str) -> AccountReport:
        """Make the account's repository equal to its eligible documents.

        Never raises for what can be said of one account: a `Blocked` account and a transient error are in the report.
        """
        started = monotonic()
        books = Bookkeeper(self.documents, self.ledger, account, run_id, self.now)
        try:
            if account.blocked is not None or account.did is None:
                self._block(account, selection, books, account.blocked)
            else:
                with self.ledger.lease(account.did, self.holder):
                    self._mirror(account, selection, books)
        except (Transient, Permanent) as error:
            books.interrupt(error)
        books.report.seconds = monotonic() - started
        return books.report

    def survey(self, account: Account, selection: Selection, run_id: str = "") -> tuple[AccountPlan, AccountReport]:
        """The dry run: the plan of an account and what it amounts to. Nothing is written, made or uploaded.

        Raises:
            Transient: Something could not be read.
        """
        books = Bookkeeper(self.documents, self.ledger, account, run_id, self.now, dry=True)
        plan = AccountPlan(account)
        if account.blocked is not None or account.did is None:
            self._block(account, selection, books, account.blocked)
            return plan, books.report
        try:
            plan.repository = self.server.read_repository(account.did)
        except Blocked as error:
            self._block(account, selection, books, error)
            return plan, books.report
        books.records(plan.repository, selection.types)
        self._read(plan, selection, books, dry=True)
        self._decide(plan, selection)
        books.foresee(plan.plans, plan.stuck())
        return plan, books.report

    def render(self, account: Account, media: MediaType, selection: Selection, run_id: str) -> AccountReport:
        """Make the renditions of one type that are not known yet, and remember them for the sync that follows."""
        started = monotonic()
        books = Bookkeeper(self.documents, self.ledger, account, run_id, self.now)
        try:
            plan = AccountPlan(account)
            self._read(plan, replace(selection, types=(media,)), books, dry=False)
            books.rendered(media, plan.wanted[media.name])
        except Transient as error:
            books.interrupt(error)
        books.report.seconds = monotonic() - started
        return books.report

    def _mirror(self, account: Account, selection: Selection, books: Bookkeeper) -> None:
        plan = AccountPlan(account)
        try:
            plan.repository = self.server.read_repository(str(account.did))
            books.records(plan.repository, selection.types)
            self._read(plan, selection, books, dry=False)
            self._carry_out(plan, selection, books)
        except Blocked as error:
            if not plan.documents:
                self._block(account, selection, books, error)
            else:
                books.block_rest(error)
        except RateLimited as error:
            if not plan.plans:
                raise
            books.defer_rest(error)
        books.finish()

    def _carry_out(self, plan: AccountPlan, selection: Selection, books: Bookkeeper) -> None:
        """Plan and write, anew whenever the repository moved or some items take another key or other bytes."""
        moved = 0
        while True:
            self._decide(plan, selection)
            books.begin(plan.plans)
            try:
                if not self._write(plan, books):
                    return
            except RepositoryMoved as error:
                moved += 1
                if moved == ROUNDS:
                    raise RepositoryMoved(
                        f"the repository of {plan.account.key} changed {ROUNDS} times while it was written: "
                        "run it again later"
                    ) from error
                plan.repository = self.server.read_repository(str(plan.account.did))

    def _read(self, plan: AccountPlan, selection: Selection, books: Bookkeeper, *, dry: bool) -> None:
        """Documents, what the ledger knows, wanted records, and which records are orphans.

        The repository was read before: a record that appears while we read has its document in Mongo by then.
        """
        account = plan.account
        builder = RecordBuilder(
            self.lexicons,
            self.renderer,
            self.renders,
            lambda: int(self.now().timestamp() * 1000),
            dry=dry,
            retry=selection.retry,
        )
        for media in selection.types:
            documents = list(self.documents.stream(account, media))
            entries = dict(self.ledger.load(account, media))
            chosen = selection.documents(documents)
            plan.documents[media.name] = documents
            plan.entries[media.name] = entries
            plan.selected[media.name] = chosen
            books.know(media, documents, entries, chosen)
            wanted = builder.build(media, [d for d in documents if d.id in chosen], entries, account.did)
            books.offered(media, wanted)
            plan.wanted[media.name] = wanted + [Wanted(d, skipped=True) for d in documents if d.id not in chosen]
            if plan.repository is not None and selection.judges_orphans:
                records = plan.records(media)
                gone = self._gone(records, account, media, documents)
                if len(gone) > MANY_ORPHANS and 2 * len(gone) > len(records) and not selection.sweep:
                    books.doubt(media, len(gone), len(records))
                    gone = {}
                plan.gone[media.name] = gone

    def _gone(
        self, records: Sequence[Existing], account: Account, media: MediaType, documents: Sequence[Document]
    ) -> dict[str, str]:
        """Documents that records name and this account does not have, confirmed one by one (DEL-4, DEL-5)."""
        known = {document.id for document in documents}
        named = {record.ref for record in records if record.ref is not None}
        strangers = sorted(named - known)
        if not strangers or self.documents.is_empty(media):
            return {}
        owners = self.documents.owners(media, strangers)
        gone = {}
        for id in strangers:
            if id not in owners:
                gone[id] = DOCUMENT_GONE
            elif owners[id] != (None if account.is_guest else account.id):
                gone[id] = "its document belongs to another account"
        return gone

    @staticmethod
    def _decide(plan: AccountPlan, selection: Selection) -> None:
        if plan.repository is None:
            return
        did = plan.repository.did
        plan.plans = [
            plan_type(media, did, plan.wanted[media.name], plan.records(media), plan.gone.get(media.name))
            for media in selection.types
        ]
        plan.existing = {}

    def _write(self, plan: AccountPlan, books: Bookkeeper) -> bool:
        """Write what is planned; whether items are left that are wanted differently now, to be planned anew.

        Duplicates go last, in commits of their own, and only where the copy that stays is right: a commit that deletes
        a record and makes another one equal to it costs the reference PDS the block of both, and with it the whole
        repository (measured on 0.5.35; only moves from key to key are kept apart from that in its `DataDiff`).
        """
        operations = [each for each in plan.operations() if each.writes and each.path not in plan.refused]
        if plan.repository is None or not operations:
            return False
        writer = Writer(
            self.server,
            plan.account,
            lambda operation, blob: self._load(plan, operation, blob),
            BatchLimits(request_bytes=self.ledger.batch_bytes(self.host, REQUEST_BYTES)),
            lambda size: self.ledger.remember_batch_bytes(self.host, size),
            plan.uploaded,
        )
        again = False
        for outcome in writer.write([op for op in operations if op.kind is not Kind.DELETE_DUPLICATE], plan.repository):
            again |= self._settle(plan, books, outcome)
        copies = [op for op in operations if op.kind is Kind.DELETE_DUPLICATE and op.item not in plan.unsettled]
        for outcome in writer.write(copies, plan.repository):
            self._settle(plan, books, outcome)
        return again

    def _settle(self, plan: AccountPlan, books: Bookkeeper, outcome: Committed | Refused) -> bool:
        """Put a batch or a refusal into the books, or the item into the next round: whether there has to be one."""
        if isinstance(outcome, Committed):
            plan.repository = outcome.repository
            books.committed(outcome.operations)
            plan.unsettled.difference_update(operation.item for operation in outcome.operations)
            return False
        operation = outcome.operation
        plan.unsettled.add(operation.item)
        other = self._otherwise(plan, outcome)
        if other is None:
            plan.refused.add(operation.path)
            books.refused(outcome)
            return False
        listed = plan.wanted[operation.media.name]
        listed[[each.document.id for each in listed].index(other.document.id)] = other
        return True

    def _otherwise(self, plan: AccountPlan, outcome: Refused) -> Wanted | None:
        """What may be written instead of what was refused: the item under its next key, or with its remade media."""
        operation = outcome.operation
        wanted = operation.wanted
        if wanted is None:
            return None
        if outcome.about_key and wanted.salt < KEY_ATTEMPTS - 1:
            return replace(wanted, salt=wanted.salt + 1)
        derived = plan.remade.get(operation.path)
        if derived is not None and derived != wanted.derived:
            return replace(
                offer(self.lexicons, operation.media, wanted.document, derived),
                known_rkey=wanted.known_rkey,
                salt=wanted.salt,
            )
        return None

    def _load(self, plan: AccountPlan, operation: Operation, blob: BlobRef) -> bytes:
        """A blob's bytes; what the store has lost is made again from its source, once in a run."""
        try:
            return self.renderer.open(blob)
        except SourceMissing:
            if operation.document is None or operation.path in plan.remade:
                raise
            plan.remade[operation.path] = self.renderer.derive(operation.media, operation.document, None)
            return self.renderer.open(blob)

    def _block(self, account: Account, selection: Selection, books: Bookkeeper, error: Blocked | None) -> None:
        """Count and remember what waits for an account that cannot be used."""
        reason = error or NoCredentials(f"{account.key} has no account on the PDS")
        for media in selection.types:
            documents = list(self.documents.stream(account, media))
            chosen = selection.documents(documents)
            entries = dict(self.ledger.load(account, media))
            books.know(media, documents, entries, chosen)
            books.block(media, [d for d in documents if d.id in chosen and d.verdict is Verdict.ELIGIBLE], reason)
        books.report.blocked = reason


def sync_accounts(
    engine: Engine, accounts: Sequence[Account], selection: Selection, run_id: str, workers: int
) -> Iterator[AccountReport]:
    """Mirror many accounts at once, one writer each, yielding reports as they come.

    Args:
        workers: Accounts at a time. Two to four hide the disk waits of a PDS (ATProto facts, "Writing"); more hide the
            bookkeeping of some accounts behind the writes of others.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="account") as pool:
        futures = [pool.submit(engine.sync, account, selection, run_id) for account in accounts]
        for future in as_completed(futures):
            yield future.result()
