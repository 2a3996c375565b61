"""The contract of the port `DataServer`: blobs. Held in memory and on a real PDS."""

from __future__ import annotations

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import (
    BlobMissing,
    InvalidRecord,
    TooLarge,
)
from ac_pipeline.items import BlobRef
from ac_pipeline.sync.ports import DataServer
from ac_pipeline_tests.contract.data_servers import PAINTING, PNG, World, create, did_of, painting


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
