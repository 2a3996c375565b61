"""Media in object storage: where an object is, whether it exists, and its bytes on disk, over plain HTTP GET and HEAD.
What the bytes mean is not here (`renditions/`), nor which keys an item may have (`media/`)."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx

from ac_pipeline.bounds import Limit, Limits, OverLimit, seconds_to_wait, within
from ac_pipeline.errors import Misconfigured, RateLimited, ServerFailed, ServiceUnreachable, SourceMissing, TooLarge
from ac_pipeline.media.base import SourceObject
from ac_pipeline.proxies import DIRECT, Proxies, through

ABSENT = frozenset({403, 404, 410})
"""Private objects answer 403 where missing ones answer 404; both mean "try the next key" (facts, section 6)."""

KEY_BYTES = 1024  # Longest key S3-compatible storage holds, in UTF-8 bytes; a longer one cannot exist

ATTEMPTS = 3
FIRST_DELAY = 0.5
LONGEST_WAIT = 20.0
"""Seconds a download waits in place; a server that asks for more is answered by giving up until the next run."""
REDIRECTS = 3
SHORT_BYTES = 64 << 10
"""An answer of this length that nobody needs is read all the same: its connection then serves the next request."""

Answer = TypeVar("Answer")

_PAGES = frozenset({"text/html", "text/plain", "application/json"})
"""What portals and proxies say instead of an object; no media is any of it."""
_MD5 = re.compile("[0-9a-f]{32}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class Fetched:
    """One downloaded object: which candidate it was, where it lies, its sha-256 (hex) and its size in bytes."""

    object: SourceObject
    path: Path
    sha256: str
    size: int
    stamp: str = ""  # See `ObjectStorage.look`
    encoding: str = ""  # The `Content-Encoding` it is stored with, which is not undone; empty without one


def storage_client(*, timeout: float = 30.0, connections: int = 16, proxies: Proxies = DIRECT) -> httpx.Client:
    """A client fit for `ObjectStorage`: TLS verified, no redirect followed on its own, every wait bounded (seconds)."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.Client(
        follow_redirects=False, timeout=httpx.Timeout(timeout, connect=10.0), transport=proxies.transport(limits)
    )


class ObjectStorage:
    """Read access to the platform's buckets. Raises Misconfigured: the template is no http(s) address with `{bucket}`
    in it."""

    def __init__(
        self,
        client: httpx.Client,
        url_template: str,  # Base address with `{bucket}` in it, e.g. `https://{bucket}.sfo3.digitaloceanspaces.com`
        *,
        buckets: Collection[str] | None = None,  # The only ones that are asked, whatever a document names; None for any
        concurrency: int = 8,  # Most downloads at a time, over all threads that share this value
        # How long a download may take, and how slow and large it may be; those a caller names are smaller.
        limit: Limit | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,  # Epoch seconds, for `Retry-After` dates
        jitter: Callable[[], float] = random.random,  # A number in [0, 1)
    ) -> None:
        if "{bucket}" not in url_template or not url_template.startswith(("http://", "https://")):
            raise Misconfigured(
                f"AC_MEDIA_URL is {url_template!r}: it must be an http(s) address with {{bucket}} in it, "
                "such as https://{bucket}.sfo3.digitaloceanspaces.com"
            )
        self._client = client
        self._template = url_template.rstrip("/")
        self._buckets = buckets
        self._slots = threading.BoundedSemaphore(concurrency)
        self._limit = limit or Limits().media
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._counter = threading.Lock()
        self.bytes_downloaded = 0  # Of bodies read so far, those of failed attempts included

    def url(self, source: SourceObject) -> str:
        """The address of an object, every segment of its key percent-encoded (`auth0|x` -> `auth0%7Cx`). Raises
        SourceMissing: the bucket is none of the platform's; storage cannot hold such a bucket or key, or it would point
        elsewhere."""
        segments = source.key.split("/")
        if not _BUCKET.fullmatch(source.bucket):
            raise SourceMissing(f"{_name(source)}: not the name of a bucket")
        if self._buckets is not None and source.bucket not in self._buckets:
            raise SourceMissing(
                f"{_name(source)}: the bucket is not one of the platform's own (AC_MEDIA_BUCKETS names those)"
            )
        if any(segment in ("", ".", "..") for segment in segments):
            raise SourceMissing(f"{_name(source)}: empty, '.' and '..' segments are refused")
        if len(source.key.encode(errors="replace")) > KEY_BYTES:
            raise SourceMissing(f"{_name(source)[:200]}...: longer than the {KEY_BYTES} bytes a key can have")
        path = "/".join(quote(segment, safe="", errors="replace") for segment in segments)
        return f"{self._template.replace('{bucket}', source.bucket)}/{path}"

    def fetch(self, candidates: Sequence[SourceObject], into: Path, max_bytes: int) -> Fetched:
        """Download the first of the candidates that exists to the file `into`, hashing on the way; the file is
        overwritten, and removed again when the download fails.

        Raises:
            SourceMissing: No candidate exists; the message names every key tried.
            TooLarge: The first existing candidate is over `max_bytes`.
            ServiceUnreachable, ServerFailed, RateLimited: Storage did not answer; says nothing about existence.
        """
        doubted: set[str] = set()
        tried: list[str] = []
        for source in candidates:
            try:
                answer = self._persist(partial(self._download, source, into, max_bytes, doubted), source)
            except SourceMissing as refused:
                tried.append(refused.message)
            else:
                if isinstance(answer, Fetched):
                    return answer
                tried.append(f"{_name(source)}: {answer}")
        raise SourceMissing(
            f"No source object exists; tried {'; '.join(tried) or 'nothing: there is no candidate key'}"
        )

    def exists(self, candidates: Sequence[SourceObject]) -> SourceObject | None:
        """The first candidate that exists, by HEAD, or None when storage denies them all; errors as in `look`."""
        found = self.look(candidates)
        return found[0] if found is not None else None

    def look(self, candidates: Sequence[SourceObject]) -> tuple[SourceObject, str] | None:
        """The first candidate that exists, by HEAD, with a stamp that is another one once it was replaced. Raises
        ServiceUnreachable, ServerFailed, RateLimited: storage did not answer; never taken for "absent" (MEDIA-5)."""
        for source in candidates:
            try:
                status, headers = self._persist(self._head, source)
            except SourceMissing:
                continue
            if status == 200:
                return source, _stamp(source, headers)
        return None

    def _persist(self, ask: Callable[[str], Answer], source: SourceObject) -> Answer:
        """Ask up to `ATTEMPTS` times with growing waits, or after the time the server names."""
        url, attempt = self.url(source), 0
        while True:
            attempt += 1
            try:
                return ask(url)
            except OverLimit as error:
                raise OverLimit(f"{url}: {error.message}; try again later, or raise the limit") from None
            except (ServiceUnreachable, ServerFailed, RateLimited) as error:
                delay = FIRST_DELAY * 2 ** (attempt - 1) * (0.5 + self._jitter())
                wait = max(delay, error.retry_after or 0.0)
                if attempt == ATTEMPTS or wait > LONGEST_WAIT:
                    raise
                self._sleep(wait)

    def _head(self, url: str) -> tuple[int, httpx.Headers]:
        with within(self._limit), self._answer("HEAD", url) as response:
            if response.status_code == 200 and not _etag(response) and _kind(response) in _PAGES:
                raise ServerFailed(f"{url} is answered with {_kind(response)}, not by object storage; try again")
            return self._meaning(response, url), response.headers

    def _download(self, source: SourceObject, into: Path, max_bytes: int, doubted: set[str], url: str) -> Fetched | int:
        with self._slots, within(self._limit), self._answer("GET", url) as response:
            status = self._meaning(response, url)
            if status != 200:
                return status
            declared = response.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > max_bytes:
                raise TooLarge(f"{url} has {declared} bytes; at most {max_bytes} are taken")
            try:
                sha256, size = self._write(response, url, into, max_bytes, doubted)
                return Fetched(
                    source, into, sha256, size, _stamp(source, response.headers), _encoding(response.headers)
                )
            except BaseException:
                into.unlink(missing_ok=True)
                raise

    def _write(
        self, response: httpx.Response, url: str, into: Path, max_bytes: int, doubted: set[str]
    ) -> tuple[str, int]:
        digest, size, begin = hashlib.sha256(), 0, b""
        md5 = hashlib.md5(usedforsecurity=False)
        declared = response.headers.get("content-length", "")
        with into.open("wb") as file:
            try:
                # Raw: the stored bytes. Decoding a Content-Encoding would let a small object unpack without limit.
                for chunk in self._limit.watch(response.iter_raw()):
                    size += len(chunk)
                    begin = begin or chunk[:64]
                    if size > max_bytes:
                        # Storage declares what it sends: what does not end by itself is no object of its own.
                        raise OverLimit(f"no end after {max_bytes} bytes, the most that is taken of such an object")
                    with self._counter:
                        self.bytes_downloaded += len(chunk)
                    digest.update(chunk)
                    md5.update(chunk)
                    file.write(chunk)
            except httpx.TransportError as error:
                raise _unreachable(url, error) from error
        if declared.isdecimal() and size != int(declared):
            raise ServiceUnreachable(f"{url} ended after {size} of {declared} bytes; try again")
        sha256, etag = digest.hexdigest(), _etag(response)
        if etag != md5.hexdigest():
            # A portal's page, or the end is missing. An ETag need not be the MD5: the same bytes twice are the object.
            page, named = _kind(response) in _PAGES, _MD5.fullmatch(etag)
            text = begin.lstrip()[:1] in (b"<", b"{", b"[")
            if (not etag and (page or text)) or (text and (page or named)):
                raise ServerFailed(f"{url} is answered with a text, not by object storage; try again")
            if (not size or named) and sha256 not in doubted:
                doubted.add(sha256)
                raise ServerFailed(f"{url} is answered with other bytes than its ETag names; try again")
        return sha256, size

    @contextmanager
    def _answer(self, method: str, url: str) -> Iterator[httpx.Response]:
        """One streamed answer; redirects are followed on the same scheme, host and port only."""
        here = httpx.URL(url)
        for _ in range(REDIRECTS + 1):
            request = self._client.build_request(method, here, headers={"accept-encoding": "identity"})
            try:
                response = self._client.send(request, stream=True, follow_redirects=False)
            except httpx.TransportError as error:
                raise _unreachable(str(here), error) from error
            with closing(response):
                following = here.join(response.headers["location"]) if response.has_redirect_location else None
                if following is None or _origin(following) != _origin(here):
                    yield response
                    _read_rest(response)
                    return
            here = following
        raise ServerFailed(f"{url} redirects more than {REDIRECTS} times")

    def _meaning(self, response: httpx.Response, url: str) -> int:
        """200 or a status that means absent; everything else says nothing about existence and raises."""
        status = response.status_code
        if status == 200 or status in ABSENT:
            return status
        wait = seconds_to_wait(response.headers, self._clock())
        if status == 429:
            raise RateLimited(f"{url}: too many requests", status=status, retry_after=wait)
        if 300 <= status < 400:
            raise ServerFailed(
                f"{url} leads elsewhere ({status}); only its own host is followed: check AC_MEDIA_URL", status=status
            )
        raise ServerFailed(f"{url} answered {status}; try again", status=status, retry_after=wait)


def _read_rest(response: httpx.Response) -> None:
    """Read what is left of a short answer, or of one to a HEAD, which has nothing left: a connection with an answer
    half read is closed, and the next request would need another handshake."""
    declared = response.headers.get("content-length", "")
    short = response.request.method == "HEAD" or (declared.isdecimal() and int(declared) <= SHORT_BYTES)
    if short and not response.is_stream_consumed:
        with suppress(httpx.TransportError):
            for _ in response.iter_raw():
                pass


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _etag(response: httpx.Response) -> str:
    return str(response.headers.get("etag", "")).strip().removeprefix("W/").strip('"')


def _kind(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _unreachable(url: str, error: httpx.TransportError) -> ServiceUnreachable:
    what = f"{type(error).__name__}: {str(error)[:120]}"
    return ServiceUnreachable(f"{url} gave no answer{through(error)} ({what}); try again")


def _stamp(source: SourceObject, headers: httpx.Headers) -> str:
    version = headers.get("etag") or headers.get("last-modified", "")
    return f"{_name(source)} {version} {headers.get('content-length', '')}"


def _encoding(headers: httpx.Headers) -> str:
    """What the stored bytes have to be decoded from; uploads leave `aws-chunked`, which is nothing to undo."""
    names = (name.strip().lower() for name in headers.get("content-encoding", "").split(","))
    return ", ".join(name for name in names if name not in ("", "identity", "aws-chunked"))


def _name(source: SourceObject) -> str:
    return f"{source.bucket}/{source.key}"
