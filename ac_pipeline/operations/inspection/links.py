"""Links: the state each document and record of an account is in, and how it is healed.

Healing is a sync of exactly the items that need it, under the same lease, planner and writer, so no repair can do what
a sync may not (LINK-8). Matching, keys and survivors are `sync/planning/plan.py`'s, not matched again here. Sources:
design, section 5; acceptance, LINK-1 to LINK-11 and VERIFY-3; historical forms of records: aesthetic-computer facts,
section 7.1.

What is counted. Every document is in exactly one state, and so is every record that no document of this account wants
(an orphan): the states add up to documents plus orphans, always (`Finding` per document and per orphan).

- A document with several faults is in the first of these states: duplicate, crossed, wrong-shape, dangling, unlinked;
  its one repair puts the others right as well, because it goes through the plan of the whole item.
- `linked` is also a document that shall have no record, has none, and has no link: there is nothing to link. Documents
  that cannot become a record are counted here too while they have neither; the sync quarantines them.
- `unlinked` is also an eligible document that was never published; healing leaves it to the sync.
- A link that names a free key while the document's own record lies under another is `unlinked`, not dangling: there is
  a record, and the repair is to write the link.
- The record of a withdrawn document is an orphan of its own; the document beside it is judged by its link alone.
- The content of a record may be out of date under a right link: that is `linked`, and the sync's business, or, where
  somebody else changed it, a difference. Only records that break their lexicon, or have a form that older writers left
  (other fields, other addresses, other blobs, an owner-qualified slug), are wrong-shape.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any, ClassVar, NamedTuple

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import Blocked, InvalidDocument, PipelineError
from ac_pipeline.items import Derived, Finding, Record, item_id
from ac_pipeline.media.base import Document, Link, MediaType, Verdict
from ac_pipeline.operations.declare import FindingCount, LeftOut, Report, Table, Work, declared
from ac_pipeline.operations.parameters import Selected, option, sweep_option, why_option
from ac_pipeline.operations.sync import confirm_sweep, sync_left_out, sync_lines, sync_tables
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts
from ac_pipeline.sync.planning.plan import DOCUMENT_GONE, Existing, Kind, Operation, TypePlan, Wanted, existing_records
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection


class LinkState(StrEnum):
    """The seven states (design, section 5)."""

    LINKED = "linked"
    UNLINKED = "unlinked"
    DANGLING = "dangling"
    CROSSED = "crossed"
    DUPLICATE = "duplicate"
    ORPHAN = "orphan"
    WRONG_SHAPE = "wrong-shape"


class Repair(StrEnum):
    """What puts a state right; the first two need no healing."""

    NOTHING = "nothing"
    PUBLISH = "sync publishes it"
    WRITE_LINK = "write the link"
    RECREATE = "create the record again under the stored key"
    CLEAR_LINK = "clear the link"
    REWRITE_LINK = "rewrite the link"
    OWN_RECORD = "give it a record of its own"
    REDUCE = "keep one copy, delete the others, rewrite the link"
    UPDATE = "update the record under its key"
    DELETE = "delete the record"


DELETING = frozenset({Repair.REDUCE, Repair.DELETE})  # Repairs that remove records

RESTORABLE = (
    "; to keep it instead, run `ac-pipeline restore-documents`, which names the number to confirm, before any sync"
)
"""The choice behind an orphan whose document is gone: the next sync deletes the record, unless the document is back."""


@dataclass(frozen=True, slots=True)
class LinkFinding(Finding):
    """One document, or one record without one, and the state it is in."""

    state: LinkState = LinkState.LINKED
    repair: Repair = Repair.NOTHING
    held: str | None = None  # Why healing leaves it as it is, or None
    document: str | None = None  # Id of the document, where the account has it
    problems: tuple[str, ...] = ()  # Rules of the lexicon that the record breaks (VERIFY-3)
    warnings: tuple[str, ...] = ()  # Fields the lexicon does not declare (REC-5), keys that are no TIDs

    shown: ClassVar = ("item", "user", "state", "repair", "reason", "held", "uris", "problems", "warnings")

    @property
    def repairable(self) -> bool:
        return self.held is None and self.repair not in {Repair.NOTHING, Repair.PUBLISH}


@dataclass(slots=True)
class Examination(FindingCount):
    """What was found in one account, or in many."""

    # Of one account, all that are not simply linked, and linked ones with something to say of their record
    findings: list[LinkFinding] = field(default_factory=list)
    types: set[str] = field(default_factory=set)  # Names of the types in which something can be healed
    deletions: int = 0  # Findings whose repair removes records
    in_order: bool = True  # True if nothing is left to repair, by healing or by a person
    # User and what the plan says of the whole: doubts about the database, types that are on hold
    notes: list[tuple[str, str]] = field(default_factory=list)

    def judged(self, finding: LinkFinding) -> None:
        """Count a finding, and keep it where there is something to say."""
        self.add(finding)
        self.in_order &= finding.repair in {Repair.NOTHING, Repair.PUBLISH}
        if finding.repairable:
            self.types.add(finding.type)
            self.deletions += finding.repair in DELETING
        if finding.repair is not Repair.NOTHING or finding.warnings:
            self.findings.append(finding)

    def left_alone(self, account: Account, error: PipelineError) -> Examination:
        self.left_out.append(LeftOut(account.key, error))
        self.in_order &= isinstance(error, Blocked)
        return self

    def merge(self, other: Examination) -> None:
        """Add what was found in another account, without the findings themselves."""
        for type_, states in other.states.items():
            self.states[type_].update(states)
        self.found.update(other.found)
        self.repairable.update(other.repairable)
        self.left_out += other.left_out
        self.types |= other.types
        self.deletions += other.deletions
        self.in_order &= other.in_order
        self.notes += other.notes

    def rows(self) -> dict[str, dict[str, int]]:
        """Documents, orphans and states of each type, and of all of them under `total`."""

        def row(states: Mapping[str, int]) -> dict[str, int]:
            orphans = states.get(LinkState.ORPHAN, 0)
            counts = {state.value: states.get(state, 0) for state in LinkState}
            return {"documents": sum(states.values()) - orphans, "orphans": orphans, **counts}

        return {**{type_: row(states) for type_, states in self.states.items()}, "total": row(self.total())}

    def to_json(self) -> dict[str, Any]:
        types = self.rows()
        return {
            "types": types,
            "total": types.pop("total"),
            "blocked": [each.to_json() for each in self.left_out],
            "notes": [{"user": user, "note": note} for user, note in self.notes],
        }

    def table(self, name: str, title: str) -> Table:
        table = Table(name, ("type", "documents", "orphans", *map(str, LinkState)), title)
        return table.extend({"type": type_, **row} for type_, row in self.rows().items())


class _Named(Enum):
    """What the key in a link names."""

    NOTHING = auto()
    OWN = auto()
    ANOTHER = auto()  # The record of another document
    ELSEWHERE = auto()  # Something in another repository
    NOWHERE = auto()  # A record that does not exist


_Verdict = tuple[LinkState, Repair, str]


class Judge:
    """Judges one account's documents and all its records of one type, beside what the engine plans for them."""

    def __init__(self, lexicons: Lexicons, user: str, did: str, plan: TypePlan, existing: Iterable[Existing]) -> None:
        self.lexicons, self.user, self.did, self.plan = lexicons, user, did, plan
        self._records = {record.rkey: record for record in existing}
        self._planned: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in plan.operations:
            if operation.document is not None:
                self._planned[operation.document.id].append(operation)
        self._survivors = {kept.wanted.document.id: kept.rkey for kept in plan.kept}
        self._held = {
            each.wanted.document.id: each.failure.message for each in plan.withheld if each.wanted is not None
        }

    def findings(self, wanted: Iterable[Wanted]) -> Iterator[LinkFinding]:
        """One finding for each selected document, then one for each orphan."""
        for each in wanted:
            if not each.skipped:
                yield self._document(each)
        yield from self._orphans()

    def _document(self, wanted: Wanted) -> LinkFinding:
        document, shape = wanted.document, Shape()
        keys = list(self.plan.matches.get(document.id, ()))
        named = self._named(document.link, keys)
        if document.verdict is Verdict.WITHDRAWN:
            state, repair, reason = self._withdrawn(document, named)
        elif not keys:
            state, repair, reason = self._without_record(document, named)
        else:
            survivor = self._survivor(document, keys)
            keys.sort(key=lambda key: key != survivor)
            shape = shape_of(self.lexicons, self.plan.media, self._records[survivor], wanted)
            state, repair, reason = self._with_record(document, named, keys, shape)
        item = item_id(self.plan.media.name, document.id)
        held = self._held.get(document.id) if repair is not Repair.NOTHING else None
        return self._finding(item, (state, repair, reason), keys, shape, document=document.id, held=held)

    def _withdrawn(self, document: Document, named: _Named) -> _Verdict:
        gone, link = f"withdrawn ({document.reason})", document.link
        if named is _Named.OWN:
            return LinkState.LINKED, Repair.NOTHING, f"{gone}: link and record go together"
        if link is None:
            return LinkState.LINKED, Repair.NOTHING, f"{gone}: nothing to link"
        if named in {_Named.ANOTHER, _Named.ELSEWHERE}:
            return LinkState.CROSSED, Repair.CLEAR_LINK, f"{gone}; the link names {self._what(link, named)}"
        rest = "holds no key" if link.rkey is None else f"names {link.rkey}, and there is no such record"
        return LinkState.DANGLING, Repair.CLEAR_LINK, f"{gone}; the link {rest}"

    def _without_record(self, document: Document, named: _Named) -> _Verdict:
        link = document.link
        if link is None or named is _Named.NOTHING:
            if document.verdict is not Verdict.ELIGIBLE:
                return LinkState.LINKED, Repair.NOTHING, f"nothing to link: {document.reason}"
            return LinkState.UNLINKED, Repair.PUBLISH, "never published"
        if named is not _Named.NOWHERE:
            return LinkState.CROSSED, Repair.OWN_RECORD, f"the link names {self._what(link, named)}"
        reason = f"the link names {link.rkey}, and there is no such record"
        planned = self._planned.get(document.id, ())
        create = next((each for each in planned if each.kind in {Kind.CREATE, Kind.RENDER}), None)
        if create is not None and create.rkey != link.rkey:
            reason += f"; that key cannot be used again, the record gets {create.rkey}"
        return LinkState.DANGLING, Repair.RECREATE, reason

    def _with_record(self, document: Document, named: _Named, keys: Sequence[str], shape: Shape) -> _Verdict:
        """`keys` of the document's own records, the one that stays first, and the form of that one."""
        link, crossed = document.link, named in {_Named.ANOTHER, _Named.ELSEWHERE}
        reasons = [f"the link names {self._what(link, named)}"] if link is not None and crossed else []
        reasons += [shape.words] if shape.words else []
        if len(keys) > 1:
            reasons.insert(0, f"{len(keys)} records of it; {keys[0]} stays")
            state, repair = LinkState.DUPLICATE, Repair.REDUCE
        elif crossed:
            state, repair = LinkState.CROSSED, Repair.REWRITE_LINK
        elif shape.words:
            state, repair = LinkState.WRONG_SHAPE, Repair.UPDATE
        elif incomplete := self._incomplete(document, self._records[keys[0]], named):
            reasons.append(incomplete)
            state, repair = LinkState.UNLINKED, Repair.WRITE_LINK
        else:
            state, repair = LinkState.LINKED, Repair.NOTHING
            updates = [op for op in self._planned.get(document.id, ()) if op.kind is Kind.UPDATE]
            reasons += [f"its content {op.reason}: the sync updates it" for op in updates]
        return state, repair, "; ".join(reasons)

    def _incomplete(self, document: Document, record: Existing, named: _Named) -> str:
        """What a link lacks that names the right key, or no other record; empty when it is whole."""
        link = document.link
        if link is None or link.rkey is None:
            return "the record exists, Mongo has no link to it"
        if named is _Named.NOWHERE:
            return f"the record exists, the link names {link.rkey}, which no record has"
        right = Link(record.rkey, at_uri(self.did, self.plan.media.nsid, record.rkey), record.cid, self.did)
        # The CID of a record whose content is out of date is put right when the sync updates it.
        outdated = link.cid is not None and any(op.kind is Kind.UPDATE for op in self._planned.get(document.id, ()))
        names = ("uri", "did") if outdated else ("uri", "cid", "did")
        parts = [name for name in names if getattr(link, name) != getattr(right, name)]
        return f"the link's {', '.join(parts)} is missing or old" if parts else ""

    def _orphans(self) -> Iterator[LinkFinding]:
        """Records that no document wants: their documents are withdrawn, gone, somebody else's or never known."""
        for operation in self.plan.operations:
            if operation.kind is Kind.DELETE and operation.document is not None:
                reason = f"its document is withdrawn ({operation.reason})"
                yield self._orphan(operation.rkey, operation.item, reason, operation.document.id)
            elif operation.kind is Kind.DELETE_ORPHAN:
                choice = RESTORABLE if operation.reason == DOCUMENT_GONE else ""
                yield self._orphan(operation.rkey, operation.item, operation.reason + choice)
        for withheld in self.plan.withheld:
            if withheld.wanted is None and withheld.rkey is not None:
                ref = self._records[withheld.rkey].ref
                item = item_id(self.plan.media.name, ref or withheld.rkey)
                missing = f"names document {ref}, which is not confirmed as gone{RESTORABLE}"
                known = "names no document" if ref is None else missing
                yield self._orphan(withheld.rkey, item, known, held=withheld.failure.message)

    def _orphan(
        self, rkey: str, item: str, reason: str, document: str | None = None, held: str | None = None
    ) -> LinkFinding:
        shape = shape_of(self.lexicons, self.plan.media, self._records[rkey], None)
        return self._finding(
            item, (LinkState.ORPHAN, Repair.DELETE, reason), [rkey], shape, document=document, held=held
        )

    def _finding(
        self, item: str, verdict: _Verdict, keys: Sequence[str], shape: Shape, *, document: str | None, held: str | None
    ) -> LinkFinding:
        state, repair, reason = verdict
        uris = tuple(at_uri(self.did, self.plan.media.nsid, key) for key in keys)
        return LinkFinding(item, self.user, state, reason, repair, uris, held, document, shape.problems, shape.warnings)

    def _named(self, link: Link | None, keys: Sequence[str]) -> _Named:
        if link is None or link.rkey is None:
            return _Named.NOTHING
        if link.did not in (None, self.did):
            return _Named.ELSEWHERE
        if link.rkey in keys:
            return _Named.OWN
        return _Named.ANOTHER if link.rkey in self._records else _Named.NOWHERE

    def _what(self, link: Link, named: _Named) -> str:
        if named is _Named.ELSEWHERE:
            return f"the repository {link.did}"
        ref = self._records[str(link.rkey)].ref
        return f"{link.rkey}, a record of {ref}" if ref else f"{link.rkey}, the record of another document"

    def _survivor(self, document: Document, keys: Sequence[str]) -> str:
        """The record that stays, as the plan has chosen it; of an item that is held back the first match."""
        planned = {op.rkey for op in self._planned.get(document.id, ()) if op.kind in {Kind.UPDATE, Kind.RENDER}}
        return self._survivors.get(document.id) or next((key for key in keys if key in planned), keys[0])


class Shape(NamedTuple):
    """How the form of a record deviates: `problems` break the lexicon, `forms` are what older writers left."""

    problems: tuple[str, ...] = ()
    forms: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Empty for a record that is not wrong-shaped."""
        return "; ".join(filter(None, [self.forms, *self.problems]))


def shape_of(lexicons: Lexicons, media: MediaType, record: Existing, wanted: Wanted | None) -> Shape:
    """The form of a record against its lexicon and, where a document wants it, against what would be written."""
    nsid = media.nsid
    problems = tuple(lexicons.problems(nsid, record.value))
    warnings = [f"`{name}` is not declared" for name in lexicons.undeclared(nsid, record.value)]
    # A key stays what it is, whatever its form: no update can change it.
    warnings += [problem for problem in lexicons.problems(nsid, record.value, record.rkey) if problem not in problems]
    forms = "" if wanted is None else _forms(lexicons, media, record.value, wanted)
    return Shape(problems, forms, tuple(warnings))


def _forms(lexicons: Lexicons, media: MediaType, value: Record, wanted: Wanted) -> str:
    """Fields in a form that is not ours, in words. Without renditions, fields that follow from media are judged by
    their presence, and companions not at all."""
    if wanted.record is not None:
        least = most = wanted.record
        unjudged: set[str] = set()
    elif wanted.unrendered:
        try:
            least = media.build_record(wanted.document, Derived())
            most = media.build_record(wanted.document, Derived(found=frozenset(media.companions(wanted.document))))
        except InvalidDocument:
            return ""
        unjudged = {blob.name for blob in media.blobs}
    else:
        return ""
    lacks = sorted({*least, *unjudged} - value.keys())
    extra = sorted(value.keys() - most.keys() - unjudged)
    rules: Mapping[str, Mapping[str, object]] = lexicons.documents[media.nsid]["defs"]["main"]["record"]["properties"]
    other = sorted(
        name
        for name in most.keys() & value.keys()
        if value[name] != most[name] and _is_form(rules.get(name, {}), name, value[name], wanted.document)
    )
    parts = (("lacks", lacks), ("has extra", extra), ("has another form of", other))
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names)


def _is_form(rule: Mapping[str, object], name: str, found: object, document: Document) -> bool:
    """True if another value of a field is another way to say the same: an address, a blob, a value as stored."""
    return rule.get("type") == "blob" or rule.get("format") == "uri" or found == document.fields.get(name)


def examine(engine: Engine, account: Account, selection: Selection) -> Examination:
    """Judge every selected document of an account and, when none is left out, every orphan. Nothing is written. Raises
    Transient where something could not be read: nothing can be said."""
    plan, report = engine.survey(account, selection)
    found = Examination()
    if plan.repository is None:
        found.notes = [(account.key, note) for note in report.notes]
        return found if report.blocked is None else found.left_alone(account, report.blocked)
    for each in plan.plans:
        name = each.media.name
        records = existing_records(plan.repository, each.media)
        found.states[name].update()  # a type without a document has its row, too
        judge = Judge(engine.lexicons, account.key, plan.repository.did, each, records)
        for finding in judge.findings(plan.wanted[name]):
            found.judged(finding)
    left_alone = {finding.held for finding in found.findings}
    found.notes = [(account.key, note) for note in report.notes if note not in left_alone]
    if report.blocked is not None:  # what is not linked waits for the account
        found.in_order = True
        found.notes.append((account.key, f"blocked: {report.blocked.message}"))
    return found


def heal(engine: Engine, account: Account, selection: Selection, run_id: str) -> AccountReport | None:
    """Repair what `examine` finds now, and nothing else; None when there is nothing to repair. Documents that were
    never published stay so, held-back findings stay as they are. Raises Transient where it could not be examined;
    whatever else can be said of one account is in the report."""
    findings = [finding for finding in examine(engine, account, selection).findings if finding.repairable]
    if not findings:
        return None
    orphans = any(finding.document is None for finding in findings)
    chosen = selection.only(((finding.type, finding.document) for finding in findings), orphans=orphans)
    return engine.sync(account, chosen, run_id)


class LinksParameters(Selected):
    heal: bool = option(False, "Carry out the repairs; a second time does nothing.")
    sweep: int | None = sweep_option()
    why: str = why_option()


@declared("links", "heal_links", "heal_each_user", csv="items")
def run_links(work: Work, parameters: LinksParameters) -> Report:
    """Say the state of every link and record: linked, unlinked, dangling, crossed, duplicate, orphan or wrong-shape.

    Each state has one repair, and is repaired only when that is asked for. The states add up to documents plus
    orphans. An orphan whose document is lost can be kept: run `ac-pipeline restore-documents` before any sync.
    """
    pipeline, accounts = work.pipeline, parameters.accounts(work.pipeline)
    selection = parameters.selection(sweep=parameters.sweep)
    if parameters.heal:
        confirm_sweep(pipeline, accounts, selection, work.run_id)
    seen, items = _examined(work, accounts, selection, "Examining")
    json: dict[str, object] = {**seen.to_json(), "items": items}
    healed, tables = SyncReport(work.run_id), [seen.table("states", "Links"), items]
    if parameters.heal:
        before, started = seen, time.monotonic()
        healed.accounts.extend(_healed(work, accounts, before, selection, parameters.why))
        healed.seconds = time.monotonic() - started
        seen, items = _examined(work, accounts, selection, "Examining again")
        json = {"before": before.to_json(), "after": seen.to_json(), "healed": healed.to_json(), "items": items}
        tables = [
            before.table("states_before", "Links before"),
            *sync_tables(healed),
            seen.table("states", "Links"),
            items,
        ]
    total, again = seen.total(), [each.user for each in healed.accounts if each.error or each.blocked]
    headline = ", ".join(f"{state.value} {total[state]}" for state in LinkState if total[state])
    return Report(
        f"{len(again)} users could not be healed: run this again." if again else headline or "There is no document.",
        json,
        tables,
        {"to_be_deleted": seen.deletions},
        [*(f"{user}: {note}" for user, note in seen.notes), *sync_lines(healed)],
        [*seen.left_out, *sync_left_out(healed)],
        exit_code=0 if healed.clean and seen.in_order else 1,
        failed=bool(again),
    )


def _examined(work: Work, accounts: Sequence[Account], selection: Selection, title: str) -> tuple[Examination, Table]:
    """All accounts examined: their numbers, and a table of what is not simply linked (OPS-6)."""
    seen, columns = Examination(), ("user", "item", "state", "repair", "reason", "held")
    table = Table("items", columns, "Not simply linked", more=("uris", "problems", "warnings"))
    for account, found in work.for_each(title, accounts, lambda each: examine(work.pipeline.engine, each, selection)):
        if isinstance(found, PipelineError):
            seen.left_alone(account, found)
        else:
            seen.merge(found)
            table.extend(finding.to_json() for finding in found.findings)
    return seen, table


def _healed(
    work: Work, accounts: Sequence[Account], before: Examination, selection: Selection, why: str
) -> Iterator[AccountReport]:
    """Heal the accounts that need it; what deletes records is in the audit before it starts. Yields the report of each
    account that had something to heal still."""
    pipeline = work.pipeline
    unhealed = [account for account in accounts if before.repairable[account.key]]
    counts = {"deletions": before.deletions}
    audited = pipeline.audit.during("heal-links", unhealed, sorted(before.types), why=why, counts=counts)
    with audited if before.deletions else nullcontext() as entry:
        deleted = duplicates = 0
        reports: Iterator[tuple[Account, AccountReport | None]] = for_accounts(
            unhealed,
            lambda each: heal(pipeline.engine, each, selection, work.run_id),
            pipeline.settings.ac_concurrent_users,
            lambda each, error: AccountReport(each.key, error=error),
        )
        for _, report in work.watch("Healing")(reports, len(unhealed)):
            if report is None:
                continue
            deleted += sum(tally.deleted for tally in report.types.values())
            duplicates += sum(tally.duplicates_removed for tally in report.types.values())
            yield report
        if entry is not None:
            entry.counts = {"deleted": deleted, "duplicates": duplicates}
