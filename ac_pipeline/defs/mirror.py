"""What the assets, checks and sensors ask of the pipeline: a small port. Its implementation is `pipeline_mirror.py`.

No Dagster here: accounts and media types in, reports out. How reports become events is `assets/stage.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ac_pipeline.accounts import Account
from ac_pipeline.allowance import Allowance
from ac_pipeline.atproto.messages import RepositoryStatus
from ac_pipeline.items import LastLook, LedgerEntry, RepositoryMark, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger import Standing
from ac_pipeline.mongo.pending import Changes
from ac_pipeline.operations.receipts import Findings, Taken
from ac_pipeline.operations.retry import FailedItems, RetryPlan, Turn
from ac_pipeline.sync.report import AccountReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one account's turn ended."""

    account: Account
    report: AccountReport


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a record, at its public address on the PDS."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class CollectionState:
    """The collection of a type.

    Args:
        look: What was found.
        doubt: Why records without a document are kept, or None.
        silence: That nothing new comes, or None.
    """

    look: LastLook
    doubt: str | None = None
    silence: str | None = None


class Mirror(Protocol):
    """The pipeline as Dagster sees it."""

    def accounts(self) -> Mapping[str, Account]:
        """All accounts by partition key; read once, however often it is asked.

        Raises:
            Transient, Misconfigured: They could not be read.
        """

    def sync(
        self,
        accounts: Sequence[Account],
        types: Sequence[MediaType],
        run_id: str,
        *,
        full: bool = False,
        renditions: bool = False,
        blobs: bool = False,
        sweep: int | None = None,
    ) -> Iterator[Outcome]:
        """Mirror these accounts, several at once; outcomes as they come.

        Args:
            full: Compare every document and record, also where nothing seems to have changed.
            renditions: Make all renditions again.
            blobs: Ask for every blob, too, and upload again what the PDS has lost.
            sweep: So many records without a document go although the database is doubted; None to keep them.

        Raises:
            Misconfigured: Of these accounts another number than `sweep` is kept.
        """

    def render(self, accounts: Sequence[Account], media: MediaType, run_id: str) -> Iterator[Outcome]:
        """Make the renditions of one type for these accounts; outcomes as they come."""

    def plan_retry(self, wanted: FailedItems) -> RetryPlan:
        """Which failed items are meant, account by account; nothing is run.

        Raises:
            Misconfigured: A selector names no user.
            Transient: Accounts or ledger could not be read.
        """

    def retry(self, turns: Sequence[Turn], run_id: str) -> Iterator[Outcome]:
        """Run exactly these items, several accounts at once; outcomes as they come."""

    def survey(self, account: Account, types: Sequence[MediaType]) -> AccountReport:
        """The dry run of one account: what a sync would do.

        Raises:
            Transient: Something could not be read.
        """

    def repositories(self) -> Iterable[RepositoryStatus]:
        """Every repository the PDS hosts, with its revision; needs no login.

        Raises:
            Transient: A part could not be read.
        """

    def marks(self) -> Mapping[str, RepositoryMark]:
        """How the last sync left each repository, by DID."""

    def changed(self, position: str | None, watched: Collection[str]) -> Changes:
        """Which users have work that a run would do, looked for from where the last look ended.

        Args:
            position: Of the last look; None at the first.
            watched: Items to judge in any case, as `type:ObjectId hex`.

        Raises:
            Transient, Misconfigured: Something could not be read; nothing was passed.
        """

    def entry(self, item: str) -> LedgerEntry | None:
        """What the ledger knows of one item."""

    def items(
        self, media: MediaType, state: State, limit: int, error_class: str | None = None
    ) -> Iterable[LedgerEntry]:
        """The first items of one type that are in a state, by their ids; of one class of error where that is named."""

    def standing(self, media: MediaType, state: State) -> Sequence[Standing]:
        """Whose items of one type are in a state, and why, without the items themselves."""

    def known_items(self, media: MediaType) -> int:
        """How many items of one type the ledger knows."""

    def last_look(self, media: MediaType) -> CollectionState:
        """What there is of a type, compared with what there was; looked at anew unless somebody just did."""

    def allowance(self) -> Allowance:
        """How many quarantined items are no error yet."""

    def blocked_allowance(self) -> Allowance:
        """How many blocked accounts are no error yet."""

    def verify(
        self, accounts: Sequence[Account], types: Sequence[MediaType], *, blobs: bool, run_id: str
    ) -> Iterator[Taken]:
        """Verify these accounts against their repositories, several at once, and keep what was found.

        Args:
            blobs: Ask the PDS for every blob as well.
        """

    def findings(self, types: Sequence[MediaType]) -> Findings:
        """What the last verifications of all users found."""

    def record_address(self, uri: str) -> str | None:
        """Where a record can be read by anybody; None when the text is no address of a record."""

    def pictures(self, account: Account, media: MediaType, limit: int) -> Sequence[Picture]:
        """Some pictures of the account's records; none for a type whose records hold no picture."""
