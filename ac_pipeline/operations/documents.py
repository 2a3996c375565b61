"""Lost documents, rebuilt from the records that were made of them.

A record whose document is gone is normally an orphan, which the next sync deletes: between the two a person chooses,
and choosing the document means to do so before any sync. Documents are inserted, never replaced; what is rebuilt
yields the very same record wherever the record was in order, so that a sync then writes nothing. What a record says of
its document is `media/rebuilding.py`; the insertion itself is `mongo/repairs.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import Blocked, InvalidDocument, InvalidRecord, Misconfigured, PipelineError
from ac_pipeline.items import Derived, LedgerEntry, item_id
from ac_pipeline.media.base import Document, Link, MediaType, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.rebuilding import documents, lost_fields
from ac_pipeline.media.times import format_when, read_when
from ac_pipeline.mongo.documents import link_change
from ac_pipeline.operations.rounds import LeftOut, Progress, look_at, unwatched
from ac_pipeline.renditions.renderer import source_key
from ac_pipeline.sync.plan import Existing, existing_records, same_content
from ac_pipeline.sync.record_difference import difference
from ac_pipeline.sync.render import offer
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

CHOICE = (
    "A record without a document is an orphan, and the next sync deletes it: restore documents before any sync, "
    "or let the records go."
)


@dataclass(frozen=True, slots=True)
class Lost:
    """One record whose document is not there.

    Args:
        type: Media type.
        item: `type:ObjectId`, else `type:rkey`.
        user: Partition key of the account.
        uri: The record.
        document: What is inserted; None when it cannot or must not be.
        reason: Why not.
        fields_lost: Fields the document may have had that nobody knows, or that are guessed.
        then: What the next sync does with the record once the document is there; empty for nothing.
    """

    type: str
    item: str
    user: str
    uri: str
    document: Mapping[str, Any] | None = None
    reason: str = ""
    fields_lost: tuple[str, ...] = ()
    then: str = ""

    def to_json(self) -> dict[str, object]:
        """Without the owner's Mongo id, which a slug may begin with."""
        shown = {n: v for n, v in (self.document or {}).items() if n not in {"user", "_id", "atproto", "at"}}
        owner = (self.document or {}).get("user")
        if owner is not None and isinstance(slug := shown.get("slug"), str):
            shown["slug"] = slug.replace(owner, "<owner>")
        return {
            "item": self.item,
            "user": self.user,
            "uri": self.uri,
            "inserts": self.document is not None,
            "reason": self.reason,
            "document": shown if self.document is not None else None,
            "lost": list(self.fields_lost),
            "then": self.then,
        }


@dataclass(slots=True)
class LostCount:
    """What is kept of what was found, or inserted, in many accounts: numbers only (OPS-6).

    Args:
        ready: Partition key -> documents that can be inserted, or were.
        left: Records that cannot give their document back.
        left_out: Who was left alone, and why.
    """

    ready: Counter[str] = field(default_factory=Counter)
    left: int = 0
    left_out: list[LeftOut] = field(default_factory=list)

    def add(self, each: Lost | LeftOut) -> None:
        if isinstance(each, LeftOut):
            self.left_out.append(each)
        elif each.document is None:
            self.left += 1
        else:
            self.ready[each.user] += 1

    @property
    def total(self) -> int:
        return self.ready.total()


def why_not(account: Account) -> str:
    """Why nothing may be rebuilt for an account; empty when it may."""
    if account.leaving:
        return account.leaving
    if account.blocked is not None:
        return account.blocked.message
    return "" if account.did else "it has no account on the PDS"


def find_lost(pipeline: Pipeline, account: Account, selection: Selection) -> list[Lost]:
    """Every record of an account whose document is missing, with the document it would give. Nothing is written.

    Raises:
        Blocked: The account may not be touched, or its repository cannot be read.
        Transient: Something could not be read: a failed read is no missing document.
    """
    refusal = why_not(account)
    if refusal:
        raise account.blocked or Blocked(refusal)
    repository = pipeline.server.read_repository(str(account.did))
    found: list[Lost] = []
    for media in selection.types:
        known = {document.id: document for document in pipeline.documents.stream(account, media)}
        records = [
            each
            for each in existing_records(repository, media)
            if each.ref not in known and (each.ref is not None or same_content(media, each, known.values()) is None)
        ]
        if records:
            found += _Rebuilder(pipeline, account, media).rebuild(records, selection)
    return found


def find_all_lost(
    pipeline: Pipeline, accounts: Sequence[Account], selection: Selection, progress: Progress = unwatched
) -> Iterator[Lost | LeftOut]:
    """What `find_lost` finds in many accounts, and who cannot be looked at. Nothing is written.

    Raises:
        Transient: Something could not be read.
    """
    workers = pipeline.settings.ac_concurrent_users
    for account, found in look_at(accounts, lambda each: find_lost(pipeline, each, selection), workers, progress):
        if isinstance(found, PipelineError):
            yield LeftOut(account.key, found)
        else:
            yield from found


def restore_all(
    pipeline: Pipeline,
    accounts: Sequence[Account],
    selection: Selection,
    found: LostCount,
    confirm: int,
    *,
    why: str = "",
    progress: Progress = unwatched,
) -> Iterator[Lost | LeftOut]:
    """Insert what was found, one account after another; in the audit before it starts.

    Args:
        found: What `find_all_lost` has found in these accounts.
        confirm: How many documents are to be inserted.
        why: The operator's own words, for the audit.

    Yields:
        What was inserted, with its `document`, what was not, with the reason, and who was left alone.

    Raises:
        Misconfigured: Another number of documents than confirmed can be rebuilt; nothing was inserted.
        LeaseHeld: Somebody writes to a repository right now.
    """
    if confirm != found.total:
        raise Misconfigured(f"{found.total} documents can be rebuilt, not {confirm}: nothing was inserted.")
    ready = [account for account in accounts if found.ready[account.key]]
    types, counts = [media.name for media in selection.types], {"documents": found.total}
    inserted = 0
    with pipeline.audit.during("restore-documents", ready, types, why=why, counts=counts) as entry:
        for account in progress(ready, len(ready)):
            try:
                for lost in restore(pipeline, account, selection, found.ready[account.key]):
                    inserted += lost.document is not None
                    yield lost
            except Blocked as error:
                yield LeftOut(account.key, error)
            entry.counts["inserted"] = inserted


def restore(pipeline: Pipeline, account: Account, selection: Selection, most: int) -> Iterator[Lost]:
    """Insert what `find_lost` finds now, at most so many documents, under the lease of the repository.

    Yields:
        What was inserted, with its `document`, and what was not, with the reason.

    Raises:
        Blocked: The account began to leave, or cannot be used any more.
        LeaseHeld: Somebody writes to the repository right now.
    """
    # Asked anew, right before: between the look and now the account may have been scheduled for deletion.
    current = next((each for each in pipeline.accounts.all() if each.id == account.id), None)
    if current is None or current.did != account.did:
        raise Blocked(f"{account.key} is not there any more, or has another repository: look again")
    with pipeline.ledger.lease(str(account.did), pipeline.engine.holder):
        for lost in find_lost(pipeline, current, selection):
            if lost.document is not None and most == 0:
                yield replace(lost, document=None, reason="it was not there when the number was confirmed: look again")
                continue
            done = _insert(pipeline, media_of(selection, lost), lost)
            most -= done.document is not None
            yield done


def media_of(selection: Selection, lost: Lost) -> MediaType:
    return next(media for media in selection.types if media.name == lost.type)


def _insert(pipeline: Pipeline, media: MediaType, lost: Lost) -> Lost:
    if lost.document is None:
        return lost
    taken = pipeline.repairs.conflicts(media, lost.document)
    if taken:
        return replace(lost, document=None, reason="; ".join(taken))
    try:
        if pipeline.repairs.insert(media, lost.document):
            return lost
    except InvalidDocument as error:
        return replace(lost, document=None, reason=error.message)
    return replace(lost, document=None, reason="a document with its id has come in between; it stays as it is")


@dataclass(slots=True)
class _Rebuilder:
    """Rebuilds documents of one account and type."""

    pipeline: Pipeline
    account: Account
    media: MediaType

    def rebuild(self, records: Sequence[Existing], selection: Selection) -> list[Lost]:
        pipeline, media = self.pipeline, self.media
        named = sorted({record.ref for record in records if record.ref is not None})
        owners = pipeline.documents.owners(media, named)
        entries = pipeline.ledger.load(self.account, media)
        found: list[Lost] = []
        rebuilt: list[Document] = []
        for ref in named:
            copies = [record for record in records if record.ref == ref]
            record = self._best(copies, entries.get(ref))
            lost, document = self._one(record, ref, owners, entries.get(ref))
            if lost.document is not None and len(copies) > 1:
                lost = replace(lost, then=f"{lost.then or 'keeps it'}; deletes {len(copies) - 1} more copies")
            found.append(lost)
            rebuilt += [document] if document is not None else []
        nameless = [record for record in records if record.ref is None]
        found += [self._left(record, record.rkey, "its record names no document") for record in nameless]
        if not selection.partial:
            return self._without_twins(found)
        chosen = {item_id(media.name, id) for id in selection.documents(rebuilt)}
        return self._without_twins([lost for lost in found if lost.item in chosen])

    def _best(self, copies: Sequence[Existing], entry: LedgerEntry | None) -> Existing:
        """The copy the pipeline knows, else one with its blobs, else the oldest: the one the sync would keep."""
        known = entry.rkey if entry is not None and entry.did == self.account.did else None
        needed = [blob.name for blob in self.media.blobs]
        return min(copies, key=lambda r: (r.rkey != known, not all(n in r.value for n in needed), r.rkey))

    def _one(
        self, record: Existing, ref: str, owners: Mapping[str, str | None], entry: LedgerEntry | None
    ) -> tuple[Lost, Document | None]:
        if ref in owners:
            return self._left(record, ref, "its document exists and belongs to another account"), None
        if not ObjectId.is_valid(ref) or str(ObjectId(ref)) != ref:
            return self._left(record, ref, f"`ref` is {ref[:40]!r}, which is no ObjectId"), None
        if entry is not None and entry.withdrawn_at is not None:
            since = f"{entry.withdrawn_at:%Y-%m-%d %H:%M} UTC"
            return self._left(
                record, ref, f"its record is to be deleted since {since}; what was removed stays so"
            ), None
        try:
            raw, document, derived = self._choose(record, ref, entry)
        except (InvalidRecord, InvalidDocument) as error:
            return self._left(record, ref, error.message), None
        taken = self.pipeline.repairs.conflicts(self.media, raw)
        if taken:
            return self._left(record, ref, "; ".join(taken)), document
        lost = replace(
            self._left(record, ref, ""),
            document=raw,
            fields_lost=lost_fields(self.media, raw),
            then=self._then(record, document, derived),
        )
        return lost, document

    def _choose(
        self, record: Existing, ref: str, entry: LedgerEntry | None
    ) -> tuple[dict[str, Any], Document, Derived | None]:
        """Of the documents the record may have been made of, the one the ledger saw last, else the first that fits.

        Raises:
            InvalidRecord: The record does not tell enough.
            InvalidDocument: The document could not be published, or its media is gone.
        """
        account, media = self.account, self.media
        owner = None if account.is_guest else account.id
        link = Link(record.rkey, at_uri(str(account.did), media.nsid, record.rkey), record.cid, account.did)
        synced_at = format_when(read_when(self.pipeline.engine.now()) or 0)
        homes = link_change(media, link, synced_at)["$set"]
        user = {} if owner is None else {"user": owner}
        choices = []
        for fields in documents(media, record.value, owner):
            raw = {"_id": ObjectId(ref), **user, **fields, **homes}
            document = interpret(media, raw, account_did=account.did)
            if document.verdict is not Verdict.ELIGIBLE:
                raise InvalidDocument(document.reason)
            choices.append((raw, document))
        if entry is not None:
            choices.sort(key=lambda each: each[1].fingerprint != entry.fingerprint)
        for raw, document in choices:
            if media.recipe is None or self.pipeline.renderer.source(media, document) is not None:
                return raw, document, self._derived(document, entry)
        raise InvalidDocument("its media is not in object storage, at none of the places where it may lie")

    def _derived(self, document: Document, entry: LedgerEntry | None) -> Derived | None:
        """What its record is built from, where that is known without making it."""
        if self.media.recipe is None:
            return Derived()
        known = entry.derived if entry is not None else None
        return known if known is not None and known.key == source_key(self.media.sources(document)) else None

    def _then(self, record: Existing, document: Document, derived: Derived | None) -> str:
        if derived is None:
            return "makes its renditions and compares them"
        wanted = offer(self.pipeline.lexicons, self.media, document, derived)
        if wanted.failure is not None:
            return f"leaves it as it is: {wanted.failure.message}"
        drift = difference(record, wanted)
        return f"updates it in place: {drift}" if drift else ""

    def _left(self, record: Existing, name: str, reason: str) -> Lost:
        uri = at_uri(str(self.account.did), self.media.nsid, record.rkey)
        return Lost(self.media.name, item_id(self.media.name, name), self.account.key, uri, reason=reason)

    @staticmethod
    def _without_twins(found: Sequence[Lost]) -> list[Lost]:
        """Two documents with the same code, or the same program, cannot both come back: the first one does."""
        seen: set[tuple[str, str]] = set()
        kept = []
        for lost in found:
            marks = {
                (name, str((lost.document or {})[name])) for name in ("code", "hash") if name in (lost.document or {})
            }
            twin = sorted(marks & seen)
            seen |= marks
            reason = f"another lost document has the same {twin[0][0]}" if twin else ""
            kept.append(replace(lost, document=None, reason=reason) if twin else lost)
        return kept
