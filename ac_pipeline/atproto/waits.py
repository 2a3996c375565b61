"""When a server wants to be asked again: what `Retry-After` and `RateLimit-*` headers say of it.

Reading headers only; what follows is `budget.py`'s and `transport.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_EARLIEST_EPOCH: Final = 1_000_000_000
"""`RateLimit-Reset` is epoch seconds on the reference PDS, seconds from now in the IETF draft."""

LONGEST: Final = 86_400.0
"""Seconds: the longest window of a PDS. A header that names a later time would silence it for good."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the server wants to be asked again: the later of `Retry-After` and the reset of a spent limit.

    Args:
        headers: Response headers, by lower-case name.
        now: Epoch seconds.
    """
    waits = [wait for wait in (_retry_after_header(headers, now), _spent_reset(headers, now)) if wait is not None]
    return min(max(waits), LONGEST) if waits else None


def reset_time(value: str | None, now: float) -> float | None:
    """Epoch seconds of a `RateLimit-Reset` header, which may count from 1970 or from now; None when unreadable."""
    try:
        number = float(value) if value is not None else -1.0
    except ValueError:
        return None
    if not 0 <= number < float("inf"):
        return None
    return min(number if number >= _EARLIEST_EPOCH else now + number, now + LONGEST)


def _spent_reset(headers: Mapping[str, str], now: float) -> float | None:
    if headers.get("ratelimit-remaining", "0").strip() != "0":
        return None
    reset = reset_time(headers.get("ratelimit-reset"), now)
    return None if reset is None else max(reset - now, 0.0)


def _retry_after_header(headers: Mapping[str, str], now: float) -> float | None:
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(moment.timestamp() - now, 0.0)
