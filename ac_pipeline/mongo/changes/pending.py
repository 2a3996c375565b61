"""The rule of pending work: whether a run of its account could bring one item further, and why.

The rule is pure: what Mongo holds of the document, what the ledger knows of the item and the state of the account go
in, a cause or None comes out. It holds for any item at any time, whatever was seen or requested before (WRITE-14);
finding the items it is asked about is `users.py`. What a run cannot change is left out, as the engine decides that: a
quarantined item whose document is the same (`sync/planning/wanted.py`), one that waits for a limit, a blocked account.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from typing import Any, TypeVar

from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.errors import AccountInactive, AccountUnknown, SourcePending, WrongPassword
from ac_pipeline.items import State
from ac_pipeline.media.base import Document, Verdict
from ac_pipeline.mongo.database import mongo_errors, own_collection, value_of

_ONLY_A_RUN_CAN_TELL = frozenset(error.code for error in (WrongPassword, AccountInactive, AccountUnknown))
"""Why the PDS refuses an account: Mongo cannot show that it is over, unless the account itself changes there. The
other reasons stand in Mongo or in the ledger, so that their end is seen (ACCT-1)."""

_MARK_DIGITS = 8


class Cause(StrEnum):
    """What is to be done about an item."""

    NEW = "new"
    EDITED = "edited"
    WITHDRAWN = "withdrawn"
    GONE = "gone"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Known:
    """What the rule reads of an entry of the ledger."""

    account: str
    state: State
    fingerprint: str
    did: str | None = None
    cid: str | None = None
    error_class: str | None = None
    deferred_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """One item that a run of its user can bring further.

    Args:
        key: The user's partition key.
        mark: Changes when the item changes in a way that is new work; short, for a sensor's memory.
        touched: True if an event about it was read just now.
    """

    key: str
    item: str
    cause: Cause
    mark: str
    touched: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What one look found.

    Args:
        works: Pieces of work, some of each user's, among them all that were watched or touched.
        position: Where the next look goes on; opaque.
        events: How many events of the feed were read.
        fallback: Why everything is being compared, or why there is no feed; None when all goes as it should (RUN-12).
        compared: What was compared and how long it took, in words; None when no compare was due.
        failed: Why the compare could not go on, or None; it begins again where it stopped.
    """

    works: tuple[Work, ...]
    position: str
    events: int = 0
    fallback: str | None = None
    compared: str | None = None
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule, with the state of the world that it needs.

    Args:
        now: The time, UTC.
        held: Account id -> names of its types that an operator has paused.
        blocked_before: `(account id, class of the reason)` of blocked items in the ledger.
        changed: Ids of accounts that changed in Mongo just now: that they were blocked says nothing any more.
    """

    now: datetime
    held: Mapping[str, Collection[str]]
    blocked_before: Collection[tuple[str, str]]
    changed: Collection[str] = frozenset()

    def hopeless(self, account: Account) -> bool:
        """True if no run of this account can change anything: it is blocked, and its items show that already."""
        return account.blocked is not None and (account.id, account.blocked.code) in self.blocked_before

    def cause(self, account: Account, document: Document, known: Known | None) -> Cause | None:
        """Why a run of its owner is needed for a document, as it was interpreted for that account, or None."""
        if document.type in self.held.get(account.id, ()) or self.hopeless(account):
            return None
        if account.blocked is not None:
            # One run, which names the account and its items as blocked (RUN-7); it can do nothing else.
            new = document.verdict is Verdict.ELIGIBLE and not is_linked(document, account)
            return Cause.NEW if new and known is None else None
        same = known is not None and known.fingerprint == document.fingerprint
        # The platform is done with what it was still making, before its time.
        early = known is not None and known.error_class == SourcePending.code and not same
        if known is not None and ((self._waits(known) and not early) or self._blocked_still(account, known)):
            return None
        match document.verdict:
            case Verdict.WITHDRAWN:
                return Cause.WITHDRAWN if document.link is not None else None
            case Verdict.INVALID | Verdict.HELD:
                return None if same else Cause.UNREADABLE
        if known is not None and same and known.state is State.QUARANTINED:
            return None
        if not is_linked(document, account) or (known is not None and known.state is State.DELETED):
            return Cause.NEW
        unfinished = known is not None and known.state in {State.DEFERRED, State.BLOCKED}
        return Cause.EDITED if known is not None and (not same or unfinished) else None

    def cause_of_gone(self, account: Account, type: str, known: Known) -> Cause | None:
        """Why a run is needed for an item whose document does not exist, or None: its record has to go (DEL-4)."""
        if type in self.held.get(account.id, ()) or account.blocked is not None:
            return None
        if known.state is State.DELETED or known.cid is None or self._waits(known):
            return None
        return Cause.GONE

    def _waits(self, known: Known) -> bool:
        return known.state is State.DEFERRED and known.deferred_until is not None and known.deferred_until > self.now

    def _blocked_still(self, account: Account, known: Known) -> bool:
        return (
            known.state is State.BLOCKED
            and known.error_class in _ONLY_A_RUN_CAN_TELL
            and known.did == account.did
            and account.id not in self.changed
        )


def is_linked(document: Document, account: Account) -> bool:
    """True if a record key in this account's repository is stored for the document; in any home of its type."""
    link = document.link
    return link is not None and link.rkey is not None and (link.did is None or link.did == account.did)


def mark_of(cause: Cause, fingerprint: str) -> str:
    """A short mark of a piece of work: another one for another cause or another content."""
    return sha256(f"{cause} {fingerprint}".encode()).hexdigest()[:_MARK_DIGITS]


LOOKUPS = 200
"""Ids of one query: the local server takes 0.03 s for 200 and 16 s for 5,000 of them."""

_FIELDS = ("account", "state", "fingerprint", "did", "cid", "failure.error_class", "deferred_until")
_Item = TypeVar("_Item")


class KnownItems:
    """A view of the ledger in the pipeline's own database."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._items = own_collection(database, "items")
        self._holds = database["holds"]

    def of(self, items: Iterable[str]) -> dict[str, Known]:
        """What is known of these items; those without an entry are absent."""
        found: dict[str, Known] = {}
        with mongo_errors("look up items in the ledger"):
            for part in in_parts(items, LOOKUPS):
                for row in self._items.find({"_id": {"$in": part}}, dict.fromkeys(_FIELDS, 1), batch_size=LOOKUPS):
                    found[row["_id"]] = _known(row)
        return found

    def blocked(self) -> set[tuple[str, str]]:
        """`(account id, class of the reason)` of all items that are blocked."""
        group = {"_id": {"account": "$account", "class": "$failure.error_class"}}
        with mongo_errors("list the blocked accounts of the ledger"):
            rows = list(self._items.aggregate([{"$match": {"state": State.BLOCKED.value}}, {"$group": group}]))
        return {(row["_id"]["account"], str(row["_id"].get("class"))) for row in rows}

    def held(self) -> dict[str, frozenset[str]]:
        """Account id -> names of its types that are on hold."""
        with mongo_errors("list the types on hold"):
            return {str(row["_id"]): frozenset(row.get("types") or {}) for row in self._holds.find({}, {"types": 1})}


def in_parts(values: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The values in lists of at most `size`."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


def _known(row: Mapping[str, Any]) -> Known:
    fingerprint, error_class = row.get("fingerprint") or "", (row.get("failure") or {}).get("error_class")
    return value_of(Known, row, state=State(row["state"]), fingerprint=fingerprint, error_class=error_class)
