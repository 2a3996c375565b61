"""Differences: records that somebody else changed or deleted since the pipeline wrote them, and the two ways to settle.

What was written is in the ledger: a record with another CID than it says, or none at all, was touched by others. A sync
takes no notice and puts ours back; a person may instead take over theirs, which changes the document: its fields, or,
for a deleted record, the flag with which the platform itself removes an item. No document is ever deleted (DEL-8).
Pushing ours is a sync of exactly these items, through the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import Blocked, InvalidDocument
from ac_pipeline.items import Derived, LedgerEntry, Record, item_id
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.rebuilding import removal_flag, shared_fields
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.plan import Existing, Wanted, existing_records
from ac_pipeline.sync.record_difference import difference
from ac_pipeline.sync.render import offer
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

CHANGED, DELETED = "changed", "deleted"

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """One item whose record others have touched.

    Args:
        media: Its type.
        user: Partition key.
        document: As it was read.
        kind: `changed` or `deleted`.
        uri: The record as the ledger has it.
        fields: Field -> ours and theirs; a missing one is None.
        changes: What taking over theirs sets in the document; empty where that is not possible.
        refusal: Why it is not.
        left: Fields that differ and follow from the document: the next sync writes ours there.
    """

    media: MediaType
    user: str
    document: Document
    kind: str
    uri: str
    fields: Mapping[str, tuple[object, object]]
    changes: Mapping[str, Any]
    refusal: str = ""
    left: tuple[str, ...] = ()

    @property
    def item(self) -> str:
        return item_id(self.media.name, self.document.id)

    @property
    def push_ours(self) -> str:
        """What pushing ours does."""
        if self.kind == DELETED:
            return "creates the record again"
        return f"updates the record: {', '.join(self.fields)}"

    @property
    def accept_theirs(self) -> str:
        """What taking over theirs does, or why it cannot be done."""
        if self.refusal:
            return f"not possible: {self.refusal}"
        then = f"; a sync then writes {', '.join(self.left)} as it follows from the document" if self.left else ""
        return f"sets {', '.join(self.changes)} of the document{then}"

    def to_json(self) -> dict[str, object]:
        return {
            "item": self.item,
            "user": self.user,
            "code": self.document.code,
            "kind": self.kind,
            "uri": self.uri,
            "fields": {name: {"ours": ours, "theirs": theirs} for name, (ours, theirs) in self.fields.items()},
            "push_ours": self.push_ours,
            "accept_theirs": self.accept_theirs,
        }


def find_differences(engine: Engine, account: Account, selection: Selection) -> list[Difference]:
    """The selected items of an account whose records others have touched. Nothing is written.

    Withdrawn items are none: their record goes, whatever it says. A repository that cannot be read says nothing.

    Raises:
        Blocked: The account cannot be read.
        Transient: Something else could not be read.
    """
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
    """Write ours again: a sync of exactly these items."""
    items = frozenset((each.media.name, each.document.id) for each in differences)
    types = tuple(media for media in selection.types if any(each.media is media for each in differences))
    chosen = replace(selection, types=types, items=items, since=None, until=None, limit=None)
    return engine.sync(account, chosen, run_id)


def accept_theirs(
    pipeline: Pipeline, account: Account, selection: Selection, most: int
) -> Iterator[tuple[Difference, str]]:
    """Take over theirs in at most so many documents, under the lease of the repository, on what is found now.

    Yields:
        Each difference, with why it was not taken over, or "".

    Raises:
        Blocked, Transient: As `find_differences`; LeaseHeld: somebody writes to the repository right now.
    """
    with pipeline.ledger.lease(str(account.did), pipeline.engine.holder):
        for each in find_differences(pipeline.engine, account, selection):
            problem = each.refusal or _obstacle(pipeline, each)
            if not problem and most == 0:
                problem = "it was not there when the number was confirmed: look again"
            if not problem:
                problem = _store(pipeline, each)
                most -= not problem
            yield each, problem


def _obstacle(pipeline: Pipeline, each: Difference) -> str:
    """What only the services know: values that others hold, media that is not there."""
    if each.kind == DELETED:
        return ""
    raw = _changed(each.document, each.changes)
    taken = pipeline.repairs.conflicts(each.media, raw, among=each.changes)
    if taken:
        return "; ".join(taken)
    media_moves = each.media.recipe is not None and {"slug", "code"} & each.changes.keys()
    if media_moves and pipeline.renderer.source(each.media, interpret(each.media, raw)) is None:
        return "object storage has no media under that name"
    return ""


def _store(pipeline: Pipeline, each: Difference) -> str:
    try:
        done = pipeline.repairs.change(each.media, each.document, each.changes)
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
        """The difference of one item; None when its record is as it was written, or as it shall be.

        Args:
            own: The records that are the document's own now.
        """
        document = wanted.document
        if entry.cid is None or entry.rkey is None or entry.did != self.account.did:
            return None  # never written here, or deleted by us
        theirs = self.records.get(entry.rkey) or next(iter(own), None)
        if theirs is None:
            return self.deleted(document, entry.rkey)
        # The link is stored before the ledger, so after a kill it may know more.
        if theirs.cid in {entry.cid, wanted.cid, document.link.cid if document.link is not None else None}:
            return None
        in_order = wanted.record is not None and theirs in own and not difference(theirs, wanted)
        return None if in_order else self.changed(document, theirs, wanted.record)

    def deleted(self, document: Document, rkey: str) -> Difference:
        changes = {removal_flag(self.media): True}
        return Difference(
            self.media, self.account.key, document, DELETED, self._uri(rkey), {"record": ("exists", None)}, changes
        )

    def changed(self, document: Document, theirs: Existing, ours: Record | None) -> Difference:
        fields = self._fields(document, theirs, ours)
        shared = shared_fields(self.media, theirs.value, document.owner)
        follows = {"hash": "source"}  # fields of a document that come with another one
        changes = {name: value for name, value in shared.items() if follows.get(name, name) in fields}
        left = tuple(name for name in fields if name not in changes)
        refusal = self._refusal(document, theirs, changes, left)
        return Difference(
            self.media,
            self.account.key,
            document,
            CHANGED,
            self._uri(theirs.rkey),
            fields,
            {} if refusal else changes,
            refusal,
            left,
        )

    def _fields(self, document: Document, theirs: Existing, ours: Record | None) -> dict[str, tuple[object, object]]:
        """Fields that differ; blobs are left out while it is not known what ours are."""
        unknown: set[str] = set()
        if ours is None:
            unknown = {blob.name for blob in self.media.blobs}
            ours = self.media.build_record(document, Derived(found=frozenset(self.media.companions(document))))
        names = [name for name in dict.fromkeys((*ours, *theirs.value)) if name not in unknown and name != "$type"]
        pairs = {name: (ours.get(name, _ABSENT), theirs.value.get(name, _ABSENT)) for name in names}
        return {
            name: (None if mine is _ABSENT else mine, None if other is _ABSENT else other)
            for name, (mine, other) in pairs.items()
            if mine != other
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

    def _uri(self, rkey: str) -> str:
        return at_uri(str(self.account.did), self.media.nsid, rkey)
