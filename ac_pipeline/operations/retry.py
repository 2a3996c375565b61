"""Failed items once more (OPS-3): quarantined ones are tried by nothing else while their documents stay the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import ERROR_CLASSES
from ac_pipeline.items import LedgerEntry, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.declare import Report, Table, Work, declared
from ac_pipeline.operations.parameters import Selected, chosen_accounts, dry_run_option, option
from ac_pipeline.operations.sync import measured, sync_answer
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

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


@declared("retry")
def run_retry(work: Work, parameters: RetryParameters) -> Report:
    """Run exactly the failed items selected, quarantined ones too, and nothing else."""
    pipeline = work.pipeline
    wanted = FailedItems(
        parameters.selection(),
        users=(*parameters.users, *([GUEST_ID] if parameters.anonymous else [])),
        states=tuple(State(each) for each in parameters.states) or FAILED,
        error_class=parameters.error_class or None,
    )
    plan = plan_retry(pipeline, wanted)
    for name in plan.unknown:
        work.say(f"{name} is not among the failed items: nothing was done to it.")
    for item in plan.ownerless:
        work.say(f"{item} belongs to an account that is not on the platform any more: left alone.")
    if not plan.accounts:
        return sync_answer(SyncReport(""), "No failed item fits.")

    if parameters.dry_run:
        said = f"{len(plan.entries)} items of {len(plan.accounts)} users would be run again. Nothing was done."
        table = Table("items", ITEM_COLUMNS).extend(map(item_row, plan.entries))
        return Report(said, {"run_again": len(plan.entries), "items": table}, [table])

    workers = pipeline.settings.ac_concurrent_users
    retries = retry_accounts(pipeline.engine, plan.accounts, work.run_id, workers)
    return sync_answer(measured(work, (report for _, report in retries), len(plan.accounts)))
