"""Ledger entries: what the ledger shall remember of an item after something happened to it, or that it knows already.

Values only: what happened is decided by the bookkeeper, which also stores what is made here. An entry is made anew
only when it says something new, so that a run over unchanged data stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import TRANSIENT_CODES
from ac_pipeline.items import Attempt, Failure, LedgerEntry, Stage, State
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.sync.plan import Wanted

_SETTLED = {State.WRITTEN, State.UNCHANGED}
_TRIED = {Stage.RENDITION, Stage.UPLOAD, Stage.WRITE}
"""Stages that cost an attempt; a document or record that cannot be built is the same verdict read again."""

_IDENTITY = ("rkey", "did", "fingerprint", "partition", "code")


class Entries:
    """What the ledger knows of one account's items, and what it shall know next.

    Args:
        account: Whose items.
        run_id: The run that changes them.
        now: The time, UTC.
    """

    def __init__(self, account: Account, run_id: str, now: Callable[[], datetime]) -> None:
        self._account = account
        self._run_id = run_id
        self._now = now
        self._known: dict[str, LedgerEntry] = {}

    def know(self, entries: Iterable[LedgerEntry]) -> None:
        """Take over entries, from the ledger or about to be stored in it."""
        self._known.update({entry.item: entry for entry in entries})

    def of(self, item: str) -> LedgerEntry | None:
        return self._known.get(item)

    def attempts(self, item: str) -> int:
        known = self._known.get(item)
        return known.attempts if known is not None else 0

    def written(self, media: MediaType, item: str, wanted: Wanted, rkey: str) -> LedgerEntry:
        return self._logged(self._fulfilled(media, item, wanted, rkey, State.WRITTEN))

    def unchanged(self, media: MediaType, item: str, wanted: Wanted, rkey: str) -> LedgerEntry | None:
        """None when the ledger says so already."""
        entry = self._fulfilled(media, item, wanted, rkey, State.UNCHANGED)
        known = self._known.get(item)
        if known is not None and known.state in _SETTLED and _same(known, entry, "cid", "derived", "warnings"):
            return None
        return self._logged(entry)

    def rendered(self, media: MediaType, item: str, wanted: Wanted) -> LedgerEntry | None:
        """None when these renditions are known; else the item waits for its record."""
        known = self._known.get(item)
        # A failure that holds up the record alone is no news about its renditions.
        failed = known is not None and known.failure is not None and known.failure.stage is Stage.RENDITION
        fingerprint = wanted.document.fingerprint
        if known is not None and not failed and (known.derived, known.fingerprint) == (wanted.derived, fingerprint):
            return None
        entry = self._base(media, item, wanted.document, State.PENDING, Stage.RENDITION)
        return self._logged(replace(entry, derived=wanted.derived, warnings=_warnings(wanted)))

    def deleted(self, media: MediaType, item: str, document: Document | None, rkey: str, reason: str) -> LedgerEntry:
        """The key stays on record, so that an un-nuked item returns under its old address (DEL-2)."""
        entry = self._base(media, item, document, State.DELETED, Stage.WRITE, rkey)
        return self._logged(replace(entry, cid=None, withdrawn_at=None), reason)

    def failed(
        self,
        media: MediaType,
        item: str,
        subject: Wanted | None,
        failure: Failure,
        state: State,
        *,
        rkey: str | None = None,
        until: datetime | None = None,
        leaving: bool = False,
    ) -> LedgerEntry | None:
        """An item that is not where it should be; None when the ledger says so already and nothing was tried.

        Args:
            subject: What was wanted; None for a record without a document.
            until: When it will be tried again, where that is known.
            leaving: Whether its record has to go and did not: its waiting time starts, or goes on (DEL-6).
        """
        known = self._known.get(item)
        document = subject.document if subject is not None else None
        hash_ = subject.cid or subject.document.fingerprint if subject is not None else rkey
        failure = replace(failure, payload_hash=failure.payload_hash or hash_)
        entry = replace(
            self._base(media, item, document, state, failure.stage, rkey),
            failure=failure,
            deferred_until=until,
            withdrawn_at=(known.withdrawn_at if known is not None else None) or self._now() if leaving else None,
        )
        if subject is not None:
            derived = subject.derived or entry.derived
            entry = replace(entry, derived=derived, warnings=_warnings(subject))
        again = subject is None or (subject.fresh and failure.stage in _TRIED)
        if not again and known is not None and known.state is state and known.failure == failure:
            return None if _same(known, entry) else replace(entry, history=())  # no new line for its timeline
        return self._logged(entry)

    def _fulfilled(self, media: MediaType, item: str, wanted: Wanted, rkey: str, state: State) -> LedgerEntry:
        entry = self._base(media, item, wanted.document, state, Stage.WRITE, rkey)
        derived = wanted.derived or entry.derived
        return replace(entry, cid=wanted.cid, derived=derived, warnings=_warnings(wanted), withdrawn_at=None)

    def _base(  # noqa: PLR0917
        self,
        media: MediaType,
        item: str,
        document: Document | None,
        state: State,
        stage: Stage,
        rkey: str | None = None,
    ) -> LedgerEntry:
        """What is known of an item, brought up to date; without failure."""
        did = self._account.did
        known = self._known.get(item) or LedgerEntry(
            item, media.name, item.partition(":")[2], self._account.id, self._account.key, state, stage
        )
        rkey = rkey or (known.rkey if known.did == did else None)
        return replace(
            known,
            account=self._account.id,
            partition=self._account.key,
            state=state,
            stage=stage,
            code=document.code if document is not None else known.code,
            did=did,
            fingerprint=document.fingerprint if document is not None else known.fingerprint,
            rkey=rkey,
            uri=at_uri(did, media.nsid, rkey) if did and rkey else None,
            failure=None,
            deferred_until=None,
            run_id=self._run_id,
            updated_at=self._now(),
        )

    def _logged(self, entry: LedgerEntry, message: str | None = None) -> LedgerEntry:
        failure = entry.failure
        line = Attempt(
            self._now(),
            self._run_id,
            entry.stage,
            entry.state,
            failure.error_class if failure else None,
            failure.message if failure else message,
        )
        return replace(entry, attempts=entry.attempts + 1, history=(*entry.history, line))


def end_of(failure: Failure) -> State:
    """How an item with this failure ends: what another attempt may overcome waits, the rest is for a person."""
    return State.DEFERRED if failure.error_class in TRANSIENT_CODES else State.QUARANTINED


def _warnings(wanted: Wanted) -> tuple[str, ...]:
    return (*wanted.document.warnings, *(wanted.derived.warnings if wanted.derived else ()))


def _same(one: LedgerEntry, other: LedgerEntry, *more: str) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in (*_IDENTITY, *more, "withdrawn_at"))
