"""Saved plans: what was shown in a dry run, kept under its hash so that exactly that can be carried out later.

One document a plan in `plans`, its operations in `plan_operations`, at most 1,000 a document, so that neither saving
nor reading a plan holds more of it than that (OPS-6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database

from ac_pipeline.errors import Misconfigured, NotPermitted
from ac_pipeline.items import PlannedOperation
from ac_pipeline.mongo.database import mongo_errors, own_collection, storable, value_of
from ac_pipeline.mongo.ledger.audit import operator_name

LINES = 1_000  # Operations in one document: some 300 KB, far below the 16 MB of a document

KEPT = 50
SHORTEST = 8  # Characters of a hash that name a plan: two of 50 plans share them once in three million times

_ABANDONED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """One plan."""

    hash: str  # sha-256 of its operations
    when: datetime  # When it was made, UTC
    who: str
    # What it is about: `accounts` (Mongo ids, or None for all), `types`, `since`, `until`, `items`, `limit`, `sweep`
    selection: Mapping[str, Any]
    cost: Mapping[str, Any]  # As `sync/costs.py` has it, as JSON
    counts: Mapping[str, int]  # Kind of operation -> how many
    users: int  # How many users have operations; `accounts`: their Mongo ids
    accounts: tuple[str, ...] = ()
    draft: str = ""  # Joins its operations

    @property
    def operations(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> dict[str, object]:
        """As JSON values; Mongo ids of accounts stay inside."""
        selection = {name: value for name, value in self.selection.items() if name != "accounts"}
        named = self.selection.get("accounts")
        return {
            **{name: getattr(self, name) for name in ("hash", "who", "cost", "counts", "users", "operations")},
            "when": self.when.isoformat(),
            "selection": {**selection, "users": "all" if named is None else len(named)},
        }


@dataclass(slots=True)
class Draft:
    """The operations of a plan that is being made; it becomes a plan by `MongoPlans.save`."""

    plans: MongoPlans
    id: str = field(default_factory=lambda: uuid4().hex)
    _lines: list[PlannedOperation] = field(default_factory=list)
    _number: int = 0

    def add(self, line: PlannedOperation) -> None:
        """One more operation; stored with others."""
        self._lines.append(line)
        if len(self._lines) == LINES:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            chunk = {"_id": f"{self.id}:{self._number:06d}", "draft": self.id, "number": self._number}
            stored = {**chunk, "at": self.plans.now(), "lines": [storable(line) for line in self._lines]}
            # Who may only read sees the plan all the same; to save it is refused.
            with suppress(NotPermitted), mongo_errors("save operations of a plan"):
                own_collection(self.plans.database, "plan_operations").insert_one(stored)
            self._lines, self._number = [], self._number + 1


@dataclass(slots=True)
class MongoPlans:
    """The plans in the pipeline's own database, made by the operator `who`; raises Transient without an answer."""

    database: Database[dict[str, Any]]
    who: str | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def draft(self) -> Draft:
        """A new plan's operations."""
        return Draft(self)

    def save(
        self,
        draft: Draft,
        *,
        hash: str,
        selection: Mapping[str, Any],
        cost: Mapping[str, Any],
        counts: Mapping[str, int],
        accounts: tuple[str, ...],
    ) -> SavedPlan:
        """Make a draft the plan of this hash, in place of an equal one, and drop plans beyond the last 50."""
        draft.flush()
        who = operator_name(self.who)
        plan = SavedPlan(hash, self.now(), who, selection, cost, counts, len(accounts), accounts, draft.id)
        stored = storable(plan)
        del stored["hash"]
        with mongo_errors(f"save the plan {hash[:SHORTEST]}"):
            self._plans.replace_one({"_id": hash}, stored, upsert=True)
        self._prune()
        return plan

    def find(self, prefix: str) -> SavedPlan:
        """The plan whose hash begins so; raises Misconfigured for none, several, or fewer than 8 characters."""
        if len(prefix) < SHORTEST or not set(prefix) <= set("0123456789abcdef"):
            raise Misconfigured(f"{prefix!r} names no plan: give {SHORTEST} or more of its hash's hex digits.")
        with mongo_errors("look up a plan"):
            found = list(self._plans.find({"_id": {"$gte": prefix, "$lt": prefix + "g"}}, limit=2))
        if not found:
            raise Misconfigured(f"There is no plan {prefix}: `ac-pipeline plans` lists those that are kept.")
        if len(found) > 1:
            raise Misconfigured(f"More than one plan begins with {prefix}: give more of its hash.")
        return value_of(SavedPlan, found[0], hash=found[0]["_id"])

    def list(self, limit: int = KEPT) -> list[SavedPlan]:
        """The last plans, newest first."""
        with mongo_errors("list the plans"):
            found = self._plans.find({}, sort=[("when", DESCENDING), ("_id", ASCENDING)], limit=limit)
            return [value_of(SavedPlan, stored, hash=stored["_id"]) for stored in found]

    def lines(self, plan: SavedPlan) -> Iterator[PlannedOperation]:
        """Its operations, by user and item; raises Misconfigured if some are gone: it was replaced or dropped."""
        seen = 0
        with mongo_errors("read the operations of a plan"):
            for chunk in self._operations.find({"draft": plan.draft}, sort=[("_id", ASCENDING)], batch_size=1):
                for line in chunk["lines"]:
                    seen += 1
                    yield value_of(PlannedOperation, line)
        if seen != plan.operations:
            raise Misconfigured(
                f"Plan {plan.hash[:SHORTEST]} has {plan.operations} operations and {seen} of them are kept: "
                "make a new plan."
            )

    @property
    def _plans(self) -> Any:
        return own_collection(self.database, "plans")

    @property
    def _operations(self) -> Any:
        return own_collection(self.database, "plan_operations")

    def _prune(self) -> None:
        """Drop plans beyond the last ones, and operations that belong to none, unless they are being saved."""
        drafts = [plan.draft for plan in self.list()]
        with mongo_errors("drop old plans"):
            self._plans.delete_many({"draft": {"$nin": drafts}})
            self._operations.delete_many({"draft": {"$nin": drafts}, "at": {"$lt": self.now() - _ABANDONED}})
