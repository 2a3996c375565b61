"""One XRPC request: asked of the budget, sent, counted, repeated where that is safe, its refusal made an error."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from threading import Lock
from typing import Any, Final, Literal, TypeVar

import httpx

from ac_pipeline import errors
from ac_pipeline.atproto.rate_limits import Budget, Charge
from ac_pipeline.atproto.xrpc_errors import (
    REPEATABLE,
    Call,
    Malformed,
    NothingSent,
    classify,
    lost,
    need,
    read_answer,
    scrub,
    unfit,
)
from ac_pipeline.bounds import Limits, OverLimit, within
from ac_pipeline.errors import PipelineError, RateLimited, ServerFailed, ServiceUnreachable
from ac_pipeline.proxies import DIRECT, Proxies, through
from ac_pipeline.redaction import basic

Method = Literal["GET", "HEAD", "POST"]

# Calls that have a limit of their own in place of the server's general one (atproto facts, Limits)
_NOT_GENERAL: Final = frozenset({"com.atproto.sync.getRepo"})


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests by kind, every attempt counted, and bytes of their bodies (design, section 6)."""

    apply_writes: int = 0
    upload_blob: int = 0
    get_repo: int = 0
    list_repos: int = 0
    create_session: int = 0
    other: int = 0
    bytes_uploaded: int = 0
    bytes_downloaded: int = 0

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(*(getattr(self, item.name) - getattr(earlier, item.name) for item in fields(self)))

    @staticmethod
    def kind(nsid: str) -> str:
        """The name under which a call is counted: `apply_writes`, or `other`."""
        name = re.sub(r"(?=[A-Z])", "_", nsid.rpartition(".")[2]).lower()
        return name if name in Usage.__dataclass_fields__ else "other"

    @property
    def requests(self) -> dict[str, int]:
        """Requests by kind, under the names of the report."""
        return {item.name: getattr(self, item.name) for item in fields(self) if not item.name.startswith("bytes_")}


# Seconds before each further attempt of a request that may be repeated: four attempts in 3.5 s (LIMIT-10)
PAUSES: Final = (0.5, 1.0, 2.0)

CONNECTIONS: Final = 16
KEEP_ALIVE: Final = 30.0  # Seconds an idle connection is kept; the PDS itself closes them after 90

# What a portal's answer to a HEAD says it is; a GET shows by its bytes whether they are the blob's
_NO_BLOB: Final = ("text/plain", "application/json")

Read = TypeVar("Read")


def open_http(*, timeout: float = 30.0, proxies: Proxies = DIRECT) -> httpx.Client:
    """The HTTP client for one PDS: pooled connections, verified TLS, no redirects, every request bounded in time.
    `timeout`: seconds for connecting, and for each silence while sending or receiving."""
    kept = {"max_connections": CONNECTIONS, "max_keepalive_connections": CONNECTIONS}
    limits = httpx.Limits(**kept, keepalive_expiry=KEEP_ALIVE)
    return httpx.Client(
        timeout=timeout,
        follow_redirects=False,
        transport=proxies.transport(limits),
        headers={"User-Agent": f"ac-pipeline/{version('ac-pipeline')}"},
    )


@dataclass(frozen=True, slots=True)
class Request:
    call: Call  # What its failure means
    nsid: str  # Method of the server
    subject: str  # What it is about, for messages: a DID, mostly
    charges: tuple[Charge, ...] = ()  # What it takes from which budget, besides one of the server's general one
    method: Method = "GET"  # HTTP method
    params: Mapping[str, str | int] = field(default_factory=dict)  # Query
    body: bytes | None = field(default=None, repr=False)  # JSON, where `headers` name no other type
    headers: Mapping[str, str] = field(default_factory=dict)  # Further headers
    token: str | None = field(default=None, repr=False)  # Bearer token
    # Password of the PDS's administrator, for the calls that want it
    admin: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)  # Texts in the request that no message may repeat
    timeout: float | None = None  # Seconds of silence, in place of the client's
    limit: Literal["answer", "repository", "blob"] = "answer"  # Which of the transport's limits its answer is under


class Transport:
    """Sends requests to one PDS; safe to share between threads. `bypass_key`: sent as `x-ratelimit-bypass`; a secret.
    Raises Misconfigured if the address or the key cannot be used."""

    def __init__(
        self,
        url: str,
        *,
        http: httpx.Client,
        budget: Budget,
        bypass_key: str | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > 65_535:
            raise errors.Misconfigured("PDS_URL is not the address of a web server; set it to https://HOST.")
        if bypass_key is not None and not (bypass_key.isascii() and bypass_key.isprintable() and bypass_key.strip()):
            raise errors.Misconfigured("PDS_RATE_LIMIT_BYPASS_KEY holds characters a header cannot carry; correct it.")
        self.host: Final = address.netloc.decode("ascii")
        self.place: Final = f"{address.scheme}://{self.host}"
        self._base = str(address).rstrip("/")
        self._http = http
        self._bypass_key = bypass_key
        self._clock = clock
        self._sleep = sleep
        self._budget = budget
        self._general = Charge(self.host, 1)
        self._limits = limits or Limits()
        self._lock = Lock()
        self._counts: Counter[str] = Counter()

    def send(self, request: Request, read: Callable[[bytes], Read]) -> Read:
        """Send a request, again where that is safe, and return what `read` makes of its successful answer.

        Reads, uploads and refreshes are repeated after a lost, failed or malformed answer, everything when no
        connection was made, and reads and uploads once the budget allows after a 429; a write that may have arrived is
        never repeated. A well-formed answer that says something else counts when it is given twice (ANSWER-1): the
        first may have been the answer to another request.

        `read` reads the body of a 200. A `ValueError` says that it is not what this call answers; a `Permanent` or
        `Blocked` of status 200, that it is, and is not what was asked for. Raises PipelineError: what
        `xrpc_errors.classify` makes of the refusal, or of no answer at all.
        """
        return self.repeat(request, lambda: self.once(request, read))

    def repeat(self, request: Request, once: Callable[[], Read]) -> Read:
        """What `once` returns, which sends the request: called when the budget allows, and again as `send` says."""
        call, attempt, said = request.call, 0, ""
        while True:
            self._budget.reserve(self._charges(request))
            last = attempt == len(PAUSES)
            try:
                return once()
            except RateLimited:
                # Reserving again waits for the reset when it is near, and raises when it is not.
                if call not in (Call.READ, Call.UPLOAD) or last:
                    raise
            except (ServiceUnreachable, ServerFailed, errors.RepositoryUnreadable) as error:
                # Another 3xx or 4xx is an answer, and would be the same again; what exceeds a limit would do so again.
                failed = error.status is None or error.status >= 500 or isinstance(error, Malformed)
                again = failed and not isinstance(error, OverLimit) and call in REPEATABLE - {Call.SIGN_IN}
                if not (again or isinstance(error, NothingSent)) or last:
                    raise
                self._sleep(PAUSES[attempt])
            except (errors.Permanent, errors.Blocked) as error:
                if error.status != 200 or call not in REPEATABLE - {Call.SIGN_IN} or error.message == said:
                    raise
                if last:
                    raise ServerFailed(f"{error.message} It answers otherwise each time.", status=200) from None
                said = error.message
                self._sleep(PAUSES[attempt])
            attempt += 1

    def once(self, request: Request, read: Callable[[bytes], Read]) -> Read:
        """Send a request whose charges are reserved, once; otherwise as `send`."""
        subject, charges = self._subject(request), self._charges(request)
        limit = getattr(self._limits, request.limit)
        silence = httpx.USE_CLIENT_DEFAULT if request.timeout is None else request.timeout
        self._count({Usage.kind(request.nsid): 1, "bytes_uploaded": len(request.body or b"")})
        # The cause is left out of what is raised here: httpx quotes header values in some of its messages.
        try:
            with (
                within(limit),
                self._http.stream(
                    request.method,
                    f"{self._base}/xrpc/{request.nsid}",
                    params=dict(request.params),
                    content=request.body,
                    headers=self._headers(request),
                    timeout=silence,
                    follow_redirects=False,
                ) as response,
            ):
                chunks = limit.watch(response.iter_bytes())
                # A 413 is left before its end, so that the connection is dropped: the PDS resets it on its next use.
                body = next(chunks, b"") if response.status_code == 413 else b"".join(chunks)
        except OverLimit as error:
            raise unfit(request.call, subject, error) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise lost(request.call, subject, self._reason(error, request), sent=False) from None
        except httpx.RequestError as error:
            raise lost(request.call, subject, self._reason(error, request), sent=True) from None
        self._count({"bytes_downloaded": response.num_bytes_downloaded})
        if response.status_code == 200:
            self._budget.learn(response.headers, charges)
            try:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                need(kind != "text/html" and not (request.method == "HEAD" and kind in _NO_BLOB), f"it is {kind}")
                return read(body)
            except (ValueError, RecursionError) as error:
                raise self.malformed(request, str(error)) from None
        secrets = self._secrets(request)
        answer = read_answer(response.status_code, response.headers, body, now=self._clock(), secrets=secrets)
        if response.status_code == 429:
            self._budget.refused(response.headers, charges, answer.retry_after)
        else:
            self._budget.learn(response.headers, charges)
        raise classify(request.call, answer, subject)

    def usage(self) -> Usage:
        """Requests and bytes so far; subtract two of them for what lies between."""
        with self._lock:
            return Usage(**self._counts)

    def _count(self, used: Mapping[str, int]) -> None:
        with self._lock:
            self._counts.update(used)

    def ask(self, request: Request, question: Callable[[Any], Read]) -> Read:
        """As `package.ask`."""
        from ac_pipeline.atproto.package import ask  # noqa: PLC0415  # 0.97 s of CPU that most runs need not pay

        return ask(self, request, question)

    def malformed(self, request: Request, why: str) -> PipelineError:
        """The error of a request whose successful answer is none to it."""
        words = scrub(why, self._secrets(request))
        return unfit(request.call, self._subject(request), Malformed(f"not an answer to this call ({words})"))

    def _charges(self, request: Request) -> tuple[Charge, ...]:
        return request.charges if request.nsid in _NOT_GENERAL else (*request.charges, self._general)

    def _subject(self, request: Request) -> str:
        return f"{request.nsid} for {request.subject} at {self.place}"

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {} if request.body is None else {"Content-Type": "application/json"}
        headers |= request.headers
        if request.token is not None:
            headers["Authorization"] = f"Bearer {request.token}"
        elif request.admin is not None:
            headers["Authorization"] = f"Basic {basic('admin', request.admin)}"
        if self._bypass_key is not None:
            headers["x-ratelimit-bypass"] = self._bypass_key
        return headers

    def _secrets(self, request: Request) -> tuple[str, ...]:
        admin = (request.admin, basic("admin", request.admin).rstrip("=")) if request.admin else ()
        return (*request.secrets, *admin, request.token or "", self._bypass_key or "")

    def _reason(self, error: httpx.RequestError, request: Request) -> str:
        said = scrub(str(error), self._secrets(request))
        return f"no answer{through(error)} ({type(error).__name__}{said and f': {said}'})"
