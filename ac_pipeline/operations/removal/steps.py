"""What a wipe and a restore share: the line in the audit, the attempts, and the fields of their reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from ac_pipeline.accounts import Account
from ac_pipeline.errors import NoCredentials, PipelineError, RepositoryMoved
from ac_pipeline.items import Failure, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger.audit import Audited
from ac_pipeline.operations.removal.snapshot import Vault
from ac_pipeline.sync.engine import ROUNDS
from ac_pipeline.sync.report import ItemFailure

Result = TypeVar("Result")


@dataclass(slots=True)
class RemovalReport:
    """What a wipe or a restore did."""

    user: str  # Partition key
    failures: list[ItemFailure] = field(default_factory=list)  # Records that the PDS refuses to delete or to take
    on_hold: list[str] = field(default_factory=list)  # Types that are on hold now
    error: PipelineError | None = None  # What ended it early; the same command does the rest
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        return {
            "user": self.user,
            "failures": [failure.to_json() for failure in self.failures],
            "on_hold": self.on_hold,
            "error": self.error.message if self.error else None,
            "seconds": round(self.seconds, 3),
        }


@contextmanager
def audited(
    vault: Vault,
    report: RemovalReport,
    action: str,
    account: Account,
    types: Sequence[MediaType],
    *,
    why: str,
    counts: Mapping[str, int] | None = None,
    plan_hash: str | None = None,
) -> Iterator[Audited]:
    """Stand in the audit before it starts; an error that ends the work is its outcome, and in the report."""
    names = [media.name for media in types]
    with vault.audit.during(action, [account], names, why=why, plan_hash=plan_hash, counts=counts) as entry:
        try:
            yield entry
        except PipelineError as error:
            report.error = error
            entry.outcome = f"stopped: {error.message}"


def conclude(vault: Vault, report: RemovalReport, account: Account, types: Sequence[MediaType], started: float) -> None:
    """Say what is on hold in the end, and how long it took since this moment of the monotonic clock."""
    report.on_hold = sorted({media.name for media in types} & vault.engine.ledger.holds(account).keys())
    report.seconds = monotonic() - started


def until_unmoved(account: Account, done: str, step: Callable[[], Result]) -> Result:
    """Do it anew whenever somebody else writes in between.

    Raises:
        RepositoryMoved: Somebody did every time.
    """
    moved: RepositoryMoved | None = None
    for _ in range(ROUNDS):
        try:
            return step()
        except RepositoryMoved as error:
            moved = error
    raise RepositoryMoved(
        f"the repository of {account.key} changed {ROUNDS} times while it was {done}: the same command does the rest"
    ) from moved


def failed_item(
    item: str, user: str, failure: Failure, state: State, *, code: str | None = None, attempts: int = 1
) -> ItemFailure:
    """A failure as a report shows it."""
    what = (failure.stage, state, failure.error_class, failure.message, failure.status)
    return ItemFailure(item, user, *what, code, attempts)


def repository_of(account: Account, purpose: str) -> str:
    """The account's DID.

    Raises:
        NoCredentials: It has none; the sentence says for which purpose it is missing.
    """
    if account.did is None:
        raise NoCredentials(f"{account.key} has no account on the PDS: there is nothing to {purpose}.")
    return account.did
