"""The search for what is left of erased work: everybody who is selected, accounts that were purged, and snapshots.

Behind `ac-pipeline erasure` and the job `erasure_report`. What is left of one account is `erasure.py`. Nothing is
written, except that renditions which no sync will ever see to can be given up here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, PipelineError
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.operations.erasure import Erasure, Erasures, kept_in_snapshots, unseen
from ac_pipeline.operations.rounds import LeftOut, Progress, look_at, unwatched
from ac_pipeline.sync.entries import without_renditions
from ac_pipeline.sync.erased import Eraser
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline


@dataclass(frozen=True, slots=True)
class ErasureSearch:
    """One search.

    Args:
        pipeline: Where to look.
        accounts: Whom to look at.
        selection: Which of their items.
        everybody: Whether these are all accounts of the platform, so that any other was purged.
        forget_renditions: Give up the renditions that are found, of items without a record.
    """

    pipeline: Pipeline
    accounts: Sequence[Account]
    selection: Selection
    everybody: bool
    forget_renditions: bool = False

    def found(self, progress: Progress = unwatched) -> Iterator[Erasure | LeftOut]:
        """Every item that has to go or has gone, as it is found, and the accounts that cannot be looked at.

        Raises:
            Transient: Something could not be read: nothing can be said.
        """
        for each in self._search(progress):
            yield self._let_go(each) if self.forget_renditions and isinstance(each, Erasure) else each

    def _search(self, progress: Progress) -> Iterator[Erasure | LeftOut]:
        pipeline = self.pipeline
        erasures = Erasures(pipeline.documents, pipeline.server, pipeline.ledger, pipeline.store)
        workers = pipeline.settings.ac_concurrent_users
        looks = look_at(self.accounts, lambda each: erasures.of(each, self.selection), workers, progress)
        for account, answer in looks:
            if not isinstance(answer, PipelineError):
                yield from answer
            elif account.owner_deleted and isinstance(answer, Blocked):
                yield unseen(account, answer)
            else:
                yield LeftOut(account.key, answer)
        rendered = pipeline.ledger.rendered()
        for account in self.accounts:
            if account.did is None and account.id in rendered:
                yield from erasures.of(account, self.selection)
        if self.everybody:
            yield from self._purged(erasures, rendered)
        if not self.selection.items:
            yield from kept_in_snapshots(pipeline.snapshots.find(), self.accounts, everybody=self.everybody)

    def _purged(self, erasures: Erasures, rendered: dict[str, str | None]) -> Iterator[Erasure]:
        """Accounts that Mongo does not know any more, by what is remembered of repositories and of renditions."""
        ledger, names = self.pipeline.ledger, {media.name for media in self.selection.types}
        known, dids = {account.id for account in self.accounts}, {account.did for account in self.accounts}
        purged = {did: id for id, did in rendered.items() if id not in known}
        for did in sorted({*ledger.marks(), *(did for did in purged if did is not None)} - dids):
            entries = list(ledger.find(account=purged[did], types=names)) if did in purged else []
            yield erasures.of_purged(did, self.selection.types, entries)
        for id in sorted(id for id, did in rendered.items() if id not in known and (did is None or did in dids)):
            yield erasures.of_purged(None, self.selection.types, list(ledger.find(account=id, types=names)), id=id)

    def _let_go(self, found: Erasure) -> Erasure:
        """Give its renditions up, unless it has a record, or the ledger says something else of it by now."""
        if found.records or not found.renditions:
            return found
        engine, ledger = self.pipeline.engine, self.pipeline.ledger
        did = next((entry.did for entry in found.entries if entry.did is not None), None)
        with ledger.lease(did, engine.holder) if did is not None else nullcontext():
            entries = [entry for entry in found.entries if ledger.get(entry.item) == entry]
            eraser = Eraser(engine.documents, ledger, engine.renderer)
            for media in MEDIA_TYPES:
                eraser.forget(media, [entry for entry in entries if entry.type == media.name])
            if entries == list(found.entries):
                for cid in found.renditions:  # also what was made anew since the ledger gave it up
                    self.pipeline.store.remove(cid)
            ledger.save(without_renditions(entry) for entry in entries)
        return replace(found, renditions=(), entries=()) if entries == list(found.entries) else found
