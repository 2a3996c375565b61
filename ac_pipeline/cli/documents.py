"""`ac-pipeline restore-documents`: documents that Mongo has lost, rebuilt from their records."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import click

from ac_pipeline.cli.output import exit_code, progress, say
from ac_pipeline.cli.rows import Rows, about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.operations.documents import CHOICE, Lost, LostCount, find_all_lost, restore_all
from ac_pipeline.operations.rounds import LeftOut
from ac_pipeline.settings import load_settings
from ac_pipeline.wiring import open_pipeline

_COLUMNS = ("user", "item", "inserts", "reason", "lost", "then")


@click.command("restore-documents")
@selectors
@click.option("--confirm", type=click.IntRange(0), metavar="N", help="Insert them, when there are exactly N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def restore_documents(chosen: Chosen, confirm: int | None, as_json: bool) -> int:
    """Rebuild documents that are missing in Mongo from their records. Without --confirm nothing is written.

    A record without a document is an orphan, which the next sync deletes: run this before any sync, or let it go. Only
    documents that do not exist are inserted, with the record's `ref` as `_id`; none is ever replaced. An item whose
    document is missing is selected by its ObjectId and its --user.
    """
    with open_pipeline(load_settings()) as pipeline, open_rows(_COLUMNS, as_json=as_json) as rows:
        accounts, selection = chosen.accounts(pipeline), chosen.selection
        found = _counted(find_all_lost(pipeline, accounts, selection, partial(progress, "Looking")), rows)
        if not confirm and confirm in {None, found.total}:
            _tell(found, rows, as_json=as_json, inserted=None)
            return exit_code(not found.left, (each.error for each in found.left_out))
        restored = restore_all(
            pipeline, accounts, selection, found, confirm or 0, progress=partial(progress, "Restoring")
        )
        with open_rows(_COLUMNS, as_json=as_json) as done:
            outcome = _counted(restored, done)
            outcome.left_out[:0] = found.left_out
            _tell(outcome, done, as_json=as_json, inserted=outcome.total)
        well = not outcome.left and outcome.total == confirm
        return exit_code(well, (each.error for each in outcome.left_out))


def _counted(things: Iterable[Lost | LeftOut], rows: Rows) -> LostCount:
    """What was found or done: the rows go out as they come, only numbers stay (OPS-6)."""
    counted = LostCount()
    for each in things:
        counted.add(each)
        if isinstance(each, Lost):
            rows.add(each.to_json())
    return counted


def _tell(found: LostCount, rows: Rows, *, as_json: bool, inserted: int | None) -> None:
    restorable = found.total
    if as_json:
        refused = [{"user": each.user, "message": each.message} for each in found.left_out]
        summary = {"restorable": restorable, "inserted": inserted or 0, "left": found.left, "refused": refused}
        rows.print_json("items", {**summary, "choice": CHOICE})
        return
    rows.print_table("Documents that are missing (nothing was written)" if inserted is None else "Restored")
    about_users((each.user, f"left alone: {each.message}") for each in found.left_out)
    what = f"can be rebuilt: `--confirm {restorable}` inserts them" if inserted is None else "were inserted"
    say(f"{restorable} documents {what}. {found.left} records cannot give theirs back.", CHOICE)
