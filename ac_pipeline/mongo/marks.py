"""What the ledger keeps of whole repositories and collections: how the last sync left each repository, which types an
operator put on hold, and what was there when a collection was last looked at.

One small document per repository, account or type. Items are `ledger.py`, who may write at a moment is `leases.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from bson.codec_options import CodecOptions
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ac_pipeline.accounts import Account
from ac_pipeline.items import LastLook, RepositoryMark
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


class LastLooks:
    """What was there at the last look: `{_id: type, ...}` as `LastLook` has it.

    Args:
        database: The pipeline's own database.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._looks = database.get_collection("looks", codec_options=_AWARE)

    def of(self, name: str) -> LastLook:
        """What is remembered under this name; one without `at` when that is nothing."""
        with mongo_errors(f"read the last look at {name}"):
            stored = self._looks.find_one({"_id": name})
        return LastLook(name) if stored is None else LastLook(type=stored.pop("_id"), **stored)

    def keep(self, look: LastLook) -> bool:
        """Keep it in place of the version before it; False when that is not the newest any more."""
        stored = asdict(replace(look, version=look.version + 1))
        stored["_id"] = stored.pop("type")
        with mongo_errors(f"keep the last look at {look.type}"):
            if look.version:
                return bool(self._looks.replace_one({"_id": look.type, "version": look.version}, stored).matched_count)
            try:
                self._looks.insert_one(stored)
            except DuplicateKeyError:
                return False
        return True


def _mark(stored: Mapping[str, Any]) -> RepositoryMark:
    return RepositoryMark(
        did=stored["_id"],
        rev=stored["rev"],
        at=stored["at"],
        settled=stored.get("settled") or {},
        counts=stored.get("counts") or {},
    )
