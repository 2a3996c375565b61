"""The restore: brings an account's records back, from Mongo or from a snapshot, and lets them be mirrored again.

From Mongo it is the ordinary sync, removals included (PLAN-6). From a snapshot the same records come back under the
same keys, byte by byte, and only where their document is there today and may be shown: nothing that was removed since
is published again. Both can be repeated after a kill.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import cast

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri, record_cid
from ac_pipeline.errors import InvalidDocument, InvalidRecord, Misconfigured, Transient
from ac_pipeline.items import Attempt, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import Document, Link, LinkUpdate, MediaType, Verdict
from ac_pipeline.media.eligibility import why_withdrawn
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.declare import Report, Table, Work, declared, exit_code, failures_table
from ac_pipeline.operations.parameters import OfOneUser, OfTypes, dry_run_option, option, why_option
from ac_pipeline.operations.plan import dry_run, known_limits, plan_report
from ac_pipeline.operations.removal.snapshot import Vault, blobs_of, open_vault
from ac_pipeline.operations.removal.steps import Removal, RemovalReport
from ac_pipeline.sync.costs import Price, price
from ac_pipeline.sync.planning.copies import COPIED, copies_of
from ac_pipeline.sync.planning.plan import (
    COPIES,
    Existing,
    Kind,
    Operation,
    Wanted,
    existing_records,
    failure_of,
    same_content,
    survivor,
)
from ac_pipeline.sync.ports import Ledger
from ac_pipeline.sync.report import AccountReport, ItemFailure
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.recorder import Entries
from ac_pipeline.sync.writing.writer import Refused

MONGO, LATEST = "mongo", "latest"  # What a restore can be made from besides the id of a snapshot

_THERE = {State.WRITTEN, State.UNCHANGED}


@dataclass(frozen=True, slots=True)
class Saved:
    """One record of a snapshot. `document`: the one it belongs to, where the account has it. `copy`: it is a copy of a
    record of this type, in `site.standard.document`."""

    media: MediaType
    record: Existing
    document: Document | None
    copy: bool = False

    @property
    def shown(self) -> bool:
        """True if its document lets a record of it be there. One with damaged content does: the mirror leaves the
        record of such a document alone, so a restore brings it back. One whose flags are unclear does not."""
        document = self.document
        if document is None or document.verdict is Verdict.ELIGIBLE:
            return True
        if document.verdict is not Verdict.INVALID:
            return False
        try:
            return not why_withdrawn(document.fields, owner_deleted=False)
        except InvalidDocument:
            return False

    @property
    def item(self) -> str:
        return item_id(self.media.name, self.document.id if self.document else self.record.rkey)

    @property
    def path(self) -> str:
        return f"{COPIES if self.copy else self.media.nsid}/{self.record.rkey}"

    @property
    def counted(self) -> str:
        """What it is counted as: its type, or `copies`."""
        return COPIED if self.copy else self.media.name


@dataclass(frozen=True, slots=True)
class Held:
    saved: Saved
    reason: str

    def to_json(self) -> dict[str, object]:
        return {"item": self.saved.item, "record": self.saved.path, "reason": self.reason}


@dataclass(slots=True)
class RestorePlan:
    user: str
    snapshots: tuple[str, ...]
    operations: list[Operation] = field(default_factory=list)  # Records to write
    # Path -> the record of the snapshot, for each of the operations and of `present`
    saved: dict[str, Saved] = field(default_factory=dict)
    present: list[Saved] = field(default_factory=list)  # Records that are there as the snapshot has them
    held: list[Held] = field(default_factory=list)  # Records that are left as they are, or left away
    wrong_shaped: int = 0  # How many of those to write break their lexicon: the next sync repairs them in place

    @property
    def price(self) -> Price:
        return price(self.operations)

    @property
    def counts(self) -> dict[str, int]:
        """Type name, or `copies` -> records to write."""
        return dict(Counter(self.saved[operation.path].counted for operation in self.operations))

    def to_json(self) -> dict[str, object]:
        return {
            "user": self.user,
            "snapshots": list(self.snapshots),
            "records": self.counts,
            "present": len(self.present),
            "held": [held.to_json() for held in self.held],
            "wrong_shaped": self.wrong_shaped,
            "price": self.price.to_json(),
        }


@dataclass(slots=True)
class RestoreReport(RemovalReport):
    """What a restore did; `on_hold`: types for which it has to be run again."""

    source: str = ""  # `mongo`, or the id of the snapshot
    restored: dict[str, int] = field(default_factory=dict)  # Type name -> records written; from Mongo, by the sync
    present: int = 0  # Records that were there already
    held: list[Held] = field(default_factory=list)  # Records that were not brought back, each with its reason
    wrong_shaped: int = 0  # As in the plan
    sync: AccountReport | None = None  # What the sync did, when it was from Mongo

    @property
    def clean(self) -> bool:
        """True if nothing failed. What was held back on purpose is not a failure."""
        synced = self.sync is None or not (self.sync.error or self.sync.blocked or self.sync.failures)
        return synced and self.error is None and not self.failures

    def to_json(self) -> dict[str, object]:
        sync = None
        if self.sync is not None:
            sync = {
                "types": {name: tally.to_json() for name, tally in self.sync.types.items()},
                "failures": [failure.to_json() for failure in self.sync.failures],
                "blocked": self.sync.blocked.message if self.sync.blocked else None,
            }
        return RemovalReport.to_json(self) | {"held": [held.to_json() for held in self.held], "sync": sync}


# ----------------------------------------------------------------------------------------------------------- from Mongo


def restore_from_mongo(
    vault: Vault, account: Account, types: Sequence[MediaType], *, run_id: str, why: str = ""
) -> RestoreReport:
    """Release the hold and mirror what Mongo holds today: nothing removed returns, keys are those of before."""
    started, engine = monotonic(), vault.engine
    report = RestoreReport(account.key, source=MONGO)
    with vault.audit.during("restore", [account], [media.name for media in types], why=why) as entry:
        engine.ledger.release(account, types)
        vault.close(account)
        report.sync = engine.sync(account, Selection(types=tuple(types)), run_id)
        report.error = report.sync.error or report.sync.blocked
        report.restored = {name: tally.written for name, tally in report.sync.types.items() if tally.written}
        entry.counts.update(report.restored)
        if report.error is not None:
            entry.outcome = f"stopped: {report.error.message}"
    report.seconds = monotonic() - started
    return report


@dataclass
class _NothingHeld:
    """A ledger that knows of no hold; everything else is the real one's."""

    _ledger: Ledger

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)

    def holds(self, account: Account) -> Mapping[str, str]:
        return {}


# ------------------------------------------------------------------------------------------------------ from a snapshot


def find_snapshot(vault: Vault, account: Account, types: Sequence[MediaType], source: str) -> Snapshot:
    """The snapshot that `--from` names: an id, or `latest`, the newest one that holds anything of these types. Raises
    Misconfigured where there is none, it is of another repository, or it never became complete."""
    if source == LATEST:
        found = vault.latest(account, types)
        if found is None:
            raise Misconfigured(f"There is no complete snapshot that holds records of {account.key}.")
        return found
    snapshot = vault.index.get(source)
    if snapshot.did != account.did or snapshot.account != account.id:
        raise Misconfigured(f"Snapshot {source} is of another repository than that of {account.key}.")
    if not snapshot.complete:
        raise Misconfigured(f"Snapshot {source} never became complete: it is not used.")
    return snapshot


@dataclass(slots=True, kw_only=True)
class Restore(Removal):
    """A restore from a snapshot: `plan` says what it would do, `run` does it. Misconfigured where the snapshot holds
    none of the types."""

    snapshot: Snapshot
    overwrite: bool = False  # Replace records that are there but differ
    report: RestoreReport = field(init=False)
    entries: Entries = field(init=False)
    uploaded: set[str] = field(default_factory=set, init=False)  # CIDs of blobs
    sent: set[str] = field(default_factory=set, init=False)  # Paths of records without an answer
    linked: set[str] = field(default_factory=set, init=False)  # Documents

    def __post_init__(self) -> None:
        held = self.snapshot.types
        self.types = tuple(media for media in self.types if media.name in held)
        if not self.types:
            raise Misconfigured(f"Snapshot {self.snapshot.id} holds {', '.join(held)} and none of the chosen types.")
        self.report = RestoreReport(self.account.key, source=self.snapshot.id)
        self.entries = Entries(self.account, self.run_id, self.vault.engine.now)

    def plan(self) -> RestorePlan:
        """What it would do; reads only, and none of the blobs. Raises SourceMissing where the snapshot is not whole."""
        contents = [self.vault.contents(each) for each in self.vault.chain(self.snapshot)]
        did = self.repository_of("restore to", leaving=True)
        return self._decide(contents, self.vault.server.read_repository(did))

    def run(self) -> RestoreReport:
        """Write what the snapshot holds and the repository lacks, then release the hold.

        Raises:
            SourceMissing: The snapshot is not whole; nothing was begun.
            Blocked, Transient: Nothing was begun. What ends a restore that has begun is in its report.
        """
        self.started = monotonic()
        # Of an account that is being deleted everything is held back, which its plan says.
        did, engine, report = self.repository_of("restore to", leaving=True), self.vault.engine, self.report
        with engine.ledger.lease(did, engine.holder):
            # The snapshot and the earlier ones of its wipe, each verified with its blobs, newest first.
            contents = [self.vault.check(each, self.types) for each in self.vault.chain(self.snapshot)]
            counts = {media.name: self.snapshot.records.get(media.name, 0) for media in self.types}
            with self.audited("restore", counts) as entry:
                try:
                    for media in self.types:
                        self.entries.know(engine.ledger.load(self.account, media).values())
                    self.until_unmoved("restored", lambda: self._attempt(contents, engine.server.read_repository(did)))
                    if report.held or report.failures:
                        entry.outcome = f"done; {len(report.held)} held back, {len(report.failures)} refused"
                finally:
                    entry.counts = dict(report.restored)
            if report.error is None:
                engine.ledger.release(self.account, self.types)
                self.vault.close(self.account)
        self.conclude()
        return report

    def _decide(self, snapshots: list[Repository], repository: Repository) -> RestorePlan:
        """Decide, record by record; of two records under one key the newer counts."""
        plan = RestorePlan(self.account.key, tuple(each.id for each in self.vault.chain(self.snapshot)))
        for media in self.types:
            _Decider(self, plan, media, repository, snapshots).decide()
        return plan

    def _attempt(self, snapshots: list[Repository], repository: Repository) -> None:
        """Plan and write; what the PDS refuses for a time ends it."""
        report, plan = self.report, self._decide(snapshots, repository)
        self._count([saved for saved in plan.present if saved.path in self.sent])  # without an answer
        self._record_present(plan.present)
        report.held, report.wrong_shaped = plan.held, max(report.wrong_shaped, plan.wrong_shaped)
        report.present = len(plan.present) - sum(report.restored.values())
        operations = [operation for operation in plan.operations if operation.path not in self.refused]
        self.sent = {operation.path for operation in operations}
        waiting: list[Transient] = []

        def refuse(outcome: Refused) -> ItemFailure:
            """Only the report knows of it: in the ledger it would keep the sync from writing the item anew."""
            if isinstance(outcome.error, Transient):
                waiting.append(outcome.error)
            saved, failure = plan.saved[outcome.operation.path], failure_of(outcome.stage, outcome.error)
            code = saved.document.code if saved.document else None
            return ItemFailure.of(saved.item, self.account.key, failure, State.QUARANTINED, code=code, attempts=1)

        writer = self.vault.engine.writer(
            self.account, lambda operation, blob: self.vault.files.blob(blob.cid), self.uploaded
        )
        for committed in self.write("Writing records", writer, operations, repository, refuse):
            batch = [plan.saved[operation.path] for operation in committed.operations]
            self._count(batch)
            self._record_present(batch)
        if waiting:
            raise waiting[0]

    def _count(self, saved: Sequence[Saved]) -> None:
        for name, number in Counter(each.counted for each in saved).items():
            self.report.restored[name] = self.report.restored.get(name, 0) + number
        self.sent -= {each.path for each in saved}

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


class _Decider:
    """Decides about the records of one type."""

    def __init__(
        self, restore: Restore, plan: RestorePlan, media: MediaType, repository: Repository, snapshots: list[Repository]
    ) -> None:
        self.account, self.overwrite, self.plan, self.media = restore.account, restore.overwrite, plan, media
        self.repository, engine = repository, restore.vault.engine
        self.documents = {document.id: document for document in engine.documents.stream(self.account, media)}
        self.entries, self.lexicons = engine.ledger.load(self.account, media), engine.lexicons
        self.there = {record.rkey: record for record in existing_records(repository, media)}
        oldest_first = list(reversed(snapshots))
        self.saved = {record.rkey: record for each in oldest_first for record in existing_records(each, media)}
        self.copies = {copy.rkey: copy for each in oldest_first for copy in copies_of(each, [media])}
        strangers = sorted({each.ref for each in self.saved.values() if each.ref is not None} - self.documents.keys())
        self.owners = engine.documents.owners(media, strangers) if strangers else {}
        # Key -> the document it is of, as its link says, or as the ledger remembers it: for records without ref.
        self.by_key: dict[str, Document] = {}
        for document in self.documents.values():
            link = document.link
            if link is not None and link.rkey is not None and link.did in (None, self.account.did):
                self.by_key[link.rkey] = document
        for entry in self.entries.values():
            if entry.rkey is not None and entry.did == self.account.did and entry.document in self.documents:
                self.by_key[entry.rkey] = self.documents[entry.document]
        # Document -> keys of the records that the repository has of it.
        self.keys: dict[str, list[str]] = defaultdict(list)
        for record in self.there.values():
            if found := self._document(record):
                self.keys[found.id].append(record.rkey)

    def decide(self) -> None:
        copies: dict[str, list[Saved]] = defaultdict(list)
        for _, record in sorted(self.saved.items()):
            saved = Saved(self.media, record, self._document(record))
            if saved.document is None:
                self._decide(saved)
            else:
                copies[saved.document.id].append(saved)
        for document, listed in copies.items():
            stays = self._survivor(document, [saved.record for saved in listed])
            for saved in listed:
                if saved.record is stays:
                    self._decide(saved)
                elif saved.record.rkey not in self.there:
                    self._hold(saved, f"it is a duplicate of {stays.rkey}")
        self._decide_copies()

    def _decide_copies(self) -> None:
        """A copy comes back with its original, and with another record of the same document."""
        leaves = self.account.owner_deleted
        shown = [each for each in self.plan.saved.values() if each.media == self.media and each.shown]
        shown = [each for each in shown if each.document is None or not leaves]
        records = {each.record.rkey for each in shown}
        documents = {each.document.id for each in shown if each.document is not None}
        for copy in self.copies.values():
            if copy.collection is None and copy.ref not in documents:
                continue
            saved = Saved(self.media, Existing(copy.rkey, copy.cid, copy.ref, copy.value), None, copy=True)
            if copy.path in self.repository.records:
                if self.repository.records[copy.path] == copy.cid:
                    self._present(saved)
            elif copy.source in records or copy.ref in documents:
                self._write(saved, Kind.CREATE)

    def _document(self, record: Existing) -> Document | None:
        if record.ref is not None:
            return self.documents.get(record.ref)
        return self.by_key.get(record.rkey) or same_content(self.media, record, self.documents.values())

    def _survivor(self, document: str, copies: Sequence[Existing]) -> Existing:
        """The copy that is there, else the one whose key is remembered, else one with its blobs, else the oldest."""
        entry, link = self.entries.get(document), self.documents[document].link
        remembered = link.rkey if link is not None else None
        if entry is not None and entry.rkey is not None and entry.did == self.account.did:
            remembered = entry.rkey
        there = [record for record in copies if record.rkey in self.keys[document]]
        return survivor(self.media, there or copies, remembered)

    def _decide(self, saved: Saved) -> None:
        if saved.record.rkey in self.there:
            self._compare(saved, replaceable=saved.document is not None and saved.shown)
        elif reason := self._obstacle(saved):
            self._hold(saved, reason)
        else:
            self._write(saved, Kind.CREATE)

    def _obstacle(self, saved: Saved) -> str:
        """Why a record whose key is free does not come back, or ""."""
        record, document = saved.record, saved.document
        if document is None:
            if record.ref in self.owners:
                return "its document belongs to another account"
            if record.ref is not None:
                return "its document is gone"
            if not record.value:
                return "it has no JSON form, in which alone a record can be written"
        elif not saved.shown:
            return f"its document is {document.verdict.value}: {document.reason}"
        if self.account.owner_deleted:
            return "its owner is leaving"
        if document is not None:
            keys = self.keys[document.id]
            return f"its document has the record {keys[0]} already" if keys else ""
        # True if the ledger knows that a wipe deleted this record, and nothing brought it back since.
        entry = self.entries.get(record.rkey)
        wiped = entry is not None and entry.state is State.DELETED and entry.did == self.account.did
        return "" if wiped else "it names no document, and no wipe deleted it: somebody else did"

    def _compare(self, saved: Saved, *, replaceable: bool) -> None:
        """A record under a key that is taken: it is there, or something else is."""
        current, document = self.there[saved.record.rkey], saved.document
        if current.cid == saved.record.cid:
            self._present(saved)
        # A record that named no document may have been given its name since, under its key.
        elif current.ref is not None and current.ref != (document.id if document is not None else saved.record.ref):
            self._hold(saved, f"its key belongs to the record of document {current.ref}")
        elif self.overwrite and replaceable:
            self._write(saved, Kind.UPDATE)
        else:
            how = "`--overwrite`, or `overwrite: true` in the launchpad"
            self._hold(saved, f"it differs from the record that is there, which is left: {how}, replaces it")

    def _write(self, saved: Saved, kind: Kind) -> None:
        record = saved.record
        try:
            exact = record_cid(record.value) == record.cid
        except InvalidRecord:
            exact = False
        if not exact:
            self._hold(saved, "it holds values that no PDS takes any more, so that it cannot come back as it was")
            return
        self.plan.wrong_shaped += not saved.copy and bool(self.lexicons.problems(self.media.nsid, record.value))
        self.plan.operations.append(
            Operation(
                kind,
                self.media,
                record.rkey,
                f"as in snapshot {self.plan.snapshots[0]}",
                record=record.value,
                cid=record.cid,
                orphan=saved.document.id if saved.document else None,
                blobs=blobs_of(record.value),
                copy=saved.copy,
            )
        )
        self.plan.saved[saved.path] = saved

    def _present(self, saved: Saved) -> None:
        self.plan.present.append(saved)
        self.plan.saved[saved.path] = saved

    def _hold(self, saved: Saved, reason: str) -> None:
        self.plan.held.append(Held(saved, reason))


class RestoreParameters(OfOneUser, OfTypes):
    source: str = option(
        MONGO,
        "mongo: what Mongo holds today, as a sync makes it. latest: the newest snapshot. Or a snapshot's id.",
        name="--from",
        metavar="SOURCE",
    )
    overwrite: bool = option(False, "From a snapshot: replace records that are there but differ, too.")
    dry_run: bool = dry_run_option("brought back")
    why: str = why_option()


@declared("restore", "restore_user", "restore_one_user")
def run_restore(work: Work, parameters: RestoreParameters) -> Report:
    """Bring a user's records back and let them be mirrored again.

    From Mongo: what Mongo holds today, as a sync makes it, removals included. From a snapshot: the same records
    under the same keys, byte by byte; what was removed since is held back and listed.
    """
    vault, types = open_vault(work.pipeline, work.progress), parameters.media
    account = parameters.account(work.pipeline)
    if parameters.source == MONGO:
        if parameters.dry_run:
            return _planned_from_mongo(work, account, types)
        return _restored(restore_from_mongo(vault, account, types, run_id=work.run_id, why=parameters.why), types)
    snapshot, overwrite = find_snapshot(vault, account, types, parameters.source), parameters.overwrite
    restore = Restore(vault, account, types, work.run_id, parameters.why, snapshot=snapshot, overwrite=overwrite)
    plan = restore.plan()
    if parameters.dry_run:
        return _planned(plan)
    work.say(plan.price.sentence)
    return _restored(restore.run(), types)


def _planned_from_mongo(work: Work, account: Account, types: Sequence[MediaType]) -> Report:
    engine = work.pipeline.engine
    made = dry_run(
        replace(engine, ledger=cast(Ledger, _NothingHeld(engine.ledger))),  # as once the holds are released
        [account],
        Selection(types=tuple(types)),
        limits=known_limits(work.pipeline),
        workers=1,
        title="Would be brought back (nothing was written)",
    )
    return plan_report(made)


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
