"""Asking for renditions, and building the record of a document from what was derived from it, or saying why not."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.errors import (
    InvalidDocument,
    InvalidRecord,
    Permanent,
    PipelineError,
    Transient,
)
from ac_pipeline.items import Derived, Failure, Stage, item_id
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.sync.planning.plan import Made, Wanted
from ac_pipeline.sync.ports import Renderer


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
