"""What a wipe and a restore share: their line in the audit, attempts, batches, and the fields of their reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import AccountDeleted, NoCredentials, PipelineError, RepositoryMoved
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger.audit import Audited
from ac_pipeline.operations.removal.snapshot import Vault
from ac_pipeline.sync.engine import ROUNDS
from ac_pipeline.sync.planning.plan import Operation
from ac_pipeline.sync.report import ItemFailure
from ac_pipeline.sync.writing.writer import Committed, Refused, Writer

Result = TypeVar("Result")


@dataclass(slots=True)
class WipeOrRestoreReport:
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
            **{name: getattr(self, name) for name in type(self).__slots__},
        }


@dataclass(slots=True)
class WipeOrRestore:
    """A wipe or a restore of one account, which may be planned or carried out."""

    vault: Vault
    account: Account
    types: Sequence[MediaType]
    run_id: str = ""
    why: str = ""
    report: WipeOrRestoreReport = field(init=False)
    refused: set[str] = field(default_factory=set, init=False)  # Paths the PDS refuses: they are not tried again

    def repository_of(self, purpose: str, *, leaving: bool = False) -> str:
        """The account's DID; Blocked where it cannot be used for this purpose, except for one that is being deleted
        where `leaving` is True."""
        account, blocked = self.account, self.account.blocked
        if blocked is not None and not (leaving and isinstance(blocked, AccountDeleted)):
            raise blocked
        if account.did is None:
            raise NoCredentials(f"{account.key} has no account on the PDS: there is nothing to {purpose}.")
        return account.did

    @contextmanager
    def leased(self, did: str) -> Iterator[None]:
        """Be the only writer of the repository, and report what is on hold in the end and how long it took. What fails
        once the work is done, such as that the lease was lost in between, is in the report and not raised."""
        started, engine, done = monotonic(), self.vault.engine, False
        try:
            with engine.ledger.lease(did, engine.holder):
                yield
                done = True
                holds = engine.ledger.holds(self.account)
                self.report.on_hold = sorted({media.name for media in self.types} & holds.keys())
        except PipelineError as error:
            if not done:
                raise
            self.report.error = self.report.error or error
        self.report.seconds = monotonic() - started

    @contextmanager
    def audited(self, action: str, counts: Mapping[str, int], plan_hash: str | None = None) -> Iterator[Audited]:
        """Stand in the audit before it starts; an error that ends the work is its outcome, and in the report."""
        about, names = [self.account], [media.name for media in self.types]
        with self.vault.audit.during(action, about, names, why=self.why, plan_hash=plan_hash, counts=counts) as entry:
            try:
                yield entry
            except PipelineError as error:
                self.report.error = error
                entry.outcome = f"stopped: {error.message}"

    def until_unmoved(self, done: str, step: Callable[[], Result]) -> Result:
        """Do it anew whenever somebody else writes in between; RepositoryMoved where somebody did every time."""
        moved: RepositoryMoved | None = None
        for _ in range(ROUNDS):
            self.vault.engine.confirm(self.account)
            try:
                return step()
            except RepositoryMoved as error:
                moved = error
        raise RepositoryMoved(
            f"the repository of {self.account.key} changed {ROUNDS} times while it was {done}: the same command does "
            "the rest"
        ) from moved

    def write(
        self,
        title: str,
        writer: Writer,
        operations: Sequence[Operation],
        repository: Repository,
        refuse: Callable[[Refused], ItemFailure],
    ) -> Iterator[Committed]:
        """Carry operations out, with progress under this title; yields each batch once it is durable."""
        done = 0
        for outcome in writer.write(operations, repository):
            if isinstance(outcome, Refused):
                self.refused.add(outcome.operation.path)
                self.report.failures.append(refuse(outcome))
            else:
                yield outcome
                done += len(outcome.operations)
                self.vault.progress(title, done, len(operations))
