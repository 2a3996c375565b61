"""`ac-pipeline links`: the link doctor. Which state every document and record is in, and its one repair."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import WELL, exit_code, progress, say, table
from ac_pipeline.cli.rows import Rows, about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors, sweep_option
from ac_pipeline.cli.sync import report_code, show_report
from ac_pipeline.operations.choice import confirm_sweep
from ac_pipeline.operations.link_states import LinkState
from ac_pipeline.operations.links import Diagnosis, examine_all, heal_all
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.report import SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, new_run_id, open_pipeline

_COLUMNS = ("user", "item", "state", "repair", "reason", "held")
_ALL_COLUMNS = (*_COLUMNS, "uris", "problems", "warnings")


@click.command()
@selectors
@click.option("--heal", "healing", is_flag=True, help="Carry out the repairs; a second time does nothing.")
@sweep_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="Everything that is not simply linked, as CSV on stdout.")
def links(chosen: Chosen, healing: bool, sweep: int | None, as_json: bool, as_csv: bool) -> int:
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
        accounts, run_id = chosen.accounts(pipeline), new_run_id()
        if healing:
            confirm_sweep(pipeline, accounts, chosen.selection, run_id)
        before = _examined(pipeline, accounts, chosen.selection, rows, "Examining")
        quiet = as_json or as_csv
        if not quiet:
            _show("Links" if not healing else "Links before", before, rows)
        if not healing:
            if as_json:
                rows.print_json("items", before.to_json())
            elif as_csv:
                rows.print_csv()
            return exit_code(before.settled, (each.error for each in before.blocked))
        started = time.monotonic()
        report = SyncReport(run_id)
        healing_them = partial(progress, "Healing")
        report.accounts += heal_all(pipeline, before, chosen.selection, report.run_id, progress=healing_them)
        report.seconds = time.monotonic() - started
        with open_rows(columns, as_json=as_json, as_csv=as_csv) as rest:
            after = _examined(pipeline, accounts, chosen.selection, rest, "Examining again")
            if as_json:
                told = {"before": before.to_json(), "after": after.to_json(), "healed": report.to_json()}
                rest.print_json("items", told)
            elif as_csv:
                rest.print_csv()
            else:
                if report.accounts:
                    show_report(report)
                else:
                    say("Nothing to heal.", "")
                _show("Links after", after, rest)
        return report_code(report, well=exit_code(after.settled, (each.error for each in after.blocked)) == WELL)


def _examined(
    pipeline: Pipeline, accounts: Sequence[Account], selection: Selection, rows: Rows, title: str
) -> Diagnosis:
    """One look at all accounts; the rows go out as they come, numbers stay (OPS-6)."""
    seen = Diagnosis()
    for found in examine_all(pipeline, accounts, selection, partial(progress, title)):
        seen.add(found)
        for finding in found.findings:
            rows.add(finding.to_json())
    return seen


def _show(title: str, seen: Diagnosis, rows: Rows) -> None:
    counts = seen.counts
    found = [
        [name, counts.documents[name], counts.orphans[name], *(states[state] for state in LinkState)]
        for name, states in counts.states.items()
    ]
    total = counts.total()
    found.append(["total", counts.documents.total(), counts.orphans.total(), *(total[state] for state in LinkState)])
    table(title, ["type", "documents", "orphans", *(state.value for state in LinkState)], found)
    rows.print_table("Not simply linked")
    about_users((each.user, f"not examined: {each.message}") for each in seen.blocked)
    about_users(seen.notes)
