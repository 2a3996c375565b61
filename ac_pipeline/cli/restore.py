"""`ac-pipeline restore`: bring a user's records back, from Mongo or from a snapshot."""

from __future__ import annotations

from dataclasses import replace

import click

from ac_pipeline.cli.output import print_json, say, steps, table
from ac_pipeline.cli.plan import show_plan
from ac_pipeline.cli.selectors import Chosen
from ac_pipeline.cli.snapshot import media_types, type_option, why_option
from ac_pipeline.cli.sync import show_report
from ac_pipeline.cli.wipe import exit_code, show_price
from ac_pipeline.operations.restore import (
    MONGO,
    find_snapshot,
    plan_from_snapshot,
    restore_from_mongo,
    restore_from_snapshot,
    without_holds,
)
from ac_pipeline.operations.restore_plan import Held, RestorePlan
from ac_pipeline.operations.restore_report import RestoreReport
from ac_pipeline.operations.snapshot import open_vault
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.report import SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import new_run_id, open_pipeline

_SHOWN = 40


@click.command()
@click.argument("user")
@click.option(
    "--from", "source", default=MONGO, show_default=True, metavar="SOURCE", help="mongo, latest, or a snapshot's id."
)
@type_option
@why_option
@click.option("--overwrite", is_flag=True, help="From a snapshot: replace records that are there but differ, too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be brought back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def restore(
    *, user: str, source: str, types: tuple[str, ...], why: str, overwrite: bool, dry_run: bool, as_json: bool
) -> int:
    """Bring USER's records back and let them be mirrored again.

    From Mongo: what Mongo holds today, as a sync makes it, removals included. From a snapshot: the same records under
    the same keys, byte by byte; what was removed since is held back and listed.
    """
    with open_pipeline(load_settings()) as pipeline, steps() as told:
        account, vault, chosen = pipeline.accounts.find(user), open_vault(pipeline), media_types(types)
        if source == MONGO:
            if dry_run:
                released = replace(pipeline, engine=without_holds(pipeline.engine))
                wanted = Chosen((user,), False, Selection(types=chosen))
                return show_plan(released, wanted, as_json, as_csv=False, save=False)
            report = restore_from_mongo(vault, account, chosen, run_id=new_run_id(), why=why)
        else:
            snapshot = find_snapshot(vault, account, chosen, source)
            if dry_run or not as_json:
                plan = plan_from_snapshot(vault, account, chosen, snapshot, overwrite=overwrite)
                if dry_run:
                    _show_plan(plan, as_json)
                    return 0
                show_price(plan.price)
            report = restore_from_snapshot(
                vault, account, chosen, snapshot, run_id=new_run_id(), overwrite=overwrite, why=why, progress=told
            )
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    return exit_code(report.clean, report.error)


def _show_plan(plan: RestorePlan, as_json: bool) -> None:
    if as_json:
        print_json(plan.to_json())
        return
    rows: list[list[object]] = [[name, number] for name, number in plan.counts.items()]
    total = ["total", len(plan.operations)]
    table(f"Restore of {plan.user} (nothing was written)", ["type", "records"], [*rows, total])
    say(f"{len(plan.present)} records are there already.")
    _show_shape(plan.wrong_shaped)
    _show_held(plan.held)
    show_price(plan.price)


def _show(report: RestoreReport) -> None:
    if report.sync is not None:
        show_report(SyncReport("restore", [report.sync]))
        return
    rows: list[list[object]] = [[name, number] for name, number in report.restored.items()]
    total = sum(report.restored.values())
    title = f"Restored {report.user} from {report.source} in {report.seconds:.1f} s"
    table(title, ["type", "restored"], [*rows, ["total", total]])
    say(f"{report.present} records were there already.")
    _show_shape(report.wrong_shaped)
    _show_held(report.held)
    failed = [[each.item, each.error_class, each.message] for each in report.failures[:_SHOWN]]
    if failed:
        table(f"The PDS refuses {len(report.failures)} records", ["item", "class", "message"], failed)
    if report.on_hold:
        say(f"Still on hold: {', '.join(report.on_hold)}. The same command does the rest.")
    else:
        say("Nothing is on hold: the next sync brings these records up to date with Mongo.")


def _show_shape(wrong: int) -> None:
    if wrong:
        say(f"{wrong} records break their lexicon; they come back as they were, the next sync repairs them.")


def _show_held(held: list[Held]) -> None:
    rows = [[each.saved.item, each.saved.path, each.reason] for each in held[:_SHOWN]]
    if rows:
        table(f"{len(held)} records are held back", ["item", "record", "reason"], rows)
