"""Ledger entries: what the ledger shall remember of an item after something happened to it, or that it knows already.

Values only: what happened is decided by the recorder, which also stores what is made here. An entry is made anew
only when it says something new, so that a run over unchanged data stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import TRANSIENT_CODES, Paused
from ac_pipeline.items import Attempt, Derived, Failure, LedgerEntry, Stage, State
from ac_pipeline.media.base import Document
from ac_pipeline.media.registry import media_type
from ac_pipeline.sync.planning.plan import Wanted

_IN_ORDER = {State.WRITTEN, State.UNCHANGED}
_TRIED = {Stage.RENDITION, Stage.UPLOAD, Stage.WRITE}
"""Stages that cost an attempt; a document or record that cannot be built is the same verdict read again."""

_NONE: Mapping[str, object] = {}
_IDENTITY = ("rkey", "did", "fingerprint", "partition", "code", "withdrawn_at")


class Entries:
    """What the ledger knows of one account's items, and what it shall know next of what a run does at `now()` (UTC)."""

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

    def stays_quarantined(self, item: str, document: Document, failure: Failure) -> bool:
        """True if an item of an account that is blocked has a fault of its own, which is to be seen although nobody can
        reach the account; a paused type is an operator's own choice."""
        known = self._known.get(item)
        quarantined = known is not None and known.state is State.QUARANTINED and failure.error_class != Paused.code
        return quarantined and known is not None and known.fingerprint == document.fingerprint

    def written(self, wanted: Wanted, rkey: str) -> LedgerEntry:
        return self._fulfilled(wanted, rkey, State.WRITTEN)

    def unchanged(self, wanted: Wanted, rkey: str) -> LedgerEntry | None:
        """None when the ledger says so already."""
        known, document, account = self._known.get(wanted.item), wanted.document, self._account
        if (
            known is not None
            and known.state in _IN_ORDER
            and (known.rkey, known.cid, known.did) == (rkey, wanted.cid, account.did)
            and (known.partition, known.code, known.fingerprint) == (account.key, document.code, document.fingerprint)
            and known.derived == (wanted.derived or known.derived)
            and known.warnings == _warnings(wanted)
            and known.withdrawn_at is None
        ):
            return None
        return self._fulfilled(wanted, rkey, State.UNCHANGED)

    def rendered(self, wanted: Wanted) -> LedgerEntry | None:
        """None when these renditions are known; else the item waits for its record."""
        known, document = self._known.get(wanted.item), wanted.document
        # A failure that holds up the record alone is no news about its renditions.
        failed = known is not None and known.failure is not None and known.failure.stage is Stage.RENDITION
        same = known is not None and (known.derived, known.fingerprint) == (wanted.derived, document.fingerprint)
        if same and not failed:
            return None
        changes = {"derived": wanted.derived, "warnings": _warnings(wanted)}
        return self._entry(wanted.item, document, State.PENDING, Stage.RENDITION, changes=changes)

    def deleted(self, item: str, document: Document | None, rkey: str | None, reason: str) -> LedgerEntry:
        """The key stays on record, so that an un-nuked item returns under its old address (DEL-2)."""
        changes = {"cid": None, "withdrawn_at": None}
        return self._entry(item, document, State.DELETED, rkey=rkey, message=reason, changes=changes)

    def erased(self, item: str) -> LedgerEntry | None:
        """An item without a record, that shall have none, and whose renditions are given up; None when the ledger says
        so already. Where its end is known, nothing was tried: its timeline stays."""
        known = self._known.get(item)
        if known is None:
            return None
        if known.state is not State.DELETED:
            ended = self.deleted(item, None, None, "it was withdrawn before it had a record")
            return replace(without_renditions(ended), history=ended.history)
        return without_renditions(known) if known.derived is not None else None

    def failed(
        self,
        item: str,
        subject: Wanted | None,
        failure: Failure,
        state: State,
        *,
        rkey: str | None = None,
        until: datetime | None = None,
        pending_deletion: bool = False,
    ) -> LedgerEntry | None:
        """An item that is not where it should be; None when the ledger says so already and nothing was tried.

        Args:
            subject: What was wanted; None for a record without a document.
            until: When it will be tried again, where that is known.
            pending_deletion: True if its record has to go and did not: its waiting time starts, or goes on (DEL-6).
        """
        known = self._known.get(item)
        if state is State.BLOCKED and subject is not None and self.stays_quarantined(item, subject.document, failure):
            return None
        document, since = subject.document if subject is not None else None, known.withdrawn_at if known else None
        hash_ = subject.cid or subject.document.fingerprint if subject is not None else rkey
        failure = replace(failure, payload_hash=failure.payload_hash or hash_)
        changes: dict[str, object] = {
            # Of a blocked item it says that a limit, too, held it up.
            "deferred_until": until or (known.deferred_until if known is not None and state is State.BLOCKED else None),
            "withdrawn_at": (since or self._now()) if pending_deletion else None,
        }
        if subject is not None:
            changes |= _media_of(subject)
        entry = self._entry(item, document, state, failure.stage, rkey=rkey, failure=failure, changes=changes)
        tried = subject is None or (subject.fresh and failure.stage in _TRIED)
        if tried or known is None or known.state is not state or known.failure != failure:
            return entry
        if all(getattr(known, name) == getattr(entry, name) for name in _IDENTITY):
            return None
        return replace(entry, attempts=known.attempts, history=())  # no new line for its timeline

    def _fulfilled(self, wanted: Wanted, rkey: str, state: State) -> LedgerEntry:
        changes = {"cid": wanted.cid, "withdrawn_at": None, **_media_of(wanted)}
        return self._entry(wanted.item, wanted.document, state, rkey=rkey, changes=changes)

    def _entry(
        self,
        item: str,
        document: Document | None,
        state: State,
        stage: Stage = Stage.WRITE,
        *,
        rkey: str | None = None,
        failure: Failure | None = None,
        message: str | None = None,
        changes: Mapping[str, object] = _NONE,
    ) -> LedgerEntry:
        """What is known of an item, brought up to date, with one more line in its timeline."""
        account, now = self._account, self._now()
        type, _, id = item.partition(":")
        known = self._known.get(item) or LedgerEntry(item, type, id, account.id, account.key, state, stage)
        rkey = rkey or (known.rkey if known.did == account.did else None)
        derived = changes.get("derived", known.derived)
        # What an erasure has given up is over once the item is wanted again.
        back = known.derived is None and derived is not None
        former, own = () if back else (*known.past_blobs, *_cids(known.derived)), _cids(derived)
        error, said = (failure.error_class, failure.message) if failure is not None else (None, message)
        return known.with_(
            account=account.id,
            partition=account.key,
            state=state,
            stage=stage,
            code=document.code if document is not None else known.code,
            did=account.did,
            fingerprint=document.fingerprint if document is not None else known.fingerprint,
            rkey=rkey,
            uri=at_uri(account.did, media_type(type).nsid, rkey) if account.did and rkey else None,
            failure=failure,
            run_id=self._run_id,
            updated_at=now,
            attempts=known.attempts + 1,
            history=(*known.history, Attempt(now, self._run_id, stage, state, error, said)),
            past_blobs=tuple(dict.fromkeys(cid for cid in former if cid not in own)),
            **{"deferred_until": None, **changes},
        )


def without_renditions(entry: LedgerEntry) -> LedgerEntry:
    """An entry whose renditions are given up: their CIDs stay, by which the erasure is verified (DEL-7)."""
    past = tuple(dict.fromkeys((*entry.past_blobs, *_cids(entry.derived))))
    return replace(entry, derived=None, past_blobs=past, history=())


def _cids(derived: object) -> tuple[str, ...]:
    return tuple(made.blob.cid for made in derived.renditions.values()) if isinstance(derived, Derived) else ()


def end_of(failure: Failure) -> State:
    """How an item with this failure ends: what another attempt may overcome waits, the rest is for a person."""
    return State.DEFERRED if failure.error_class in TRANSIENT_CODES else State.QUARANTINED


def _media_of(wanted: Wanted) -> dict[str, object]:
    derived = {} if wanted.derived is None else {"derived": wanted.derived}
    return {"warnings": _warnings(wanted), **derived}


def _warnings(wanted: Wanted) -> tuple[str, ...]:
    return (*wanted.document.warnings, *(wanted.derived.warnings if wanted.derived else ()))
