"""The connection: strict Stable API, errors in the pipeline's own words, no command that the platform refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient, monitoring
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    InvalidURI,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, NotPermitted, PipelineError, ServerFailed, ServiceUnreachable
from ac_pipeline.items import Attempt, LedgerEntry, Stage, State
from ac_pipeline.media.base import Document, Link, LinkUpdate, Verdict
from ac_pipeline.media.documents import interpret
from ac_pipeline.media.mood import MOOD
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.accounts import MongoAccounts
from ac_pipeline.mongo.database import SOURCE_CODEC, connect, disconnect, mongo_errors
from ac_pipeline.mongo.documents import MongoDocuments
from ac_pipeline.mongo.ledger.items import MongoLedger

Mongo = Database[dict[str, Any]]
ANNA = Account(id="auth0|63effeeb2a7d55f8098d62f9", key="anna", did="did:plc:anna")

STABLE = frozenset(
    {
        "abortTransaction",
        "aggregate",
        "bulkWrite",
        "commitTransaction",
        "count",
        "createIndexes",
        "delete",
        "endSessions",
        "explain",
        "find",
        "findAndModify",
        "getMore",
        "hello",
        "insert",
        "killCursors",
        "ping",
        "update",
    }
)
"""The commands of Stable API v1 that a client for data and indexes has (MongoDB manual, Stable API)."""


class Listener(monitoring.CommandListener):
    """Every command that went to the server."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def uri(mongo_database: Mongo) -> str:
    host, port = mongo_database.client.address or ("127.0.0.1", 27017)
    return f"mongodb://{host}:{port}/"


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def watched(uri: str, mongo_database: Mongo, listener: Listener) -> Iterator[Mongo]:
    client = connect(uri, event_listeners=[listener])
    yield client[mongo_database.name]
    client.close()


def test_nothing_leaves_the_stable_api(watched: Mongo, listener: Listener) -> None:
    """OPS-5: every command asks for version 1, strict; none is outside it; `distinct` is never used."""
    documents, ledger = MongoDocuments(watched), MongoLedger(watched)
    ledger.ensure_indexes()
    id = str(watched["moods"].insert_one({"user": ANNA.id, "mood": "awake"}).inserted_id)
    MongoAccounts(watched).all()
    for media in MEDIA_TYPES:
        list(documents.stream_of((ANNA,), media))
        documents.is_empty(media)
        documents.owners(media, [id])
    documents.write_links(MOOD, [LinkUpdate(id, Link(rkey="3k"))])
    entry = LedgerEntry(f"mood:{id}", "mood", id, ANNA.id, "anna", State.WRITTEN, Stage.WRITE)
    ledger.save([entry])
    ledger.save([entry])
    ledger.load(ANNA, MOOD)
    list(ledger.find(states=[State.WRITTEN]))
    ledger.by_code("mood", "x")
    ledger.used_blobs(["x"], without=())
    list(ledger.of_items(["mood:x"]))
    ledger.counts()
    list(ledger.pending_deletions())
    ledger.remember_batch_bytes("host", 5)
    ledger.batch_bytes("host", 5)
    with ledger.lease("did:plc:anna", "run"):
        pass

    assert {name for name, _ in listener.commands} <= STABLE
    assert {name for name, _ in listener.commands} >= {"find", "aggregate", "insert", "update", "findAndModify"}
    for name, command in listener.commands:
        if name != "getMore":
            assert (command["apiVersion"], command["apiStrict"]) == ("1", True), name
        assert "sparse" not in str(command) if name == "createIndexes" else True


def test_a_command_outside_the_stable_api_is_refused(watched: Mongo) -> None:
    """OPS-5: the client is strict, so a slip shows at once, and no retry is tried."""
    with pytest.raises(Misconfigured, match="323"), mongo_errors("list owners"):
        watched["moods"].distinct("user")


def test_a_process_has_one_client_for_a_server(uri: str) -> None:
    """OPS-5."""
    first = connect(uri)
    assert connect(uri) is first
    assert first.write_concern.document == {"w": "majority"}
    disconnect()
    second = connect(uri)
    assert second is not first
    assert second.admin.command("ping")["ok"] == 1
    disconnect()


def test_a_server_that_is_not_there_is_unreachable(closed_port: int) -> None:
    """DEL-5: a failed read raises; it is never an empty one."""
    client = connect(f"mongodb://user:hunter2@127.0.0.1:{closed_port}/", selection_seconds=0.2, retryReads=False)
    database = client["aesthetic"]
    documents, ledger = MongoDocuments(database), MongoLedger(database)
    for read in (
        lambda: list(documents.stream(ANNA, MOOD)),
        lambda: documents.owners(MOOD, ["0" * 24]),
        lambda: documents.is_empty(MOOD),
        lambda: MongoAccounts(database).all(),
        lambda: ledger.load(ANNA, MOOD),
    ):
        with pytest.raises(ServiceUnreachable) as caught:
            read()
        assert "hunter2" not in f"{caught.value!r} {caught.value.message} {caught.value.__cause__}"
    client.close()


class Torn(monitoring.CommandListener):
    """Kills the cursor on the server after the first batch, so that the next one fails."""

    def __init__(self, client: MongoClient[dict[str, Any]]) -> None:
        self.client = client

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "getMore":
            command = {"killCursors": event.command["collection"], "cursors": [event.command["getMore"]]}
            self.client[event.database_name].command(command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


def test_a_read_that_breaks_off_in_the_middle_raises(uri: str, mongo_database: Mongo) -> None:
    """DEL-5: half of a user's documents must never pass for all of them."""
    mongo_database["moods"].insert_many([{"user": ANNA.id, "mood": "awake"} for _ in range(1_500)])
    client = connect(uri, event_listeners=[Torn(mongo_database.client)])
    read: list[Document] = []
    stream = MongoDocuments(client[mongo_database.name]).stream(ANNA, MOOD)
    with pytest.raises(ServerFailed, match="the moods of anna"):
        read.extend(stream)
    assert 0 < len(read) < 1_500
    client.close()


@pytest.mark.parametrize("uri", ["mongodb://user:hun ter2@@host:port/", "mongodb://", "mongodb://h/?authSource"])
def test_a_connection_string_that_cannot_be_read_is_not_quoted(uri: str) -> None:
    """ACCT-5."""
    with pytest.raises(Misconfigured, match="MONGODB_CONNECTION_STRING") as caught:
        connect(uri)
    assert "hun" not in caught.value.message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidURI(SECRET), Misconfigured),
        (ConfigurationError(SECRET), Misconfigured),
        (ServerSelectionTimeoutError(SECRET), ServiceUnreachable),
        (NetworkTimeout(SECRET), ServiceUnreachable),
        (AutoReconnect(SECRET), ServiceUnreachable),
        (NotPrimaryError(SECRET), ServerFailed),
        (OperationFailure(SECRET, 13), NotPermitted),
        (OperationFailure(SECRET, 18), Misconfigured),
        (OperationFailure(SECRET, 8000), Misconfigured),
        (OperationFailure(SECRET, 323), Misconfigured),
        (OperationFailure(SECRET, 50), ServerFailed),
        (OperationFailure(SECRET, None), ServerFailed),
        (BulkWriteError({"writeErrors": [{"code": 11000, "errmsg": "E11000", "op": {"x": SECRET}}]}), ServerFailed),
        (BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), ServerFailed),
        (DocumentTooLarge(SECRET), ServerFailed),
        (bson.errors.InvalidBSON(SECRET), ServerFailed),
        (PyMongoError(SECRET), ServerFailed),
    ],
)
def test_every_error_of_the_driver_is_classified_and_its_text_not_passed_on(
    error: Exception, expected: type[PipelineError]
) -> None:
    """ACCT-5, OPS-3."""
    with pytest.raises(expected) as caught, mongo_errors("read the users"):
        raise error
    assert type(caught.value) is expected
    assert caught.value.message.startswith("Could not read the users")
    assert SECRET not in f"{caught.value.message} {caught.value.answer}"


def test_a_spoilt_document_is_decoded_all_the_same_and_judged_alone() -> None:
    """SRC-1: text that is no UTF-8 makes its item invalid; a date in no calendar leaves it the time of its id.

    Decoded here, because the local server takes neither.
    """
    spoilt = bson.encode({"_id": bson.ObjectId(), "user": ANNA.id, "mood": "cafX"}).replace(b"cafX", b"caf\xe9")
    undated = bson.encode({"_id": bson.ObjectId(), "user": ANNA.id, "mood": "far away", "when": DatetimeMS(2**60)})
    broken, kept = (interpret(MOOD, bson.decode(data, SOURCE_CODEC)) for data in (spoilt, undated))
    assert broken.verdict is Verdict.INVALID
    assert "UTF-8" in broken.reason
    assert (kept.verdict, len(kept.warnings)) == (Verdict.ELIGIBLE, 1)


def test_an_attempt_with_a_broken_text_can_be_kept(mongo_database: Mongo) -> None:
    """OPS-2: whatever words a failure has, they are stored, shortened."""
    ledger = MongoLedger(mongo_database)
    line = Attempt(datetime(2026, 1, 1, tzinfo=UTC), "run", Stage.WRITE, State.QUARANTINED, "x", "\ud800" * 9_000)
    ledger.save([LedgerEntry("mood:1", "mood", "1", ANNA.id, "anna", State.QUARANTINED, Stage.WRITE, history=(line,))])
    (entry,) = ledger.load(ANNA, MOOD).values()
    assert entry.history[0].message is not None
    assert len(entry.history[0].message) == 500
