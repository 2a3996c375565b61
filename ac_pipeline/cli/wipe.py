"""`ac-pipeline wipe`: what it would delete, and, for whoever names the number, the wipe itself."""

from __future__ import annotations

import shlex

import click

from ac_pipeline.cli.output import print_json, say, steps, table
from ac_pipeline.cli.snapshot import media_types, type_option, why_option
from ac_pipeline.errors import PipelineError, Transient
from ac_pipeline.operations.price import Price
from ac_pipeline.operations.snapshot import open_vault
from ac_pipeline.operations.wipe import WipeReport
from ac_pipeline.operations.wipe import wipe as wipe_account
from ac_pipeline.operations.wipe_plan import WipePlan, plan_wipe
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import new_run_id, open_pipeline

_NOT_CONFIRMED = 2
_SHOWN = 40


@click.command()
@click.argument("user")
@click.option("--confirm", type=click.IntRange(0), metavar="N", help="The number of records, as the plan names it.")
@type_option
@why_option
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--keep-syncing", is_flag=True, help="Put nothing on hold: the next sync publishes everything anew.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def wipe(
    *,
    user: str,
    confirm: int | None,
    types: tuple[str, ...],
    why: str,
    dry_run: bool,
    keep_syncing: bool,
    as_json: bool,
) -> int:
    """Delete every record of USER, or those of some types, after a verified snapshot.

    Without --confirm it only says what it would delete. A wiped type is on hold, so that no schedule publishes it
    again, until `ac-pipeline restore USER`. After an interruption the same command does the rest.
    """
    with open_pipeline(load_settings()) as pipeline, steps() as told:
        account, vault, chosen = pipeline.accounts.find(user), open_vault(pipeline), media_types(types)
        plan = plan_wipe(vault, account, chosen)
        command = _command(user, types, plan.total, keep_syncing)
        if dry_run or not plan.accepts(confirm):
            _show_plan(plan, command, as_json)
            if not dry_run and confirm is not None:
                say(f"Error: --confirm {confirm} is not the number of records, {plan.total}.", err=True)
            return 0 if dry_run else _NOT_CONFIRMED
        if not as_json:
            show_price(plan.price)
        report = wipe_account(
            vault,
            account,
            chosen,
            confirm=confirm,
            run_id=new_run_id(),
            why=why,
            keep_syncing=keep_syncing,
            progress=told,
        )
    if as_json:
        print_json(report.to_json())
    else:
        _show(report, user)
    return exit_code(report.clean, report.error)


def show_price(price: Price) -> None:
    """What it takes of the PDS, in one line, and how long that is under the usual limits."""
    say(
        f"It takes {price.operations} writes in {price.commits} commits, {price.points} write points and at most "
        f"{price.blobs} blobs, {price.bytes} bytes in all."
    )
    if price.hours:
        say(f"On a PDS with the usual limits it takes {price.hours:.1f} hours, for {price.waits_for}.")


def exit_code(clean: bool, error: PipelineError | None) -> int:
    """0 all well, 1 something failed, 3 a service ended it early; the error goes to stderr."""
    if error is not None:
        say(f"Error: {error.message}", err=True)
    return 3 if isinstance(error, Transient) else 0 if clean else 1


def _command(user: str, types: tuple[str, ...], total: int, keep_syncing: bool) -> str:
    parts = ["ac-pipeline", "wipe", user]
    for name in types:
        parts += ["--type", name]
    parts += ["--keep-syncing"] if keep_syncing else []
    return shlex.join([*parts, "--confirm", str(total)])


def _show_plan(plan: WipePlan, command: str, as_json: bool) -> None:
    if as_json:
        print_json({**plan.to_json(), "command": command})
        return
    rows: list[list[object]] = [[name, number] for name, number in plan.records.items()]
    table(f"Wipe of {plan.user} (nothing was written)", ["type", "records"], [*rows, ["total", plan.total]])
    if plan.addresses:
        say(
            f"{plan.addresses} public addresses hold the key of one of these records and break; a restore brings the "
            "same keys back."
        )
    if plan.undocumented:
        say(f"{plan.undocumented} of them have no document in Mongo: only the snapshot will have them.")
    if plan.unfinished:
        say(f"An earlier wipe did not come to its end: its snapshot is {plan.unfinished}.")
    show_price(plan.price)
    say("To do it:", "", f"  {command}")


def _show(report: WipeReport, user: str) -> None:
    rows: list[list[object]] = [[name, number] for name, number in report.deleted.items()]
    deleted = sum(report.deleted.values())
    table(f"Wiped {report.user} in {report.seconds:.1f} s", ["type", "deleted"], [*rows, ["total", deleted]])
    say(f"{report.links_cleared} links cleared. {report.left} records of these types are left.")
    failed = [[each.item, each.error_class, each.message] for each in report.failures[:_SHOWN]]
    if failed:
        table(f"{len(report.failures)} records cannot be deleted", ["item", "class", "message"], failed)
    for note in report.notes:
        say(note)
    if report.snapshots:
        say(f"The records are in snapshot {report.snapshots[0]}.")
    if report.on_hold:
        say(f"On hold: {', '.join(report.on_hold)}. To bring them back: ac-pipeline restore {shlex.quote(user)}")
