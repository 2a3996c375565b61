"""A whole pipeline on real services, for tests of slices: users and documents in, records out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from bson import ObjectId
from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.items import LedgerEntry, item_id
from ac_pipeline.media.base import Link
from ac_pipeline.media.documents import read_link
from ac_pipeline.media.registry import media_type
from ac_pipeline.settings import Settings
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, open_pipeline

USER_BUCKET = "user-aesthetic-computer"
GUEST_BUCKET = "art-aesthetic-computer"
WHEN = datetime(2025, 10, 15, 12, 30, 45, 123_000, tzinfo=UTC)


class Slice:
    """One database, one PDS, one pipeline between them."""

    def __init__(self, pipeline: Pipeline, database: Database[dict[str, Any]], pds: Any) -> None:
        self.pipeline = pipeline
        self.database = database
        self.pds = pds

    def user(self, handle: str | None = None, *, id: str | None = None) -> Account:
        """A platform user with an account on the PDS, as the pipeline reads it."""
        made = self.pds.create_account()
        id = id or f"auth0|{ObjectId()}"
        self.database["users"].insert_one(
            {"_id": id, "code": f"ac25{str(ObjectId())[-6:]}", "atproto": {"did": made.did, "password": made.password}}
        )
        if handle is not None:
            self.database["@handles"].insert_one({"_id": id, "handle": handle})
        return self.account(id)

    def account(self, id: str) -> Account:
        return self.pipeline.accounts.find(id)

    def add(self, type: str, account: Account, **fields: Any) -> str:
        """Insert a document of this user; the id in hex."""
        owner = {} if account.is_guest else {"user": account.id}
        document = {"_id": ObjectId(), "when": WHEN, **owner, **fields}
        self.database[media_type(type).collection].insert_one(document)
        return str(document["_id"])

    def document(self, type: str, id: str) -> dict[str, Any]:
        found = self.database[media_type(type).collection].find_one({"_id": ObjectId(id)})
        assert found is not None
        return found

    def change(self, type: str, id: str, **fields: Any) -> None:
        self.database[media_type(type).collection].update_one({"_id": ObjectId(id)}, {"$set": fields})

    def link(self, type: str, id: str) -> Link | None:
        return read_link(self.document(type, id), media_type(type).link_homes)

    def entry(self, type: str, id: str) -> LedgerEntry:
        found = self.pipeline.ledger.get(item_id(type, id))
        assert found is not None
        return found

    def everything(self) -> dict[str, Any]:
        """All that is in the source, the ledger and the rendition store, to compare; not when somebody looked at it,
        nor what that took."""
        client, settings = self.database.client, self.pipeline.settings
        kept: dict[str, Any] = {
            f"{name}.{collection}": sorted(map(repr, client[name][collection].find()))
            for name in (settings.mongodb_name, settings.ac_ledger_database)
            for collection in client[name].list_collection_names()
            if collection not in {"looks", "counters"}
        }
        kept["store"] = sorted(Path(settings.ac_renditions_url).rglob("*"))
        kept["repositories"] = {status.did: status.head for status in self.pipeline.server.list_repositories()}
        return kept

    def sync(self, account: Account, selection: Selection | None = None) -> AccountReport:
        return self.pipeline.engine.sync(account, selection or Selection(), "test-run")

    def records(self, account: Account, type: str) -> dict[str, dict[str, Any]]:
        """What a client that is not ours reads: rkey -> record."""
        return {rkey: value for rkey, (_, value) in self.listed(account, type).items()}

    def listed(self, account: Account, type: str) -> dict[str, tuple[str, dict[str, Any]]]:
        """What `listRecords` says: rkey -> CID and record."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        cursor: str | None = None
        while True:
            query = {"repo": account.did, "collection": media_type(type).nsid, "limit": 100}
            answer = (
                httpx.get(
                    f"{self.pds.url}/xrpc/com.atproto.repo.listRecords",
                    params={**query, **({"cursor": cursor} if cursor else {})},
                )
                .raise_for_status()
                .json()
            )
            found |= {r["uri"].rsplit("/", 1)[1]: (r["cid"], r["value"]) for r in answer["records"]}
            cursor = answer.get("cursor")
            if not cursor:
                return found

    def call(self, account: Account, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """One signed call of somebody else's client, such as the platform's real-time writer."""
        headers = {"authorization": f"Bearer {self.pds.token(account)}"}
        answer = httpx.post(f"{self.pds.url}/xrpc/{method}", json=body, headers=headers, timeout=30)
        assert answer.is_success, answer.text
        return dict(answer.json()) if answer.content else {}

    def put(self, account: Account, type: str, value: dict[str, Any], rkey: str | None = None) -> str:
        """A record written by somebody else; its rkey."""
        nsid = media_type(type).nsid
        body = {"repo": account.did, "collection": nsid, "record": {"$type": nsid, **value}}
        answer = self.call(account, "com.atproto.repo.createRecord", body | ({"rkey": rkey} if rkey else {}))
        return str(answer["uri"]).rsplit("/", 1)[1]


@contextmanager
def open_slice(
    database: Database[dict[str, Any]], uri: str, pds: Any, media_url: str, folder: Path, **more: Any
) -> Iterator[Slice]:
    """A pipeline on a test's own database and the worker's PDS. `more`: further settings."""
    given = {"ac_renditions_url": str(folder / "renditions"), **more}
    settings = Settings(
        mongodb_connection_string=uri,
        mongodb_name=database.name,
        pds_url=pds.url,
        ac_media_url=media_url,
        dagster_home=folder,
        **given,
    )
    with open_pipeline(settings) as pipeline:
        yield Slice(pipeline, database, pds)
        database.client.drop_database(settings.ac_ledger_database)
