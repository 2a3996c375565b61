"""How the client sends and fetches blobs, and what it makes of answers."""

from __future__ import annotations

import httpx
import pytest

from ac_pipeline.atproto.client import DEFAULT_BLOB_LIMIT, PdsClient
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.errors import (
    AccountInactive,
    AccountUnknown,
    BlobMissing,
    InvalidRecord,
    ServerFailed,
    TooLarge,
)
from ac_pipeline_tests.unit.atproto.client.scripted_pds import ALICE, DATA, DID, Reply, Server, refusal, taken


def test_a_blob_comes_back_as_it_was_declared(client: PdsClient, server: Server) -> None:
    """MEDIA-2"""
    server.answers("uploadBlob", taken(DATA, "image/png"))

    blob = client.upload_blob(ALICE, DATA, "image/png")

    assert (blob.cid, blob.mime_type, blob.size) == (blob_cid(DATA), "image/png", len(DATA))
    (request,) = server.asked("uploadBlob")
    assert request.headers["content-type"] == "image/png"
    assert request.headers["content-length"] == str(len(DATA))
    assert "transfer-encoding" not in request.headers
    assert request.content == DATA


@pytest.mark.parametrize(
    "reply",
    [
        taken(DATA, "image/jpeg"),
        taken(DATA, "image/png", size=len(DATA) + 1),
        taken(DATA, "image/png", cid=blob_cid(b"else")),
    ],
)
def test_a_blob_that_comes_back_as_something_else_is_an_error(client: PdsClient, server: Server, reply: Reply) -> None:
    """MEDIA-2: declared type = sniffed type = returned type; the same for CID and size."""
    server.answers("uploadBlob", reply)

    with pytest.raises(InvalidRecord, match=blob_cid(DATA)):
        client.upload_blob(ALICE, DATA, "image/png")

    assert len(server.asked("uploadBlob")) == 2


def test_another_request_s_answer_to_an_upload_is_no_verdict(client: PdsClient, server: Server) -> None:
    """ANSWER-1: well-formed answers that differ each time say nothing of the blob; the same one twice does."""
    others = [taken(name, "image/png") for name in (b"a", b"b", b"c", b"d")]
    server.answers("uploadBlob", others[0], taken(DATA, "image/png"))
    assert client.upload_blob(ALICE, DATA, "image/png").cid == blob_cid(DATA)

    server.answers("uploadBlob", *others)
    with pytest.raises(ServerFailed, match="otherwise each time"):
        client.upload_blob(ALICE, DATA, "image/png")


@pytest.mark.parametrize("size", [1000, 1001])
def test_a_blob_over_the_server_s_limit_is_not_sent(client: PdsClient, server: Server, size: int) -> None:
    """MEDIA-14, LIMIT-4: the limit is the one `describeServer` names, asked once."""
    data = b"x" * size
    server.answers("uploadBlob", taken(data, "image/png"))

    for _ in range(2):
        if size == 1000:
            client.upload_blob(ALICE, data, "image/png")
        else:
            with pytest.raises(TooLarge, match="1001 bytes"):
                client.upload_blob(ALICE, data, "image/png")

    assert len(server.asked("uploadBlob")) == (2 if size == 1000 else 0)
    assert len(server.asked("describeServer")) == 1


def test_a_server_that_names_no_blob_limit_has_the_default_one(client: PdsClient, server: Server) -> None:
    server.answers("describeServer", httpx.Response(200, json={"did": "did:web:x", "availableUserDomains": [".x"]}))

    assert client.blob_limit() == DEFAULT_BLOB_LIMIT == 5_242_880


@pytest.mark.parametrize("failure", [httpx.ReadError("reset"), httpx.Response(502), httpx.ConnectError("refused")])
def test_an_upload_is_repeated_as_it_is_harmless(client: PdsClient, server: Server, failure: Reply) -> None:
    """LIMIT-10: re-upload is idempotent."""
    server.answers("uploadBlob", failure, failure, failure, taken(DATA, "image/png"))

    client.upload_blob(ALICE, DATA, "image/png")

    assert server.slept == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("head", "get", "expected"),
    [
        (httpx.Response(200), None, True),
        (httpx.Response(200, html="portal"), httpx.Response(200, html="portal"), ServerFailed),
        (httpx.Response(400), refusal(400, "InvalidRequest", "Blob not found"), False),
        (httpx.Response(404), refusal(404, "BlobNotFound"), False),
        (httpx.Response(405), httpx.Response(200, content=DATA), True),
        (httpx.Response(400), refusal(400, "RepoNotFound"), AccountUnknown),
        (httpx.Response(400), refusal(400, "RepoTakendown"), AccountInactive),
        (httpx.Response(404), httpx.Response(404, text="<html>"), ServerFailed),
        (httpx.Response(500), refusal(500, "InternalServerError"), ServerFailed),
    ],
)
def test_only_the_server_s_own_word_makes_a_blob_missing(
    client: PdsClient,
    server: Server,
    head: httpx.Response,
    get: httpx.Response | None,
    expected: bool | type[Exception],
) -> None:
    """VERIFY-5: a failed read is not "missing"."""
    server.answers("getBlob", head, *([get] if get else []))
    if isinstance(expected, bool):
        assert client.has_blob(DID, blob_cid(DATA)) is expected
        assert [request.method for request in server.asked("getBlob")] == (["HEAD", "GET"] if get else ["HEAD"])
    else:
        server.answers("getBlob", *([head] * (4 if head.status_code >= 500 else 1)), get or head)
        with pytest.raises(expected):
            client.has_blob(DID, blob_cid(DATA))


def test_the_bytes_of_a_blob_are_checked_against_its_cid(client: PdsClient, server: Server) -> None:
    server.answers("getBlob", httpx.Response(200, content=DATA))

    assert client.get_blob(DID, blob_cid(DATA)) == DATA
    with pytest.raises(ServerFailed, match="other bytes"):
        client.get_blob(DID, blob_cid(b"else"))

    server.answers("getBlob", refusal(400, "InvalidRequest", "Blob not found"))
    with pytest.raises(BlobMissing):
        client.get_blob(DID, blob_cid(DATA))
