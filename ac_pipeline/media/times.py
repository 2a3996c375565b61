"""The time of a document: reading what Mongo holds under `when`, and writing it as records do."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (pymongo hands out naive datetimes that mean UTC)
_MILLISECOND = timedelta(milliseconds=1)

# Milliseconds. A smaller number is not a JavaScript time of this platform (seconds, a counter).
_YEAR_2000, _YEAR_2100 = 946_684_800_000, 4_102_444_800_000

_ZONE = r"\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}:?\d{2})?"
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
_ISO = re.compile(
    rf"(?P<year>\d{{4}})-(?P<month>\d{{1,2}})-(?P<day>\d{{1,2}})(?:(?:T|\s+){_CLOCK})?{_ZONE}", re.IGNORECASE
)
_JAVASCRIPT = re.compile(
    rf"(?:[a-z]{{3,9}},?\s+)?(?P<name>[a-z]{{3}})[a-z]*\s+(?P<day>\d{{1,2}}),?\s+(?P<year>\d{{4}})\s+{_CLOCK}"
    r"\s*(?:GMT|UTC)?(?P<zone>[+-]\d{2}:?\d{2}|Z)?(?:\s*\([^)]*\))?",
    re.IGNORECASE,
)
_HTTP = re.compile(
    rf"(?:[a-z]{{3,9}},?\s+)?(?P<day>\d{{1,2}})\s+(?P<name>[a-z]{{3}})[a-z]*\s+(?P<year>\d{{4}})\s+{_CLOCK}{_ZONE}",
    re.IGNORECASE,
)
_SLUG = re.compile(
    r"(?P<year>\d{4})\.(?P<month>\d{1,2})\.(?P<day>\d{1,2})"
    r"\.(?P<hour>\d{1,2})\.(?P<minute>\d{1,2})\.(?P<second>\d{1,2})(?:\.(?P<fraction>\d{1,3}))?Z?"
)
_NUMBER = re.compile(r"\d{12,13}")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def format_when(milliseconds: int) -> str:
    """`2025-10-14T09:08:07.006Z`, as JavaScript's `toISOString` (aesthetic-computer facts, section 7), of UTC
    milliseconds since 1970 in the years 1 to 9999."""
    return (_EPOCH + milliseconds * _MILLISECOND).isoformat(timespec="milliseconds") + "Z"


def read_when(value: object) -> int | None:
    """What is stored under `when`, in UTC milliseconds since 1970, or None when no time can be read from it: a Date
    (naive means UTC), a text in one of the forms JavaScript prints (ISO 8601, `toString`, `toUTCString`; without a zone
    in UTC), a slug's own time, or a number of milliseconds between the years 2000 and 2100. Fractions are cut off."""
    if isinstance(value, datetime):
        try:
            naive = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:  # a zone that leaves the years 1 to 9999
            return None
        return (naive - _EPOCH) // _MILLISECOND
    if type(value) is str:
        return _read_text(value.strip())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _read_number(value)
    return None


def object_id_time(hexadecimal: str) -> int | None:
    """The time inside an ObjectId (its first four bytes are seconds), in milliseconds; None for anything else."""
    try:
        return int(hexadecimal[:8], 16) * 1000 if len(hexadecimal) == 24 else None
    except ValueError:
        return None


def _read_number(value: float) -> int | None:
    try:
        number = int(value)
    except (ValueError, OverflowError):  # NaN and infinities
        return None
    return number if _YEAR_2000 <= number < _YEAR_2100 else None


def _read_text(text: str) -> int | None:
    if _NUMBER.fullmatch(text):
        return _read_number(int(text))
    for pattern in (_ISO, _JAVASCRIPT, _HTTP, _SLUG):
        match = pattern.fullmatch(text)
        if match is not None:
            return _from_parts(match.groupdict())
    return None


def _from_parts(parts: dict[str, str | None]) -> int | None:
    digits = parts["fraction"] or "0"
    # A slug has no zone, and its last part counts milliseconds: `.7` is 7 ms there, and 700 ms in ISO 8601.
    milliseconds = int(digits.ljust(3, "0")[:3]) if "zone" in parts else int(digits)
    try:
        name = parts.get("name")
        month = _MONTHS.index(name.lower()) + 1 if name else int(parts.get("month") or 0)
        day, hour, minute, second = (int(parts[unit] or 0) for unit in ("day", "hour", "minute", "second"))
        zone = _zone(parts.get("zone"))
        return read_when(datetime(int(parts["year"] or 0), month, day, hour, minute, second, milliseconds * 1000, zone))
    except (ValueError, OverflowError):  # no month, 31 February, hour 25, or a zone that leaves the years 1 to 9999
        return None


def _zone(text: str | None) -> timezone:
    if text is None or text.upper() in {"Z", "UTC", "GMT"}:
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text.startswith("-") else offset)
