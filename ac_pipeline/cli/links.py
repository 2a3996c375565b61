"""`ac-pipeline links`: the link doctor. Which state every document and record is in, and its one repair."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import progress, table
from ac_pipeline.cli.rows import Rows, about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.cli.sync import show_report
from ac_pipeline.operations.link_states import LinkState
from ac_pipeline.operations.links import Counts, Examination, each_account, examine, heal
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.report import SyncReport
from ac_pipeline.wiring import Pipeline, new_run_id, open_pipeline

_COLUMNS = ("user", "item", "state", "repair", "reason", "held")
_ALL_COLUMNS = (*_COLUMNS, "uris", "problems", "warnings")


@click.command()
@selectors
@click.option("--heal", "healing", is_flag=True, help="Carry out the repairs; a second time does nothing.")
@click.option("--sweep", is_flag=True, help="Count and delete orphans even where they are most of a user's records.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="Everything that is not simply linked, as CSV on stdout.")
def links(chosen: Chosen, healing: bool, sweep: bool, as_json: bool, as_csv: bool) -> int:
    """The state of every link and record: linked, unlinked, dangling, crossed, duplicate, orphan or wrong-shape.

    Each state has one repair; without --heal nothing is written. The states add up to documents plus orphans. An orphan
    whose document is lost can be kept: run `ac-pipeline restore-documents` before any sync.
    """
    chosen = replace(chosen, selection=replace(chosen.selection, sweep=sweep))
    columns = _ALL_COLUMNS if as_csv else _COLUMNS
    with (
        open_pipeline(load_settings()) as pipeline,
        open_rows(columns, as_json=as_json, as_csv=as_csv) as rows,
    ):
        accounts = chosen.accounts(pipeline)
        before = _Round(pipeline, chosen, accounts, rows, "Examining")
        quiet = as_json or as_csv
        if not quiet:
            _show("Links" if not healing else "Links before", before, rows)
        if not healing:
            if as_json:
                rows.print_json("items", before.to_json())
            elif as_csv:
                rows.print_csv()
            return 0 if before.settled else 1
        report = _heal(pipeline, chosen, before)
        with open_rows(columns, as_json=as_json, as_csv=as_csv) as rest:
            after = _Round(pipeline, chosen, accounts, rest, "Examining again")
            if as_json:
                told = {"before": before.to_json(), "after": after.to_json(), "healed": report.to_json()}
                rest.print_json("items", told)
            elif as_csv:
                rest.print_csv()
            else:
                if report.accounts:
                    show_report(report)
                else:
                    click.echo("Nothing to heal.\n")
                _show("Links after", after, rest)
        return 0 if after.settled and report.clean else 1


class _Round:
    """One look at all accounts: what is counted, and which of them have something to heal."""

    def __init__(self, pipeline: Pipeline, chosen: Chosen, accounts: Sequence[Account], rows: Rows, title: str) -> None:
        self.counts = Counts()
        self.ill: list[Account] = []
        self.types: set[str] = set()
        self.deletions = 0
        self.settled = True
        self.blocked: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []
        workers = pipeline.settings.ac_concurrent_users
        looks = each_account(accounts, workers, lambda each: examine(pipeline.engine, each, chosen.selection))
        for _, found in progress(title, looks, len(accounts)):
            self._take(found, rows)

    def _take(self, found: Examination, rows: Rows) -> None:
        self.counts.add(found.counts)
        if found.blocked is not None:
            self.blocked.append((found.account.key, found.blocked.message))
        self.notes += [(found.account.key, note) for note in found.notes]
        self.settled &= found.settled
        for finding in found.findings:
            rows.add(finding.to_json())
        if found.healable:
            self.ill.append(found.account)
            self.types |= {finding.type for finding in found.healable}
            self.deletions += found.deletions

    def to_json(self) -> dict[str, object]:
        return {
            **self.counts.to_json(),
            "blocked": [{"user": user, "message": message} for user, message in self.blocked],
            "notes": [{"user": user, "note": note} for user, note in self.notes],
        }


def _heal(pipeline: Pipeline, chosen: Chosen, before: _Round) -> SyncReport:
    """Heal the accounts that need it; what deletes records is in the audit before it starts."""
    started = time.monotonic()
    report = SyncReport(new_run_id())
    counts = {"deletions": before.deletions}
    audited = pipeline.audit.during("heal-links", before.ill, sorted(before.types), counts=counts)
    workers = pipeline.settings.ac_concurrent_users
    with audited if before.deletions else nullcontext() as entry:
        work = each_account(
            before.ill, workers, lambda each: heal(pipeline.engine, each, chosen.selection, report.run_id)
        )
        report.accounts += [found for _, found in progress("Healing", work, len(before.ill)) if found is not None]
        if entry is not None:
            tallies = report.totals().values()
            entry.counts.update(
                deleted=sum(t.deleted for t in tallies), duplicates=sum(t.duplicates_removed for t in tallies)
            )
    report.seconds = time.monotonic() - started
    return report


def _show(title: str, round_: _Round, rows: Rows) -> None:
    counts = round_.counts
    found = [
        [name, counts.documents[name], counts.orphans[name], *(states[state] for state in LinkState)]
        for name, states in counts.states.items()
    ]
    total = counts.total()
    found.append(["total", counts.documents.total(), counts.orphans.total(), *(total[state] for state in LinkState)])
    table(title, ["type", "documents", "orphans", *(state.value for state in LinkState)], found)
    rows.print_table("Not simply linked")
    about_users((user, f"not examined: {message}") for user, message in round_.blocked)
    about_users(round_.notes)
