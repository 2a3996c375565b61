"""The writer: commits a plan's operations to one repository, in batches, and isolates what a PDS will not take.

Sources: design, section 1 (ideas 4 and 5); ATProto facts, "Writing" and "Blobs"; WRITE-4 to WRITE-8 and MEDIA-15.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.atproto.types import ENVELOPE_BYTES, MAX_OPERATIONS, Write, request_bytes
from ac_pipeline.errors import (
    BlobMissing,
    Blocked,
    OutcomeUnknown,
    Permanent,
    PipelineError,
    RateLimited,
    RecordRefused,
    RepositoryMoved,
    ServerFailed,
    TooLarge,
    Transient,
)
from ac_pipeline.items import BlobRef, RepositoryCheckpoint, Stage
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.planning.plan import ERASES, Kind, Operation
from ac_pipeline.sync.ports import DataServer, Ledger

REQUEST_BYTES = 1_000_000  # Body the reference PDS takes; versions before 0.4.226 take 150 KiB: a 413 teaches it

COMMIT_BYTES = 2_000_000  # Bytes of new blocks the reference PDS takes in one commit

TREE_BYTES_PER_OPERATION = 4_000  # Room for the tree nodes that one operation rewrites: some eight of about 500 bytes

UPLOADS = 4  # Blobs uploaded at once: `uploadBlob` is 2.3 times as fast ten at once as one by one, most of that at four

SILENT_LIMIT = 8  # Operations that may fail alone with a 5xx before any went through: then the PDS is at fault

_ATTEMPTS = 2
_ABOUT_KEY = re.compile(r"\b(record[ -]?key|rkey)\b", re.IGNORECASE)
"""The reference PDS to a key on its list of slurs: 400 InvalidRequest "Unacceptable slur in record key"."""


@dataclass(slots=True)
class BatchLimits:
    """The caps a batch is packed under. `request_bytes` shrinks when a PDS turns out to take less."""

    operations: int = MAX_OPERATIONS
    request_bytes: int = REQUEST_BYTES
    commit_bytes: int = COMMIT_BYTES

    def pack(self, operations: list[Operation]) -> tuple[list[Operation], list[Operation]]:
        """Split off the longest run that fits all three caps, at least one operation."""
        size, blocks = ENVELOPE_BYTES, 0
        for index, operation in enumerate(operations):
            bytes_ = request_bytes(operation.to_write())
            size += bytes_
            blocks += bytes_ + TREE_BYTES_PER_OPERATION
            full = index >= self.operations or blocks > self.commit_bytes
            if index and (full or size > self.request_bytes):
                return operations[:index], operations[index:]
        return operations, []


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch the PDS acknowledged, and the repository after it."""

    operations: tuple[Operation, ...]
    repository: Repository


@dataclass(frozen=True, slots=True)
class Refused:
    """One operation that did not happen: quarantined for a `Permanent` error, to be run again for a `Transient` one.

    `stage` is `UPLOAD` when one of its blobs could not be loaded or uploaded.
    """

    operation: Operation
    error: PipelineError
    stage: Stage = Stage.WRITE

    @property
    def about_key(self) -> bool:
        """True if the PDS refuses the new key and not the record, so that another key may do (WRITE-3)."""
        refused = isinstance(self.error, RecordRefused) and self.operation.kind is Kind.CREATE
        return refused and _ABOUT_KEY.search(self.error.answer or "") is not None


@dataclass(slots=True)
class Writer:
    """Writes to the repository of one account."""

    server: DataServer
    ledger: Ledger  # Knows the request size the PDS takes, learns a smaller one, and keeps the repository's checkpoint
    host: str  # The PDS, as the ledger names it
    now: Callable[[], datetime]  # The time, UTC
    account: Account
    load: Callable[[Operation, BlobRef], bytes]  # Bytes of a blob; raises `Permanent` or `Transient`
    uploaded: set[str] = field(default_factory=set)  # CIDs of blobs this run has uploaded; grows
    limits: BatchLimits = field(init=False)
    _repeated: set[str] = field(default_factory=set)
    _signed_in: bool = False
    _spent: RateLimited | None = None
    _progressed: bool = False

    def __post_init__(self) -> None:
        self.limits = BatchLimits(request_bytes=self.ledger.batch_bytes(self.host, REQUEST_BYTES))

    def write(self, operations: Sequence[Operation], repository: Repository) -> Iterator[Committed | Refused]:
        """Commit operations in the order of their keys, yielding each batch once it is durable.

        Copies are deleted first: after a kill in between, one that names only a document is found by its record.
        When a limit is spent, what has to go from the repository is still tried: erasure waits for no new work.

        Raises:
            RepositoryMoved: Somebody else committed, or one of our own batches did without an answer: read the
                repository, plan again, and call again with what is left.
            Transient, Blocked: Nothing more can be written now; what was yielded is safe.
        """
        try:
            yield from self._write(operations, repository)
        finally:
            self.server.release_commit(self.account)

    def _write(self, operations: Sequence[Operation], repository: Repository) -> Iterator[Committed | Refused]:
        pending = [sorted(operations, key=lambda each: (each.kind is not Kind.DELETE_COPY, each.path))]
        present = _Present(repository, operations)
        silent: list[Refused] = []
        spent: RateLimited | None = None
        while pending:
            batch, rest = self.limits.pack(pending.pop())
            if rest:
                pending.append(rest)
            try:
                batch, refused = self._upload(batch, present)
                yield from refused
                if not batch:
                    continue
                repository, follow = self._commit(batch, repository)
            except RateLimited as error:
                # A duplicate goes only once the copy that stays is right.
                left = [operation for each in [batch, *reversed(pending)] for operation in each]
                pending = [[each for each in left if each.kind in ERASES or each.kind is Kind.DELETE_COPY]]
                if spent is not None or not pending[0]:
                    raise spent or error from None
                spent = error
            except (Permanent, ServerFailed) as error:
                if len(batch) > 1:
                    pending += self._halves(batch, error)
                elif isinstance(error, ServerFailed):
                    silent.append(Refused(batch[0], error))
                    if not self._progressed and len(silent) == SILENT_LIMIT:
                        raise
                else:
                    yield Refused(batch[0], error)
            else:
                self._progressed = self._signed_in = True
                yield Committed(tuple(batch), repository)
                follow()
        yield from self._judge(silent)
        if spent is not None:
            raise spent

    def _halves(self, batch: list[Operation], error: PipelineError) -> list[list[Operation]]:
        """The batch in two, the first half on top of the stack; after a size error the new size is kept (WRITE-5)."""
        middle = (len(batch) + 1) // 2
        halves = [batch[middle:], batch[:middle]]
        if isinstance(error, TooLarge):
            sizes = [sum(request_bytes(operation.to_write()) for operation in half) for half in halves]
            self.limits.request_bytes = ENVELOPE_BYTES + max(sizes)
            self.ledger.remember_batch_bytes(self.host, self.limits.request_bytes)
        return halves

    def _commit(self, batch: list[Operation], repository: Repository) -> tuple[Repository, Callable[[], None]]:
        """One batch, all or nothing. A lost answer is resolved by reading the repository back (WRITE-7, WRITE-8)."""
        writes = [operation.to_write() for operation in batch]
        lost: list[OutcomeUnknown] = []
        while len(lost) < _ATTEMPTS:
            try:
                return commit_writes(self.server, self.ledger, self.account, writes, repository, now=self.now)
            except OutcomeUnknown as error:
                lost.append(error)
            except BlobMissing as error:
                if not self._upload_again(batch, error):
                    raise
        raise ServerFailed(
            f"the PDS did not take {len(batch)} operations on {repository.did} in {_ATTEMPTS} attempts",
            status=lost[-1].status,
            answer=lost[-1].answer,
        )

    def _upload(self, batch: list[Operation], present: _Present) -> tuple[list[Operation], list[Refused]]:
        """Upload the blobs a batch needs and the repository lacks; an operation whose blob fails leaves the batch."""
        needed = [
            (op, blob)
            for op in batch
            for blob in _blobs(op)
            if blob.cid not in self.uploaded and not present.stays(op, blob.cid)
        ]
        waiting = list({blob.cid: (op, blob) for op, blob in needed}.values())
        failed: dict[str, PipelineError] = {}
        if waiting:
            self.server.reserve_commit(self.account, [operation.to_write() for operation in batch])
        while waiting and not self._signed_in:  # one by one until a session is made: four would sign in four times
            self._upload_one(waiting.pop(0), failed)
        if waiting:
            with ThreadPoolExecutor(min(UPLOADS, len(waiting)), thread_name_prefix="upload") as pool:
                for _ in pool.map(lambda each: self._upload_one(each, failed), waiting):
                    pass
        refused = {op.path: Refused(op, failed[blob.cid], Stage.UPLOAD) for op, blob in needed if blob.cid in failed}
        return [op for op in batch if op.path not in refused], list(refused.values())

    def _upload_one(self, needed: tuple[Operation, BlobRef], failed: dict[str, PipelineError]) -> None:
        """One blob, or why not. When the blobs' own limit is spent, the records without blobs go on (LIMIT-6)."""
        operation, blob = needed
        if self._spent is not None:
            failed[blob.cid] = self._spent
            return
        try:
            self.server.upload_blob(self.account, self.load(operation, blob), blob.mime_type)
        except (Permanent, Transient) as error:
            failed[blob.cid] = error
            if isinstance(error, RateLimited):
                self._spent = error
            return
        self._signed_in = True
        self.uploaded.add(blob.cid)

    def _upload_again(self, batch: list[Operation], error: BlobMissing) -> bool:
        """Send the blob that the PDS lacks once more, or all of the batch's if it names none; each once (MEDIA-15).
        True if anything was sent, so that the batch is worth another attempt.
        """
        blobs = {blob.cid: (op, blob) for op in batch for blob in _blobs(op)}
        named = [cid for cid in blobs if cid in (error.answer or "")]
        lacking = [cid for cid in named or blobs if cid not in self._repeated]
        for operation, blob in [blobs[cid] for cid in lacking]:
            self._repeated.add(blob.cid)
            self.server.upload_blob(self.account, self.load(operation, blob), blob.mime_type)
            self.uploaded.add(blob.cid)
        return bool(lacking)

    def _judge(self, silent: list[Refused]) -> Iterator[Refused]:
        """Operations the PDS answered with a 5xx, alone and twice: their own fault if others went through, else its."""
        for each in silent:
            if not self._progressed:
                raise each.error
            error = RecordRefused(
                f"the PDS fails on {each.operation.path} alone, while it takes others",
                status=each.error.status,
                answer=each.error.answer,
            )
            yield Refused(each.operation, error)


def commit_writes(
    server: DataServer,
    ledger: Ledger,
    account: Account,
    writes: Sequence[Write],
    repository: Repository,
    *,
    now: Callable[[], datetime],
) -> tuple[Repository, Callable[[], None]]:
    """Commit a batch to a repository as it was read. Nothing else calls `apply_writes`.

    Returns the repository after the batch, and what lets its checkpoint follow, so that the drift sensor does not take
    the batch for a stranger's (VERIFY-9): to be called once everything is stored that follows from the batch. A run
    that dies before is found as a drift. Raises OutcomeUnknown when there was no answer and the repository, read back,
    is as it was; RepositoryMoved when it holds something else than the batch, or the answer does not fit; else as
    `DataServer.apply_writes`.
    """
    try:
        commit = server.apply_writes(account, writes, swap_commit=repository.commit)
    except OutcomeUnknown as error:
        try:
            after = server.read_repository(repository.did)
        except Blocked as closed:  # it says nothing about the batch
            raise RepositoryMoved(f"{error.message} {closed.message}") from closed
        if after.commit == repository.commit:
            raise
        if dict(after.records) != _written(repository, writes):
            raise RepositoryMoved(f"{repository.did} moved while a batch had no answer: {error.message}") from error
    else:
        after = repository.with_writes(commit, writes)
    collections = {write.collection for write in writes}
    written = [media for media in MEDIA_TYPES if media.nsid in collections]
    counts = {media.name: after.count(media.nsid) for media in written}

    def follow() -> None:
        ledger.follow_checkpoint(RepositoryCheckpoint(after.did, after.rev, now(), counts=counts), since=repository.rev)

    return after, follow


def _written(repository: Repository, writes: Sequence[Write]) -> Mapping[str, str]:
    """Path -> CID of every record after a batch."""
    records = dict(repository.records)
    for write in writes:
        path = f"{write.collection}/{write.rkey}"
        records.pop(path, None)
        if write.action != "delete":
            records[path] = record_cid(write.value or {})
    return records


class _Present:
    """Blobs that need no upload: those of records that this plan leaves alone, and those a record keeps in an update.
    What only a record refers to that is deleted or changed goes with it, perhaps batches before it is wanted again.
    """

    def __init__(self, repository: Repository, operations: Sequence[Operation]) -> None:
        self._repository = repository
        self._own: dict[str, set[str]] = {operation.path: set() for operation in operations}
        self._staying: set[str] | None = None

    def stays(self, operation: Operation, cid: str) -> bool:
        if self._staying is None:  # only a plan with media pays for looking into the records
            self._staying = set()
            for path, held in self._repository.blob_references():
                self._own.get(path, self._staying).add(held)
        return cid in self._staying or cid in self._own.get(operation.path, ())


def _blobs(operation: Operation) -> list[BlobRef]:
    derived = operation.wanted.derived if operation.wanted else None
    if operation.record is None or derived is None:
        return list(operation.blobs)
    made = [rendition.blob for name, rendition in derived.renditions.items() if name in operation.record]
    return [*operation.blobs, *made]
