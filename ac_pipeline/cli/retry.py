"""`ac-pipeline retry`: exactly the failed items selected, once more. Which they are is `operations/retry.py`."""

from __future__ import annotations

import click

from ac_pipeline.accounts import GUEST_ID
from ac_pipeline.cli.output import print_json, say
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.cli.sync import counted, report_code, show_report
from ac_pipeline.items import State
from ac_pipeline.operations.retry import FAILED, FailedItems, plan_retry, run_turns
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.report import SyncReport
from ac_pipeline.wiring import open_pipeline


@click.command()
@selectors
@click.option("--state", "states", multiple=True, type=click.Choice([s.value for s in FAILED]), help="Only this state.")
@click.option("--error-class", metavar="CLASS", help="Only items whose last error is of this class.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def retry(chosen: Chosen, states: tuple[str, ...], error_class: str | None, as_json: bool) -> int:
    """Run exactly the failed items selected, quarantined ones too, and nothing else."""
    selection = chosen.selection
    wanted = FailedItems(
        users=(*chosen.users, *([GUEST_ID] if chosen.anonymous else [])),
        types=selection.types,
        items=selection.items,
        states=tuple(State(each) for each in states) or FAILED,
        error_class=error_class,
        since=selection.since,
        until=selection.until,
        each=selection.limit,
    )
    with open_pipeline(load_settings()) as pipeline:
        plan = plan_retry(pipeline, wanted)
        for name in plan.unknown:
            say(f"{name} is not among the failed items: nothing was done to it.", err=True)
        for item in plan.ownerless:
            say(f"{item} belongs to an account that is not on the platform any more: left alone.", err=True)
        workers = pipeline.settings.ac_concurrent_users
        report = (
            counted(
                pipeline,
                lambda run_id: (report for _, report in run_turns(pipeline.engine, plan.turns, run_id, workers)),
                len(plan.turns),
            )
            if plan.turns
            else SyncReport("")
        )
    if as_json:
        print_json(report.to_json())
    elif plan.turns:
        show_report(report)
    else:
        say("No failed item fits.")
    return report_code(report)
