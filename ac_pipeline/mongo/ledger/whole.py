"""The ledger as a whole: the version of its form, and copies of it as text. Its parts are the other modules'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, Final

from bson import json_util
from pymongo.database import Database

from ac_pipeline.errors import Misconfigured, NotPermitted
from ac_pipeline.mongo.database import mongo_errors

Migration = Callable[[Database[dict[str, Any]]], object]

MIGRATIONS: Final[tuple[Migration, ...]] = (lambda database: None,)
"""The n-th brings a ledger of version n-1 to version n. Each may be repeated, and leaves what older runs, which still
go on while machines are restarted one by one, can read. Ledgers from before there were versions are of version 0; the
first has nothing to change in them."""
_VERSION, _ID = "schema", "ledger"
_LEFT_OUT: Final = frozenset({_VERSION, "leases", "sessions", "provisioning"})  # Of a copy: of the moment, or secret
_BATCH = 1_000


def bring_up_to_date(database: Database[dict[str, Any]], migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Carry out the migrations that a ledger has not had yet. Users who may only read leave it as it is. Raises
    Misconfigured when a newer version of the pipeline has written it.
    """
    with mongo_errors("read the version of the ledger"):
        version = (database[_VERSION].find_one({"_id": _ID}) or {}).get("version", 0)
    if version > len(migrations):
        raise Misconfigured(
            f"The ledger {database.name} is of version {version}, and this pipeline knows version {len(migrations)}: "
            "a newer pipeline has written it. Upgrade this one."
        )
    with suppress(NotPermitted), mongo_errors("bring the ledger up to date"):
        for number, migration in enumerate(migrations[version:], start=version + 1):
            migration(database)
            database[_VERSION].update_one({"_id": _ID}, {"$max": {"version": number}}, upsert=True)


def export_ledger(database: Database[dict[str, Any]]) -> Iterator[str]:
    """A copy, line by line: MongoDB's Extended JSON, without leases, sessions and the passwords of accounts that are
    being made or changed."""
    yield json_util.dumps({"ledger": len(MIGRATIONS)})
    with mongo_errors("read the ledger"):
        for name in sorted(set(database.list_collection_names()) - _LEFT_OUT):
            for document in database[name].find({}, sort=[("_id", 1)]):
                yield json_util.dumps({"in": name, "document": document}, json_options=json_util.CANONICAL_JSON_OPTIONS)


def import_ledger(database: Database[dict[str, Any]], lines: Iterable[str]) -> int:
    """Fill an empty ledger with a copy; the number of documents. Raises Misconfigured when the ledger is not empty, or
    the lines are no copy, or one of a newer pipeline.
    """
    with mongo_errors("fill the ledger"):
        if database["items"].find_one({}, {"_id": 1}) is not None or database["audit"].find_one() is not None:
            raise Misconfigured(f"The ledger {database.name} is not empty: nothing was imported.")
        rows = map(_row, lines)
        version = next(rows, {}).get("ledger")
        if not isinstance(version, int) or version > len(MIGRATIONS):
            raise Misconfigured("This is no copy of a ledger, or one of a newer pipeline: nothing was imported.")
        count = 0
        for (name, _), batch in groupby(enumerate(rows), lambda each: (each[1].get("in"), each[0] // _BATCH)):
            documents = [row["document"] for _, row in batch]
            database[str(name)].insert_many(documents)
            count += len(documents)
        database[_VERSION].replace_one({"_id": _ID}, {"version": version}, upsert=True)
    bring_up_to_date(database)
    return count


def _row(line: str) -> dict[str, Any]:
    try:
        row = json_util.loads(line, json_options=json_util.CANONICAL_JSON_OPTIONS)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not ("ledger" in row or {"in", "document"} == row.keys()):
        raise Misconfigured("A line of this file is not one of a copy of a ledger.")
    return row
