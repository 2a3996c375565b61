"""Rounds: many accounts looked at in their order, what is found of them, and who cannot be looked at.

Also here: which users and types an operation is about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ac_pipeline.accounts import GUEST_ID, Account
from ac_pipeline.errors import Blocked, Misconfigured, PipelineError
from ac_pipeline.items import Finding
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.sync.for_accounts import for_accounts, needed, unread
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

Result = TypeVar("Result")
Found = TypeVar("Found", bound=Finding)

Progress = Callable[[Iterable[Any], int], Iterator[Any]]
"""Passes things on, told how many there will be: whoever shows progress looks at them here."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A user who could not be looked at, and why."""

    user: str
    error: PipelineError

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def failed(self) -> bool:
        """Whether it is an error, and not that the account is blocked."""
        return not isinstance(self.error, Blocked)

    def to_json(self) -> dict[str, object]:
        return {"user": self.user, "message": self.message}


@dataclass(slots=True)
class FindingCount:
    """What is kept of the findings of many accounts: numbers, and who was left out (OPS-6).

    Args:
        states: Type -> state -> how many.
        found: Partition key -> all findings.
        repairable: Partition key -> those of them that can be put right here, or were.
        left_out: Who could not be looked at, and why.
    """

    states: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    found: Counter[str] = field(default_factory=Counter)
    repairable: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)

    def add(self, each: Finding | LeftOut) -> None:
        if isinstance(each, LeftOut):
            self.left_out.append(each)
            return
        self.states[each.type][each.state] += 1
        self.found[each.user] += 1
        self.repairable[each.user] += each.repairable

    def total(self) -> Counter[str]:
        """How many findings are in which state."""
        return sum(self.states.values(), Counter())

    @property
    def left(self) -> int:
        """Findings that cannot be put right here, or were not."""
        return self.found.total() - self.repairable.total()


def unwatched(things: Iterable[Any], total: int) -> Iterator[Any]:
    """Pass things on where nobody watches."""
    del total
    return iter(things)


def look_at(
    accounts: Sequence[Account], look: Callable[[Account], Result], workers: int, progress: Progress = unwatched
) -> Iterator[tuple[Account, Result | PipelineError]]:
    """Look at every account that ever had a repository; the others have nothing to say.

    Yields:
        Each account with what was found, or with the reason why it cannot be looked at.

    Raises:
        ServiceUnreachable: A service is down.
    """
    having = [account for account in accounts if account.did is not None]
    looks: Iterator[tuple[Account, Result | PipelineError]] = for_accounts(having, look, workers, unread, ordered=True)
    yield from progress(looks, len(having))


def findings_of(
    accounts: Sequence[Account],
    look: Callable[[Account], Iterable[Found]],
    workers: int,
    progress: Progress = unwatched,
) -> Iterator[Found | LeftOut]:
    """What is found in many accounts, in their order, and who cannot be looked at.

    Raises:
        ServiceUnreachable: A service is down.
    """
    for account, found in look_at(accounts, look, workers, progress):
        if isinstance(found, PipelineError):
            yield LeftOut(account.key, found)
        else:
            yield from found


def counted(things: Iterable[Finding | LeftOut], add_row: Callable[[dict[str, object]], None]) -> FindingCount:
    """What was found or done, counted; rows are passed on as they come, only numbers stay (OPS-6)."""
    count = FindingCount()
    for each in things:
        count.add(each)
        if isinstance(each, Finding):
            add_row(each.to_json())
    return count


def audited_turns(
    pipeline: Pipeline,
    accounts: Sequence[Account],
    act: Callable[[Account], Iterable[Result]],
    done: Callable[[Result], int],
    *,
    action: str,
    types: Sequence[MediaType],
    why: str,
    counts: Mapping[str, int],
    counted_as: str,
    progress: Progress = unwatched,
) -> Iterator[Result | LeftOut]:
    """Change something in one account after another; in the audit before it starts, with what is done as it is done.

    Args:
        act: What is done to an account, as it is done.
        done: How much of `counted_as` a result stands for.

    Yields:
        Every result, and who was left alone because the account is blocked.
    """
    if not accounts:
        return
    number = 0
    with pipeline.audit.during(action, accounts, [media.name for media in types], why=why, counts=counts) as entry:
        for account in progress(accounts, len(accounts)):
            try:
                for result in act(account):
                    number += done(result)
                    entry.counts[counted_as] = number
                    yield result
            except Blocked as error:
                yield LeftOut(account.key, error)
            entry.counts[counted_as] = number


def chosen_accounts(
    pipeline: Pipeline, users: Sequence[str], items: Collection[tuple[str, str]] | None = None
) -> list[Account]:
    """The accounts of the named users; else the owners of the named items; else all.

    Args:
        users: Partition keys, handles, user codes, DIDs or Mongo ids.
        items: Pairs of type name and code or ObjectId, or None.

    Raises:
        Misconfigured: A name fits no account, more than one, or no item; or there is nobody and nothing.
        Transient: Accounts or documents could not be read.
    """
    if users:
        return pipeline.accounts.select(users)
    if items is None:
        everybody = pipeline.accounts.all()
        pipeline.safeguard.check_platform(everybody)
        return everybody
    owners: set[str] = set()
    for type_, name in sorted(items):
        found = pipeline.documents.owners_of(media_type(type_), name)
        if not found:
            raise Misconfigured(f"There is no {type_} with the code or id {name!r}.")
        owners |= {owner or GUEST_ID for owner in found}
    return pipeline.accounts.select(sorted(owners))


def item_name(text: str) -> tuple[str, str]:
    """`painting:abc` as type and name.

    Raises:
        Misconfigured: It has another form, or names no type.
    """
    type_, colon, name = text.replace("\u200b", "").partition(":")  # Dagster's tables have such marks to break lines at
    known = [media.name for media in MEDIA_TYPES]
    if not colon or not name or type_ not in known:
        raise Misconfigured(f"{text!r} is no item: write TYPE:CODE or TYPE:ID with one of {', '.join(known)}.")
    return type_, name


def confirm_sweep(pipeline: Pipeline, accounts: Sequence[Account], selection: Selection, run_id: str) -> None:
    """Compare the number a person has named with the records without a document that these accounts have; where it is
    the same, as many may go in this run. Asked about everybody, the collections are taken as they are from now on.

    Raises:
        Misconfigured: It is another number; nothing was written.
        Transient: An account could not be read.
    """
    if selection.sweep is None or pipeline.safeguard.sweeping(run_id):
        return
    kept: Counter[str] = Counter()
    look = replace(selection, sweep=None)
    workers = pipeline.settings.ac_concurrent_users
    for _, (_, report) in for_accounts(
        accounts, lambda each: pipeline.engine.survey(each, look, run_id), workers, needed
    ):
        kept.update({name: tally.orphans_kept for name, tally in report.types.items() if tally.orphans_kept})
    if kept.total() != selection.sweep:
        told = f" ({', '.join(f'{name} {number}' for name, number in kept.items())})" if kept else ""
        raise Misconfigured(
            f"{kept.total()} records without a document are kept because the database is doubted{told}: the number to "
            f"sweep is {kept.total()}. Nothing was written."
        )
    if len(accounts) == len(pipeline.accounts.all()):
        pipeline.safeguard.accept(selection.types)
    pipeline.safeguard.begin_sweep(run_id)
