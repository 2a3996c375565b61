"""`status`, `items`, `item` and `verify`: what is there, item by item. Nothing is written."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import click

from ac_pipeline.atproto.syntax import record_address
from ac_pipeline.cli.output import INTERRUPTED, csv_row, exit_code, print_json, progress, say, table, tallies
from ac_pipeline.cli.selectors import Chosen, item_name, selectors
from ac_pipeline.cli.sync import surveyed
from ac_pipeline.errors import Misconfigured
from ac_pipeline.items import LedgerEntry, State, item_id
from ac_pipeline.media.registry import media_type, page_of
from ac_pipeline.media.times import format_when
from ac_pipeline.operations.retry import first_of_each
from ac_pipeline.settings import Settings, load_settings
from ac_pipeline.sync.report import Tally
from ac_pipeline.sync.verify import Verification, verify_accounts
from ac_pipeline.wiring import Pipeline, open_pipeline

_STATUS = (
    "documents",
    "eligible",
    "withdrawn",
    "invalid",
    "records",
    "unchanged",
    "pending",
    "deferred",
    "quarantined",
    "blocked",
)


@click.command()
@selectors
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def status(chosen: Chosen, as_json: bool) -> int:
    """Per type: documents, eligible ones, records on the PDS, and what is pending, quarantined or blocked."""
    with open_pipeline(load_settings()) as pipeline:
        every_hold = pipeline.ledger.all_holds()
        holds: dict[str, Mapping[str, str]] = {}
        totals: dict[str, Tally] = {}
        number, blocked, unread = 0, [], []
        for account, report in surveyed(pipeline, chosen, "Reading"):
            number += 1
            for name, tally in report.types.items():
                totals.setdefault(name, Tally()).add(tally)
            if account.id in every_hold:
                holds[account.key] = every_hold[account.id]
            if report.blocked is not None:
                blocked.append((account.key, report.blocked.message))
            if report.error is not None:
                unread.append((account.key, report.error))
        looks = {media.name: pipeline.safeguard.look(media) for media in chosen.selection.types}
        problems = {name: pipeline.safeguard.problems(look) for name, look in looks.items()}
        oldest = next((e.withdrawn_at for e in pipeline.ledger.pending_deletions(limit=1)), None)
    ready = number - len(blocked) - len(unread)
    users = {"total": number, "ready": ready, "blocked": len(blocked), "unread": len(unread)}
    if as_json:
        types = {name: {c: getattr(tally, c) for c in _STATUS} for name, tally in totals.items()}
        pending = oldest.isoformat() if oldest else None
        found = {
            name: {
                "documents": look.documents,
                "expected": look.expected,
                "records_without_document": look.lost,
                "newest": format_when(look.newest) if look.newest is not None else None,
                "doubt": problems[name][0],
                "silence": problems[name][1],
            }
            for name, look in looks.items()
        }
        print_json(
            {"types": types, "users": users, "oldest_pending_deletion": pending, "on_hold": holds, "input": found}
        )
    else:
        tallies("Status", totals, _STATUS)
        say(f"Users: {users['total']}, ready {users['ready']}, blocked {users['blocked']}.")
        for user, message in [*blocked, *((user, f"could not be read: {error.message}") for user, error in unread)]:
            say(f"  {user}: {message}")
        for user, reasons in holds.items():
            for name, reason in reasons.items():
                say(f"On hold: {name} of {user}, {reason}.")
        say(*filter(None, (message for said in problems.values() for message in said)))
        say(f"Oldest pending deletion: {oldest or 'none'}.")
    return exit_code(True, (error for _, error in unread))


@click.command()
@selectors
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in State]), help="Only this state.")
@click.option("--error-class", metavar="CLASS", help="Only items whose last error is of this class.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")
def items(chosen: Chosen, states: tuple[str, ...], error_class: str | None, as_json: bool, as_csv: bool) -> int:
    """List items as the ledger knows them; those without a document are left out where --since or --until is given."""
    with open_pipeline(load_settings()) as pipeline:
        found = list(_chosen(pipeline, chosen, [State(state) for state in states] or None, error_class))
    rows = [_row(entry) for entry in found]
    columns = ["item", "code", "user", "state", "stage", "class", "message", "attempts", "uri", "until", "warnings"]
    if as_json:
        print_json([_json(entry) for entry in found])
    elif as_csv:
        csv.writer(sys.stdout).writerows([columns, *map(csv_row, rows)])
    else:
        table(f"{len(rows)} items", columns, rows)
    return 0


@click.command()
@click.argument("name", metavar="TYPE:CODE")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def item(name: str, as_json: bool) -> int:
    """One item's timeline, from document to record, with every attempt. TYPE:CODE or TYPE:ObjectId."""
    type_, code = item_name(name)
    settings = load_settings()
    with open_pipeline(settings) as pipeline:
        entries = _find(pipeline, type_, code)
    if not entries:
        raise Misconfigured(f"The ledger knows no {name}: it was never synced, or the code is another.")
    if as_json:
        print_json([{**_json(entry), **_links(entry, settings)} for entry in entries])
        return 0
    for entry in entries:
        known = _links(entry, settings) | {
            key: value for key, value in _json(entry).items() if key not in {"item", "history"}
        }
        table(entry.item, ["field", "value"], _flat(known))
        rows = [
            [f"{a.at:%Y-%m-%d %H:%M:%S}", a.run_id, a.stage, a.state, a.error_class, a.message] for a in entry.history
        ]
        table("Timeline", ["when (UTC)", "run", "stage", "state", "class", "message"], rows)
    return 0


@click.command()
@selectors
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(chosen: Chosen, as_json: bool) -> int:
    """Compare every expected record and blob with the repositories themselves."""
    total = Verification()
    with open_pipeline(load_settings()) as pipeline:
        accounts = chosen.accounts(pipeline)
        workers = pipeline.settings.ac_concurrent_users
        found = verify_accounts(pipeline.engine, accounts, chosen.selection, workers)
        try:
            for each in progress("Verifying", found, len(accounts)):
                total.add(each)
        except KeyboardInterrupt:
            say(f"Interrupted: {len(accounts) - total.users} users were not reached.", err=True)
    if as_json:
        print_json(total.to_json())
    else:
        counts = {key: value for key, value in total.to_json().items() if isinstance(value, int)}
        table("Verification", ["what", "count"], list(counts.items()))
        for user, error in total.unread:
            say(f"{user} could not be verified: {error.message}")
        say(f"Blobs: {total.blobs_verified} of {total.blobs_expected} can be downloaded.")
        wrong = [each for each in total.items if each.state != "quarantined"]
        if wrong:
            rows = [[each.user, each.item, each.state, each.uri, each.reason] for each in wrong]
            table("Not as expected", ["user", "item", "state", "uri", "reason"], rows)
    if total.users < len(accounts):
        return INTERRUPTED
    return exit_code(total.complete, (error for _, error in total.unread))


def _chosen(
    pipeline: Pipeline, chosen: Chosen, states: Sequence[State] | None, error_class: str | None
) -> Iterator[LedgerEntry]:
    """The ledger's entries that are selected, at most `--limit` of each user and type."""
    selection = chosen.selection
    types = [media.name for media in selection.types]
    dated = selection.since is not None or selection.until is not None
    accounts = chosen.accounts(pipeline) if dated or chosen.users or chosen.anonymous else [None]
    names = selection.items
    for account in accounts:
        dates = replace(selection, items=None, limit=None)
        inside = {
            (media.name, id)
            for media in selection.types
            if dated and account is not None
            for id in dates.documents(list(pipeline.documents.stream(account, media)))
        }
        entries = pipeline.ledger.find(
            states=states, error_class=error_class, account=account.id if account else None, types=types
        )
        fitting = (
            entry
            for entry in entries
            if (names is None or not names.isdisjoint({(entry.type, entry.document), (entry.type, entry.code or "")}))
            and (not dated or (entry.type, entry.document) in inside)
        )
        yield from fitting if selection.limit is None else first_of_each(fitting, selection.limit)


def _flat(values: Mapping[str, object], above: str = "") -> Iterator[list[object]]:
    """What an entry holds, a line a value; what is empty is left out."""
    for name, value in values.items():
        label = f"{above} {name}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, label)
        elif isinstance(value, list | tuple):
            if value:
                yield [label, "; ".join(str(each) for each in value)]
        elif value not in {None, ""}:
            yield [label, value]


def _find(pipeline: Pipeline, type_: str, name: str) -> list[LedgerEntry]:
    entry = pipeline.ledger.get(item_id(type_, name))
    return [entry] if entry is not None else pipeline.ledger.by_code(type_, name)


def _links(entry: LedgerEntry, settings: Settings) -> dict[str, str | None]:
    """Where people find an item, as Dagster's lists of failed items link it."""
    record = record_address(settings.pds_url, entry.uri) if entry.uri else None
    return {"page": page_of(media_type(entry.type), entry.code), "record": record}


def _row(entry: LedgerEntry) -> list[object]:
    failure = entry.failure
    return [
        entry.item,
        entry.code,
        entry.partition,
        entry.state.value,
        entry.stage.value,
        failure.error_class if failure else None,
        failure.message if failure else None,
        entry.attempts,
        entry.uri,
        f"{entry.deferred_until:%Y-%m-%d %H:%M:%S}" if entry.deferred_until else None,
        "; ".join(entry.warnings),
    ]


def _json(entry: LedgerEntry) -> dict[str, object]:
    """An entry as JSON; the account's Mongo id stays inside."""
    values = asdict(entry)
    values.pop("account")
    values["user"] = values.pop("partition")
    if entry.derived is not None:
        values["derived"]["found"] = sorted(entry.derived.found)
    return values
