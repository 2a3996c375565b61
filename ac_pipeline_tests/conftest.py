"""The real services that tests may ask for: MongoDB, PDS, object storage; and how tests are run: in which order, alone.

Each starts when the first test of a worker asks for it, keeps its data on a memory file system where there is one, and
ends with the worker, even when that is killed. What tests do with them belongs to the tests.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import secrets
import shutil
import signal
import ssl
import tempfile
import uuid
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.server_api import ServerApi

from ac_pipeline.accounts import Account
from ac_pipeline.errors import ServiceUnreachable
from ac_pipeline.local.services.pds_accounts import NewAccount, PdsAccounts
from ac_pipeline.local.services.processes import Service, free_port
from ac_pipeline.local.services.stack import (
    ADMIN_PASSWORD,
    HANDLE_DOMAIN,
    installed_pds,
    mongo_service,
    mongo_uri,
    pds_service,
    pds_url,
)
from ac_pipeline_tests.postgres_server import PostgresServer, postgres_server_in
from ac_pipeline_tests.s3_server import S3Server
from ac_pipeline_tests.scripted_storage import ObjectServer
from ac_pipeline_tests.tethered import Tethered

# Machines are shared and slow at times: how long an example takes says nothing. CI tries the same examples every time.
hypothesis_settings.register_profile(
    "project",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
)
hypothesis_settings.load_profile("project")

_MEMORY = Path("/dev/shm")
_MEMORY_FREE = 4 << 30
_PORT_ATTEMPTS = 3

# httpx reads all certificates for each client and each `httpx.get`, which is 23 ms of CPU; nobody changes them here.
ssl.create_default_context = functools.cache(ssl.create_default_context)


def pytest_configure(config: pytest.Config) -> None:
    # What is temporary lies in memory where there is enough: no commit of a server or of Dagster waits for a disk.
    if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _MEMORY_FREE:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None
    # xdist would begin with the files of most tests. Those that take longest have few.
    config.option.loadscopereorder = False
    # A shell starts background commands deaf to SIGINT. Whatever tests start would inherit that and outlive its end.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start a Dagster, then those on real services, so that no worker is late in the end."""
    items.sort(key=lambda item: (not item.path.name.startswith("test_dagster_"), "unit" in item.path.parts))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run each test with context variables of its own (`dagster_instance.py` says what for)."""
    test, context = pyfuncitem.obj, contextvars.copy_context()

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> object:  # a function, for whoever reports a failure asks for its code
        return context.run(test, *args, **kwargs)

    pyfuncitem.obj = run
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test  # a report of its failure shows its code


class MongoServer:
    """One MongoDB server. `pid` is None when it is not ours (`TEST_MONGODB_URI`)."""

    def __init__(self, uri: str, process: Tethered | None) -> None:
        self.uri = uri
        self.pid = process.pid if process else None


class Pds:
    """A real PDS with a PLC directory.

    Attributes:
        url: Its address.
        admin_password: Of `com.atproto.admin.*`.
        folder: Its data.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        """Start it, with these variables of its own other than usual."""
        self.folder = folder
        self.admin_password = ADMIN_PASSWORD
        self._variables = variables
        self._tokens: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._port, self._plc_port, self._process = self._start_anywhere()
        self.url = pds_url(self._port)
        self.accounts = PdsAccounts(self.url, self.admin_password)

    @property
    def pid(self) -> int:
        return self._process.pid

    def create_account(self, handle: str | None = None, *, key: str | None = None) -> Account:
        """A new account with DID and password.

        Args:
            handle: First label of the PDS handle, or the whole handle; unique by itself when left out.
            key: Partition key; the label when left out.
        """
        label = (handle or f"u{next(self._numbers)}-{secrets.token_hex(4)}").removesuffix(HANDLE_DOMAIN)
        new = self.accounts.create(label + HANDLE_DOMAIN, secrets.token_hex(16))
        self._tokens[new.did] = new.token
        return _account(new, label, key)

    def token(self, account: Account) -> str:
        """An access token of an account made by `create_account`; good for two hours."""
        return self._tokens[str(account.did)]

    def admin(self, method: str, json: Mapping[str, Any]) -> dict[str, Any]:
        """Call `com.atproto.admin.*` (or another procedure) as the administrator."""
        return self.accounts.admin(method, json)

    def kill(self) -> None:
        """SIGKILL the server; `start` brings it back on the same port with the same data."""
        self._process.kill()

    def start(self) -> None:
        self._process = self._start(self._port, self._plc_port)

    def close(self) -> None:
        self.accounts.close()
        self._process.stop()

    def _start(self, port: int, plc_port: int) -> Tethered:
        service = pds_service(port, plc_port, self.folder, installed_pds(), self._variables)
        return Tethered(service, self.folder / "server.log")

    def _start_anywhere(self) -> tuple[int, int, Tethered]:
        for attempt in range(_PORT_ATTEMPTS):
            port, plc_port = free_port(), free_port()
            try:
                return port, plc_port, self._start(port, plc_port)
            except ServiceUnreachable:  # another worker was given the same port between our look and the start
                if attempt == _PORT_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")


def _account(new: NewAccount, label: str, key: str | None) -> Account:
    return Account(
        id=f"auth0|{secrets.token_hex(12)}",
        key=key or label,
        did=new.did,
        handle=label,
        pds_handle=new.handle,
        code=f"ac25{''.join(secrets.choice('bcdfghjklmnpqrstvwxyz') for _ in range(5))}",
        password=new.password,
    )


@pytest.fixture(scope="session")
def services_folder() -> Iterator[Path]:
    """A folder for the data of this worker's servers."""
    folder = Path(tempfile.mkdtemp(prefix="ac-pipeline-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mongo_server(services_folder: Path) -> Iterator[MongoServer]:
    """A MongoDB server: `TEST_MONGODB_URI` where that is set, else the local one."""
    if given := os.environ.get("TEST_MONGODB_URI"):
        yield MongoServer(given, None)
        return
    folder = services_folder / "mongo"
    folder.mkdir()
    port, process = _start_mongo(folder)
    yield MongoServer(mongo_uri(port), process)
    process.stop()


def _start_mongo(folder: Path) -> tuple[int, Tethered]:
    for attempt in range(_PORT_ATTEMPTS):
        port = free_port()
        service: Service = mongo_service(port, folder / "data", config=folder / "secantusd.toml")
        try:
            return port, Tethered(service, folder / "server.log")
        except ServiceUnreachable:
            if attempt == _PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


@pytest.fixture(scope="session")
def mongo_client(mongo_server: MongoServer) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client as production makes it: Stable API version 1, strict, deprecation errors on."""
    with MongoClient[dict[str, Any]](
        mongo_server.uri, server_api=ServerApi("1", strict=True, deprecation_errors=True)
    ) as client:
        yield client


@pytest.fixture
def mongo(mongo_client: MongoClient[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    """An empty database of this test's own, dropped afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    yield mongo_client[name]
    mongo_client.drop_database(name)


@pytest.fixture
def mongo_database(mongo: Database[dict[str, Any]]) -> Database[dict[str, Any]]:
    """The same as `mongo`, for tests in which that name would mislead."""
    return mongo


@pytest.fixture(scope="session")
def pds(services_folder: Path) -> Iterator[Pds]:
    """A real PDS without rate limits, shared by the tests of one worker: make accounts of your own."""
    folder = services_folder / "pds"
    folder.mkdir()
    server = Pds(folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_server(services_folder: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server, shared by the tests of one worker: make databases of your own."""
    with postgres_server_in(services_folder / "postgres") as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server, shared by the tests of one worker: make buckets of your own."""
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in a new bucket; the environment names its server and keys."""
    for name, value in s3_server.settings.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket()


@pytest.fixture
def object_server() -> Iterator[ObjectServer]:
    """An empty object storage of this test's own, with faults to script and a log of requests."""
    with ObjectServer() as server:
        yield server
