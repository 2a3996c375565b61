"""The writer: commits a plan's operations to one repository, in batches, and isolates what a PDS will not take.

It knows batches, blobs and answers; what the operations mean, links and the ledger are the engine's. Sources: design,
section 1 (ideas 4 and 5); ATProto facts, "Writing" and "Blobs"; acceptance cases WRITE-4 to WRITE-8 and MEDIA-15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.batches import request_bytes
from ac_pipeline.atproto.messages import Commit
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import (
    BlobMissing,
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
from ac_pipeline.items import BlobRef
from ac_pipeline.sync.plan import Operation
from ac_pipeline.sync.ports import DataServer

MAX_OPERATIONS = 200
"""Operations the reference PDS takes in one `applyWrites`."""

REQUEST_BYTES = 1_000_000
"""Request body the reference PDS takes; versions before 0.4.226 take 150 KiB, which a 413 teaches."""

COMMIT_BYTES = 2_000_000
"""Bytes of new blocks the reference PDS takes in one commit."""

TREE_BYTES_PER_OPERATION = 4_000
"""Room for the tree nodes that one operation rewrites: some eight levels of nodes of about 500 bytes."""

ENVELOPE_BYTES = 512
"""Room in a request for the repository's DID, the swapped commit and the brackets."""

UPLOADS = 4
"""Blobs uploaded at once: `uploadBlob` is 2.3 times as fast ten at once as one by one, most of that at four."""

_ATTEMPTS = 2


@dataclass(slots=True)
class BatchLimits:
    """The caps a batch is packed under. `request_bytes` shrinks when a PDS turns out to take less."""

    operations: int = MAX_OPERATIONS
    request_bytes: int = REQUEST_BYTES
    commit_bytes: int = COMMIT_BYTES


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch the PDS acknowledged, and the repository after it."""

    operations: tuple[Operation, ...]
    repository: Repository


@dataclass(frozen=True, slots=True)
class Refused:
    """One operation that did not happen: quarantined for a `Permanent` error, to be run again for a `Transient` one."""

    operation: Operation
    error: PipelineError


@dataclass(slots=True)
class Writer:
    """Writes to the repository of one account.

    Args:
        server: The PDS.
        account: Whose repository it is.
        load: Bytes of a blob that an operation's record refers to; raises `Permanent` or `Transient`.
        limits: Caps of a batch.
        remember: Told the new request size, in bytes, when a refusal taught one.
    """

    server: DataServer
    account: Account
    load: Callable[[Operation, BlobRef], bytes]
    limits: BatchLimits = field(default_factory=BatchLimits)
    remember: Callable[[int], None] | None = None
    _uploaded: set[str] = field(default_factory=set)
    _progressed: bool = False

    def write(self, operations: Sequence[Operation], repository: Repository) -> Iterator[Committed | Refused]:
        """Commit operations in the order of their keys, yielding each batch once it is durable.

        Raises:
            RepositoryMoved: Somebody else committed, or one of our own batches did without an answer: read the
                repository, plan again, and call again with what is left.
            Transient, Blocked: Nothing more can be written now; what was yielded is safe.
        """
        pending = [sorted(operations, key=lambda operation: operation.path)]
        silent: list[Refused] = []
        while pending:
            batch, rest = self._pack(pending.pop())
            if rest:
                pending.append(rest)
            batch, refused = self._upload(batch, repository)
            yield from refused
            if not batch:
                continue
            try:
                repository = self._commit(batch, repository)
            except (Permanent, ServerFailed) as error:
                if len(batch) > 1:
                    pending += self._halves(batch, error)
                elif isinstance(error, ServerFailed):
                    silent.append(Refused(batch[0], error))
                else:
                    yield Refused(batch[0], error)
            else:
                self._progressed = True
                yield Committed(tuple(batch), repository)
        yield from self._settle(silent)

    def _pack(self, operations: list[Operation]) -> tuple[list[Operation], list[Operation]]:
        """Split off the longest run that fits all three caps, at least one operation."""
        size, blocks = ENVELOPE_BYTES, 0
        for index, operation in enumerate(operations):
            bytes_ = request_bytes(operation.to_write())
            size += bytes_
            blocks += bytes_ + TREE_BYTES_PER_OPERATION
            full = index >= self.limits.operations or blocks > self.limits.commit_bytes
            if index and (full or size > self.limits.request_bytes):
                return operations[:index], operations[index:]
        return operations, []

    def _halves(self, batch: list[Operation], error: PipelineError) -> list[list[Operation]]:
        """The batch in two, the first half on top of the stack; after a size error the new size is kept (WRITE-5)."""
        middle = (len(batch) + 1) // 2
        if isinstance(error, TooLarge):
            size = ENVELOPE_BYTES + sum(request_bytes(operation.to_write()) for operation in batch)
            self.limits.request_bytes = max(size // 2, ENVELOPE_BYTES)
            if self.remember is not None:
                self.remember(self.limits.request_bytes)
        return [batch[middle:], batch[:middle]]

    def _commit(self, batch: list[Operation], repository: Repository) -> Repository:
        """One batch, all or nothing. A lost answer is resolved by reading the repository back (WRITE-7, WRITE-8)."""
        writes = [operation.to_write() for operation in batch]
        last: PipelineError | None = None
        for _ in range(_ATTEMPTS):
            try:
                commit = self.server.apply_writes(self.account, writes, swap_commit=repository.commit)
            except OutcomeUnknown as error:
                if self.server.read_repository(repository.did).commit != repository.commit:
                    raise RepositoryMoved(
                        f"{repository.did} moved while a batch had no answer: {error.message}"
                    ) from error
                last = error
            except BlobMissing as error:
                if last is not None:
                    raise
                last = error
                self._reupload(batch)
            else:
                self._check(batch, commit)
                return repository.with_writes(commit, writes)
        raise ServerFailed(
            f"the PDS did not take {len(batch)} operations on {repository.did} in {_ATTEMPTS} attempts",
            status=last.status if last else None,
            answer=last.answer if last else None,
        )

    @staticmethod
    def _check(batch: list[Operation], commit: Commit) -> None:
        for operation, cid in zip(batch, commit.cids, strict=True):
            if operation.cid is not None and cid != operation.cid:
                raise RepositoryMoved(
                    f"the PDS stored {operation.path} as {cid}, not as {operation.cid}: it will be read back"
                )

    def _upload(self, batch: list[Operation], repository: Repository) -> tuple[list[Operation], list[Refused]]:
        """Upload the blobs a batch needs and the repository lacks; an operation whose blob fails leaves the batch."""
        needed = [(op, blob) for op in batch for blob in _blobs(op) if blob.cid not in self._uploaded]
        if not needed:
            return batch, []
        present = repository.blobs()
        needed = [(op, blob) for op, blob in needed if blob.cid not in present]
        failed: dict[str, PipelineError] = {}
        unique = {blob.cid: (op, blob) for op, blob in needed}
        with ThreadPoolExecutor(min(UPLOADS, max(1, len(unique)))) as pool:
            for cid, error in pool.map(lambda each: (each[1].cid, self._upload_one(*each)), unique.values()):
                if error is not None:
                    failed[cid] = error
        refused = {op.path: Refused(op, failed[blob.cid]) for op, blob in needed if blob.cid in failed}
        return [op for op in batch if op.path not in refused], list(refused.values())

    def _upload_one(self, operation: Operation, blob: BlobRef) -> PipelineError | None:
        try:
            self.server.upload_blob(self.account, self.load(operation, blob), blob.mime_type)
        except RateLimited:
            raise
        except (Permanent, Transient) as error:
            return error
        self._uploaded.add(blob.cid)
        return None

    def _reupload(self, batch: list[Operation]) -> None:
        """Send a batch's blobs once more: the PDS says it lacks one of them (MEDIA-15)."""
        for operation in batch:
            for blob in _blobs(operation):
                self.server.upload_blob(self.account, self.load(operation, blob), blob.mime_type)
                self._uploaded.add(blob.cid)

    def _settle(self, silent: list[Refused]) -> Iterator[Refused]:
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


def _blobs(operation: Operation) -> list[BlobRef]:
    derived = operation.wanted.derived if operation.wanted else None
    if operation.record is None or derived is None:
        return []
    return [rendition.blob for name, rendition in derived.renditions.items() if name in operation.record]
