"""What only a real PDS can show of the port `DataServer`: sessions, limits, logs."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import (
    BlobMissing,
    PipelineError,
    RateLimited,
)
from ac_pipeline.mongo.ledger.collections import MongoBudgetStore
from ac_pipeline_tests.conftest import Pds
from ac_pipeline_tests.contract.data_servers import NOWHERE, PAINTING, PNG, Connect, create, did_of, painting
from ac_pipeline_tests.memory_sessions import MemorySessionStore


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
    server = Pds(tmp_path, PDS_RATE_LIMITS_ENABLED="true", PDS_RATE_LIMIT_BYPASS_KEY="a-bypass-key")
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
