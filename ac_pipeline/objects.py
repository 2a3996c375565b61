"""Media in object storage: where an object is, whether it exists, and its bytes on disk, over plain HTTP GET and HEAD.

The rules of reading live here: order of candidates, percent-encoding, what an answer means, back-off, limits and
hashes. What the bytes mean does not (`renditions/`), nor which keys an item may have (`media/`).
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import httpx

from ac_pipeline.errors import Misconfigured, RateLimited, ServerFailed, ServiceUnreachable, SourceMissing, TooLarge
from ac_pipeline.media.base import SourceObject
from ac_pipeline.proxies import DIRECT, Proxies, through

ABSENT = frozenset({403, 404, 410})
"""Private objects answer 403 where missing ones answer 404; both mean "try the next key" (facts, section 6)."""

KEY_BYTES = 1024
"""Longest key S3-compatible storage holds, in UTF-8 bytes; a longer one cannot exist."""

CHUNK = 1 << 16
FIRST_DELAY = 0.5
LONGEST_WAIT = 20.0
"""Seconds a download waits in place; a server that asks for more is answered by giving up until the next run."""
REDIRECTS = 3

Answer = TypeVar("Answer")

_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class Fetched:
    """One downloaded object: which candidate it was, where it lies, its sha-256 (hex) and its size in bytes."""

    object: SourceObject
    path: Path
    sha256: str
    size: int


def storage_client(*, timeout: float = 30.0, connections: int = 16, proxies: Proxies = DIRECT) -> httpx.Client:
    """A client fit for `ObjectStorage`: TLS verified, no redirect followed on its own, every wait bounded (seconds)."""
    return httpx.Client(
        follow_redirects=False,
        timeout=httpx.Timeout(timeout, connect=10.0),
        transport=proxies.transport(httpx.Limits(max_connections=connections, max_keepalive_connections=connections)),
    )


class ObjectStorage:
    """Read access to the platform's buckets.

    Args:
        client: See `storage_client`.
        url_template: Base address with `{bucket}` in it, e.g. `https://{bucket}.sfo3.digitaloceanspaces.com`.
        concurrency: Most downloads at a time, over all threads that share this value.
        attempts: How often one object is asked for before a transient error is raised.
        sleep, clock, jitter: Waiting, the time (for `Retry-After` dates) and a number in [0, 1).

    Raises:
        Misconfigured: The template is no http(s) address with `{bucket}` in it.
    """

    def __init__(
        self,
        client: httpx.Client,
        url_template: str,
        *,
        concurrency: int = 8,
        attempts: int = 3,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if "{bucket}" not in url_template or not url_template.startswith(("http://", "https://")):
            raise Misconfigured(
                f"AC_MEDIA_URL is {url_template!r}: it must be an http(s) address with {{bucket}} in it, "
                "such as https://{bucket}.sfo3.digitaloceanspaces.com"
            )
        self._client = client
        self._template = url_template.rstrip("/")
        self._slots = threading.BoundedSemaphore(concurrency)
        self._attempts = max(1, attempts)
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter
        self._counter = threading.Lock()
        self._downloaded = 0

    @property
    def bytes_downloaded(self) -> int:
        """Bytes of bodies read so far, those of failed attempts included."""
        with self._counter:
            return self._downloaded

    def url(self, source: SourceObject) -> str:
        """The address of an object, every segment of its key percent-encoded (`auth0|x` -> `auth0%7Cx`).

        Raises:
            SourceMissing: The bucket or key is one that storage cannot hold or that would point elsewhere.
        """
        segments = source.key.split("/")
        if not _BUCKET.fullmatch(source.bucket):
            raise SourceMissing(f"{_name(source)}: not the name of a bucket")
        if any(segment in ("", ".", "..") for segment in segments):
            raise SourceMissing(f"{_name(source)}: empty, '.' and '..' segments are refused")
        if len(source.key.encode(errors="replace")) > KEY_BYTES:
            raise SourceMissing(f"{_name(source)[:200]}...: longer than the {KEY_BYTES} bytes a key can have")
        path = "/".join(quote(segment, safe="", errors="replace") for segment in segments)
        return f"{self._template.replace('{bucket}', source.bucket)}/{path}"

    def fetch(self, candidates: Sequence[SourceObject], into: Path, max_bytes: int) -> Fetched:
        """Download the first candidate that exists to the file `into`, hashing on the way.

        Args:
            candidates: In the order to try them.
            into: File to write; overwritten, and removed again when the download fails.
            max_bytes: Largest body taken.

        Raises:
            SourceMissing: No candidate exists; the message names every key tried.
            TooLarge: The first existing candidate is over `max_bytes`.
            ServiceUnreachable, ServerFailed, RateLimited: Storage did not answer; says nothing about existence.
        """

        def download(url: str) -> tuple[str, int] | int:
            return self._download(url, into, max_bytes)

        tried: list[str] = []
        for source in candidates:
            try:
                answer = self._persist(download, source)
            except SourceMissing as refused:
                tried.append(refused.message)
            else:
                if not isinstance(answer, int):
                    sha256, size = answer
                    return Fetched(source, into, sha256, size)
                tried.append(f"{_name(source)}: {answer}")
        raise SourceMissing(
            f"No source object exists; tried {'; '.join(tried) or 'nothing: there is no candidate key'}"
        )

    def exists(self, candidates: Sequence[SourceObject]) -> SourceObject | None:
        """The first candidate that exists, by HEAD, or None when storage denies them all.

        Raises:
            ServiceUnreachable, ServerFailed, RateLimited: Storage did not answer; never taken for "absent" (MEDIA-5).
        """
        for source in candidates:
            try:
                answer = self._persist(self._head, source)
            except SourceMissing:
                continue
            if answer == 200:
                return source
        return None

    def _persist(self, ask: Callable[[str], Answer], source: SourceObject) -> Answer:
        """Ask up to `attempts` times with growing waits, or after the time the server names."""
        url = self.url(source)
        for attempt in range(1, self._attempts + 1):
            try:
                return ask(url)
            except (ServiceUnreachable, ServerFailed, RateLimited) as error:
                delay = FIRST_DELAY * 2 ** (attempt - 1) * (0.5 + self._jitter())
                wait = max(delay, error.retry_after or 0.0)
                if attempt == self._attempts or wait > LONGEST_WAIT:
                    raise
                self._sleep(wait)
        raise ServiceUnreachable(f"{_name(source)}: never asked")

    def _head(self, url: str) -> int:
        with self._answer("HEAD", url) as response:
            return self._meaning(response, url)

    def _download(self, url: str, into: Path, max_bytes: int) -> tuple[str, int] | int:
        with self._slots, self._answer("GET", url) as response:
            status = self._meaning(response, url)
            if status != 200:
                return status
            declared = response.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > max_bytes:
                raise TooLarge(f"{url} has {declared} bytes; at most {max_bytes} are taken")
            try:
                return self._write(response, url, into, max_bytes)
            except BaseException:
                into.unlink(missing_ok=True)
                raise

    def _write(self, response: httpx.Response, url: str, into: Path, max_bytes: int) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        with into.open("wb") as file:
            try:
                # Raw: the stored bytes. Decoding a Content-Encoding would let a small object unpack without limit.
                for chunk in response.iter_raw(CHUNK):
                    size += len(chunk)
                    with self._counter:
                        self._downloaded += len(chunk)
                    if size > max_bytes:
                        raise TooLarge(f"{url} has more than {max_bytes} bytes")
                    digest.update(chunk)
                    file.write(chunk)
            except httpx.TransportError as error:
                raise _unreachable(url, error) from error
        declared = response.headers.get("content-length", "")
        if declared.isdigit() and size != int(declared):
            raise ServiceUnreachable(f"{url} ended after {size} of {declared} bytes; try again")
        return digest.hexdigest(), size

    def _answer(self, method: str, url: str) -> AbstractContextManager[httpx.Response]:
        return _Answer(self._client, method, url)

    def _meaning(self, response: httpx.Response, url: str) -> int:
        """200 or a status that means absent; everything else says nothing about existence and raises."""
        status = response.status_code
        if status == 200 or status in ABSENT:
            return status
        if status == 429:
            raise RateLimited(f"{url}: too many requests", status=status, retry_after=self._retry_after(response))
        if 300 <= status < 400:
            raise ServerFailed(
                f"{url} leads elsewhere ({status}); only its own host is followed: check AC_MEDIA_URL", status=status
            )
        raise ServerFailed(
            f"{url} answered {status}; try again", status=status, retry_after=self._retry_after(response)
        )

    def _retry_after(self, response: httpx.Response) -> float | None:
        """Seconds to wait, from either form of `Retry-After` (RFC 9110, 10.2.3)."""
        value = response.headers.get("retry-after", "").strip()
        if not value:
            return None
        if value.isdigit():
            return float(value)
        try:
            return max(0.0, (parsedate_to_datetime(value) - self._clock()).total_seconds())
        except (TypeError, ValueError):
            return None


class _Answer(AbstractContextManager[httpx.Response]):
    """One streamed answer; redirects are followed on the same scheme, host and port only."""

    def __init__(self, client: httpx.Client, method: str, url: str) -> None:
        self._client = client
        self._method = method
        self._url = httpx.URL(url)
        self._response: httpx.Response | None = None

    def __enter__(self) -> httpx.Response:
        url = self._url
        for _ in range(REDIRECTS + 1):
            request = self._client.build_request(self._method, url, headers={"accept-encoding": "identity"})
            try:
                response = self._client.send(request, stream=True, follow_redirects=False)
            except httpx.TransportError as error:
                raise _unreachable(str(url), error) from error
            self._response = response
            target = response.headers.get("location")
            if response.status_code not in (301, 302, 303, 307, 308) or not target:
                return response
            following = url.join(target)
            if (following.scheme, following.host, following.port) != (url.scheme, url.host, url.port):
                return response
            response.close()
            url = following
        raise ServerFailed(f"{self._url} redirects more than {REDIRECTS} times")

    def __exit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.close()


def _unreachable(url: str, error: httpx.TransportError) -> ServiceUnreachable:
    what = f"{type(error).__name__}: {str(error)[:120]}"
    return ServiceUnreachable(f"{url} gave no answer{through(error)} ({what}); try again")


def _name(source: SourceObject) -> str:
    return f"{source.bucket}/{source.key}"
