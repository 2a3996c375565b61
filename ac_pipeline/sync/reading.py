"""Reading one account: its documents, what the ledger knows, the records it shall have, and which records are orphans.

Fills an `AccountPlan`; decides nothing about records and writes nothing. Reading the repository is the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.bookkeeper import Bookkeeper
from ac_pipeline.sync.plan import Existing, Wanted
from ac_pipeline.sync.ports import Documents, Ledger, Renderer
from ac_pipeline.sync.render import RecordBuilder
from ac_pipeline.sync.safeguard import Safeguard
from ac_pipeline.sync.selection import Selection

DOCUMENT_GONE = "its document is gone"
"""Why an orphan goes whose document no longer exists: the only copy of it may be the record."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads accounts. Its arguments are those of the engine."""

    documents: Documents
    ledger: Ledger
    renderer: Renderer
    lexicons: Lexicons
    now: Callable[[], datetime]
    renders: Executor
    safeguard: Safeguard

    def read(self, plan: AccountPlan, selection: Selection, *, dry: bool = False) -> None:
        """Documents, what the ledger knows, and the records that are wanted; renditions that are missing are made.

        Raises:
            Transient: Something could not be read: nothing can be said of the account.
        """
        builder = RecordBuilder(
            self.lexicons,
            self.renderer,
            self.renders,
            lambda: int(self.now().timestamp() * 1000),
            dry=dry,
            retry=selection.retry,
        )
        for media in selection.types:
            documents = list(self.documents.stream(plan.account, media))
            entries = dict(self.ledger.load(plan.account, media))
            chosen = selection.documents(documents)
            wanted = builder.build(media, [d for d in documents if d.id in chosen], entries, plan.account.did)
            plan.documents[media.name] = documents
            plan.entries[media.name] = entries
            plan.selected[media.name] = chosen
            plan.wanted[media.name] = wanted + [Wanted(d, skipped=True) for d in documents if d.id not in chosen]

    def find_orphans(self, plan: AccountPlan, selection: Selection, books: Bookkeeper) -> None:
        """Which of the repository's records have no document any more, unless the database is doubted.

        Nothing is looked up for an account that is leaving: every record goes, whatever is known of its document.
        """
        if not selection.judges_orphans:
            return
        for media in selection.types:
            if plan.account.leaving is not None:
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
                    run_id=books.run_id,
                    dry=books.dry,
                )
                if why is not None:
                    books.doubt(media, len(orphans), len(records), why)
                # Confirmed once more: while a backup is being restored, documents come back between two looks.
                gone = {} if why is not None else self._gone(records, plan.account, media, plan.documents[media.name])
            plan.gone[media.name] = gone

    def _gone(
        self, records: Sequence[Existing], account: Account, media: MediaType, documents: Sequence[Document]
    ) -> Mapping[str, str]:
        """Documents that records name and this account does not have, confirmed one by one (DEL-4, DEL-5)."""
        known = {document.id for document in documents}
        named = {record.ref for record in records if record.ref is not None}
        strangers = sorted(named - known)
        if not strangers:
            return {}
        owners = self.documents.owners(media, strangers)
        gone = {}
        for id in strangers:
            if id not in owners:
                gone[id] = DOCUMENT_GONE
            elif owners[id] != (None if account.is_guest else account.id):
                gone[id] = "its document belongs to another account"
        return gone
