"""The sync: of what is selected, of a saved plan, or of a few users first; and the answer of whatever syncs.
Also failed items once more (OPS-3): quarantined ones are tried by nothing else while their documents stay the same."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any, Final

from pydantic import model_validator

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.atproto.syntax import at_uri
from ac_pipeline.errors import ERROR_CLASSES, INTERRUPTED, UNREACHABLE, WELL, Misconfigured, PipelineError
from ac_pipeline.items import LedgerEntry, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type, page_of
from ac_pipeline.mongo.ledger.plans import SHORTEST
from ac_pipeline.operations.declare import LeftOut, Report, Table, Work, command_line, declared, exit_code
from ac_pipeline.operations.parameters import (
    Parameters,
    Selected,
    chosen_accounts,
    dry_run_option,
    option,
    sweep_option,
)
from ac_pipeline.operations.plan import apply_plan, kept_lines, make_plan, orphans_kept, selection_of
from ac_pipeline.sync.engine import Engine, sync_accounts
from ac_pipeline.sync.for_accounts import account_reports, for_accounts, needed, unread
from ac_pipeline.sync.report import AccountReport, SyncReport, Tally
from ac_pipeline.sync.selection import Selection
from ac_pipeline.sync.verify import verify
from ac_pipeline.wiring import Pipeline

SHOWN = 3  # Records of a user whose addresses are shown


class SyncParameters(Selected):
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


@declared("sync")
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
        return make_plan(work, parameters, accounts, selection)
    if parameters.canary is not None:
        return _canary(work, parameters, accounts, selection, parameters.canary)

    def reports() -> Iterator[AccountReport]:
        for media in selection.types:
            pipeline.safeguard.look(media, within=timedelta(hours=1))  # what a later one compares with
        confirm_sweep(pipeline, accounts, selection, work.run_id)
        workers = pipeline.settings.ac_concurrent_users
        for _, report in sync_accounts(pipeline.engine, accounts, selection, work.run_id, workers):
            yield report

    report = measured(work, reports(), len(accounts))
    kept = {name: tally.orphans_kept for name, tally in report.totals().items()}
    return sync_answer(report, lines=kept_lines(kept, parameters))


def confirm_sweep(pipeline: Pipeline, accounts: Sequence[Account], selection: Selection, run_id: str) -> None:
    """Compare the number a person has named with the records without a document that these accounts have; where it is
    the same, as many may go in this run. Asked about everybody, the collections are taken as they are from now on.
    Raises Misconfigured (it is another number; nothing was written), Transient (an account could not be read)."""
    if selection.sweep is None or pipeline.safeguard.sweeping(run_id):
        return
    kept: Counter[str] = Counter()
    look = replace(selection, sweep=None)
    workers = pipeline.settings.ac_concurrent_users
    for _, (_, report) in for_accounts(
        accounts, lambda each: pipeline.engine.survey(each, look, run_id), workers, needed
    ):
        kept.update(orphans_kept(report))
    if kept.total() != selection.sweep:
        by_type = f" ({', '.join(f'{name} {number}' for name, number in kept.items())})" if kept else ""
        raise Misconfigured(
            f"{kept.total()} records without a document are kept because the database is doubted{by_type}: the number "
            f"to sweep is {kept.total()}. Nothing was written."
        )
    if len(accounts) == len(pipeline.accounts.all()):
        pipeline.safeguard.accept(selection.types)
    pipeline.safeguard.begin_sweep(run_id)


# ----------------------------------------------------------------------------------------- saved plans, and a few first


def _by_plan(work: Work, parameters: SyncParameters) -> Report:
    """Carry out a saved plan, in the audit before it starts; what moved goes to a file as it comes (OPS-6)."""
    pipeline, dry = work.pipeline, parameters.dry_run
    plan = pipeline.plans.find(parameters.plan)
    accounts, selection = pipeline.accounts.all(), selection_of(plan.selection)
    moved = Table("moved", ("moved", "user", "item", "operation", "rkey", "reason", "why"), "Moved since, and not done")
    same, before, clean, synced = 0, 0, True, list[Account]()

    def reports() -> Iterator[AccountReport]:
        nonlocal same, before, clean
        for part in apply_plan(work, plan, accounts, dry=dry, canary=parameters.canary, sweep=parameters.sweep):
            same, before, clean = same + part.same, before + part.done_before, clean and part.clean
            moved.extend(each.to_json() for each in part.moved)
            if part.account is not None and part.report is not None:
                synced.append(part.account)
                yield part.report
            elif part.account is not None and part.error is not None:
                yield AccountReport(part.account.key, error=part.error)

    if dry:
        report = measured(work, reports(), plan.users)
    else:
        planned = [account for account in accounts if account.id in set(plan.accounts)]
        types = [media.name for media in selection.types]
        with pipeline.audit.during("sync-plan", planned, types, plan_hash=plan.hash, counts=dict(plan.counts)) as entry:
            report = measured(work, reports(), plan.users)
            entry.counts = {"done": same, "done_before": before, "moved": moved.count}
    seen = _Verified(f"ac-pipeline sync --plan {plan.hash[:12]}" if parameters.canary is not None else None)
    for account in synced if parameters.canary is not None else ():
        seen.look(pipeline.engine, account, selection, report.run_id)
    return sync_answer(
        report,
        f"Plan {plan.hash[:SHORTEST]} of {plan.when:%Y-%m-%d %H:%M} UTC: {same} of {plan.operations} operations "
        f"{'are' if dry else 'were'} as planned, {before} were in place already, {moved.count} have moved.",
        well=clean and seen.complete,
        more={"plan": plan.hash, "dry_run": dry, "same": same, "before": before, **seen.json, "moved": moved},
        tables=[moved, seen.table],
        lines=seen.lines,
    )


def _canary(
    work: Work, parameters: SyncParameters, accounts: Sequence[Account], selection: Selection, number: int
) -> Report:
    """Sync the first so many accounts that have something to do, one after another; only dry runs run ahead."""
    engine, workers = work.pipeline.engine, work.pipeline.settings.ac_concurrent_users
    seen = _Verified(command_line("sync", parameters, canary=None))

    def operations(account: Account) -> int:
        plan, report = engine.survey(account, selection)
        return len(plan.operations()) if report.blocked is None else 0

    def reports() -> Iterator[AccountReport]:
        for account, planned in for_accounts(accounts, operations, workers, unread, ordered=True):
            if isinstance(planned, PipelineError):
                yield AccountReport(account.key, error=planned)
            elif planned:
                report = engine.sync(account, selection, work.run_id)
                seen.look(engine, account, selection, work.run_id)
                yield report
                if len(seen.users) == number:
                    return

    report = measured(work, reports(), min(number, len(accounts)))
    lines = [*([] if seen.users else ["Nobody has anything to do."]), *seen.lines]
    return sync_answer(report, well=seen.complete, more=seen.json, tables=[seen.table], lines=lines)


class _Verified:
    """Users who were verified after their sync, with the addresses of a few records that it wrote; `on` is the command
    that goes on with the others, None where there is none."""

    def __init__(self, on: str | None) -> None:
        columns = ("user", "expected", "verified", "missing", "extra", "different", "blobs")
        self.table, self.users, self.complete = Table("canary", columns, "Verified"), list[object](), True
        self.json: dict[str, object] = {"canary": self.users, "go_on": on}
        self.addresses, self._on = list[str](), on

    def look(self, engine: Engine, account: Account, selection: Selection, run_id: str) -> None:
        found = verify(engine, account, selection)
        plan, _ = engine.survey(account, selection)
        records: list[dict[str, str | None]] = []
        for made in plan.plans:
            entries = plan.entries[made.media.name]
            for kept in made.kept:
                document = kept.wanted.document
                entry = entries.get(document.id)
                if entry is not None and entry.run_id == run_id and len(records) < SHOWN:
                    uri, page = at_uri(str(account.did), made.media.nsid, kept.rkey), page_of(made.media, document.code)
                    records.append({"uri": uri, "page": page})
                    self.addresses.append(f"{account.key}: {uri}{'  ' + page if page else ''}")
        self.complete &= found.complete
        shown = found.to_json()
        self.users.append({"user": account.key, "verification": shown, "records": records})
        self.table.add({**shown, "user": account.key, "blobs": f"{found.blobs_verified} of {found.blobs_expected}"})

    @property
    def lines(self) -> list[str]:
        """Where to look at their records, and how to go on."""
        go_on = ["Have a look; then go on with:", "", f"  {self._on}"] if self._on is not None else []
        return [*self.addresses, *go_on]


# ---------------------------------------------------------------------------------------------------- the report of it

_DONE: Final = (
    *("planned", "created", "updated", "deleted", "unchanged", "deferred", "quarantined", "blocked"),
    *("healed", "duplicates_removed", "copies_removed"),
)


def measured(work: Work, reports: Iterable[AccountReport], total: int) -> SyncReport:
    """Count what it takes to come to these reports, `total` of them; after Ctrl-C the answer has those until then."""
    started, server = time.monotonic(), work.pipeline.server
    before, report = server.usage(), SyncReport(work.run_id)
    try:
        for account in work.watch("Syncing")(reports, total):
            report.accounts.append(account)
    except KeyboardInterrupt:
        report.interrupted, report.not_reached = True, max(0, total - len(report.accounts))
    used = server.usage() - before
    report.requests = used.requests
    report.transferred = {"uploaded": used.bytes_uploaded, "downloaded": used.bytes_downloaded}
    report.seconds = time.monotonic() - started
    return report


def sync_answer(
    report: SyncReport,
    headline: str = "",
    *,
    well: bool = True,
    more: Mapping[str, object] | None = None,
    tables: Sequence[Table] = (),
    lines: Sequence[str] = (),
) -> Report:
    """The answer of a command that has run a sync, with a headline in place of the usual one, and further fields of the
    JSON, tables and lines; `well` is False if something is amiss that the report does not tell."""
    if report.interrupted:
        code = INTERRUPTED
        said = (
            f"Interrupted: {report.not_reached} users were not reached. What was committed is kept; the next run does "
            "the rest."
        )
        lines = [*lines, said]
    else:
        code = UNREACHABLE if report.unreachable else exit_code(report.clean and well)
    again = [f"{a.user} has to be run again: {a.error.message}" for a in report.accounts if a.error]
    return Report(
        headline or f"Run {report.run_id}: {len(report.accounts)} users in {report.seconds:.1f} s.",
        {**report.to_json(), **(more or {})},
        [*(sync_tables(report) if report.accounts else ()), *tables],
        lines=[*again, *sync_lines(report), *lines],
        left_out=[LeftOut(each.user, each.blocked) for each in report.accounts if each.blocked],
        exit_code=code,
    )


def sync_tables(report: SyncReport) -> list[Table]:
    """What was done by type, and the items that did not get where they should."""
    title = f"Run {report.run_id}: {len(report.accounts)} users"
    failed = Table("failed_items", ("user", "item", "stage", "class", "message"))
    for each in report.failures():
        failed.add({**each.to_json(), "item": each.code or each.item})
    return [tallies("types", report.totals(), _DONE, title), failed]


def tallies(name: str, types: Mapping[str, Tally], columns: Sequence[str], title: str) -> Table:
    table, total = Table(name, ("type", *columns), title), Tally()
    for type_, tally in types.items():
        total.add(tally)
        table.add({"type": type_, **tally.to_json()})
    table.add({"type": "total", **total.to_json()})
    return table


def sync_left_out(report: SyncReport) -> list[LeftOut]:
    errors = ((each.user, each.blocked or each.error) for each in report.accounts)
    return [LeftOut(user, error) for user, error in errors if error is not None]


def sync_lines(report: SyncReport) -> list[str]:
    return [f"{each.user}: {note}" for each in report.accounts for note in each.notes]


class ApplyPlanParameters(Parameters):
    plan: str = option("", "The hash of the plan, as `plan_users` and `list_plans` show it.", metavar="HASH")
    canary: int | None = option(None, "The first N users with work, then stop.", metavar="N", ge=1)
    dry_run: bool = dry_run_option("done, and what has moved since")
    sweep: int | None = sweep_option()


@declared("", "apply_plan", "apply_saved_plan")
def run_apply_plan(work: Work, parameters: ApplyPlanParameters) -> Report:
    """Carry out exactly the operations of a saved plan, where they are still the same, and list what has moved since.

    A canary stops after a few users and verifies them; launch again without it to go on.
    """
    if not parameters.plan.strip():
        raise Misconfigured("No plan is named, so nothing was done: fill in `plan` in the launchpad; see list_plans.")
    report = run_sync(work, SyncParameters(**{**parameters.model_dump(), "plan": parameters.plan.strip()}))
    return replace(report, failed=report.exit_code != WELL and not parameters.dry_run)


# ----------------------------------------------------------------------------------------------- failed items once more

FAILED = (State.QUARANTINED, State.DEFERRED, State.BLOCKED)  # The states of an item that is not where it should be


@dataclass(frozen=True, slots=True)
class FailedItems:
    """Which of the failed items; every part narrows, so that one without parts means all of them."""

    selection: Selection = field(default_factory=Selection)  # Its `limit` counts the items of each user and type
    users: tuple[str, ...] = ()  # Selectors of users: keys, handles, codes, DIDs or Mongo ids; empty for all
    states: tuple[State, ...] = FAILED  # Some of `FAILED`
    error_class: str | None = None  # Only items whose last error is of this class (`code` of the error), or None
    limit: int | None = None  # At most so many items in all, or None


@dataclass(frozen=True, slots=True)
class AccountRetry:
    """What is done again for one account: exactly these items, and how many of each type they are."""

    account: Account
    selection: Selection
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """All of it, by partition key, and what could not become part of it."""

    accounts: tuple[AccountRetry, ...]
    entries: tuple[LedgerEntry, ...] = ()  # The items
    unknown: tuple[str, ...] = ()  # Items that were named and have not failed, as `type:name`
    ownerless: tuple[str, ...] = ()  # Ids of failed items whose account is not on the platform any more

    @property
    def items(self) -> int:
        return sum(sum(each.counts.values()) for each in self.accounts)

    @property
    def left_alone(self) -> list[str]:
        """A sentence for each item to which nothing is done."""
        return [
            *(f"{name} is not among the failed items: nothing was done to it." for name in self.unknown),
            *(
                f"{item} belongs to an account that is not on the platform any more: left alone."
                for item in self.ownerless
            ),
        ]


def plan_retry(pipeline: Pipeline, wanted: FailedItems) -> RetryPlan:
    """Look up the failed items and their accounts. Nothing is run. Raises Misconfigured where a selector names no user,
    or more than one."""
    accounts, types = chosen_accounts(pipeline, wanted.users), [media.name for media in wanted.selection.types]
    find = partial(pipeline.ledger.find, states=wanted.states, error_class=wanted.error_class, types=types)
    owners: list[str | None] = [account.id for account in accounts] if wanted.users else [None]
    entries = list(narrowed((entry for owner in owners for entry in find(account=owner)), wanted))
    by_type: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        if entry.withdrawn_at is not None:
            by_type[entry.type].append(entry)
    lost: set[str] = set()
    for name, listed in by_type.items():
        there = pipeline.documents.owners(media_type(name), [entry.document for entry in listed])
        lost.update(entry.item for entry in listed if entry.document not in there)
    return group_by_account(entries, accounts, wanted, lost)


def narrowed(entries: Iterable[LedgerEntry], wanted: FailedItems) -> Iterator[LedgerEntry]:
    """Those of these items that are named, the first ones of each user and type, and of all."""
    names, most, seen = wanted.selection.items, wanted.selection.limit, Counter[tuple[str, str]]()

    def fits(entry: LedgerEntry) -> bool:
        if names is not None and names.isdisjoint(_names_of(entry)):
            return False
        seen[entry.account, entry.type] += 1
        return most is None or seen[entry.account, entry.type] <= most

    return islice(filter(fits, entries), wanted.limit)


def group_by_account(
    entries: Sequence[LedgerEntry], accounts: Iterable[Account], wanted: FailedItems, lost: Collection[str] = ()
) -> RetryPlan:
    """Put failed items together by account, as `narrowed` left them; of `lost` ones the documents do not exist: their
    records are to be deleted. Pure."""
    by_owner: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        by_owner[entry.account].append(entry)
    retries = []
    for account in sorted((each for each in accounts if each.id in by_owner), key=lambda account: account.key):
        own = by_owner.pop(account.id)
        counts = Counter(entry.type for entry in own)
        selection = replace(
            wanted.selection,
            types=tuple(media for media in MEDIA_TYPES if media.name in counts),
            items=frozenset((entry.type, entry.document) for entry in own),
            limit=None,
            retry=True,
            orphans=any(entry.item in lost for entry in own),
        )
        retries.append(AccountRetry(account, selection, dict(counts)))
    unknown = (wanted.selection.items or frozenset()) - {name for entry in entries for name in _names_of(entry)}
    return RetryPlan(
        tuple(retries),
        entries=tuple(entry for entry in entries if entry.account not in by_owner),
        unknown=tuple(sorted(f"{type_}:{name}" for type_, name in unknown)),
        ownerless=tuple(sorted(entry.item for left in by_owner.values() for entry in left)),
    )


def _names_of(entry: LedgerEntry) -> set[tuple[str, str]]:
    return {(entry.type, name) for name in (entry.document, entry.code) if name}


def retry_accounts(
    engine: Engine, retries: Sequence[AccountRetry], run_id: str, workers: int
) -> Iterator[tuple[Account, AccountReport]]:
    """Do all of them, several accounts at once; reports as they come."""
    selections = {each.account.id: each.selection for each in retries}
    accounts = [each.account for each in retries]
    return account_reports(accounts, lambda account: engine.sync(account, selections[account.id], run_id), workers)


def in_order(report: AccountReport, media: MediaType) -> bool:
    """True if a dry run found every record and link of this type as it should be, with no item left out."""
    tally = report.tally(media.name)
    still = (
        tally.planned - tally.unchanged + tally.healed + tally.duplicates_removed + tally.copies_removed + tally.pending
    )
    return not still and report.blocked is None and report.error is None and not report.notes


ITEM_COLUMNS = ("item", "code", "user", "state", "stage", "class", "message", "attempts", "uri", "until", "warnings")


def item_row(entry: LedgerEntry) -> dict[str, object]:
    failure = entry.failure
    return {
        "item": entry.item,
        "code": entry.code,
        "user": entry.partition,
        "state": entry.state.value,
        "stage": entry.stage.value,
        "class": failure.error_class if failure else None,
        "message": failure.message if failure else None,
        "attempts": entry.attempts,
        "uri": entry.uri,
        "until": f"{entry.deferred_until:%Y-%m-%d %H:%M:%S}" if entry.deferred_until else None,
        "warnings": list(entry.warnings),
    }


def states_option(states: Iterable[Enum]) -> Any:
    return option([], "Only this state.", name="--state", choices=[each.value for each in states])


def error_class_option() -> Any:
    return option("", "Only items whose last error is of this class.", metavar="CLASS", choices=ERROR_CLASSES)


class RetryParameters(Selected):
    states: list[str] = states_option(FAILED)
    error_class: str = error_class_option()
    dry_run: bool = dry_run_option("run again")

    def wanted(self, limit: int | None = None) -> FailedItems:
        return FailedItems(
            self.selection(),
            users=(*self.users, *([GUEST_ID] if self.anonymous else [])),
            states=tuple(State(each) for each in self.states) or FAILED,
            error_class=self.error_class or None,
            limit=limit,
        )


@declared("retry")
def run_retry(work: Work, parameters: RetryParameters) -> Report:
    """Run exactly the failed items selected, quarantined ones too, and nothing else."""
    pipeline = work.pipeline
    plan = plan_retry(pipeline, parameters.wanted())
    for said in plan.left_alone:
        work.say(said)
    if not plan.accounts:
        return sync_answer(SyncReport(""), "No failed item fits.")

    if parameters.dry_run:
        said = f"{len(plan.entries)} items of {len(plan.accounts)} users would be run again. Nothing was done."
        table = Table("items", ITEM_COLUMNS).extend(map(item_row, plan.entries))
        return Report(said, {"run_again": len(plan.entries), "items": table}, [table])

    workers = pipeline.settings.ac_concurrent_users
    retries = retry_accounts(pipeline.engine, plan.accounts, work.run_id, workers)
    return sync_answer(measured(work, (report for _, report in retries), len(plan.accounts)))
