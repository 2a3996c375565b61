"""The sync: of what is selected, of a saved plan, or of a few users first. The job `sync_users` is the assets'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from pydantic import model_validator

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured
from ac_pipeline.mongo.plans import SHORTEST
from ac_pipeline.operations.agreed_sync import agreed_sync
from ac_pipeline.operations.canary import Look, canary, look
from ac_pipeline.operations.choice import confirm_sweep
from ac_pipeline.operations.declare import (
    Declaration,
    Report,
    Selected,
    Table,
    Work,
    command_line,
    option,
    sweep_option,
)
from ac_pipeline.operations.flight_plan import kept_lines, make_plan, selection_of
from ac_pipeline.operations.sync_report import counted, sync_answer
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection

Looks = list[tuple[Account, Look]]


class SyncParameters(Selected):
    """What to sync, and how."""

    plan: str = option("", "Carry out this plan and nothing else.", metavar="HASH")
    canary: int | None = option(None, "The first N users with work, then stop.", metavar="N", ge=1)
    dry_run: bool = option(False, "The same as `plan`; of a plan, what has moved since.")
    sweep: int | None = sweep_option()
    full: bool = option(False, "Read every repository, and look whether media was replaced.")
    blobs: bool = option(False, "Ask for every blob, too, and upload again what the PDS has lost.")
    renditions: bool = option(False, "Make every thumbnail and video again from its source.")

    @model_validator(mode="after")
    def _fitting(self) -> SyncParameters:
        others = self.model_dump(exclude_defaults=True).keys() - {"plan", "canary", "dry_run", "sweep"}
        if self.plan and others:
            raise Misconfigured("--plan has its own selection: leave the other selectors out.")
        if self.canary is not None and self.dry_run:
            raise Misconfigured("--canary writes, --dry-run does not: choose one.")
        if self.canary is not None and self.sweep is not None and not self.plan:
            raise Misconfigured("--sweep is about all chosen users, --canary about the first: choose one.")
        return self

    def swept(self, types: Sequence[str], number: int) -> str:
        """The command that deletes so many records of these types although the database is doubted."""
        return command_line("sync", self, types=types, sweep=number)


def run_sync(work: Work, parameters: SyncParameters) -> Report:
    """Make the PDS hold exactly the eligible items, each once; a second run changes nothing.

    With --plan only what that plan lists is done, and only where it is still the same; what has moved since is listed,
    and the exit code is 1. --canary stops after a few users, verifies them, and says how to go on.
    """
    if parameters.plan:
        return _by_plan(work, parameters)
    pipeline = work.pipeline
    accounts = parameters.accounts(pipeline)
    selection = parameters.selection(
        sweep=parameters.sweep, full=parameters.full, blobs=parameters.blobs, renditions=parameters.renditions
    )
    if parameters.dry_run:
        return make_plan(
            pipeline,
            accounts,
            selection,
            everybody=parameters.everybody,
            swept=parameters.swept,
            watch=work.watch("Planning"),
        )
    if parameters.canary is not None:
        return _canary(work, parameters, accounts, selection, parameters.canary)

    def reports() -> Iterator[AccountReport]:
        for media in selection.types:
            pipeline.safeguard.look(media, within=timedelta(hours=1))  # what a later one compares with
        confirm_sweep(pipeline, accounts, selection, work.run_id)
        yield from sync_accounts(
            pipeline.engine, accounts, selection, work.run_id, pipeline.settings.ac_concurrent_users
        )

    report = counted(work, reports, len(accounts))
    kept = {name: tally.orphans_kept for name, tally in report.totals().items()}
    return sync_answer(report, lines=kept_lines(kept, parameters.swept))


def _by_plan(work: Work, parameters: SyncParameters) -> Report:
    """Carry out a saved plan, in the audit before it starts; what moved goes to a file as it comes (OPS-6)."""
    pipeline, dry = work.pipeline, parameters.dry_run
    plan = pipeline.plans.find(parameters.plan)
    accounts, selection = pipeline.accounts.all(), selection_of(plan.selection)
    moved = Table("moved", ("moved", "user", "item", "operation", "rkey", "reason", "why"), "Moved since, and not done")
    same, before, clean, turned = 0, 0, True, list[Account]()

    def reports() -> Iterator[AccountReport]:
        nonlocal same, before, clean
        for turn in agreed_sync(
            pipeline.engine,
            plan,
            pipeline.plans.lines(plan),
            accounts,
            run_id=work.run_id,
            workers=pipeline.settings.ac_concurrent_users,
            dry=dry,
            canary=parameters.canary,
            sweep=parameters.sweep,
        ):
            same, before, clean = same + turn.same, before + turn.done_before, clean and turn.clean
            moved.extend(each.to_json() for each in turn.moved)
            if turn.account is not None and turn.report is not None:
                turned.append(turn.account)
                yield turn.report
            elif turn.account is not None and turn.error is not None:
                yield AccountReport(turn.account.key, error=turn.error)

    if dry:
        report = counted(work, reports, plan.users)
    else:
        planned = [account for account in accounts if account.id in set(plan.accounts)]
        types = [media.name for media in selection.types]
        with pipeline.audit.during("sync-plan", planned, types, plan_hash=plan.hash, counts=dict(plan.counts)) as entry:
            report = counted(work, reports, plan.users)
            entry.counts.update(done=same, done_before=before, moved=moved.count)
    looks: Looks = []
    if parameters.canary is not None:
        looks = [(each, look(pipeline.engine, each, selection, report.run_id)) for each in turned]
    on = f"ac-pipeline sync --plan {plan.hash[:12]}" if parameters.canary is not None else None
    told = {"plan": plan.hash, "dry_run": dry, "same": same, "before": before}
    return sync_answer(
        report,
        f"Plan {plan.hash[:SHORTEST]} of {plan.when:%Y-%m-%d %H:%M} UTC: {same} of {plan.operations} operations "
        f"{'are' if dry else 'were'} as planned, {before} were in place already, {moved.count} have moved.",
        well=clean and _complete(looks),
        more={**told, **_looks_json(looks, on), "moved": moved},
        tables=[moved, _verified(looks)],
        lines=_look_lines(looks, on),
    )


def _canary(
    work: Work, parameters: SyncParameters, accounts: Sequence[Account], selection: Selection, number: int
) -> Report:
    looks: Looks = []

    def reports() -> Iterator[AccountReport]:
        engine, workers = work.pipeline.engine, work.pipeline.settings.ac_concurrent_users
        for trial in canary(engine, accounts, selection, number, run_id=work.run_id, workers=workers):
            if trial.look is not None:
                looks.append((trial.account, trial.look))
            yield trial.report

    report = counted(work, reports, min(number, len(accounts)))
    on = command_line("sync", parameters, canary=None)
    return sync_answer(
        report,
        well=_complete(looks),
        more=_looks_json(looks, on),
        tables=[_verified(looks)],
        lines=[*([] if looks else ["Nobody has anything to do."]), *_look_lines(looks, on)],
    )


def _complete(looks: Looks) -> bool:
    return all(found.verification.complete for _, found in looks)


def _looks_json(looks: Looks, on: str | None) -> Mapping[str, Any]:
    seen = [
        {
            "user": account.key,
            "verification": found.verification.to_json(),
            "records": [address.to_json() for address in found.addresses],
        }
        for account, found in looks
    ]
    return {"canary": seen, "go_on": on}


def _verified(looks: Looks) -> Table:
    """How the users so far verify."""
    columns = ("user", "expected", "verified", "missing", "extra", "different", "blobs")
    return Table("canary", columns, "Verified").extend(
        {
            **found.verification.to_json(),
            "user": account.key,
            "blobs": f"{found.verification.blobs_verified} of {found.verification.blobs_expected}",
        }
        for account, found in looks
    )


def _look_lines(looks: Looks, on: str | None) -> list[str]:
    """Where to look at their records, and how to go on."""
    lines = [
        f"{account.key}: {address.uri}{f'  {address.page}' if address.page else ''}"
        for account, found in looks
        for address in found.addresses
    ]
    return lines if on is None else [*lines, "Have a look; then go on with:", "", f"  {on}"]


SYNC: Final = Declaration("sync", "", "", SyncParameters, run_sync)
