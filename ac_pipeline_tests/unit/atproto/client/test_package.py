"""Calls by the models of the `atproto` package: sent, repeated and refused as all others are."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from ac_pipeline.atproto.admin import Administration
from ac_pipeline.atproto.rate_limits import Budget, Pace
from ac_pipeline.atproto.sessions import Sessions, SignIn
from ac_pipeline.atproto.transport import Transport
from ac_pipeline.errors import HandleRefused, OutcomeUnknown, PipelineError, RateLimited, ServiceUnreachable
from ac_pipeline_tests.memory_sessions import MemorySessionStore
from ac_pipeline_tests.unit.atproto.client.scripted_pds import BYPASS, DID, URL, Server, refusal

INVITE = "pds-test-abcde-fghij"


@pytest.fixture
def administration(server: Server) -> Iterator[Administration]:
    def clock() -> float:
        return server.now

    headers = {"User-Agent": "ac-pipeline/0"}
    with httpx.Client(transport=httpx.MockTransport(server), headers=headers, follow_redirects=False) as http:
        budget = Budget(clock=clock, sleep=server.sleep, max_wait=30.0)
        transport = Transport(URL, http=http, budget=budget, bypass_key=BYPASS, clock=clock, sleep=server.sleep)
        sessions = Sessions(MemorySessionStore(), SignIn(transport), clock=clock)
        yield Administration(transport, sessions, Pace("pds.test", 0), "admin-password")


def test_the_package_sends_over_our_connection_and_says_who_we_are(
    administration: Administration, server: Server
) -> None:
    server.answers("createInviteCode", httpx.Response(200, json={"code": INVITE}))
    assert administration.invite() == INVITE
    (request,) = server.asked("createInviteCode")
    assert (request.method, str(request.url)) == ("POST", f"{URL}/xrpc/com.atproto.server.createInviteCode")
    assert request.headers["user-agent"] == "ac-pipeline/0"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"].startswith("Basic ")
    assert request.headers["x-ratelimit-bypass"] == BYPASS
    assert request.content == b'{"useCount":1}'


def test_an_invite_code_that_is_not_there_is_not_sent(administration: Administration, server: Server) -> None:
    answer = {"did": DID, "handle": "new.pds.test", "accessJwt": "a", "refreshJwt": "b"}
    server.answers("createAccount", httpx.Response(200, json=answer))
    assert administration.create_account("new.pds.test", "a@b.test", "word", None) == DID
    assert b"inviteCode" not in server.asked("createAccount")[0].content


def test_redirects_are_not_followed(administration: Administration, server: Server) -> None:
    server.answers("resolveHandle", httpx.Response(302, headers={"location": "https://elsewhere.test/"}))
    with pytest.raises(ServiceUnreachable, match="redirects are not followed"):
        administration.holder_of("alice.test")
    assert len(server.requests) == 1


def test_a_read_is_repeated_and_a_new_account_is_not(administration: Administration, server: Server) -> None:
    """LIMIT-10, ACCT-2: whoever sends them."""
    server.answers("resolveHandle", httpx.Response(502), httpx.Response(200, json={"did": DID}))
    assert administration.holder_of("alice.test") == DID
    server.answers("createAccount", httpx.Response(502))
    with pytest.raises(OutcomeUnknown):
        administration.create_account("new.pds.test", "a@b.test", "word", INVITE)
    assert len(server.asked("createAccount")) == 1


def test_refusals_have_our_names(administration: Administration, server: Server) -> None:
    server.answers("createAccount", refusal(400, "InvalidRequest", "Handle already taken: new.pds.test"))
    with pytest.raises(HandleRefused, match="already taken"):
        administration.create_account("new.pds.test", "a@b.test", "word", INVITE)
    server.answers("getAccountInfo", httpx.Response(429, json={"error": "X"}, headers={"retry-after": "900"}))
    with pytest.raises(RateLimited):
        administration.account_info(DID)


def test_an_answer_of_another_shape_is_not_repeated_to_people(administration: Administration, server: Server) -> None:
    """ACCT-5: what the package says of it holds the answer."""
    server.answers("createInviteCode", httpx.Response(200, json={"kode": INVITE, "code": [INVITE]}))
    with pytest.raises(PipelineError, match="createInviteCode for one account") as caught:
        administration.invite()
    assert INVITE not in str(caught.value)
    assert caught.value.__cause__ is None
