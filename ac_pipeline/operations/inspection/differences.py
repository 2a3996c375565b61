"""Differences: records that somebody else changed or deleted since the pipeline wrote them, and the two ways to settle.

What was written is in the ledger. A sync puts ours back; a person may instead take over theirs, which changes the
document: its fields, or, for a deleted record, the flag with which the platform itself removes an item. No document is
ever deleted (DEL-8).

Also lost documents, rebuilt from the records that were made of them. A record whose document is gone is an orphan,
which the next sync deletes, so that documents are restored before any sync. They are inserted, never replaced, and
yield the very same record wherever that was in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import Blocked, InvalidDocument, InvalidRecord, Misconfigured
from ac_pipeline.items import Derived, Finding, LedgerEntry, Record, item_id
from ac_pipeline.media.base import Document, Link, MediaType, Verdict
from ac_pipeline.media.documents import documents, interpret, lost_fields, shared_fields
from ac_pipeline.media.registry import media_type
from ac_pipeline.media.times import format_when, read_when
from ac_pipeline.mongo.documents import link_change
from ac_pipeline.operations.declare import (
    FindingCount,
    LeftOut,
    Report,
    Table,
    Work,
    audited,
    declared,
    findings_report,
    put_right,
    search,
)
from ac_pipeline.operations.parameters import Selected, confirm_option, option, why_option
from ac_pipeline.operations.sync import sync_left_out, sync_lines, sync_tables
from ac_pipeline.renditions.renderer import source_key
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.planning.plan import Existing, Wanted, difference, existing_records, offer, same_content, survivor
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

CHANGED, DELETED = "changed", "deleted"

_CELL: Final = 60  # Characters of a value in a table; JSON has all


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Finding):
    """One item whose record others have touched; `state` is `changed` or `deleted`, `reason` why theirs cannot be taken
    over."""

    media: MediaType
    document: Document  # As it was read
    fields: Mapping[str, tuple[object, object]]  # Field -> ours and theirs; a missing one is None
    # What taking over theirs sets in the document; empty where that is not possible
    changes: Mapping[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()  # Fields that differ and follow from the document: the next sync writes ours there

    @property
    def repairable(self) -> bool:
        """True if theirs can be taken over."""
        return not self.reason

    def to_json(self) -> dict[str, object]:
        """`push_ours` and `accept_theirs` say what that does, or why not; `ours` and `theirs` are short."""
        deleted, then = self.state == DELETED, ""
        if self.left:
            then = f"; a sync then writes {', '.join(self.left)} as it follows from the document"
        sets = f"sets {', '.join(self.changes)} of the document{then}"
        return {
            "item": self.item,
            "user": self.user,
            "code": self.document.code,
            "kind": self.state,
            "uri": self.uri,
            "fields": {name: {"ours": ours, "theirs": theirs} for name, (ours, theirs) in self.fields.items()},
            "push_ours": "creates the record again" if deleted else f"updates the record: {', '.join(self.fields)}",
            "accept_theirs": f"not possible: {self.reason}" if self.reason else sets,
            "ours": "exists" if deleted else self._cell(0),
            "theirs": "deleted" if deleted else self._cell(1),
        }

    def _cell(self, side: int) -> str:
        texts = {name: "(none)" if pair[side] is None else str(pair[side]) for name, pair in self.fields.items()}
        short = {name: text if len(text) <= _CELL else text[: _CELL - 1] + "…" for name, text in texts.items()}
        return "; ".join(f"{name}: {text}" for name, text in short.items())


def find_differences(engine: Engine, account: Account, selection: Selection) -> list[Difference]:
    """The selected items of an account whose records others have touched. Nothing is written.

    Withdrawn items are none: their record goes, whatever it says. A repository that cannot be read says nothing. Raises
    Blocked (the account cannot be read), Transient (something else could not be read)."""
    plan, report = engine.survey(account, selection)
    if plan.repository is None:
        raise report.blocked or Blocked("; ".join(report.notes) or f"{account.key} cannot be read")
    found = []
    for each in plan.plans:
        records = {record.rkey: record for record in existing_records(plan.repository, each.media)}
        entries = plan.entries[each.media.name]
        comparer = _Comparer(engine, each.media, account, records)
        for wanted in plan.wanted[each.media.name]:
            entry = entries.get(wanted.document.id)
            if wanted.skipped or wanted.document.verdict is not Verdict.ELIGIBLE or entry is None:
                continue
            own = [records[key] for key in each.matches.get(wanted.document.id, ())]
            one = comparer.compare(wanted, entry, own)
            found += [one] if one is not None else []
    return found


def push_ours(
    engine: Engine, account: Account, selection: Selection, differences: Sequence[Difference], run_id: str
) -> AccountReport:
    return engine.sync(account, selection.only((each.media.name, each.document.id) for each in differences), run_id)


def accept_theirs(
    pipeline: Pipeline, account: Account, selection: Selection, most: int
) -> Iterator[tuple[Difference, str]]:
    """Take over theirs in at most so many documents, on what is found now; yields and raises as `put_right` and
    `find_differences` do."""
    return put_right(
        pipeline,
        account,
        lambda: find_differences(pipeline.engine, account, selection),
        most,
        lambda each: _take_over(pipeline, each),
    )


def _take_over(pipeline: Pipeline, each: Difference) -> str:
    """Store theirs; why that cannot be, or "". Only services know of values that others hold, and of missing media."""
    raw = _changed(each.document, each.changes)
    if each.state != DELETED:
        if taken := pipeline.documents.conflicts(each.media, raw, among=each.changes):
            return "; ".join(taken)
        media_moves = each.media.recipe is not None and {"slug", "code"} & each.changes.keys()
        if media_moves and pipeline.renderer.source(each.media, interpret(each.media, raw)) is None:
            return "object storage has no media under that name"
    try:
        done = pipeline.documents.change(each.media, each.document, each.changes)
    except InvalidDocument as error:
        return error.message
    return "" if done else "the document changed in between: look again"


def _changed(document: Document, changes: Mapping[str, Any]) -> dict[str, Any]:
    owner = {} if document.owner is None else {"user": document.owner}
    return {"_id": ObjectId(document.id), **document.fields, **owner, **changes}


@dataclass(frozen=True, slots=True)
class _Comparer:
    engine: Engine
    media: MediaType
    account: Account
    records: Mapping[str, Existing]

    def compare(self, wanted: Wanted, entry: LedgerEntry, own: Sequence[Existing]) -> Difference | None:
        """The difference of one item, whose own records are `own` now; None when its record is as it was written, or as
        it shall be."""
        document = wanted.document
        if entry.cid is None or entry.rkey is None or entry.did != self.account.did:
            return None  # never written here, or deleted by us
        theirs = self.records.get(entry.rkey) or next(iter(own), None)
        if theirs is None:
            fields, flag = {"record": ("exists", None)}, {self.media.removed_by: True}
            return self._of(document, DELETED, entry.rkey, "", fields=fields, changes=flag)
        # The link is stored before the ledger, so after a kill it may know more.
        if theirs.cid in {entry.cid, wanted.cid, document.link.cid if document.link is not None else None}:
            return None
        in_order = wanted.record is not None and theirs in own and not difference(theirs, wanted)
        return None if in_order else self.changed(document, theirs, wanted.record)

    def changed(self, document: Document, theirs: Existing, ours: Record | None) -> Difference:
        fields = self._fields(document, theirs, ours)
        shared = shared_fields(self.media, theirs.value, document.owner)
        follows = {"hash": "source"}  # fields of a document that come with another one
        changes = {name: value for name, value in shared.items() if follows.get(name, name) in fields}
        left = tuple(name for name in fields if name not in changes)
        refusal = self._refusal(document, theirs, changes, left)
        changes = {} if refusal else changes
        return self._of(document, CHANGED, theirs.rkey, refusal, fields=fields, changes=changes, left=left)

    def _of(self, document: Document, state: str, rkey: str, refusal: str, **parts: Any) -> Difference:
        item, uri = item_id(self.media.name, document.id), at_uri(str(self.account.did), self.media.nsid, rkey)
        return Difference(
            item, self.account.key, state, refusal, uris=(uri,), media=self.media, document=document, **parts
        )

    def _fields(self, document: Document, theirs: Existing, ours: Record | None) -> dict[str, tuple[object, object]]:
        """Fields that differ; blobs are left out while it is not known what ours are."""
        unknown: set[str] = set()
        if ours is None:
            unknown = {blob.name for blob in self.media.blobs}
            ours = self.media.build_record(document, Derived(found=frozenset(self.media.companions(document))))
        return {
            name: (ours.get(name), theirs.value.get(name))
            for name in dict.fromkeys((*ours, *theirs.value))
            if name not in {*unknown, "$type"}
            and not (name in ours and name in theirs.value and ours[name] == theirs.value[name])
        }

    def _refusal(self, document: Document, theirs: Existing, changes: Mapping[str, Any], left: Sequence[str]) -> str:
        """Why theirs cannot become the document, as far as that can be told without asking anybody."""
        if theirs.ref is not None and theirs.ref != document.id:
            return f"the record names another document, {theirs.ref}"
        if not changes:
            return f"the document holds no {' and no '.join(left) or 'blob'}, so there is nowhere to store it"
        would_be = interpret(self.media, _changed(document, changes), account_did=self.account.did)
        if would_be.verdict is not Verdict.ELIGIBLE:
            return would_be.reason
        if self.media.recipe is None:
            failure = offer(self.engine.lexicons, self.media, would_be, Derived()).failure
            return failure.message if failure is not None else ""
        return ""


class DifferencesParameters(Selected):
    push_ours: bool = option(False, "Write ours again, for exactly these items.")
    accept_theirs: bool = option(False, "Take theirs over into the documents.")
    confirm: int | None = confirm_option("items that are to be settled")
    why: str = why_option()


@declared("differences", "settle_differences", "settle_each_difference")
def run_differences(work: Work, parameters: DifferencesParameters) -> Report:
    """Show records that somebody else changed or deleted since the pipeline wrote them, with ours and theirs, and
    the two ways to settle that.

    Without a choice nothing is written; a sync puts ours back. Taking theirs over changes fields of the documents,
    and for a deleted record sets the flag with which the platform removes an item; it never deletes a document.
    Either choice needs users or items, and the number of items.
    """
    pipeline, selection = work.pipeline, parameters.selection()
    if parameters.push_ours and parameters.accept_theirs:
        raise Misconfigured("Choose either ours or theirs; nothing was done.")
    chosen = parameters.push_ours or parameters.accept_theirs
    if chosen and parameters.everybody:
        raise Misconfigured("Say whose items are to be settled: name users, the guest, or items.")
    columns = ("user", "item", "kind", "ours", "theirs", "push_ours", "accept_theirs")
    accounts, table = parameters.accounts(pipeline), Table("items", columns)
    found = search(work, "Comparing", accounts, lambda each: find_differences(pipeline.engine, each, selection), table)
    total, acceptable = found.found.total(), found.repairable.total()
    number = acceptable if parameters.accept_theirs else total
    if not (chosen and parameters.confirms(number)):
        return findings_report(
            f"{total} differences; theirs can be taken over for {acceptable}. A sync puts ours back.",
            {"differences": total, "acceptable": acceptable},
            table,
            found.left_out,
            confirm=number if chosen else None,
            exit_code=2 if chosen else 1 if total else 0,
        )
    touched = [account for account in accounts if found.found[account.key]]
    carry_out = _push_all if parameters.push_ours else _accept_all
    return carry_out(work, touched, selection, found, parameters.why)


def _push_all(work: Work, accounts: Sequence[Account], selection: Selection, found: FindingCount, why: str) -> Report:
    """Write ours again, of each account at most as many items as were confirmed."""
    engine, report, total = work.pipeline.engine, SyncReport(work.run_id), found.found.total()

    def push(account: Account) -> Iterator[AccountReport]:
        try:
            again = find_differences(engine, account, selection)[: found.found[account.key]]
        except Blocked as error:
            yield AccountReport(account.key, blocked=error)
            return
        yield push_ours(engine, account, selection, again, work.run_id) if again else AccountReport(account.key)

    results = audited(
        work,
        "Pushing",
        accounts,
        push,
        lambda each: sum(tally.written for tally in each.types.values()),
        action="push-ours",
        types=selection.types,
        why=why,
        counts={"items": total},
        counted_as="written",
    )
    report.accounts.extend(each for each in results if isinstance(each, AccountReport))
    pushed = sum(tally.written for tally in report.totals().values())
    clean = report.clean and not any(each.blocked for each in report.accounts)
    return Report(
        f"{pushed} of {total} records are ours again.",
        {"pushed": pushed, "report": report.to_json(), "items": []},
        sync_tables(report),
        {"pushed": pushed},
        sync_lines(report),
        [*found.left_out, *sync_left_out(report)],
        exit_code=0 if clean else 1,
        failed=not clean,
    )


def _accept_all(work: Work, accounts: Sequence[Account], selection: Selection, found: FindingCount, why: str) -> Report:
    """Take over theirs, of each account in at most as many documents as were confirmed."""
    number, done, left_out = found.repairable.total(), 0, list[LeftOut]()
    table = Table("items", ("user", "item", "kind", "accept_theirs", "outcome"), "Theirs")
    results = audited(
        work,
        "Accepting",
        accounts,
        lambda each: accept_theirs(work.pipeline, each, selection, found.repairable[each.key]),
        lambda taken: not taken[1],
        action="accept-theirs",
        types=selection.types,
        why=why,
        counts={"items": number},
        counted_as="accepted",
    )
    for taken in results:
        if isinstance(taken, LeftOut):
            left_out.append(taken)
            continue
        each, problem = taken
        row = {name: value for name, value in each.to_json().items() if name not in {"ours", "theirs"}}
        table.add(row | {"outcome": problem or "taken over"})
        done += not problem
    return findings_report(
        f"{done} documents changed, {table.count - done} left as they are. The next sync settles links and ledger.",
        {"accepted": done, "left": table.count - done},
        table,
        [*found.left_out, *left_out],
        exit_code=int(done != number),
        failed=done != number,
    )


# ------------------------------------------------------------------------------------------------------ lost documents

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
