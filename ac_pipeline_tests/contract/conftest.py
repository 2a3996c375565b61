"""The data servers that contract tests share: each test runs in memory and on a real PDS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.rate_limits import Budget, BudgetStore
from ac_pipeline.atproto.sessions import Sessions, SignIn
from ac_pipeline.atproto.transport import Transport, open_http
from ac_pipeline.sync.ports import DataServer
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.contract.data_servers import Connect, InMemory, OnPds, World
from ac_pipeline_tests.memory_sessions import MemorySessionStore


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Clients of any PDS, closed in the end."""
    with open_http(timeout=20.0) as http:

        def client(
            url: str,
            store: MemorySessionStore | None = None,
            *,
            bypass_key: str | None = None,
            sleep: Callable[[float], None] = time.sleep,
            budgets: BudgetStore | None = None,
        ) -> PdsClient:
            budget = Budget(max_wait=0.0, store=budgets)
            transport = Transport(url, http=http, budget=budget, bypass_key=bypass_key, sleep=sleep)
            return PdsClient(transport, Sessions(store or MemorySessionStore(), SignIn(transport)))

        yield client


@pytest.fixture(params=["in memory", "on a real PDS"])
def world(request: pytest.FixtureRequest, connect: Connect) -> World:
    if request.param == "in memory":
        return InMemory()
    pds: Pds = request.getfixturevalue("pds")
    return OnPds(pds, connect(pds.url))


@pytest.fixture
def server(world: World) -> DataServer:
    return world.server


@pytest.fixture
def account(world: World) -> Account:
    return world.create_account()
