"""The wipe: empties the chosen collections of one account, after a snapshot, and keeps them empty.

Records without a document go as well: the snapshot has them. It is done only for whoever names the number of records
(PLAN-5); after a kill it goes on with its own snapshot. A link is cleared when the very record it names is confirmed
gone (LINK-4); the ledger remembers the key, so that a restore brings it back.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import Blocked, HeldBack, Misconfigured, PipelineError, RepositoryMoved, SourceMissing
from ac_pipeline.items import BlobRef, LedgerEntry, RepositoryCheckpoint, Stage, State, item_id
from ac_pipeline.media.base import Document, LinkUpdate, MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.declare import Report, Table, Work, declared, exit_code, failures_table
from ac_pipeline.operations.parameters import OfOneUser, OfTypes, confirm_option, dry_run_option, option, why_option
from ac_pipeline.operations.removal.snapshot import open_vault
from ac_pipeline.operations.removal.steps import WipeOrRestore, WipeOrRestoreReport
from ac_pipeline.sync.costs import Price, price
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.planning.copies import COPIED, copies_of, deletion, of_type
from ac_pipeline.sync.planning.plan import Existing, Kind, Operation, Wanted, existing_records, failure_of, same_content
from ac_pipeline.sync.report import ItemFailure
from ac_pipeline.sync.writing.recorder import Entries, end_of
from ac_pipeline.sync.writing.writer import Refused

Records = Mapping[str, Sequence[Existing]]  # Type name -> records


@dataclass(frozen=True, slots=True)
class WipePlan:
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


@dataclass(slots=True)
class WipeReport(WipeOrRestoreReport):
    snapshots: list[str] = field(default_factory=list)  # Ids of those that hold the records, newest first
    # Type name -> records that this run deleted; `copies`: copies of records, in `site.standard.document`
    deleted: dict[str, int] = field(default_factory=dict)
    left: int = 0  # Records of these types that are still there
    links_cleared: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return self.error is None and not self.failures and not self.left


@dataclass(slots=True)
class Wipe(WipeOrRestore):
    """A wipe of one account: `plan` says what it would do, `run` does it."""

    confirm: int | None = None  # The number of records that the plan named, or that an unfinished wipe was started with
    # Leave these types to the schedule, which publishes what Mongo holds anew; else they are on hold
    keep_syncing: bool = False
    report: WipeReport = field(init=False)
    recorder: DeletionRecorder = field(init=False)
    uncounted: set[str] = field(default_factory=set, init=False)  # Paths of deletions without an answer
    began: bool = field(default=False, init=False)
    unheard: bool = field(default=False, init=False)  # True if a batch may have gone without an answer

    def __post_init__(self) -> None:
        self.report = WipeReport(self.account.key)

    def plan(self) -> WipePlan:
        """What it would do; reads only.

        Raises:
            Blocked: The account cannot be used.
            Transient: Something could not be read.
        """
        return self._decide(self.vault.read(self.repository_of("wipe"))[1])

    def run(self) -> WipeReport:
        """Take a snapshot and delete every record of these types.

        Raises:
            Misconfigured: Another number of records would be deleted; nothing was written.
            Blocked, Transient: Nothing was begun. What ends a wipe that has begun is in its report.
        """
        did, report = self.repository_of("wipe"), self.report
        with self.leased(did):
            read = self.vault.read(did)
            plan = self._decide(read[1])
            if self.confirm is None or self.confirm not in (plan.total, plan.confirmed):
                raise Misconfigured(
                    f"{plan.total} records of {self.account.key} would be deleted, not {self.confirm}: nothing was "
                    "written. Look at the plan and confirm its number."
                )
            with self.audited("wipe", dict(plan.records), plan.hash) as entry:
                try:
                    self._carry_out(read)
                    if report.failures:
                        entry.outcome = f"done but for {len(report.failures)} records"
                finally:
                    entry.counts = dict(report.deleted)
                    report.links_cleared = len(self.recorder.cleared)
        return report

    def _decide(self, repository: Repository) -> WipePlan:
        self.recorder = recorder = DeletionRecorder(self.vault.engine, self.account, self.types, self.run_id)
        present, copies = self._present(repository, "wipe")
        operations = [
            Operation(Kind.DELETE, media, record.rkey, "wipe") for media in self.types for record in present[media.name]
        ] + copies
        unfinished = self.vault.unfinished(self.account)
        lines = (f"{each.path} {repository.records[each.path]}\n" for each in operations)
        alone = (recorder.document(media, record) is None for media in self.types for record in present[media.name])
        numbers = {name: len(records) for name, records in present.items()}
        return WipePlan(
            user=self.account.key,
            records=numbers | ({COPIED: len(copies)} if copies else {}),
            undocumented=sum(alone),
            addresses=sum(numbers[media.name] for media in self.types if media.addressed_by_key),
            price=price(operations),
            unfinished=unfinished.id if unfinished is not None else None,
            confirmed=self._confirmed(unfinished, repository),
            hash=sha256("".join(lines).encode()).hexdigest(),
        )

    def _confirmed(self, unfinished: Snapshot | None, repository: Repository) -> int | None:
        """The number an unfinished wipe was started with, while nothing but its own work has changed since."""
        try:
            return unfinished.wipe if unfinished is not None and self._holds_all([unfinished], repository) else None
        except (SourceMissing, HeldBack):
            return None

    def _holds_all(self, chain: Sequence[Snapshot], repository: Repository) -> bool:
        """True if the first of these snapshots is of these types, none of which was restored since, and holds every
        copy, and all of them together hold every record that is present, byte by byte."""
        kept, newest = self._kept(chain), self.vault.contents(chain[0])
        return all(
            media.name in chain[0].types
            and media.name not in chain[0].ended
            and {(record.rkey, record.cid) for record in existing_records(repository, media)}
            <= {(record.rkey, record.cid) for record in kept[media.name]}
            for media in self.types
        ) and all(newest.records.get(copy.path) == copy.cid for copy in copies_of(repository, self.types))

    def _kept(self, chain: Sequence[Snapshot]) -> dict[str, list[Existing]]:
        """Every record that these snapshots hold; of two under one key the newer."""
        found: dict[str, dict[str, Existing]] = {media.name: {} for media in self.types}
        for snapshot in chain:
            for name, records in records_of(self.vault.contents(snapshot), self.types).items():
                if name in snapshot.types:
                    found[name] = {record.rkey: record for record in records} | found[name]
        return {name: list(records.values()) for name, records in found.items()}

    def _present(self, repository: Repository, reason: str) -> tuple[dict[str, list[Existing]], list[Operation]]:
        """What is to go: records by type, and the deletions of their copies, unless copies are left alone
        (AC_ERASE_COPIES)."""
        present = records_of(repository, self.types)
        found = copies_of(repository, self.types) if self.vault.engine.erase_copies else []
        copies = [
            deletion(media, copy, reason, copy.ref or copy.source or copy.rkey)
            for media in self.types
            for copy in of_type(found, media, self.recorder.known(media, present[media.name]))
        ]
        self.report.left = sum(map(len, present.values())) + len(copies)
        return present, copies

    def _carry_out(self, read: tuple[bytes, Repository]) -> None:
        held_before = self.vault.engine.ledger.holds(self.account)
        fresh: tuple[bytes, Repository] | None = read

        def step() -> Repository:
            nonlocal fresh
            read_now, fresh = fresh or self.vault.read(str(self.account.did)), None
            try:
                return self._empty(*read_now)
            except RepositoryMoved:
                self.unheard = self.unheard or bool(self.uncounted)
                raise
            except PipelineError as error:
                refused = isinstance(error, Blocked) and not self.report.deleted and not self.unheard
                if not self.began or refused:
                    # Nothing can have gone, so nothing has to stay away.
                    unheld = [media for media in self.types if media.name not in held_before]
                    self.vault.engine.ledger.release(self.account, unheld)
                raise

        self._finish(self.until_unmoved("wiped", step))

    def _empty(self, car: bytes, repository: Repository) -> Repository:
        """One attempt: snapshot, hold, delete. The repository as the last batch left it."""
        engine = self.vault.engine
        present, copies = self._present(repository, "deleted by a wipe")
        nothing = not any(present.values()) and not copies and self.vault.unfinished(self.account) is None
        snapshots = [] if nothing else self._cover(car, repository)  # an empty one would only hide those before it
        name = snapshots[0].id if snapshots else "none"
        reason = f"deleted by a wipe; snapshot {name} has it"
        if not self.keep_syncing:
            because = f" ({self.why})" if self.why else ""
            engine.ledger.hold(self.account, self.types, f"wiped{because}; snapshot {name}")
        by_path = {path_of(media, each): (media, each) for media in self.types for each in present[media.name]}
        gone, lost = {}, {}
        kept = self._kept(snapshots)
        for media in self.types:
            gone[media.name] = [each for each in kept[media.name] if path_of(media, each) not in by_path]
            # Of what is gone, this run has deleted without an answer what it has sent and not counted.
            lost[media.name] = [each for each in gone[media.name] if path_of(media, each) in self.uncounted]
        self.recorder.begin(present, gone, reason)
        self._count(lost)
        operations = [
            Operation(Kind.DELETE, media, record.rkey, reason)
            for path, (media, record) in by_path.items()
            if path not in self.refused
        ]
        self.uncounted = {operation.path for operation in operations}
        operations += [operation for operation in copies if operation.path not in self.refused]
        self.began = self.began or bool(operations)
        writer = engine.writer(self.account, _no_blob)

        def refuse(outcome: Refused) -> ItemFailure:
            subject, failure = by_path.get(outcome.operation.path), failure_of(outcome.stage, outcome.error)
            if subject is not None:
                return self.recorder.refused(*subject, outcome.error)
            item = outcome.operation.item
            return ItemFailure.of(item, self.account.key, failure, end_of(failure), code=None, attempts=1)

        for committed in self.write("Deleting records", writer, operations, repository, refuse):
            repository = committed.repository
            batch: dict[str, list[Existing]] = {}
            for operation in committed.operations:
                if not operation.copy:
                    batch.setdefault(operation.media.name, []).append(by_path[operation.path][1])
            self._add(COPIED, sum(operation.copy for operation in committed.operations))
            self._count(batch)
            self.recorder.record_gone(batch, reason)
        return repository

    def _cover(self, car: bytes, repository: Repository) -> list[Snapshot]:
        """A snapshot that holds every record that is still to go, and those before it, newest first.

        An unfinished wipe's own snapshot is used again, when it is whole and nothing has changed since; else a new one
        is taken that names it.
        """
        vault, unfinished = self.vault, self.vault.unfinished(self.account)
        chain: list[Snapshot] = []
        if unfinished is not None:
            chain = vault.chain(unfinished)
            try:
                for each in chain:
                    vault.check(each, self.types)
                if not self._holds_all(chain, repository):
                    chain = []
            except (SourceMissing, HeldBack) as error:
                note = f"the snapshot of the unfinished wipe cannot be used: {error.message}"
                if note not in self.report.notes:
                    self.report.notes.append(note)
                chain, unfinished = [], None
        if not chain:
            previous = unfinished.id if unfinished is not None else None
            read = (car, repository)
            chain = vault.chain(vault.take(self.account, self.types, read, previous=previous, wipe=self.confirm))
        self.report.snapshots = [snapshot.id for snapshot in chain]
        return chain

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
        wiped, ledger = {media.name for media in self.types}, self.vault.engine.ledger
        if not self.report.left:
            self.vault.close(self.account, self.types)
        # A repository that holds nothing of ours any more is marked: whatever somebody else did to it is known
        # (VERIFY-9). Else the mark has followed each commit, unless somebody else's change is still to be looked at.
        known, left = ledger.checkpoint(repository.did), {media.name: 0 for media in MEDIA_TYPES}
        emptied = not self.report.left and left.keys() <= wiped
        if emptied and known is not None and known.rev != repository.rev:
            now = self.vault.engine.now()
            ledger.keep_checkpoint(RepositoryCheckpoint(repository.did, repository.rev, now, counts=left))


def records_of(repository: Repository, types: Sequence[MediaType]) -> dict[str, list[Existing]]:
    return {media.name: existing_records(repository, media) for media in types}


def path_of(media: MediaType, record: Existing) -> str:
    return f"{media.nsid}/{record.rkey}"


def _no_blob(operation: Operation, blob: BlobRef) -> bytes:
    raise SourceMissing(f"{operation.path} is deleted: it needs no blob {blob.cid}")


class DeletionRecorder:
    """Keeps links and ledger of one account right while its records of these types go."""

    def __init__(self, engine: Engine, account: Account, types: Sequence[MediaType], run_id: str) -> None:
        self._engine = engine
        self._account = account
        self._types = {media.name: media for media in types}
        self._entries = Entries(account, run_id, engine.now)
        self._documents: dict[str, dict[str, Document]] = {}
        self._linked: dict[str, dict[str, list[Document]]] = {}
        self._foreign: dict[str, bool] = {}  # item of another document -> True if that is somebody else's
        self._left: dict[str, set[str]] = {}  # item -> keys of its records that are still there
        self._removed: dict[str, set[str]] = defaultdict(set)
        self.cleared: set[str] = set()  # Documents whose links were cleared
        for media in types:
            self._entries.know(engine.ledger.load(account, media).values())
            documents = {document.id: document for document in engine.documents.stream(account, media)}
            linked: dict[str, list[Document]] = defaultdict(list)
            for document in documents.values():
                link = document.link
                if link is not None and link.rkey is not None and link.did in (None, account.did):
                    linked[link.rkey].append(document)
            self._documents[media.name], self._linked[media.name] = documents, linked

    def known(self, media: MediaType, records: Iterable[Existing]) -> set[str]:
        """Documents of a type that Mongo or the ledger knows of this account, or that these records name."""
        ledger = {entry.document for entry in self._entries.all() if entry.type == media.name}
        return self._documents[media.name].keys() | ledger | {each.ref for each in records if each.ref is not None}

    def document(self, media: MediaType, record: Existing) -> Document | None:
        """The document a record names; of one that names nothing, the document whose link names it, else one that
        holds the same."""
        if record.ref is not None:
            return self._documents[media.name].get(record.ref)
        linked = self._linked[media.name].get(record.rkey)
        return linked[0] if linked else same_content(media, record, self._documents[media.name].values())

    def begin(self, present: Records, gone: Records, reason: str) -> None:
        """Before each attempt: record what went without our hearing of it, in this run or in one that was killed.
        `present` is what the repository holds now, `gone` what a snapshot of this wipe has and the repository has
        not."""
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
                if document.id not in self.cleared
            ]
            if updates:
                self._engine.documents.write_links(media, updates)
                self.cleared.update(update.document for update in updates)
            entries += self._entries_of(media, records, reason)
        if entries:
            self._entries.know(entries)
            self._engine.ledger.save(entries)

    def refused(self, media: MediaType, record: Existing, error: PipelineError) -> ItemFailure:
        """A record that could not be deleted: its link stays, and it is a deletion that is due (PLAN-4, DEL-6)."""
        item, document = self.item(media, record), self.document(media, record)
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
        return ItemFailure.of(item, self._account.key, failure, state, code=code, attempts=self._entries.attempts(item))

    def item(self, media: MediaType, record: Existing) -> str:
        """The item a record belongs to; that of its key when no document of this account can be meant."""
        document = self.document(media, record)
        if document is not None:
            return item_id(media.name, document.id)
        named = record.ref is not None and not self._foreign.get(item_id(media.name, record.ref))
        return item_id(media.name, str(record.ref) if named else record.rkey)

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
            document, known = self.document(media, record), self._entries.of(item)
            linked = document.link.rkey if document is not None and document.link is not None else None
            keys = self._removed[item]
            rkey = linked if linked in keys else min(keys)
            ended = (State.DELETED, rkey, self._account.did)
            if known is not None and (known.state, known.rkey, known.did) == ended:
                continue
            # The document may have changed since its renditions were made: that is for the next sync to find, so a
            # known fingerprint stays as it is.
            made.append(self._entries.deleted(item, None if known is not None else document, rkey, reason))
        return made

    def _ask(self, *records: Records) -> None:
        """Find records that name a document of somebody else, whose item is not this account's to change."""
        for name, listed in (pair for each in records for pair in each.items()):
            named = {record.ref for record in listed if record.ref is not None} - self._documents[name].keys()
            asked = sorted(ref for ref in named if item_id(name, ref) not in self._foreign)
            if asked:
                found = self._engine.documents.owners(self._types[name], asked)
                self._foreign |= {item_id(name, ref): ref in found for ref in asked}


class WipeParameters(OfOneUser, OfTypes):
    confirm: int | None = confirm_option("records")
    dry_run: bool = dry_run_option("deleted")
    keep_syncing: bool = option(False, "Put nothing on hold: the next sync publishes everything anew.")
    why: str = why_option()


@declared("wipe", "wipe_user", "wipe_one_user")
def run_wipe(work: Work, parameters: WipeParameters) -> Report:
    """Delete every record of a user, or those of some types, after a snapshot that was read back.

    Without a confirmation it only says what it would delete. A wiped type is on hold, so that nothing publishes it
    again, until it is restored. After an interruption the same again does the rest.
    """
    vault, account = open_vault(work.pipeline, work.progress), parameters.account(work.pipeline)
    why, confirm, keep = parameters.why, parameters.confirm, parameters.keep_syncing
    wipe = Wipe(vault, account, parameters.media, work.run_id, why, confirm=confirm, keep_syncing=keep)
    plan = wipe.plan()
    if not parameters.confirms(plan.total, plan.confirmed):
        return _planned(plan, parameters)
    work.say(plan.price.sentence)
    return _wiped(wipe.run(), parameters.media)


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
