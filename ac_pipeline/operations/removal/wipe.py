"""The wipe: empties the chosen collections of one account, after a snapshot, and keeps them empty.

Records without a document go as well: the snapshot has them. What a wipe would do is said beforehand, and it is done
only for whoever names the number of records (PLAN-5). It can be repeated after a kill: an unfinished wipe goes on with
its own snapshot. Links and ledger follow in `removed.py`, bringing records back is `restore.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from time import monotonic
from typing import Final

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import Blocked, HeldBack, Misconfigured, PipelineError, RepositoryMoved, SourceMissing
from ac_pipeline.items import BlobRef, RepositoryCheckpoint
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.declare import Declaration, Report, Table, Work, exit_code, failures_table
from ac_pipeline.operations.parameters import OfOneUser, OfTypes, confirm_option, dry_run_option, option, why_option
from ac_pipeline.operations.removal.removed import Records, Removals
from ac_pipeline.operations.removal.snapshot import Progress, Vault, open_vault, quiet
from ac_pipeline.operations.removal.steps import (
    RemovalReport,
    audited,
    conclude,
    failed_item,
    repository_of,
    until_unmoved,
)
from ac_pipeline.sync.costs import Price, price
from ac_pipeline.sync.planning.copies import COPIED, copies_of, deletion, of_records
from ac_pipeline.sync.planning.plan import Existing, Kind, Operation, existing_records
from ac_pipeline.sync.planning.wanted import failure_of
from ac_pipeline.sync.writing.entries import end_of
from ac_pipeline.sync.writing.writer import Refused


@dataclass(frozen=True, slots=True)
class WipePlan:
    """What a wipe would do. Nothing was written."""

    user: str  # Partition key
    # Type name -> records that would be deleted; `copies`: those of them in `site.standard.document`
    records: Mapping[str, int]
    undocumented: int  # How many of them no document of the account stands behind: only the snapshot would have them
    addresses: int  # How many public addresses hold the key of one of them, and break
    price: Price  # What it takes of the PDS
    unfinished: str | None  # The snapshot of a wipe of this account that has not come to its end
    # What that wipe was told to delete, when it is this one: its number is good for the rest as well
    confirmed: int | None
    hash: str  # sha-256 (hex) of keys and CIDs of all of these records

    @property
    def total(self) -> int:
        return sum(self.records.values())

    def to_json(self) -> dict[str, object]:
        values: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return values | {"records": dict(self.records), "total": self.total, "price": self.price.to_json()}


def plan_wipe(vault: Vault, account: Account, types: Sequence[MediaType]) -> WipePlan:
    """What a wipe would do; reads only.

    Raises:
        Blocked: The account cannot be used.
        Transient: Something could not be read.
    """
    _, repository = vault.archive.read(usable(account))
    return _decide(vault, account, types, repository, Removals(vault.engine, account, types, ""))


def _decide(
    vault: Vault, account: Account, types: Sequence[MediaType], repository: Repository, removals: Removals
) -> WipePlan:
    present = records_of(repository, types)
    copies = copy_deletions(vault, repository, types, present, "wipe")
    operations = [
        Operation(Kind.DELETE, media, record.rkey, "wipe") for media in types for record in present[media.name]
    ] + copies
    unfinished = vault.archive.unfinished(account)
    lines = (f"{each.path} {repository.records[each.path]}\n" for each in operations)
    return WipePlan(
        user=account.key,
        records={name: len(records) for name, records in present.items()} | ({COPIED: len(copies)} if copies else {}),
        undocumented=sum(not removals.documented(media, record) for media in types for record in present[media.name]),
        addresses=sum(len(present[media.name]) for media in types if media.addressed_by_key),
        price=price(operations),
        unfinished=unfinished.id if unfinished is not None else None,
        confirmed=_confirmed(vault, unfinished, repository, types),
        hash=sha256("".join(lines).encode()).hexdigest(),
    )


def _confirmed(
    vault: Vault, unfinished: Snapshot | None, repository: Repository, types: Sequence[MediaType]
) -> int | None:
    """The number an unfinished wipe was started with, while nothing but its own work has changed since."""
    if unfinished is None:
        return None
    try:
        contents = vault.archive.contents(unfinished)
    except (SourceMissing, HeldBack):
        return None
    kept = records_of(contents, types)
    return unfinished.wipe if _holds_all(kept, unfinished, contents, repository, types) else None


def _holds_all(
    kept: Records, snapshot: Snapshot, contents: Repository, repository: Repository, types: Sequence[MediaType]
) -> bool:
    """True if a snapshot is of these types, and holds every record that is present and every copy, byte by byte."""
    return all(
        media.name in snapshot.types
        and {(record.rkey, record.cid) for record in existing_records(repository, media)}
        <= {(record.rkey, record.cid) for record in kept[media.name]}
        for media in types
    ) and all(contents.records.get(copy.path) == copy.cid for copy in copies_of(repository, types))


def copy_deletions(
    vault: Vault, repository: Repository, types: Sequence[MediaType], present: Records, reason: str
) -> list[Operation]:
    """The deletions of all copies of records of these types, unless copies are left alone (AC_ERASE_COPIES)."""
    copies = copies_of(repository, types) if vault.engine.erase_copies else []
    return [
        deletion(media, copy, reason, copy.ref or copy.source or copy.rkey)
        for media in types
        for copy in of_records(copies, media, present[media.name])
    ]


def records_of(repository: Repository, types: Sequence[MediaType]) -> dict[str, list[Existing]]:
    return {media.name: existing_records(repository, media) for media in types}


def path_of(media: MediaType, record: Existing) -> str:
    return f"{media.nsid}/{record.rkey}"


def usable(account: Account) -> str:
    """The account's DID.

    Raises:
        Blocked: It cannot be written to.
    """
    if account.blocked is not None:
        raise account.blocked
    return repository_of(account, "wipe")


@dataclass(slots=True)
class WipeReport(RemovalReport):
    """What a wipe did."""

    snapshots: list[str] = field(default_factory=list)  # Ids of those that hold the records, newest first
    # Type name -> records that this run deleted; `copies`: copies of records, in `site.standard.document`
    deleted: dict[str, int] = field(default_factory=dict)
    left: int = 0  # Records of these types that are still there
    links_cleared: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return self.error is None and not self.failures and not self.left

    def to_json(self) -> dict[str, object]:
        own = {name: getattr(self, name) for name in self.__slots__}
        return RemovalReport.to_json(self) | own


def wipe(
    vault: Vault,
    account: Account,
    types: Sequence[MediaType],
    *,
    confirm: int | None,
    run_id: str,
    why: str = "",
    keep_syncing: bool = False,
    progress: Progress = quiet,
) -> WipeReport:
    """Take a snapshot and delete every record of these types.

    Args:
        confirm: The number of records that `plan_wipe` named, or that an unfinished wipe was started with.
        keep_syncing: Leave these types to the schedule, which publishes what Mongo holds anew; else they are on hold.

    Raises:
        Misconfigured: Another number of records would be deleted; nothing was written.
        Blocked, Transient: Nothing was begun. What ends a wipe that has begun is in its report.
    """
    did, started = usable(account), monotonic()
    report = WipeReport(account.key)
    with vault.engine.ledger.lease(did, vault.engine.holder):
        car, repository = vault.archive.read(did)
        removals = Removals(vault.engine, account, types, run_id)
        plan = _decide(vault, account, types, repository, removals)
        if confirm is None or confirm not in (plan.total, plan.confirmed):
            raise Misconfigured(
                f"{plan.total} records of {account.key} would be deleted, not {confirm}: nothing was written. "
                "Look at the plan and confirm its number."
            )
        counts, hash = dict(plan.records), plan.hash
        with audited(vault, report, "wipe", account, types, why=why, plan_hash=hash, counts=counts) as entry:
            work = _Wipe(vault, account, tuple(types), removals, report, confirm, why, keep_syncing, progress)
            try:
                work.run(car, repository)
                if report.failures:
                    entry.outcome = f"done but for {len(report.failures)} records"
            finally:
                entry.counts.update(report.deleted)
    report.links_cleared = removals.links_cleared
    conclude(vault, report, account, types, started)
    return report


@dataclass(slots=True)
class _Wipe:
    """One wipe under its lease."""

    vault: Vault
    account: Account
    types: tuple[MediaType, ...]
    removals: Removals
    report: WipeReport
    confirm: int
    why: str
    keep_syncing: bool
    progress: Progress
    refused: set[str] = field(default_factory=set)
    uncounted: set[str] = field(default_factory=set)
    began: bool = False

    def run(self, car: bytes, repository: Repository) -> None:
        held_before = self.vault.engine.ledger.holds(self.account)
        fresh: tuple[bytes, Repository] | None = (car, repository)

        def step() -> Repository:
            nonlocal fresh
            read, fresh = fresh or self.vault.archive.read(repository.did), None
            try:
                return self._empty(*read)
            except RepositoryMoved:
                raise
            except PipelineError as error:
                if not self.began or (isinstance(error, Blocked) and not self.report.deleted):
                    # Nothing can have gone, so nothing has to stay away.
                    unheld = [media for media in self.types if media.name not in held_before]
                    self.vault.engine.ledger.release(self.account, unheld)
                raise

        emptied = until_unmoved(self.account, "wiped", step)
        self._finish(emptied)

    def _present(self, repository: Repository, reason: str) -> tuple[dict[str, list[Existing]], list[Operation]]:
        """What is to go: records by type, and the deletions of their copies."""
        present = records_of(repository, self.types)
        copies = copy_deletions(self.vault, repository, self.types, present, reason)
        self.report.left = sum(map(len, present.values())) + len(copies)
        return present, copies

    def _empty(self, car: bytes, repository: Repository) -> Repository:
        """One attempt: snapshot, hold, delete. The repository as the last batch left it."""
        engine = self.vault.engine
        present, copies = self._present(repository, "deleted by a wipe")
        nothing = not any(present.values()) and not copies and self.vault.archive.unfinished(self.account) is None
        snapshots = [] if nothing else self._cover(car, repository)  # an empty one would only hide those before it
        name = snapshots[0].id if snapshots else "none"
        reason = f"deleted by a wipe; snapshot {name} has it"
        if not self.keep_syncing:
            because = f" ({self.why})" if self.why else ""
            engine.ledger.hold(self.account, self.types, f"wiped{because}; snapshot {name}")
        there = {media.name: {record.rkey for record in present[media.name]} for media in self.types}
        gone = {
            name: [record for record in records if record.rkey not in there[name]]
            for name, records in self._kept(snapshots).items()
        }
        self.removals.begin(present, gone, reason)
        # Of what is gone, this run has deleted without an answer what it has sent and not counted.
        self._count(
            {
                media.name: [record for record in gone[media.name] if path_of(media, record) in self.uncounted]
                for media in self.types
            }
        )
        by_path = {path_of(media, each): (media, each) for media in self.types for each in present[media.name]}
        operations = [
            Operation(Kind.DELETE, media, record.rkey, reason)
            for path, (media, record) in by_path.items()
            if path not in self.refused
        ]
        self.uncounted = {operation.path for operation in operations}
        operations += [operation for operation in copies if operation.path not in self.refused]
        self.began = self.began or bool(operations)
        done = 0
        for outcome in engine.writer(self.account, _no_blob).write(operations, repository):
            if isinstance(outcome, Refused):
                self._refuse(outcome, by_path.get(outcome.operation.path))
            else:
                repository = outcome.repository
                batch: dict[str, list[Existing]] = {}
                for operation in outcome.operations:
                    if not operation.copy:
                        batch.setdefault(operation.media.name, []).append(by_path[operation.path][1])
                self._add(COPIED, sum(operation.copy for operation in outcome.operations))
                self._count(batch)
                self.removals.record_gone(batch, reason)
                done += len(outcome.operations)
                self.progress("Deleting records", done, len(operations))
        return repository

    def _cover(self, car: bytes, repository: Repository) -> list[Snapshot]:
        """A snapshot that holds every record that is still to go, and those before it, newest first.

        An unfinished wipe's own snapshot is used again, when it is whole and nothing has changed since; else a new one
        is taken that names it.
        """
        archive = self.vault.archive
        unfinished = archive.unfinished(self.account)
        if unfinished is not None:
            chain = archive.chain(unfinished)
            try:
                for each in chain:
                    archive.check(each, self.types, self.progress)
                if _holds_all(self._kept(chain), unfinished, archive.contents(unfinished), repository, self.types):
                    self.report.snapshots = [snapshot.id for snapshot in chain]
                    return chain
            except (SourceMissing, HeldBack) as error:
                note = f"the snapshot of the unfinished wipe cannot be used: {error.message}"
                if note not in self.report.notes:
                    self.report.notes.append(note)
                unfinished = None
        taken = archive.take(
            self.account,
            self.types,
            (car, repository),
            previous=unfinished.id if unfinished is not None else None,
            wipe=self.confirm,
            progress=self.progress,
        )
        chain = archive.chain(taken)
        self.report.snapshots = [snapshot.id for snapshot in chain]
        return chain

    def _kept(self, chain: Sequence[Snapshot]) -> dict[str, list[Existing]]:
        """Every record that these snapshots hold; of two under one key the newer."""
        found: dict[str, dict[str, Existing]] = {media.name: {} for media in self.types}
        for snapshot in chain:
            for name, records in records_of(self.vault.archive.contents(snapshot), self.types).items():
                if name in snapshot.types:
                    for record in records:
                        found[name].setdefault(record.rkey, record)
        return {name: list(records.values()) for name, records in found.items()}

    def _refuse(self, outcome: Refused, subject: tuple[MediaType, Existing] | None) -> None:
        self.refused.add(outcome.operation.path)
        if subject is not None:
            self.report.failures.append(self.removals.refused(*subject, outcome.error))
            return
        failure = failure_of(outcome.stage, outcome.error)
        self.report.failures.append(failed_item(outcome.operation.item, self.account.key, failure, end_of(failure)))

    def _count(self, records: Records) -> None:
        for media in self.types:
            deleted = records.get(media.name, ())
            self._add(media.name, len(deleted))
            self.uncounted -= {path_of(media, record) for record in deleted}

    def _add(self, name: str, number: int) -> None:
        if number:
            self.report.deleted[name] = self.report.deleted.get(name, 0) + number
            self.report.left -= number

    def _finish(self, repository: Repository) -> None:
        """Count what is left, and end the wipe when nothing is left of what its snapshots were taken for."""
        self._present(repository, "")
        index = self.vault.archive.index
        wiped = {media.name for media in self.types}
        for snapshot in index.find(account=self.account.id):
            if snapshot.open and not self.report.left and set(snapshot.types) <= wiped:
                index.save(replace(snapshot, open=False))
        # A repository that holds nothing of ours any more is marked: whatever somebody else did to it is known
        # (VERIFY-9). Else the mark has followed each commit, unless somebody else's change is still to be looked at.
        ledger = self.vault.engine.ledger
        known, left = ledger.checkpoint(repository.did), {media.name: 0 for media in MEDIA_TYPES}
        emptied = not self.report.left and left.keys() <= {media.name for media in self.types}
        if emptied and known is not None and known.rev != repository.rev:
            now = self.vault.engine.now()
            ledger.keep_checkpoint(RepositoryCheckpoint(repository.did, repository.rev, now, counts=left))


def _no_blob(operation: Operation, blob: BlobRef) -> bytes:
    raise SourceMissing(f"{operation.path} is deleted: it needs no blob {blob.cid}")


class WipeParameters(OfOneUser, OfTypes):
    """Whose records to delete."""

    confirm: int | None = confirm_option("records")
    dry_run: bool = dry_run_option("deleted")
    keep_syncing: bool = option(False, "Put nothing on hold: the next sync publishes everything anew.")
    why: str = why_option()


def run_wipe(work: Work, parameters: WipeParameters) -> Report:
    """Delete every record of a user, or those of some types, after a snapshot that was read back.

    Without a confirmation it only says what it would delete. A wiped type is on hold, so that nothing publishes it
    again, until it is restored. After an interruption the same again does the rest.
    """
    vault, account, types = open_vault(work.pipeline), parameters.account(work.pipeline), parameters.media
    plan = plan_wipe(vault, account, types)
    if not parameters.confirms(plan.total, plan.confirmed):
        return _planned(plan, parameters)
    work.say(plan.price.sentence)
    report = wipe(
        vault,
        account,
        types,
        confirm=parameters.confirm,
        run_id=work.run_id,
        why=parameters.why,
        keep_syncing=parameters.keep_syncing,
        progress=work.progress,
    )
    return _wiped(report, types)


def _planned(plan: WipePlan, parameters: WipeParameters) -> Report:
    lines = [plan.price.sentence]
    if plan.addresses:
        lines.append(
            f"{plan.addresses} public addresses hold the key of one of these records and break; a restore brings the "
            "same keys back."
        )
    if plan.undocumented:
        lines.append(f"{plan.undocumented} of them have no document in Mongo: only the snapshot will have them.")
    if plan.unfinished:
        lines.append(f"An earlier wipe did not come to its end: its snapshot is {plan.unfinished}.")
    return Report(
        f"{plan.total} records of {plan.user} would be deleted.",
        plan.to_json(),
        [Table.counts("plan", plan.records, title=f"Wipe of {plan.user} (nothing was written)")],
        {"user": plan.user, **{f"price: {name}": value for name, value in plan.price.to_json().items()}},
        lines,
        confirm=plan.total,
        exit_code=0 if parameters.dry_run else 2,
    )


def _wiped(report: WipeReport, types: Sequence[MediaType]) -> Report:
    lines = [f"{report.links_cleared} links cleared. {report.left} records of these types are left.", *report.notes]
    if report.snapshots:
        lines.append(f"The records are in snapshot {report.snapshots[0]}.")
    if report.on_hold:
        on_hold = ", ".join(report.on_hold)
        lines.append(f"On hold: {on_hold}. To bring them back: ac-pipeline restore {shlex.quote(report.user)}")
    deleted = sum(report.deleted.values())
    headline = f"{deleted} records of {report.user} were deleted in {report.seconds:.1f} s."
    if report.error is not None:
        headline = f"The wipe stopped: {report.error.message} The same wipe again does the rest."
    elif not report.clean:
        headline = f"{len(report.failures)} records could not be deleted, {report.left} are left."
    return Report(
        headline,
        report.to_json(),
        [
            Table.counts("deleted", report.deleted, title=f"Wiped {report.user}"),
            failures_table("not_deleted", report.failures),
        ],
        {"user": report.user, "snapshots": ", ".join(report.snapshots) or "none", "left": report.left},
        lines,
        exit_code=exit_code(report.clean, [report.error]),
        failed=not report.clean,
        touched={(report.user, media.name): {"deleted": report.deleted.get(media.name, 0)} for media in types},
    )


WIPE: Final = Declaration("wipe", "wipe_user", "wipe_one_user", WipeParameters, run_wipe)
