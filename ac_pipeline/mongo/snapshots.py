"""The index of snapshots: which there are, of whom, and what they hold, in the ledger's database.

One document a snapshot. Its files are `renditions/snapshot_files.py`; taking, checking and using one is
`operations/snapshot.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.codec_options import CodecOptions
from pymongo import DESCENDING
from pymongo.database import Database

from ac_pipeline.errors import Misconfigured
from ac_pipeline.mongo.database import mongo_errors

_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot of one repository.

    Args:
        id: Its name, for people and for `--from`.
        account: Mongo id of the user.
        user: Partition key of the user, when it was taken.
        did: Whose repository.
        when: When it was taken, UTC.
        types: Names of the types whose records it can bring back: those whose blobs it holds.
        commit: CID of the commit.
        repository: sha-256 of its CAR.
        records: Type name -> number of records.
        blobs: Number of blobs.
        bytes: Of the CAR and the blobs together.
        complete: Everything is kept and was read back. Never true before it is.
        previous: An earlier snapshot of the same wipe, which holds what was deleted before this one was taken.
        wipe: How many records the wipe that took it was told to delete; None for one taken by itself.
        open: Whether that wipe has not come to its end.
    """

    id: str
    account: str
    user: str
    did: str
    when: datetime
    types: tuple[str, ...]
    commit: str
    repository: str
    records: Mapping[str, int]
    blobs: int = 0
    bytes: int = 0
    complete: bool = False
    previous: str | None = None
    wipe: int | None = None
    open: bool = False

    def to_json(self) -> dict[str, object]:
        """As JSON values; the account's Mongo id stays inside."""
        values: dict[str, object] = {name: getattr(self, name) for name in self.__slots__ if name != "account"}
        return values | {"when": self.when.isoformat(), "types": list(self.types), "records": dict(self.records)}


class MongoSnapshots:
    """The index on a real database.

    Args:
        database: The pipeline's own (`AC_LEDGER_DATABASE`).
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._collection = database.get_collection("snapshots", codec_options=_AWARE)

    def save(self, snapshot: Snapshot) -> None:
        """Store or replace what is known of a snapshot."""
        stored = {name: getattr(snapshot, name) for name in Snapshot.__slots__ if name != "id"}
        stored |= {"types": list(snapshot.types), "records": dict(snapshot.records)}
        with mongo_errors(f"store the snapshot {snapshot.id}"):
            self._collection.replace_one({"_id": snapshot.id}, stored, upsert=True)

    def get(self, id: str) -> Snapshot:
        """The snapshot of this id.

        Raises:
            Misconfigured: There is none.
        """
        with mongo_errors(f"look up the snapshot {id}"):
            stored = self._collection.find_one({"_id": id})
        if stored is None:
            raise Misconfigured(f"There is no snapshot {id!r}; `ac-pipeline snapshots` lists those there are.")
        return _snapshot(stored)

    def remove(self, id: str) -> None:
        """Forget the snapshot of this id; one that is not there is forgotten already."""
        with mongo_errors(f"forget the snapshot {id}"):
            self._collection.delete_one({"_id": id})

    def find(self, *, account: str | None = None, limit: int | None = None) -> list[Snapshot]:
        """Snapshots, newest first.

        Args:
            account: Mongo id of their user; None for all.
            limit: At most so many, one or more.
        """
        query = {} if account is None else {"account": account}
        with mongo_errors("list the snapshots"):
            found = self._collection.find(query, sort=[("when", DESCENDING), ("_id", DESCENDING)], limit=limit or 0)
            return [_snapshot(stored) for stored in found]


def _snapshot(stored: Mapping[str, Any]) -> Snapshot:
    values = {name: stored[name] for name in Snapshot.__slots__ if name in stored}
    return Snapshot(**{**values, "id": stored["_id"], "types": tuple(stored["types"])})
