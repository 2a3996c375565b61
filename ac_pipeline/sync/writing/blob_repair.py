"""Blob repair: giving the PDS back the blobs it has lost, of records that are as they should be otherwise (VERIFY-5).

The reference PDS (measured on 0.5.35) keeps a blob that is uploaded again only if its database has forgotten it. Where
only the bytes are gone, it throws the new ones away. There every record that refers to the blob has to let go of it for
one commit. In that commit a blob that a record may lack is left out; in place of one that it must have (a tape's video,
MEDIA-7) stands a copy that plays the same. Writing the record as it shall be is an ordinary update after that, so a run
that dies in between is healed by the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ac_pipeline.atproto.syntax import blob_cid, record_cid
from ac_pipeline.errors import BlobMissing, Permanent, PipelineError, RateLimited, Transient
from ac_pipeline.items import BlobRef, Record, Stage, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.planning.plan import AccountPlan, Kind, Operation, Wanted
from ac_pipeline.sync.ports import DataServer
from ac_pipeline.sync.writing.recorder import Recorder
from ac_pipeline.sync.writing.writer import Refused

if TYPE_CHECKING:
    from ac_pipeline.sync.engine import Engine

BLOB_CHECKS = 8  # Blobs asked for at once


@dataclass(frozen=True, slots=True)
class Use:
    """One blob of one record that is as it should be; `field` refers to it."""

    media: MediaType
    wanted: Wanted
    rkey: str
    cid: str
    field: str
    blob: BlobRef

    @property
    def operation(self) -> Operation:
        """The update that writes this record as it shall be."""
        wanted, why = self.wanted, "its blob is gone"
        return Operation(Kind.UPDATE, self.media, self.rkey, why, wanted, wanted.record, wanted.cid)


def uses(plan: AccountPlan) -> Iterator[Use]:
    """Every blob of the records that are in place: those that were kept, and those that this run has written."""
    held = plan.repository.records if plan.repository is not None else {}
    for made in plan.plans:
        in_place = [(each.wanted, each.rkey, each.cid) for each in made.kept]
        in_place += [
            (op.wanted, op.rkey, op.cid)
            for op in made.operations
            if op.wanted is not None and op.cid is not None and held.get(op.path) == op.cid
        ]
        for wanted, rkey, cid in in_place:
            for name, rendition in wanted.derived.renditions.items() if wanted.derived is not None else ():
                yield Use(made.media, wanted, rkey, cid, name, rendition.blob)


def missing_blobs(server: DataServer, did: str, cids: Iterable[str]) -> set[str]:
    """Those of these blobs that cannot be downloaded; raises Transient or Blocked when one could not be asked for."""
    asked = sorted(set(cids))
    if not asked:
        return set()
    with ThreadPoolExecutor(min(BLOB_CHECKS, len(asked)), thread_name_prefix="blobs") as pool:
        answers = list(pool.map(lambda cid: server.has_blob(did, cid), asked))
    return {cid for cid, there in zip(asked, answers, strict=True) if not there}


PADDING: Mapping[str, bytes] = {"video/mp4": b"\x00\x00\x00\x08free"}
"""Bytes that make another blob of a file without changing what it shows: an empty `free` box (ISO 14496-12)."""


@dataclass(slots=True)
class BlobRepair:
    """Repairs the blobs of one account in one run, after its records were written."""

    engine: Engine
    plan: AccountPlan
    recorder: Recorder
    _released: list[Use] = field(default_factory=list)
    _again: bool = False

    def repair(self) -> bool:
        """Ask for blobs and upload those that are missing; True if records have to be written again for it.

        Without `Selection.blobs` only those are asked for that an earlier run had to leave: nothing else would tell.
        With it also those just uploaded: the PDS throws away an upload of a blob that another record refers to, even
        where it has lost the bytes. What a Transient or Blocked error keeps from being repaired, the next run finds.
        """
        every, done = self.plan.selection.blobs, self.plan.uploaded
        asked = [each for each in uses(self.plan) if every or (each.blob.cid not in done and self._failed_before(each))]
        lost = self._missing(asked)
        if not lost:
            return False
        sent = self._upload_again(lost)
        still = self._missing(sent)
        self._healed(use for use in sent if use not in still)
        if still:
            self._release(still)
        return self._again

    def check(self) -> None:
        """Once the records are written again, ask whether the PDS keeps their blobs now."""
        missing = self._missing(self._released)
        self._healed(use for use in self._released if use not in missing)
        for use in missing:
            self._fail(use, BlobMissing(f"the PDS does not keep the blob {use.blob.cid}, however often it is sent"))

    def _failed_before(self, use: Use) -> bool:
        """True if a run may have known that the blob is lost, and left it so."""
        entry = self.plan.entries[use.media.name].get(use.wanted.document.id)
        if entry is None or entry.failure is None:
            return False
        faulty = entry.state is State.QUARANTINED and entry.failure.stage is Stage.UPLOAD
        return faulty or entry.state is State.DEFERRED

    def _missing(self, asked: Sequence[Use]) -> list[Use]:
        missing = missing_blobs(self.engine.server, str(self.plan.account.did), {use.blob.cid for use in asked})
        return [use for use in asked if use.blob.cid in missing]

    def _upload_again(self, lost: Sequence[Use]) -> list[Use]:
        """Send each blob once more: the uses of those that were sent. If the blobs' limit is spent, the rest waits."""
        sent: set[str] = set()
        done = []
        spent: RateLimited | None = None
        for use in lost:
            try:
                if spent is not None:
                    raise spent
                if use.blob.cid not in sent:
                    data = self.engine.load(self.plan, use.operation, use.blob)
                    self.engine.server.upload_blob(self.plan.account, data, use.blob.mime_type)
            except (Permanent, Transient) as error:
                spent = error if isinstance(error, RateLimited) else None
                self._fail(use, error)
            else:
                sent.add(use.blob.cid)
                done.append(use)
        return done

    def _release(self, lost: Sequence[Use]) -> None:
        """Let all records go of blobs whose bytes are gone, so that they are uploaded as if they were new."""
        repository = self.plan.repository
        if repository is None:
            return
        cids = {use.blob.cid for use in lost}
        by_path: dict[str, list[Use]] = defaultdict(list)
        for use in uses(self.plan):
            if use.blob.cid in cids:
                by_path[use.operation.path].append(use)
        strangers = {cid: path for path, cid in repository.blob_references() if cid in cids and path not in by_path}
        operations = []
        for path, own in by_path.items():
            try:
                operations.append(self._without(own, repository.value(path), strangers))
            except (Permanent, Transient) as error:
                for use in own:
                    self._fail(use, error)
            else:  # it waits from now on, whatever stops this run
                self.recorder.states.reopen(own[0].operation)
        for outcome in self.engine.writer_of(self.plan).write(operations, repository):
            if isinstance(outcome, Refused):
                for use in by_path[outcome.operation.path]:
                    self._fail(use, outcome.error)
                continue
            self._again = True
            self.plan.repository = outcome.repository
            for operation in outcome.operations:
                self.plan.changed.add(operation.media.name)
                self._released += by_path[operation.path]

    def _without(self, own: Sequence[Use], record: Record, strangers: Mapping[str, str]) -> Operation:
        """The update with which a record lets go of blobs; raises BlobMissing when letting go of one would not help or
        cannot be done, InvalidRecord when the record would not be valid meanwhile.
        """
        copies = []
        for use in own:
            if use.blob.cid in strangers:
                raise BlobMissing(
                    f"the PDS has lost the blob {use.blob.cid}, and {strangers[use.blob.cid]}, which is not the "
                    "mirror's, refers to it too: it takes it back only once that record is gone"
                )
            if not next(blob.required for blob in use.media.blobs if blob.name == use.field):
                del record[use.field]
                continue
            if use.blob.mime_type not in PADDING:
                raise BlobMissing(f"the PDS has lost the blob {use.blob.cid}, and nothing can stand in for it")
            data = stand_in(self.engine.load(self.plan, use.operation, use.blob), use.blob.mime_type)
            copy = BlobRef(blob_cid(data), use.blob.mime_type, len(data))
            self.plan.stand_ins[copy.cid] = use.blob
            record[use.field] = copy.to_json()
            copies.append(copy)
        media, rkey = own[0].media, own[0].rkey
        self.engine.lexicons.validate(media.nsid, record)
        reason = "it lets go of a blob whose bytes are lost"
        return Operation(Kind.UPDATE, media, rkey, reason, record=record, cid=record_cid(record), blobs=tuple(copies))

    def _healed(self, repaired: Iterable[Use]) -> None:
        for use in {use.operation.item: use for use in repaired}.values():
            self.recorder.report.tally(use.media.name).healed += 1

    def _fail(self, use: Use, error: PipelineError) -> None:
        self.recorder.states.reopen(use.operation)
        self._again |= self.engine.take(self.plan, self.recorder, Refused(use.operation, error, Stage.UPLOAD))


def stand_in(data: bytes, mime_type: str) -> bytes:
    """A file that shows the same as `data` and is another blob; only for the types in `PADDING`."""
    return data + PADDING[mime_type]
