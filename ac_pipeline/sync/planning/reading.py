"""Reading one account: its documents, what the ledger knows, the records it shall have, and which records are orphans.

Fills an `AccountPlan`: decides which renditions have to be made and which are known, and nothing about records that
exist. Making renditions is the renderer's, comparing is `plan.py`'s, reading the repository is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.errors import (
    Blocked,
    EncoderTimedOut,
    EncodingFailed,
    HeldBack,
    InvalidDocument,
    NoCredentials,
    Paused,
    Permanent,
    PipelineError,
    SourceMissing,
    SourcePending,
    Transient,
)
from ac_pipeline.items import Derived, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.media.eligibility import NOBODY
from ac_pipeline.sync.planning.plan import ANOTHERS, DOCUMENT_GONE, AccountPlan, Made, Wanted, failure_of, offer
from ac_pipeline.sync.ports import Documents, Ledger, Renderer
from ac_pipeline.sync.safeguard import Safeguard
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.recorder import Recorder

LEFT_BEHIND = (
    "it has no `user`, and is the work of an account that has left: it is not published as guest work; give it a "
    "`user`, or remove it"
)

COMPANION_DAYS = 7  # How long a missing companion may still turn up: it is uploaded together with its item

_DAY_MS = 86_400_000
_REMEMBERED = {Stage.RENDITION, Stage.UPLOAD, Stage.WRITE}


class Job(NamedTuple):
    """What the renderer is asked about one document: `known`, `look` and `anew` are those of `Renderer.derive`."""

    media: MediaType
    document: Document
    known: Derived | None
    look: bool
    anew: bool


class Unmade(Exception):
    """Renditions of one type that have to be made, or companions asked for, before records are known."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(f"{len(jobs)} items are not rendered")
        self.jobs = jobs


def make(renderer: Renderer, pool: Executor, jobs: Sequence[Job]) -> Made:
    """Ask the renderer, several at once."""

    def ask(job: Job) -> Derived | PipelineError:
        try:
            return renderer.derive(job.media, job.document, job.known, look=job.look, anew=job.anew)
        except (Permanent, Transient) as error:
            return error

    outcomes = zip(jobs, pool.map(ask, jobs), strict=True)
    return {item_id(job.media.name, job.document.id): (job.document.fingerprint, outcome) for job, outcome in outcomes}


def gone_from(account: Account, owners: Mapping[str, str | None], documents: Iterable[str]) -> dict[str, str]:
    """Those of these documents that are not this account's, with the reason, by what `Documents.owners` tells; none
    whose owner nobody can tell: nothing is removed for it."""
    own = {None if account.is_guest else account.id, NOBODY}
    return {
        id: ANOTHERS if id in owners else DOCUMENT_GONE for id in documents if id not in owners or owners[id] not in own
    }


@dataclass(slots=True, kw_only=True)
class Reader:
    """Reads accounts, and says what of them is not to be written."""

    documents: Documents
    ledger: Ledger
    renderer: Renderer
    lexicons: Lexicons
    now: Callable[[], datetime]  # The time, UTC
    renders: Executor  # Pool in which renditions are made
    safeguard: Safeguard  # Keeps a wrong or half-restored database, and a wrong PDS, from doing harm
    grace: float = 600.0  # Seconds that an item without a record waits for media that the platform is still making

    def read(self, plan: AccountPlan) -> None:
        """Documents, what the ledger knows, and the records that are wanted; renditions that are missing are made, or
        raise Unmade where `plan.made` shall hold them all. Raises Transient when something could not be read.
        """
        self._look(plan, plan.selection.types)
        self.choose(plan)

    def choose(self, plan: AccountPlan) -> None:
        """The records that are wanted of the documents that were read; otherwise as `read`."""
        for media in plan.selection.types:
            documents, chosen = plan.documents[media.name], plan.selected[media.name]
            wanted = self._wanted(plan, media, [document for document in documents if document.id in chosen])
            plan.wanted[media.name] = wanted + [Wanted(d, skipped=True) for d in documents if d.id not in chosen]

    def render_missing(self, account: Account, selection: Selection) -> Made:
        """Make what is missing of an account's renditions, and ask for companions; nothing is remembered of it. Paused
        types are left out, and items that were blocked: it may be in vain. Raises Transient.
        """
        plan = AccountPlan(account, selection)
        types = [media for media in selection.types if media.recipe is not None]
        self._look(plan, types)
        jobs: list[Job] = []
        for media in types:
            blocked = {id for id, entry in plan.entries[media.name].items() if entry.state is State.BLOCKED}
            asked = [each for each in plan.documents[media.name] if each.id in plan.selected[media.name] - blocked]
            jobs += self._jobs(plan, media, [each for each in asked if self._known(plan, media, each) is None])
        paused = self.ledger.holds(account) if jobs else {}
        return make(self.renderer, self.renders, [job for job in jobs if job.media.name not in paused])

    def _look(self, plan: AccountPlan, types: Sequence[MediaType]) -> None:
        """What Mongo and the ledger hold of these types, and which documents are selected."""
        for media in types:
            plan.documents[media.name] = list(self.documents.stream(plan.account, media))
            plan.selected[media.name] = plan.selection.documents(plan.documents[media.name])
        plan.entries |= self.ledger.load_of((plan.account,), types)[plan.account.id]
        for media in types if plan.account.is_guest else ():
            if media.outlives_owner:
                self._hold_left_behind(plan, media)

    def _hold_left_behind(self, plan: AccountPlan, media: MediaType) -> None:
        """Hold back documents without an owner that the ledger knows as those of somebody who has left (DEL-10): the
        link that would tell it went with the record when that account was emptied.
        """
        entries, documents = plan.entries[media.name], plan.documents[media.name]
        eligible = [each.id for each in documents if each.verdict is Verdict.ELIGIBLE]
        unknown = [item_id(media.name, id) for id in eligible if id not in entries]
        others = {entry.document: entry for entry in self.ledger.of_others(plan.account, unknown)} if unknown else {}
        former = {id: entry.former for id in eligible if (entry := entries.get(id)) is not None and entry.former}
        former |= {id: entry.account for id, entry in others.items()}
        if not former:
            return
        staying = {account.id for account in self.safeguard.accounts() if not account.owner_deleted}
        left = {id for id, account in former.items() if account not in staying}
        plan.entries[media.name] = {**entries, **{id: entry for id, entry in others.items() if id in left}}
        plan.documents[media.name] = [
            replace(each, verdict=Verdict.OWNERSHIP_UNCLEAR, reason=LEFT_BEHIND) if each.id in left else each
            for each in documents
        ]

    # ---------------------------------------------------------------------------------------------- what is wanted

    def _wanted(self, plan: AccountPlan, media: MediaType, documents: Sequence[Document]) -> list[Wanted]:
        """What the mirror wants for each document, in the order given."""
        known = {each.id: self._known(plan, media, each) for each in documents}
        unknown = [] if plan.dry else [each for each in documents if known[each.id] is None]
        jobs = self._jobs(plan, media, unknown)
        if jobs and plan.made is not None:
            raise Unmade(jobs)
        made = {**(plan.made or {}), **make(self.renderer, self.renders, jobs)}
        if plan.dry and plan.selection.full:
            known |= self._with_companions(media, documents, known)
        wanted = []
        for document in documents:
            entry, each = plan.entries[media.name].get(document.id), known[document.id]
            if each is None and not plan.dry:
                each = self._outcome(document, entry, made[item_id(media.name, document.id)][1])
            if each is None:
                each = Wanted(document, unrendered=True)
            elif isinstance(each, Derived):
                each = offer(self.lexicons, media, document, each)
            remembered = entry.rkey if entry is not None and entry.did == plan.account.did else None
            wanted.append(each if remembered is None else replace(each, known_rkey=remembered))
        return wanted

    @staticmethod
    def _jobs(plan: AccountPlan, media: MediaType, documents: Iterable[Document]) -> list[Job]:
        """What the renderer has to be asked about these documents, besides what is made."""
        entries, made, asked = plan.entries[media.name], plan.made or {}, plan.selection
        return [
            Job(media, document, entry.derived if entry else None, asked.full, asked.renditions)
            for document in documents
            for entry in (entries.get(document.id),)
            if made.get(item_id(media.name, document.id), ("",))[0] != document.fingerprint
        ]

    def _with_companions(
        self, media: MediaType, documents: Iterable[Document], known: Mapping[str, Wanted | Derived | None]
    ) -> dict[str, Derived]:
        """What is known, with the companions that are there now, by document id. Nothing is made or remembered."""
        asked = [
            (document, derived)
            for document in documents
            for derived in (known[document.id],)
            if isinstance(derived, Derived) and media.companions(document)  # which only an eligible one has
        ]

        def look(each: tuple[Document, Derived]) -> Derived:
            document, derived = each
            return replace(derived, found=self.renderer.companions(media, document, derived.found))

        return dict(zip((document.id for document, _ in asked), self.renders.map(look, asked), strict=True))

    @staticmethod
    def _outcome(document: Document, entry: LedgerEntry | None, outcome: Derived | PipelineError) -> Wanted | Derived:
        """What was made, or why not; an encoding that exceeds its time a second time is given up (MEDIA-23)."""
        if isinstance(outcome, Derived):
            return outcome
        before = entry.failure if entry is not None and entry.fingerprint == document.fingerprint else None
        if isinstance(outcome, EncoderTimedOut) and before is not None and before.error_class == EncoderTimedOut.code:
            outcome = EncodingFailed(f"{outcome.message}, for the second time: raise the limit, then retry")
        return Wanted(document, failure=failure_of(Stage.RENDITION, outcome), fresh=True)

    def _known(self, plan: AccountPlan, media: MediaType, document: Document) -> Wanted | Derived | None:
        """What can be said without asking storage (MEDIA-21, MEDIA-22): a final word, the known renditions, or None."""
        if document.verdict is Verdict.WITHDRAWN:
            return Wanted(document)
        if document.verdict is not Verdict.ELIGIBLE:
            error = InvalidDocument if document.verdict is Verdict.INVALID else HeldBack
            return Wanted(document, failure=failure_of(Stage.DOCUMENT, error(document.reason)), fresh=True)
        entry, asked = plan.entries[media.name].get(document.id), plan.selection
        if (waiting := self._pending(media, document, entry)) is not None:
            return waiting
        same = entry is not None and entry.fingerprint == document.fingerprint
        looks, anew = asked.full and not plan.dry, asked.renditions
        if same and not asked.retry and not anew and entry is not None and entry.state is State.QUARANTINED:
            failure = entry.failure
            gone = looks and failure is not None and failure.error_class == SourceMissing.code
            if failure is not None and failure.stage in _REMEMBERED and not gone:
                return Wanted(document, failure=failure)
        companions = media.companions(document)
        if media.recipe is None and not companions:
            return Derived()
        if looks or (anew and media.recipe is not None) or not same or entry is None or entry.derived is None:
            return None
        open_ = [name for name in companions if name not in entry.derived.found]
        young = self._milliseconds() - document.when < COMPANION_DAYS * _DAY_MS
        return None if open_ and young and not plan.dry else entry.derived

    def _pending(self, media: MediaType, document: Document, entry: LedgerEntry | None) -> Wanted | Derived | None:
        """While the platform makes its media, an item waits, and one that has a record keeps what it has (GUARD-6);
        None when that takes too long. A beginning that lies further in the future than clocks differ is not believed.
        """
        since, grace = media.pending_since(document), self.grace * 1000
        if since is None or not since - grace <= self._milliseconds() < since + grace:
            return None
        if (document.link is not None and document.link.rkey) or (entry is not None and entry.cid):
            return entry.derived if entry is not None else None
        until = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=since + grace)
        error = SourcePending(
            f"the platform is still making its video; from {until:%Y-%m-%d %H:%M:%S} UTC on it is made here"
        )
        return Wanted(document, failure=failure_of(Stage.RENDITION, error), until=until)

    def _milliseconds(self) -> int:
        return int(self.now().timestamp() * 1000)

    # --------------------------------------------------------------------------------------------- what has to go

    def find_orphans(self, plan: AccountPlan, recorder: Recorder) -> None:
        """Which of the repository's records have no document any more, unless the database is doubted. Of an account
        that is to be deleted every record goes, whatever is known of its document.
        """
        for media in plan.selection.types if plan.selection.judges_orphans else ():
            if plan.account.pending_deletion is not None:
                plan.gone[media.name] = {}
                continue
            self._find_renamed(plan, media)
            records, gone = plan.records(media), self._gone(plan, media)
            orphans = {
                record.rkey: record.ref if gone[record.ref] == DOCUMENT_GONE else f"{record.ref} elsewhere"
                for record in records
                if record.ref is not None and record.ref in gone
            }
            if orphans:
                why = self.safeguard.permit(
                    media,
                    plan.account,
                    orphans,
                    len(records),
                    sweep=plan.selection.sweep,
                    run_id=recorder.run_id,
                    dry=plan.dry,
                )
                if why is not None:
                    recorder.doubt(media, len(orphans), len(records), why)
                # Confirmed once more: while a backup is being restored, documents come back between two looks.
                gone = {} if why is not None else self._gone(plan, media)
            plan.gone[media.name] = gone

    def _find_renamed(self, plan: AccountPlan, media: MediaType) -> None:
        """Records of works whose documents were made anew, under other ids: whose they are is told by what they hold,
        as of records that name no document (GUARD-7). A database that lost them has not lost their works.
        """
        identities = {media.identity(document.fields) for document in plan.documents[media.name]} - {None}
        gone = self._gone(plan, media) if identities else {}
        renamed = {
            (media.name, each.rkey, each.ref)
            for each in plan.records(media)
            if gone.get(str(each.ref)) == DOCUMENT_GONE and media.identity(each.value) in identities
        }
        if renamed:
            plan.renamed |= renamed
            del plan.existing[media.name]

    def _gone(self, plan: AccountPlan, media: MediaType) -> Mapping[str, str]:
        """Documents that records name and this account does not have, confirmed one by one (DEL-4, DEL-5)."""
        named = {record.ref for record in plan.records(media) if record.ref is not None}
        strangers = sorted(named - {document.id for document in plan.documents[media.name]})
        return gone_from(plan.account, self.documents.owners(media, strangers), strangers) if strangers else {}

    # -------------------------------------------------------------------------------------------- what has to wait

    def leave_out_paused(self, plan: AccountPlan, recorder: Recorder) -> None:
        """Take the types that an operator has paused out of the plan; their items are counted and remembered as
        blocked.

        Asked for under the lease: whoever pauses types before taking it finds that no sync writes there any more.
        A pause keeps work from being published; it keeps no account that is to be deleted from being erased.
        """
        if plan.account.pending_deletion is not None:
            return
        key, types, holds = plan.account.key, plan.selection.types, self.ledger.holds(plan.account)
        paused = [media for media in types if media.name in holds]
        for media in paused:
            reason = Paused(f"the {media.plural} of {key} are on hold: {holds[media.name]}")
            recorder.report.note(reason.message)
            self._wait(plan, [media], recorder, reason)
        if paused and len(paused) == len(types):
            reasons = dict.fromkeys(holds[media.name] for media in paused)
            recorder.report.blocked = Paused(f"{key} is on hold: {'; '.join(reasons)}")
        plan.selection = replace(plan.selection, types=tuple(media for media in types if media not in paused))

    def block(self, plan: AccountPlan, recorder: Recorder, error: Blocked | None) -> None:
        """Count and remember what waits for an account that cannot be used, or has no repository (`error` None)."""
        reason = error or NoCredentials(f"{plan.account.key} has no account on the PDS")
        self._wait(plan, plan.selection.types, recorder, reason)
        recorder.report.blocked = reason

    def _wait(self, plan: AccountPlan, types: Sequence[MediaType], recorder: Recorder, reason: Blocked) -> None:
        self._look(plan, types)
        for media in types:
            recorder.block(media, reason)
