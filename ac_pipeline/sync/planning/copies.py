"""Copies: records of `site.standard.document` that hold the text of a record of ours in the same repository.

A script of the platform makes them. Each names its original (`sourceAtUri`), and the document behind it where that did
(`sourceRef`). A copy goes when its original is withdrawn, when its document is gone, or when its owner leaves; one of a
live item, or of a record in another repository, is never touched, whether it still says the same or not.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import InvalidRecord
from ac_pipeline.items import Record
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.sync.planning.plan import COPIES, AccountPlan, Kind, Operation, TypePlan
from ac_pipeline.sync.planning.reading import gone_from
from ac_pipeline.sync.ports import Documents

COPIED = "copies"  # What copies are counted as, beside the names of types

RECORD_GONE = "the record it is a copy of is gone"


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy: type and key of its original, as far as it says them, and the document behind that (`ref`)."""

    rkey: str
    cid: str
    value: Record
    collection: str | None
    source: str | None
    ref: str | None

    @property
    def path(self) -> str:
        return f"{COPIES}/{self.rkey}"

    def shows(self, document: Document, *, by_text: bool) -> bool:
        """True if it shows the code of this document, or, by its text, one of its fields."""
        own = [document.code, *(document.fields.values() if by_text else ())]
        texts = (_text(self.value, name) for name in ("path", "title", "textContent"))
        said = {text.lstrip("/$") for text in texts if text is not None}
        return any(isinstance(text, str) and text.strip() in said for text in own)


def copies_of(repository: Repository | None, types: Iterable[MediaType]) -> list[Copy]:
    """The copies of records of these types in the same repository, and those that do not say of which type they are."""
    collections = {None, *(media.nsid for media in types)}
    found: list[Copy] = []
    if repository is None:
        return found
    for rkey, cid in repository.collection(COPIES):
        try:
            copy = _copy(repository.did, rkey, cid, repository.value(f"{COPIES}/{rkey}"))
        except InvalidRecord:  # another app's, without a JSON form
            continue
        if copy is not None and copy.collection in collections:
            found.append(copy)
    return found


def find_lost_sources(plan: AccountPlan, documents: Documents) -> None:
    """Add to `plan.gone` what copies name and no record does any more: documents that are gone, by their ids, and
    originals that nobody knows, by the path of the copy; nothing of a type of which records without a document are
    kept.
    """
    for media in plan.selection.types:
        gone, account, copies = plan.gone.get(media.name), plan.account, copies_of(plan.repository, [media])
        if not copies or gone is None or account.pending_deletion is not None:
            continue
        records = plan.records(media)
        named = {record.ref for record in records if record.ref is not None}
        present, known = {record.rkey for record in records}, {document.id for document in plan.documents[media.name]}
        source_of = _sources(plan, media)
        sources = {source_of(copy): copy for copy in copies if copy.collection or copy.ref in plan.entries[media.name]}
        lost = sorted(sources.keys() - known - named)
        if not lost or (named - known and not gone) or documents.is_empty(media):
            continue
        named_documents = [source for source in lost if sources[source].path != source]
        unnamed = [source for source in lost if sources[source].path == source]
        found = gone_from(account, documents.owners(media, named_documents), named_documents)
        found |= {source: RECORD_GONE for source in unnamed if sources[source].source not in present}
        plan.gone[media.name] = {**gone, **found}


def deletions(plan: AccountPlan, made: TypePlan) -> Iterator[Operation]:
    """Deletions of the copies of erased items of one type, once it is decided whose record is whose."""
    media, account, gone = made.media, plan.account, plan.gone.get(made.media.name)
    documents = {document.id: document for document in plan.documents[media.name]}
    copies = copies_of(plan.repository, [media])
    if not copies:
        return
    source_of = _sources(plan, media, made.matches)
    live = [document for document in documents.values() if document.verdict is not Verdict.WITHDRAWN]
    for copy in copies:
        source, reason = source_of(copy), None
        document = documents.get(source)
        if document is not None:
            chosen = document.verdict is Verdict.WITHDRAWN and source in plan.selected[media.name]
            reason = document.reason if chosen else None
        elif gone is not None and account.pending_deletion is not None:
            reason = account.pending_deletion if copy.collection else None
        elif gone is not None and not any(copy.shows(each, by_text=source == copy.path) for each in live):
            reason = gone.get(source)
        if reason is not None:
            item = source if source != copy.path else copy.source or copy.rkey
            yield deletion(media, copy, f"a copy of erased work: {reason}", item)


def deletion(media: MediaType, copy: Copy, reason: str, item: str) -> Operation:
    """The deletion of a copy; `item` is the document it is of, else the key of its original."""
    return Operation(Kind.DELETE_COPY, media, copy.rkey, reason, orphan=item, copy=True)


def of_type(copies: Iterable[Copy], media: MediaType, documents: Container[str | None]) -> list[Copy]:
    """Those of these copies that are of this type, of which there are these documents."""
    return [copy for copy in copies if copy.collection == media.nsid or (not copy.collection and copy.ref in documents)]


def _copy(did: str, rkey: str, cid: str, value: Record) -> Copy | None:
    """A record as a copy; None for one that is none, or whose original is in another repository."""
    uri, collection, ref = (_text(value, name) for name in ("sourceAtUri", "sourceCollection", "sourceRef"))
    source = None
    if uri is not None:
        parts = uri.split("/")
        if len(parts) != 5 or parts[:3] != ["at:", "", did]:
            return None
        collection, source = parts[3:]
    return Copy(rkey, cid, value, collection, source, ref) if source or ref else None


def _text(value: Record, name: str) -> str | None:
    text = value.get(name)
    return text.strip() or None if isinstance(text, str) else None


def _sources(plan: AccountPlan, media: MediaType, matches: Mapping[str, Sequence[str]] = {}) -> Callable[[Copy], str]:
    """Tells the document a copy is of: that of its original as it stands, else the one it names, else the one whose
    record its original was; its own path where nobody knows."""
    did = plan.account.did
    now = {record.rkey: record.ref for record in plan.records(media) if record.ref is not None}
    now |= {rkey: document for document, rkeys in matches.items() for rkey in rkeys}
    links = {each.id: each.link for each in plan.documents[media.name] if each.link is not None}
    then = {link.rkey: id for id, link in links.items() if link.rkey is not None and link.did in (None, did)}
    then |= {each.rkey: each.document for each in plan.entries[media.name].values() if each.rkey and each.did == did}

    def source_of(copy: Copy) -> str:
        key = str(copy.source)
        return now.get(key) or copy.ref or then.get(key) or copy.path

    return source_of
