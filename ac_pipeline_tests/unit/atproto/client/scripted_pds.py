"""A server that gives the answers it is told to, the client in front of it, and the answers of a PDS."""

from __future__ import annotations

import httpx

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.rate_limits import Budget, Pace
from ac_pipeline.atproto.sessions import Sessions, SignIn
from ac_pipeline.atproto.syntax import blob_cid
from ac_pipeline.atproto.transport import Transport
from ac_pipeline.atproto.types import Write
from ac_pipeline.bounds import Limits
from ac_pipeline_tests.memory_sessions import MemorySessionStore

URL = "https://pds.test"


DID = "did:plc:zlow6guxcuuwiobkzuuygkdo"


PASSWORD = "correct-horse-battery"


BYPASS = "let-me-through"


MOOD = "computer.aesthetic.mood"


ALICE = Account(id="auth0|1", key="alice", did=DID, password=PASSWORD)


START = 1_795_233_892.0


HEAD = "bafyreidlnubb7khzevumufw3ktlidl67pv2qvvyewfsaqzezdi5qsxv5yy"


REV = "3n2s7vbnqt222"


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
    return httpx.Response(200, json={"commit": {"cid": HEAD, "rev": REV}, "results": results})


def taken(data: bytes, mime_type: str, size: int | None = None, cid: str | None = None) -> httpx.Response:
    reference = {"$link": cid or blob_cid(data)}
    size = len(data) if size is None else size
    return httpx.Response(200, json={"blob": {"$type": "blob", "ref": reference, "mimeType": mime_type, "size": size}})


def page(*dids: str, cursor: str | None = None, **changes: object) -> httpx.Response:
    repos = [{"did": did, "head": HEAD, "rev": REV, "active": True, **changes} for did in dids]
    return httpx.Response(200, json={"repos": repos, **({"cursor": cursor} if cursor else {})})


def make(
    server: Server,
    http: httpx.Client,
    url: str = URL,
    bypass_key: str | None = BYPASS,
    *,
    pace: Pace | None = None,
    limits: Limits | None = None,
) -> PdsClient:
    def clock() -> float:
        return server.now

    transport = Transport(
        url,
        http=http,
        budget=Budget(clock=clock, sleep=server.sleep, max_wait=30.0),
        bypass_key=bypass_key,
        limits=limits,
        clock=clock,
        sleep=server.sleep,
    )
    return PdsClient(transport, Sessions(MemorySessionStore(), SignIn(transport), clock=clock), pace)


CREATE = Write("create", MOOD, "a", {"$type": MOOD, "mood": "glad"})


UPDATE = Write("update", MOOD, "b", {"$type": MOOD, "mood": "calm"})


DELETE = Write("delete", MOOD, "c")
