"""What benchmarks are measured on: local services, a pipeline on them, and users that are made for each round anew."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.local.services.pds_accounts import NewAccount, PdsAccounts
from ac_pipeline.local.services.stack import LocalServices
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.database import connect
from ac_pipeline.mongo.ledger.collections import MongoSessionStore
from ac_pipeline.settings import Settings
from ac_pipeline.wiring import Pipeline, open_pipeline
from ac_pipeline_tests.benchmarks.rows import Timed, timed

ACCOUNTS_AT_ONCE = 4

User = tuple[Account, NewAccount]  # As the platform knows one, and as the PDS has just made it


@dataclass(frozen=True, slots=True)
class Bench:
    """The services and the pipeline of one benchmark."""

    pipeline: Pipeline
    database: Database[dict[str, Any]]  # The source; empty at first
    accounts: PdsAccounts
    sessions: MongoSessionStore  # That of the pipeline
    media: Path  # The folder of the object storage
    url: str  # Of the PDS
    processes: Mapping[str, int]  # Of the services, by name

    def timed(self, items: int) -> AbstractContextManager[Timed]:
        """Time what is done in the context, with what it costs the services."""
        return timed(items, self.processes)

    def new_users(self, count: int) -> list[User]:
        """Users with accounts on the PDS, as the platform keeps them; none has signed in."""

        def make(_: int) -> User:
            name = f"b{secrets.token_hex(8)}"
            new = self.accounts.create(f"{name}.test", f"pw-{ObjectId()}")
            return Account(f"auth0|{ObjectId()}", name, new.did, name, new.handle, None, new.password), new

        with ThreadPoolExecutor(ACCOUNTS_AT_ONCE) as pool:
            made = list(pool.map(make, range(count)))
        for account, new in made:
            credentials = {"did": new.did, "handle": new.handle, "password": new.password}
            self.database["users"].insert_one({"_id": account.id, "code": account.code, "atproto": credentials})
            self.database["@handles"].insert_one({"_id": account.id, "handle": account.handle})
        return made

    def signed_in(self, count: int) -> list[User]:
        """New users whose sessions are left where an earlier run would have left them."""
        users = self.new_users(count)
        for _, new in users:
            self.sessions.save(new.did, Tokens(new.token, ""))
        return users

    def insert(self, documents: dict[str, Sequence[dict[str, Any]]]) -> None:
        """Put documents into the collections of their types, by the names of the types."""
        for media in MEDIA_TYPES:
            if rows := documents.get(media.name):
                self.database[media.collection].insert_many(rows)


@contextmanager
def open_bench(media_url: str | None = None) -> Iterator[Bench]:
    """A pipeline on services of its own, which end with it.

    Args:
        media_url: Of an object storage; the services' own when left out.
    """
    with tempfile.TemporaryDirectory(prefix="ac-bench-") as folder:
        services = LocalServices(Path(folder))
        try:
            addresses = services.up()
            settings = Settings(
                mongodb_connection_string=addresses.mongo,
                mongodb_name="bench",
                pds_url=addresses.pds,
                ac_media_url=media_url or addresses.media,
                ac_renditions_url=f"{folder}/renditions",
                ac_relay_commits_per_hour=0,  # no relay reads this PDS, and its speed is what is measured
            )
            with open_pipeline(settings) as pipeline, PdsAccounts(addresses.pds, addresses.pds_admin_password) as made:
                mongo = connect(addresses.mongo)
                for media in MEDIA_TYPES:
                    mongo["bench"][media.collection].create_index("user")
                sessions = MongoSessionStore(mongo[settings.ac_ledger_database]["sessions"])
                yield Bench(
                    pipeline, mongo["bench"], made, sessions, addresses.media_folder, addresses.pds, services.running()
                )
        finally:
            services.down()
