"""What the ledger keeps of whole repositories: how the last sync left each, and which types an operator put on hold.

One small document per repository or account. Items are `ledger.py`, who may write at a moment is `leases.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bson.codec_options import CodecOptions
from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.items import RepositoryMark
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.database import mongo_errors

_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_BATCH = 5_000
"""Marks an answer holds: those of all 4,200 repositories fit into one."""


class Marks:
    """The marks of repositories: `{_id: did, rev, at, settled, counts}`.

    Args:
        database: The pipeline's own database.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._repositories = database.get_collection("repositories", codec_options=_AWARE)

    def of(self, did: str) -> RepositoryMark | None:
        """How the last sync left this repository; None when none ever reached its end."""
        with mongo_errors(f"read the mark of {did}"):
            stored = self._repositories.find_one({"_id": did})
        return None if stored is None else _mark(stored)

    def all(self) -> dict[str, RepositoryMark]:
        """All marks by DID, without `settled`, which is most of their bytes and says nothing about revisions."""
        with mongo_errors("read the marks of all repositories"):
            found = self._repositories.find({}, {"settled": 0}, batch_size=_BATCH)
            return {stored["_id"]: _mark(stored) for stored in found}

    def remember(self, mark: RepositoryMark) -> None:
        """Keep a mark in place of what was known."""
        stored = {
            "_id": mark.did,
            "rev": mark.rev,
            "at": mark.at,
            "settled": dict(mark.settled),
            "counts": dict(mark.counts),
        }
        with mongo_errors(f"keep the mark of {mark.did}"):
            self._repositories.replace_one({"_id": mark.did}, stored, upsert=True)

    def follow(self, mark: RepositoryMark, since: str) -> None:
        """Move a mark that stands at the revision `since`; the types counted in `mark` are not settled any more."""
        counts = {f"counts.{name}": number for name, number in mark.counts.items()}
        change: dict[str, Any] = {"$set": {"rev": mark.rev, "at": mark.at, **counts}}
        if counts:
            change["$unset"] = {f"settled.{name}": "" for name in mark.counts}
        with mongo_errors(f"move the mark of {mark.did}"):
            self._repositories.update_one({"_id": mark.did, "rev": since}, change)


class Holds:
    """Types that are not mirrored: `{_id: account id, types: {name: reason}}`.

    Args:
        database: The pipeline's own database.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._holds = database["holds"]

    def add(self, account: Account, types: Iterable[MediaType], reason: str) -> None:
        """Put types on hold; a later reason replaces an earlier one."""
        change = {f"types.{media.name}": reason for media in types}
        if change:
            with mongo_errors(f"put {account.key} on hold"):
                self._holds.update_one({"_id": account.id}, {"$set": change}, upsert=True)

    def remove(self, account: Account, types: Iterable[MediaType]) -> None:
        """Release types; those that are not on hold stay as they are."""
        change = {f"types.{media.name}": "" for media in types}
        if change:
            with mongo_errors(f"release the hold on {account.key}"):
                self._holds.update_one({"_id": account.id}, {"$unset": change})

    def of(self, account: Account) -> Mapping[str, str]:
        """Name of each type on hold -> the reason."""
        with mongo_errors(f"read the holds on {account.key}"):
            stored = self._holds.find_one({"_id": account.id})
        return {} if stored is None else dict(stored.get("types") or {})

    def all(self) -> dict[str, dict[str, str]]:
        """The types on hold and their reasons by account id, for the accounts that have any."""
        with mongo_errors("read the holds on all accounts"):
            return {stored["_id"]: dict(stored["types"]) for stored in self._holds.find({}) if stored.get("types")}


def _mark(stored: Mapping[str, Any]) -> RepositoryMark:
    return RepositoryMark(
        did=stored["_id"],
        rev=stored["rev"],
        at=stored["at"],
        settled=stored.get("settled") or {},
        counts=stored.get("counts") or {},
    )
