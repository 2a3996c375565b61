"""Exit codes of every command where a service cannot be reached: MongoDB, PDS, relay, object storage, renditions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from bson import ObjectId

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.cli.main import cli as whole
from ac_pipeline.cli.main import run
from ac_pipeline.items import Failure, LedgerEntry, Stage, State
from ac_pipeline.local.seed.artwork import pixel_art
from ac_pipeline.mongo.ledger.items import MongoLedger
from ac_pipeline_tests.commands import inside
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run

DEAD = "http://127.0.0.1:1"
ADA, BEA = "auth0|000000000000000000000001", "auth0|000000000000000000000002"

COMMANDS: dict[tuple[str, ...], list[str]] = {
    ("plan",): [],
    ("plans",): [],
    ("sync",): [],
    ("retry",): [],
    ("status",): [],
    ("items",): [],
    ("item",): ["mood:abc"],
    ("verify",): [],
    ("links",): [],
    ("restore-documents",): [],
    ("differences",): [],
    ("erasure",): [],
    ("wipe",): ["ada"],
    ("restore",): ["ada"],
    ("snapshot",): ["ada"],
    ("snapshots",): [],
    ("renditions",): [],
    ("metrics",): ["--once"],
    ("audit",): [],
    ("accounts",): [],
    ("accounts", "list"): [],
    ("accounts", "verify"): [],
    ("accounts", "visibility"): ["--relay", DEAD],
    ("accounts", "create-guest"): [],
    ("accounts", "provision"): ["--user", "bea"],
    ("accounts", "rotate"): ["--user", "ada", "--confirm", "ada"],
    ("accounts", "handles"): [],
    ("lexicons", "check"): [],
    ("lexicons", "publish"): [],
}
"""Every command with what it needs; those of `local` and `dagster` start their services themselves,
and copies of the ledger are `test_ledger_copies.py`'s."""
WITHOUT_PDS = {("plans",), ("items",), ("item",), ("snapshots",), ("audit",)}
"""Commands that read nothing but MongoDB."""


def _leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(command, click.Group) or "list" in inside(command):
        yield path
    for name, each in inside(command).items():
        if name not in {"local", "ledger", "dagster"}:
            yield from _leaves(each, (*path, name))


def test_every_command_is_asked_here() -> None:
    """SEEN-6: a new command needs its line above."""
    assert set(_leaves(whole)) == set(COMMANDS)


every_command = pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed requests are repeated at once."""
    monkeypatch.setattr("ac_pipeline.atproto.transport.PAUSES", ())
    monkeypatch.setattr("ac_pipeline.objects.FIRST_DELAY", 0)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MONGODB_CONNECTION_STRING": "mongodb://127.0.0.1:1",
        "MONGODB_NAME": "platform",
        "PDS_URL": DEAD,
        "PDS_ADMIN_PASSWORD": "secret",
        "AC_MEDIA_URL": f"{DEAD}/{{bucket}}/{{key}}",
        "AC_RENDITIONS_URL": str(tmp_path / "renditions"),
        "AC_MONGO_TIMEOUT_SECONDS": "0.2",
        "AC_LEXICON_AUTHORITY": "did:plc:ada",
        "AC_LEXICON_PASSWORD": "secret",
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@every_command
def test_without_mongodb_every_command_ends_with_three(
    path: tuple[str, ...], environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SEEN-6: in one sentence."""
    assert run([*path, *COMMANDS[path]]) == 3
    err = capsys.readouterr().err
    assert "MongoDB at 127.0.0.1:1 does not answer" in err
    assert len(err.splitlines()) == 1


@every_command
def test_without_a_pds_every_command_that_needs_one_ends_with_three(
    path: tuple[str, ...],
    environment: pytest.MonkeyPatch,
    mongo_server: Any,
    mongo_database: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SEEN-6: `sync` used to end with 1."""
    own = mongo_database.client[f"{mongo_database.name}-pipeline"]
    environment.setenv("MONGODB_CONNECTION_STRING", mongo_server.uri)
    environment.setenv("MONGODB_NAME", mongo_database.name)
    environment.setenv("AC_MONGO_TIMEOUT_SECONDS", "15")
    environment.setenv("AC_LEDGER_DATABASE", own.name)
    credentials = {"did": "did:plc:ada", "password": "pw"}
    mongo_database["users"].insert_many(
        [{"_id": ADA, "code": "ac24ada", "atproto": credentials}, {"_id": BEA, "code": "ac24bea"}]
    )
    mongo_database["@handles"].insert_many([{"_id": ADA, "handle": "ada"}, {"_id": BEA, "handle": "bea"}])
    mood = ObjectId()
    mongo_database["moods"].insert_one({"_id": mood, "user": ADA, "mood": "fine", "when": datetime.now(UTC)})
    failure = Failure(Stage.RECORD, "too-large", "5,001 bytes")
    item = f"mood:{mood}"
    entry = LedgerEntry(
        item, "mood", str(mood), ADA, "ada", State.QUARANTINED, Stage.RECORD, code="abc", failure=failure
    )
    MongoLedger(own).save([entry])
    try:
        code = run([*path, *COMMANDS[path]])
    finally:
        mongo_database.client.drop_database(own.name)
    assert code == (0 if path in WITHOUT_PDS else 3)
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def painted(slice_: Slice) -> Slice:
    """A user with a painting, beside one whose mood is in order."""
    slice_.add("painting", slice_.user("ada"), code="abc", slug="2025.10.15.12.30.45.123")
    slice_.add("mood", slice_.user("bob"), mood="fine")
    return slice_


def test_object_storage_that_one_user_needs_and_cannot_reach_ends_with_three(
    cli: Run, painted: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SEEN-6: the others are published all the same."""
    monkeypatch.setenv("AC_MEDIA_URL", f"{DEAD}/{{bucket}}/{{key}}")
    _ends_with_three(cli)


def test_a_rendition_store_that_one_user_needs_and_cannot_reach_ends_with_three(
    cli: Run, painted: Slice, monkeypatch: pytest.MonkeyPatch, object_server: Any, tmp_path: Path
) -> None:
    """SEEN-6: the others are published all the same."""
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("AC_RENDITIONS_URL", str(file / "store"))
    key = f"{painted.account('ada').id}/painting/2025.10.15.12.30.45.123.png"
    object_server.put("user-aesthetic-computer", key, pixel_art(8, 8))
    _ends_with_three(cli)


def _ends_with_three(cli: Run) -> None:
    code, out = cli("sync", "--json")
    report = json.loads(out)
    assert code == 3, report
    assert report["types"]["mood"]["created"] == 1
    assert report["failures"][0]["class"] == "service-unreachable"


def test_a_quarantined_item_ends_with_one_and_nothing_wrong_with_zero(cli: Run, painted: Slice) -> None:
    """SEEN-6: a blocked user alone changes nothing of it."""
    code, _ = cli("sync", "--user", "bob")
    assert code == 0
    code, _ = cli("sync", "--user", "ada")
    assert code == 1, "the source of the painting does not exist"
    assert painted.account(GUEST_ID).blocked is not None
