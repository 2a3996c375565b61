"""Settling: the differences of many accounts, found, counted, and settled in one of two ways once confirmed.

Command and job show what is said here, and decide nothing themselves. What a difference is, and what either way does to
one account, is `differences.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Blocked, Misconfigured, PipelineError
from ac_pipeline.operations.differences import DELETED, Difference, accept_theirs, find_differences, push_ours
from ac_pipeline.operations.rounds import LeftOut, Progress, look_at, unwatched
from ac_pipeline.sync.report import AccountReport, SyncReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline

_CELL: Final = 60
"""Characters of a value in a table; JSON has all."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A difference that was taken over, or why it was not."""

    difference: Difference
    problem: str = ""

    def to_json(self) -> dict[str, object]:
        return self.difference.to_json() | {"outcome": self.problem or "taken over"}


@dataclass(slots=True)
class DifferenceCount:
    """What is kept of the differences of many accounts: numbers by partition key, and who was left out (OPS-6).

    Args:
        found: All differences.
        acceptable: Those of them where theirs can be taken over.
        left_out: Who could not be looked at, and why.
    """

    found: Counter[str] = field(default_factory=Counter)
    acceptable: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)

    def add(self, each: Difference | LeftOut) -> None:
        if isinstance(each, LeftOut):
            self.left_out.append(each)
        else:
            self.found[each.user] += 1
            self.acceptable[each.user] += not each.refusal

    @property
    def total(self) -> int:
        return self.found.total()


def side_by_side(each: Difference) -> dict[str, str]:
    """`ours` and `theirs` in two cells of a table."""
    if each.kind == DELETED:
        return {"ours": "exists", "theirs": "deleted"}
    return {
        "ours": "; ".join(f"{name}: {_short(ours)}" for name, (ours, _) in each.fields.items()),
        "theirs": "; ".join(f"{name}: {_short(theirs)}" for name, (_, theirs) in each.fields.items()),
    }


def find_all_differences(
    pipeline: Pipeline, accounts: Sequence[Account], selection: Selection, progress: Progress = unwatched
) -> Iterator[Difference | LeftOut]:
    """The differences of many accounts, in their order, and who cannot be looked at. Nothing is written.

    Raises:
        Transient: Something could not be read.
    """
    workers = pipeline.settings.ac_concurrent_users
    looks = look_at(accounts, lambda each: find_differences(pipeline.engine, each, selection), workers, progress)
    for account, found in looks:
        if isinstance(found, PipelineError):
            yield LeftOut(account.key, found)
        else:
            yield from found


def push_all(
    pipeline: Pipeline,
    accounts: Sequence[Account],
    selection: Selection,
    found: DifferenceCount,
    confirm: int,
    *,
    run_id: str,
    why: str = "",
    progress: Progress = unwatched,
) -> Iterator[AccountReport]:
    """Write ours again, one account after another; in the audit before it starts.

    Args:
        found: What `find_all_differences` has found in these accounts.
        confirm: How many items are to be pushed.
        why: The operator's own words, for the audit.

    Yields:
        The report of each account.

    Raises:
        Misconfigured: Another number of items than confirmed can be pushed; nothing was written.
        Transient: Differences could not be read anew.
    """
    if confirm != found.total:
        raise Misconfigured(f"{found.total} items can be pushed, not {confirm}: nothing was written.")
    touched = [account for account in accounts if found.found[account.key]]
    if not touched:
        return
    types, counts = [media.name for media in selection.types], {"items": found.total}
    written = 0
    with pipeline.audit.during("push-ours", touched, types, why=why, counts=counts) as entry:
        for account in progress(touched, len(touched)):
            report = _push(pipeline, account, selection, found.found[account.key], run_id)
            written += sum(tally.written for tally in report.types.values())
            entry.counts["written"] = written
            yield report


def accept_all(
    pipeline: Pipeline,
    accounts: Sequence[Account],
    selection: Selection,
    found: DifferenceCount,
    confirm: int,
    *,
    why: str = "",
    progress: Progress = unwatched,
) -> Iterator[Accepted | LeftOut]:
    """Take over theirs into the documents, one account after another; in the audit before it starts.

    Args:
        found: What `find_all_differences` has found in these accounts.
        confirm: How many documents are to be changed.
        why: The operator's own words, for the audit.

    Yields:
        What was taken over, what was not, with the reason, and who was left alone.

    Raises:
        Misconfigured: Theirs can be taken over in another number of documents than confirmed; nothing was changed.
        LeaseHeld: Somebody writes to a repository right now.
        Transient: Differences could not be read anew.
    """
    total = found.acceptable.total()
    if confirm != total:
        raise Misconfigured(f"{total} items can be taken over, not {confirm}: nothing was changed.")
    touched = [account for account in accounts if found.found[account.key]]
    if not touched:
        return
    types, counts = [media.name for media in selection.types], {"items": total}
    accepted = 0
    with pipeline.audit.during("accept-theirs", touched, types, why=why, counts=counts) as entry:
        for account in progress(touched, len(touched)):
            try:
                for each, problem in accept_theirs(pipeline, account, selection, found.acceptable[account.key]):
                    accepted += not problem
                    entry.counts["accepted"] = accepted
                    yield Accepted(each, problem)
            except Blocked as error:
                yield LeftOut(account.key, error)


def all_pushed(report: SyncReport) -> bool:
    """Whether ours is everywhere again: nothing quarantined, nobody blocked, nobody to run again."""
    return report.clean and not any(each.blocked for each in report.accounts)


def _push(pipeline: Pipeline, account: Account, selection: Selection, most: int, run_id: str) -> AccountReport:
    """Ours again for at most so many items of an account, of what differs now."""
    try:
        again = find_differences(pipeline.engine, account, selection)[:most]
    except Blocked as error:
        return AccountReport(account.key, blocked=error)
    if not again:
        return AccountReport(account.key)
    return push_ours(pipeline.engine, account, selection, again, run_id)


def _short(value: object) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
