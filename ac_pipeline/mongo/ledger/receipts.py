"""The receipts: what the last verification of each user found, in the ledger's database.

One document an account, a part of it for each type and aspect that was verified.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pymongo.database import Database

from ac_pipeline.items import Finding
from ac_pipeline.mongo.database import mongo_errors, own_collection, storable, value_of

_BATCH = 500
_WRONG = ("item", "state", "reason", "uri", "repair")
_COUNTS = ("users", "expected", "sound", "unsound", "warnings")


class Aspect(StrEnum):
    """What a verification looks at."""

    RECORDS = "records"
    LINKS = "links"
    LEXICON = "lexicon"
    BLOBS = "blobs"


@dataclass(frozen=True, slots=True)
class Part:
    """One aspect of one type: how many were looked at (`expected`), how many are `sound`, how many are not by state,
    how many have oddities that need no repair, and the first of those that are `wrong`.
    """

    expected: int = 0
    sound: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    warnings: int = 0
    wrong: tuple[Finding, ...] = ()

    @property
    def unsound(self) -> int:
        return sum(self.states.values())


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was found of one account."""

    account: str  # Mongo id of the owner
    user: str  # Its partition key
    did: str | None
    at: datetime  # When its repository was read, UTC
    run_id: str
    parts: Mapping[tuple[str, Aspect], Part] = field(default_factory=dict)  # What was verified
    blocked: str | None = None  # Why nothing could be verified, or None


@dataclass(frozen=True, slots=True)
class Found:
    """A part that is not all right, with whose it is and when it was looked at."""

    user: str
    did: str | None
    type: str
    aspect: Aspect
    at: datetime
    part: Part


@dataclass(frozen=True, slots=True)
class Total:
    """What all receipts together say of one type and aspect; `users`: how many were verified, `oldest`: when the one
    was taken that was taken longest ago, or None.
    """

    users: int = 0
    expected: int = 0
    sound: int = 0
    unsound: int = 0
    warnings: int = 0
    oldest: datetime | None = None


class MongoReceipts:
    """The receipts of all accounts: `{_id: account id, user, did, unsound, parts: {type: {aspect: ...}}}`."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._receipts = own_collection(database, "receipts")

    def save(self, receipt: Receipt) -> None:
        """Keep a receipt; parts of other types and aspects stay as they were. So do all parts of an account that is
        blocked: what was wrong does not become right by being out of reach.
        """
        with mongo_errors(f"keep the receipt of {receipt.user}"):
            stored = self._receipts.find_one({"_id": receipt.account}) or {}
            parts: dict[str, dict[str, Any]] = dict(stored.get("parts") or {})
            for (type_, aspect), part in receipt.parts.items():
                held = {**storable(part), "users": 1, "unsound": part.unsound, "at": receipt.at, "run": receipt.run_id}
                held["wrong"] = [{name: getattr(each, name) for name in _WRONG} for each in part.wrong]
                parts.setdefault(type_, {})[aspect.value] = held
            unsound = sorted(
                f"{type_}.{aspect}" for type_, held in parts.items() for aspect, each in held.items() if each["unsound"]
            )
            kept = {name: getattr(receipt, name) for name in ("user", "did", "at", "blocked")}
            self._receipts.replace_one(
                {"_id": receipt.account}, {**kept, "unsound": unsound, "parts": parts}, upsert=True
            )

    def forget(self, known: Collection[str]) -> None:
        """Drop the receipts of accounts that are none of these ids."""
        with mongo_errors("drop the receipts of accounts that are gone"):
            self._receipts.delete_many({"_id": {"$nin": list(known)}})

    def totals(self, types: Iterable[str]) -> dict[tuple[str, Aspect], Total]:
        """Sums over all accounts, added up by the server: one small answer for any number of users."""
        cells = [(type_, aspect) for type_ in types for aspect in Aspect]
        group: dict[str, Any] = {"_id": None}
        for type_, aspect in cells:
            place = f"$parts.{type_}.{aspect}"
            group |= {f"{type_}_{aspect}_{name}": {"$sum": f"{place}.{name}"} for name in _COUNTS}
            group[f"{type_}_{aspect}_oldest"] = {"$min": f"{place}.at"}
        with mongo_errors("add up the receipts"):
            found = next(iter(self._receipts.aggregate([{"$group": group}])), {})
        return {
            (type_, aspect): Total(
                **{name: found.get(f"{type_}_{aspect}_{name}") or 0 for name in _COUNTS},
                oldest=found.get(f"{type_}_{aspect}_oldest"),
            )
            for type_, aspect in cells
        }

    def unsound(self, types: Collection[str]) -> Iterator[Found]:
        """Every part of these types that is not all right, by user."""
        with mongo_errors("read the receipts"):
            query = {"unsound.0": {"$gt": ""}}
            for stored in self._receipts.find(query, sort=[("user", 1)], batch_size=_BATCH):
                for name in stored["unsound"]:
                    type_, _, aspect = name.partition(".")
                    if type_ in types:
                        held = stored["parts"][type_][aspect]
                        wrong = [_finding(each, stored["user"]) for each in held["wrong"]]
                        part = value_of(Part, held, wrong=wrong)
                        yield Found(stored["user"], stored["did"], type_, Aspect(aspect), held["at"], part)


def _finding(stored: Mapping[str, Any], user: str) -> dict[str, Any]:
    return {**stored, "user": user, "uris": [stored["uri"]] if stored["uri"] else []}
