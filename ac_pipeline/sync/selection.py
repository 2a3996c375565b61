"""Which items a command or a run is about, and the lines of a saved plan, which select what a sync of it may do.

Matching always sees every document; only operations are selected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from ac_pipeline.items import PlannedOperation
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.planning.plan import AccountPlan, Kind, Operation, TypePlan

_OF_A_PROMISE = {Kind.RENDER, Kind.CREATE, Kind.UPDATE, Kind.ADOPT, Kind.HEAL}  # Of an item still to be rendered


def planned(plans: Iterable[AccountPlan]) -> list[PlannedOperation]:
    """Every operation of these plans, ordered by user and item."""
    lines = [line(plan.account.key, operation) for plan in plans for operation in plan.operations()]
    return sorted(lines, key=lambda each: (each.user, each.item, each.rkey, each.operation))


def line(user: str, operation: Operation) -> PlannedOperation:
    return PlannedOperation(
        operation.item,
        user,
        operation.kind.value,
        operation.reason,
        operation.rkey,
        operation.cid,
        _fingerprint(operation) if operation.kind is Kind.RENDER else None,
    )


class PlanHash:
    """The hash of a plan whose lines come one by one: of the same lines the same, whatever their reasons."""

    def __init__(self, lines: Iterable[PlannedOperation] = ()) -> None:
        self._digest, self._separator = sha256(b"["), b""
        for each in lines:
            self.add(each)

    def add(self, operation: PlannedOperation) -> None:
        content = [operation.user, operation.item, operation.operation, operation.rkey, operation.cid]
        if operation.fingerprint is not None:
            content.append(operation.fingerprint)
        self._digest.update(self._separator + json.dumps(content, separators=(",", ":")).encode())
        self._separator = b","

    def hexdigest(self) -> str:
        done = self._digest.copy()
        done.update(b"]")
        return done.hexdigest()


class Agreement:
    """Operations that were looked at and agreed to: those of one account.

    An operation is the same when item, kind, key and CID are. Where the record was not known because its rendition was
    to be made, it is the same item under the same key, made from the same document.
    """

    def __init__(self, lines: Sequence[PlannedOperation]) -> None:
        self._exact = {(each.item, each.operation, each.rkey, each.cid) for each in lines if each.fingerprint is None}
        self._promised = {(each.item, each.rkey, each.fingerprint) for each in lines if each.fingerprint is not None}

    def allows(self, operation: Operation) -> bool:
        if (operation.item, operation.kind.value, operation.rkey, operation.cid) in self._exact:
            return operation.kind is not Kind.RENDER
        promise = (operation.item, operation.rkey, _fingerprint(operation))
        return operation.kind in _OF_A_PROMISE and promise in self._promised

    def hold(self, plans: Iterable[TypePlan], skipped: dict[tuple[str, str], Operation]) -> None:
        """Take everything out of these plans that was not agreed to, and what was `skipped` in this run, by kind and
        path, which is added to.

        Duplicates of an item stay as long as anything else about the item is not as it was agreed: what is left of its
        copies then is for a new plan to say.
        """
        for plan in plans:
            for operation in plan.operations:
                if not self.allows(operation):
                    skipped[operation.kind.value, operation.path] = operation
            doubtful = {each.item for each in skipped.values()}
            for operation in plan.operations:
                if operation.kind is Kind.DELETE_DUPLICATE and operation.item in doubtful:
                    skipped[operation.kind.value, operation.path] = operation
            plan.operations = [each for each in plan.operations if (each.kind.value, each.path) not in skipped]


def _fingerprint(operation: Operation) -> str | None:
    return operation.document.fingerprint if operation.document is not None else None


@dataclass(frozen=True, slots=True)
class Selection:
    """A part of one account's items."""

    types: tuple[MediaType, ...] = MEDIA_TYPES  # The types it is about
    since: int | None = None  # Only items from this moment on, in ms since 1970, or None
    until: int | None = None  # Only items before this moment, or None
    items: frozenset[tuple[str, str]] | None = None  # Only these, as `(type name, code or ObjectId)`, or None for all
    limit: int | None = None  # At most this many documents of each type, oldest first, or None
    retry: bool = False  # Try quarantined items again whose document did not change
    # So many records without a document may go in this run even where the database is doubted, because a person has
    # named the number; None to keep them. A dry run takes any number for enough.
    sweep: int | None = None
    # Read the repository even where nothing seems to have changed since it was left in order, and ask storage whether
    # media was replaced, for companions, and for sources that were missing
    full: bool = False
    blobs: bool = False  # Ask for every blob the records refer to, and upload again what the PDS has lost
    renditions: bool = False  # Make all renditions again, whatever is known or kept of them
    orphans: bool = False  # Deal with records without a document although documents are left out
    agreed: Agreement | None = None  # Do these operations and no others, or None: whatever else is found stays as it is

    @property
    def partial(self) -> bool:
        """True if it leaves out documents."""
        return any(bound is not None for bound in (self.since, self.until, self.items, self.limit, self.agreed))

    @property
    def whole(self) -> bool:
        """True if it is about all items of all types."""
        return not self.partial and set(self.types) >= set(MEDIA_TYPES)

    @property
    def judges_orphans(self) -> bool:
        """True if records without a document are its business: when it is about all documents, or was told so."""
        return self.orphans or not self.partial

    def only(self, items: Iterable[tuple[str, str | None]], **more: Any) -> Selection:
        """Exactly these items, whatever it was narrowed by before.

        Args:
            items: Pairs of type name and ObjectId; None for a record without a document, of which only the type counts.
            more: Further changes.
        """
        listed = set(items)
        types = tuple(media for media in self.types if any(name == media.name for name, _ in listed))
        named = frozenset((name, document) for name, document in listed if document is not None)
        return replace(self, types=types, items=named, since=None, until=None, limit=None, **more)

    def documents(self, documents: list[Document]) -> set[str]:
        """Ids of the chosen ones among all documents of one account and type."""
        chosen = [document for document in documents if self._holds(document)]
        if self.limit is not None:
            chosen = sorted(chosen, key=lambda d: (d.when, d.id))[: self.limit]
        return {document.id for document in chosen}

    def _holds(self, document: Document) -> bool:
        early = self.since is not None and document.when < self.since
        late = self.until is not None and document.when >= self.until
        named = self.items is None or not self.items.isdisjoint(
            (document.type, name) for name in (document.id, document.code) if name
        )
        return named and not early and not late
