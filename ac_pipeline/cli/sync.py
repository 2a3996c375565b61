"""`ac-pipeline sync`: the run; of what is selected, of a saved plan, or of a few users first."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import click

from ac_pipeline.accounts import Account
from ac_pipeline.cli.output import INTERRUPTED, UNREACHABLE, exit_code, print_json, progress, say, table, tallies
from ac_pipeline.cli.plan import show_kept, show_plan
from ac_pipeline.cli.rows import Rows, open_rows
from ac_pipeline.cli.selectors import Chosen, selectors, sweep_option
from ac_pipeline.errors import PipelineError
from ac_pipeline.mongo.plans import SHORTEST, SavedPlan
from ac_pipeline.operations.agreed_sync import AgreedTurn, agreed_sync
from ac_pipeline.operations.canary import Look, canary, look
from ac_pipeline.operations.choice import confirm_sweep
from ac_pipeline.operations.flight_plan import selection_of
from ac_pipeline.settings import load_settings
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.for_accounts import for_accounts, unread
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import Verification
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
    "copies_removed",
)
_SHOWN = 40
_MOVED = ("moved", "user", "item", "operation", "rkey", "reason", "why")


def surveyed(pipeline: Pipeline, chosen: Chosen, title: str) -> Iterator[tuple[Account, AccountReport]]:
    """The report of the dry run of every chosen account, a few at a time; what was read is dropped (OPS-6)."""
    accounts = chosen.accounts(pipeline)

    def survey(account: Account) -> AccountReport:
        return pipeline.engine.survey(account, chosen.selection)[1]

    def failed(account: Account, error: PipelineError) -> AccountReport:
        return AccountReport(account.key, error=unread(account, error))

    found = for_accounts(accounts, survey, pipeline.settings.ac_concurrent_users, failed, ordered=True)
    yield from progress(title, found, len(accounts))


@click.command()
@selectors
@click.option("--plan", "plan_hash", metavar="HASH", help="Carry out this plan and nothing else.")
@click.option("--canary", "number", type=click.IntRange(1), metavar="N", help="The first N users with work, then stop.")
@click.option("--dry-run", is_flag=True, help="The same as `plan`; of a plan, what has moved since.")
@sweep_option
@click.option("--full", is_flag=True, help="Read every repository, and look whether media was replaced.")
@click.option("--blobs", is_flag=True, help="Ask for every blob, too, and upload again what the PDS has lost.")
@click.option("--renditions", is_flag=True, help="Make every thumbnail and video again from its source.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def sync(
    chosen: Chosen,
    *,
    plan_hash: str | None,
    number: int | None,
    dry_run: bool,
    sweep: int | None,
    full: bool,
    blobs: bool,
    renditions: bool,
    as_json: bool,
) -> int:
    """Make the PDS hold exactly the eligible items, each once; a second run changes nothing.

    With --plan only what that plan lists is done, and only where it is still the same; what has moved since is listed,
    and the exit code is 1. --canary stops after a few users, verifies them, and says how to go on.
    """
    if plan_hash is not None and (chosen != Chosen((), False, Selection()) or full or blobs or renditions):
        raise click.UsageError("--plan has its own selection: leave the other selectors out.")
    if number is not None and dry_run:
        raise click.UsageError("--canary writes, --dry-run does not: choose one.")
    if number is not None and sweep is not None and plan_hash is None:
        raise click.UsageError("--sweep is about all chosen users, --canary about the first: choose one.")
    selection = replace(chosen.selection, sweep=sweep, full=full, blobs=blobs, renditions=renditions)
    chosen = replace(chosen, selection=selection)
    with open_pipeline(load_settings()) as pipeline:
        if plan_hash is not None:
            return _by_plan(pipeline, pipeline.plans.find(plan_hash), number, dry=dry_run, as_json=as_json, sweep=sweep)
        if dry_run:
            return show_plan(pipeline, chosen, as_json, as_csv=False)
        if number is not None:
            return _canary(pipeline, chosen, number, as_json=as_json)
        report = run_sync(pipeline, chosen.accounts(pipeline), chosen.selection)
        if as_json:
            print_json(report.to_json())
        else:
            show_report(report)
            show_kept({name: tally.orphans_kept for name, tally in report.totals().items()}, chosen)
        return 0 if report.clean else 1


def run_sync(pipeline: Pipeline, accounts: Sequence[Account], selection: Selection) -> SyncReport:
    """Sync these accounts and count what it took."""

    def run(run_id: str) -> Iterator[AccountReport]:
        for media in selection.types:
            pipeline.safeguard.look(media, within=timedelta(hours=1))  # what a later one compares with
        confirm_sweep(pipeline, accounts, selection, run_id)
        yield from sync_accounts(pipeline.engine, accounts, selection, run_id, pipeline.settings.ac_concurrent_users)

    return counted(pipeline, run, len(accounts))


def counted(pipeline: Pipeline, run: Callable[[str], Iterator[AccountReport]], total: int) -> SyncReport:
    """Run something over accounts, with progress, and count what it took.

    Args:
        run: Given a run id, yields the reports; after Ctrl-C the report has those until then.
        total: How many there will be.
    """
    started, before = time.monotonic(), pipeline.server.usage()
    report = SyncReport(new_run_id())
    try:
        for account in progress("Syncing", run(report.run_id), total):
            report.accounts.append(account)
    except KeyboardInterrupt:
        report.interrupted, report.not_reached = True, max(0, total - len(report.accounts))
    used = pipeline.server.usage() - before
    report.requests = used.requests
    report.transferred = {"uploaded": used.bytes_uploaded, "downloaded": used.bytes_downloaded}
    report.seconds = time.monotonic() - started
    return report


def report_code(report: SyncReport, *, well: bool = True) -> int:
    """The exit code of a run. `well`: whether nothing that the report does not tell is amiss."""
    if report.interrupted:
        return INTERRUPTED
    return UNREACHABLE if report.unreachable else exit_code(report.clean and well)


def show_report(report: SyncReport) -> None:
    """The report as tables."""
    tallies(f"Run {report.run_id}: {len(report.accounts)} users in {report.seconds:.1f} s", report.totals(), _DONE)
    failures = report.failures()
    rows = [[f.user, f.code or f.item, f.stage, f.error_class, f.message] for f in failures[:_SHOWN]]
    if rows:
        table("Failed items", ["user", "item", "stage", "class", "message"], rows)
        if len(failures) > _SHOWN:
            say(f"... and {len(failures) - _SHOWN} more: `ac-pipeline items --state quarantined` lists them.")
    for account in report.accounts:
        if account.blocked:
            say(f"{account.user} is blocked: {account.blocked.message}")
        if account.error:
            say(f"{account.user} has to be run again: {account.error.message}")
        for note in account.notes:
            say(f"{account.user}: {note}")
    if report.interrupted:
        say(
            f"Interrupted: {report.not_reached} users were not reached. What was committed is kept; the next run does "
            "the rest."
        )


# ---------------------------------------------------------------------------------------------------------- by a plan


def _by_plan(
    pipeline: Pipeline, plan: SavedPlan, number: int | None, *, dry: bool, as_json: bool, sweep: int | None
) -> int:
    """Carry out a saved plan, in the audit before it starts; what moved goes to a file as it comes (OPS-6)."""
    accounts = pipeline.accounts.all()
    selection = selection_of(plan.selection)
    with open_rows(_MOVED, as_json=as_json) as rows:
        done = _Agreed(rows)
        turned: list[Account] = []

        def run(run_id: str) -> Iterator[AccountReport]:
            turns = agreed_sync(
                pipeline.engine,
                plan,
                pipeline.plans.lines(plan),
                accounts,
                run_id=run_id,
                workers=pipeline.settings.ac_concurrent_users,
                dry=dry,
                canary=number,
                sweep=sweep,
            )
            for turn in turns:
                if turn.report is not None and turn.account is not None:
                    turned.append(turn.account)
                report = done.take(turn)
                if report is not None:
                    yield report

        if dry:
            report = counted(pipeline, run, plan.users)
        else:
            planned = [account for account in accounts if account.id in set(plan.accounts)]
            types = [media.name for media in selection.types]
            with pipeline.audit.during(
                "sync-plan", planned, types, plan_hash=plan.hash, counts=dict(plan.counts)
            ) as audited:
                report = counted(pipeline, run, plan.users)
                audited.counts.update(done=done.same, done_before=done.before, moved=rows.count)
        looks = [(each, look(pipeline.engine, each, selection, report.run_id)) for each in turned if number is not None]
        on = f"ac-pipeline sync --plan {plan.hash[:12]}"
        if as_json:
            told = {**report.to_json(), "plan": plan.hash, "dry_run": dry, "same": done.same, "before": done.before}
            rows.print_json("moved", {**told, "canary": _looks_json(looks), "go_on": on if number else None})
        else:
            if report.accounts and not dry:
                show_report(report)
            say(
                f"Plan {plan.hash[:SHORTEST]} of {plan.when:%Y-%m-%d %H:%M} UTC: {done.same} of {plan.operations} "
                f"operations {'are' if dry else 'were'} as planned, {done.before} were in place already, "
                f"{rows.count} have moved."
            )
            rows.print_table("Moved since, and not done")
            _show_looks(looks, on if number is not None else None)
        return report_code(report, well=done.clean and all(found.verification.complete for _, found in looks))


class _Agreed:
    """Sums over the turns of a plan; what moved goes out as it comes."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.same = self.before = 0
        self.clean = True

    def take(self, turn: AgreedTurn) -> AccountReport | None:
        """Count a turn; its report, or one that tells why there is none."""
        self.same += turn.same
        self.before += turn.done_before
        self.clean &= turn.clean
        for moved in turn.moved:
            self._rows.add(moved.to_json())
        if turn.report is None and turn.error is not None and turn.account is not None:
            return AccountReport(turn.account.key, error=turn.error)
        return turn.report


# ------------------------------------------------------------------------------------------------------------- canary


def _canary(pipeline: Pipeline, chosen: Chosen, number: int, *, as_json: bool) -> int:
    accounts, looks = chosen.accounts(pipeline), list[tuple[Account, Look]]()

    def run(run_id: str) -> Iterator[AccountReport]:
        workers = pipeline.settings.ac_concurrent_users
        for trial in canary(pipeline.engine, accounts, chosen.selection, number, run_id=run_id, workers=workers):
            if trial.look is not None:
                looks.append((trial.account, trial.look))
            yield trial.report

    report = counted(pipeline, run, min(number, len(accounts)))
    on = shlex.join(["ac-pipeline", "sync", *chosen.arguments()])
    if as_json:
        print_json({**report.to_json(), "canary": _looks_json(looks), "go_on": on})
    else:
        show_report(report)
        if not looks:
            say("Nobody has anything to do.")
        _show_looks(looks, on)
    return report_code(report, well=all(found.verification.complete for _, found in looks))


def _looks_json(looks: Sequence[tuple[Account, Look]]) -> list[dict[str, object]]:
    return [
        {
            "user": account.key,
            "verification": found.verification.to_json(),
            "records": [address.to_json() for address in found.addresses],
        }
        for account, found in looks
    ]


def _show_looks(looks: Sequence[tuple[Account, Look]], on: str | None) -> None:
    """The users so far: how they verify, where to look at their records, and how to go on."""
    if looks:
        columns = ["user", "expected", "verified", "missing", "extra", "different", "blobs"]
        table("Verified", columns, [[account.key, *_verified(found.verification)] for account, found in looks])
        for account, found in looks:
            for address in found.addresses:
                say(f"{account.key}: {address.uri}{f'  {address.page}' if address.page else ''}")
    if on is not None:
        say("Have a look; then go on with:", "", f"  {on}")


def _verified(found: Verification) -> list[object]:
    blobs = f"{found.blobs_verified} of {found.blobs_expected}"
    return [found.expected, found.verified, found.missing, found.extra, found.different, blobs]
