"""What was to be erased, and whether it is: records, copies, links, blobs, renditions of withdrawn items and lost
accounts.

Looks at the PDS, Mongo and the rendition store themselves, not at what a run said; only times come from the ledger. A
sync erases (DEL-1, DEL-6, DEL-7); here only renditions can be given up which no sync will ever see to. A blob counts
only where nothing that stays uses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import ClassVar, Final

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import AccountInactive, AccountUnknown, Blocked, PipelineError, RepositoryUnreadable
from ac_pipeline.items import Finding, LedgerEntry, State, item_id
from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.declare import LeftOut, Report, Table, Work, declared, findings_report
from ac_pipeline.operations.parameters import Selected, option
from ac_pipeline.operations.removal.snapshot import blobs_of
from ac_pipeline.renditions.store import RenditionStore
from ac_pipeline.sync.planning.copies import copies_of, deletions, find_lost_sources
from ac_pipeline.sync.planning.plan import (
    COPIES,
    DOCUMENT_GONE,
    AccountPlan,
    Existing,
    Wanted,
    existing_records,
    plan_type,
)
from ac_pipeline.sync.planning.reading import gone_from
from ac_pipeline.sync.ports import DataServer, Documents, Ledger
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.blob_repair import missing_blobs
from ac_pipeline.sync.writing.erased import forget, made_of
from ac_pipeline.sync.writing.recorder import without_renditions
from ac_pipeline.wiring import Pipeline

PENDING, GONE = "pending", "gone"
_COUNTED = ("records", "copies", "links", "blobs", "renditions", "snapshots")
PURGED = "its account is not in Mongo any more"


@dataclass(frozen=True, slots=True)
class Erasure(Finding):
    """One item that shall not be there: `pending` while something of it is, else `gone`. `uris` are its records that
    are still on the PDS; the item of a purged account is `account:did`."""

    state: str = ""
    linked: bool = False  # True if Mongo still holds its link
    blobs: tuple[str, ...] = ()  # CIDs of its blobs, used by nothing that stays, that can still be downloaded
    # When a run first saw that its record has to go and could not delete it, where the ledger knows
    since: datetime | None = None
    gone_at: datetime | None = None  # When its record was deleted, where the ledger knows
    snapshot: str | None = None  # The snapshot that still holds work of an account that has gone or is leaving
    # CIDs of its renditions, used by nothing that stays, that the rendition store still has
    renditions: tuple[str, ...] = ()
    # What the ledger knows of whatever these renditions were made for
    entries: tuple[LedgerEntry, ...] = field(default=(), repr=False)
    # Copies of its records that are still on the PDS, in `site.standard.document` of the same repository
    copies: tuple[str, ...] = ()

    shown: ClassVar = (
        *("item", "user", "state", "reason", "records", "copies", "linked", "blobs", "renditions", "snapshot"),
        *("since", "gone_at"),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", PENDING if self.pending else GONE)

    @property
    def records(self) -> tuple[str, ...]:
        return self.uris

    @property
    def left(self) -> dict[str, int]:
        """How much of it is still there, by kind."""
        numbers = (self.uris, self.copies, [1] * self.linked, self.blobs, self.renditions, [1] * bool(self.snapshot))
        return dict(zip(_COUNTED, map(len, numbers), strict=True))

    @property
    def pending(self) -> bool:
        return any(self.left.values())

    def to_json(self) -> dict[str, object]:
        return Finding.to_json(self) | ({"gone_at": None} if self.pending else {})


@dataclass(slots=True)
class _Subject:
    """One item that has to go, before its blobs were asked for."""

    media: MediaType
    id: str
    reason: str
    records: Sequence[Existing] = ()
    linked: bool = False
    entry: LedgerEntry | None = None
    blobs: set[str] = field(default_factory=set)
    copies: list[str] = field(default_factory=list)

    @property
    def made(self) -> set[str]:
        """CIDs of all renditions the ledger knows of."""
        return _made(self.entry) if self.entry is not None else set()

    def erasure(self, account: Account, present: set[str], kept: set[str]) -> Erasure:
        """What is left of it, of blobs those that are `present`, of renditions those that are `kept`."""
        entry, renditions = self.entry, tuple(sorted(self.made & kept))
        return Erasure(
            item_id(self.media.name, self.id),
            account.key,
            reason=self.reason,
            uris=tuple(at_uri(str(account.did), self.media.nsid, record.rkey) for record in self.records),
            linked=self.linked,
            blobs=tuple(sorted(self.blobs & present)),
            since=entry.withdrawn_at if entry is not None else None,
            gone_at=_gone_at(entry) if entry is not None else None,
            renditions=renditions,
            entries=(entry,) if entry is not None and renditions else (),
            copies=tuple(at_uri(str(account.did), COPIES, rkey) for rkey in self.copies),
        )


@dataclass(frozen=True, slots=True)
class Erasures:
    """Looks for what is left of erased items; nothing is written."""

    documents: Documents
    server: DataServer
    ledger: Ledger
    store: RenditionStore

    def of(self, account: Account, selection: Selection) -> list[Erasure]:
        """Every selected item of an account that has to go or has gone: withdrawn ones, those whose documents are
        gone, and of an account that is being deleted everything. Items that never had a record or a rendition are left
        out.

        Raises:
            Blocked: The account is inactive on the PDS: what it holds cannot be seen.
            Transient: Something could not be read: nothing can be said.
        """
        try:
            repository = self.server.read_repository(account.did) if account.did is not None else None
        except AccountUnknown:
            repository = None
        plan = AccountPlan(account, selection, repository=repository)
        subjects = [each for media in selection.types for each in self._subjects(plan, media, selection)]
        find_lost_sources(plan, self.documents)
        subjects += self._copies(plan, {(each.media.name, each.id): each for each in subjects})
        present = self._blobs(subjects, repository)
        kept = self._kept([each.entry for each in subjects if each.entry is not None])
        return [each.erasure(account, present, kept) for each in subjects]

    def of_purged(
        self, did: str | None, types: Sequence[MediaType], entries: Sequence[LedgerEntry] = (), *, id: str = ""
    ) -> Erasure:
        """What is left of an account that Mongo does not know any more, of which the ledger knows these entries; `did`
        is None where it had no repository, and `id`, its Mongo id, then names it. A repository that cannot be read is
        named as it is."""
        reason = PURGED
        left: tuple[str, ...] = ()
        copies: tuple[str, ...] = ()
        try:
            repository = self.server.read_repository(did) if did is not None else None
        except AccountUnknown:
            repository, reason = None, f"{PURGED}, and the PDS does not host it"
        except AccountInactive as error:
            repository, reason = None, f"{PURGED}; not public: {error.message}"
        except RepositoryUnreadable as error:  # it may still hold everything
            repository, reason, left = None, f"{PURGED}; {error.message}", (f"at://{did}",)
        if did is not None and repository is not None:
            left = tuple(at_uri(did, each.nsid, rkey) for each in types for rkey, _ in repository.collection(each.nsid))
            copies = tuple(at_uri(did, COPIES, copy.rkey) for copy in copies_of(repository, types))
        name, kept = did or id, self._kept(entries)
        owning, renditions = tuple(entry for entry in entries if _made(entry) & kept), tuple(sorted(kept))
        known = Erasure(f"account:{name}", name, reason=reason, uris=left, copies=copies)
        return replace(known, renditions=renditions, entries=owning)

    @staticmethod
    def _copies(plan: AccountPlan, subjects: dict[tuple[str, str], _Subject]) -> Iterator[_Subject]:
        """Put the copies to the items they are of; of an item that has nothing else left, one is made."""
        for made in plan.plans:
            for operation in deletions(plan, made):
                key = made.media.name, str(operation.orphan)
                if key not in subjects:
                    entry = plan.entries[made.media.name].get(key[1])
                    subjects[key] = _Subject(made.media, key[1], operation.reason, entry=entry)
                    yield subjects[key]
                subjects[key].copies.append(operation.rkey)

    def _subjects(self, plan: AccountPlan, media: MediaType, selection: Selection) -> Iterator[_Subject]:
        account, repository = plan.account, plan.repository
        documents = list(self.documents.stream(account, media))
        chosen = selection.documents(documents)
        going = {d.id for d in documents if d.id in chosen and d.verdict is Verdict.WITHDRAWN}
        records = existing_records(repository, media) if repository is not None else []
        entries = self.ledger.load(account, media)
        by_key = {record.rkey: record for record in records}
        # Matching is the plan's: whose record is whose, whatever the links say.
        wanted = [Wanted(document, skipped=document.id not in going) for document in documents]
        made = plan_type(media, str(account.did), wanted, records, None)
        plan.documents[media.name], plan.entries[media.name] = documents, dict(entries)
        plan.selected[media.name], plan.existing[media.name] = chosen, records
        plan.plans.append(made)
        matches = made.matches
        for document in documents:
            if document.id in going:
                own = [by_key[key] for key in matches.get(document.id, ())]
                entry = entries.get(document.id)
                known = entry is not None and (entry.rkey is not None or made_of(entry))
                if own or document.link is not None or known:
                    linked = document.link is not None
                    yield _Subject(media, document.id, document.reason, own, linked, entry)
        if not selection.partial:
            claimed = {key for keys in matches.values() for key in keys}
            strays = [record for record in records if record.rkey not in claimed]
            yield from self._without_document(plan, media, strays)

    def _without_document(self, plan: AccountPlan, media: MediaType, strays: Iterable[Existing]) -> Iterator[_Subject]:
        """Records and ledger entries whose documents are gone; a collection that holds nothing says nothing (DEL-5)."""
        account, entries = plan.account, plan.entries[media.name]
        known = {document.id for document in plan.documents[media.name]}
        by_ref: dict[str | None, list[Existing]] = {}
        for record in strays:
            by_ref.setdefault(record.ref, []).append(record)
        missing = {id: entry for id, entry in entries.items() if id not in known}
        named = sorted({ref for ref in by_ref if ref is not None and ref not in known})
        rendered = {id for id, entry in missing.items() if made_of(entry)}
        owners = self.documents.owners(media, sorted({*named, *rendered}))
        doubtful = self.documents.is_empty(media) and not account.owner_deleted
        plan.gone[media.name] = {} if doubtful else gone_from(account, owners, named)
        for ref in named:
            if ref not in owners and not doubtful:
                reason = LEAVING if account.owner_deleted else DOCUMENT_GONE
                yield _Subject(media, ref, reason, by_ref[ref], entry=entries.get(ref))
        if account.owner_deleted:
            for record in by_ref.get(None, ()):
                yield _Subject(media, record.rkey, LEAVING, [record])
        deleted = {id for id, entry in missing.items() if entry.state is State.DELETED and entry.rkey is not None}
        undoubted = set() if doubtful else rendered
        for id in sorted((deleted | undoubted) - set(named) - owners.keys()):
            yield _Subject(media, id, DOCUMENT_GONE, entry=entries[id])

    def _blobs(self, subjects: Sequence[_Subject], repository: Repository | None) -> set[str]:
        """Blobs of these items that can still be downloaded and that nothing else in the repository uses."""
        for each in subjects:
            each.blobs = each.made | {blob.cid for record in each.records for blob in blobs_of(record.value)}
        asked = {cid for each in subjects for cid in each.blobs}
        if repository is None or not asked:
            return set()
        going = {f"{each.media.nsid}/{record.rkey}" for each in subjects for record in each.records}
        going |= {f"{COPIES}/{rkey}" for each in subjects for rkey in each.copies}
        alone = asked - {cid for path, cid in repository.blob_references() if path not in going}
        return alone - missing_blobs(self.server, repository.did, alone)

    def _kept(self, entries: Sequence[LedgerEntry]) -> set[str]:
        """Renditions of these items alone that the store still has; the ledger is asked only when it has some."""
        stored = {cid for cid in {cid for entry in entries for cid in _made(entry)} if self.store.has(cid)}
        return stored - self.ledger.used_blobs(stored, without=[e.item for e in entries]) if stored else set()


def _made(entry: LedgerEntry) -> set[str]:
    return {*entry.past_blobs, *(made.blob.cid for made in made_of(entry))}


def _gone_at(entry: LedgerEntry) -> datetime | None:
    """When the record was last deleted: the timeline tells, or the entry itself."""
    if entry.state is not State.DELETED:
        return None
    return next((each.at for each in reversed(entry.history) if each.state is State.DELETED), entry.updated_at)


def kept_in_snapshots(
    snapshots: Iterable[Snapshot], accounts: Iterable[Account], *, everybody: bool = True
) -> Iterator[Erasure]:
    """Snapshots that hold work of accounts that are being deleted, or, where these are `everybody`, are gone."""
    known = {account.id: account for account in accounts}
    for each in snapshots:
        account = known.get(each.account)
        if not (everybody if account is None else account.owner_deleted):
            continue
        reason = LEAVING if account is not None else PURGED
        number = sum(each.records.values())
        yield Erasure(
            f"snapshot:{each.id}",
            each.user,
            reason=f"{reason}; a snapshot of {each.when:%Y-%m-%d} still holds {number} records: "
            f"ac-pipeline snapshots --forget {each.id} --confirm 1",
            snapshot=each.id,
        )


def _search(
    work: Work, accounts: Sequence[Account], selection: Selection, *, everybody: bool
) -> Iterator[Erasure | LeftOut]:
    """Every item that has to go or has gone, as it is found, and the accounts that cannot be looked at. `everybody`:
    these are all accounts of the platform, so that any other was purged."""
    pipeline = work.pipeline
    erasures = Erasures(pipeline.documents, pipeline.server, pipeline.ledger, pipeline.store)
    rendered = pipeline.ledger.rendered()
    having = [account for account in accounts if account.did is not None or account.id in rendered]
    for account, answer in work.for_each("Looking", having, lambda each: erasures.of(each, selection)):
        if not isinstance(answer, PipelineError):
            yield from answer
        elif account.owner_deleted and isinstance(answer, Blocked):
            # Its repository cannot be looked into: it may still hold everything.
            reason, uri = f"{LEAVING}; {answer.message}", f"at://{account.did}"
            yield Erasure(f"account:{account.did}", account.key, reason=reason, uris=(uri,))
        else:
            yield LeftOut(account.key, answer)
    if everybody:  # accounts that Mongo does not know any more are known by their repositories and renditions
        ledger, types, names = pipeline.ledger, selection.types, {media.name for media in selection.types}
        known, dids = {account.id for account in accounts}, {account.did for account in accounts}
        purged = {did: id for id, did in rendered.items() if id not in known}
        for did in sorted({*ledger.checkpoints(), *(did for did in purged if did is not None)} - dids):
            entries = list(ledger.find(account=purged[did], types=names)) if did in purged else []
            yield erasures.of_purged(did, types, entries)
        for id in sorted(id for id, did in rendered.items() if id not in known and (did is None or did in dids)):
            yield erasures.of_purged(None, types, list(ledger.find(account=id, types=names)), id=id)
    if not selection.items:
        yield from kept_in_snapshots(pipeline.snapshots.find(), accounts, everybody=everybody)


def _let_go(pipeline: Pipeline, found: Erasure) -> Erasure:
    """Give its renditions up, unless it has a record, or the ledger says something else of it by now."""
    if found.records or not found.renditions:
        return found
    engine, ledger = pipeline.engine, pipeline.ledger
    did = next((entry.did for entry in found.entries if entry.did is not None), None)
    with ledger.lease(did, engine.holder) if did is not None else nullcontext():
        entries = [entry for entry in found.entries if ledger.get(entry.item) == entry]
        for media in MEDIA_TYPES:
            forget(ledger, engine.renderer, media, [entry for entry in entries if entry.type == media.name])
        if entries == list(found.entries):
            for cid in found.renditions:  # also what was made anew since the ledger gave it up
                pipeline.store.remove(cid)
        ledger.save(without_renditions(entry) for entry in entries)
    return replace(found, renditions=(), entries=()) if entries == list(found.entries) else found


class ErasureParameters(Selected):
    forget_renditions: bool = option(False, "Delete the renditions that are found, of items without record.")


_COLUMNS: Final = ("user", "item", "reason", "records", "copies", "linked", "blobs", "renditions", "snapshot", "since")


@declared("erasure", "erasure_report", "look_for_erased_items")
def run_erasure(work: Work, parameters: ErasureParameters) -> Report:
    """Say what of withdrawn items and deleted accounts is still on the PDS, in Mongo, in the rendition store or in
    snapshots, and what has gone, and when.

    Asks the PDS for every record, for copies of erased ones in `site.standard.document`, and for every blob that only
    erased items used. `ac-pipeline sync` erases, `ac-pipeline snapshots --forget` deletes snapshots. Ends with 1 while
    anything is pending.
    """
    pipeline, items = work.pipeline, Table("items", _COLUMNS)
    pending = Table("items", _COLUMNS, "Pending erasures")
    gone = Table("erased", ("user", "item", "reason", "gone_at"), "Erased")
    counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
    left_out, since = list[LeftOut](), set[datetime]()
    accounts, selection = parameters.accounts(pipeline), parameters.selection()
    for found in _search(work, accounts, selection, everybody=parameters.everybody):
        if isinstance(found, LeftOut):
            left_out.append(found)
            continue
        each = _let_go(pipeline, found) if parameters.forget_renditions else found
        row = each.to_json()
        items.add(row)
        (pending if each.pending else gone).add(row)
        if each.pending:
            counts.update(each.left)
            since.update([each.since] if each.since is not None else [])
    oldest = min(since, default=None)
    age = (datetime.now(UTC) - oldest).total_seconds() if oldest else None
    waited = f"{age / 3600:.1f} hours, since {oldest:%Y-%m-%d %H:%M} UTC" if oldest and age else "none"
    return findings_report(
        f"{pending.count} items pending ({', '.join(f'{number} {name}' for name, number in counts.items())}); "
        f"{gone.count} erased.",
        {"pending": pending.count, "gone": gone.count, **counts},
        items,
        left_out,
        left_out_as="not_looked_at",
        more={"oldest_pending": oldest.isoformat() if oldest else None, "oldest_pending_seconds": age},
        lines=[f"Oldest pending deletion that a run has seen: {waited}."],
        tables=[pending, gone],
        exit_code=int(bool(pending.count)),
    )
