"""Failed items once more: which ones a person means, by account (OPS-3).

Quarantined items are tried again by nothing else while their documents stay the same. How items are run is the
engine's; the command line and the job share what is here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import ERROR_CLASSES
from ac_pipeline.items import LedgerEntry, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.declare import Declaration, Report, Table, Work
from ac_pipeline.operations.parameters import Selected, chosen_accounts, dry_run_option, option
from ac_pipeline.operations.sync import measured, sync_answer
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

FAILED = (State.QUARANTINED, State.DEFERRED, State.BLOCKED)
"""The states of an item that is not where it should be."""


@dataclass(frozen=True, slots=True)
class FailedItems:
    """Which of the failed items; every part narrows, so that one without parts means all of them."""

    users: tuple[str, ...] = ()  # Selectors of users: keys, handles, codes, DIDs or Mongo ids; empty for all
    types: tuple[MediaType, ...] = MEDIA_TYPES
    items: frozenset[tuple[str, str]] | None = None  # Only these, as `(type name, code or ObjectId)`, or None
    states: tuple[State, ...] = FAILED  # Some of `FAILED`
    error_class: str | None = None  # Only items whose last error is of this class (`code` of the error), or None
    # since, until: Only items between these moments, in ms since 1970, or None
    since: int | None = None
    until: int | None = None
    limit: int | None = None  # At most so many items in all, or None
    each: int | None = None  # At most so many items of each user and type, or None


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
    """Look up the failed items and their accounts. Nothing is run.

    Raises:
        Misconfigured: A selector names no user, or more than one.
        Transient: Accounts or ledger could not be read.
    """
    accounts = chosen_accounts(pipeline, wanted.users)
    owners: list[str | None] = [account.id for account in accounts] if wanted.users else [None]
    types = [media.name for media in wanted.types]
    found = [
        entry
        for owner in owners
        for entry in pipeline.ledger.find(
            states=wanted.states, error_class=wanted.error_class, account=owner, types=types
        )
    ]
    entries = narrowed(found, wanted)
    lost = _without_document(pipeline, [entry for entry in entries if entry.withdrawn_at is not None])
    return group_by_account(entries, accounts, wanted, lost)


def narrowed(entries: Iterable[LedgerEntry], wanted: FailedItems) -> list[LedgerEntry]:
    """Those of the failed items that are named, at most `each` of a user and type, and at most `limit`."""
    names = wanted.items
    fitting = [entry for entry in entries if names is None or not names.isdisjoint(names_of(entry))]
    if wanted.each is not None:
        fitting = list(first_of_each(fitting, wanted.each))
    return fitting if wanted.limit is None else fitting[: wanted.limit]


def first_of_each(entries: Iterable[LedgerEntry], number: int) -> Iterator[LedgerEntry]:
    """At most so many entries of each user and type, the first ones."""
    seen: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        seen[entry.account, entry.type] += 1
        if seen[entry.account, entry.type] <= number:
            yield entry


def group_by_account(
    entries: Sequence[LedgerEntry], accounts: Iterable[Account], wanted: FailedItems, lost: frozenset[str] = frozenset()
) -> RetryPlan:
    """Put failed items together by account. Pure.

    Args:
        entries: The items, as `narrowed` left them.
        accounts: All accounts.
        lost: Items among them whose documents do not exist: their records are to be deleted.
    """
    by_owner: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        by_owner[entry.account].append(entry)
    owners = sorted((each for each in accounts if each.id in by_owner), key=lambda account: account.key)
    retries = tuple(_retry_of(account, by_owner.pop(account.id), wanted, lost) for account in owners)
    met = {name for entry in entries for name in names_of(entry)}
    unknown = (wanted.items or frozenset()) - met
    return RetryPlan(
        retries,
        entries=tuple(entry for entry in entries if entry.account not in by_owner),
        unknown=tuple(sorted(f"{type_}:{name}" for type_, name in unknown)),
        ownerless=tuple(sorted(entry.item for left in by_owner.values() for entry in left)),
    )


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


def _retry_of(
    account: Account, entries: Sequence[LedgerEntry], wanted: FailedItems, lost: frozenset[str]
) -> AccountRetry:
    counts = Counter(entry.type for entry in entries)
    selection = Selection(
        types=tuple(media for media in MEDIA_TYPES if media.name in counts),
        since=wanted.since,
        until=wanted.until,
        items=frozenset((entry.type, entry.document) for entry in entries),
        retry=True,
        orphans=any(entry.item in lost for entry in entries),
    )
    return AccountRetry(account, selection, dict(counts))


def names_of(entry: LedgerEntry) -> set[tuple[str, str]]:
    return {(entry.type, name) for name in (entry.document, entry.code) if name}


def _without_document(pipeline: Pipeline, entries: Sequence[LedgerEntry]) -> frozenset[str]:
    by_type: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in entries:
        by_type[entry.type].append(entry)
    lost: set[str] = set()
    for name, listed in by_type.items():
        there = pipeline.documents.owners(media_type(name), [entry.document for entry in listed])
        lost.update(entry.item for entry in listed if entry.document not in there)
    return frozenset(lost)


ITEM_COLUMNS = ("item", "code", "user", "state", "stage", "class", "message", "attempts", "uri", "until", "warnings")


def item_row(entry: LedgerEntry) -> dict[str, object]:
    """An item as tables of items have it."""
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
    """Which of the failed items to run again."""

    states: list[str] = states_option(FAILED)
    error_class: str = error_class_option()
    dry_run: bool = dry_run_option("run again")


def run_retry(work: Work, parameters: RetryParameters) -> Report:
    """Run exactly the failed items selected, quarantined ones too, and nothing else."""
    pipeline, selection = work.pipeline, parameters.selection()
    wanted = FailedItems(
        users=(*parameters.users, *([GUEST_ID] if parameters.anonymous else [])),
        types=selection.types,
        items=selection.items,
        states=tuple(State(each) for each in parameters.states) or FAILED,
        error_class=parameters.error_class or None,
        since=selection.since,
        until=selection.until,
        each=selection.limit,
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

    def reports() -> Iterator[AccountReport]:
        workers = pipeline.settings.ac_concurrent_users
        yield from (report for _, report in retry_accounts(pipeline.engine, plan.accounts, work.run_id, workers))

    return sync_answer(measured(work, reports, len(plan.accounts)))


RETRY: Final = Declaration("retry", "", "", RetryParameters, run_retry)
