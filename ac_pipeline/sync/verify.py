"""Verification: every expected record and blob against the repository itself, item by item.

Content is compared, not counted: the expected CID of a record is computed from its document (acceptance, VERIFY-2).
Nothing is written; repairing is what a sync does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import PipelineError
from ac_pipeline.items import item_id
from ac_pipeline.media.base import MediaType
from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.blobs import Use, missing_blobs, uses
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.plan import Kind, Operation, Withheld
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection

_STATES = {
    Kind.CREATE: "missing",
    Kind.UPDATE: "different",
    Kind.RENDER: "missing",
    Kind.DELETE: "extra",
    Kind.DELETE_ORPHAN: "extra",
    Kind.DELETE_DUPLICATE: "duplicate",
    Kind.DELETE_COPY: "extra",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One item that is not as it should be."""

    item: str
    user: str
    state: str
    uri: str | None
    expected_cid: str | None
    found_cid: str | None
    reason: str

    def to_json(self) -> dict[str, object]:
        return {
            "item": self.item,
            "user": self.user,
            "state": self.state,
            "uri": self.uri,
            "expected_cid": self.expected_cid,
            "found_cid": self.found_cid,
            "reason": self.reason,
        }


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
    items: list[Finding] = field(default_factory=list)
    unread: list[tuple[str, PipelineError]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every expected record and blob is there, once, and nothing else is, and everybody could be read."""
        wrong = self.missing + self.extra + self.different + self.duplicates + len(self.unread)
        return not wrong and self.blobs_expected == self.blobs_verified

    def count(self, state: str) -> None:
        name = "duplicates" if state == "duplicate" else state
        setattr(self, name, getattr(self, name) + 1)

    def add(self, other: Verification) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, object]:
        return {
            "users": self.users,
            "expected": self.expected,
            "verified": self.verified,
            "missing": self.missing,
            "extra": self.extra,
            "different": self.different,
            "duplicates": self.duplicates,
            "quarantined": self.quarantined,
            "blocked": self.blocked,
            "blobs": {
                "expected": self.blobs_expected,
                "verified": self.blobs_verified,
                "missing": self.blobs_expected - self.blobs_verified,
            },
            "items": [finding.to_json() for finding in self.items],
            "unread": [{"user": user, "message": error.message} for user, error in self.unread],
        }


def verify(engine: Engine, account: Account, selection: Selection) -> Verification:
    """Compare one account's repository with its documents, and ask for every blob its records refer to and for every
    companion they name or could name.

    Raises:
        Transient: Something could not be read: nothing can be said.
    """
    total = Verification(users=1)
    for found in compare(engine, *engine.survey(account, replace(selection, full=True))).values():
        total.add(found)
    return total


def compare(engine: Engine, plan: AccountPlan, report: AccountReport, *, blobs: bool = True) -> dict[str, Verification]:
    """What a survey amounts to, by type name. No user is counted in it: it is a part of one.

    Args:
        plan, report: Of the survey.
        blobs: Ask for every blob, too; else none is expected.

    Raises:
        Transient: A blob could not be asked for: nothing can be said.
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
    """Verify many accounts at once, in their order.

    Raises:
        ServiceUnreachable: A service is down.
    """

    def failed(account: Account, error: PipelineError) -> Verification:
        return Verification(users=1, unread=[(account.key, unread(account, error))])

    for _, found in for_accounts(
        accounts, lambda account: verify(engine, account, selection), workers, failed, ordered=True
    ):
        yield found


def _record(found: Verification, plan: AccountPlan, operation: Operation) -> None:
    state = _STATES[operation.kind]
    repository = plan.repository
    stored = repository.records.get(operation.path) if repository is not None else None
    if state in {"missing", "different"}:
        found.expected += 1
    found.count(state)
    found.items.append(
        Finding(
            operation.item,
            plan.account.key,
            state,
            at_uri(str(plan.account.did), operation.collection, operation.rkey),
            operation.cid,
            stored,
            operation.reason,
        )
    )


def _withheld(found: Verification, plan: AccountPlan, media: MediaType, withheld: Withheld) -> None:
    user, message = plan.account.key, withheld.failure.message
    if withheld.wanted is None:
        found.extra += 1
        uri = at_uri(str(plan.account.did), media.nsid, withheld.rkey or "")
        found.items.append(Finding(f"{media.name}:{withheld.rkey}", user, "extra", uri, None, None, message))
    elif withheld.wanted.until is None:  # else no record is expected yet
        found.quarantined += 1
        item = item_id(media.name, withheld.wanted.document.id)
        found.items.append(Finding(item, user, "quarantined", None, None, None, message))


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
        item = item_id(use.media.name, use.wanted.document.id)
        found.items.append(_without_blob(plan, use, item))
        if item not in incomplete:
            incomplete.add(item)
            found.verified -= 1


def _without_blob(plan: AccountPlan, use: Use, item: str) -> Finding:
    uri = at_uri(str(plan.account.did), use.media.nsid, use.rkey)
    reason = f"its blob {use.blob.cid} is gone"
    return Finding(item, plan.account.key, "blob-missing", uri, use.wanted.cid, use.cid, reason)
