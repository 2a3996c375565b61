"""How long, how slow and how large an answer over HTTP may be, for the PDS, the relay and object storage alike (httpx
bounds each silence only: a server that never ends holds its caller for ever), and how long such a server wants to be
left alone (`Retry-After`)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, Final

import httpcore
import httpx

from ac_pipeline.errors import ServerFailed, ServiceUnreachable

SPEED_SETTING: Final = "AC_LEAST_BYTES_PER_SECOND"
_TICK: Final = 0.02
_PIECE: Final = 1 << 13  # Bytes sent at once: a receiver that takes little of them is noticed after each piece


class OverLimit(ServerFailed):
    """The answer took too long, came too slowly or is too large; the message names the limit and its setting."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The bounds of one kind of answer."""

    setting: str  # What its settings begin with, e.g. `AC_ANSWER`.
    seconds: float  # From sending the request to the last byte of the answer
    megabytes: int  # Of the body, unpacked (2^20 bytes each)
    # Bytes a second, on average, once the answer has begun and `grace` seconds have passed; 0 for any speed
    least: int = 500
    grace: float = 30.0  # Seconds

    def late(self) -> OverLimit:
        return OverLimit(f"not at its end after {self.seconds:g} s, the limit of {self.setting}_SECONDS")

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks of a body, as long as it keeps the limits; OverLimit is raised where it does not. The time in all
        is that of `within`."""
        size, began = 0, monotonic()
        for chunk in chunks:
            size += len(chunk)
            passed = monotonic() - began
            if size > self.megabytes << 20:
                raise OverLimit(f"an answer of more than {self.megabytes} MB, the limit of {self.setting}_MEGABYTES")
            if passed > self.grace and size < self.least * passed:
                raise OverLimit(f"{size} bytes in {passed:.0f} s, fewer than {SPEED_SETTING}={self.least} allows")
            if _ends.at is not None and monotonic() > _ends.at:
                raise self.late()
            yield chunk


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of every kind of answer: JSON, whole repositories, blobs of the PDS, media in object storage."""

    answer: Limit = Limit("AC_ANSWER", 120.0, 16)
    repository: Limit = Limit("AC_REPOSITORY", 900.0, 256)
    blob: Limit = Limit("AC_BLOB", 900.0, 256)
    media: Limit = Limit("AC_MEDIA", 900.0, 1024)


class _Ends(threading.local):
    at: float | None = None


_ends = _Ends()  # When what this thread sends and receives must be at its end, by `monotonic`


@contextmanager
def within(limit: Limit) -> Iterator[None]:
    """Give all that this thread sends and receives, through transports made `bounded`, the limit's seconds from now.
    Once they are over, OverLimit is raised in place of the error of the connection."""
    before, _ends.at = _ends.at, monotonic() + limit.seconds
    try:
        yield
    except (httpx.TimeoutException, ServiceUnreachable):
        if monotonic() >= _ends.at - _TICK:
            raise limit.late() from None
        raise
    finally:
        _ends.at = before


def seconds_to_wait(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that either form of `Retry-After` names (RFC 9110, 10.2.3); None without, or when unreadable.
    `headers`: response headers, by lower-case name."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(moment.timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None


def bounded(transport: httpx.HTTPTransport) -> httpx.HTTPTransport:
    """The transport, every wait on its connections cut at the end that `within` sets, headers and uploads included.

    httpx has no public place for a network backend; a test shows that this one is used.
    """
    pool: Any = transport._pool
    pool._network_backend = _Backend()
    return transport


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    if _ends.at is None:
        return timeout
    left = _ends.at - monotonic()
    if left <= 0:
        raise error("the time of this request is over")
    return left if timeout is None else min(timeout, left)


class _Backend(httpcore.SyncBackend):
    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *more: Any, **named: Any
    ) -> httpcore.NetworkStream:
        timeout = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, timeout, *more, **named))


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        timeout = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
