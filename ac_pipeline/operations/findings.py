"""Findings of many accounts: looked for in the accounts' order, counted, and put right with a line in the audit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, PipelineError
from ac_pipeline.items import Finding
from ac_pipeline.media.base import MediaType
from ac_pipeline.operations.declare import LeftOut, Report, Table, Work
from ac_pipeline.wiring import Pipeline

Result = TypeVar("Result")
Found = TypeVar("Found", bound=Finding)


@dataclass(slots=True)
class FindingCount:
    """What is kept of the findings of many accounts: numbers, and who was left out (OPS-6)."""

    # Type -> state -> how many
    states: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    found: Counter[str] = field(default_factory=Counter)  # Partition key -> all findings
    # Partition key -> those of them that can be put right here, or were
    repairable: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)  # Who could not be looked at, and why

    def add(self, each: Finding | LeftOut, table: Table | None = None) -> None:
        """Count it; a finding becomes a row of the table."""
        if isinstance(each, LeftOut):
            self.left_out.append(each)
            return
        self.states[each.type][each.state] += 1
        self.found[each.user] += 1
        self.repairable[each.user] += each.repairable
        if table is not None:
            table.add(each.to_json())

    def total(self) -> Counter[str]:
        """How many findings are in which state."""
        return sum(self.states.values(), Counter())

    @property
    def left(self) -> int:
        """Findings that cannot be put right here, or were not."""
        return self.found.total() - self.repairable.total()


def search(
    work: Work, title: str, accounts: Sequence[Account], look: Callable[[Account], Iterable[Found]], table: Table
) -> FindingCount:
    """Count what is found in those of these accounts that ever had a repository, with progress under this title; every
    finding becomes a row of the table. The others have nothing to say. Raises ServiceUnreachable."""
    count = FindingCount()
    for account, found in work.for_each(title, [each for each in accounts if each.did is not None], look):
        for each in [LeftOut(account.key, found)] if isinstance(found, PipelineError) else found:
            count.add(each, table)
    return count


def put_right(
    pipeline: Pipeline, account: Account, look: Callable[[], Iterable[Found]], most: int, change: Callable[[Found], str]
) -> Iterator[tuple[Found, str]]:
    """Put right at most so many of what is found now, under the lease of the repository; yields each finding, with
    why it was not put right, or "", as `change` says. Raises LeaseHeld where somebody writes to the repository right
    now."""
    with pipeline.ledger.lease(str(account.did), pipeline.engine.holder):
        for each in look():
            problem = "" if each.repairable else each.reason
            if each.repairable:
                problem = change(each) if most else "it was not there when the number was confirmed: look again"
                most -= not problem
            yield each, problem


def audited(
    work: Work,
    title: str,
    accounts: Sequence[Account],
    act: Callable[[Account], Iterable[Result]],
    done: Callable[[Result], int],
    *,
    action: str,
    types: Iterable[MediaType],
    why: str,
    counts: Mapping[str, int],
    counted_as: str,
) -> Iterator[Result | LeftOut]:
    """Change something in one account after another, with progress; in the audit before it starts, with how much of
    `counted_as` is `done` with each result. Yields every result of `act`, and who was left alone because the account is
    blocked."""
    if not accounts:
        return
    number, names = 0, [media.name for media in types]
    with work.pipeline.audit.during(action, accounts, names, why=why, counts=counts) as entry:
        for account in work.watch(title)(accounts, len(accounts)):
            try:
                for result in act(account):
                    number += done(result)
                    entry.counts[counted_as] = number
                    yield result
            except Blocked as error:
                yield LeftOut(account.key, error)
            entry.counts[counted_as] = number


def findings_report(
    headline: str,
    counts: Mapping[str, int],
    items: Table,
    left_out: Sequence[LeftOut],
    *,
    left_out_as: str = "blocked",
    more: Mapping[str, object] | None = None,
    **fields: Any,
) -> Report:
    """The answer of whoever has looked for something: the numbers, every finding, and who was left out.

    Args:
        left_out_as: The field of the JSON document under which those who were left out stand.
        more: Further fields of the JSON document.
        fields: Further fields of the report.
    """
    users = {left_out_as: [each.to_json() for each in left_out]}
    json = {**counts, **(more or {}), **users, "items": items}
    return Report(headline, json, **{"tables": [items], "facts": dict(counts), "left_out": left_out, **fields})
