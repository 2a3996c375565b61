"""The report of a sync as tables and sentences, for every operation that ends in one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from ac_pipeline.operations.declare import INTERRUPTED, UNREACHABLE, Report, Table, Work, exit_code
from ac_pipeline.operations.findings import LeftOut
from ac_pipeline.sync.report import AccountReport, SyncReport, Tally

_DONE: Final = (
    "planned",
    "created",
    "updated",
    "deleted",
    "unchanged",
    "deferred",
    "quarantined",
    "blocked",
    "healed",
    "duplicates_removed",
    "copies_removed",
)


def counted(work: Work, reports: Callable[[], Iterable[AccountReport]], total: int) -> SyncReport:
    """Run something over accounts and count what it took.

    Args:
        reports: Does it, and yields the reports; after Ctrl-C the answer has those until then.
        total: How many there will be.
    """
    started, server = time.monotonic(), work.pipeline.server
    before, report = server.usage(), SyncReport(work.run_id)
    try:
        for account in work.watch("Syncing")(reports(), total):
            report.accounts.append(account)
    except KeyboardInterrupt:
        report.interrupted, report.not_reached = True, max(0, total - len(report.accounts))
    used = server.usage() - before
    report.requests = used.requests
    report.transferred = {"uploaded": used.bytes_uploaded, "downloaded": used.bytes_downloaded}
    report.seconds = time.monotonic() - started
    return report


def sync_answer(
    report: SyncReport,
    headline: str = "",
    *,
    well: bool = True,
    more: Mapping[str, object] | None = None,
    tables: Sequence[Table] = (),
    lines: Sequence[str] = (),
) -> Report:
    """The answer of a command that has run a sync.

    Args:
        headline: In place of the usual one.
        well: False if something is amiss that the report does not tell.
        more: Further fields of the JSON.
        tables, lines: To be shown besides.
    """
    if report.interrupted:
        code = INTERRUPTED
        said = (
            f"Interrupted: {report.not_reached} users were not reached. What was committed is kept; the next run does "
            "the rest."
        )
        lines = [*lines, said]
    else:
        code = UNREACHABLE if report.unreachable else exit_code(report.clean and well)
    again = [f"{a.user} has to be run again: {a.error.message}" for a in report.accounts if a.error]
    return Report(
        headline or f"Run {report.run_id}: {len(report.accounts)} users in {report.seconds:.1f} s.",
        {**report.to_json(), **(more or {})},
        [*(sync_tables(report) if report.accounts else ()), *tables],
        lines=[*again, *sync_lines(report), *lines],
        left_out=[LeftOut(each.user, each.blocked) for each in report.accounts if each.blocked],
        exit_code=code,
    )


def sync_tables(report: SyncReport) -> list[Table]:
    """What was done by type, and the items that did not get where they should."""
    title = f"Run {report.run_id}: {len(report.accounts)} users"
    failed = Table("failed_items", ("user", "item", "stage", "class", "message"))
    for each in report.failures():
        failed.add({**each.to_json(), "item": each.code or each.item})
    return [tallies("types", report.totals(), _DONE, title), failed]


def tallies(name: str, types: Mapping[str, Tally], columns: Sequence[str], title: str) -> Table:
    """Counts by type, and their sum."""
    table, total = Table(name, ("type", *columns), title), Tally()
    for type_, tally in types.items():
        total.add(tally)
        table.add({"type": type_, **tally.to_json()})
    table.add({"type": "total", **total.to_json()})
    return table


def sync_left_out(report: SyncReport) -> list[LeftOut]:
    """Who is blocked and who has to be run again, and why."""
    errors = ((each.user, each.blocked or each.error) for each in report.accounts)
    return [LeftOut(user, error) for user, error in errors if error is not None]


def sync_lines(report: SyncReport) -> list[str]:
    """What a person may want to know of single users."""
    return [f"{each.user}: {note}" for each in report.accounts for note in each.notes]
