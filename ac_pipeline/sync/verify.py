"""Verification: every expected record and blob against the repository itself, item by item. Nothing is written.

Content is compared, not counted: the expected CID of a record is computed from its document (acceptance, VERIFY-2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import PipelineError
from ac_pipeline.items import Finding
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.planning.ahead import Ahead, Seen
from ac_pipeline.sync.planning.plan import AccountPlan, Kind, Operation, Withheld
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.writing.blob_repair import missing_blobs, uses

_STATES = {
    **dict.fromkeys((Kind.CREATE, Kind.RENDER), "missing"),
    **dict.fromkeys((Kind.DELETE, Kind.DELETE_ORPHAN, Kind.DELETE_COPY), "extra"),
    Kind.UPDATE: "different",
    Kind.DELETE_DUPLICATE: "duplicate",
}
_REPAIRS = {
    "missing": "a sync writes it",
    "different": "a sync updates it in place",
    "extra": "a sync deletes it, or leaves it alone for the reason given",
    "duplicate": "a sync keeps one and deletes the others",
    "blob-missing": "a sync with `--blobs`, or `blobs: true` in the launchpad, uploads it again",
}


@dataclass(frozen=True, slots=True)
class Compared(Finding):
    """One item that is not as it should be, with the CIDs of the record that is expected and of the one found."""

    expected_cid: str | None = None
    found_cid: str | None = None

    shown: ClassVar = ("item", "user", "state", "uri", "expected_cid", "found_cid", "reason")


@dataclass(slots=True)
class Verification:
    """What was found in some accounts (design, section 6). `unread`: users who could not be verified, and why."""

    users: int = 0
    expected: int = 0
    verified: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    duplicates: int = 0
    quarantined: int = 0
    blocked: int = 0
    blobs_expected: int = 0
    blobs_verified: int = 0
    items: list[Compared] = field(default_factory=list)
    unread: list[tuple[str, PipelineError]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if every expected record and blob is there, once, and nothing else is, and everybody could be read."""
        wrong = self.missing + self.extra + self.different + self.duplicates + len(self.unread)
        return not wrong and self.blobs_expected == self.blobs_verified

    def add(self, other: Verification) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, object]:
        blobs = {"expected": self.blobs_expected, "verified": self.blobs_verified}
        return {
            **{name: getattr(self, name) for name in self.__slots__[: self.__slots__.index("blobs_expected")]},
            "blobs": {**blobs, "missing": self.blobs_expected - self.blobs_verified},
            "items": [finding.to_json() for finding in self.items],
            "unread": [{"user": user, "message": error.message} for user, error in self.unread],
        }


def verify(engine: Engine, account: Account, selection: Selection) -> Verification:
    """Compare one account's repository with its documents, and ask for every blob its records refer to and for every
    companion they name or could name; raises Transient when something could not be read: nothing can be said then.

    What was read of it ahead, less than a minute ago, may say that all is right; if it does not, everything is read
    again, for a sync may have come in between.
    """

    def found(seen: Seen | None) -> Verification:
        total = Verification(users=1)
        for each in compare(engine, *engine.survey(account, replace(selection, full=True), seen=seen)).values():
            total.add(each)
        return total

    seen = engine.ahead.take(account) if engine.ahead is not None else None
    first = found(seen)
    return first if seen is None or first.complete else found(None)


def compare(engine: Engine, plan: AccountPlan, report: AccountReport, *, blobs: bool = True) -> dict[str, Verification]:
    """What a survey, of which plan and report are, amounts to, by type name. No user is counted in it: it is a part of
    one. With `blobs` every blob is asked for, else none is expected; raises Transient when one could not be.
    """
    compared = {name: Verification(blocked=tally.blocked) for name, tally in report.types.items()}
    waiting = {Kind.CREATE, Kind.RENDER} if plan.refusal() is not None else set()  # counted as blocked
    for plans in plan.plans:
        found = compared[plans.media.name]
        found.expected += len(plans.kept)
        found.verified += len(plans.kept)
        for operation in plans.operations:
            if operation.kind in _STATES and operation.kind not in waiting:
                _record(found, plan, operation)
        for withheld in plans.withheld:
            _withheld(found, plan, plans.media, withheld)
    if blobs:
        _blobs(compared, engine, plan)
    return compared


def verify_accounts(
    engine: Engine, accounts: Sequence[Account], selection: Selection, workers: int
) -> Iterator[Verification]:
    """Verify many accounts at once, in their order; raises ServiceUnreachable when a service is down."""
    engine = replace(engine, ahead=Ahead(engine.documents, engine.ledger, engine.server, accounts, selection))

    def failed(account: Account, error: PipelineError) -> Verification:
        return Verification(users=1, unread=[(account.key, unread(account, error))])

    for _, found in for_accounts(
        accounts, lambda account: verify(engine, account, selection), workers, failed, ordered=True
    ):
        yield found


def _record(found: Verification, plan: AccountPlan, operation: Operation) -> None:
    state = _STATES[operation.kind]
    found.expected += state in {"missing", "different"}
    counted = "duplicates" if state == "duplicate" else state
    setattr(found, counted, getattr(found, counted) + 1)
    cids = operation.cid, plan.repository.records.get(operation.path) if plan.repository is not None else None
    uri = at_uri(str(plan.account.did), operation.collection, operation.rkey)
    found.items.append(_compared(plan, operation.item, state, operation.reason, uri, *cids))


def _withheld(found: Verification, plan: AccountPlan, media: MediaType, withheld: Withheld) -> None:
    message = withheld.failure.message
    if withheld.wanted is None:
        found.extra += 1
        uri = at_uri(str(plan.account.did), media.nsid, withheld.rkey or "")
        found.items.append(_compared(plan, f"{media.name}:{withheld.rkey}", "extra", message, uri))
    elif withheld.wanted.until is None:  # else no record is expected yet
        found.quarantined += 1
        found.items.append(_compared(plan, withheld.wanted.item, "quarantined", message))


def _blobs(compared: Mapping[str, Verification], engine: Engine, plan: AccountPlan) -> None:
    needed = list(uses(plan))
    missing = missing_blobs(engine.server, str(plan.account.did), {use.blob.cid for use in needed})
    incomplete: set[str] = set()
    for use in needed:
        found = compared[use.media.name]
        found.blobs_expected += 1
        if use.blob.cid not in missing:
            found.blobs_verified += 1
            continue
        uri, reason = at_uri(str(plan.account.did), use.media.nsid, use.rkey), f"its blob {use.blob.cid} is gone"
        found.items.append(_compared(plan, use.wanted.item, "blob-missing", reason, uri, use.wanted.cid, use.cid))
        found.verified -= use.wanted.item not in incomplete
        incomplete.add(use.wanted.item)


def _compared(plan: AccountPlan, item: str, state: str, reason: str, uri: str = "", *cids: str | None) -> Compared:
    return Compared(item, plan.account.key, state, reason, _REPAIRS.get(state, ""), (uri,) if uri else (), *cids)
