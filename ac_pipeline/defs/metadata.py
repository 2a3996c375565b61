"""What a materialisation, an observation and a check show to people: counts, pictures, and items with their links.
Tables and lists of items have the same columns wherever they stand, as wide as Dagster's UI has room for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import record_address
from ac_pipeline.defs.assets.catalog import THUMBNAILS
from ac_pipeline.defs.pipeline import Outcome, PipelineResource
from ac_pipeline.errors import (
    NoCredentials,
    PipelineError,
    RateLimited,
    ServerFailed,
    ServiceUnreachable,
    SourcePending,
    Transient,
    WrongPassword,
)
from ac_pipeline.items import Attempt, Failure, LedgerEntry, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import media_type, page_of
from ac_pipeline.sync.report import AccountReport, ItemFailure, Tally
from ac_pipeline.wiring import Pipeline

_NAMED_USERS = 5  # Users a failure's sentence names; its table has them all


def failure_of(failures: Mapping[str, PipelineError], users: int) -> dg.Failure:
    """The failure of a step, some of whose `users` have to be run again: why, by partition key."""
    classes = Counter(error.code for error in failures.values())
    named = "; ".join(f"{user}: {error.message}" for user, error in list(failures.items())[:_NAMED_USERS])
    more = f"; and {len(failures) - _NAMED_USERS} more" if len(failures) > _NAMED_USERS else ""
    return dg.Failure(
        description=f"{len(failures)} of {users} users have to be run again ({by_number(classes)}). {named}{more}",
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
    """Let what stops a whole step fail it in one sentence, with retries (where the step has any) for a lost service."""
    try:
        yield
    except PipelineError as error:
        raise dg.Failure(description=error.message, allow_retries=isinstance(error, Transient)) from error


ROWS = 100  # Rows a table of items has in one event: an event is kept for good, and the ledger has them all
LINKED: Final = 25  # Items whose links stand beside the table: a list of links is four times as long as its rows
_ATTEMPTS: Final = 3  # Lines of an item's timeline in such a list; `ac-pipeline item` prints all
_SAID: Final = 120  # Characters of the message in such a line
_MESSAGE: Final = 500  # Characters of a message: the tail of an encoder's output is in the ledger

_INLINE: Final = 990  # Characters of Markdown the UI shows inline: it stops at 1,000

_ROOM: Final = 46
"""Characters beside one another in a table of an asset's page at 1440 pixels, beside keys of 24 characters."""
_PADDING: Final = 2
_MORE: Final = 14 + _PADDING

PICTURES = 8

Metadata = dict[str, Any]

ALL_FAILED_ITEMS: Final = dg.AssetKey(["operations", "failed_items"])  # The asset that lists every failed item

_NOTHING: Final = "Nothing is to be done: it is tried again by itself."
_ADVICE: Final = {
    "invalid-document": "When the document is right, it is tried again by itself.",
    "invalid-record": "When the document is right, it is tried again by itself.",
    "source-missing": "When the file is in storage, launch retry_items.",
    "unreadable-media": "When that is done, launch retry_items.",
    "encoding-failed": "When the stored file is another one, launch retry_items.",
    "too-large": "When the source is smaller, launch retry_items.",
    "record-refused": "When the document is right, it is tried again by itself.",
    "blob-missing": "Launch sync_users for the user with `blobs: true`.",
    "held-back": "A person has to decide whose it is: see Held back in the operators' guide.",
    **{error.code: _NOTHING for error in (RateLimited, ServerFailed, ServiceUnreachable, SourcePending)},
    **{error.code: "The job list_accounts says what the account needs." for error in (NoCredentials, WrongPassword)},
}
"""What to do, by class of error."""

_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#!~])")
_NAMES: Final = frozenset({"code", "class", "user", "plan", "snapshot", "state", "states"})
"""Columns of what people copy into a launchpad: their words stay whole."""
_LONG_WORD = re.compile(r"\S{14,}")
_BREAKS = re.compile(r"([/.:]|[0-9a-f]{8}(?=[0-9a-f])|\w{12}(?=\w))")


def failed_entry(failure: ItemFailure, known: LedgerEntry | None) -> LedgerEntry:
    """What a run says of an item, with what the ledger knows of where it is found."""
    type_, _, document = failure.item.partition(":")
    entry = known or LedgerEntry(
        failure.item, type_, document, "", failure.user, failure.state, failure.stage, attempts=failure.attempts
    )
    said = Failure(failure.stage, failure.error_class, failure.message)
    return entry.with_(partition=failure.user, code=failure.code, failure=said)


def _said_of(entry: LedgerEntry) -> tuple[str, str]:
    """The class of an item's last error, and its message with what to do about it."""
    if entry.failure is None:
        return "", ""
    code, message = entry.failure.error_class, _short(entry.failure.message)
    advice = _ADVICE.get(code, "")
    return code, f"{message.rstrip('.')}. {advice}" if advice else message


def _links(pipeline: PipelineResource, entry: LedgerEntry) -> str:
    """Where an item is found: its page, its record and the run that last tried."""
    page = page_of(media_type(entry.type), entry.code)
    found = [
        link("page", page) if page else "no page",
        record_link(pipeline, entry.uri, "record"),
        f"last run {run_link(entry.run_id)}",
    ]
    return " · ".join(found)


def account_metadata(
    pipeline: PipelineResource, outcome: Outcome, media: MediaType, *, renditions: bool = False
) -> Metadata:
    """What happened to one account's items of one type: the counts of the report (design, section 6), and more.
    `renditions`: true for the assets of derived media, which tell of what was made."""
    report, tally = outcome.report, outcome.report.tally(media.name)
    metadata: Metadata = {}  # what a person looks for comes first: the UI keeps this order
    if report.blocked is not None:
        metadata["blocked_reason"] = f"{report.blocked.code}: {report.blocked.message}"
    failures = [failure for failure in report.failures if failure.item.partition(":")[0] == media.name]
    if failures:
        ledger = pipeline.open().ledger
        rows = [failed_entry(failure, ledger.get(failure.item)) for failure in failures[:ROWS]]
        metadata["failed_items"] = items_table(rows)
        metadata["failed_items_links"] = first_links(pipeline, rows)
        metadata["failed_items_timelines"] = items_links(pipeline, rows)
        if len(failures) > ROWS:
            metadata["failed_items_not_shown"] = len(failures) - ROWS
    if not report.error and (shown := _pictures(pipeline.open(), outcome.account, media, pending=renditions)):
        metadata["pictures"] = dg.MetadataValue.md(" ".join(shown))
    if report.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {escaped(note)}" for note in report.notes[:ROWS]))
    if renditions:
        kept = pipeline.open().ledger.find(account=outcome.account.id, types={media.name})
        sizes = [made.blob.size for each in kept if each.derived for made in each.derived.renditions.values()]
        metadata |= {
            "made": tally.pending,
            "reused": tally.unchanged,
            "failed": tally.quarantined + tally.deferred,
            "renditions": len(sizes),
            "bytes": sum(sizes),
            "seconds_of_encoding": round(report.seconds, 3) if tally.pending else 0.0,
            "documents": tally.documents,
            "eligible": tally.eligible,
        }
        return metadata
    return {**metadata, **counts(outcome, media), "seconds": round(report.seconds, 3)}


def _pictures(pipeline: Pipeline, account: Account, media: MediaType, *, pending: bool) -> list[str]:
    """Some pictures of the account's records in Markdown: small ones of our web server, each a link to what it shows on
    the PDS, the picture or the video whose poster it is. None for a type whose records hold no picture. `pending`: also
    those that are made and not published yet: they are seen once they are."""
    if not media.blobs or account.did is None:
        return []
    states = {State.WRITTEN, State.UNCHANGED, *([State.PENDING] if pending else [])}
    shown = []
    for entry in pipeline.ledger.find(states=states, account=account.id, types={media.name}, limit=PICTURES):
        blobs = [made.blob for made in entry.derived.renditions.values()] if entry.derived else []
        picture = next((each for each in blobs if each.mime_type.startswith("image/")), None)
        if picture is None or entry.did is None:
            continue
        blob = next((each for each in blobs if each.mime_type.startswith("video/")), picture)
        address = f"{pipeline.settings.pds_url}/xrpc/com.atproto.sync.getBlob"
        asked = urlencode({"did": entry.did, "cid": blob.cid})
        title = escaped(entry.code or entry.document)
        shown.append(f"[![{title}]({THUMBNAILS}{entry.did}/{picture.cid})]({address}?{asked})")
    return shown


def counts(outcome: Outcome, media: MediaType) -> dict[str, int]:
    """The counts of one account and type, as design section 6 names them; `records` is their number after the run."""
    tally = outcome.report.tally(media.name)
    after = tally.records + tally.created - tally.deleted - tally.duplicates_removed
    return {**tally.to_json(), "records": max(0, after)}


def error_metadata(error: PipelineError) -> Metadata:
    return {"status": "run again", "error_class": error.code, "error": error.message}


@dataclass(slots=True)
class Summary:
    """What became of all users of a run, for its closing line."""

    users: int = 0
    failures: dict[str, PipelineError] = field(default_factory=dict)  # Who has to be run again, by partition key
    types: dict[str, Tally] = field(default_factory=dict)
    classes: Counter[str] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)

    def add(self, report: AccountReport) -> None:
        self.users += 1
        if report.error is not None:
            self.failures[report.user] = report.error
        for name, tally in report.types.items():
            self.types.setdefault(name, Tally()).add(tally)
        self.classes.update(failure.error_class for failure in report.failures)
        if report.blocked is not None:
            self.blocked[report.blocked.code] += 1

    def sentence(self, types: Iterable[str]) -> str:
        """One line: users, what became of the items of each type, classes of errors, blocked accounts."""
        said = [f"{name}: {outcomes(self.types.get(name, Tally()))}" for name in types]
        classes = self.classes + Counter(error.code for error in self.failures.values())
        parts = [
            f"Users: {self.users}{f', to be run again: {len(self.failures)}' if self.failures else ''}",
            "; ".join(said),
            f"Errors: {by_number(classes)}" if classes else "No errors",
            *([f"Blocked accounts: {self.blocked.total()} ({by_number(self.blocked)})"] if self.blocked else []),
        ]
        return f"Done. {'. '.join(parts)}."


def outcomes(tally: Tally) -> str:
    """What became of items, without what there is none of."""
    names = ("created", "updated", "deleted", "unchanged", "deferred", "quarantined", "blocked")
    numbers = {"rendered": tally.pending, **{name: getattr(tally, name) for name in names}}
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number) or "nothing to do"


def by_number(counter: Counter[str]) -> str:
    """What was counted, the most frequent first."""
    return ", ".join(f"{name} {number}" for name, number in counter.most_common())


def table_of(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """A table of these columns; one of whole numbers is a column of numbers. Long words can be broken: a value has 390
    px on an asset's page (Dagster's UI 1.13.27 at 1440 px), and one entry that is wider cuts all of them."""
    records = [
        dg.TableRecord({name: row[name] if name in _NAMES else _cell(row[name]) for name in columns}) for row in rows
    ]
    whole = {
        name
        for name in columns
        if (given := [each.data[name] for each in records if each.data[name] is not None])
        and all(isinstance(value, int) and not isinstance(value, bool) for value in given)
    }
    schema = dg.TableSchema([dg.TableColumn(name, "int" if name in whole else "string") for name in columns])
    return dg.MetadataValue.table(records, schema=schema)


def fitted_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """A table that is not wider than an asset's page: what has no room stands by name in its last column,
    and counts of a few things stand on their side."""
    if len(rows) + 1 < len(columns) and all(isinstance(row[name], int) for row in rows for name in columns[1:]):
        on_its_side = [{columns[0]: name, **{row[columns[0]]: row[name] for row in rows}} for name in columns[1:]]
        return table_of(on_its_side, list(on_its_side[0]))
    room, kept = _ROOM, 0
    for name in columns:
        texts = [name, *(str(row[name] or "") if name in _NAMES else breakable(str(row[name] or "")) for row in rows)]
        room -= _PADDING + max(len(word) for text in texts for word in (re.split(r"[\s\u200b]", text)))
        if room < (0 if name == columns[-1] else _MORE):
            break
        kept += 1
    if kept >= len(columns) - 1:
        return table_of(rows, columns)
    rest = [
        {**row, "more": "; ".join(f"{name}: {row[name]}" for name in columns[kept:] if row[name] not in (None, ""))}
        for row in rows
    ]
    return table_of(rest, (*columns[:kept], "more"))


def items_table(entries: Iterable[LedgerEntry], *, users: bool = False) -> dg.TableMetadataValue:
    """Items as a table, one row each: why first, the id last. `users`: true where they may be of several users."""
    rows = []
    for entry in entries:
        code, message = _said_of(entry)
        row = {"code": entry.code or "", "class": code, "message": message, "user": entry.partition, "item": entry.item}
        rows.append(row)
    return table_of(rows, ("code", "class", "message", *(["user"] if users else []), "item"))


def first_links(pipeline: PipelineResource, entries: Iterable[LedgerEntry]) -> dg.MarkdownMetadataValue:
    """The links of the first items, as many as the UI shows inline."""
    lines: list[str] = []
    rest = "- the others: failed_items_timelines"
    for entry in entries:
        line = f"- {escaped(entry.code or entry.item)}: {_links(pipeline, entry)}"
        if sum(map(len, lines)) + len(lines) + len(line) + len(rest) >= _INLINE:
            lines.append(rest)
            break
        lines.append(line)
    return dg.MetadataValue.md("\n".join(lines))


def items_links(
    pipeline: PipelineResource, entries: Sequence[LedgerEntry], limit: int = LINKED
) -> dg.MarkdownMetadataValue:
    """The same items as a list: why, the links to page, record and the run that last tried, and the last attempts. An
    address in a table is plain text, one in Markdown is a link."""
    lines = []
    for entry in entries[:limit]:
        name = f"**{escaped(entry.code)}** " if entry.code else ""
        code, message = _said_of(entry)
        stage = entry.failure.stage if entry.failure else entry.stage
        lines.append(
            f"- {name}{escaped(code)}: {escaped(message)}  \n  {_links(pipeline, entry)} · "
            f"{escaped(entry.partition)} · {stage.value}, attempts: {entry.attempts} · {coded(entry.item)}"
        )
        lines += [f"    - {attempt_line(attempt)}" for attempt in entry.history[-_ATTEMPTS:]]
    if len(entries) > limit:
        lines.append(
            f"\n{len(entries) - limit} more are in the table; `ac-pipeline item` shows each with its timeline."
        )
    return dg.MetadataValue.md("\n".join(lines))


def item_entries(pipeline: PipelineResource, entries: Iterable[LedgerEntry]) -> Metadata:
    """Each item by a short name, as wide as a page allows: why first, the id last."""
    found: Metadata = {}
    for entry in entries:
        code, message = _said_of(entry)
        short = f"{entry.type}:{entry.code or entry.document[-8:]}"
        where = f"  \n{escaped(entry.partition)} · {_links(pipeline, entry)} · {coded(entry.item)}"
        said, room = escaped(message), _INLINE - len(where) - len(code) - 6
        if len(said) > room:  # an escaped text is at most twice as long
            said = escaped(_short(message, room // 2 - 4))
        found[entry.item if short in found else short] = dg.MetadataValue.md(f"**{escaped(code)}**: {said}{where}")
    return found


def attempt_line(attempt: Attempt) -> str:
    """One line of an item's timeline: what `ac-pipeline item` prints, in the same order."""
    said = [attempt.error_class or "", escaped(_short(attempt.message or "", _SAID))]
    parts = [f"{attempt.at:%Y-%m-%d %H:%M:%S}", run_link(attempt.run_id), attempt.stage.value, attempt.state.value]
    return " · ".join([*parts, *filter(None, said)])


def link(text: str, address: str | None) -> str:
    """A link in Markdown; the text alone without an address."""
    return f"[{escaped(text)}]({address})" if address else escaped(text)


def record_link(pipeline: PipelineResource, uri: str | None, text: str | None = None) -> str:
    """A link to where anybody can read a record; its text alone when its address is none."""
    return link(text or uri, record_address(pipeline.open().settings.pds_url, uri)) if uri else "no record"


def run_link(run: str) -> str:
    """A run of Dagster as a link to its page; one of the command line by its name."""
    return f"[{run[:8]}](/runs/{run})" if _RUN.fullmatch(run) else coded(run or "unknown")


def coded(text: str) -> str:
    """A text as code in a line of Markdown."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def escaped(text: str) -> str:
    """Text as one line of Markdown that means itself."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def breakable(text: str) -> str:
    """A text whose long words may be broken over lines, at marks that nobody sees: a table is as wide as its longest
    word, and what is wider than the page is cut."""
    return _LONG_WORD.sub(lambda word: _BREAKS.sub("\\1\u200b", word[0]), text)


def unbroken(text: object) -> str:
    """The text that a cell of a table was made of."""
    return str(text).replace("\u200b", "")


def _cell(value: Any) -> Any:
    return breakable(value) if isinstance(value, str) else value


def _short(message: str, limit: int = _MESSAGE) -> str:
    return message if len(message) <= limit else f"{message[:limit]} ..."
