"""Lost documents, rebuilt from the records that were made of them.

A record whose document is gone is an orphan, which the next sync deletes, so that documents are restored before any
sync. They are inserted, never replaced, and yield the very same record wherever that was in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import Blocked, InvalidDocument, InvalidRecord
from ac_pipeline.items import Derived, Finding, LedgerEntry, item_id
from ac_pipeline.media.base import Document, Link, MediaType, Verdict
from ac_pipeline.media.documents import documents, interpret, lost_fields
from ac_pipeline.media.registry import media_type
from ac_pipeline.media.times import format_when, read_when
from ac_pipeline.mongo.documents import link_change
from ac_pipeline.operations.declare import (
    FindingCount,
    Report,
    Table,
    Work,
    audited,
    declared,
    findings_report,
    put_right,
    search,
)
from ac_pipeline.operations.parameters import Selected, confirm_option, why_option
from ac_pipeline.renditions.renderer import source_key
from ac_pipeline.sync.planning.plan import Existing, difference, existing_records, offer, same_content, survivor
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

CHOICE = (
    "A record without a document is an orphan, and the next sync deletes it: restore documents before any sync, "
    "or let the records go."
)


@dataclass(frozen=True, slots=True)
class Lost(Finding):
    """One record whose document is not there; `reason` is why it cannot or must not be inserted."""

    document: Mapping[str, Any] | None = None  # What is inserted; None when it cannot or must not be
    lost: tuple[str, ...] = ()  # Fields the document may have had that nobody knows, or that are guessed
    then: str = ""  # What the next sync does with the record once the document is there; empty for nothing

    shown: ClassVar = ("item", "user", "uri", "inserts", "reason", "document", "lost", "then")

    @property
    def repairable(self) -> bool:
        return self.document is not None

    inserts = repairable

    def to_json(self) -> dict[str, object]:
        """Without the owner's Mongo id, which a slug may begin with."""
        shown = {n: v for n, v in (self.document or {}).items() if n not in {"user", "_id", "atproto", "at"}}
        owner = (self.document or {}).get("user")
        if owner is not None and isinstance(slug := shown.get("slug"), str):
            shown["slug"] = slug.replace(owner, "<owner>")
        return Finding.to_json(self) | {"document": shown if self.document is not None else None}


def find_lost(pipeline: Pipeline, account: Account, selection: Selection) -> list[Lost]:
    """Every record of an account whose document is missing, with the document it would give. Nothing is written. Raises
    Blocked (the account may not be touched, or its repository cannot be read), Transient (something could not be read:
    a failed read is no missing document)."""
    if account.pending_deletion or account.blocked or not account.did:
        raise account.blocked or Blocked(account.pending_deletion or "it has no account on the PDS")
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


def restore(pipeline: Pipeline, account: Account, selection: Selection, most: int) -> Iterator[Lost]:
    """Insert what `find_lost` finds now, at most so many documents, under the lease of the repository; yields what was
    inserted, with its `document`, and what was not, with the reason. Raises Blocked where the account began to leave,
    or cannot be used any more; LeaseHeld where somebody writes to the repository right now."""
    # Asked anew, right before: between the look and now the account may have been scheduled for deletion.
    current = {each.id: each for each in pipeline.accounts.all()}.get(account.id)
    if current is None or current.did != account.did:
        raise Blocked(f"{account.key} is not there any more, or has another repository: look again")
    found = put_right(
        pipeline, account, lambda: find_lost(pipeline, current, selection), most, lambda lost: _insert(pipeline, lost)
    )
    for lost, problem in found:
        yield replace(lost, document=None, reason=problem) if problem else lost


def _insert(pipeline: Pipeline, lost: Lost) -> str:
    """Insert the document; why that cannot be, or ""."""
    media, document = media_type(lost.type), lost.document or {}
    taken = pipeline.documents.conflicts(media, document)
    if taken:
        return "; ".join(taken)
    try:
        if pipeline.documents.insert(media, document):
            return ""
    except InvalidDocument as error:
        return error.message
    return "a document with its id has come in between; it stays as it is"


@dataclass(slots=True)
class _Rebuilder:
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
            copies, entry = [record for record in records if record.ref == ref], entries.get(ref)
            known = entry.rkey if entry is not None and entry.did == self.account.did else None
            lost, document = self._one(survivor(media, copies, known), ref, owners, entry)
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

    def _one(
        self, record: Existing, ref: str, owners: Mapping[str, str | None], entry: LedgerEntry | None
    ) -> tuple[Lost, Document | None]:
        if refusal := self._refusal(ref, owners, entry):
            return self._left(record, ref, refusal), None
        try:
            raw, document = self._choose(record, ref, entry)
        except (InvalidRecord, InvalidDocument) as error:
            return self._left(record, ref, error.message), None
        if taken := self.pipeline.documents.conflicts(self.media, raw):
            return self._left(record, ref, "; ".join(taken)), document
        unknown, then = lost_fields(self.media, raw), self._then(record, document, entry)
        return replace(self._left(record, ref, ""), document=raw, lost=unknown, then=then), document

    @staticmethod
    def _refusal(ref: str, owners: Mapping[str, str | None], entry: LedgerEntry | None) -> str:
        if ref in owners:
            return "its document exists and belongs to another account"
        if not ObjectId.is_valid(ref) or str(ObjectId(ref)) != ref:
            return f"`ref` is {ref[:40]!r}, which is no ObjectId"
        if entry is None or entry.withdrawn_at is None:
            return ""
        return f"its record is to be deleted since {entry.withdrawn_at:%Y-%m-%d %H:%M} UTC; what was removed stays so"

    def _choose(self, record: Existing, ref: str, entry: LedgerEntry | None) -> tuple[dict[str, Any], Document]:
        """Of the documents the record may have been made of, the one the ledger saw last, else the first that fits.
        Raises InvalidRecord where the record does not tell enough, InvalidDocument where the document could not be
        published, or its media is gone."""
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
                return raw, document
        raise InvalidDocument("its media is not in object storage, at none of the places where it may lie")

    def _then(self, record: Existing, document: Document, entry: LedgerEntry | None) -> str:
        """What the next sync does with the record, as far as that is known without making its renditions."""
        derived = entry.derived if entry is not None else None
        if self.media.recipe is None:
            derived = Derived()
        elif derived is None or derived.key != source_key(self.media.sources(document)):
            return "makes its renditions and compares them"
        wanted = offer(self.pipeline.lexicons, self.media, document, derived)
        if wanted.failure is not None:
            return f"leaves it as it is: {wanted.failure.message}"
        drift = difference(record, wanted)
        return f"updates it in place: {drift}" if drift else ""

    def _left(self, record: Existing, name: str, reason: str) -> Lost:
        uri = at_uri(str(self.account.did), self.media.nsid, record.rkey)
        return Lost(item_id(self.media.name, name), self.account.key, "missing", reason, uris=(uri,))

    @staticmethod
    def _without_twins(found: Sequence[Lost]) -> list[Lost]:
        """Two documents with the same code, or the same program, cannot both come back: the first one does."""
        seen: set[tuple[str, str]] = set()
        kept = []
        for lost in found:
            document = lost.document or {}
            marks = {(name, str(document[name])) for name in ("code", "hash") if name in document}
            twin = sorted(marks & seen)
            seen |= marks
            reason = f"another lost document has the same {twin[0][0]}" if twin else ""
            kept.append(replace(lost, document=None, reason=reason) if twin else lost)
        return kept


class DocumentsParameters(Selected):
    confirm: int | None = confirm_option("documents")
    why: str = why_option()


_COLUMNS: Final = ("user", "item", "inserts", "reason", "lost", "then")


@declared("restore-documents", "restore_documents", "restore_lost_documents")
def run_restore_documents(work: Work, parameters: DocumentsParameters) -> Report:
    """Rebuild documents that are missing in Mongo from their records. Without a confirmation nothing is written.

    A record without a document is an orphan, which the next sync deletes: run this before any sync, or let it go.
    Only documents that do not exist are inserted, with the record's `ref` as `_id`; none is ever replaced. An item
    whose document is missing is selected by its ObjectId and its user.
    """
    pipeline, accounts, selection = work.pipeline, parameters.accounts(work.pipeline), parameters.selection()
    missing = Table("items", _COLUMNS, "Documents that are missing (nothing was written)")
    found = search(work, "Looking", accounts, lambda each: find_lost(pipeline, each, selection), missing)
    total = found.repairable.total()
    if not parameters.confirms(total):
        confirm, code = total if total or parameters.confirm else None, 1 if found.left else 0
        return _answer(f"{total} documents can be rebuilt.", found, missing, 0, confirm=confirm, exit_code=code)
    results = audited(
        work,
        "Restoring",
        [account for account in accounts if found.repairable[account.key]],
        lambda each: restore(pipeline, each, selection, found.repairable[each.key]),
        lambda lost: lost.inserts,
        action="restore-documents",
        types=selection.types,
        why=parameters.why,
        counts={"documents": total},
        counted_as="inserted",
    )
    restored = Table("items", _COLUMNS, "Restored")
    done = FindingCount(left_out=[*found.left_out])
    for each in results:
        done.add(each, restored)
    inserted = done.repairable.total()
    failed = inserted != total
    headline, code = f"{inserted} of {total} documents were inserted.", 1 if done.left or failed else 0
    return _answer(headline, done, restored, inserted, failed=failed, exit_code=code)


def _answer(headline: str, found: FindingCount, table: Table, inserted: int, **fields: Any) -> Report:
    counts = {"restorable": found.repairable.total(), "inserted": inserted, "left": found.left}
    lines = [f"{found.left} records cannot give theirs back.", CHOICE]
    fields |= {"left_out_as": "refused", "more": {"choice": CHOICE}, "lines": lines}
    return findings_report(headline, counts, table, found.left_out, **fields)
