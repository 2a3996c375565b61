"""Reading one account: its documents, what the ledger knows, the records it shall have, and which records are orphans.

Fills an `AccountPlan`; decides nothing about records and writes nothing. Reading the repository is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.errors import Blocked, NoCredentials, Paused
from ac_pipeline.items import State
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.sync.planning.diff import AccountPlan
from ac_pipeline.sync.planning.plan import Existing, Made, Wanted
from ac_pipeline.sync.planning.wanted import RecordBuilder, make
from ac_pipeline.sync.ports import Documents, Ledger, Renderer
from ac_pipeline.sync.safeguard import Safeguard
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.recorder import Recorder

DOCUMENT_GONE = "its document is gone"
"""Why an orphan goes whose document no longer exists: the only copy of it may be the record."""

ANOTHERS = "its document belongs to another account"


def gone_from(account: Account, owners: Mapping[str, str | None], documents: Iterable[str]) -> dict[str, str]:
    """Those of these documents that are not this account's, with the reason; `owners` as `Documents.owners` tells
    them.
    """
    own = None if account.is_guest else account.id
    return {
        id: ANOTHERS if id in owners else DOCUMENT_GONE for id in documents if id not in owners or owners[id] != own
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

    def read(self, plan: AccountPlan, selection: Selection, *, dry: bool = False) -> None:
        """Documents, what the ledger knows, and the records that are wanted; renditions that are missing are made.

        Raises:
            Unmade: They are not, as `plan.made` shall hold them all.
            Transient: Something could not be read: nothing can be said of the account.
        """
        builder = self._builder(selection, dry=dry)
        read = {media.name: list(self.documents.stream(plan.account, media)) for media in selection.types}
        known = self.ledger.load_types(plan.account, selection.types)
        for media in selection.types:
            documents, entries = read[media.name], dict(known[media.name])
            chosen = selection.documents(documents)
            asked = [document for document in documents if document.id in chosen]
            wanted = builder.build(media, asked, entries, plan.account.did, plan.made)
            plan.documents[media.name] = documents
            plan.entries[media.name] = entries
            plan.selected[media.name] = chosen
            plan.wanted[media.name] = wanted + [Wanted(d, skipped=True) for d in documents if d.id not in chosen]

    def render_missing(self, account: Account, selection: Selection) -> Made:
        """Make what is missing of an account's renditions, and ask for companions; nothing is remembered of it.

        Paused types are left out, and items that were blocked: it may be in vain.

        Raises:
            Transient: Something could not be read.
        """
        builder, jobs = self._builder(selection), []
        types = [media for media in selection.types if media.recipe is not None]
        known = self.ledger.load_types(account, types)
        for media in types:
            entries = known[media.name]
            documents = list(self.documents.stream(account, media))
            chosen = selection.documents(documents)
            blocked = {id for id, entry in entries.items() if entry.state is State.BLOCKED}
            asked = [document for document in documents if document.id in chosen and document.id not in blocked]
            jobs += builder.jobs(media, asked, entries, {})
        paused = self.ledger.holds(account) if jobs else {}
        return make(self.renderer, self.renders, [job for job in jobs if job.media.name not in paused])

    def _builder(self, selection: Selection, *, dry: bool = False) -> RecordBuilder:
        def milliseconds() -> int:
            return int(self.now().timestamp() * 1000)

        grace = self.grace * 1000
        return RecordBuilder(self.lexicons, self.renderer, self.renders, milliseconds, grace, selection, dry=dry)

    def find_orphans(self, plan: AccountPlan, selection: Selection, recorder: Recorder) -> None:
        """Which of the repository's records have no document any more, unless the database is doubted.

        Nothing is looked up for an account that is to be deleted: every record goes, whatever is known of its document.
        """
        if not selection.judges_orphans:
            return
        for media in selection.types:
            if plan.account.pending_deletion is not None:
                plan.gone[media.name] = {}
                continue
            records = plan.records(media)
            gone = self._gone(records, plan.account, media, plan.documents[media.name])
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
                    sweep=selection.sweep,
                    run_id=recorder.run_id,
                    dry=recorder.dry,
                )
                if why is not None:
                    recorder.doubt(media, len(orphans), len(records), why)
                # Confirmed once more: while a backup is being restored, documents come back between two looks.
                gone = {} if why is not None else self._gone(records, plan.account, media, plan.documents[media.name])
            plan.gone[media.name] = gone

    def _gone(
        self, records: Sequence[Existing], account: Account, media: MediaType, documents: Sequence[Document]
    ) -> Mapping[str, str]:
        """Documents that records name and this account does not have, confirmed one by one (DEL-4, DEL-5)."""
        named = {record.ref for record in records if record.ref is not None}
        strangers = sorted(named - {document.id for document in documents})
        return gone_from(account, self.documents.owners(media, strangers), strangers) if strangers else {}

    # -------------------------------------------------------------------------------------------- what has to wait

    def without_paused(self, account: Account, selection: Selection, recorder: Recorder) -> Selection:
        """The selection without the types an operator has paused; their items are counted and remembered as blocked.

        Asked for under the lease: whoever pauses types before taking it finds that no sync writes there any more.
        A pause keeps work from being published; it keeps no account that is to be deleted from being erased.
        """
        if account.pending_deletion is not None:
            return selection
        holds = self.ledger.holds(account)
        paused = [media for media in selection.types if media.name in holds]
        for media in paused:
            reason = Paused(f"the {media.plural} of {account.key} are on hold: {holds[media.name]}")
            recorder.report.note(reason.message)
            self._wait(account, [media], selection, recorder, reason)
        if paused and len(paused) == len(selection.types):
            reasons = dict.fromkeys(holds[media.name] for media in paused)
            recorder.report.blocked = Paused(f"{account.key} is on hold: {'; '.join(reasons)}")
        return replace(selection, types=tuple(media for media in selection.types if media not in paused))

    def block(self, account: Account, selection: Selection, recorder: Recorder, error: Blocked | None) -> None:
        """Count and remember what waits for an account that cannot be used, or has no repository (`error` None)."""
        reason = error or NoCredentials(f"{account.key} has no account on the PDS")
        self._wait(account, selection.types, selection, recorder, reason)
        recorder.report.blocked = reason

    def _wait(
        self, account: Account, types: Sequence[MediaType], selection: Selection, recorder: Recorder, reason: Blocked
    ) -> None:
        for media in types:
            documents = list(self.documents.stream(account, media))
            recorder.block(media, documents, selection.documents(documents), self.ledger.load(account, media), reason)
