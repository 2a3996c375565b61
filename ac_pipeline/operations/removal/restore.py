"""The restore: brings an account's records back, from Mongo or from a snapshot, and lets them be mirrored again.

From Mongo it is the ordinary sync, removals included (PLAN-6). From a snapshot the same records come back under the
same keys, byte by byte; what may come back is decided in `restore_plan.py`. Both can be repeated after a kill. What a
snapshot holds is `snapshot.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, cast

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import AccountDeleted, Misconfigured, Transient
from ac_pipeline.items import Attempt, LedgerEntry, Stage, State
from ac_pipeline.media.base import Link, LinkUpdate, MediaType
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.declare import Declaration, Report, Table, Work, exit_code, failures_table
from ac_pipeline.operations.parameters import OfOneUser, OfTypes, dry_run_option, option, why_option
from ac_pipeline.operations.plan import OPERATION_COLUMNS, dry_run, known_limits, plan_report
from ac_pipeline.operations.removal.restore_plan import Held, RestorePlan, RestoreReport, Saved, plan_restore
from ac_pipeline.operations.removal.snapshot import Progress, Vault, open_vault, quiet
from ac_pipeline.operations.removal.steps import audited, conclude, failed_item, repository_of, until_unmoved
from ac_pipeline.sync.planning.plan import Wanted, failure_of
from ac_pipeline.sync.ports import Ledger
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.recorder import Entries
from ac_pipeline.sync.writing.writer import Refused

MONGO, LATEST = "mongo", "latest"
"""What a restore can be made from besides the id of a snapshot."""

_THERE = {State.WRITTEN, State.UNCHANGED}


def restore_from_mongo(
    vault: Vault, account: Account, types: Sequence[MediaType], *, run_id: str, why: str = ""
) -> RestoreReport:
    """Release the hold and mirror what Mongo holds today: nothing removed returns, keys are those of before.

    Raises:
        Transient: Nothing was begun.
    """
    started, engine = monotonic(), vault.engine
    report = RestoreReport(account.key, source=MONGO)
    with vault.audit.during("restore", [account], [media.name for media in types], why=why) as entry:
        engine.ledger.release(account, types)
        vault.archive.close(account)
        report.sync = engine.sync(account, Selection(types=tuple(types)), run_id)
        report.error = report.sync.error or report.sync.blocked
        report.restored = {name: tally.written for name, tally in report.sync.types.items() if tally.written}
        entry.counts.update(report.restored)
        if report.error is not None:
            entry.outcome = f"stopped: {report.error.message}"
    report.seconds = monotonic() - started
    return report


class _NothingHeld:
    """A ledger that knows of no hold; everything else is the real one's."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)

    def holds(self, account: Account) -> Mapping[str, str]:
        return {}


def find_snapshot(vault: Vault, account: Account, types: Sequence[MediaType], source: str) -> Snapshot:
    """The snapshot that `--from` names: an id, or `latest`, the newest one that holds anything of these types.

    Raises:
        Misconfigured: There is none, it is of another repository, or it never became complete.
    """
    archive = vault.archive
    if source == LATEST:
        found = archive.latest(account, types)
        if found is None:
            raise Misconfigured(f"There is no complete snapshot that holds records of {account.key}.")
        return found
    snapshot = archive.index.get(source)
    if snapshot.did != account.did or snapshot.account != account.id:
        raise Misconfigured(f"Snapshot {source} is of another repository than that of {account.key}.")
    if not snapshot.complete:
        raise Misconfigured(f"Snapshot {source} never became complete: it is not used.")
    return snapshot


def plan_from_snapshot(
    vault: Vault, account: Account, types: Sequence[MediaType], snapshot: Snapshot, *, overwrite: bool = False
) -> RestorePlan:
    """What a restore would do; reads only. The snapshot's blobs are left unread.

    Raises:
        SourceMissing: The snapshot is not whole.
        Blocked, Transient: Something could not be read.
    """
    covered = _covered(snapshot, types)
    contents = [(each.id, vault.archive.contents(each)) for each in vault.archive.chain(snapshot)]
    repository = vault.engine.server.read_repository(_usable(account))
    return plan_restore(vault.engine, account, covered, contents, repository, overwrite=overwrite)


def restore_from_snapshot(
    vault: Vault,
    account: Account,
    types: Sequence[MediaType],
    snapshot: Snapshot,
    *,
    run_id: str,
    overwrite: bool = False,
    why: str = "",
    progress: Progress = quiet,
) -> RestoreReport:
    """Write what a snapshot holds and the repository lacks, then release the hold.

    Args:
        types: The types to bring back, those of the snapshot only.
        overwrite: Replace records that are there but differ.

    Raises:
        Misconfigured: The snapshot does not hold one of these types.
        SourceMissing: The snapshot is not whole; nothing was begun.
        Blocked, Transient: Nothing was begun. What ends a restore that has begun is in its report.
    """
    did, started = _usable(account), monotonic()
    report = RestoreReport(account.key, source=snapshot.id)
    covered, engine = _covered(snapshot, types), vault.engine
    work = _Restore(vault, account, covered, overwrite, report, run_id, progress)
    with engine.ledger.lease(did, engine.holder):
        # The snapshot and the earlier ones of its wipe, each verified with its blobs, newest first.
        chain = vault.archive.chain(snapshot)
        contents = [(each.id, vault.archive.check(each, covered, progress)) for each in chain]
        counts = {media.name: snapshot.records.get(media.name, 0) for media in covered}
        with audited(vault, report, "restore", account, covered, why=why, counts=counts) as entry:
            try:
                work.run(contents)
                if report.held or report.failures:
                    entry.outcome = f"done; {len(report.held)} held back, {len(report.failures)} refused"
            finally:
                entry.counts = dict(report.restored)
        if report.error is None:
            engine.ledger.release(account, covered)
            vault.archive.close(account)
    conclude(vault, report, account, covered, started)
    return report


@dataclass(slots=True)
class _Restore:
    """One restore from a snapshot."""

    vault: Vault
    account: Account
    types: tuple[MediaType, ...]
    overwrite: bool
    report: RestoreReport
    run_id: str
    progress: Progress
    refused: set[str] = field(default_factory=set)
    uploaded: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    linked: set[str] = field(default_factory=set)
    entries: Entries = field(init=False)

    def __post_init__(self) -> None:
        self.entries = Entries(self.account, self.run_id, self.vault.engine.now)

    def run(self, contents: Sequence[tuple[str, Repository]]) -> None:
        """Plan and write, anew whenever somebody else writes in between."""
        engine, account, types = self.vault.engine, self.account, self.types
        for media in types:
            self.entries.know(engine.ledger.load(account, media).values())

        def step() -> None:
            repository = engine.server.read_repository(str(account.did))
            plan = plan_restore(engine, account, types, contents, repository, overwrite=self.overwrite)
            self._attempt(plan, repository)

        until_unmoved(account, "restored", step)

    def _attempt(self, plan: RestorePlan, repository: Repository) -> None:
        report, engine = self.report, self.vault.engine
        self._count([saved for saved in plan.present if saved.path in self.sent])  # without an answer
        self._record_present(plan.present)
        report.held, report.wrong_shaped = plan.held, max(report.wrong_shaped, plan.wrong_shaped)
        report.present = len(plan.present) - sum(report.restored.values())
        operations = [operation for operation in plan.operations if operation.path not in self.refused]
        self.sent = {operation.path for operation in operations}
        writer = engine.writer(
            self.account, lambda operation, blob: self.vault.archive.files.blob(blob.cid), self.uploaded
        )
        done, waiting = 0, None
        for outcome in writer.write(operations, repository):
            if isinstance(outcome, Refused):
                self._refuse(outcome, plan.saved[outcome.operation.path])
                waiting = waiting or (outcome.error if isinstance(outcome.error, Transient) else None)
                continue
            batch = [plan.saved[operation.path] for operation in outcome.operations]
            self._count(batch)
            self._record_present(batch)
            done += len(batch)
            self.progress("Writing records", done, len(operations))
        if waiting is not None:
            raise waiting

    def _count(self, saved: Sequence[Saved]) -> None:
        for name, number in Counter(each.counted for each in saved).items():
            self.report.restored[name] = self.report.restored.get(name, 0) + number
        self.sent -= {each.path for each in saved}

    def _refuse(self, outcome: Refused, saved: Saved) -> None:
        """Only the report knows of it: in the ledger it would keep the sync from writing the item anew."""
        self.refused.add(outcome.operation.path)
        failure, document = failure_of(outcome.stage, outcome.error), saved.document
        code = document.code if document else None
        self.report.failures.append(failed_item(saved.item, self.account.key, failure, State.QUARANTINED, code=code))

    def _record_present(self, present: Sequence[Saved]) -> None:
        """These records are there: their links and their entries, each in one bulk write per type."""
        updates: dict[str, list[LinkUpdate]] = defaultdict(list)
        types: dict[str, MediaType] = {}
        entries: list[LedgerEntry] = []
        for saved in present:
            media, document = saved.media, saved.document
            types[media.name] = media
            if saved.copy or not saved.shown:
                continue
            did, rkey = str(self.account.did), saved.record.rkey
            link = Link(rkey, at_uri(did, media.nsid, rkey), saved.record.cid, did)
            if document is not None and _may_link(document.link, link) and document.id not in self.linked:
                updates[media.name].append(LinkUpdate(document.id, link))
            entry = self._entry(saved)
            if entry is not None:
                entries.append(entry)
        for name, listed in updates.items():
            self.vault.engine.documents.write_links(types[name], listed)
            self.linked.update(update.document for update in listed)
        if entries:
            self.entries.know(entries)
            self.vault.engine.ledger.save(entries)

    def _entry(self, saved: Saved) -> LedgerEntry | None:
        """What the ledger shall know of a record that is there; None when it knows."""
        item, record, account = saved.item, saved.record, self.account
        known = self.entries.of(item)
        where = (record.rkey, record.cid, account.did)
        if known is not None and known.state in _THERE and (known.rkey, known.cid, known.did) == where:
            return None
        if saved.document is None:
            if known is None:
                return None
            now = self.vault.engine.now()
            line = Attempt(now, self.run_id, Stage.WRITE, State.WRITTEN, None, "restored")
            history = (*known.history, line)
            return known.with_(state=State.WRITTEN, cid=record.cid, run_id=self.run_id, updated_at=now, history=history)
        derived = known.derived if known is not None else None
        wanted = Wanted(saved.document, record.value, record.cid, derived)
        entry = self.entries.written(wanted, record.rkey)
        # The renditions that are known were made for the document as it was then. Whether they still fit is for the
        # next sync to find, so the fingerprint stays with them.
        return entry.with_(fingerprint=known.fingerprint) if known is not None and known.fingerprint else entry


def _may_link(stored: Link | None, right: Link) -> bool:
    """True if a stored link is to be replaced: when there is none, or it is an incomplete one to this very record. One
    to another record is for the sync to judge, which sees all records."""
    if stored is None or stored.rkey is None:
        return True
    return stored != right and stored.rkey == right.rkey and stored.did in (None, right.did)


def _covered(snapshot: Snapshot, types: Sequence[MediaType]) -> tuple[MediaType, ...]:
    """The chosen types that a snapshot holds."""
    covered = tuple(media for media in types if media.name in snapshot.types)
    if not covered:
        raise Misconfigured(f"Snapshot {snapshot.id} holds {', '.join(snapshot.types)} and none of the chosen types.")
    return covered


def _usable(account: Account) -> str:
    """The account's DID. Of an account that is being deleted everything is held back, which its plan says."""
    if account.blocked is not None and not isinstance(account.blocked, AccountDeleted):
        raise account.blocked
    return repository_of(account, "restore to")


class RestoreParameters(OfOneUser, OfTypes):
    """Whose records to bring back, and from where."""

    source: str = option(
        MONGO,
        "mongo: what Mongo holds today, as a sync makes it. latest: the newest snapshot. Or a snapshot's id.",
        name="--from",
        metavar="SOURCE",
    )
    overwrite: bool = option(False, "From a snapshot: replace records that are there but differ, too.")
    dry_run: bool = dry_run_option("brought back")
    why: str = why_option()


def run_restore(work: Work, parameters: RestoreParameters) -> Report:
    """Bring a user's records back and let them be mirrored again.

    From Mongo: what Mongo holds today, as a sync makes it, removals included. From a snapshot: the same records
    under the same keys, byte by byte; what was removed since is held back and listed.
    """
    vault, account, types = open_vault(work.pipeline), parameters.account(work.pipeline), parameters.media
    if parameters.source == MONGO:
        if parameters.dry_run:
            return _planned_from_mongo(work, account, types)
        return _restored(restore_from_mongo(vault, account, types, run_id=work.run_id, why=parameters.why), types)
    snapshot = find_snapshot(vault, account, types, parameters.source)
    plan = plan_from_snapshot(vault, account, types, snapshot, overwrite=parameters.overwrite)
    if parameters.dry_run:
        return _planned(plan)
    work.say(plan.price.sentence)
    report = restore_from_snapshot(
        vault,
        account,
        types,
        snapshot,
        run_id=work.run_id,
        overwrite=parameters.overwrite,
        why=parameters.why,
        progress=work.progress,
    )
    return _restored(report, types)


def _planned_from_mongo(work: Work, account: Account, types: Sequence[MediaType]) -> Report:
    engine = work.pipeline.engine
    operations = Table("operations", OPERATION_COLUMNS, "Would be brought back (nothing was written)")
    made = dry_run(
        replace(engine, ledger=cast(Ledger, _NothingHeld(engine.ledger))),  # as once the holds are released
        [account],
        Selection(types=tuple(types)),
        limits=known_limits(work.pipeline),
        workers=1,
        take=lambda operation, _: operations.add(operation.to_json()),
    )
    return plan_report(made, operations)


def _planned(plan: RestorePlan) -> Report:
    return Report(
        f"{len(plan.operations)} records of {plan.user} would be brought back.",
        plan.to_json(),
        [
            Table.counts("would_be_restored", plan.counts, title=f"Restore of {plan.user} (nothing was written)"),
            _held_table(plan.held),
        ],
        {"user": plan.user, "snapshots": ", ".join(plan.snapshots), "present": len(plan.present)},
        [f"{len(plan.present)} records are there already.", *_shape(plan.wrong_shaped), plan.price.sentence],
    )


def _restored(report: RestoreReport, types: Sequence[MediaType]) -> Report:
    failures = [*report.failures, *(report.sync.failures if report.sync is not None else [])]
    on_hold = ", ".join(report.on_hold)
    lines = [f"{report.present} records were there already.", *_shape(report.wrong_shaped)]
    if report.sync is not None:
        lines = list(report.sync.notes)
    if on_hold:
        lines.append(f"Still on hold: {on_hold}.")
    elif report.sync is None:
        lines.append("Nothing is on hold: the next sync brings these records up to date with Mongo.")
    headline = f"{sum(report.restored.values())} records of {report.user} were brought back from {report.source}."
    if report.error is not None:
        headline = f"The restore stopped: {report.error.message} The same restore again does the rest."
    elif not report.clean:
        headline = f"Not everything of {report.user} came back: {len(failures)} records were refused."
    return Report(
        headline,
        report.to_json(),
        [
            Table.counts("restored", report.restored, title=f"Restored {report.user} from {report.source}"),
            _held_table(report.held),
            failures_table("not_restored", failures),
        ],
        {"user": report.user, "source": report.source, "present": report.present, "on_hold": on_hold or "nothing"},
        lines,
        exit_code=exit_code(report.clean, [report.error]),
        failed=not report.clean,
        touched={(report.user, media.name): {"restored": report.restored.get(media.name, 0)} for media in types},
    )


def _held_table(held: Sequence[Held]) -> Table:
    return Table("held_back", ("item", "record", "reason")).extend(each.to_json() for each in held)


def _shape(wrong: int) -> list[str]:
    if not wrong:
        return []
    return [f"{wrong} records break their lexicon; they come back as they were, the next sync repairs them."]


RESTORE: Final = Declaration("restore", "restore_user", "restore_one_user", RestoreParameters, run_restore)
