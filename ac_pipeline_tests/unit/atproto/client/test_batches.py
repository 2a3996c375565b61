"""How the client sends batches: what it repeats, and what it makes of answers that are none."""

from __future__ import annotations

import json
from functools import partial

import httpx
import pytest

from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.rate_limits import HOUR, MemoryBudgetStore, Pace
from ac_pipeline.atproto.types import Commit, Write
from ac_pipeline.errors import (
    OutcomeUnknown,
    RateLimited,
    ServerFailed,
    ServiceUnreachable,
    TooLarge,
)
from ac_pipeline_tests.unit.atproto.client.scripted_pds import (
    ALICE,
    BYPASS,
    CREATE,
    DELETE,
    DID,
    HEAD,
    MOOD,
    RECORD,
    START,
    UPDATE,
    Reply,
    Server,
    accepted,
    make,
    refusal,
)


def test_a_batch_is_sent_once_and_its_commit_returned(client: PdsClient, server: Server) -> None:
    server.answers("applyWrites", accepted(CREATE, UPDATE, DELETE))

    commit = client.apply_writes(ALICE, [CREATE, UPDATE, DELETE], swap_commit=HEAD)

    assert commit == Commit(HEAD, "3n2s7vbnqt222", (RECORD, RECORD, None))
    (request,) = server.asked("applyWrites")
    assert request.headers["authorization"] == "Bearer access-secret-1"
    assert request.headers["x-ratelimit-bypass"] == BYPASS
    assert request.headers["content-type"] == "application/json"
    body = json.loads(request.content)
    assert (body["repo"], body["swapCommit"], len(body["writes"])) == (DID, HEAD, 3)
    assert "validate" not in body


@pytest.mark.parametrize("error", ["ExpiredToken", "InvalidToken"])
@pytest.mark.parametrize("status", [400, 401])
def test_an_expired_token_is_renewed_and_the_batch_sent_again(
    client: PdsClient, server: Server, status: int, error: str
) -> None:
    """LIMIT-7: refreshed on `ExpiredToken`; the refused batch certainly did not happen."""
    server.answers("applyWrites", refusal(status, error), accepted(CREATE))

    client.apply_writes(ALICE, [CREATE], swap_commit=None)

    first, second = server.asked("applyWrites")
    assert first.headers["authorization"] == "Bearer access-secret-1"
    assert second.headers["authorization"] == "Bearer access-secret-2"
    assert first.content == second.content
    (refresh,) = server.asked("refreshSession")
    assert refresh.headers["authorization"] == "Bearer refresh-secret-1"
    assert len(server.asked("createSession")) == 1


def test_a_revoked_session_is_signed_in_again_once(client: PdsClient, server: Server) -> None:
    """LIMIT-7"""
    server.answers("applyWrites", refusal(400, "ExpiredToken"), accepted(CREATE))
    server.answers("refreshSession", refusal(400, "ExpiredToken", "Token has been revoked"))

    client.apply_writes(ALICE, [CREATE], swap_commit=None)

    assert len(server.asked("createSession")) == 2
    assert len(server.asked("refreshSession")) == 1


def test_a_server_that_refuses_its_own_sessions_is_asked_twice_only(client: PdsClient, server: Server) -> None:
    server.answers("applyWrites", refusal(400, "ExpiredToken"))

    with pytest.raises(ServerFailed, match="just given"):
        client.apply_writes(ALICE, [CREATE], swap_commit=None)

    assert len(server.asked("applyWrites")) == 2


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(500, json={"error": "InternalServerError", "message": "Internal Server Error"}),
        httpx.Response(502, text="<html>Bad Gateway</html>"),
        httpx.Response(409, json={"error": "Conflict"}),
        httpx.ReadTimeout("timed out"),
        httpx.WriteTimeout("timed out"),
        httpx.ReadError("connection reset"),
        httpx.RemoteProtocolError("server disconnected without sending a response"),
        httpx.Response(200, text="not JSON"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={}),
        httpx.Response(204),
        accepted(),
        accepted(CREATE, UPDATE),
        accepted(UPDATE),
        httpx.Response(200, json={"commit": {"cid": HEAD}, "results": [{}]}),
        httpx.Response(
            200,
            json={
                "commit": {"cid": HEAD, "rev": "r"},
                "results": [{"uri": f"at://{DID}/{MOOD}/a", "cid": RECORD, "validationStatus": "invalid"}],
            },
        ),
    ],
)
def test_a_batch_without_a_clear_answer_is_never_repeated(client: PdsClient, server: Server, reply: Reply) -> None:
    """WRITE-7, WRITE-8: the outcome is unknown and is read back before any retry."""
    server.answers("applyWrites", reply)

    with pytest.raises(OutcomeUnknown):
        client.apply_writes(ALICE, [CREATE], swap_commit=None)

    assert len(server.asked("applyWrites")) == 1
    assert server.slept == []


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("full")]
)
def test_a_batch_that_never_left_is_sent_again(client: PdsClient, server: Server, error: Exception) -> None:
    """LIMIT-10: transient errors back off, with a bound."""
    server.answers("applyWrites", error, error, error, accepted(CREATE))

    assert client.apply_writes(ALICE, [CREATE], swap_commit=None).cid == HEAD
    assert server.slept == [0.5, 1.0, 2.0]

    server.answers("applyWrites", error)
    with pytest.raises(ServiceUnreachable, match="Check PDS_URL"):
        client.apply_writes(ALICE, [CREATE], swap_commit=None)
    assert len(server.asked("applyWrites")) == 8


@pytest.mark.parametrize("count", [200, 201])
def test_a_batch_over_the_operation_cap_is_not_sent(client: PdsClient, server: Server, count: int) -> None:
    """WRITE-4: 200 operations."""
    writes = [Write("delete", MOOD, f"k{n}") for n in range(count)]
    server.answers("applyWrites", accepted(*writes))

    if count == 200:
        client.apply_writes(ALICE, writes, swap_commit=None)
    else:
        with pytest.raises(TooLarge):
            client.apply_writes(ALICE, writes, swap_commit=None)
    assert len(server.asked("applyWrites")) == (1 if count == 200 else 0)


def test_a_refused_batch_waits_for_its_reset(client: PdsClient, server: Server) -> None:
    """LIMIT-1: after a 429 nothing goes to that bucket before its reset; a refused batch is not repeated by itself."""
    limits = {
        "RateLimit-Limit": "5000",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": str(int(START) + 20),
        "RateLimit-Policy": "5000;w=3600",
        "Retry-After": "20",
    }
    server.answers(
        "applyWrites", httpx.Response(429, json={"error": "RateLimitExceeded"}, headers=limits), accepted(CREATE)
    )

    with pytest.raises(RateLimited) as caught:
        client.apply_writes(ALICE, [CREATE], swap_commit=None)
    assert caught.value.retry_after == 20.0
    assert len(server.asked("applyWrites")) == 1

    client.apply_writes(ALICE, [CREATE], swap_commit=None)
    assert server.now == START + 20


def test_a_far_reset_is_not_waited_for_and_nothing_is_sent(client: PdsClient, server: Server) -> None:
    """LIMIT-1, LIMIT-8"""
    server.answers("applyWrites", httpx.Response(429, headers={"Retry-After": "3000"}))
    with pytest.raises(RateLimited):
        client.apply_writes(ALICE, [CREATE], swap_commit=None)

    with pytest.raises(RateLimited) as caught:
        client.apply_writes(ALICE, [CREATE], swap_commit=None)

    assert caught.value.retry_after == 3000.0
    assert len(server.asked("applyWrites")) == 1
    assert server.slept == []


def test_the_relays_hour_is_asked_before_anything_is_sent(server: Server) -> None:
    """LIMIT-9: by every commit, and before the uploads for one; what deletes goes all the same."""
    store = MemoryBudgetStore()
    pace = Pace("pds.test", 1, store=store, clock=lambda: server.now, sleep=server.sleep)
    with httpx.Client(transport=httpx.MockTransport(server)) as http:
        client = make(server, http, pace=pace)
        client.reserve_commit(ALICE, [CREATE])
        client.reserve_commit(ALICE, [CREATE, DELETE])
        server.answers("applyWrites", accepted(CREATE))
        client.apply_writes(ALICE, [CREATE], swap_commit=None)
        for call in (client.reserve_commit, partial(client.apply_writes, swap_commit=None)):
            with pytest.raises(RateLimited, match="relay") as caught:
                call(ALICE, [UPDATE])
            assert caught.value.retry_after == HOUR
        assert len(server.asked("applyWrites")) == 1
        client.reserve_commit(ALICE, [DELETE])
        server.answers("applyWrites", accepted(UPDATE, DELETE))
        client.apply_writes(ALICE, [UPDATE, DELETE], swap_commit=None)
        server.now += HOUR
        client.reserve_commit(ALICE, [CREATE])
        client.release_commit(ALICE)
        server.answers("applyWrites", accepted(CREATE))
        client.apply_writes(ALICE, [CREATE], swap_commit=None)
    assert server.slept == []
