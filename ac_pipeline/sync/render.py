"""From documents to wanted records: what each document's record shall be, or why it has none to offer.

Decides which renditions have to be made and which are known. Making them is the renderer's, comparing is
`record_difference.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.errors import (
    HeldBack,
    InvalidDocument,
    InvalidRecord,
    Permanent,
    PipelineError,
    Transient,
)
from ac_pipeline.items import Derived, Failure, LedgerEntry, Stage, State
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.sync.plan import Wanted
from ac_pipeline.sync.ports import Renderer

COMPANION_DAYS = 7
"""How long a missing companion, such as a recording, may still turn up: it is uploaded together with its item."""

_DAY_MS = 86_400_000
_REMEMBERED = {Stage.RENDITION, Stage.UPLOAD, Stage.WRITE}


@dataclass(frozen=True, slots=True)
class RecordBuilder:
    """Turns documents into wanted records.

    Args:
        lexicons: What a record must satisfy.
        renderer: Makes renditions.
        pool: Where renditions are made, several at once.
        now: Milliseconds since 1970.
        dry: Use only renditions that are known: make, ask and store nothing.
        retry: Try again what failed before on the same document.
        full: Ask storage whether the objects are still those that were rendered.
        anew: Make all renditions again.
    """

    lexicons: Lexicons
    renderer: Renderer
    pool: Executor
    now: Callable[[], int]
    dry: bool = False
    retry: bool = False
    full: bool = False
    anew: bool = False

    def build(
        self, media: MediaType, documents: Iterable[Document], entries: Mapping[str, LedgerEntry], did: str | None
    ) -> list[Wanted]:
        """What the mirror wants for each document, in the order given.

        Args:
            entries: What the ledger knows, by document id.
            did: The repository's DID; keys remembered for another one do not count.
        """
        jobs = []
        for document in documents:
            entry = entries.get(document.id)
            ready = self._known(media, document, entry)
            future = None
            if ready is None and not self.dry:
                known = entry.derived if entry else None
                future = self.pool.submit(self.renderer.derive, media, document, known, look=self.full, anew=self.anew)
            jobs.append((document, entry, ready, future))
        wanted = []
        for document, entry, ready, future in jobs:
            rkey = entry.rkey if entry is not None and entry.did == did else None
            if isinstance(ready, Wanted):
                each = ready
            elif isinstance(ready, Derived):
                each = offer(self.lexicons, media, document, ready)
            elif future is None:
                each = Wanted(document, unrendered=True)
            else:
                try:
                    each = offer(self.lexicons, media, document, future.result())
                except (Permanent, Transient) as error:
                    each = Wanted(document, failure=failure_of(Stage.RENDITION, error), fresh=True)
            wanted.append(each if rkey is None else replace(each, known_rkey=rkey))
        return wanted

    def _known(self, media: MediaType, document: Document, entry: LedgerEntry | None) -> Wanted | Derived | None:
        """What can be said without asking storage: a final word, the known renditions, or None."""
        if document.verdict is Verdict.WITHDRAWN:
            return Wanted(document)
        if document.verdict is Verdict.INVALID:
            return Wanted(document, failure=failure_of(Stage.DOCUMENT, InvalidDocument(document.reason)), fresh=True)
        if document.verdict is Verdict.HELD:
            return Wanted(document, failure=failure_of(Stage.DOCUMENT, HeldBack(document.reason)), fresh=True)
        same = entry is not None and entry.fingerprint == document.fingerprint
        if same and not self.retry and not self.anew and entry is not None and entry.state is State.QUARANTINED:
            failure = entry.failure
            if failure is not None and failure.stage in _REMEMBERED:
                return Wanted(document, failure=failure)
        companions = media.companions(document)
        if media.recipe is None and not companions:
            return Derived()
        again = media.recipe is not None and (self.anew or (self.full and not self.dry))
        if again or not same or entry is None or entry.derived is None:
            return None
        open_ = [name for name in companions if name not in entry.derived.found]
        if open_ and not self.dry and self.now() - document.when < COMPANION_DAYS * _DAY_MS:
            return None
        return entry.derived


def offer(lexicons: Lexicons, media: MediaType, document: Document, derived: Derived) -> Wanted:
    """The record of a document and what was derived from it, or why there is none."""
    try:
        record = media.build_record(document, derived)
        lexicons.validate(media.nsid, record)
        cid = record_cid(record)
    except (InvalidDocument, InvalidRecord) as error:
        return Wanted(document, derived=derived, failure=failure_of(Stage.RECORD, error), fresh=True)
    return Wanted(document, record, cid, derived)


def failure_of(stage: Stage, error: PipelineError, payload_hash: str | None = None) -> Failure:
    """An error as the ledger keeps it."""
    return Failure(stage, error.code, error.message, error.status, error.answer, payload_hash)
