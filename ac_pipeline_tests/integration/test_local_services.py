"""The local services as the tests use them: MongoDB, PDS and object storage answer as the real ones do."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

from ac_pipeline.cli.main import run
from ac_pipeline.errors import Misconfigured, ServiceUnreachable
from ac_pipeline.local.services.media_server import object_path
from ac_pipeline.local.services.pds_accounts import PdsAccounts
from ac_pipeline.local.services.processes import command_line
from ac_pipeline.local.services.stack import LocalServices
from ac_pipeline_tests.conftest import Pds


def test_a_test_gets_an_empty_database_that_refuses_what_the_stable_api_refuses(
    mongo: Database[dict[str, Any]],
) -> None:
    """OPS-5: a command outside API version 1 is refused here as on the platform's server."""
    assert mongo.list_collection_names() == []
    mongo["moods"].insert_one({"mood": "calm"})
    with pytest.raises(OperationFailure):
        mongo["moods"].distinct("mood")


def test_an_account_can_write_to_its_repository(pds: Pds) -> None:
    account = pds.create_account()

    written = pds.accounts.call(
        "com.atproto.repo.createRecord",
        {"repo": account.did, "collection": "computer.aesthetic.mood", "record": {"mood": "calm"}},
        token=pds.token(account),
    )

    assert written["uri"].startswith(f"at://{account.did}/computer.aesthetic.mood/")
    assert account.password not in repr(account)


def test_a_killed_pds_comes_back_with_its_accounts(pds: Pds) -> None:
    account = pds.create_account()

    pds.kill()
    pds.start()

    described = httpx.get(f"{pds.url}/xrpc/com.atproto.repo.describeRepo", params={"repo": account.did or ""}).json()
    assert described["handle"] == account.pds_handle
    assert described["didDoc"]["id"] == account.did


@pytest.fixture
def services(tmp_path: Path) -> Iterator[LocalServices]:
    services = LocalServices(tmp_path)
    yield services
    services.down()


def test_services_start_once_stop_twice_and_keep_their_data_and_ports(services: LocalServices, tmp_path: Path) -> None:
    """`local up` and `local down` may be repeated, and `up` brings the same data back on the same ports."""
    first = services.up()
    processes = services.running()
    with MongoClient[dict[str, Any]](first.mongo) as client:
        client[first.database]["moods"].insert_one({"mood": "kept"})
    with PdsAccounts(first.pds, first.pds_admin_password) as accounts:
        account = accounts.create("kept.test", "pa55word-kept")
    kept = object_path(first.media_folder, "user-aesthetic-computer", "auth0|1/painting/a.png")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"kept")

    again = services.up()
    assert again == first
    assert services.running() == processes
    assert sorted(processes) == ["media", "mongo", "pds"]
    settings = dict(line.split("=", 1) for line in services.env_file.read_text().splitlines() if "=" in line)
    assert settings == {
        "MONGODB_CONNECTION_STRING": first.mongo,
        "MONGODB_NAME": "aesthetic",
        "PDS_URL": first.pds,
        "PDS_ADMIN_PASSWORD": first.pds_admin_password,
        "AC_ACCOUNT_EMAIL_DOMAIN": "example.test",
        "AC_MEDIA_URL": first.media,
        "DAGSTER_HOME": str(services.folder / "dagster"),
    }

    assert sorted(services.down()) == ["media", "mongo", "pds"]
    assert services.down() == []
    assert services.running() == {}
    assert not services.env_file.exists()
    assert all(command_line(pid) is None for pid in processes.values())

    assert LocalServices(tmp_path).up() == first
    with MongoClient[dict[str, Any]](first.mongo) as client:
        assert [document["mood"] for document in client[first.database]["moods"].find()] == ["kept"]
    session = httpx.post(
        f"{first.pds}/xrpc/com.atproto.server.createSession",
        json={"identifier": "kept.test", "password": "pa55word-kept"},
    )
    assert session.json()["did"] == account.did
    url = first.media.format(bucket="user-aesthetic-computer")
    assert httpx.get(f"{url}/auth0%7C1/painting/a.png").content == b"kept"


def test_the_commands_start_fill_and_stop_the_services(
    services: LocalServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run(["local", "up", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pds"] in services.env_file.read_text()
    assert run(["local", "seed", "--users", "8", "--items", "100", "--json"]) == 0
    assert sum(each["documents"] for each in json.loads(capsys.readouterr().out)["types"].values()) > 90
    assert run(["local", "down"]) == 0
    assert services.running() == {}


def test_a_killed_server_alone_is_started_again_and_loses_nothing(services: LocalServices) -> None:
    first = services.up()
    before = services.running()
    with MongoClient[dict[str, Any]](first.mongo) as client:
        client[first.database]["moods"].insert_many([{"mood": str(number)} for number in range(500)])
    os.kill(before["mongo"], signal.SIGKILL)
    while command_line(before["mongo"]):
        pass

    assert services.up() == first

    after = services.running()
    assert after["mongo"] != before["mongo"]
    assert (after["pds"], after["media"]) == (before["pds"], before["media"])
    with MongoClient[dict[str, Any]](first.mongo) as client:
        assert client[first.database]["moods"].count_documents({}) == 500


def test_a_server_that_dies_at_its_start_says_why_and_leaves_the_others_stoppable(services: LocalServices) -> None:
    (services.folder / "pds").mkdir(parents=True)
    (services.folder / "pds" / "account.sqlite").write_text("this is no database " * 100)

    with pytest.raises(
        ServiceUnreachable, match=r"(?s)the local PDS ended while it started; the end of .*pds\.log:.*not a database"
    ):
        services.up()

    assert sorted(services.down()) == ["mongo"]


def test_a_program_on_the_port_of_the_pds_is_named_before_anything_is_started_there(services: LocalServices) -> None:
    first = services.up()
    services.down()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", int(first.pds.rpartition(":")[2])))
        squatter.listen()
        with pytest.raises(Misconfigured, match="another program listens there"):
            services.up()
