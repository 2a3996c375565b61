"""In what an existing record differs from the wanted one, and whether that is worth a write. Pure."""

from __future__ import annotations

from ac_pipeline.atproto.syntax import parse_datetime
from ac_pipeline.items import Record
from ac_pipeline.sync.plan import Existing, Wanted

WHEN_TOLERANCE_MS = 1000
"""The platform's real-time writer takes the clock twice, so its `when` is off by milliseconds (acceptance, REC-7)."""


def difference(existing: Existing, wanted: Wanted) -> str:
    """In which fields a record differs from the wanted one, in words; empty when it need not be written."""
    if existing.cid == wanted.cid or wanted.record is None:
        return ""
    changed = [n for n in wanted.record if n in existing.value and existing.value[n] != wanted.record[n]]
    missing = [n for n in wanted.record if n not in existing.value]
    extra = [n for n in existing.value if n not in wanted.record]
    if changed == ["when"] and not missing and not extra and _same_moment(existing.value, wanted.record):
        return ""
    parts = [("differs in", changed), ("lacks", missing), ("has extra", extra)]
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names) or "encoded differently"


def _same_moment(one: Record, other: Record) -> bool:
    times = [parse_datetime(value) if isinstance(value, str) else None for value in (one["when"], other["when"])]
    return None not in times and abs(times[0] - times[1]) < WHEN_TOLERANCE_MS  # type: ignore[operator]
