"""A 200 that is not what its call answers, for every call: a failed server, and never a verdict (ANSWER-1)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ac_pipeline.atproto.admin import Administration
from ac_pipeline.atproto.rate_limits import Budget, Pace
from ac_pipeline.atproto.relay import Relay
from ac_pipeline.atproto.sessions import Sessions, SignIn, expires_at
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.transport import Transport
from ac_pipeline.errors import OutcomeUnknown, Transient
from ac_pipeline_tests.car_builder import build_car
from ac_pipeline_tests.memory_sessions import MemorySessionStore
from ac_pipeline_tests.unit.atproto.client.scripted_pds import (
    ALICE,
    CREATE,
    DATA,
    DID,
    HEAD,
    REV,
    URL,
    Server,
    accepted,
    make,
    page,
    session,
    taken,
)

HANDLE = "alice.test"
OTHER = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"


class Callers:
    """Everything that calls a server, before one scripted server."""

    def __init__(self, server: Server, http: httpx.Client) -> None:
        def clock() -> float:
            return server.now

        budget = Budget(clock=clock, sleep=server.sleep)
        self.pds = make(server, http)
        self.relay = Relay("https://relay.test", http=http, clock=clock, sleep=server.sleep)
        transport = Transport(URL, http=http, budget=budget, clock=clock, sleep=server.sleep)
        sessions = Sessions(MemorySessionStore(), SignIn(transport), clock=clock)
        self.administration = Administration(transport, sessions, Pace("pds.test", 0), "admin-password")


def reply(**content: Any) -> httpx.Response:
    return httpx.Response(200, json=content)


CALLS: dict[str, tuple[str, Callable[[Callers], object], httpx.Response]] = {
    "describeServer": (
        "describeServer",
        lambda on: on.pds.blob_limit(),
        reply(did="did:web:pds.test", availableUserDomains=[".test"], blobUploadLimit=1000),
    ),
    "getRepo": (
        "getRepo",
        lambda on: on.pds.read_repository(DID).did,
        httpx.Response(200, content=build_car({}, did=DID)),
    ),
    "getLatestCommit": ("getLatestCommit", lambda on: on.pds.latest_commit(DID).rev, reply(cid=HEAD, rev=REV)),
    "listRepos": ("listRepos", lambda on: list(on.pds.list_repositories()), page(DID)),
    "getBlob": ("getBlob", lambda on: on.pds.get_blob(DID, blob_cid(DATA)), httpx.Response(200, content=DATA)),
    "applyWrites": (
        "applyWrites",
        lambda on: on.pds.apply_writes(ALICE, [CREATE], swap_commit=None).rev,
        accepted(CREATE),
    ),
    "uploadBlob": (
        "uploadBlob",
        lambda on: on.pds.upload_blob(ALICE, DATA, "image/png").cid,
        taken(DATA, "image/png"),
    ),
    "createSession": (
        "createSession",
        lambda on: on.administration.prove(ALICE) or "signed in",
        session("1"),
    ),
    "identify": (
        "createSession",
        lambda on: on.administration.identify(HANDLE, "password"),
        session("1", handle=HANDLE),
    ),
    "admin describeServer": (
        "describeServer",
        lambda on: on.administration.describe().domains,
        reply(did="did:web:pds.test", availableUserDomains=[".test"]),
    ),
    "createInviteCode": ("createInviteCode", lambda on: on.administration.invite(), reply(code="x-1")),
    "createAccount": (
        "createAccount",
        lambda on: on.administration.create_account(HANDLE, "a@b.test", "password", None),
        reply(did=DID, handle=HANDLE, accessJwt="a", refreshJwt="b"),
    ),
    "resolveHandle": ("resolveHandle", lambda on: on.administration.holder_of(HANDLE), reply(did=DID)),
    "getAccountInfo": (
        "getAccountInfo",
        lambda on: on.administration.account_info(DID).handle,
        reply(did=DID, handle=HANDLE, indexedAt="2026-01-01T00:00:00.000Z"),
    ),
    "updateAccountPassword": (
        "updateAccountPassword",
        lambda on: on.administration.update_password(DID, "password") or "done",
        httpx.Response(200),
    ),
    "relay getRepoStatus": ("getRepoStatus", lambda on: on.relay.state(DID), reply(did=DID, active=True, rev=REV)),
    "relay listRepos": ("listRepos", lambda on: list(on.relay.states()), page(DID)),
}

BODIES = {
    "portal": b"<!doctype html><html><body>Please sign in</body></html>",
    "text": b"OK",
    "another call's answer": b'{"records": [], "uri": "at://x/y/z"}',
    "a list": b"[]",
    "null": b"null",
    "cut": b'{"did": "did:plc:zl',
    "deep": b"[" * 100_000,
}
ONCE = {"applyWrites", "createAccount"}
"""Never sent twice: what a lost answer means has to be found out."""
BY_SIGN_IN = {"createSession", "identify"}


def nulled(right: httpx.Response) -> bytes:
    return json.dumps(dict.fromkeys(right.json())).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "9" * 400},
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"},
        {"retry-after": "soon", "ratelimit-reset": "1e300", "ratelimit-remaining": "0", "ratelimit-policy": "10;w=60"},
        {"ratelimit-reset": "5", "ratelimit-remaining": "9" * 5000, "ratelimit-policy": "10;w=60"},
        {"ratelimit-reset": "5", "ratelimit-remaining": "1", "ratelimit-policy": f"{'9' * 5000};w={'9' * 30}"},
    ],
)
@pytest.mark.parametrize("status", [200, 429, 503])
def test_headers_that_make_no_sense_do_no_harm(status: int, headers: dict[str, str]) -> None:
    """ANSWER-1: no traceback, and no wait beyond the longest window of a PDS."""
    server = Server()
    body = {"cid": HEAD, "rev": REV} if status == 200 else {"error": "X"}
    server.answers("getLatestCommit", httpx.Response(status, json=body, headers=headers))
    with httpx.Client(transport=httpx.MockTransport(server)) as http:
        on = Callers(server, http)
        if status == 200:
            assert on.pds.latest_commit(DID).rev == REV
            return
        with pytest.raises(Transient) as caught:
            on.pds.latest_commit(DID)
        assert (caught.value.retry_after or 0) <= 86_400


def test_a_refusal_nested_beyond_measure_is_a_refusal() -> None:
    """ANSWER-1"""
    server = Server()
    server.answers("getLatestCommit", httpx.Response(500, content=b"[" * 100_000))
    claims = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    assert expires_at(f"a.{claims}.b") is None
    huge = base64.urlsafe_b64encode(b'{"exp": 1' + b"0" * 400 + b"}").decode()
    assert expires_at(f"a.{huge}.b") is None
    with httpx.Client(transport=httpx.MockTransport(server)) as http, pytest.raises(Transient, match="500"):
        Callers(server, http).pds.latest_commit(DID)


@pytest.mark.parametrize("name", CALLS)
def test_a_200_that_does_not_answer_its_call_is_asked_for_again_and_is_no_verdict(name: str) -> None:
    """ANSWER-1"""
    method, ask, right = CALLS[name]
    bodies = dict(BODIES)
    if right.content.startswith(b"{"):
        bodies["nulls"] = nulled(right)
        bodies["others"] = right.content.replace(DID.encode(), OTHER.encode()).replace(HANDLE.encode(), b"bob.test")
    if name != "updateAccountPassword":
        bodies["empty"] = b""
    for words, body in bodies.items():
        if body == right.content:  # nothing in it names whom it is about
            continue
        server = Server()
        with httpx.Client(transport=httpx.MockTransport(server)) as http:
            on = Callers(server, http)
            server.answers(method, httpx.Response(200, content=body), right)
            if name in ONCE:
                with pytest.raises(OutcomeUnknown):
                    ask(on)
                assert len(server.asked(method)) == 1, words
                continue
            if name == "identify":
                with pytest.raises(Transient):
                    ask(on)
            if words == "others" and name in {"resolveHandle", "listRepos", "relay listRepos"}:
                continue  # as good an answer as any
            assert ask(on), words
            if words == "others" and name == "createSession":
                continue  # the same well-formed answer twice is one
            server.answers(method, httpx.Response(200, content=body))
            on = Callers(server, http)
            with pytest.raises(Transient):
                ask(on)
