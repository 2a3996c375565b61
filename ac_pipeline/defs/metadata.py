"""What a materialisation, an observation and a check show to people: counts, tables, pictures, links."""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from ac_pipeline.defs.failures import Trouble
from ac_pipeline.defs.mirror import Mirror, Outcome
from ac_pipeline.items import LedgerEntry
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.sync.report import ItemFailure

ROWS = 100
"""Rows a table of items has in one event: an event is kept for good, and the ledger has them all."""

PICTURES = 4

Metadata = dict[str, Any]

_COLUMNS = ("item", "code", "user", "stage", "class", "message", "attempts", "page", "record")
_SCHEMA = dg.TableSchema(columns=[dg.TableColumn(name, "int" if name == "attempts" else "string") for name in _COLUMNS])


def account_metadata(mirror: Mirror, outcome: Outcome, media: MediaType) -> Metadata:
    """What happened to one account's items of one type: the counts of the report (design, section 6), and more."""
    report = outcome.report
    if report is None:
        return {}
    metadata: Metadata = {**counts(outcome, media), "seconds": round(report.seconds, 3)}
    if report.blocked is not None:
        metadata["blocked_reason"] = f"{report.blocked.code}: {report.blocked.message}"
    if report.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in report.notes[:ROWS]))
    failures = [failure for failure in report.failures if failure.item.partition(":")[0] == media.name]
    if failures:
        metadata["failed_items"] = items_table([_failed(mirror, media, failure) for failure in failures[:ROWS]])
        if len(failures) > ROWS:
            metadata["failed_items_not_shown"] = len(failures) - ROWS
    return metadata


def counts(outcome: Outcome, media: MediaType) -> dict[str, int]:
    """The counts of one account and type, as design section 6 names them."""
    return outcome.report.tally(media.name).to_json() if outcome.report is not None else {}


def source_counts(outcome: Outcome, media: MediaType) -> dict[str, int]:
    """What was found of one account's documents of one type."""
    found = counts(outcome, media)
    return {name: found[name] for name in ("documents", "eligible", "withdrawn", "invalid") if name in found}


def pictures_metadata(mirror: Mirror, outcome: Outcome, media: MediaType) -> Metadata:
    """A few pictures as Markdown, which the UI shows inline from their public addresses."""
    tally = outcome.report.tally(media.name) if outcome.report is not None else None
    if tally is None or not tally.written + tally.unchanged:
        return {}
    pictures = mirror.pictures(outcome.account, media, PICTURES)
    if not pictures:
        return {}
    return {"pictures": dg.MetadataValue.md(" ".join(f"![{each.title}]({each.url})" for each in pictures))}


def trouble_metadata(trouble: Trouble) -> Metadata:
    return {"status": "run again", "error_class": trouble.code, "error": trouble.message}


def items_table(rows: Iterable[Mapping[str, str | int]]) -> dg.TableMetadataValue:
    """Items as a table, one row each."""
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], schema=_SCHEMA)


def quarantined_row(media: MediaType, entry: LedgerEntry) -> dict[str, str | int]:
    """A row about one quarantined item of the ledger."""
    failure = entry.failure
    return {
        "item": entry.item,
        "code": entry.code or "",
        "user": entry.partition,
        "stage": failure.stage.value if failure else entry.stage.value,
        "class": failure.error_class if failure else "",
        "message": failure.message if failure else "",
        "attempts": entry.attempts,
        "page": _page(media, entry.code) or "",
        "record": entry.uri or "",
    }


def _failed(mirror: Mirror, media: MediaType, failure: ItemFailure) -> dict[str, str | int]:
    entry = mirror.entry(failure.item)
    return {
        "item": failure.item,
        "code": failure.code or "",
        "user": failure.user,
        "stage": failure.stage.value,
        "class": failure.error_class,
        "message": failure.message,
        "attempts": entry.attempts if entry is not None else failure.attempts,
        "page": _page(media, failure.code) or "",
        "record": (entry.uri if entry is not None else None) or "",
    }


def _page(media: MediaType, code: str | None) -> str | None:
    """The public page of an item that is known by its code alone."""
    return media.page(Document(media.name, "", None, code, 0, {}, "")) if code else None
