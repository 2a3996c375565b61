"""What is still kept of erased work: renditions that nobody needs any more, and failures nobody has to look at.

The store is a cache that items with equal sources share, so a rendition goes with the last item that uses it. What is
not let go now stays in its item's entry, and the next sync tries again (DEL-7). Renditions of records that were wiped,
or have to be written anew, are kept: their documents stay, and a restore shall be cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

from ac_pipeline.errors import Transient
from ac_pipeline.items import BlobRef, LedgerEntry, Rendition, State
from ac_pipeline.media.base import MediaType, Verdict
from ac_pipeline.sync.planning.plan import AccountPlan, existing_records
from ac_pipeline.sync.planning.reading import Reader
from ac_pipeline.sync.ports import Documents, Ledger, Renderer
from ac_pipeline.sync.writing.recorder import Recorder


def unwanted(plan: AccountPlan, media: MediaType) -> list[LedgerEntry]:
    """Entries that are not over, or have renditions, whose documents are withdrawn, as all of an account that is to be
    deleted are, or not among the account's any more; asks nobody.
    """
    wanted = {document.id for document in plan.documents[media.name] if document.verdict is not Verdict.WITHDRAWN}
    return [
        entry
        for entry in plan.entries[media.name].values()
        if entry.document not in wanted and (made_of(entry) or entry.state is not State.DELETED)
    ]


def made_of(entry: LedgerEntry) -> tuple[Rendition, ...]:
    """The renditions an entry knows of."""
    return tuple(entry.derived.renditions.values()) if entry.derived is not None else ()


def erase(reader: Reader, plan: AccountPlan, recorder: Recorder) -> None:
    """After the records: end every selected item that is withdrawn, or whose document is gone, and of which the
    repository holds no record, and let its renditions go. Never raises for a store or ledger that does not answer: that
    costs neither an item nor the erasure, it is in the notes.
    """
    try:
        for media in plan.selection.types:
            entries = _confirmed(reader.documents, plan, media)
            if entries:
                forget(reader.ledger, reader.renderer, media, entries)
                recorder.erased(entries)
    except Transient as error:
        recorder.report.note(f"renditions of erased items are still kept, the next sync tries again: {error.message}")


def forget(ledger: Ledger, renderer: Renderer, media: MediaType, entries: Sequence[LedgerEntry]) -> None:
    """Let the store give up what these items of one type alone use; after a Transient some may be gone."""
    # Of earlier versions of an item's media only the CIDs are known.
    made = {cid: Rendition(BlobRef(cid, "", 0), "", "") for entry in entries for cid in entry.past_blobs}
    made |= {rendition.blob.cid: rendition for entry in entries for rendition in made_of(entry)}
    if made:
        used = ledger.used_blobs(made, without=[entry.item for entry in entries])
        renderer.forget(media, [rendition for cid, rendition in made.items() if cid not in used])


def _confirmed(documents: Documents, plan: AccountPlan, media: MediaType) -> list[LedgerEntry]:
    """The unwanted ones of which no record is left, as the repository stands after our writes."""
    if plan.repository is None:
        return []
    known = {document.id for document in plan.documents[media.name]}
    chosen = plan.selected[media.name]
    found = [
        entry
        for entry in unwanted(plan, media)
        if entry.document in chosen or (entry.document not in known and plan.selection.judges_orphans)
    ]
    if not found:
        return []
    matches = next((made.matches for made in plan.plans if made.media == media), {})
    records = existing_records(plan.repository, media)
    present = {record.ref for record in records}
    keys = {record.rkey for record in records}
    unnamed = {record.rkey for record in records if record.ref is None}
    found = [
        entry
        for entry in found
        if entry.document not in present
        and keys.isdisjoint(matches.get(entry.document, ()))
        and entry.rkey not in unnamed
    ]
    missing = [entry.document for entry in found if entry.document not in known]
    # Those that are not gone: they belong to another account now, or the collection is doubted (DEL-5).
    elsewhere = set(documents.owners(media, missing)) if missing else set()
    if missing and plan.account.pending_deletion is None and documents.is_empty(media):
        elsewhere = set(missing)
    return [entry for entry in found if entry.document not in elsewhere]
