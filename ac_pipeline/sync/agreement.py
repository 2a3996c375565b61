"""What a plan says, line by line; its hash; and the agreement that holds a sync to exactly these lines.

Pure values and one decision: whether an operation is among those that were agreed to. What the lines cost is
`costs.py`; keeping a plan and carrying it out is `operations/flight_plan.py` and `operations/agreed_sync.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from ac_pipeline.sync.account_plan import AccountPlan
from ac_pipeline.sync.plan import Kind, Operation, TypePlan

_OF_A_PROMISE = {Kind.RENDER, Kind.CREATE, Kind.UPDATE, Kind.ADOPT, Kind.HEAL}
"""What may become of an item whose rendition is still to be made: its record is not known before."""


@dataclass(frozen=True, slots=True)
class PlannedOperation:
    """One line of a plan.

    Args:
        user: Partition key.
        fingerprint: Of the document, where the record is not known yet (`render`): what was agreed to is this document.
    """

    item: str
    user: str
    operation: str
    reason: str
    rkey: str
    cid: str | None
    fingerprint: str | None = None

    @property
    def type(self) -> str:
        return self.item.partition(":")[0]

    @property
    def document(self) -> str:
        """ObjectId of its document, else the key of its record."""
        return self.item.partition(":")[2]

    def to_json(self) -> dict[str, object]:
        """As design section 6 has it."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "fingerprint"}


def planned(plans: Iterable[AccountPlan]) -> list[PlannedOperation]:
    """Every operation of these plans, ordered by user and item."""
    lines = [line(plan.account.key, operation) for plan in plans for operation in plan.operations()]
    return sorted(lines, key=lambda each: (each.user, each.item, each.rkey, each.operation))


def line(user: str, operation: Operation) -> PlannedOperation:
    """An operation as a line of a plan."""
    return PlannedOperation(
        operation.item,
        user,
        operation.kind.value,
        operation.reason,
        operation.rkey,
        operation.cid,
        _fingerprint(operation) if operation.kind is Kind.RENDER else None,
    )


class PlanHash:
    """The hash of a plan whose lines come one after another: the same lines always have the same one, whatever their
    reasons are called."""

    def __init__(self) -> None:
        self._digest = sha256(b"[")
        self._first = True

    def add(self, operation: PlannedOperation) -> None:
        content = [operation.user, operation.item, operation.operation, operation.rkey, operation.cid]
        if operation.fingerprint is not None:
            content.append(operation.fingerprint)
        self._digest.update(b"" if self._first else b",")
        self._digest.update(json.dumps(content, separators=(",", ":")).encode())
        self._first = False

    def hexdigest(self) -> str:
        done = self._digest.copy()
        done.update(b"]")
        return done.hexdigest()


def plan_hash(operations: Iterable[PlannedOperation]) -> str:
    """sha-256 (hex) of what would be done."""
    digest = PlanHash()
    for each in operations:
        digest.add(each)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Agreement:
    """Operations that were looked at and agreed to: those of one account.

    An operation is the same when item, kind, key and CID are. Where the record was not known because its rendition was
    to be made, it is the same item under the same key, made from the same document.
    """

    lines: tuple[PlannedOperation, ...]
    _exact: frozenset[tuple[str, str, str, str | None]] = field(init=False, repr=False)
    _promised: frozenset[tuple[str, str, str | None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = [each for each in self.lines if each.fingerprint is None]
        promised = [each for each in self.lines if each.fingerprint is not None]
        exact = frozenset((each.item, each.operation, each.rkey, each.cid) for each in known)
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_promised", frozenset((each.item, each.rkey, each.fingerprint) for each in promised))

    def allows(self, operation: Operation) -> bool:
        """Whether it is one of these."""
        if (operation.item, operation.kind.value, operation.rkey, operation.cid) in self._exact:
            return operation.kind is not Kind.RENDER
        promise = (operation.item, operation.rkey, _fingerprint(operation))
        return operation.kind in _OF_A_PROMISE and promise in self._promised

    def hold(self, plans: Iterable[TypePlan], aside: dict[tuple[str, str], Operation]) -> None:
        """Take everything out of these plans that was not agreed to.

        Duplicates of an item stay as long as anything else about the item is not as it was agreed: what is left of its
        copies then is for a new plan to say.

        Args:
            aside: What was taken out in this run, by kind and path. It is added to, and what is in it stays out.
        """
        for plan in plans:
            for operation in plan.operations:
                if not self.allows(operation):
                    aside[operation.kind.value, operation.path] = operation
            doubtful = {each.item for each in aside.values()}
            kept = []
            for operation in plan.operations:
                out = (operation.kind.value, operation.path) in aside
                if operation.kind is Kind.DELETE_DUPLICATE and operation.item in doubtful:
                    aside[operation.kind.value, operation.path] = operation
                elif not out:
                    kept.append(operation)
            plan.operations = kept


def _fingerprint(operation: Operation) -> str | None:
    return operation.document.fingerprint if operation.document is not None else None
