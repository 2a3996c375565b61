"""The contract of the port `DataServer`, held by the PDS in memory and by the client on a real PDS.

What only a real PDS can show (sessions, limits, logs) comes at the end.
"""

from __future__ import annotations

import base64
import logging
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from pymongo.database import Database

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.buckets import BudgetStore
from ac_pipeline.atproto.budget import Budget
from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.messages import Write
from ac_pipeline.atproto.repository import read_repository
from ac_pipeline.atproto.sessions import MemorySessionStore, Sessions, Tokens
from ac_pipeline.atproto.syntax import blob_cid, record_cid
from ac_pipeline.atproto.transport import open_http
from ac_pipeline.errors import (
    AccountInactive,
    AccountUnknown,
    BlobMissing,
    InvalidRecord,
    NoCredentials,
    OutcomeUnknown,
    PipelineError,
    RateLimited,
    RecordRefused,
    RepositoryMoved,
    TooLarge,
    WrongPassword,
)
from ac_pipeline.items import BlobRef, Record
from ac_pipeline.local.pds_server import PdsOptions
from ac_pipeline.mongo.budgets import MongoBudgetStore
from ac_pipeline.sync.ports import DataServer
from ac_pipeline_tests import pds_folder
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.memory_pds import MemoryPds

MOOD = "computer.aesthetic.mood"
PAINTING = "computer.aesthetic.painting"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""
NOWHERE = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
OTHER_HEAD = "bafyreidlnubb7khzevumufw3ktlidl67pv2qvvyewfsaqzezdi5qsxv5yy"


class World(Protocol):
    """A data server, and what its operator can do to accounts."""

    server: DataServer

    def create_account(self) -> Account: ...

    def deactivate(self, account: Account) -> None: ...

    def take_down(self, account: Account) -> None: ...

    def lose_bytes(self, account: Account, cid: str) -> None: ...

    def forget_blob(self, account: Account, cid: str) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.pds = MemoryPds()
        self.server: DataServer = self.pds

    def create_account(self) -> Account:
        return self.pds.create_account()

    def deactivate(self, account: Account) -> None:
        self.pds.set_status(account, "deactivated")

    def take_down(self, account: Account) -> None:
        self.pds.set_status(account, "takendown")

    def lose_bytes(self, account: Account, cid: str) -> None:
        self.pds.lose_bytes(account, cid)

    def forget_blob(self, account: Account, cid: str) -> None:
        self.pds.lose_blob(account, cid)


class OnPds:
    def __init__(self, pds: Pds, client: PdsClient) -> None:
        self.pds = pds
        self.server: DataServer = client

    def create_account(self) -> Account:
        return self.pds.create_account()

    def deactivate(self, account: Account) -> None:
        self.pds.accounts.deactivate(self.pds.token(account))

    def take_down(self, account: Account) -> None:
        self.pds.accounts.take_down(str(account.did))

    def lose_bytes(self, account: Account, cid: str) -> None:
        pds_folder.lose_bytes(self.pds.folder, account, cid)

    def forget_blob(self, account: Account, cid: str) -> None:
        pds_folder.forget_blob(self.pds.folder, account, cid)


Connect = Callable[..., PdsClient]


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
            return PdsClient(
                url,
                http=http,
                sessions=Sessions(store or MemorySessionStore(), clock=time.time),
                bypass_key=bypass_key,
                clock=time.time,
                sleep=sleep,
                budget=Budget(clock=time.time, sleep=time.sleep, max_wait=0.0, store=budgets),
            )

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


def mood(text: str) -> Record:
    return {"$type": MOOD, "mood": text, "when": "2026-01-02T03:04:05.006Z"}


def create(rkey: str, text: str = "glad") -> Write:
    return Write("create", MOOD, rkey, mood(text))


def did_of(account: Account) -> str:
    assert account.did is not None
    return account.did


# -------------------------------------------------------------------------------------------- batches and reading back


def test_a_fresh_repository_is_empty_and_readable(server: DataServer, account: Account) -> None:
    repository = server.read_repository(did_of(account))

    assert repository.did == account.did
    assert dict(repository.records) == {}


def test_a_downloaded_repository_is_the_one_that_is_read(world: World, account: Account) -> None:
    """PLAN-5: what a snapshot keeps is what a wipe then deletes from, head and records."""
    world.server.apply_writes(account, [create("a"), create("b", "calm")], swap_commit=None)

    car = world.server.download_repository(did_of(account))  # type: ignore[attr-defined]

    repository = world.server.read_repository(did_of(account))
    assert read_repository(car).records == repository.records
    assert read_repository(car).commit == repository.commit
    world.server.apply_writes(account, [Write("delete", MOOD, "a")], swap_commit=read_repository(car).commit)


def test_a_batch_creates_updates_and_deletes_at_once(server: DataServer, account: Account) -> None:
    """WRITE-10: an update keeps the key; REC-3: the CIDs are those computed here."""
    server.apply_writes(account, [create("a"), create("b"), create("c", "\u00fcber \U0001f600")], swap_commit=None)

    writes = [Write("update", MOOD, "a", mood("calm")), Write("delete", MOOD, "b"), create("d")]
    commit = server.apply_writes(account, writes, swap_commit=None)

    repository = server.read_repository(did_of(account))
    assert commit.cids == (record_cid(mood("calm")), None, record_cid(mood("glad")))
    assert (repository.commit, repository.rev) == (commit.cid, commit.rev)
    assert dict(repository.collection(MOOD)) == {
        "a": record_cid(mood("calm")),
        "c": record_cid(mood("\u00fcber \U0001f600")),
        "d": record_cid(mood("glad")),
    }
    assert repository.value(f"{MOOD}/c") == mood("\u00fcber \U0001f600")


def test_commits_chain_from_answer_to_answer(server: DataServer, account: Account) -> None:
    first = server.apply_writes(account, [create("a")], swap_commit=server.read_repository(did_of(account)).commit)
    second = server.apply_writes(account, [create("b")], swap_commit=first.cid)

    assert second.rev > first.rev
    assert server.read_repository(did_of(account)).commit == second.cid


def test_a_head_that_moved_refuses_the_whole_batch(server: DataServer, account: Account) -> None:
    """WRITE-9, WRITE-12: somebody else wrote in between."""
    head = server.read_repository(did_of(account)).commit
    server.apply_writes(account, [create("theirs")], swap_commit=None)

    for swap in (head, OTHER_HEAD):
        with pytest.raises(RepositoryMoved):
            server.apply_writes(account, [create("ours")], swap_commit=swap)

    assert [rkey for rkey, _ in server.read_repository(did_of(account)).collection(MOOD)] == ["theirs"]


def test_a_moved_head_is_named_before_a_key_that_exists(server: DataServer, account: Account) -> None:
    """WRITE-8: so a blind repeat of a chained batch gives a named error."""
    head = server.read_repository(did_of(account)).commit
    server.apply_writes(account, [create("a")], swap_commit=head)

    with pytest.raises(RepositoryMoved):
        server.apply_writes(account, [create("a")], swap_commit=head)


@pytest.mark.parametrize(
    "bad",
    [create("a", "twice"), Write("update", MOOD, "missing", mood("calm")), Write("delete", MOOD, "missing")],
    ids=["create of an existing key", "update of a missing key", "delete of a missing key"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_key_that_exists_or_is_missing_leaves_the_outcome_to_be_read(
    server: DataServer, account: Account, bad: Write, place: int
) -> None:
    """WRITE-7: the batch is atomic: nothing of it happened, and nothing that was there changed."""
    server.apply_writes(account, [create("a")], swap_commit=None)
    before = server.read_repository(did_of(account))
    writes = [create("x"), create("y")]
    writes.insert(place, bad)

    with pytest.raises(OutcomeUnknown) as caught:
        server.apply_writes(account, writes, swap_commit=None)

    assert caught.value.status == 500
    assert server.read_repository(did_of(account)) == before


@pytest.mark.parametrize(
    "value",
    [
        {"$type": PAINTING, "mood": "glad"},
        {"mood": "glad", "$type": MOOD, "size": 1.5},
    ],
    ids=["type of another collection", "float"],
)
def test_a_bad_record_is_refused_with_the_server_s_words(server: DataServer, account: Account, value: Record) -> None:
    """WRITE-6: no part of its batch happened."""
    with pytest.raises(RecordRefused) as caught:
        server.apply_writes(account, [create("a"), Write("create", MOOD, "b", value)], swap_commit=None)

    assert caught.value.status == 400
    assert (caught.value.answer or "").startswith("InvalidRequest: ")
    assert dict(server.read_repository(did_of(account)).records) == {}


def test_a_bad_record_key_is_refused(server: DataServer, account: Account) -> None:
    with pytest.raises(RecordRefused):
        server.apply_writes(account, [create("a b")], swap_commit=None)


@pytest.mark.parametrize("count", [200, 201])
def test_two_hundred_operations_are_a_batch(server: DataServer, account: Account, count: int) -> None:
    """WRITE-4"""
    writes = [create(f"k{number:03d}") for number in range(count)]

    if count == 200:
        assert len(server.apply_writes(account, writes, swap_commit=None).cids) == 200
    else:
        with pytest.raises(TooLarge):
            server.apply_writes(account, writes, swap_commit=None)


def test_a_body_over_the_byte_cap_is_too_large(server: DataServer, account: Account) -> None:
    """WRITE-5: 413, after which the next request works."""
    with pytest.raises(TooLarge) as caught:
        server.apply_writes(account, [create("a", "x" * 1_000_001)], swap_commit=None)
    assert caught.value.status == 413

    server.apply_writes(account, [create("a", "x" * 900_000)], swap_commit=None)
    server.apply_writes(account, [create("b")], swap_commit=None)


# --------------------------------------------------------------------------------------------------------------- blobs


def painting(blob: BlobRef) -> Record:
    return {"$type": PAINTING, "slug": "s", "thumbnail": blob.to_json()}


def test_a_blob_is_kept_once_a_record_refers_to_it(server: DataServer, account: Account) -> None:
    """MEDIA-2: declared type = returned type, CID and size those of the bytes; VERIFY-5."""
    did = did_of(account)
    blob = server.upload_blob(account, PNG, "image/png")
    assert blob == BlobRef(blob_cid(PNG), "image/png", len(PNG))
    assert server.has_blob(did, blob.cid) is False

    server.apply_writes(account, [Write("create", PAINTING, "p", painting(blob))], swap_commit=None)
    assert server.has_blob(did, blob.cid) is True
    assert server.read_repository(did).blobs() == {blob.cid}

    server.apply_writes(account, [Write("delete", PAINTING, "p")], swap_commit=None)
    assert server.read_repository(did).blobs() == set()


def test_uploading_a_blob_again_changes_nothing(server: DataServer, account: Account) -> None:
    assert server.upload_blob(account, PNG, "image/png") == server.upload_blob(account, PNG, "image/png")


def with_blob(server: DataServer, account: Account) -> BlobRef:
    """A blob of two records, `p` and `q`."""
    blob = server.upload_blob(account, PNG, "image/png")
    writes = [Write("create", PAINTING, rkey, painting(blob)) for rkey in "pq"]
    server.apply_writes(account, writes, swap_commit=None)
    return blob


def test_a_blob_that_the_server_has_forgotten_is_taken_again(world: World, account: Account) -> None:
    """VERIFY-5: for good, since a record refers to it."""
    blob = with_blob(world.server, account)
    world.forget_blob(account, blob.cid)
    assert world.server.has_blob(did_of(account), blob.cid) is False

    world.server.upload_blob(account, PNG, "image/png")

    assert world.server.has_blob(did_of(account), blob.cid) is True


def test_a_blob_whose_bytes_are_lost_is_only_taken_again_once_no_record_refers_to_it(
    world: World, account: Account
) -> None:
    """VERIFY-5: neither an upload nor an update that keeps the reference brings it back."""
    server, did = world.server, did_of(account)
    blob = with_blob(server, account)
    world.lose_bytes(account, blob.cid)
    assert server.has_blob(did, blob.cid) is False

    server.upload_blob(account, PNG, "image/png")
    assert server.has_blob(did, blob.cid) is False
    server.apply_writes(account, [Write("update", PAINTING, "p", painting(blob) | {"x": "y"})], swap_commit=None)
    server.upload_blob(account, PNG, "image/png")
    assert server.has_blob(did, blob.cid) is False
    bare = {"$type": PAINTING, "slug": "s"}
    server.apply_writes(account, [Write("update", PAINTING, "p", bare)], swap_commit=None)
    server.upload_blob(account, PNG, "image/png")
    assert server.has_blob(did, blob.cid) is False, "the other record refers to it still"

    server.apply_writes(account, [Write("update", PAINTING, "q", bare)], swap_commit=None)
    server.upload_blob(account, PNG, "image/png")
    writes = [Write("update", PAINTING, rkey, painting(blob)) for rkey in "pq"]
    server.apply_writes(account, writes, swap_commit=None)
    assert server.has_blob(did, blob.cid) is True


def test_a_blob_declared_as_what_it_is_not_is_an_error(server: DataServer, account: Account) -> None:
    """MEDIA-2"""
    with pytest.raises(InvalidRecord, match="image/png"):
        server.upload_blob(account, PNG, "image/jpeg")


def test_a_record_whose_blob_is_not_there_is_not_written(server: DataServer, account: Account) -> None:
    """MEDIA-15, MEDIA-16"""
    blob = BlobRef(blob_cid(b"never uploaded"), "image/png", 14)

    with pytest.raises(BlobMissing) as caught:
        server.apply_writes(account, [create("a"), Write("create", PAINTING, "p", painting(blob))], swap_commit=None)

    assert blob.cid in caught.value.message
    assert dict(server.read_repository(did_of(account)).records) == {}
    assert server.has_blob(did_of(account), blob.cid) is False


def test_a_blob_over_the_limit_is_refused_before_it_is_sent(server: DataServer, account: Account) -> None:
    """MEDIA-14, LIMIT-4"""
    limit = server.blob_limit()
    assert limit == 100 * 2**20
    with pytest.raises(TooLarge, match=str(limit + 1)):
        server.upload_blob(account, bytes(limit + 1), "video/mp4")


# ------------------------------------------------------------------------------------------------------------ accounts


def refused(account: Account, server: DataServer, expected: type[PipelineError]) -> None:
    with pytest.raises(expected) as caught:
        server.apply_writes(account, [create("x")], swap_commit=None)
    with pytest.raises(expected):
        server.upload_blob(account, PNG, "image/png")
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value.answer)
    assert account.password is None or account.password not in text


def test_a_wrong_password_blocks_the_account_and_no_other(world: World, account: Account) -> None:
    """ACCT-2, ACCT-5"""
    refused(replace(account, password="not-the-one-it-has"), world.server, WrongPassword)

    assert world.server.apply_writes(world.create_account(), [create("a")], swap_commit=None)


def test_an_account_that_is_not_there_is_not_an_empty_repository(server: DataServer, account: Account) -> None:
    """ACCT-2, DEL-5: a PDS does not say which of DID and password is wrong."""
    refused(replace(account, did=NOWHERE), server, WrongPassword)
    with pytest.raises(AccountUnknown):
        server.read_repository(NOWHERE)
    with pytest.raises(AccountUnknown):
        server.has_blob(NOWHERE, blob_cid(PNG))
    with pytest.raises(AccountUnknown):
        server.latest_commit(NOWHERE)


@pytest.mark.parametrize("lacking", ["did", "password"])
def test_an_account_without_credentials_is_not_signed_in(server: DataServer, account: Account, lacking: str) -> None:
    """ACCT-1"""
    with pytest.raises(NoCredentials):
        server.apply_writes(replace(account, **{lacking: None}), [create("x")], swap_commit=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("signed_in", [False, True])
@pytest.mark.parametrize("state", ["deactivated", "takendown"])
def test_an_inactive_account_is_blocked_with_the_server_s_reason(world: World, state: str, signed_in: bool) -> None:
    """ACCT-2: whether it was signed in before or not; its repository is unreadable, not empty."""
    account = world.create_account()
    if signed_in:
        world.server.apply_writes(account, [create("a")], swap_commit=None)
    (world.deactivate if state == "deactivated" else world.take_down)(account)

    with pytest.raises(AccountInactive) as caught:
        world.server.apply_writes(account, [create("b")], swap_commit=None)
    assert "eactivat" in str(caught.value.answer) or "ake" in str(caught.value.answer)
    with pytest.raises(AccountInactive):
        world.server.read_repository(did_of(account))
    with pytest.raises(AccountInactive):
        world.server.has_blob(did_of(account), blob_cid(PNG))
    with pytest.raises(AccountInactive):
        world.server.latest_commit(did_of(account))
    (status,) = [status for status in world.server.list_repositories() if status.did == account.did]
    assert (status.active, status.status) == (False, state)


def test_the_latest_commit_is_that_of_the_repository_and_of_the_last_answer(
    server: DataServer, account: Account
) -> None:
    """VERIFY-9, VERIFY-11: one small request tells whether a repository has to be read."""
    fresh, before = server.latest_commit(did_of(account)), server.read_repository(did_of(account))
    assert (fresh.did, fresh.head, fresh.rev) == (account.did, before.commit, before.rev)
    commit = server.apply_writes(account, [create("a")], swap_commit=None)

    latest = server.latest_commit(did_of(account))

    assert (latest.head, latest.rev, latest.active, latest.status) == (commit.cid, commit.rev, True, None)
    assert latest.rev > fresh.rev


def test_the_list_of_repositories_names_every_head(server: DataServer, world: World) -> None:
    """VERIFY-9, VERIFY-11: what did not change need not be read."""
    accounts = [world.create_account() for _ in range(3)]
    commit = server.apply_writes(accounts[0], [create("a")], swap_commit=None)

    listed = {status.did: status for status in server.list_repositories()}

    assert {did_of(account) for account in accounts} <= listed.keys()
    first = listed[did_of(accounts[0])]
    assert (first.head, first.rev, first.active, first.status) == (commit.cid, commit.rev, True, None)
    for account in accounts:
        assert listed[did_of(account)].head == server.read_repository(did_of(account)).commit


# ------------------------------------------------------------------------------------------------- on a real PDS alone


def test_one_sign_in_serves_many_calls_and_the_next_run(pds: Pds, connect: Connect) -> None:
    """LIMIT-7"""
    store, account = MemorySessionStore(), pds.create_account()
    first, second = connect(pds.url, store), connect(pds.url, store)
    for number in range(5):
        first.apply_writes(account, [create(f"a{number}")], swap_commit=None)
    second.apply_writes(account, [create("b")], swap_commit=None)

    assert first.usage().requests["create_session"] == 1
    assert second.usage().requests["create_session"] == 0


def test_a_refused_token_is_refreshed_and_a_refused_session_signed_in_again(pds: Pds, connect: Connect) -> None:
    """LIMIT-7, ACCT-5: the batch is written once, whatever became of the tokens."""
    store, account = MemorySessionStore(), pds.create_account()
    connect(pds.url, store).apply_writes(account, [create("a")], swap_commit=None)
    kept = store.load(did_of(account))
    assert kept is not None

    store.save(did_of(account), Tokens("not.a.token", kept.refresh))
    client = connect(pds.url, store)
    client.apply_writes(account, [create("b")], swap_commit=None)
    assert client.usage().requests["create_session"] == 0

    store.save(did_of(account), Tokens("not.a.token", "nor.is.this"))
    client = connect(pds.url, store)
    client.apply_writes(account, [create("c")], swap_commit=None)
    assert client.usage().requests["create_session"] == 1
    assert len(client.read_repository(did_of(account)).records) == 3


def test_the_bytes_of_a_blob_come_back(pds: Pds, connect: Connect) -> None:
    client, account = connect(pds.url), pds.create_account()
    blob = client.upload_blob(account, PNG, "image/png")
    with pytest.raises(BlobMissing):
        client.get_blob(did_of(account), blob.cid)
    client.apply_writes(account, [Write("create", PAINTING, "p", painting(blob))], swap_commit=None)

    assert client.get_blob(did_of(account), blob.cid) == PNG


def test_a_real_run_leaves_no_secret_in_the_log(pds: Pds, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """ACCT-5: with everything logged that the libraries can log."""
    caplog.set_level(logging.DEBUG)
    store, account = MemorySessionStore(), pds.create_account()
    client = connect(pds.url, store, bypass_key="a-bypass-key-to-hide")
    client.apply_writes(account, [create("a")], swap_commit=None)
    client.upload_blob(account, PNG, "image/png")
    client.read_repository(did_of(account))
    tokens = store.load(did_of(account))
    assert tokens is not None
    assert account.password is not None

    assert "applyWrites" in caplog.text
    for secret in (tokens.access, tokens.refresh, account.password, "a-bypass-key-to-hide"):
        assert secret not in caplog.text


def test_every_request_and_byte_is_counted(pds: Pds, connect: Connect) -> None:
    """The report of a sync (design, section 6)."""
    client, account = connect(pds.url), pds.create_account()
    client.apply_writes(account, [create("a", "x" * 5000)], swap_commit=None)
    before = client.usage()
    client.read_repository(did_of(account))
    used = client.usage() - before

    assert used.requests == {
        "apply_writes": 0, "upload_blob": 0, "get_repo": 1, "list_repos": 0, "create_session": 0, "other": 0
    }  # fmt: skip
    assert used.bytes_downloaded > 5000
    assert before.bytes_uploaded > 5000


@pytest.fixture
def limited_pds(tmp_path: Path) -> Iterator[Pds]:
    """A real PDS with the limits of the official installer."""
    server = Pds(tmp_path, PdsOptions(rate_limits=True, bypass_key="a-bypass-key"))
    yield server
    server.close()


def test_points_are_learned_and_never_overdrawn(limited_pds: Pds, connect: Connect) -> None:
    """LIMIT-1, LIMIT-2, LIMIT-4, LIMIT-5: 5,000 points an hour are 8 batches of 200; the ninth is not sent."""
    client, account = connect(limited_pds.url), limited_pds.create_account()
    for batch in range(8):
        client.apply_writes(account, [create(f"k{batch}-{number:03d}") for number in range(200)], swap_commit=None)

    with pytest.raises(RateLimited) as caught:
        client.apply_writes(account, [create(f"z{number:03d}") for number in range(200)], swap_commit=None)

    assert caught.value.status is None  # our own word, not a 429
    assert 3500 < (caught.value.retry_after or 0) <= 3600
    assert client.usage().requests["apply_writes"] == 8
    client.apply_writes(account, [create(f"z{number:03d}") for number in range(66)], swap_commit=None)
    client.apply_writes(limited_pds.create_account(), [create("a")], swap_commit=None)


def test_points_that_one_run_has_spent_are_not_sent_for_by_the_next(
    limited_pds: Pds, connect: Connect, mongo: Database[dict[str, Any]]
) -> None:
    """RUN-8, LIMIT-5: runs are processes of their own; the second one sends nothing to find out."""
    sessions, account = MemorySessionStore(), limited_pds.create_account()
    budgets = MongoBudgetStore(mongo["budgets"])
    first = connect(limited_pds.url, sessions, budgets=budgets)
    for batch in range(8):
        first.apply_writes(account, [create(f"k{batch}-{number:03d}") for number in range(200)], swap_commit=None)

    second = connect(limited_pds.url, sessions, budgets=budgets)
    with pytest.raises(RateLimited) as caught:
        second.apply_writes(account, [create(f"z{number:03d}") for number in range(200)], swap_commit=None)
    assert 3500 < (caught.value.retry_after or 0) <= 3600
    assert second.usage().requests["apply_writes"] == 0
    second.apply_writes(account, [create(f"z{number:03d}") for number in range(66)], swap_commit=None)


def test_a_real_429_names_the_time_to_come_back(limited_pds: Pds, connect: Connect) -> None:
    """LIMIT-1: a limit that was reached elsewhere; the bypass key lifts it."""
    store, account = MemorySessionStore(), limited_pds.create_account()
    for batch in range(8):
        writes = [create(f"k{batch}-{number:03d}") for number in range(200)]
        connect(limited_pds.url, store).apply_writes(account, writes, swap_commit=None)
    client = connect(limited_pds.url, store)

    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            client.apply_writes(account, [create(f"z{number:03d}") for number in range(200)], swap_commit=None)
        assert 3500 < (caught.value.retry_after or 0) <= 3600
    assert client.usage().requests["apply_writes"] == 1

    lifted = connect(limited_pds.url, bypass_key="a-bypass-key")
    lifted.apply_writes(account, [create(f"z{number:03d}") for number in range(200)], swap_commit=None)


def test_a_server_that_is_not_there_is_unreachable(connect: Connect, unused_address: str) -> None:
    """LIMIT-10: nothing was sent, so a batch may be sent again."""
    slept: list[float] = []
    client = connect(unused_address, sleep=slept.append)
    with pytest.raises(PipelineError, match="Check PDS_URL") as caught:
        client.read_repository(NOWHERE)
    assert caught.value.code == "service-unreachable"
    assert slept == [0.5, 1.0, 2.0]


@pytest.fixture
def unused_address() -> Iterator[str]:
    """An address whose port is taken by a socket that does not listen."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"
