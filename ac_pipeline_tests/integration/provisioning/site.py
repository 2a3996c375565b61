"""A platform whose users get PDS accounts, on real services, and ports that end at one of their calls."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from bson import ObjectId

from ac_pipeline.operations.accounts.provisioning import Provisioner, ProvisionPlan, ProvisionReport, plan_provision
from ac_pipeline.settings import Settings
from ac_pipeline.wiring import Pipeline, open_pipeline

EMAIL = "example.test"
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Killed(BaseException):
    """The process ends here."""


class Faulty:
    """A port that ends at one of its calls: before it reaches the real one, or after."""

    def __init__(self, real: Any, method: str, fault: BaseException, *, after: bool, times: int = 1) -> None:
        self.real, self.method, self.fault, self.after, self.left = real, method, fault, after, times

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        if name != self.method:
            return real

        def call(*arguments: Any, **more: Any) -> Any:
            if not self.left:
                return real(*arguments, **more)
            self.left -= 1
            if self.after:
                real(*arguments, **more)
            raise self.fault

        return call


class Site:
    """A pipeline whose operator knows the PDS's administrator password."""

    def __init__(self, pipeline: Pipeline, database: Any, pds: Any) -> None:
        self.pipeline, self.database, self.pds = pipeline, database, pds
        self.slept: list[float] = []

    def user(self, handle: str | None = None, *, code: str | None = None, id: str | None = None, **fields: Any) -> str:
        """A platform user without a PDS account; the Mongo id."""
        id = id or f"auth0|{ObjectId()}"
        self.database["users"].insert_one({"_id": id, **({"code": code} if code else {}), **fields})
        if handle is not None:
            self.database["@handles"].insert_one({"_id": id, "handle": handle})
        return id

    def provisioner(self, server: Any = None, store: Any = None, inactive: Any = frozenset) -> Provisioner:
        real = self.pipeline.administration
        return Provisioner(
            server or real,
            store or self.pipeline.provisioning,
            real.describe(),
            inactive,
            now=lambda: CREATED,
            sleep=self.slept.append,
        )

    def plan(self, limit: int | None = None) -> ProvisionPlan:
        return plan_provision(self.pipeline, limit=limit)

    def run(self, server: Any = None, store: Any = None, inactive: Any = frozenset) -> ProvisionReport:
        return self.provisioner(server, store, inactive).run(self.plan().accounts, lambda done, total: None)

    def row(self, id: str) -> dict[str, Any]:
        found = self.database["users"].find_one({"_id": id})
        assert found is not None
        return dict(found)

    def hosted(self) -> set[str]:
        return {status.did for status in self.pipeline.server.list_repositories()}

    def intents(self) -> list[Any]:
        return list(self.pipeline.provisioning.unfinished())


@contextmanager
def open_site(database: Any, uri: str, pds: Any, folder: Path, **more: Any) -> Iterator[Site]:
    settings = Settings(
        mongodb_connection_string=uri,
        mongodb_name=database.name,
        pds_url=pds.url,
        pds_admin_password=more.pop("admin_password", pds.admin_password),
        ac_renditions_url=str(folder / "renditions"),
        dagster_home=folder,
        ac_account_email_domain=EMAIL,
        **more,
    )
    with open_pipeline(settings) as pipeline:
        yield Site(pipeline, database, pds)
    database.client.drop_database(settings.ac_ledger_database)


def unique(length: int = 10) -> str:
    return f"u{secrets.token_hex(16)}"[:length]


def code() -> str:
    return f"ac25{secrets.token_hex(4)}"


def handle_of(pds: Any, did: str) -> str:
    return str(httpx.get(f"{pds.url}/xrpc/com.atproto.repo.describeRepo", params={"repo": did}).json()["handle"])
