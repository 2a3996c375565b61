"""Documents and ledger in memory: scriptable, readable stand-ins for the real ones, held to the same contract suites.

The PDS has its own module, `memory_pds.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import LeaseHeld, PipelineError
from ac_pipeline.items import LastLook, LedgerEntry, RepositoryCheckpoint, State
from ac_pipeline.media.base import Document, LinkUpdate, MediaType
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.eligibility import NOBODY, is_guest
from ac_pipeline.media.fields import sound_text
from ac_pipeline.media.times import object_id_time, read_when

HISTORY = 20
"""Attempts an entry remembers, as in the real ledger."""


class FakeClock:
    """A clock that moves only when told, or when somebody sleeps by it."""

    def __init__(self, now: datetime = datetime(2026, 1, 2, 3, 4, 5, 6_000, tzinfo=UTC)) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class _Scripted:
    """Calls that can be told to fail: each error is raised once, in order, by the method it is set for.

    Attributes:
        calls: Names of the methods called, in order.
        before: Method -> somebody else's turn right before its next call; taken out by it.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self._failures: dict[str, list[PipelineError]] = {}

    def fail_next(self, method: str, *errors: PipelineError) -> None:
        """Let the next calls of `method` raise these errors."""
        self._failures.setdefault(method, []).extend(errors)

    def _called(self, method: str) -> None:
        self.calls.append(method)
        turn = self.before.pop(method, None)
        if turn is not None:
            turn()
        waiting = self._failures.get(method)
        if waiting:
            raise waiting.pop(0)


class MemoryDocuments(_Scripted):
    """The Documents port on dictionaries: Mongo documents by collection and `_id`, as the platform would store them.

    `link_writes` lists every bulk write of links, with the name of its type.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        super().__init__()
        self.collections: dict[str, dict[ObjectId, dict[str, Any]]] = {}
        self.link_writes: list[tuple[str, tuple[LinkUpdate, ...]]] = []
        self._clock = clock or FakeClock()

    def add(self, media: MediaType, raw: Mapping[str, Any]) -> str:
        """Store one document, with a new `_id` unless it has one; returns the id in hex."""
        stored = {"_id": ObjectId(), **raw}
        self.collections.setdefault(media.collection, {})[stored["_id"]] = stored
        return str(stored["_id"])

    def change(self, media: MediaType, document: str, **fields: Any) -> None:
        """Set fields of a stored document."""
        self.collections[media.collection][ObjectId(document)].update(fields)

    def remove(self, media: MediaType, document: str) -> None:
        """Delete a document, as the platform may do; the pipeline never does."""
        del self.collections[media.collection][ObjectId(document)]

    def raw(self, media: MediaType, document: str) -> dict[str, Any]:
        """A stored document."""
        return self.collections[media.collection][ObjectId(document)]

    def stream(self, account: Account, media: MediaType) -> Iterator[Document]:
        self._called("stream")
        for raw in list(self.collections.get(media.collection, {}).values()):
            user = raw.get("user")
            if is_guest(user) if account.id == GUEST_ID else user == account.id:
                yield interpret(
                    media,
                    raw,
                    owner_deleted=account.owner_deleted,
                    account_did=account.did,
                )

    def stream_of(self, accounts: Sequence[Account], media: MediaType) -> Iterator[tuple[str, Document]]:
        for account in accounts:
            yield from ((account.id, document) for document in self.stream(account, media))

    def owners(self, media: MediaType, documents: Sequence[str]) -> Mapping[str, str | None]:
        self._called("owners")
        stored = self.collections.get(media.collection, {})
        found = {id: stored.get(ObjectId(id)) for id in documents if ObjectId.is_valid(id)}
        return {
            id: None if is_guest(raw.get("user")) else sound_text(raw["user"]) or NOBODY
            for id, raw in found.items()
            if raw is not None
        }

    def dates(self, media: MediaType) -> Mapping[str, int]:
        self._called("dates")
        found = self.collections.get(media.collection, {}).values()
        return {str(raw["_id"]): read_when(raw.get("when")) or object_id_time(str(raw["_id"])) or 0 for raw in found}

    def is_empty(self, media: MediaType) -> bool:
        self._called("is_empty")
        return not self.collections.get(media.collection)

    def write_links(self, media: MediaType, updates: Sequence[LinkUpdate]) -> None:
        self._called("write_links")
        if not updates:
            return
        self.link_writes.append((media.name, tuple(updates)))
        moment = self._clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for update in updates:
            raw = self.collections.get(media.collection, {}).get(ObjectId(update.document))
            if raw is None:
                continue
            for home in media.link_homes:
                if update.link is None:
                    raw.pop(home, None)
                    continue
                link = update.link
                parts = {"rkey": link.rkey, "uri": link.uri, "cid": link.cid, "did": link.did}
                raw[home] = {name: part for name, part in parts.items() if part is not None} | {"syncedAt": moment}


class MemoryLedger(_Scripted):
    """The Ledger port on dictionaries. `saves` lists every bulk write, `entries` is what it amounts to."""

    def __init__(self, clock: FakeClock | None = None, *, lease_seconds: float = 60, patience: float = 90) -> None:
        super().__init__()
        self.entries: dict[str, LedgerEntry] = {}
        self.saves: list[tuple[LedgerEntry, ...]] = []
        self.leases: dict[str, tuple[object, datetime]] = {}
        self.hosts: dict[str, int] = {}
        self.repositories: dict[str, RepositoryCheckpoint] = {}
        self.held: dict[str, dict[str, str]] = {}
        self.looks: dict[str, LastLook] = {}
        self._clock = clock or FakeClock()
        self._lease_seconds = lease_seconds
        self._patience = patience
        self._lock = threading.Lock()

    def load(self, account: Account, media: MediaType) -> Mapping[str, LedgerEntry]:
        return self.load_of((account,), (media,))[account.id][media.name]

    def of_others(self, account: Account, items: Iterable[str]) -> list[LedgerEntry]:
        self._called("load")
        found = (self.entries.get(item) for item in items)
        return [entry for entry in found if entry is not None and entry.account != account.id]

    def load_of(
        self, accounts: Sequence[Account], types: Sequence[MediaType]
    ) -> Mapping[str, Mapping[str, Mapping[str, LedgerEntry]]]:
        self._called("load")
        found: dict[str, dict[str, dict[str, LedgerEntry]]]
        found = {account.id: {media.name: {} for media in types} for account in accounts}
        for entry in list(self.entries.values()):  # another thread may add some meanwhile
            if entry.type in found.get(entry.account, {}):
                found[entry.account][entry.type][entry.document] = entry
        return found

    def save(self, entries: Iterable[LedgerEntry]) -> None:
        self._called("save")
        batch = tuple({entry.item: entry for entry in entries}.values())
        if not batch:
            return
        self.saves.append(batch)
        with self._lock:
            for entry in batch:
                known = self.entries.get(entry.item)
                timeline = known.history if known else ()
                line = entry.history[-1:]
                if line and line != timeline[-1:]:
                    timeline = (*timeline, *line)[-HISTORY:]
                self.entries[entry.item] = replace(entry, history=timeline)

    def used_blobs(self, cids: Collection[str], *, without: Collection[str]) -> set[str]:
        self._called("used_blobs")
        return {
            made.blob.cid
            for entry in self.entries.values()
            if entry.state is not State.DELETED and entry.item not in without and entry.derived is not None
            for made in entry.derived.renditions.values()
        } & set(cids)

    @contextmanager
    def lease(self, did: str, holder: str) -> Iterator[None]:
        self._called("lease")
        token = object()
        deadline = self._clock() + timedelta(seconds=self._patience)
        while not self._take(did, token):
            if self._clock() >= deadline:
                raise LeaseHeld(f"Another run writes to {did}.")
            self._clock.sleep(1)
        try:
            yield
        except BaseException:
            self._give_back(did, token)
            raise
        if not self._give_back(did, token):
            raise LeaseHeld(f"The lease on {did} was lost while it was in use.")

    def _give_back(self, did: str, token: object) -> bool:
        with self._lock:
            ours = self.leases.get(did, (None,))[0] is token
            if ours:
                del self.leases[did]
            return ours

    def batch_bytes(self, host: str, default: int) -> int:
        self._called("batch_bytes")
        return min(self.hosts.get(host, default), default)

    def remember_batch_bytes(self, host: str, limit: int) -> None:
        self._called("remember_batch_bytes")
        self.hosts[host] = min(self.hosts.get(host, limit), limit)

    def checkpoint(self, did: str) -> RepositoryCheckpoint | None:
        self._called("checkpoint")
        return self.repositories.get(did)

    def checkpoints_of(self, dids: Collection[str]) -> Mapping[str, RepositoryCheckpoint]:
        self._called("checkpoints_of")
        return {did: self.repositories[did] for did in dids if did in self.repositories}

    def checkpoints(self) -> Mapping[str, RepositoryCheckpoint]:
        self._called("checkpoints")
        return {did: replace(checkpoint, settled={}) for did, checkpoint in self.repositories.items()}

    def keep_checkpoint(self, checkpoint: RepositoryCheckpoint) -> None:
        self._called("keep_checkpoint")
        with self._lock:
            self.repositories[checkpoint.did] = checkpoint

    def follow_checkpoint(self, checkpoint: RepositoryCheckpoint, *, since: str) -> None:
        self._called("follow_checkpoint")
        with self._lock:
            known = self.repositories.get(checkpoint.did)
            if known is not None and known.rev == since:
                settled = {name: hash_ for name, hash_ in known.settled.items() if name not in checkpoint.counts}
                self.repositories[checkpoint.did] = replace(
                    checkpoint, settled=settled, counts={**known.counts, **checkpoint.counts}
                )

    def recorded(self, type: str) -> list[tuple[str, str]]:
        self._called("recorded")
        entries = (each for each in self.entries.values() if each.type == type and each.cid)
        return [(each.account, each.document) for each in entries if each.state is not State.DELETED]

    def last_look(self, name: str) -> LastLook:
        self._called("last_look")
        return self.looks.get(name, LastLook(name))

    def keep_look(self, look: LastLook) -> bool:
        self._called("keep_look")
        with self._lock:
            if self.looks.get(look.type, LastLook(look.type)).version != look.version:
                return False
            self.looks[look.type] = replace(look, version=look.version + 1)
            return True

    def hold(self, account: Account, types: Iterable[MediaType], reason: str) -> None:
        self._called("hold")
        with self._lock:
            self.held.setdefault(account.id, {}).update({media.name: reason for media in types})

    def release(self, account: Account, types: Iterable[MediaType]) -> None:
        self._called("release")
        with self._lock:
            for media in types:
                self.held.get(account.id, {}).pop(media.name, None)

    def holds(self, account: Account) -> Mapping[str, str]:
        self._called("holds")
        return dict(self.held.get(account.id, {}))

    def all_holds(self) -> Mapping[str, Mapping[str, str]]:
        self._called("all_holds")
        return {id: dict(held) for id, held in self.held.items() if held}

    def _take(self, did: str, token: object) -> bool:
        with self._lock:
            held = self.leases.get(did)
            if held is not None and held[1] > self._clock():
                return False
            self.leases[did] = (token, self._clock() + timedelta(seconds=self._lease_seconds))
            return True
