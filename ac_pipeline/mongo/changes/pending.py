"""Pending work: which users have work that a run of them would do, and why; found afresh at every look.

The rule is pure: what Mongo holds of the document, what the ledger knows of the item and the state of the account go
in, a cause or None comes out, whatever was seen before (WRITE-14). What a run cannot change is left out, as the engine
decides that: a quarantined item whose document is the same (`sync/planning/reading.py`), one that waits for a limit, a
blocked account. The feed says early where to look, the compare looks everywhere, a part at a time and bounded in time,
and both end at the same rule (RUN-12, VERIFY-10).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from bson import ObjectId, json_util
from bson.errors import BSONError
from pymongo.database import Database

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import AccountInactive, AccountUnknown, ServerFailed, SourcePending, WrongPassword
from ac_pipeline.items import LedgerEntry, State, item_id
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.eligibility import is_guest
from ac_pipeline.media.fields import is_text
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.changes.compare import (
    DEEP,
    GONE,
    LIGHT,
    LOOKUPS,
    RELINKED,
    TOUCHED,
    ChangeFeed,
    Compare,
    Drained,
    Raw,
)
from ac_pipeline.mongo.database import in_parts
from ac_pipeline.mongo.ledger.items import MongoLedger

_THE_PDS_LISTS = frozenset(error.code for error in (AccountInactive, AccountUnknown))
"""Why the PDS refuses an account, where its list of repositories shows when that is over."""
_ONLY_A_RUN_CAN_TELL = _THE_PDS_LISTS | {WrongPassword.code}
"""Why the PDS refuses an account: Mongo cannot show that it is over, unless the account itself changes there. The
other reasons stand in Mongo or in the ledger, so that their end is seen (ACCT-1)."""


class Cause(StrEnum):
    """What is to be done about an item."""

    NEW = "new"
    EDITED = "edited"
    WITHDRAWN = "withdrawn"
    GONE = "gone"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Work:
    """One item that a run of its user can bring further."""

    key: str  # The user's partition key
    item: str
    cause: Cause
    mark: str  # Changes when the item changes in a way that is new work; short, for a sensor's memory
    touched: bool = False  # True if an event about it was read just now


@dataclass(frozen=True, slots=True)
class Changes:
    """What one look found."""

    works: tuple[Work, ...]  # Pieces of work, some of each user's, among them all that were watched or touched
    position: str  # Where the next look goes on; opaque
    events: int = 0  # How many events of the feed were read
    # Why everything is being compared, or why there is no feed; None when all goes as it should (RUN-12)
    fallback: str | None = None
    compared: str | None = None  # What was compared and how long it took, in words; None when no compare was due
    failed: str | None = None  # Why the compare could not go on, or None; it begins again where it stopped


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule, with the state of the world that it needs."""

    now: datetime  # The time, UTC
    paused: Mapping[str, Collection[str]]  # Account id -> names of its types that an operator has paused
    blocked_before: Collection[tuple[str, str]]  # `(account id, class of the reason)` of blocked items in the ledger
    changed: Collection[str] = frozenset()  # Ids of accounts that changed just now: their block says nothing any more
    unsynchronised: Collection[str] = frozenset()  # Ids of accounts no sync has read to the end: links say nothing

    def waits_for_account(self, account: Account) -> bool:
        """True if no run of this account can change anything: it is blocked, and its items show that already."""
        return account.blocked is not None and (account.id, account.blocked.code) in self.blocked_before

    def cause(self, account: Account, document: Document, known: LedgerEntry | None) -> Cause | None:
        """Why a run of its owner is needed for a document, as it was interpreted for that account, or None."""
        if document.type in self.paused.get(account.id, ()) or self.waits_for_account(account):
            return None
        if account.blocked is not None:
            # One run, which names the account and its items as blocked (RUN-7); it can do nothing else.
            new = document.verdict is Verdict.ELIGIBLE and not is_linked(document, account)
            return Cause.NEW if new and known is None else None
        same = known is not None and known.fingerprint == document.fingerprint
        # The platform is done with what it was still making, before its time.
        failure = known.failure if known is not None else None
        early = failure is not None and failure.error_class == SourcePending.code and not same
        state = known.state if known is not None else None
        if document.verdict is Verdict.WITHDRAWN:
            # Without a link it may have a record that was never linked, a failure, or renditions: a run ends them.
            there = document.link is not None or state not in {None, State.DELETED}
            return Cause.WITHDRAWN if there and (known is None or not self._deletion_waits(known)) else None
        if known is not None and ((self._waits(known) and not early) or self._blocked_still(account, known)):
            return None
        if document.verdict is not Verdict.ELIGIBLE:
            return None if same else Cause.UNREADABLE
        if same and state is State.QUARANTINED:
            return None
        if not is_linked(document, account) or state is State.DELETED:
            return Cause.NEW
        unseen = Cause.NEW if account.id in self.unsynchronised else None
        changed = known is not None and (not same or state in {State.DEFERRED, State.BLOCKED})
        return Cause.EDITED if changed else unseen

    def cause_of_gone(self, account: Account, type: str, known: LedgerEntry) -> Cause | None:
        """Why a run is needed for an item whose document does not exist, or None: its record has to go (DEL-4)."""
        out_of_reach = type in self.paused.get(account.id, ()) or account.blocked is not None
        over = known.state is State.DELETED or known.cid is None
        return None if out_of_reach or over or self._deletion_waits(known) else Cause.GONE

    def _waits(self, known: LedgerEntry) -> bool:
        return known.state is State.DEFERRED and known.deferred_until is not None and known.deferred_until > self.now

    def _deletion_waits(self, known: LedgerEntry) -> bool:
        """True if its deletion was tried and waits for a limit; that its last write does holds up no erasure."""
        return known.withdrawn_at is not None and self._waits(known)

    def _blocked_still(self, account: Account, known: LedgerEntry) -> bool:
        return (
            known.state is State.BLOCKED
            and known.failure is not None
            and known.failure.error_class in _ONLY_A_RUN_CAN_TELL
            and known.did == account.did
            and known.failure.payload_hash in (None, account.credentials)  # a mark of those the PDS refused
            and account.id not in self.changed
        )


def is_linked(document: Document, account: Account) -> bool:
    """True if a record key in this account's repository is stored for the document; in any home of its type."""
    link = document.link
    return link is not None and link.rkey is not None and (link.did is None or link.did == account.did)


def mark_of(cause: Cause, fingerprint: str) -> str:
    """A short mark of a piece of work: another one for another cause or another content."""
    return sha256(f"{cause} {fingerprint}".encode()).hexdigest()[:8]


FEED_SECONDS: Final = 1.0  # How long a look waits for events when there are none
COMPARE_SECONDS: Final = 6.0  # How long a look compares before the rest is left for the next one

_SHARE: Final = 20  # A compare that took a second is due again after this many: it costs the database 5 % of one thread
_SHARE_WITHOUT_FEED: Final = 4
_SOONEST: Final = 30.0
_LATEST: Final = 240.0  # Seconds until the next compare, at least with a feed, and at most in any case (VERIFY-10)
_EVERYTHING_AGAIN: Final = 3_600.0  # Seconds until all documents are compared again, for edits no event told of
_NEWEST = timedelta(hours=1)  # Without a feed, documents of this age are looked at every time

WORKS_A_USER: Final = 20  # Pieces of work of one user that one look names; a run of the user does all there are
_USERS_A_LOOK: Final = 1_000  # A compare that finds more users with work stops here for this look
_RELINKED: Final = 2_000  # Written links of one look whose documents are looked at; a backfill writes hundreds a second
_ACCOUNTS: Final = 200  # Changed accounts of one look whose documents are all looked at; the compare finds others'


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the next look goes on: in the feed (`token`), and in a compare that is under way."""

    token: Mapping[str, Any] | None = None
    deep: bool | None = None  # True if the compare under way reads everything; None when none is
    # `unit` and `after`: its step, and the place in that step
    unit: int = 0
    after: str | None = None
    took: float = 0.0  # Seconds it has taken so far
    # `due` and `deep_due`: when the next one has to begin, epoch seconds
    due: float = 0.0
    deep_due: float = 0.0
    fallback: str | None = None  # Why it was begun, when that was not its time

    def to_text(self) -> str:
        return json_util.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, text: str | None) -> _Place:
        """What `to_text` made; a place nobody can read is the beginning: everything is compared."""
        if not text:
            return cls()
        try:
            return cls(**json_util.loads(text))
        except (TypeError, ValueError, BSONError):
            return cls(fallback="the cursor cannot be read")


@dataclass(slots=True)
class _Look:
    """What one look has found so far; `accounts` by id, `judged` the items decided already."""

    accounts: Mapping[str, Account]
    rule: Rule
    works: list[Work] = field(default_factory=list)
    judged: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, account: Account, item: str, cause: Cause | None, fingerprint: str, *, touched: bool) -> None:
        if cause is not None:
            self.counts[account.key] += 1
            if self.counts[account.key] <= WORKS_A_USER:
                self.works.append(Work(account.key, item, cause, mark_of(cause, fingerprint), touched))


@dataclass(slots=True)
class MongoChanges:
    """Looks for work of these types, a little at a time."""

    source: Database[dict[str, Any]]  # The platform's
    own: Database[dict[str, Any]]  # The pipeline's
    types: Sequence[MediaType] = MEDIA_TYPES
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic  # Seconds that only go forward
    feed_seconds: float = FEED_SECONDS
    compare_seconds: float = COMPARE_SECONDS
    _feed: ChangeFeed = field(init=False)
    _compare: Compare = field(init=False)
    _ledger: MongoLedger = field(init=False)

    def __post_init__(self) -> None:
        self._feed = ChangeFeed(self.source, self.types, self.monotonic)
        self._compare, self._ledger = Compare(self.source, self.types), MongoLedger(self.own)

    def look(
        self, position: str | None, watched: Collection[str], accounts: Callable[[], Iterable[Account]]
    ) -> Changes:
        """Read the feed, judge what it names, and compare for a while if that is due.

        Args:
            position: Of the last look; None at the first.
            watched: Items to judge in any case, as `type:ObjectId hex`; those without work are absent from the answer.
            accounts: All accounts; asked only when there is something to judge.

        Raises:
            Transient: Something could not be read. Nothing was passed: the next look begins where this one began.
        """
        now = self.clock()
        place = _Place.of(position)
        drained = self._feed.drain(place.token, self.feed_seconds)
        place = self._next_compare(place, drained, now)
        if not (drained.items or drained.accounts or watched) and place.deep is None and drained.unavailable is None:
            return Changes((), place.to_text(), drained.events)
        by_id = {account.id: account for account in accounts()}
        rule = Rule(now, self._ledger.all_holds(), self._ledger.blocked(), frozenset(drained.accounts))
        look = _Look(by_id, rule)
        self._judge_events(look, drained)
        self._judge_items(look, [item for item in watched if item not in look.judged])
        if drained.unavailable is not None:
            for media in self.types:
                for raws in self._compare.since(media, now - _NEWEST):
                    self._judge(look, media, raws)
        why, fed = drained.unavailable or place.fallback, drained.unavailable is None
        place, said, failed = self._go_on(look, place, self.compare_seconds, _USERS_A_LOOK, fed=fed)
        return Changes(tuple(look.works), place.to_text(), drained.events, why, said, failed)

    def look_at_everybody(
        self, accounts: Iterable[Account], synchronised: Collection[str], served: Collection[str], seconds: float
    ) -> Changes:
        """Judge all documents, and all items of the ledger whose document is gone, at once and without the feed.

        What no document shows (a record that another client changed, a new rule for records) is not found so.

        Args:
            accounts: All accounts.
            synchronised: DIDs of the repositories that a sync has read to its end.
            served: DIDs of those that the PDS serves now: items that were blocked because it did not are work.
            seconds: After so long the look stops, and says so in `failed`: what it did not read may be work, too.

        Raises:
            Transient: Something could not be read.
        """
        now, by_id, blocked = self.clock(), {account.id: account for account in accounts}, self._ledger.blocked()
        back = {id for id, reason in blocked if reason in _THE_PDS_LISTS and id in by_id and by_id[id].did in served}
        new = {account.id for account in by_id.values() if account.did not in synchronised}
        look = _Look(by_id, Rule(now, self._ledger.all_holds(), blocked, frozenset(back), frozenset(new)))
        place, said, failed = self._go_on(look, _Place(deep=True), seconds, users=len(by_id) + 1)
        if place.deep is None:
            self._judge_items(look, [item for item in self._ledger.not_deleted() if item not in look.judged])
        elif failed is None:
            failed = f"{seconds:.0f} s were not enough to compare all documents"
        return Changes(tuple(look.works), place.to_text(), compared=said, failed=failed)

    def _next_compare(self, place: _Place, drained: Drained, now: datetime) -> _Place:
        """Begin a compare where one has to begin; a lost feed makes it one of everything, from the start."""
        # One that is due later than any can be was put off by a clock that was wrong.
        at, token = now.timestamp(), drained.token
        deep_due = place.deep_due if place.deep_due <= at + _EVERYTHING_AGAIN else at
        place = replace(place, token=token, deep_due=deep_due)
        due = at >= min(place.due, place.deep_due) or place.due > at + _LATEST
        if drained.lost is None and (place.deep is not None or not due):
            return place
        why = None if drained.lost is None else place.fallback or drained.lost
        deep = drained.lost is not None or at >= place.deep_due
        return replace(place, deep=deep, fallback=why, unit=0, after=None, took=0.0)

    def _judge_events(self, look: _Look, drained: Drained) -> None:
        """What the feed named. A written link matters only where it was written to a document withdrawn meanwhile."""
        self._judge_items(look, drained.of(TOUCHED), touched=True)
        self._judge_items(look, drained.of(GONE), touched=True)
        for media, ids in self._by_type(drained.of(RELINKED)[:_RELINKED]):
            for raws in self._compare.by_ids(media, ids, withdrawn=True):
                self._judge(look, media, raws, touched=True)
        changed = sorted(id for id in drained.accounts if id in look.accounts)[:_ACCOUNTS]
        for media in self.types if changed else ():
            for raws in self._compare.of_accounts(media, changed):
                self._judge(look, media, raws, touched=True)

    def _judge_items(self, look: _Look, items: Iterable[str], *, touched: bool = False) -> None:
        """Items by name; one whose document does not exist is judged by what the ledger knows of it."""
        for media, ids in self._by_type(items):
            existing: set[str] = set()
            for raws in self._compare.by_ids(media, ids):
                existing.update(item_id(media.name, str(raw["_id"])) for raw in raws)
                self._judge(look, media, raws, touched=touched)
            gone = {item_id(media.name, id) for id in ids} - existing - look.judged
            for item, known in self._known(sorted(gone)).items():
                look.judged.add(item)
                account = look.accounts.get(known.account)
                if account is not None:
                    cause = look.rule.cause_of_gone(account, media.name, known)
                    look.add(account, item, cause, known.fingerprint, touched=touched)

    def _judge(self, look: _Look, media: MediaType, raws: Iterable[Raw], *, touched: bool = False) -> None:
        """Documents as they were read; those of nobody's account are passed over, and so is who cannot be helped."""
        documents = []
        for raw in raws:
            if not isinstance(raw["_id"], ObjectId):
                continue  # it can have no record
            item = item_id(media.name, str(raw["_id"]))
            user = raw.get("user")
            owner = GUEST_ID if is_guest(user) else user
            account = look.accounts.get(owner) if is_text(owner) else None
            if item in look.judged or account is None or look.rule.waits_for_account(account):
                continue
            look.judged.add(item)
            if look.counts[account.key] > WORKS_A_USER and not touched:
                continue
            did, deleted = account.did, account.owner_deleted
            documents.append((account, item, interpret(media, raw, owner_deleted=deleted, account_did=did)))
        if not documents:
            return
        known = self._known(item for _, item, _ in documents)
        for account, item, document in documents:
            entry = known.get(item)
            look.add(account, item, look.rule.cause(account, document, entry), document.fingerprint, touched=touched)
            before = look.accounts.get(entry.account) if entry is not None else None
            if entry is not None and before is not None and before.id != account.id:
                cause = look.rule.cause_of_gone(before, media.name, entry)  # it belongs to another user now
                look.add(before, item, cause, entry.fingerprint, touched=touched)

    def _go_on(
        self, look: _Look, place: _Place, seconds: float, users: int, *, fed: bool = True
    ) -> tuple[_Place, str | None, str | None]:
        """Go on with the compare for `seconds`, or until so many `users` are found; what was done, why it stopped."""
        if place.deep is None:
            return place, None, None
        leaving = [account.id for account in look.accounts.values() if account.pending_deletion is not None]
        units = [(scan, media) for scan in (DEEP if place.deep else LIGHT) for media in self.types]
        started, unit, after, read = self.monotonic(), place.unit, place.after, 0
        out_of_time, failed = False, None
        while unit < len(units) and not out_of_time:
            scan, media = units[unit]
            try:
                for raws, reached in self._compare.pages(scan, media, after, leaving, look.rule.now):
                    self._judge(look, media, raws)
                    after, read = reached, read + len(raws)
                    out_of_time = self.monotonic() - started > seconds or len(look.counts) >= users
                    if out_of_time:
                        break
                else:
                    unit, after = unit + 1, None
                    out_of_time = self.monotonic() - started > seconds
            except ServerFailed as error:  # a slow compare must not hold up the feed: its place is kept, and it is said
                failed, out_of_time = error.message, True
        took = self.monotonic() - started
        what = "all documents with the ledger" if place.deep else "links with documents"
        said = f"compared {what}: {read} looked at in {took:.1f} s"
        place = replace(place, unit=unit, after=after, took=place.took + took)
        if unit < len(units):
            return place, f"{said}; step {unit + 1} of {len(units)} goes on at the next look", failed
        at, (share, soonest) = look.rule.now.timestamp(), (_SHARE, _SOONEST) if fed else (_SHARE_WITHOUT_FEED, 0.0)
        due = at + min(max(share * place.took, soonest), _LATEST)
        deep_due = at + _EVERYTHING_AGAIN if place.deep else place.deep_due
        return _Place(token=place.token, due=due, deep_due=deep_due), said, None

    def _known(self, items: Iterable[str]) -> dict[str, LedgerEntry]:
        """What the ledger knows of these items; those without an entry are absent."""
        parts = in_parts(items, LOOKUPS)
        return {entry.item: entry for part in parts for entry in self._ledger.of_items(part)}

    def _by_type(self, items: Iterable[str]) -> list[tuple[MediaType, list[str]]]:
        ids: dict[str, list[str]] = {}
        for item in items:
            type, _, id = item.partition(":")
            ids.setdefault(type, []).append(id)
        return [(media, sorted(ids[media.name])) for media in self.types if media.name in ids]
