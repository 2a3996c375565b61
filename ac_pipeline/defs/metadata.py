"""What a materialisation, an observation and a check show to people: counts, pictures, and items with their links.

Tables and lists of items have the same columns wherever they stand. Measured in Dagster's UI (1.13.27): an address in
a table is plain text, one in Markdown is a link; Markdown of less than 1,000 characters stands inline on a partition's
page, anything else behind a click; a picture shows from its public address. So every table of items has links beside
it: a few inline, and a list of all with the last lines of their timelines. A table is never folded: on a check's page,
a wide one draws the sentences above it out of sight, so there it goes without the addresses, which are in the list.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg

from ac_pipeline.defs.pipeline import Outcome, PipelineResource
from ac_pipeline.errors import Misconfigured, PipelineError, Transient
from ac_pipeline.items import Attempt, LedgerEntry
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import page_of
from ac_pipeline.sync.report import ItemFailure

_NAMED_USERS = 5
"""Users a failure's sentence names; its table has them all."""


def failure_of(failures: Mapping[str, PipelineError], users: int) -> dg.Failure:
    """The failure of a step, some of whose users have to be run again.

    Args:
        failures: By partition key.
        users: How many the step was asked for.
    """
    classes = Counter(error.code for error in failures.values())
    named = "; ".join(f"{user}: {error.message}" for user, error in list(failures.items())[:_NAMED_USERS])
    more = f"; and {len(failures) - _NAMED_USERS} more" if len(failures) > _NAMED_USERS else ""
    return dg.Failure(
        description=f"{len(failures)} of {users} users have to be run again "
        f"({', '.join(f'{code} {count}' for code, count in classes.most_common())}). {named}{more}",
        metadata={
            "failed_users": table_of(
                ({"user": user, "class": error.code, "message": error.message} for user, error in failures.items()),
                ("user", "class", "message"),
            ),
            "error_classes": dg.MetadataValue.json(dict(classes)),
        },
        allow_retries=any(isinstance(error, Transient) for error in failures.values()),
    )


@contextmanager
def dagster_failures() -> Iterator[None]:
    """Let what stops a whole step fail it in one sentence: no retry for a wrong setting, retries for a lost service."""
    try:
        yield
    except Misconfigured as error:
        raise dg.Failure(description=error.message, allow_retries=False) from error
    except Transient as error:
        raise dg.Failure(description=error.message) from error


ROWS = 100
"""Rows a table of items has in one event: an event is kept for good, and the ledger has them all."""
LINKED: Final = 25
"""Items whose links stand beside the table: a list of links is four times as long as its rows."""
_ATTEMPTS: Final = 3
"""Lines of an item's timeline in such a list; `ac-pipeline item` prints all."""
_SAID: Final = 120
"""Characters of the message in such a line, and in a narrow table."""
_MESSAGE: Final = 500
"""Characters of a message: the tail of an encoder's output is in the ledger."""

_INLINE: Final = 990
"""Characters of Markdown the UI shows inline: it stops at 1,000."""

PICTURES = 4

Metadata = dict[str, Any]
Row = Mapping[str, str | int]

_COLUMNS = ("item", "code", "user", "stage", "class", "message", "attempts", "page", "record", "run")
_NARROW = _COLUMNS[:-3]
_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#!~])")


def account_metadata(pipeline: PipelineResource, outcome: Outcome, media: MediaType) -> Metadata:
    """What happened to one account's items of one type: the counts of the report (design, section 6), and more."""
    report = outcome.report
    metadata: Metadata = {}  # what a person looks for comes first: the UI keeps this order
    if report.blocked is not None:
        metadata["blocked_reason"] = f"{report.blocked.code}: {report.blocked.message}"
    failures = [failure for failure in report.failures if failure.item.partition(":")[0] == media.name]
    if failures:
        shown = [(failure, pipeline.entry(failure.item)) for failure in failures[:ROWS]]
        rows = [_failed(media, failure, entry) for failure, entry in shown]
        timelines = [entry.history if entry is not None else () for _, entry in shown]
        metadata["failed_items"] = items_table(rows)
        metadata["failed_items_links"] = first_links(pipeline, rows)
        metadata["failed_items_timelines"] = items_links(pipeline, rows, timelines)
        if len(failures) > ROWS:
            metadata["failed_items_not_shown"] = len(failures) - ROWS
    if report.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {escaped(note)}" for note in report.notes[:ROWS]))
    return {**metadata, **counts(outcome, media), "seconds": round(report.seconds, 3)}


def counts(outcome: Outcome, media: MediaType) -> dict[str, int]:
    """The counts of one account and type, as design section 6 names them."""
    return outcome.report.tally(media.name).to_json()


def source_counts(outcome: Outcome, media: MediaType) -> dict[str, int]:
    """What was found of one account's documents of one type."""
    found = counts(outcome, media)
    return {name: found[name] for name in ("documents", "eligible", "withdrawn", "invalid") if name in found}


def pictures_metadata(pipeline: PipelineResource, outcome: Outcome, media: MediaType) -> Metadata:
    """A few pictures as Markdown, which the UI shows inline from their public addresses."""
    tally = outcome.report.tally(media.name)
    if not tally.written + tally.unchanged:
        return {}
    pictures = pipeline.pictures(outcome.account, media, PICTURES)
    if not pictures:
        return {}
    return {"pictures": dg.MetadataValue.md(" ".join(f"![{escaped(each.title)}]({each.url})" for each in pictures))}


def error_metadata(error: PipelineError) -> Metadata:
    return {"status": "run again", "error_class": error.code, "error": error.message}


def table_of(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """A table of these columns; one that holds nothing but whole numbers is a column of numbers."""
    records = [dg.TableRecord({name: row[name] for name in columns}) for row in rows]
    whole = {
        name
        for name in columns
        if (given := [each.data[name] for each in records if each.data[name] is not None])
        and all(isinstance(value, int) and not isinstance(value, bool) for value in given)
    }
    schema = dg.TableSchema([dg.TableColumn(name, "int" if name in whole else "string") for name in columns])
    return dg.MetadataValue.table(records, schema=schema)


def items_table(rows: Iterable[Row], *, narrow: bool = False) -> dg.TableMetadataValue:
    """Items as a table, one row each.

    Args:
        narrow: Leave out page, record and run, and cut long messages.
    """
    shown = [{name: _cell(value, narrow=narrow) for name, value in row.items()} for row in rows]
    return table_of(shown, _NARROW if narrow else _COLUMNS)


def first_links(pipeline: PipelineResource, rows: Sequence[Row]) -> dg.MarkdownMetadataValue:
    """The links of the first items, as many as the UI shows inline."""
    lines: list[str] = []
    rest = "- the others: failed_items_timelines"
    for row in rows:
        line = f"- {escaped(str(row['code'] or row['item']))}: {', '.join(_links(pipeline, row, 'record'))}"
        if sum(map(len, lines)) + len(lines) + len(line) + len(rest) >= _INLINE:
            lines.append(rest)
            break
        lines.append(line)
    return dg.MetadataValue.md("\n".join(lines))


def items_links(
    pipeline: PipelineResource, rows: Sequence[Row], timelines: Sequence[Sequence[Attempt]]
) -> dg.MarkdownMetadataValue:
    """The same items as a list of links: to the page, the record and the run that last tried, with the last attempts.

    Args:
        rows: Rows of `items_table`.
        timelines: Of each of them, oldest attempt first, as `ac-pipeline item` prints it.
    """
    lines = []
    for row, timeline in list(zip(rows, timelines, strict=True))[:LINKED]:
        name = f"**{escaped(str(row['code']))}** " if row["code"] else ""
        lines.append(
            f"- {name}{coded(str(row['item']))} of {escaped(str(row['user']))}: {escaped(str(row['class']))}: "
            f"{escaped(str(row['message']))}  \n  {' · '.join(_links(pipeline, row, str(row['record'])))}"
        )
        lines += [f"    - {attempt_line(attempt)}" for attempt in timeline[-_ATTEMPTS:]]
    if len(rows) > LINKED:
        lines.append(f"\n{len(rows) - LINKED} more are in the table; `ac-pipeline item` shows each with its timeline.")
    return dg.MetadataValue.md("\n".join(lines))


def _links(pipeline: PipelineResource, row: Row, record: str) -> list[str]:
    """Where an item is found; `record` is the text of the link to its record."""
    return [
        link("page", str(row["page"])) if row["page"] else "no page",
        link(record, pipeline.record_address(str(row["record"]))) if row["record"] else "no record",
        f"last run {run_link(str(row['run']))}",
    ]


def attempt_line(attempt: Attempt) -> str:
    """One line of an item's timeline: what `ac-pipeline item` prints, in the same order."""
    said = [attempt.error_class or "", escaped(_short(attempt.message or "", _SAID))]
    parts = [f"{attempt.at:%Y-%m-%d %H:%M:%S}", run_link(attempt.run_id), attempt.stage.value, attempt.state.value]
    return " · ".join([*parts, *filter(None, said)])


def entry_row(media: MediaType, entry: LedgerEntry) -> dict[str, str | int]:
    """A row about one item of the ledger that is not where it should be."""
    failure = entry.failure
    return {
        "item": entry.item,
        "code": entry.code or "",
        "user": entry.partition,
        "stage": failure.stage.value if failure else entry.stage.value,
        "class": failure.error_class if failure else "",
        "message": _short(failure.message) if failure else "",
        "attempts": entry.attempts,
        "page": page_of(media, entry.code) or "",
        "record": entry.uri or "",
        "run": entry.run_id,
    }


def _failed(media: MediaType, failure: ItemFailure, entry: LedgerEntry | None) -> dict[str, str | int]:
    return {
        "item": failure.item,
        "code": failure.code or "",
        "user": failure.user,
        "stage": failure.stage.value,
        "class": failure.error_class,
        "message": _short(failure.message),
        "attempts": entry.attempts if entry is not None else failure.attempts,
        "page": page_of(media, failure.code) or "",
        "record": (entry.uri if entry is not None else None) or "",
        "run": entry.run_id if entry is not None else "",
    }


def link(text: str, address: str | None) -> str:
    """A link in Markdown; the text alone without an address."""
    return f"[{escaped(text)}]({address})" if address else escaped(text)


def run_link(run: str) -> str:
    """A run of Dagster as a link to its page; one of the command line by its name."""
    return f"[{run[:8]}](/runs/{run})" if _RUN.fullmatch(run) else coded(run or "unknown")


def coded(text: str) -> str:
    """A text as code in a line of Markdown."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def escaped(text: str) -> str:
    """Text as one line of Markdown that means itself."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _cell(value: str | int, *, narrow: bool) -> str | int:
    return _short(value, _SAID) if narrow and isinstance(value, str) else value


def _short(message: str, limit: int = _MESSAGE) -> str:
    return message if len(message) <= limit else f"{message[:limit]} ..."
