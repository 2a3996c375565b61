"""`ac-pipeline differences`: records that others changed or deleted, and the two ways to settle that."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import progress
from ac_pipeline.cli.rows import Rows, about_users, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors
from ac_pipeline.cli.sync import show_report
from ac_pipeline.errors import Blocked
from ac_pipeline.operations.differences import Difference, accept_theirs, find_differences, push_ours
from ac_pipeline.operations.rounds import look_at
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
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def differences(chosen: Chosen, push: bool, accept: bool, confirm: int | None, as_json: bool) -> int:
    """Records that somebody else changed or deleted since the pipeline wrote them, with ours and theirs.

    Without a choice nothing is written; a sync puts ours back. --accept-theirs changes fields of the documents, and
    for a deleted record sets the flag with which the platform removes an item; it never deletes a document. Either
    choice needs --user, --anonymous or --item, and --confirm with the number of items.
    """
    if push and accept:
        raise click.UsageError("Choose either --push-ours or --accept-theirs.")
    if (push or accept) and not (chosen.users or chosen.anonymous or chosen.selection.items):
        raise click.UsageError("Say whose items are to be settled: --user, --anonymous or --item.")
    with open_pipeline(load_settings()) as pipeline, open_rows(_COLUMNS, as_json=as_json) as rows:
        found = _Found(pipeline, chosen, chosen.accounts(pipeline), rows)
        number = found.acceptable if accept else found.total
        if push or accept:
            if confirm != number:
                what = "can be taken over" if accept else "can be pushed"
                raise click.UsageError(f"{number} items {what}: look at them, then say `--confirm {number}`.")
            return (_push if push else _accept)(pipeline, chosen, found, number, as_json)
        if as_json:
            rows.print_json("items", {"differences": found.total, "acceptable": found.acceptable, **found.to_json()})
        else:
            rows.print_table("Records that others have touched (nothing was written)")
            about_users((user, f"not looked at: {message}") for user, message in found.blocked)
            click.echo(
                f"{found.total} differences; theirs can be taken over for {found.acceptable}. A sync puts ours back."
            )
        return 1 if found.total else 0


class _Found:
    """One look at all accounts; the rows go out as they come, numbers and users stay."""

    def __init__(self, pipeline: Pipeline, chosen: Chosen, accounts: Sequence[Account], rows: Rows) -> None:
        self.total = self.acceptable = 0
        self.accounts: dict[Account, int] = {}
        self.blocked: list[tuple[str, str]] = []

        def look(account: Account) -> list[Difference]:
            return find_differences(pipeline.engine, account, chosen.selection)

        workers = pipeline.settings.ac_concurrent_users
        for account, answer in look_at(accounts, look, workers, partial(progress, "Comparing")):
            if isinstance(answer, Blocked):
                self.blocked.append((account.key, answer.message))
                continue
            for each in answer:
                rows.add(each.to_json() | _both(each))
            self.total += len(answer)
            acceptable = sum(not each.refusal for each in answer)
            self.acceptable += acceptable
            if answer:
                self.accounts[account] = acceptable

    def to_json(self) -> dict[str, object]:
        return {"blocked": [{"user": user, "message": message} for user, message in self.blocked]}


def _push(pipeline: Pipeline, chosen: Chosen, found: _Found, number: int, as_json: bool) -> int:
    """Ours again, one account after another; in the audit before it starts."""
    report = SyncReport(new_run_id())
    types = [media.name for media in chosen.selection.types]
    with pipeline.audit.during("push-ours", list(found.accounts), types, counts={"items": number}) as told:
        for account in progress("Pushing", list(found.accounts), len(found.accounts)):
            again = find_differences(pipeline.engine, account, chosen.selection)[:number]
            number -= len(again)
            report.accounts.append(push_ours(pipeline.engine, account, chosen.selection, again, report.run_id))
            told.counts["written"] = sum(tally.written for tally in report.totals().values())
    if as_json:
        report_json = report.to_json()
        with open_rows((), as_json=True) as none:
            none.print_json("items", {"pushed": told.counts.get("written", 0), "report": report_json})
    else:
        show_report(report)
    return 0 if report.clean else 1


def _accept(pipeline: Pipeline, chosen: Chosen, found: _Found, number: int, as_json: bool) -> int:
    """Theirs into Mongo, one account after another; in the audit before it starts."""
    types = [media.name for media in chosen.selection.types]
    done = left = 0
    with open_rows(_ACCEPTED, as_json=as_json) as rows:
        with pipeline.audit.during("accept-theirs", list(found.accounts), types, counts={"items": number}) as told:
            for account, acceptable in progress("Accepting", list(found.accounts.items()), len(found.accounts)):
                for each, problem in accept_theirs(pipeline, account, chosen.selection, acceptable):
                    rows.add(each.to_json() | {"outcome": problem or "taken over"})
                    done += not problem
                    left += bool(problem)
                    told.counts["accepted"] = done
        if as_json:
            rows.print_json("items", {"accepted": done, "left": left})
        else:
            rows.print_table("Theirs")
            click.echo(f"{done} documents changed, {left} left as they are. The next sync settles links and ledger.")
    return 0 if done == number else 1


def _both(each: Difference) -> dict[str, object]:
    """Ours and theirs in two cells of the table."""
    if each.kind == "deleted":
        return {"ours": "exists", "theirs": "deleted"}
    return {
        "ours": "; ".join(f"{name}: {_short(ours)}" for name, (ours, _) in each.fields.items()),
        "theirs": "; ".join(f"{name}: {_short(theirs)}" for name, (_, theirs) in each.fields.items()),
    }


def _short(value: object) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= 60 else text[:59] + "…"
