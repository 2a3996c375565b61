"""The engine: mirrors one account at a time, from documents to records, links and ledger.

Decide, then do: takes who may be synchronised (`reading.py`), reads what there is (`reading.py`), unless nothing has
changed since the repository was left in order (`checkpoint.py`), lets `diff.py` decide, lets `writer.py` write, and
after each committed batch stores links and ledger entries. Sources: design, section 1; acceptance, "Writing" and
"Deletions".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.errors import (
    AccountUnknown,
    Blocked,
    Permanent,
    RateLimited,
    RepositoryMoved,
    SourceMissing,
    Transient,
)
from ac_pipeline.items import BlobRef, RepositoryMark
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.planning.checkpoint import counts, is_settled, may_be_settled, settled
from ac_pipeline.sync.planning.copies import deletions, find_lost_sources
from ac_pipeline.sync.planning.diff import AccountPlan, plan_type
from ac_pipeline.sync.planning.plan import Kind, Operation, Wanted
from ac_pipeline.sync.planning.reading import DOCUMENT_GONE, Admission, Reader
from ac_pipeline.sync.planning.wanted import Made, Unmade, make, offer
from ac_pipeline.sync.ports import DataServer, Documents, Ledger, Renderer
from ac_pipeline.sync.report import AccountReport, foresee
from ac_pipeline.sync.safeguard import Safeguard
from ac_pipeline.sync.selection import Agreement, Selection
from ac_pipeline.sync.writing.blob_repair import Mender, stand_in
from ac_pipeline.sync.writing.erased import Eraser
from ac_pipeline.sync.writing.recorder import Bookkeeper
from ac_pipeline.sync.writing.writer import Committed, Refused, Writer

__all__ = ["DOCUMENT_GONE", "KEY_ATTEMPTS", "ROUNDS", "AccountPlan", "Engine", "sync_accounts"]

ROUNDS = 5
"""How often a repository that somebody else writes to is planned anew before its sync is left for later."""

KEY_ATTEMPTS = 12
"""Keys a PDS may refuse for one item. The last ones lie up to 32 s apart, so that no letters are common to all."""


def _open() -> None:
    """A gate that keeps nothing back."""


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
        safeguard: Keeps a wrong or half-restored database, and a wrong PDS, from doing harm.
        gate: Raises when no record may be written; accounts that are emptied do not ask.
        grace: Seconds that an item without a record waits for media that the platform is still making.
        erase_copies: Whether copies of erased work in `site.standard.document` go too.
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
    safeguard: Safeguard
    gate: Callable[[], None] = _open
    grace: float = 600.0
    erase_copies: bool = True

    def sync(self, account: Account, selection: Selection, run_id: str) -> AccountReport:
        """Make the account's repository equal to its eligible documents; of an account that is leaving, empty it.

        What has to be rendered is rendered without the lease, which an encoding would hold for minutes (MEDIA-23): all
        of it before, and what is found to be missing under the lease in between.

        Never raises for what can be said of one account: a `Blocked` account and a transient error are in the report.

        Raises:
            Misconfigured: The gate is closed, or database or PDS have not what was there.
        """
        started = monotonic()
        made: Made = {}
        for number in range(ROUNDS):
            books = Bookkeeper(self.documents, self.ledger, account, run_id, self.now)
            try:
                if not number and account.blocked is None and account.did is not None and account.leaving is None:
                    self.gate()
                    made = self._reader.render(account, selection)
                # In the last round what is missing is made at once: documents change faster than they are rendered.
                plan = AccountPlan(account, made if number < ROUNDS - 1 else None, erase_copies=self.erase_copies)
                self._sync(plan, selection, books)
            except Unmade as rest:
                made |= make(self.renderer, self.renders, rest.jobs)
                continue
            except (Transient, Permanent) as error:
                books.interrupt(error)
            break
        books.report.seconds = monotonic() - started
        return books.report

    def _sync(self, plan: AccountPlan, selection: Selection, books: Bookkeeper) -> None:
        account = plan.account
        if account.blocked is not None or account.did is None:
            self._admission.block(account, selection, books, account.blocked)
            return
        with self.ledger.lease(account.did, self.holder):
            try:
                self._mirror(plan, selection, books)
            finally:
                books.report.aside = list(plan.aside.values())
                books.set_aside(books.report.aside)

    def survey(self, account: Account, selection: Selection, run_id: str = "") -> tuple[AccountPlan, AccountReport]:
        """The dry run: the plan of an account and what it amounts to. Nothing is written, made or uploaded.

        The repository is always read: what is said of it is said of what it holds.

        Raises:
            Transient: Something could not be read.
        """
        books = Bookkeeper(self.documents, self.ledger, account, run_id, self.now, dry=True)
        plan = AccountPlan(account, erase_copies=self.erase_copies)
        if account.blocked is not None or account.did is None:
            self._admission.block(account, selection, books, account.blocked)
            return plan, books.report
        selection = self._admission.released(account, selection, books)
        if not selection.types:
            return plan, books.report
        try:
            plan.take(self.server.read_repository(account.did))
        except Blocked as error:
            self._refuse(account, selection, books, error)
            return plan, books.report
        self._reader.read(plan, selection, dry=True)
        self._judge(plan, selection, books)
        foresee(plan, books.report)
        return plan, books.report

    def render(self, account: Account, media: MediaType, selection: Selection, run_id: str) -> AccountReport:
        """Make the renditions of one type that are not known yet, and remember them for the sync that follows."""
        started = monotonic()
        books = Bookkeeper(self.documents, self.ledger, account, run_id, self.now)
        try:
            plan = AccountPlan(account)
            selection = self._admission.released(account, replace(selection, types=(media,)), books)
            self._reader.read(plan, selection)
            books.count(plan, selection.types)
            for each in selection.types:
                books.rendered(each, plan.wanted[each.name])
        except Transient as error:
            books.interrupt(error)
        books.report.seconds = monotonic() - started
        return books.report

    @property
    def _admission(self) -> Admission:
        return Admission(self.documents, self.ledger)

    def _refuse(self, account: Account, selection: Selection, books: Bookkeeper, error: Blocked) -> None:
        """Book an account as blocked, unless the PDS knows the others as little: then nobody is."""
        if isinstance(error, AccountUnknown):
            self.safeguard.check_server()
        self._admission.block(account, selection, books, error)

    @property
    def _reader(self) -> Reader:
        return Reader(
            self.documents,
            self.ledger,
            self.renderer,
            self.lexicons,
            self.now,
            self.renders,
            self.grace,
            self.safeguard,
        )

    def _mirror(self, plan: AccountPlan, asked: Selection, books: Bookkeeper) -> None:
        selection = self._admission.released(plan.account, asked, books)
        if not selection.types:
            return
        try:
            if self._is_settled(plan, selection, books):
                return
            self._judge(plan, selection, books)
            self._carry_out(plan, books, selection.agreed)
            if selection.agreed is None:
                self._mend(plan, selection, books)
            if not selection.partial:
                books.vanished(plan, selection.types)
        except Blocked as error:
            if not plan.plans:
                self._refuse(plan.account, selection, books, error)
                return
            books.block_rest(error)
        except RateLimited as error:
            if not plan.plans:
                raise
            books.defer_rest(error)
        Eraser(self.documents, self.ledger, self.renderer).erase(plan, selection, books)
        books.finish()
        if plan.mark is None or plan.mark.rev == plan.base or asked.whole:
            self._remember(plan, selection, books)

    def _is_settled(self, plan: AccountPlan, selection: Selection, books: Bookkeeper) -> bool:
        """Whether there is nothing to do, which is counted then; else the repository and all it is compared with are
        read.

        Repository or revision come first: a record that appears while we read has its document in Mongo by then.
        """
        did = str(plan.account.did)
        plan.mark = mark = self.ledger.mark(did)
        unmoved = None
        if mark is not None and may_be_settled(mark, selection) and self.server.latest_commit(did).rev == mark.rev:
            unmoved = mark.rev
            self._reader.read(plan, selection)
            if is_settled(plan, selection, mark, self.now):
                books.untouched(plan, selection.types, mark.counts)
                return True
        plan.take(self.server.read_repository(did))
        if plan.base != unmoved:
            self._reader.read(plan, selection)
        return False

    def _judge(self, plan: AccountPlan, selection: Selection, books: Bookkeeper) -> None:
        """Count what was read, find the orphans and make the plan."""
        if plan.repository is None:
            return
        books.records(plan.repository, selection.types)
        books.count(plan, selection.types)
        self._reader.find_orphans(plan, selection, books)
        find_lost_sources(plan, selection, self.documents)
        plan.types = selection.types
        self._decide(plan, selection.agreed)

    def _carry_out(self, plan: AccountPlan, books: Bookkeeper, agreed: Agreement | None = None) -> None:
        """Write what is planned; plan anew whenever the repository moved or some items take another key or other
        bytes."""
        moved = 0
        while True:
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
                plan.take(self.server.read_repository(str(plan.account.did)))
            self._decide(plan, agreed)

    def _mend(self, plan: AccountPlan, selection: Selection, books: Bookkeeper) -> None:
        """Give the PDS back what it has lost of the blobs of records that are in place (VERIFY-5)."""
        mender = Mender(
            plan,
            books,
            self.server,
            self.lexicons,
            lambda operation, blob: self._load(plan, operation, blob),
            lambda refused: self._settle(plan, books, refused),
        )
        if mender.mend(selection, lambda: self._writer(plan)):
            self._decide(plan)
            self._carry_out(plan, books)
            mender.check()

    def _remember(self, plan: AccountPlan, selection: Selection, books: Bookkeeper) -> None:
        """How the repository is left, unless that is known already.

        What somebody else changed is vouched for only by a run that was asked for everything: after one about some
        items or types the mark stays behind, and the drift sensor sees to the rest (VERIFY-9).
        """
        if plan.repository is None:
            return
        done = settled(plan, selection, books.links)
        mark = RepositoryMark(plan.repository.did, plan.repository.rev, self.now(), done, counts(plan))
        if plan.mark is None or replace(mark, at=plan.mark.at) != plan.mark:
            self.ledger.remember_mark(mark)

    @staticmethod
    def _decide(plan: AccountPlan, agreed: Agreement | None = None) -> None:
        if plan.repository is None:
            return
        did, leaving = plan.repository.did, plan.account.leaving
        plan.plans = [
            plan_type(
                media, did, plan.wanted[media.name], plan.records(media), plan.gone.get(media.name), leaving=leaving
            )
            for media in plan.types
        ]
        for made in plan.plans if plan.erase_copies else ():
            made.operations += deletions(plan, made)
        plan.existing = {}
        if agreed is not None:
            agreed.hold(plan.plans, plan.aside)

    def _write(self, plan: AccountPlan, books: Bookkeeper) -> bool:
        """Write what is planned; whether items are left that are wanted differently now, to be planned anew.

        Duplicates go last, in commits of their own, and only where the copy that stays is right: a commit that deletes
        a record and makes another one equal to it costs the reference PDS the block of both, and with it the whole
        repository (measured on 0.5.35; only moves from key to key are kept apart from that in its `DataDiff`).
        """
        operations = [each for each in plan.operations() if each.writes and each.path not in plan.refused]
        if plan.repository is None or not operations:
            return False
        writer = self._writer(plan)
        again = False
        for outcome in writer.write([op for op in operations if op.kind is not Kind.DELETE_DUPLICATE], plan.repository):
            again |= self._settle(plan, books, outcome)
        copies = [op for op in operations if op.kind is Kind.DELETE_DUPLICATE and op.item not in plan.unsettled]
        for outcome in writer.write(copies, plan.repository):
            self._settle(plan, books, outcome)
        return again

    def writer(
        self, account: Account, load: Callable[[Operation, BlobRef], bytes], uploaded: set[str] | None = None
    ) -> Writer:
        """A writer to the repository of an account; arguments as `Writer` has them."""
        known = set() if uploaded is None else uploaded
        return Writer(self.server, self.ledger, self.host, self.now, account, load, known)

    def _writer(self, plan: AccountPlan) -> Writer:
        return self.writer(plan.account, lambda operation, blob: self._load(plan, operation, blob), plan.uploaded)

    def _settle(self, plan: AccountPlan, books: Bookkeeper, outcome: Committed | Refused) -> bool:
        """Put a batch or a refusal into the books, or the item into the next round: whether there has to be one."""
        if isinstance(outcome, Committed):
            plan.repository = outcome.repository
            plan.changed.update(operation.media.name for operation in outcome.operations)
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
        original = plan.stand_ins.get(blob.cid)
        if original is not None:
            return stand_in(self.renderer.open(original), original.mime_type)
        try:
            return self.renderer.open(blob)
        except SourceMissing:
            if operation.document is None or operation.path in plan.remade:
                raise
            plan.remade[operation.path] = self.renderer.derive(operation.media, operation.document, None)
            return self.renderer.open(blob)


def sync_accounts(
    engine: Engine, accounts: Sequence[Account], selection: Selection, run_id: str, workers: int
) -> Iterator[AccountReport]:
    """Mirror many accounts at once, one writer each, yielding reports as they come.

    Args:
        workers: Accounts at a time. Two to four hide the disk waits of a PDS (ATProto facts, "Writing"); more hide the
            bookkeeping of some accounts behind the writes of others.
    """
    for _, report in account_reports(accounts, lambda account: engine.sync(account, selection, run_id), workers):
        yield report
