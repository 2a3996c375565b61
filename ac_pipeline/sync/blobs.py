"""Blobs of records that are in place: which they are, and which of them the PDS has lost.

Asks; what is done about it is `mending.py` for a sync, and a finding for `verify.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ac_pipeline.items import BlobRef
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.plan import Kind, Operation, Wanted
from ac_pipeline.sync.ports import DataServer

BLOB_CHECKS = 8
"""Blobs asked for at once."""


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
        wanted = self.wanted
        return Operation(
            Kind.UPDATE, self.media, self.rkey, "its blob is gone", wanted, record=wanted.record, cid=wanted.cid
        )


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
            for field, rendition in wanted.derived.renditions.items() if wanted.derived is not None else ():
                yield Use(made.media, wanted, rkey, cid, field, rendition.blob)


def missing_blobs(server: DataServer, did: str, cids: Iterable[str]) -> set[str]:
    """Those of these blobs that cannot be downloaded; each is asked for once.

    Raises:
        Transient, Blocked: One could not be asked for: nothing can be said.
    """
    asked = sorted(set(cids))
    if not asked:
        return set()
    with ThreadPoolExecutor(min(BLOB_CHECKS, len(asked)), thread_name_prefix="blobs") as pool:
        answers = list(pool.map(lambda cid: server.has_blob(did, cid), asked))
    return {cid for cid, there in zip(asked, answers, strict=True) if not there}
