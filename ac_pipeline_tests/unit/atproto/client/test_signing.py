"""How the client signs in, what it counts, and how it keeps secrets and connections."""

from __future__ import annotations

import json
import logging
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.sessions import Tokens
from ac_pipeline.atproto.transport import Usage, open_http
from ac_pipeline.errors import (
    AccountInactive,
    AccountUnknown,
    Misconfigured,
    NoCredentials,
    PipelineError,
    ServerFailed,
    ServiceUnreachable,
    TooLarge,
    WrongPassword,
)
from ac_pipeline_tests.unit.atproto.client.scripted_pds import (
    ALICE,
    BYPASS,
    CREATE,
    DATA,
    DID,
    PASSWORD,
    Reply,
    Server,
    accepted,
    make,
    page,
    refusal,
    session,
    taken,
)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refusal(401, "AuthenticationRequired", f"Invalid password {PASSWORD}"), WrongPassword),
        (refusal(401, "AccountTakedown", "Account has been taken down"), AccountInactive),
        (session("1", active=False, status="deactivated"), AccountInactive),
        (session("1", did="did:plc:other"), AccountUnknown),
        (session("1", accessJwt=None), ServerFailed),
        (session("1", accessJwt="a b"), ServerFailed),
        (session("1", refreshJwt="line\nbreak"), ServerFailed),
        (session("1", refreshJwt=""), ServerFailed),
        (httpx.Response(200, text=f"you sent {PASSWORD}"), ServerFailed),
        (httpx.Response(502, text=f"you sent {PASSWORD}"), ServerFailed),
        (httpx.ReadError(f"reset by {PASSWORD}"), ServiceUnreachable),
    ],
)
def test_a_failed_sign_in_names_its_reason_and_no_secret(
    client: PdsClient, server: Server, reply: Reply, expected: type[PipelineError]
) -> None:
    """ACCT-2, ACCT-5: the account is blocked with the server's reason; nothing was written, no attempt repeated."""
    server.answers("createSession", reply)

    with pytest.raises(expected) as caught:
        client.apply_writes(ALICE, [CREATE], swap_commit=None)

    assert DID in caught.value.message or "/xrpc/com.atproto.server.createSession" in caught.value.message
    assert PASSWORD not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.answer)
    # A 200 that does not answer the call may have been for somebody else: once more (ANSWER-1).
    strange = isinstance(reply, httpx.Response) and reply.status_code == 200 and expected is not AccountInactive
    assert len(server.asked("createSession")) == (2 if strange else 1)
    assert server.asked("applyWrites") == []


def test_one_strange_answer_to_a_sign_in_or_a_refresh_blocks_nobody(client: PdsClient, server: Server) -> None:
    """ANSWER-1"""
    strange = [httpx.Response(200, json=content) for content in ({}, {"did": None}, [], "x")]
    for reply in (*strange, session("2", did="did:plc:other"), httpx.Response(200, html="<p>portal")):
        server.answers("createSession", reply, session("3"))
        server.answers("refreshSession", session("4", did="did:plc:other"))
        server.answers("applyWrites", refusal(400, "ExpiredToken"), accepted(CREATE))
        assert client.apply_writes(ALICE, [CREATE], swap_commit=None).rev


def test_a_did_is_what_signs_in(client: PdsClient, server: Server) -> None:
    """ACCT-3: identity is the DID, not a handle."""
    server.answers("applyWrites", accepted(CREATE))
    client.apply_writes(ALICE, [CREATE], swap_commit=None)

    (request,) = server.asked("createSession")
    assert json.loads(request.content) == {"identifier": DID, "password": PASSWORD}


def test_without_credentials_nothing_is_sent(client: PdsClient, server: Server) -> None:
    """ACCT-1"""
    with pytest.raises(NoCredentials):
        client.apply_writes(Account(id="x", key="carol"), [CREATE], swap_commit=None)

    assert server.requests == []


def test_no_secret_reaches_an_error_a_log_or_a_representation(
    client: PdsClient, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """ACCT-5: also where the server repeats what it was sent."""
    caplog.set_level(logging.DEBUG)
    secrets = ("access-secret", "refresh-secret", PASSWORD, BYPASS)
    echo = f"access-secret-1 {PASSWORD} {BYPASS}"
    seen = [repr(client), str(client), repr(ALICE), repr(Tokens("access-secret", "refresh-secret"))]
    for reply in (
        refusal(400, "InvalidRequest", echo),
        refusal(400, "RecordNotFound", echo),
        httpx.Response(500, text=echo),
        httpx.ReadError(f"illegal header {echo}"),
        httpx.ConnectError(f"refused {echo}"),
        httpx.LocalProtocolError(f"Illegal header value b'Bearer {echo}'"),
    ):
        server.answers("applyWrites", reply)
        with pytest.raises(PipelineError) as caught:
            client.apply_writes(ALICE, [CREATE], swap_commit=None)
        error = caught.value
        seen += ["".join(traceback.format_exception(error)), repr(error.answer), repr(error.args)]

    text = "\n".join([*seen, caplog.text])
    assert "[hidden]" in text
    assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize("url", ["", "pds.test", "ftp://pds.test", "https://", "https://pds.test:99999", "https:pds"])
def test_an_address_that_is_none_is_named_at_once(server: Server, url: str) -> None:
    with httpx.Client(transport=httpx.MockTransport(server)) as http, pytest.raises(Misconfigured, match="PDS_URL"):
        make(server, http, url=url)


@pytest.mark.parametrize("key", ["", " ", "line\nbreak", "\u00e4"])
def test_a_bypass_key_that_no_header_can_carry_is_named_but_not_shown(server: Server, key: str) -> None:
    """ACCT-5"""
    with httpx.Client(transport=httpx.MockTransport(server)) as http:
        with pytest.raises(Misconfigured, match="PDS_RATE_LIMIT_BYPASS_KEY") as caught:
            make(server, http, bypass_key=key)
        assert not key.strip() or key not in caught.value.message


# ------------------------------------------------------------------------------------------------- counting, connection


def test_every_attempt_is_counted_by_kind(client: PdsClient, server: Server) -> None:
    """The report of a sync (design, section 6)."""
    before = client.usage()
    server.answers("applyWrites", refusal(400, "ExpiredToken"), accepted(CREATE))
    server.answers("uploadBlob", httpx.Response(502), taken(DATA, "image/png"))
    server.answers("listRepos", page("did:plc:a"))
    server.answers("getRepo", refusal(400, "RepoNotFound"))
    client.apply_writes(ALICE, [CREATE], swap_commit=None)
    client.upload_blob(ALICE, DATA, "image/png")
    list(client.list_repositories())
    with pytest.raises(AccountUnknown):
        client.read_repository(DID)

    used = client.usage() - before

    assert used.requests == {
        "apply_writes": 2,
        "upload_blob": 2,
        "get_repo": 1,
        "list_repos": 1,
        "create_session": 1,
        "other": 2,  # refreshSession, describeServer
    }
    assert used.bytes_uploaded == sum(len(request.content) for request in server.requests)
    assert client.usage() - used == before
    assert client.usage() - client.usage() == Usage()


class _Refuser(BaseHTTPRequestHandler):
    """Says 413 to all writes, over connections it would keep."""

    protocol_version = "HTTP/1.1"
    connections: set[int]

    def do_POST(self) -> None:
        if self.path.endswith("createSession"):
            self._answer(200, session("1").content)
        else:
            self._answer(413, b'{"error":"PayloadTooLarge","message":"request entity too large"}')

    def do_GET(self) -> None:
        self._answer(200, b'{"repos":[]}')

    def _answer(self, status: int, body: bytes) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.connections.add(self.client_address[1])
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
def test_a_connection_is_kept_until_a_413_and_then_dropped(server: Server) -> None:
    """WRITE-5: after a 413 the PDS resets the connection on its next use, which would look like a lost write."""
    handler = type("Refuser", (_Refuser,), {"connections": set()})
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=web.serve_forever)
    thread.start()
    try:
        with open_http(timeout=10.0) as http:
            client = make(server, http, url=f"http://127.0.0.1:{web.server_port}")
            for _ in range(3):
                list(client.list_repositories())
            assert client.usage().bytes_downloaded == 3 * len(b'{"repos":[]}')
            with pytest.raises(TooLarge, match="request entity too large"):
                client.apply_writes(ALICE, [CREATE], swap_commit=None)
            assert len(handler.connections) == 1
            list(client.list_repositories())
            assert len(handler.connections) == 2
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
