"""Which items a command or a run is about. Matching always sees every document; only operations are selected."""

from __future__ import annotations

from dataclasses import dataclass

from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.agreement import Agreement


@dataclass(frozen=True, slots=True)
class Selection:
    """A part of one account's items.

    Args:
        types: The types it is about.
        since: Only items from this moment on, in ms since 1970, or None.
        until: Only items before this moment, or None.
        items: Only these, as `(type name, code or ObjectId)`, or None for all.
        limit: At most this many documents of each type, oldest first, or None.
        retry: Try quarantined items again whose document did not change.
        sweep: So many records without a document may go in this run even where the database is doubted, because a
            person has named the number; None to keep them. A dry run takes any number for enough.
        full: Read the repository even where nothing seems to have changed since it was left in order, and ask storage
            whether media was replaced, for companions, and for sources that were missing.
        blobs: Ask for every blob the records refer to, and upload again what the PDS has lost.
        renditions: Make all renditions again, whatever is known or kept of them.
        orphans: Deal with records without a document although documents are left out.
        agreed: Do these operations and no others, or None: whatever else is found stays as it is.
    """

    types: tuple[MediaType, ...] = MEDIA_TYPES
    since: int | None = None
    until: int | None = None
    items: frozenset[tuple[str, str]] | None = None
    limit: int | None = None
    retry: bool = False
    sweep: int | None = None
    full: bool = False
    blobs: bool = False
    renditions: bool = False
    orphans: bool = False
    agreed: Agreement | None = None

    @property
    def partial(self) -> bool:
        """Whether it leaves out documents."""
        return any(bound is not None for bound in (self.since, self.until, self.items, self.limit, self.agreed))

    @property
    def whole(self) -> bool:
        """Whether it is about all items of all types."""
        return not self.partial and set(self.types) >= set(MEDIA_TYPES)

    @property
    def judges_orphans(self) -> bool:
        """Whether records without a document are its business: when it is about all documents, or was told so."""
        return self.orphans or not self.partial

    def documents(self, documents: list[Document]) -> set[str]:
        """Ids of the chosen ones among all documents of one account and type."""
        chosen = [document for document in documents if self._holds(document)]
        if self.limit is not None:
            chosen = sorted(chosen, key=lambda d: (d.when, d.id))[: self.limit]
        return {document.id for document in chosen}

    def _holds(self, document: Document) -> bool:
        if self.since is not None and document.when < self.since:
            return False
        if self.until is not None and document.when >= self.until:
            return False
        if self.items is None:
            return True
        return any((document.type, name) in self.items for name in (document.id, document.code) if name)
