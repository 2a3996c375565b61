"""Users of MongoDB with the least privileges (`deploy/mongo-roles.json`), on a real server that checks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from ac_pipeline.cli.main import run
from ac_pipeline.local.services.processes import LOOPBACK, free_port
from ac_pipeline.local.services.stack import mongo_service, mongo_uri
from ac_pipeline_tests.harness import Slice, open_slice
from ac_pipeline_tests.tethered import Tethered

ROLES = Path(__file__).parents[2] / "deploy" / "mongo-roles.json"
SOURCE, LEDGER = "platform", "platform-pipeline"
PASSWORD = "hunter2"


def uri(port: int, user: str) -> str:
    return mongo_uri(port).replace(LOOPBACK, f"{user}:{PASSWORD}@{LOOPBACK}")


@pytest.fixture(scope="module")
def guarded_server(services_folder: Path) -> Iterator[int]:
    """Its port. Every role has a user of its name, and there is a root."""
    port, folder = free_port(), services_folder / "guarded-mongo"
    service = mongo_service(port, folder / "data", config=folder / "secantusd.toml")
    open_to_all = Tethered(service, folder / "server.log")
    with MongoClient[dict[str, Any]](mongo_uri(port)) as client:
        for role in json.loads(ROLES.read_text().replace("SOURCE", SOURCE).replace("LEDGER", LEDGER)):
            client.admin.command(role)
            client.admin.command("createUser", role["createRole"], pwd=PASSWORD, roles=[role["createRole"]])
        client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
    open_to_all.stop()
    server = Tethered(replace(service, argv=(*service.argv, "--auth")), folder / "server.log")
    yield port
    server.stop()


@pytest.fixture
def slice_(guarded_server: int, pds: Any, object_server: Any, tmp_path: Path) -> Iterator[Slice]:
    with MongoClient[dict[str, Any]](uri(guarded_server, "root")) as client:
        with open_slice(
            client[SOURCE], uri(guarded_server, "root"), pds, object_server.url_template, tmp_path
        ) as opened:
            yield opened
        client.drop_database(SOURCE)


Call = Callable[..., str]


@pytest.fixture
def as_user(
    guarded_server: int, slice_: Slice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run a command as a user of MongoDB and expect its exit code; what it printed, or said of its failure."""
    folder = slice_.pipeline.settings.dagster_home
    monkeypatch.chdir(folder)
    for name, value in {
        "MONGODB_NAME": SOURCE,
        "PDS_URL": slice_.pds.url,
        "PDS_ADMIN_PASSWORD": slice_.pds.admin_password,
        "AC_RENDITIONS_URL": slice_.pipeline.settings.ac_renditions_url,
    }.items():
        monkeypatch.setenv(name, value)

    def call(user: str, *arguments: str, code: int = 0) -> str:
        monkeypatch.setenv("MONGODB_CONNECTION_STRING", uri(guarded_server, user))
        capsys.readouterr()
        ended = run(list(arguments))
        said = capsys.readouterr()
        assert ended == code, f"{user}: {arguments}: {ended}: {said.err}{said.out}"
        return said.out if code == 0 else said.err

    return call


def test_a_user_that_may_only_read_can_look(as_user: Call, slice_: Slice, guarded_server: int) -> None:
    """PROD-3: before there is a ledger, and when there is one."""
    ada = slice_.user("ada")
    slice_.add("mood", ada, mood="clear")
    for there_is_a_ledger in (False, True):
        before = slice_.everything()
        accounts = json.loads(as_user("acPipelineReader", "accounts", "list", "--json"))
        assert [each["user"] for each in accounts["accounts"]] == ["ada", "art-guest"]
        status = json.loads(as_user("acPipelineReader", "status", "--json"))
        assert status["types"]["mood"]["documents"] == 1
        plan = json.loads(as_user("acPipelineReader", "plan", "--json"))
        assert (len(plan["operations"]), plan["saved"]) == (0 if there_is_a_ledger else 1, False)
        for name in ("items", "audit", "differences", "links", "renditions"):
            as_user("acPipelineReader", name)
        as_user("acPipelineReader", "metrics", "--once")
        as_user("acPipelineReader", "verify", code=0 if there_is_a_ledger else 1)
        assert slice_.everything() == before
        slice_.sync(ada)
    with MongoClient[dict[str, Any]](uri(guarded_server, "acPipelineReader")) as client:
        for database, collection in ((SOURCE, "moods"), (LEDGER, "items")):
            with pytest.raises(OperationFailure, match="not authorized"):
                client[database][collection].insert_one({})


def test_the_pipelines_own_user_may_do_what_it_does_and_no_more(
    as_user: Call, slice_: Slice, guarded_server: int
) -> None:
    """Each command by the smallest role that may: links and ledger; accounts; documents that are brought back.

    The local server checks actions by database: which collections they are granted for, only MongoDB itself checks.
    """
    ada = slice_.user("ada")
    for mood in ("clear", "foggy"):
        slice_.add("mood", ada, mood=mood)
    report = json.loads(as_user("acPipeline", "sync", "--json"))
    assert report["types"]["mood"]["written"] == 2
    as_user("acPipeline", "wipe", "ada", "--confirm", "2")
    as_user("acPipeline", "restore", "ada")
    as_user("acPipeline", "links", "--heal")
    assert len(slice_.records(ada, "mood")) == 2

    as_user("acPipelineAccounts", "accounts", "rotate", "--user", "ada", "--confirm", "ada")

    slice_.database["moods"].delete_many({"mood": "clear"})
    assert "may not do this" in as_user("acPipeline", "restore-documents", "--user", "ada", "--confirm", "1", code=2)
    as_user("acPipelineDocuments", "restore-documents", "--user", "ada", "--confirm", "1")
    assert slice_.database["moods"].count_documents({}) == 2
    for role in ("acPipeline", "acPipelineAccounts", "acPipelineDocuments"):
        with MongoClient[dict[str, Any]](uri(guarded_server, role)) as client:
            with pytest.raises(OperationFailure, match="not authorized"):
                client[SOURCE]["moods"].delete_one({})
            with pytest.raises(OperationFailure, match="not authorized"):
                client["elsewhere"]["moods"].find_one()
            with client[SOURCE].watch(max_await_time_ms=1) as stream:  # what the content sensor reads
                assert stream.try_next() is None
