"""The states a link can be in, and which of them each document and record of one account and type is in.

Pure: judges what a plan has found. Matching, keys and survivors are `sync/planner.py`'s; nothing is matched here again.
The form of a record is `record_shape.py`; reading accounts and carrying out repairs is `links.py`. Sources: design,
section 5; acceptance, LINK-1 to LINK-11 and VERIFY-3.

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

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ac_pipeline.atproto.lexicon import Lexicons
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.items import item_id
from ac_pipeline.media.base import Document, Link, Verdict
from ac_pipeline.operations.record_shape import Shape, shape_of
from ac_pipeline.sync.plan import Existing, Kind, Operation, TypePlan, Wanted
from ac_pipeline.sync.reading import DOCUMENT_GONE


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


DELETING = frozenset({Repair.REDUCE, Repair.DELETE})
"""Repairs that remove records."""

RESTORABLE = (
    "; to keep it instead, run `ac-pipeline restore-documents`, which names the number to confirm, before any sync"
)
"""The choice behind an orphan whose document is gone: the next sync deletes the record, unless the document is back."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One document, or one record without one, and the state it is in.

    Args:
        type: Media type.
        item: `type:ObjectId`, of the document or of the one that the record names; else `type:rkey`.
        user: Partition key of the account.
        state: The state.
        repair: Its one repair.
        reason: What was found.
        held: Why healing leaves it as it is, or None.
        document: Id of the document, where the account has it.
        uris: The records concerned, the one that stays first.
        problems: Rules of the lexicon that the record breaks (VERIFY-3).
        warnings: Fields the lexicon does not declare (REC-5), keys that are no TIDs.
    """

    type: str
    item: str
    user: str
    state: LinkState
    repair: Repair
    reason: str = ""
    held: str | None = None
    document: str | None = None
    uris: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def heals(self) -> bool:
        """Whether healing changes something."""
        return self.held is None and self.repair not in {Repair.NOTHING, Repair.PUBLISH}

    def to_json(self) -> dict[str, object]:
        left_out = {"document", "type"}
        values = {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


class _Named(StrEnum):
    """What the key in a link names."""

    NOTHING = "nothing"
    OWN = "its own record"
    ANOTHER = "the record of another document"
    ELSEWHERE = "another repository"
    NOWHERE = "a record that does not exist"


@dataclass(slots=True)
class Judge:
    """Judges one account's documents and records of one type.

    Args:
        lexicons: What records must satisfy.
        user: Partition key of the account.
        did: The repository.
        plan: What the engine plans for this type.
        existing: All its records.
    """

    lexicons: Lexicons
    user: str
    did: str
    plan: TypePlan
    existing: Iterable[Existing]
    _records: dict[str, Existing] = field(default_factory=dict)
    _planned: dict[str, list[Operation]] = field(default_factory=dict)
    _survivors: dict[str, str] = field(default_factory=dict)
    _held: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._records = {record.rkey: record for record in self.existing}
        planned: defaultdict[str, list[Operation]] = defaultdict(list)
        for operation in self.plan.operations:
            if operation.document is not None:
                planned[operation.document.id].append(operation)
        self._planned = dict(planned)
        self._survivors = {kept.wanted.document.id: kept.rkey for kept in self.plan.kept}
        for withheld in self.plan.withheld:
            if withheld.wanted is not None:
                self._held[withheld.wanted.document.id] = withheld.failure.message

    def findings(self, wanted: Iterable[Wanted]) -> Iterator[Finding]:
        """One finding for each selected document, then one for each orphan."""
        for each in wanted:
            if not each.skipped:
                yield self._document(each)
        yield from self._orphans()

    # ------------------------------------------------------------------------------------------------------ documents

    def _document(self, wanted: Wanted) -> Finding:
        document = wanted.document
        keys = self.plan.matches.get(document.id, ())
        named = self._named(document.link, keys)
        if document.verdict is Verdict.WITHDRAWN:
            return self._withdrawn(document, named, keys)
        if not keys:
            return self._without_record(wanted, named)
        survivor = self._survivor(document, keys)
        return self._with_record(wanted, named, [survivor, *(key for key in keys if key != survivor)])

    def _withdrawn(self, document: Document, named: _Named, keys: Sequence[str]) -> Finding:
        gone = f"withdrawn ({document.reason})"
        link = document.link
        if named is _Named.OWN:
            return self._of(
                document, LinkState.LINKED, Repair.NOTHING, f"{gone}: link and record go together", keys=keys
            )
        if link is None:
            return self._of(document, LinkState.LINKED, Repair.NOTHING, f"{gone}: nothing to link", keys=keys)
        if named in {_Named.ANOTHER, _Named.ELSEWHERE}:
            reason = f"{gone}; the link names {self._what(link, named)}"
            return self._of(document, LinkState.CROSSED, Repair.CLEAR_LINK, reason, keys=keys)
        rest = "holds no key" if link.rkey is None else f"names {link.rkey}, and there is no such record"
        return self._of(document, LinkState.DANGLING, Repair.CLEAR_LINK, f"{gone}; the link {rest}", keys=keys)

    def _without_record(self, wanted: Wanted, named: _Named) -> Finding:
        document, link = wanted.document, wanted.document.link
        if link is None or named is _Named.NOTHING:
            if document.verdict is not Verdict.ELIGIBLE:
                return self._of(document, LinkState.LINKED, Repair.NOTHING, f"nothing to link: {document.reason}")
            return self._of(document, LinkState.UNLINKED, Repair.PUBLISH, "never published")
        if named is _Named.NOWHERE:
            reason = f"the link names {link.rkey}, and there is no such record"
            create = next(
                (op for op in self._planned.get(document.id, ()) if op.kind in {Kind.CREATE, Kind.RENDER}), None
            )
            if create is not None and create.rkey != link.rkey:
                reason += f"; that key cannot be used again, the record gets {create.rkey}"
            return self._of(document, LinkState.DANGLING, Repair.RECREATE, reason)
        reason = f"the link names {self._what(link, named)}"
        return self._of(document, LinkState.CROSSED, Repair.OWN_RECORD, reason)

    def _with_record(self, wanted: Wanted, named: _Named, keys: Sequence[str]) -> Finding:
        """`keys` of the document's own records, the one that stays first."""
        document, link, record = wanted.document, wanted.document.link, self._records[keys[0]]
        shape = shape_of(self.lexicons, self.plan.media, record, wanted)
        reasons = []
        if link is not None and named in {_Named.ANOTHER, _Named.ELSEWHERE}:
            reasons.append(f"the link names {self._what(link, named)}")
        if shape.wrong:
            reasons.append(shape.words)
        if len(keys) > 1:
            reasons.insert(0, f"{len(keys)} records of it; {keys[0]} stays")
            state, repair = LinkState.DUPLICATE, Repair.REDUCE
        elif named in {_Named.ANOTHER, _Named.ELSEWHERE}:
            state, repair = LinkState.CROSSED, Repair.REWRITE_LINK
        elif shape.wrong:
            state, repair = LinkState.WRONG_SHAPE, Repair.UPDATE
        elif incomplete := self._incomplete(document, record, named):
            reasons.append(incomplete)
            state, repair = LinkState.UNLINKED, Repair.WRITE_LINK
        else:
            state, repair = LinkState.LINKED, Repair.NOTHING
            reasons += [
                f"its content {op.reason}: the sync updates it"
                for op in self._planned.get(document.id, ())
                if op.kind is Kind.UPDATE
            ]
        return self._of(document, state, repair, "; ".join(reasons), keys=keys, shape=shape)

    def _incomplete(self, document: Document, record: Existing, named: _Named) -> str:
        """What a link lacks that names the right key, or no other record; empty when it is whole."""
        link = document.link
        if link is None or link.rkey is None:
            return "the record exists, Mongo has no link to it"
        if named is _Named.NOWHERE:
            return f"the record exists, the link names {link.rkey}, which no record has"
        right = Link(record.rkey, at_uri(self.did, self.plan.media.nsid, record.rkey), record.cid, self.did)
        # The CID of a record whose content is out of date is settled when the sync updates it.
        outdated = link.cid is not None and any(op.kind is Kind.UPDATE for op in self._planned.get(document.id, ()))
        parts = [
            n for n in ("uri", "cid", "did") if getattr(link, n) != getattr(right, n) and (n, outdated) != ("cid", True)
        ]
        return f"the link's {', '.join(parts)} is missing or old" if parts else ""

    # -------------------------------------------------------------------------------------------------------- records

    def _orphans(self) -> Iterator[Finding]:
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
    ) -> Finding:
        shape = shape_of(self.lexicons, self.plan.media, self._records[rkey], None)
        uris = (at_uri(self.did, self.plan.media.nsid, rkey),)
        return Finding(
            self.plan.media.name,
            item,
            self.user,
            LinkState.ORPHAN,
            Repair.DELETE,
            reason,
            held,
            document,
            uris,
            shape.problems,
            shape.warnings,
        )

    # ---------------------------------------------------------------------------------------------------------- inner

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

    def _of(
        self,
        document: Document,
        state: LinkState,
        repair: Repair,
        reason: str,
        *,
        keys: Sequence[str] = (),
        shape: Shape | None = None,
    ) -> Finding:
        media = self.plan.media
        return Finding(
            media.name,
            item_id(media.name, document.id),
            self.user,
            state,
            repair,
            reason,
            self._held.get(document.id) if repair is not Repair.NOTHING else None,
            document.id,
            tuple(at_uri(self.did, media.nsid, key) for key in keys),
            shape.problems if shape else (),
            shape.warnings if shape else (),
        )
