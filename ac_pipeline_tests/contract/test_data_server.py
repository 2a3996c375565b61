"""The contract of the port `DataServer`: batches, and reading them back. Held in memory and on a real PDS."""

from __future__ import annotations

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import read_repository
from ac_pipeline.atproto.syntax import record_cid
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import (
    OutcomeUnknown,
    RecordRefused,
    RepositoryMoved,
    TooLarge,
)
from ac_pipeline.items import Record
from ac_pipeline.sync.ports import DataServer
from ac_pipeline_tests.contract.data_servers import MOOD, OTHER_HEAD, PAINTING, World, create, did_of, mood


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
