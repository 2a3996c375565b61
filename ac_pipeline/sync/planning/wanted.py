"""From documents to wanted records: what each document's record shall be, or why it has none to offer.

Decides which renditions have to be made and which are known. Making them is the renderer's, comparing is
`diff.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.errors import (
    EncoderTimedOut,
    EncodingFailed,
    HeldBack,
    InvalidDocument,
    InvalidRecord,
    Permanent,
    PipelineError,
    SourceMissing,
    SourcePending,
    Transient,
)
from ac_pipeline.items import Derived, Failure, LedgerEntry, Stage, State, item_id
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.sync.planning.plan import Made, Wanted
from ac_pipeline.sync.ports import Renderer
from ac_pipeline.sync.selection import Selection

COMPANION_DAYS = 7
"""How long a missing companion, such as a recording, may still turn up: it is uploaded together with its item."""

_DAY_MS = 86_400_000
_REMEMBERED = {Stage.RENDITION, Stage.UPLOAD, Stage.WRITE}


class Job(NamedTuple):
    """What the renderer is asked about one document: `known`, `look` and `anew` are those of `Renderer.derive`."""

    media: MediaType
    document: Document
    known: Derived | None
    look: bool
    anew: bool


class Unmade(Exception):
    """Renditions, all of one type, that have to be made, or companions asked for, before an account's records are
    known.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(f"{len(jobs)} items are not rendered")
        self.jobs = jobs


def make(renderer: Renderer, pool: Executor, jobs: Sequence[Job]) -> Made:
    """Ask the renderer, several at once."""

    def ask(job: Job) -> Derived | PipelineError:
        try:
            return renderer.derive(job.media, job.document, job.known, look=job.look, anew=job.anew)
        except (Permanent, Transient) as error:
            return error

    outcomes = zip(jobs, pool.map(ask, jobs), strict=True)
    return {item_id(job.media.name, job.document.id): (job.document.fingerprint, outcome) for job, outcome in outcomes}


@dataclass(frozen=True, slots=True)
class RecordBuilder:
    """Turns documents into wanted records."""

    lexicons: Lexicons
    renderer: Renderer
    pool: Executor  # Where renditions are made, several at once
    now: Callable[[], int]  # Milliseconds since 1970
    grace: float  # Milliseconds that an item without a record waits for media that the platform is still making
    asked: Selection  # What the run was asked for: `retry`, `full` (MEDIA-21, MEDIA-22) and `renditions` count here
    dry: bool = False  # Use only renditions that are known: make, ask and store nothing

    def build(
        self,
        media: MediaType,
        documents: Iterable[Document],
        entries: Mapping[str, LedgerEntry],
        did: str | None,
        made: Made | None = None,
    ) -> list[Wanted]:
        """What the mirror wants for each document, in the order given.

        Args:
            entries: What the ledger knows, by document id.
            did: The repository's DID; keys remembered for another one do not count.
            made: What came of asking the renderer before; None to ask it now.

        Raises:
            Unmade: `made` lacks something.
        """
        documents = list(documents)
        jobs = [] if self.dry else self.jobs(media, documents, entries, made or {})
        if jobs and made is not None:
            raise Unmade(jobs)
        made = {**(made or {}), **make(self.renderer, self.pool, jobs)}
        looks = self._looks(media, documents, entries) if self.dry and self.asked.full else {}
        wanted = []
        for document in documents:
            entry = entries.get(document.id)
            rkey = entry.rkey if entry is not None and entry.did == did else None
            each = self._known(media, document, entry)
            if each is None and not self.dry:
                each = self._outcome(document, entry, made[item_id(media.name, document.id)][1])
            if each is None:
                each = Wanted(document, unrendered=True)
            elif isinstance(each, Derived):
                look = looks.get(document.id)
                each = offer(self.lexicons, media, document, look.result() if look is not None else each)
            wanted.append(each if rkey is None else replace(each, known_rkey=rkey))
        return wanted

    def jobs(
        self, media: MediaType, documents: Iterable[Document], entries: Mapping[str, LedgerEntry], made: Made
    ) -> list[Job]:
        """What the renderer has to be asked before the records of these documents are known, besides what is made."""
        return [
            Job(media, document, entry.derived if entry else None, self.asked.full, self.asked.renditions)
            for document in documents
            for entry in (entries.get(document.id),)
            if self._known(media, document, entry) is None
            and made.get(item_id(media.name, document.id), ("",))[0] != document.fingerprint
        ]

    def _looks(
        self, media: MediaType, documents: Iterable[Document], entries: Mapping[str, LedgerEntry]
    ) -> dict[str, Future[Derived]]:
        """What is known, with the companions that are there now, by document id. Nothing is made or remembered."""

        def look(document: Document, known: Derived) -> Derived:
            return replace(known, found=self.renderer.companions(media, document, known.found))

        return {
            document.id: self.pool.submit(look, document, known)
            for document in documents
            for known in (self._known(media, document, entries.get(document.id)),)
            if isinstance(known, Derived) and media.companions(document)  # which only an eligible one has
        }

    @staticmethod
    def _outcome(document: Document, entry: LedgerEntry | None, outcome: Derived | PipelineError) -> Wanted | Derived:
        """What was made, or why not; an encoding that exceeds its time a second time is given up (MEDIA-23)."""
        if isinstance(outcome, Derived):
            return outcome
        before = entry.failure if entry is not None and entry.fingerprint == document.fingerprint else None
        if isinstance(outcome, EncoderTimedOut) and before is not None and before.error_class == EncoderTimedOut.code:
            outcome = EncodingFailed(f"{outcome.message}, for the second time: raise the limit, then retry")
        return Wanted(document, failure=failure_of(Stage.RENDITION, outcome), fresh=True)

    def _pending(self, media: MediaType, document: Document, entry: LedgerEntry | None) -> Wanted | Derived | None:
        """While the platform makes its media, an item waits, and one that has a record keeps what it has (GUARD-6);
        None when that takes too long. A beginning that lies further in the future than clocks differ is not believed.
        """
        since, now = media.pending_since(document), self.now()
        if since is None or not since - self.grace <= now < since + self.grace:
            return None
        if (document.link is not None and document.link.rkey) or (entry is not None and entry.cid):
            return entry.derived if entry is not None else None
        until = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=since + self.grace)
        error = SourcePending(
            f"the platform is still making its video; from {until:%Y-%m-%d %H:%M:%S} UTC on it is made here"
        )
        return Wanted(document, failure=failure_of(Stage.RENDITION, error), until=until)

    def _known(self, media: MediaType, document: Document, entry: LedgerEntry | None) -> Wanted | Derived | None:
        """What can be said without asking storage: a final word, the known renditions, or None."""
        if document.verdict is Verdict.WITHDRAWN:
            return Wanted(document)
        if document.verdict is not Verdict.ELIGIBLE:
            error = InvalidDocument if document.verdict is Verdict.INVALID else HeldBack
            return Wanted(document, failure=failure_of(Stage.DOCUMENT, error(document.reason)), fresh=True)
        if (waiting := self._pending(media, document, entry)) is not None:
            return waiting
        same = entry is not None and entry.fingerprint == document.fingerprint
        asks, anew = self.asked.full and not self.dry, self.asked.renditions
        if same and not self.asked.retry and not anew and entry is not None and entry.state is State.QUARANTINED:
            failure = entry.failure
            gone = asks and failure is not None and failure.error_class == SourceMissing.code
            if failure is not None and failure.stage in _REMEMBERED and not gone:
                return Wanted(document, failure=failure)
        companions = media.companions(document)
        if media.recipe is None and not companions:
            return Derived()
        if asks or (anew and media.recipe is not None) or not same or entry is None or entry.derived is None:
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
