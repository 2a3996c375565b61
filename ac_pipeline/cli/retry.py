"""`ac-pipeline retry`: exactly the failed items that are selected, once more."""

from __future__ import annotations

from dataclasses import replace

import click

from ac_pipeline.cli.output import print_json
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.cli.sync import run_sync, show_report
from ac_pipeline.items import LedgerEntry, State
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.report import SyncReport
from ac_pipeline.wiring import Pipeline, open_pipeline

_FAILED = (State.QUARANTINED, State.DEFERRED, State.BLOCKED)


@click.command()
@selectors
@click.option("--error-class", metavar="CLASS", help="Only items whose last error is of this class.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def retry(chosen: Chosen, error_class: str | None, as_json: bool) -> int:
    """Run exactly the failed items selected, quarantined ones too, and nothing else."""
    with open_pipeline(load_settings()) as pipeline:
        failed = _failed(pipeline, chosen, error_class)
        items = frozenset((entry.type, entry.document) for entry in failed)
        types = tuple(media for media in chosen.selection.types if media.name in {entry.type for entry in failed})
        selection = replace(chosen.selection, types=types, items=items, limit=None, retry=True)
        accounts = [each for each in pipeline.accounts.all() if each.id in {entry.account for entry in failed}]
        report = run_sync(pipeline, accounts, selection) if failed else SyncReport("")
        if as_json:
            print_json(report.to_json())
        elif failed:
            show_report(report)
        else:
            click.echo("No failed item fits.")
        return 0 if report.clean else 1


def _failed(pipeline: Pipeline, chosen: Chosen, error_class: str | None) -> list[LedgerEntry]:
    selection = chosen.selection
    named = chosen.users or chosen.anonymous or selection.items
    owners = [account.id for account in chosen.accounts(pipeline)] if named else [None]
    types = [media.name for media in selection.types]
    found = [
        entry
        for owner in owners
        for entry in pipeline.ledger.find(states=_FAILED, error_class=error_class, account=owner, types=types)
    ]
    if selection.items is not None:
        names = selection.items
        found = [e for e in found if (e.type, e.document) in names or (e.type, e.code or "") in names]
    return found[: selection.limit] if selection.limit else found
