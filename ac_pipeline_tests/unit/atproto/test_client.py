"""The client of one PDS against a scripted server: what it sends, what it repeats, what it makes of answers.

The same port on a real PDS is `contract/test_data_server.py`.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.buckets import MemoryBudgetStore
from ac_pipeline.atproto.budget import Budget
from ac_pipeline.atproto.client import DEFAULT_BLOB_LIMIT, PdsClient
from ac_pipeline.atproto.messages import Commit, RepositoryStatus, Write
from ac_pipeline.atproto.pace import HOUR, Pace
from ac_pipeline.atproto.sessions import MemorySessionStore, Sessions, Tokens
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.transport import open_http
from ac_pipeline.atproto.usage import Usage
from ac_pipeline.errors import (
    AccountInactive,
    AccountUnknown,
    BlobMissing,
    InvalidRecord,
    Misconfigured,
    NoCredentials,
    OutcomeUnknown,
    PipelineError,
    RateLimited,
    RepositoryUnreadable,
    ServerFailed,
    ServiceUnreachable,
    TooLarge,
    WrongPassword,
)

URL = "https://pds.test"
DID = "did:plc:zlow6guxcuuwiobkzuuygkdo"
PASSWORD = "correct-horse-battery"
BYPASS = "let-me-through"
MOOD = "computer.aesthetic.mood"
ALICE = Account(id="auth0|1", key="alice", did=DID, password=PASSWORD)
START = 1_795_233_892.0
HEAD = "bafyreidlnubb7khzevumufw3ktlidl67pv2qvvyewfsaqzezdi5qsxv5yy"
RECORD = "bafyreiahjq6az5ml44h4m6hrwrok57grfqzawmbnycqojxgwjuhdkijuby"
DATA = b"a picture, or so"

Reply = httpx.Response | Exception


class Server:
    """A PDS that gives the answers it is told to, method by method, and keeps what it was asked."""

    def __init__(self) -> None:
        self.now = START
        self.slept: list[float] = []
        self.requests: list[httpx.Request] = []
        self._scripts: dict[str, list[Reply]] = {}
        self._sessions = 0

    def answers(self, method: str, *replies: Reply) -> None:
        """Let the next calls of `method` (last segment of its name) have these answers; the last one stays."""
        self._scripts[method] = list(replies)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        method = request.url.path.rpartition(".")[2]
        script = self._scripts.get(method)
        if script is None:
            return self._default(method)
        reply = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _default(self, method: str) -> httpx.Response:
        if method in ("createSession", "refreshSession"):
            self._sessions += 1
            return session(str(self._sessions))
        if method == "describeServer":
            return httpx.Response(200, json={"did": "did:web:pds.test", "blobUploadLimit": 1000})
        raise AssertionError(f"no answer for {method}")

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def asked(self, method: str) -> list[httpx.Request]:
        return [request for request in self.requests if request.url.path.endswith(f".{method}")]


def session(name: str, **changes: object) -> httpx.Response:
    content = {"did": DID, "accessJwt": f"access-secret-{name}", "refreshJwt": f"refresh-secret-{name}", "active": True}
    return httpx.Response(200, json={**content, **changes})


def refusal(status: int, error: str, message: str = "") -> httpx.Response:
    return httpx.Response(status, json={"error": error, "message": message})


def accepted(*writes: Write) -> httpx.Response:
    results = [
        {"uri": f"at://{DID}/{write.collection}/{write.rkey}", "cid": RECORD, "validationStatus": "unknown"}
        if write.action != "delete"
        else {"$type": "com.atproto.repo.applyWrites#deleteResult"}
        for write in writes
    ]
    return httpx.Response(200, json={"commit": {"cid": HEAD, "rev": "3n2s7vbnqt222"}, "results": results})


def taken(data: bytes, mime_type: str, size: int | None = None, cid: str | None = None) -> httpx.Response:
    reference = {"$link": cid or blob_cid(data)}
    size = len(data) if size is None else size
    return httpx.Response(200, json={"blob": {"$type": "blob", "ref": reference, "mimeType": mime_type, "size": size}})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Iterator[PdsClient]:
    with httpx.Client(transport=httpx.MockTransport(server)) as http:
        yield make(server, http)


def make(
    server: Server, http: httpx.Client, url: str = URL, bypass_key: str | None = BYPASS, *, pace: Pace | None = None
) -> PdsClient:
    def clock() -> float:
        return server.now

    return PdsClient(
        url,
        http=http,
        sessions=Sessions(MemorySessionStore(), clock=clock),
        bypass_key=bypass_key,
        clock=clock,
        sleep=server.sleep,
        budget=Budget(clock=clock, sleep=server.sleep, max_wait=30.0),
        pace=pace,
    )


CREATE = Write("create", MOOD, "a", {"$type": MOOD, "mood": "glad"})
UPDATE = Write("update", MOOD, "b", {"$type": MOOD, "mood": "calm"})
DELETE = Write("delete", MOOD, "c")


# ------------------------------------------------------------------------------------------------------------- batches


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


# --------------------------------------------------------------------------------------------------------------- blobs


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
        httpx.Response(200, json={}),
        httpx.Response(200, json={"blob": "x"}),
    ],
)
def test_a_blob_that_comes_back_as_something_else_is_an_error(client: PdsClient, server: Server, reply: Reply) -> None:
    """MEDIA-2: declared type = sniffed type = returned type; the same for CID and size."""
    server.answers("uploadBlob", reply)

    with pytest.raises(InvalidRecord, match=blob_cid(DATA)):
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
    server.answers("describeServer", httpx.Response(200, json={"did": "did:web:x"}))

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


# --------------------------------------------------------------------------------------------------------------- reads


def page(*dids: str, cursor: str | None = None, **changes: object) -> httpx.Response:
    repos = [{"did": did, "head": HEAD, "rev": "r1", "active": True, **changes} for did in dids]
    return httpx.Response(200, json={"repos": repos, **({"cursor": cursor} if cursor else {})})


def test_repositories_are_listed_a_page_at_a_time(client: PdsClient, server: Server) -> None:
    server.answers(
        "listRepos", page("did:plc:a", "did:plc:b", cursor="2"), page("did:plc:c", active=False, status="takendown")
    )

    assert list(client.list_repositories()) == [
        RepositoryStatus("did:plc:a", HEAD, "r1", True, None),
        RepositoryStatus("did:plc:b", HEAD, "r1", True, None),
        RepositoryStatus("did:plc:c", HEAD, "r1", False, "takendown"),
    ]
    first, second = server.asked("listRepos")
    assert dict(first.url.params) == {"limit": "1000"}
    assert dict(second.url.params) == {"limit": "1000", "cursor": "2"}


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, json={}),
        httpx.Response(200, json={"repos": [{}]}),
        httpx.Response(200, json={"repos": None}),
        httpx.Response(200, text="<html>"),
        page("did:plc:a", cursor="2"),
        httpx.Response(503),
    ],
)
def test_a_list_that_cannot_be_read_to_its_end_is_an_error(client: PdsClient, server: Server, reply: Reply) -> None:
    """DEL-5: a failed read is never an empty one."""
    server.answers("listRepos", reply)

    with pytest.raises(ServerFailed):
        list(client.list_repositories())


@pytest.mark.parametrize("failure", [httpx.Response(503), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut")])
def test_reads_are_repeated_within_a_bound(client: PdsClient, server: Server, failure: Reply) -> None:
    """LIMIT-10"""
    server.answers("listRepos", failure, failure, failure, page("did:plc:a"))
    assert len(list(client.list_repositories())) == 1
    assert server.slept == [0.5, 1.0, 2.0]

    server.answers("listRepos", failure)
    with pytest.raises((ServerFailed, ServiceUnreachable)):
        list(client.list_repositories())
    assert len(server.asked("listRepos")) == 8


@pytest.mark.parametrize("status", [400, 404, 301])
def test_a_clear_refusal_is_not_asked_for_again(client: PdsClient, server: Server, status: int) -> None:
    server.answers("listRepos", httpx.Response(status, headers={"Location": "https://elsewhere.test/"}))

    with pytest.raises((ServerFailed, ServiceUnreachable)):
        list(client.list_repositories())

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (refusal(400, "RepoNotFound"), AccountUnknown),
        (refusal(403, "AccountNotFound"), AccountUnknown),
        (refusal(404, "RepoNotFound"), AccountUnknown),
        (refusal(400, "RepoDeactivated"), AccountInactive),
        (refusal(400, "RepoTakendown"), AccountInactive),
        (httpx.Response(200, content=b""), RepositoryUnreadable),
        (httpx.Response(200, content=b"<html>"), RepositoryUnreadable),
    ],
)
def test_a_repository_that_cannot_be_read_is_never_an_empty_one(
    client: PdsClient, server: Server, reply: Reply, expected: type[PipelineError]
) -> None:
    """ACCT-2, DEL-5"""
    server.answers("getRepo", reply)

    with pytest.raises(expected):
        client.read_repository(DID)

    (request,) = server.asked("getRepo")
    assert request.headers["accept-encoding"] == "identity"


# ------------------------------------------------------------------------------------------------------------- signing


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
    assert len(server.asked("createSession")) == 1
    assert server.asked("applyWrites") == []


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
    assert used + before == client.usage()
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
