"""What is known of the published lexicons: their last seen versions, for when the publisher's PDS does not answer.

One document per lexicon: `{_id: NSID, authority: DID, schema: JSON text}`. As text, because a lexicon's names may hold
what MongoDB gives a meaning of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pymongo import ReplaceOne
from pymongo.database import Database

from ac_pipeline.mongo.database import mongo_errors


class MongoPublishedLexicons:
    """The last seen published lexicons, in the pipeline's own database.

    Args:
        database: `AC_LEDGER_DATABASE`.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._collection = database["lexicons"]

    def seen(self, authority: str) -> Mapping[str, Mapping[str, Any]]:
        """NSID -> lexicon as this DID published it when it was last read; empty when it never was."""
        with mongo_errors("read the published lexicons"):
            return {row["_id"]: json.loads(row["schema"]) for row in self._collection.find({"authority": authority})}

    def remember(self, authority: str, published: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep what this DID publishes now, in place of what was known."""
        rows = {nsid: {"authority": authority, "schema": json.dumps(schema)} for nsid, schema in published.items()}
        with mongo_errors("remember the published lexicons"):
            if rows:
                self._collection.bulk_write(
                    [ReplaceOne({"_id": nsid}, row, upsert=True) for nsid, row in rows.items()], ordered=False
                )
            self._collection.delete_many({"_id": {"$nin": list(rows)}})
