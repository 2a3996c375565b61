"""`ac-pipeline differences`: records that others changed or deleted, and the two ways to settle that."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import exit_code, progress, say
from ac_pipeline.cli.rows import about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.cli.snapshot import why_option
from ac_pipeline.cli.sync import report_code, show_report
from ac_pipeline.operations.differences import Difference
from ac_pipeline.operations.rounds import LeftOut
from ac_pipeline.operations.settling import (
    DifferenceCount,
    accept_all,
    all_pushed,
    find_all_differences,
    push_all,
    side_by_side,
)
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.report import SyncReport
from ac_pipeline.wiring import Pipeline, new_run_id, open_pipeline

_COLUMNS = ("user", "item", "kind", "ours", "theirs", "push_ours", "accept_theirs")
_ACCEPTED = (*_COLUMNS[:3], "accept_theirs", "outcome")


@click.command()
@selectors
@click.option("--push-ours", "push", is_flag=True, help="Write ours again, for exactly these items.")
@click.option("--accept-theirs", "accept", is_flag=True, help="Take theirs over into the documents.")
@click.option("--confirm", type=click.IntRange(1), metavar="N", help="How many items are to be settled.")
@why_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def differences(*, chosen: Chosen, push: bool, accept: bool, confirm: int | None, why: str, as_json: bool) -> int:
    """Records that somebody else changed or deleted since the pipeline wrote them, with ours and theirs.

    Without a choice nothing is written; a sync puts ours back. --accept-theirs changes fields of the documents, and
    for a deleted record sets the flag with which the platform removes an item; it never deletes a document. Either
    choice needs --user, --anonymous or --item, and --confirm with the number of items.
    """
    if push and accept:
        raise click.UsageError("Choose either --push-ours or --accept-theirs.")
    if (push or accept) and chosen.everybody:
        raise click.UsageError("Say whose items are to be settled: --user, --anonymous or --item.")
    with open_pipeline(load_settings()) as pipeline:
        accounts = chosen.accounts(pipeline)
        found = _look(pipeline, accounts, chosen, shown=not (push or accept), as_json=as_json)
        if not (push or accept):
            return exit_code(not found.total, (each.error for each in found.left_out))
        number = found.acceptable.total() if accept else found.total
        if confirm != number:
            what = "can be taken over" if accept else "can be pushed"
            raise click.UsageError(f"{number} items {what}: look at them, then say `--confirm {number}`.")
        settle = _push if push else _accept
        return settle(pipeline, accounts, chosen, found, why=why, as_json=as_json)


def _look(
    pipeline: Pipeline, accounts: Sequence[Account], chosen: Chosen, *, shown: bool, as_json: bool
) -> DifferenceCount:
    """All differences counted, and shown unless something is to be done about them."""
    found = DifferenceCount()
    with open_rows(_COLUMNS, as_json=as_json) as rows:
        for each in find_all_differences(pipeline, accounts, chosen.selection, partial(progress, "Comparing")):
            found.add(each)
            if isinstance(each, Difference):
                rows.add(each.to_json() | side_by_side(each))
        if not shown:
            return found
        acceptable = found.acceptable.total()
        if as_json:
            blocked = [{"user": each.user, "message": each.message} for each in found.left_out]
            rows.print_json("items", {"differences": found.total, "acceptable": acceptable, "blocked": blocked})
        else:
            rows.print_table("Records that others have touched (nothing was written)")
            about_users((each.user, f"not looked at: {each.message}") for each in found.left_out)
            say(f"{found.total} differences; theirs can be taken over for {acceptable}. A sync puts ours back.")
    return found


def _push(
    pipeline: Pipeline, accounts: Sequence[Account], chosen: Chosen, found: DifferenceCount, *, why: str, as_json: bool
) -> int:
    report = SyncReport(new_run_id())
    report.accounts += push_all(
        pipeline,
        accounts,
        chosen.selection,
        found,
        found.total,
        run_id=report.run_id,
        why=why,
        progress=partial(progress, "Pushing"),
    )
    if as_json:
        pushed = sum(tally.written for tally in report.totals().values())
        with open_rows((), as_json=True) as none:
            none.print_json("items", {"pushed": pushed, "report": report.to_json()})
    else:
        show_report(report)
    return report_code(report, well=all_pushed(report))


def _accept(
    pipeline: Pipeline, accounts: Sequence[Account], chosen: Chosen, found: DifferenceCount, *, why: str, as_json: bool
) -> int:
    number, done, left = found.acceptable.total(), 0, 0
    left_out: list[LeftOut] = []
    with open_rows(_ACCEPTED, as_json=as_json) as rows:
        watched = partial(progress, "Accepting")
        for each in accept_all(pipeline, accounts, chosen.selection, found, number, why=why, progress=watched):
            if isinstance(each, LeftOut):
                left_out.append(each)
                continue
            rows.add(each.to_json())
            done += not each.problem
            left += bool(each.problem)
        if as_json:
            blocked = [{"user": each.user, "message": each.message} for each in left_out]
            rows.print_json("items", {"accepted": done, "left": left, "blocked": blocked})
        else:
            rows.print_table("Theirs")
            about_users((each.user, f"left alone: {each.message}") for each in left_out)
            say(f"{done} documents changed, {left} left as they are. The next sync settles links and ledger.")
    return exit_code(done == number, (each.error for each in left_out))
