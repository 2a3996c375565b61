"""Ledger entries as MongoDB documents, and back. Which of them are written when is `ledger.py`.

Every value is kept small: an entry is read and written with hundreds of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any

from ac_pipeline.items import Attempt, BlobRef, Derived, Failure, LedgerEntry, Rendition, Stage, State

HISTORY = 20
"""Attempts an entry remembers; the last failure is kept beside them, without expiry (OPS-2)."""

_LONGEST_TEXT = 4_000
"""Characters of one message or answer. A server's page of HTML says nothing more after that."""
_LONGEST_LINE = 500
"""Characters of a message in a line of the timeline."""
_MOST_WARNINGS = 50

_PLAIN = (
    "type",
    "document",
    "account",
    "partition",
    "code",
    "did",
    "fingerprint",
    "rkey",
    "uri",
    "cid",
    "attempts",
    "deferred_until",
    "withdrawn_at",
    "run_id",
    "updated_at",
)
"""Fields that BSON holds as they are."""


def to_bson(entry: LedgerEntry) -> dict[str, Any]:
    """All of an entry but its id and history. `blobs` repeats the CIDs of its renditions, to be looked up by."""
    stored: dict[str, Any] = {name: getattr(entry, name) for name in _PLAIN}
    stored["state"] = entry.state.value
    stored["stage"] = entry.stage.value
    stored["warnings"] = [_short(text, _LONGEST_LINE) for text in entry.warnings[:_MOST_WARNINGS]]
    stored["derived"] = None if entry.derived is None else _derived_to_bson(entry.derived)
    stored["blobs"] = [] if entry.derived is None else [made.blob.cid for made in entry.derived.renditions.values()]
    stored["past_blobs"] = list(entry.past_blobs) or None
    stored["failure"] = None if entry.failure is None else _failure_to_bson(entry.failure)
    return stored


def attempt_to_bson(attempt: Attempt) -> dict[str, Any]:
    """One line of the timeline."""
    return {
        "at": attempt.at,
        "run_id": attempt.run_id,
        "stage": attempt.stage.value,
        "state": attempt.state.value,
        "error_class": attempt.error_class,
        "message": _short(attempt.message, _LONGEST_LINE),
    }


def from_bson(stored: Mapping[str, Any]) -> LedgerEntry:
    """The entry of a stored document; fields that an older version did not write take their defaults."""
    failure, derived = stored.get("failure"), stored.get("derived")
    return LedgerEntry(
        item=stored["_id"],
        state=State(stored["state"]),
        stage=Stage(stored["stage"]),
        derived=None if derived is None else _derived_from_bson(derived),
        past_blobs=tuple(stored.get("past_blobs") or ()),
        failure=None if failure is None else _failure_from_bson(failure),
        warnings=tuple(stored.get("warnings") or ()),
        history=_timeline(stored.get("history") or ()),
        **{name: stored[name] for name in _PLAIN if name in stored},
    )


def _derived_to_bson(derived: Derived) -> dict[str, Any]:
    return {
        "key": derived.key,
        "stamp": derived.stamp,
        "found": sorted(derived.found),
        "warnings": [_short(text, _LONGEST_LINE) for text in derived.warnings[:_MOST_WARNINGS]],
        "renditions": {
            field: {
                "cid": made.blob.cid,
                "mime_type": made.blob.mime_type,
                "size": made.blob.size,
                "source": made.source,
                "spec": made.spec,
                "details": dict(made.details),
            }
            for field, made in derived.renditions.items()
        },
    }


def _derived_from_bson(stored: Mapping[str, Any]) -> Derived:
    return Derived(
        key=stored["key"],
        stamp=stored.get("stamp", ""),
        found=frozenset(stored["found"]),
        warnings=tuple(stored["warnings"]),
        renditions={
            field: Rendition(
                blob=BlobRef(cid=made["cid"], mime_type=made["mime_type"], size=made["size"]),
                source=made["source"],
                spec=made["spec"],
                details=made["details"],
            )
            for field, made in stored["renditions"].items()
        },
    )


def _failure_to_bson(failure: Failure) -> dict[str, Any]:
    return {
        "stage": failure.stage.value,
        "error_class": failure.error_class,
        "message": _short(failure.message, _LONGEST_TEXT),
        "status": failure.status,
        "answer": _short(failure.answer, _LONGEST_TEXT),
        "payload_hash": failure.payload_hash,
    }


def _failure_from_bson(stored: Mapping[str, Any]) -> Failure:
    return Failure(
        stage=Stage(stored["stage"]),
        error_class=stored["error_class"],
        message=stored["message"],
        status=stored["status"],
        answer=stored["answer"],
        payload_hash=stored["payload_hash"],
    )


def _timeline(stored: Iterable[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    """Without repeated lines: an entry that is saved twice for one attempt has that line twice in store."""
    return tuple(line for line, _ in groupby(map(_attempt_from_bson, stored)))


def _attempt_from_bson(stored: Mapping[str, Any]) -> Attempt:
    at: datetime = stored["at"]
    return Attempt(
        at=at,
        run_id=stored["run_id"],
        stage=Stage(stored["stage"]),
        state=State(stored["state"]),
        error_class=stored["error_class"],
        message=stored["message"],
    )


def _short(text: str | None, longest: int) -> str | None:
    """Cut, and made storable: half a surrogate pair, as an odd document can put into a message, is no BSON text."""
    if text is None:
        return None
    return (text if len(text) <= longest else text[: longest - 1] + "…").encode(errors="replace").decode()
