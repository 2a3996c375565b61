"""`ac-pipeline plan` and `ac-pipeline sync`: the dry run, and the run."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import print_json, progress, table, tallies
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.costs import cost, plan_hash, planned
from ac_pipeline.sync.engine import AccountPlan, sync_accounts
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, new_run_id, open_pipeline

_DONE = (
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
_SHOWN = 40


def surveyed(pipeline: Pipeline, chosen: Chosen, title: str) -> list[tuple[AccountPlan, AccountReport]]:
    """The dry run of every chosen account, a few at a time."""
    accounts = chosen.accounts(pipeline)
    with ThreadPoolExecutor(pipeline.settings.ac_concurrent_users) as pool:
        surveys = pool.map(lambda account: pipeline.engine.survey(account, chosen.selection), accounts)
        return list(progress(title, surveys, len(accounts)))


def show_plan(pipeline: Pipeline, chosen: Chosen, as_json: bool, as_csv: bool) -> int:
    surveys = surveyed(pipeline, chosen, "Planning")
    plans = [plan for plan, _ in surveys]
    operations = planned(plans)
    price = cost(plans, datetime.now(UTC))
    digest = plan_hash(operations)
    if as_json:
        print_json({"hash": digest, "operations": [op.to_json() for op in operations], "cost": price.to_json()})
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(["item", "user", "operation", "reason", "rkey", "cid"])
        writer.writerows([op.item, op.user, op.operation, op.reason, op.rkey, op.cid] for op in operations)
    else:
        rows = [[op.user, op.item, op.operation, op.reason] for op in operations[:_SHOWN]]
        if rows:
            table("Plan (nothing was written)", ["user", "item", "operation", "reason"], rows)
        else:
            click.echo("Nothing to do: every record and link is as it should be.\n")
        if len(operations) > _SHOWN:
            click.echo(f"... and {len(operations) - _SHOWN} more: --csv or --json lists all of them.\n")
        table("Cost", ["what", "amount"], list(price.to_json().items()))
        click.echo(f"Plan {digest}")
    return 0


@click.command()
@selectors
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="All operations as CSV on stdout.")
def plan(chosen: Chosen, as_json: bool, as_csv: bool) -> int:
    """The dry run: every operation with its reason, and what it costs. Nothing is written anywhere."""
    with open_pipeline(load_settings()) as pipeline:
        return show_plan(pipeline, chosen, as_json, as_csv)


@click.command()
@selectors
@click.option("--dry-run", is_flag=True, help="The same as `plan`.")
@click.option("--sweep", is_flag=True, help="Delete records without a document even where they are most of a user's.")
@click.option("--full", is_flag=True, help="Read every repository, also where nothing has changed since the last run.")
@click.option("--blobs", is_flag=True, help="Ask for every blob, too, and upload again what the PDS has lost.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def sync(chosen: Chosen, *, dry_run: bool, sweep: bool, full: bool, blobs: bool, as_json: bool) -> int:
    """Make the PDS hold exactly the eligible items, each once; a second run changes nothing."""
    chosen = replace(chosen, selection=replace(chosen.selection, sweep=sweep, full=full, blobs=blobs))
    with open_pipeline(load_settings()) as pipeline:
        if dry_run:
            return show_plan(pipeline, chosen, as_json, as_csv=False)
        report = run_sync(pipeline, chosen.accounts(pipeline), chosen.selection)
        if as_json:
            print_json(report.to_json())
        else:
            show_report(report)
        return 0 if report.clean else 1


def run_sync(pipeline: Pipeline, accounts: Sequence[Account], selection: Selection) -> SyncReport:
    """Sync these accounts and count what it took."""
    workers = pipeline.settings.ac_concurrent_users
    return counted(
        pipeline,
        lambda run_id: sync_accounts(pipeline.engine, accounts, selection, run_id, workers),
        len(accounts),
    )


def counted(pipeline: Pipeline, run: Callable[[str], Iterator[AccountReport]], total: int) -> SyncReport:
    """Run something over accounts, with progress, and count what it took.

    Args:
        run: Given a run id, yields the reports.
        total: How many there will be.
    """
    started, before = time.monotonic(), pipeline.server.usage()
    report = SyncReport(new_run_id())
    report.accounts.extend(progress("Syncing", run(report.run_id), total))
    used = pipeline.server.usage() - before
    report.requests = used.requests
    report.transferred = {"uploaded": used.bytes_uploaded, "downloaded": used.bytes_downloaded}
    report.seconds = time.monotonic() - started
    return report


def show_report(report: SyncReport) -> None:
    """The report as tables."""
    tallies(f"Run {report.run_id}: {len(report.accounts)} users in {report.seconds:.1f} s", report.totals(), _DONE)
    failures = report.failures()
    rows = [[f.user, f.code or f.item, f.stage, f.error_class, f.message] for f in failures[:_SHOWN]]
    if rows:
        table("Failed items", ["user", "item", "stage", "class", "message"], rows)
        if len(failures) > _SHOWN:
            click.echo(f"... and {len(failures) - _SHOWN} more: `ac-pipeline items --state quarantined` lists them.")
    for account in report.accounts:
        if account.blocked:
            click.echo(f"{account.user} is blocked: {account.blocked.message}")
        if account.error:
            click.echo(f"{account.user} has to be run again: {account.error.message}")
        for note in account.notes:
            click.echo(f"{account.user}: {note}")
