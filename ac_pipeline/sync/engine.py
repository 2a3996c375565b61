"""The engine: mirrors one account at a time, from documents to records, links and ledger.

Decide, then do: reads what there is (`reading.py`), unless nothing has changed since the repository was left in order
(`checkpoint.py`), lets `plan.py` decide and `writer.py` write, and after each batch stores links and ledger entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from ac_pipeline.accounts import Account
from ac_pipeline.errors import (
    AccountUnknown,
    Blocked,
    Permanent,
    RateLimited,
    RepositoryMoved,
    SourceMissing,
    Transient,
)
from ac_pipeline.items import BlobRef, RepositoryCheckpoint
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.planning.ahead import Ahead, Seen
from ac_pipeline.sync.planning.checkpoint import counts, is_up_to_date, may_be_up_to_date, up_to_date_types
from ac_pipeline.sync.planning.copies import deletions, find_lost_sources
from ac_pipeline.sync.planning.plan import AccountPlan, Kind, Made, Operation, Wanted, offer, plan_type
from ac_pipeline.sync.planning.reading import Reader, Unmade, make
from ac_pipeline.sync.ports import DataServer
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.blob_repair import BlobRepair, stand_in
from ac_pipeline.sync.writing.erased import erase
from ac_pipeline.sync.writing.recorder import Recorder
from ac_pipeline.sync.writing.writer import Committed, Refused, Writer

ROUNDS = 5  # How often a repository that somebody else writes to is planned anew before its sync is left for later
KEY_ATTEMPTS = 12  # Keys a PDS may refuse for one item; the last lie up to 32 s apart, with no letters in common


class AccountChanged(Transient):
    """Somebody changed the account in Mongo since it was read; `account` is as it is now."""

    def __init__(self, account: Account) -> None:
        super().__init__(f"{account.key} was changed in Mongo meanwhile (DID, password or deletion): run it again")
        self.account = account


@dataclass(slots=True, kw_only=True)
class Engine(Reader):
    """Mirrors accounts. All it touches comes in through ports."""

    server: DataServer
    host: str  # Name of the PDS, under which its learned limits are kept
    holder: str  # Who holds the leases: unique to this process
    gate: Callable[[], None] = lambda: None  # Raises when no record may be written; not asked for who is emptied
    erase_copies: bool = True  # True if copies of erased work in `site.standard.document` go too
    current: Callable[[Account], Account] = lambda account: account  # The account as Mongo has it now
    ahead: Ahead | None = None  # What was read of all accounts of the run; else each is looked at by itself

    def sync(self, account: Account, selection: Selection, run_id: str) -> AccountReport:
        """Make the account's repository equal to its eligible documents; of an account that is to be deleted, empty it.

        What has to be rendered is rendered without the lease, which an encoding would hold for minutes (MEDIA-23): all
        of it before, and what is found to be missing under the lease in between. A `Blocked` account and
        an error that ended its sync are in the report; raises Misconfigured when the gate is closed, or database or PDS
        have not what was there.
        """
        started = monotonic()
        made: Made = {}
        for number in range(ROUNDS):
            plan, recorder = self._begin(account, selection, run_id)
            try:
                if account.usable and account.pending_deletion is None:
                    self.gate()
                    if not number:
                        if self._was_up_to_date(plan, recorder):
                            break
                        plan, recorder = self._begin(account, selection, run_id)
                        made = self.render_missing(account, selection)
                # In the last round what is missing is made at once: documents change faster than they are rendered.
                plan.made = made if number < ROUNDS - 1 else None
                self._sync(plan, recorder)
            except Unmade as rest:
                made |= make(self.renderer, self.renders, rest.jobs)
                continue
            except AccountChanged as change:
                account = change.account
                if number < ROUNDS - 1:
                    continue
                recorder.interrupt(change)
            except (Transient, Permanent) as error:
                recorder.interrupt(error)
            break
        recorder.report.seconds = monotonic() - started
        return recorder.report

    def survey(
        self, account: Account, selection: Selection, run_id: str = "", *, seen: Seen | None = None
    ) -> tuple[AccountPlan, AccountReport]:
        """The dry run: the plan of an account and what it amounts to, by its repository as it is read now. Nothing is
        written, made or uploaded; raises Transient when something could not be read. `seen`: its documents and entries
        as they were read ahead, of an account that is not paused; else they are read now.
        """
        plan, recorder = self._begin(account, selection, run_id, dry=True)
        if not account.usable:
            self.block(plan, recorder, account.blocked)
            return plan, recorder.report
        if seen is None:
            self.leave_out_paused(plan, recorder)
        if plan.selection.types:
            try:
                plan.take(self.server.read_repository(str(account.did)))
            except Blocked as error:
                self._refuse(plan, recorder, error)
            else:
                if seen is None:
                    self.read(plan)
                else:
                    self._choose(plan, seen)
                self._judge(plan, recorder)
                recorder.foresee()
        return plan, recorder.report

    def render(self, account: Account, media: MediaType, selection: Selection, run_id: str) -> AccountReport:
        """Make the renditions of one type that are not known yet, and remember them for the sync that follows."""
        started = monotonic()
        plan, recorder = self._begin(account, replace(selection, types=(media,)), run_id)
        try:
            self.leave_out_paused(plan, recorder)
            self.read(plan)
            recorder.count()
            for each in plan.selection.types:
                recorder.rendered(plan.wanted[each.name])
        except Transient as error:
            recorder.interrupt(error)
        recorder.report.seconds = monotonic() - started
        return recorder.report

    def confirm(self, account: Account) -> None:
        """Raise AccountChanged where an account is not what it was: the run may have read it hours ago, and since then
        its owner may have asked for its deletion, or cancelled that (DEL-9)."""
        now = self.current(account)
        if now.standing != account.standing:
            raise AccountChanged(now)

    def _begin(
        self, account: Account, selection: Selection, run_id: str, *, dry: bool = False
    ) -> tuple[AccountPlan, Recorder]:
        plan = AccountPlan(account, selection, dry, erase_copies=self.erase_copies)
        return plan, Recorder(self.documents, self.ledger, plan, run_id, self.now)

    def _sync(self, plan: AccountPlan, recorder: Recorder) -> None:
        account = plan.account
        if not account.usable:
            self.block(plan, recorder, account.blocked)
            return
        with self.ledger.lease(str(account.did), self.holder):
            try:
                self._mirror(plan, recorder)
            finally:
                recorder.skip()

    def _refuse(self, plan: AccountPlan, recorder: Recorder, error: Blocked) -> None:
        """Record an account as blocked, unless the PDS knows the others as little: then nobody is."""
        if isinstance(error, AccountUnknown):
            self.safeguard.check_server()
        self.block(plan, recorder, error)

    def _mirror(self, plan: AccountPlan, recorder: Recorder) -> None:
        whole = plan.selection.whole
        self.leave_out_paused(plan, recorder)
        if not plan.selection.types:
            return
        try:
            if self._is_up_to_date(plan, recorder):
                return
            self._judge(plan, recorder)
            if any(each.writes for each in plan.operations()):
                self.confirm(plan.account)
            self._carry_out(plan, recorder)
            if plan.selection.agreed is None:
                self._repair_blobs(plan, recorder)
            if not plan.selection.partial:
                recorder.vanished()
        except Blocked as error:
            if not plan.plans:
                self._refuse(plan, recorder, error)
                return
            recorder.block_rest(error)
        except RateLimited as error:
            if not plan.plans:
                raise
            recorder.defer_rest(error)
        erase(self, plan, recorder)
        recorder.finish()
        if plan.checkpoint is None or plan.checkpoint.rev == plan.base or whole:
            self._remember(plan, recorder)

    def _choose(self, plan: AccountPlan, seen: Seen) -> None:
        """The records that are wanted of what was read ahead; raises as `choose`."""
        plan.documents, plan.entries = dict(seen.documents), dict(seen.entries)
        plan.selected = {name: plan.selection.documents(found) for name, found in seen.documents.items()}
        self.choose(plan)

    def _was_up_to_date(self, plan: AccountPlan, recorder: Recorder) -> bool:
        """True if there was nothing to do when the account was read ahead, which is counted then."""
        seen = self.ahead.take(plan.account) if self.ahead is not None else None
        if seen is None:
            return False
        plan.made = {}
        try:
            self._choose(plan, seen)
        except Unmade:
            return False
        if not is_up_to_date(plan, seen.checkpoint, self.now):
            return False
        recorder.untouched(seen.checkpoint.counts)
        return True

    def _is_up_to_date(self, plan: AccountPlan, recorder: Recorder) -> bool:
        """True if there is nothing to do, which is counted then; else all there is has been read. Repository or
        revision come first: a record that appears while we read has its document in Mongo by then.
        """
        did = str(plan.account.did)
        plan.checkpoint = known = self.ledger.checkpoint(did)
        unmoved = None
        if known is not None and may_be_up_to_date(known, plan.selection) and self._stands_at(known):
            unmoved = known.rev
            self.read(plan)
            if is_up_to_date(plan, known, self.now):
                recorder.untouched(known.counts)
                return True
        plan.take(self.server.read_repository(did))
        if plan.base != unmoved:
            self.read(plan)
        return False

    def _stands_at(self, known: RepositoryCheckpoint) -> bool:
        """True if the repository is at the revision of its checkpoint. A list that shows an older one than the
        checkpoint was read before a sync of another run ended.
        """
        found = self.ahead.revision(known.did) if self.ahead is not None else None
        if found is None or found < known.rev:
            found = self.server.latest_commit(known.did).rev
        return found == known.rev

    def _judge(self, plan: AccountPlan, recorder: Recorder) -> None:
        """Count what was read, find the orphans and make the plan."""
        recorder.count()
        self.find_orphans(plan, recorder)
        find_lost_sources(plan, self.documents)
        self._decide(plan)

    def _carry_out(self, plan: AccountPlan, recorder: Recorder) -> None:
        """Write what is planned; plan anew whenever the repository moved or items take another key or other bytes."""
        moved = 0
        while True:
            recorder.begin()
            try:
                if not self._write(plan, recorder):
                    return
            except RepositoryMoved as error:
                moved += 1
                if moved == ROUNDS:
                    raise RepositoryMoved(
                        f"the repository of {plan.account.key} changed {ROUNDS} times while it was written: "
                        "run it again later"
                    ) from error
                plan.take(self.server.read_repository(str(plan.account.did)))
            self._decide(plan)

    def _repair_blobs(self, plan: AccountPlan, recorder: Recorder) -> None:
        """Give the PDS back what it has lost of the blobs of records that are in place (VERIFY-5)."""
        repair = BlobRepair(self, plan, recorder)
        if repair.repair():
            self._decide(plan)
            self._carry_out(plan, recorder)
            repair.check()

    def _remember(self, plan: AccountPlan, recorder: Recorder) -> None:
        """How the repository is left, unless that is known already.

        What somebody else changed is vouched for only by a run that was asked for everything: after one about some
        items or types the checkpoint stays behind, and the drift sensor sees to the rest (VERIFY-9).
        """
        if plan.repository is None:
            return
        done = up_to_date_types(plan, recorder.links)
        left = RepositoryCheckpoint(plan.repository.did, plan.repository.rev, self.now(), done, counts(plan))
        if plan.checkpoint is None or replace(left, at=plan.checkpoint.at) != plan.checkpoint:
            self.ledger.keep_checkpoint(left)

    @staticmethod
    def _decide(plan: AccountPlan) -> None:
        """Plan what is selected; in a sync that is held to what was agreed, nothing else."""
        did, why, agreed = str(plan.account.did), plan.account.pending_deletion, plan.selection.agreed
        plan.plans = [
            plan_type(media, did, plan.wanted[name], plan.records(media), plan.gone.get(name), pending_deletion=why)
            for name, media in ((media.name, media) for media in plan.selection.types)
        ]
        for made in plan.plans if plan.erase_copies else ():
            made.operations += deletions(plan, made)
        plan.existing = {}
        if agreed is not None:
            agreed.hold(plan.plans, plan.skipped)

    def _write(self, plan: AccountPlan, recorder: Recorder) -> bool:
        """Write what is planned; True if items are left that are wanted differently now, to be planned anew.

        Duplicates go last, in commits of their own, and only where the copy that stays is right: a commit that deletes
        a record and makes another one equal to it costs the reference PDS the block of both, and with it the whole
        repository (measured on 0.5.35; only moves from key to key are kept apart from that in its `DataDiff`).
        """
        operations = [each for each in plan.operations() if each.writes and each.path not in plan.refused]
        if plan.repository is None or not operations:
            return False
        writer = self.writer_of(plan)
        again = False
        for outcome in writer.write([op for op in operations if op.kind is not Kind.DELETE_DUPLICATE], plan.repository):
            again |= self.take(plan, recorder, outcome)
        copies = [op for op in operations if op.kind is Kind.DELETE_DUPLICATE and op.item not in plan.unresolved]
        for outcome in writer.write(copies, plan.repository):
            self.take(plan, recorder, outcome)
        return again

    def writer(
        self, account: Account, load: Callable[[Operation, BlobRef], bytes], uploaded: set[str] | None = None
    ) -> Writer:
        """A writer to the repository of an account; arguments as `Writer` has them."""
        known = set() if uploaded is None else uploaded
        return Writer(self.server, self.ledger, self.host, self.now, account, load, known)

    def writer_of(self, plan: AccountPlan) -> Writer:
        """A writer of what is planned."""
        return self.writer(plan.account, lambda operation, blob: self.load(plan, operation, blob), plan.uploaded)

    def take(self, plan: AccountPlan, recorder: Recorder, outcome: Committed | Refused) -> bool:
        """Record a batch or a refusal, or put the item into the next round; True if there has to be one."""
        if isinstance(outcome, Committed):
            plan.repository = outcome.repository
            plan.changed.update(operation.media.name for operation in outcome.operations)
            recorder.committed(outcome.operations)
            plan.unresolved.difference_update(operation.item for operation in outcome.operations)
            return False
        operation = outcome.operation
        plan.unresolved.add(operation.item)
        other = self._otherwise(plan, outcome)
        if other is None:
            plan.refused.add(operation.path)
            recorder.refused(outcome)
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
        if derived is None or derived == wanted.derived:
            return None
        other = offer(self.lexicons, operation.media, wanted.document, derived)
        return replace(other, known_rkey=wanted.known_rkey, salt=wanted.salt)

    def load(self, plan: AccountPlan, operation: Operation, blob: BlobRef) -> bytes:
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
) -> Iterator[tuple[Account, AccountReport]]:
    """Mirror many accounts at once, one writer each, yielding reports as they come.

    Two to four workers hide the disk waits of a PDS (ATProto facts, "Writing"); more hide the reading and recording of
    some accounts behind the writes of others.
    """
    ahead = Ahead(engine.documents, engine.ledger, engine.server, accounts, selection)
    engine = replace(engine, ahead=ahead)
    return account_reports(accounts, lambda account: engine.sync(account, selection, run_id), workers)
