"""What is read of many accounts before their turns, a few statements for hundreds of them: who is as the last sync left
them costs nothing one by one (VERIFY-11).

What is read here is older than an account's turn, by up to a minute, and nobody holds its lease meanwhile. So nothing
is ever written by it; all it can do is let an account be left as it is, as a run would have that came that much sooner.
For that, checkpoint and revision come first, then the documents with their links, and the ledger last. Where the
revision is that of the checkpoint, and documents and links are what the checkpoint's hash is of, the repository held
exactly what is wanted, whoever wrote in between: a sync of another run that writes after the revision was listed stores
other links, or answers for what it wrote; another client is found by its revision at the next look. A pause, a wipe or
a deletion that comes meanwhile finds nobody writing here. Whoever is paused, blocked, to be deleted or changed, and the
guest, takes the whole way, under the lease, where everything is read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import NamedTuple

from ac_pipeline.accounts import Account
from ac_pipeline.errors import PipelineError
from ac_pipeline.items import LedgerEntry, RepositoryCheckpoint
from ac_pipeline.media.base import Document
from ac_pipeline.sync.planning.checkpoint import asks_for_changes, may_be_up_to_date
from ac_pipeline.sync.ports import DataServer, Documents, Ledger
from ac_pipeline.sync.selection import Selection

_MANY = 20  # So many accounts in one run ask the list of all repositories for revisions, a thousand with each request
_ROWS_AN_ACCOUNT = 250  # Rows of that list that an account is worth: beside many others the rest is asked one by one
_YOUNG = 60.0  # Seconds after which what was read is read again
_ACCOUNTS = 50  # Accounts read together: the local MongoDB server compares every document with each of them
_ITEMS = 5_000  # Records they may have together, by their checkpoints; whoever has more alone is not read ahead


class Seen(NamedTuple):
    """What was read of one account, and when: its checkpoint, at which its repository stands, and documents and entries
    of each selected type."""

    at: float
    checkpoint: RepositoryCheckpoint
    documents: Mapping[str, list[Document]]
    entries: Mapping[str, Mapping[str, LedgerEntry]]


@dataclass(slots=True)
class Ahead:
    """What a run reads of its accounts, in their order, before it comes to them; safe to ask from several threads."""

    documents: Documents
    ledger: Ledger
    server: DataServer
    accounts: Sequence[Account]
    selection: Selection
    clock: Callable[[], float] = monotonic  # Seconds that only go forward
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _revisions: dict[str, str] = field(default_factory=dict)
    _listed_at: float | None = None
    _places: dict[str, int] = field(default_factory=dict)  # Of each account, by id; empty where nobody is read ahead
    _seen: dict[str, Seen] = field(default_factory=dict)
    _end: int = 0  # The place behind the last account that was read

    def __post_init__(self) -> None:
        if len(self.accounts) >= _MANY and asks_for_changes(self.selection):
            self._places = {account.id: place for place, account in enumerate(self.accounts)}

    def revision(self, did: str) -> str | None:
        """The revision this repository had at most a minute ago; None for one that is inactive or was not listed, and
        for all where the run is about a few."""
        if len(self.accounts) < _MANY:
            return None
        with self._lock:
            if self._listed_at is None or self.clock() - self._listed_at > _YOUNG:
                self._listed_at, self._revisions = self.clock(), {}
                with suppress(PipelineError):  # whoever is not in the list is asked for alone, and says what is wrong
                    listed = islice(self.server.list_repositories(), len(self.accounts) * _ROWS_AN_ACCOUNT)
                    self._revisions = {each.did: each.rev for each in listed if each.active}
            return self._revisions.get(did)

    def take(self, account: Account) -> Seen | None:
        """What was read of an account, once; None for one that has to be looked at by itself."""
        place = self._places.get(account.id)
        if place is None:
            return None
        with self._lock:
            if account.id in self._seen and self.clock() - self._seen[account.id].at > _YOUNG:
                self._seen, self._end = {}, place
            while place >= self._end:  # several ask at once, so that not always the first comes first
                begin = self._end if place - self._end < _ACCOUNTS else place
                part = self.accounts[begin : begin + _ACCOUNTS]
                self._end = begin + len(part)
                with suppress(Exception):  # whoever is not seen is looked at by itself, and says what is wrong
                    self._read(begin, part)
            return self._seen.pop(account.id, None)

    def _read(self, begin: int, part: Sequence[Account]) -> None:
        """Add those of the part that may be as their last sync left them; of too many items, the rest is left."""
        at = self.clock()
        known = self.ledger.checkpoints_of([each.did for each in part if each.did is not None])
        held, items, asked = self.ledger.all_holds(), 0, dict[str, tuple[Account, RepositoryCheckpoint]]()
        for number, account in enumerate(part):
            checkpoint = known.get(account.did or "")
            own = sum(checkpoint.counts.values()) if checkpoint is not None else 0
            if (
                checkpoint is None
                or own > _ITEMS
                or not may_be_up_to_date(checkpoint, self.selection)
                or self.revision(checkpoint.did) != checkpoint.rev
                or account.is_guest
                or account.id in held
            ):
                continue
            items += own
            if items > _ITEMS:
                self._end = begin + number
                break
            asked[account.id] = account, checkpoint
        types, accounts, left = self.selection.types, [account for account, _ in asked.values()], 2 * _ITEMS
        documents: dict[str, dict[str, list[Document]]] = {id: {media.name: [] for media in types} for id in asked}
        for media in types if asked else ():
            for id, document in self.documents.stream_of(accounts, media):
                documents[id][media.name].append(document)
                left -= 1
                if not left:  # somebody has made thousands since
                    return
        entries = self.ledger.load_of(accounts, types) if asked else {}
        for id, (_, checkpoint) in asked.items():
            self._seen[id] = Seen(at, checkpoint, documents[id], entries[id])
