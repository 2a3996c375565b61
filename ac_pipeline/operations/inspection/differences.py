"""Differences: records that somebody else changed or deleted since the pipeline wrote them, and the two ways to settle.

What was written is in the ledger. A sync puts ours back; a person may instead take over theirs, which changes the
document: its fields, or, for a deleted record, the flag with which the platform itself removes an item. No document is
ever deleted (DEL-8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bson import ObjectId

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import Blocked, InvalidDocument, Misconfigured
from ac_pipeline.items import Derived, Finding, LedgerEntry, Record, item_id
from ac_pipeline.media.base import Document, MediaType, Verdict
from ac_pipeline.media.documents import interpret, shared_fields
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
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.planning.plan import Existing, Wanted, difference, existing_records, offer
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
