"""The report of a sync as tables and sentences, for every operation that ends in one."""

from __future__ import annotations

from typing import Final

from ac_pipeline.operations.declare import Table
from ac_pipeline.operations.rounds import LeftOut
from ac_pipeline.sync.report import SyncReport, Tally

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
)


def sync_tables(report: SyncReport) -> list[Table]:
    """What was done by type, and the items that did not get where they should."""
    types, total = report.totals(), Tally()
    done = Table("types", ("type", *_DONE), f"Run {report.run_id}: {len(report.accounts)} users")
    for name, tally in types.items():
        total.add(tally)
        done.add({"type": name, **tally.to_json()})
    done.add({"type": "total", **total.to_json()})
    failed = Table("failed_items", ("user", "item", "stage", "class", "message"))
    for each in report.failures():
        failed.add({**each.to_json(), "item": each.code or each.item})
    return [done, failed]


def sync_left_out(report: SyncReport) -> list[LeftOut]:
    """Who is blocked and who has to be run again, and why."""
    errors = ((each.user, each.blocked or each.error) for each in report.accounts)
    return [LeftOut(user, error) for user, error in errors if error is not None]


def sync_lines(report: SyncReport) -> list[str]:
    """What a person may want to know of single users."""
    return [f"{each.user}: {note}" for each in report.accounts for note in each.notes]
