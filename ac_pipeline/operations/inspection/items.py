"""`status`, `items`, `item`, `verify` and `audit`: what is there, item by item. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from heapq import nlargest
from typing import Final

from ac_pipeline.atproto.syntax import record_address
from ac_pipeline.errors import INTERRUPTED, Misconfigured, PipelineError
from ac_pipeline.items import LedgerEntry, State, item_id
from ac_pipeline.media.registry import media_type, page_of
from ac_pipeline.media.times import format_when
from ac_pipeline.operations.declare import LeftOut, Report, Table, Work, declared, exit_code
from ac_pipeline.operations.parameters import Parameters, Selected, item_name, option
from ac_pipeline.operations.sync import (
    ITEM_COLUMNS,
    FailedItems,
    error_class_option,
    item_row,
    narrowed,
    states_option,
    tallies,
)
from ac_pipeline.sync.report import Tally
from ac_pipeline.sync.verify import Verification, verify_accounts
from ac_pipeline.wiring import Pipeline

_STATUS: Final = (
    *("documents", "eligible", "withdrawn", "invalid", "records", "unchanged"),
    *("pending", "deferred", "quarantined", "blocked"),
)


@declared("status", "show_status", "count_items")
def run_status(work: Work, parameters: Selected) -> Report:
    """Per type: documents, eligible ones, records on the PDS, and what is pending, quarantined or blocked."""
    pipeline, selection = work.pipeline, parameters.selection()
    accounts, every_hold = parameters.accounts(pipeline), pipeline.ledger.all_holds()
    holds = {account.key: every_hold[account.id] for account in accounts if account.id in every_hold}
    totals: dict[str, Tally] = {}
    blocked, left_out = Table("blocked_users", ("user", "message")), list[LeftOut]()
    surveys = work.for_each(  # what was read is dropped (OPS-6)
        "Reading", accounts, lambda account: pipeline.engine.survey(account, selection)[1]
    )
    for account, report in surveys:
        if isinstance(report, PipelineError):
            left_out.append(LeftOut(account.key, report))
            continue
        for name, tally in report.types.items():
            totals.setdefault(name, Tally()).add(tally)
        if report.blocked is not None:
            blocked.add({"user": account.key, "message": report.blocked.message})
    found: dict[str, dict[str, object]] = {}
    problems: list[str] = []
    for media in selection.types:
        look = pipeline.safeguard.look(media)
        doubt, silence = pipeline.safeguard.problems(look)
        problems += [message for message in (doubt, silence) if message]
        found[media.name] = {
            "documents": look.documents,
            "expected": look.expected,
            "records_without_document": look.lost,
            "newest": format_when(look.newest) if look.newest is not None else None,
            "doubt": doubt,
            "silence": silence,
        }
    oldest = next((e.withdrawn_at for e in pipeline.ledger.pending_deletions(limit=1)), None)
    ready = len(accounts) - blocked.count - len(left_out)
    users = {"total": len(accounts), "ready": ready, "blocked": blocked.count, "unread": len(left_out)}
    return Report(
        f"Users: {users['total']}, ready {users['ready']}, blocked {users['blocked']}.",
        {
            "types": {name: {c: getattr(tally, c) for c in _STATUS} for name, tally in totals.items()},
            "users": users,
            "oldest_pending_deletion": oldest.isoformat() if oldest else None,
            "on_hold": holds,
            "input": found,
            "blocked_users": blocked,
        },
        [tallies("status", totals, _STATUS, "Status"), blocked],
        lines=[
            *(f"On hold: {name} of {user}, {why}." for user, held in holds.items() for name, why in held.items()),
            *problems,
            f"Oldest pending deletion: {f'{oldest:%Y-%m-%d %H:%M:%S}' if oldest else 'none'}.",
        ],
        left_out=left_out,
    )


class ItemsParameters(Selected):
    states: list[str] = states_option(State)
    error_class: str = error_class_option()


@declared("items", "list_items", "list_known_items", csv="items")
def run_items(work: Work, parameters: ItemsParameters) -> Report:
    """List items as the ledger knows them; those without a document are left out where a date is given."""
    shown, entries = Table("items", ITEM_COLUMNS), Table("entries", ())
    for entry in _chosen(work.pipeline, parameters):
        shown.add(item_row(entry))
        entries.add(_json(entry))
    return Report(f"{shown.count} items.", entries, [shown])


def _chosen(pipeline: Pipeline, chosen: ItemsParameters) -> Iterator[LedgerEntry]:
    """The ledger's entries that are selected, at most `limit` of each user and type."""
    selection, states = chosen.selection(), [State(each) for each in chosen.states] or None
    types = [media.name for media in selection.types]
    dated = selection.since is not None or selection.until is not None
    dates = replace(selection, items=None, limit=None)
    for account in chosen.accounts(pipeline) if dated or chosen.users or chosen.anonymous else [None]:
        owner = account.id if account is not None else None
        inside = {
            (media.name, id)
            for media in selection.types
            if dated and account is not None
            for id in dates.documents(list(pipeline.documents.stream(account, media)))
        }
        entries = pipeline.ledger.find(
            states=states, error_class=chosen.error_class or None, account=owner, types=types
        )
        yield from narrowed(
            (entry for entry in entries if not dated or (entry.type, entry.document) in inside), FailedItems(selection)
        )


def _json(entry: LedgerEntry) -> dict[str, object]:
    """An entry as JSON; Mongo ids of accounts stay inside."""
    values = asdict(replace(entry, former=None))
    del values["account"], values["former"]
    values["user"] = values.pop("partition")
    if entry.derived is not None:
        values["derived"]["found"] = sorted(entry.derived.found)
    return values


class ItemParameters(Parameters):
    item: str = option("", "The item: TYPE:CODE or TYPE:ObjectId.", argument=True, metavar="TYPE:CODE")


@declared("item", "show_item", "show_one_item")
def run_item(work: Work, parameters: ItemParameters) -> Report:
    """One item's timeline, from document to record, with every attempt. TYPE:CODE or TYPE:ObjectId."""
    type_, name = item_name(parameters.item)
    ledger = work.pipeline.ledger
    entry = ledger.get(item_id(type_, name))
    entries = [entry] if entry is not None else ledger.by_code(type_, name)
    if not entries:
        raise Misconfigured(f"The ledger knows no {parameters.item}: it was never synced, or the code is another.")
    known = [{**_json(each), **_links(each, work.pipeline.settings.pds_url)} for each in entries]
    tables: list[Table] = []
    for each, values in zip(entries, known, strict=True):
        flat = {name: value for name, value in values.items() if name not in {"item", "history"}}
        tables.append(Table(each.item, ("field", "value"), each.item).extend(_flat(flat)))
        lines = (
            (f"{at.at:%Y-%m-%d %H:%M:%S}", at.run_id, at.stage, at.state, at.error_class, at.message)
            for at in each.history
        )
        columns = ("when (UTC)", "run", "stage", "state", "class", "message")
        tables.append(Table.of(f"timeline of {each.item}", columns, lines, "Timeline"))
    return Report("; ".join(f"{each.item} is {each.state.value}" for each in entries) + ".", known, tables)


def _links(entry: LedgerEntry, pds_url: str) -> dict[str, str | None]:
    record = record_address(pds_url, entry.uri) if entry.uri else None
    return {"page": page_of(media_type(entry.type), entry.code), "record": record}


def _flat(values: Mapping[str, object], above: str = "") -> Iterator[dict[str, object]]:
    """What an entry holds, a row a value; what is empty is left out."""
    for name, value in values.items():
        label = f"{above} {name}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, label)
        elif value not in (None, "", [], ()):
            yield {"field": label, "value": value}


@declared("verify")
def run_verify(work: Work, parameters: Selected) -> Report:
    """Compare every expected record and blob with the repositories themselves."""
    pipeline, total = work.pipeline, Verification()
    accounts = parameters.accounts(pipeline)
    items = Table("items", ())
    wrong = Table("not_as_expected", ("user", "item", "state", "uri", "reason"))
    looks = verify_accounts(pipeline.engine, accounts, parameters.selection(), pipeline.settings.ac_concurrent_users)
    try:
        for each in work.watch("Verifying")(looks, len(accounts)):
            for finding in each.items:
                items.add(finding.to_json())
                if finding.state != "quarantined":
                    wrong.add(finding.to_json())
            each.items = []  # they are in the tables (OPS-6)
            total.add(each)
    except KeyboardInterrupt:
        work.say(f"Interrupted: {len(accounts) - total.users} users were not reached.")
    known = total.to_json()
    numbers = ((what, count) for what, count in known.items() if isinstance(count, int))
    counts = Table.of("verification", ("what", "count"), numbers)
    return Report(
        f"Blobs: {total.blobs_verified} of {total.blobs_expected} can be downloaded.",
        {**known, "items": items},
        [counts, wrong],
        left_out=[LeftOut(user, error) for user, error in total.unread],
        exit_code=INTERRUPTED if total.users < len(accounts) else exit_code(total.complete),
    )


class AuditParameters(Parameters):
    limit: int = option(50, "The last so many.", metavar="N", ge=1)
    action: str = option("", "Only this action, such as wipe or restore.", metavar="NAME")
    user: str = option("", "Only this user's: a key, or a DID.", metavar="KEY")


@declared("audit", "show_audit", "read_the_audit")
def run_audit(work: Work, parameters: AuditParameters) -> Report:
    """List operations that remove records or bring them back, and the items whose record is deleted, by them or by a
    sync because the document was removed; the last ones first.

    An operation that stays `started` was killed: run it again.
    """
    pipeline = work.pipeline
    found = pipeline.audit.entries(parameters.limit, parameters.action or None, parameters.user or None)
    table = Table("operations", ("when", "action", "who", "users", "types", "records", "outcome", "why"))
    for each in found:
        shown = {
            "when": f"{each.when:%Y-%m-%d %H:%M:%S}",
            "users": " ".join(each.users),
            "types": " ".join(each.types),
            "records": ", ".join(f"{name} {number}" for name, number in each.counts.items()),
        }
        table.add({**each.to_json(), **shown})
    deleted = Table("deleted_items", ("when", "user", "item", "code", "run"), "Items whose record was deleted last")
    if not parameters.action:
        entries = pipeline.ledger.find(states={State.DELETED})
        mine = (each for each in entries if parameters.user in ("", each.partition, each.did))
        for entry in nlargest(parameters.limit, mine, key=lambda each: f"{each.updated_at}"):
            when = f"{entry.updated_at:%Y-%m-%d %H:%M:%S}"
            deleted.add({**item_row(entry), "when": when, "run": entry.run_id})
    headline = f"{len(found)} operations; {deleted.count} items of which the record was deleted last."
    return Report(headline, [each.to_json() for each in found], [table, deleted])
