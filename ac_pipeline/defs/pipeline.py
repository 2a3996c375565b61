"""The pipeline as Dagster sees it: accounts and media types in, reports out.

One pipeline for each run or tick, opened at the first question: a missing setting so fails the step that needs it, with
its sentence, and not the loading of the definitions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, starmap
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.syntax import record_address
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.defs.home import unshared_renditions
from ac_pipeline.defs.web_server import THUMBNAILS
from ac_pipeline.items import LastLook, LedgerEntry, RepositoryCheckpoint, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.changes.pending import Changes
from ac_pipeline.mongo.ledger.items import Standing
from ac_pipeline.operations.inspection.verification import Findings, Taken, findings, take_receipts
from ac_pipeline.operations.parameters import chosen_accounts
from ac_pipeline.operations.retry import AccountRetry, FailedItems, RetryPlan, plan_retry, retry_accounts
from ac_pipeline.operations.sync import confirm_sweep
from ac_pipeline.settings import Allowance, Settings, load_settings
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, open_pipeline

_JUST_NOW = timedelta(seconds=2)
"""A look at a collection reads every id of it: the checks of one run share it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one account's turn ended."""

    account: Account
    report: AccountReport


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a record.

    Args:
        url: Public address on the PDS of what it shows: the picture, or the video whose poster it is.
        thumbnail: Path at our web server (`web_server.py`) where it is as small as a list needs it.
    """

    title: str
    url: str
    thumbnail: str


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


class PipelineResource:
    """A pipeline that is opened when `open` is first called, by whatever thread, and closed by `close`.

    Args:
        settings: Reads the settings, at the first question.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._reading = threading.Lock()
        self._accounts: dict[str, Account] | None = None

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Pipeline:
        """The pipeline.

        Raises:
            Misconfigured: A setting or a lexicon cannot be used.
            ServiceUnreachable: MongoDB does not answer.
        """
        with self._lock:
            if self._pipeline is None:
                self._pipeline = self._stack.enter_context(open_pipeline(self._settings()))
            return self._pipeline

    def accounts(self) -> Mapping[str, Account]:
        """All accounts by partition key; read once, however often it is asked.

        Raises:
            Transient, Misconfigured: They could not be read.
        """
        pipeline = self.open()
        with self._reading:
            if self._accounts is None:
                self._accounts = {account.key: account for account in chosen_accounts(pipeline, ())}
            return self._accounts

    def sync(
        self,
        accounts: Sequence[Account],
        types: Sequence[MediaType],
        run_id: str,
        *,
        full: bool = False,
        blobs: bool = False,
        renditions: bool = False,
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
        pipeline = self.open()
        selection = Selection(types=tuple(types), full=full, blobs=blobs, renditions=renditions, sweep=sweep)
        confirm_sweep(pipeline, accounts, selection, run_id)
        workers = pipeline.settings.ac_concurrent_users
        return starmap(Outcome, sync_accounts(pipeline.engine, accounts, selection, run_id, workers))

    def render(self, accounts: Sequence[Account], media: MediaType, run_id: str) -> Iterator[Outcome]:
        """Make the renditions of one type for these accounts; outcomes as they come."""
        pipeline = self.open()
        selection = Selection(types=(media,))
        return self._outcomes(accounts, lambda account: pipeline.engine.render(account, media, selection, run_id))

    def plan_retry(self, wanted: FailedItems) -> RetryPlan:
        """Which failed items are meant, account by account; nothing is run.

        Raises:
            Misconfigured: A selector names no user.
            Transient: Accounts or ledger could not be read.
        """
        return plan_retry(self.open(), wanted)

    def retry(self, retries: Sequence[AccountRetry], run_id: str) -> Iterator[Outcome]:
        """Run exactly these items, several accounts at once; outcomes as they come."""
        pipeline = self.open()
        return starmap(Outcome, retry_accounts(pipeline.engine, retries, run_id, pipeline.settings.ac_concurrent_users))

    def survey(self, account: Account, types: Sequence[MediaType]) -> AccountReport:
        """The dry run of one account: what a sync would do.

        Raises:
            Transient: Something could not be read.
        """
        _, report = self.open().engine.survey(account, Selection(types=tuple(types)))
        return report

    def repositories(self) -> Iterable[RepositoryStatus]:
        """Every repository the PDS hosts, with its revision; needs no login.

        Raises:
            Transient: A part could not be read.
        """
        return self.open().server.list_repositories()

    def marks(self) -> Mapping[str, RepositoryCheckpoint]:
        """How the last sync left each repository, by DID."""
        return self.open().ledger.checkpoints()

    def changed(self, position: str | None, watched: Collection[str]) -> Changes:
        """Which users have work that a run would do, looked for from where the last look ended.

        Args:
            position: Of the last look; None at the first.
            watched: Items to judge in any case, as `type:ObjectId hex`.

        Raises:
            Transient, Misconfigured: Something could not be read; nothing was passed.
        """
        pipeline = self.open()
        return pipeline.changes.look(position, watched, lambda: self.accounts().values())

    def pending(self, synchronised: Collection[str], served: Collection[str], seconds: float) -> Changes:
        """The work of all users that their documents show, looked for once.

        Args:
            synchronised: DIDs of the repositories that a sync has read to its end.
            served: DIDs of those that the PDS serves.
            seconds: The look stops after so long, and says so in `failed`.

        Raises:
            Transient, Misconfigured: Something could not be read.
        """
        return self.open().changes.look_at_everybody(self.accounts().values(), synchronised, served, seconds)

    def entry(self, item: str) -> LedgerEntry | None:
        """What the ledger knows of one item."""
        return self.open().ledger.get(item)

    def items(
        self, media: MediaType, state: State, limit: int, error_class: str | None = None
    ) -> Iterable[LedgerEntry]:
        """The first items of one type that are in a state, by their ids; of one class of error where that is named."""
        return self.open().ledger.find(states={state}, error_class=error_class, types={media.name}, limit=limit)

    def standing(self, media: MediaType, state: State) -> Sequence[Standing]:
        """Whose items of one type are in a state, and why, without the items themselves."""
        return self.open().ledger.standing(state, media.name)

    def known_items(self, media: MediaType) -> int:
        """How many items of one type the ledger knows."""
        return sum(self.open().ledger.counts().get(media.name, {}).values())

    def last_look(self, media: MediaType) -> CollectionState:
        """What there is of a type, compared with what there was; looked at anew unless somebody just did."""
        safeguard = self.open().safeguard
        look = safeguard.look(media, within=_JUST_NOW)
        return CollectionState(look, *safeguard.problems(look))

    def allowance(self) -> Allowance:
        """How many quarantined items are no error yet."""
        return self.open().settings.ac_quarantine_threshold

    def blocked_allowance(self) -> Allowance:
        """How many blocked accounts are no error yet."""
        return self.open().settings.ac_blocked_threshold

    def verify(
        self, accounts: Sequence[Account], types: Sequence[MediaType], *, blobs: bool, run_id: str
    ) -> Iterator[Taken]:
        """Verify these accounts against their repositories, several at once, and keep what was found.

        Args:
            blobs: Ask the PDS for every blob as well.
        """
        pipeline = self.open()
        pipeline.receipts.forget([account.id for account in self.accounts().values()])
        return take_receipts(
            pipeline.engine,
            pipeline.receipts,
            accounts,
            types,
            blobs=blobs,
            run_id=run_id,
            workers=pipeline.settings.ac_concurrent_users,
            now=lambda: datetime.now(UTC),
        )

    def findings(self, types: Sequence[MediaType]) -> Findings:
        """What the last verifications of all users found."""
        pipeline = self.open()
        return findings(pipeline.receipts, pipeline.ledger, types)

    def record_address(self, uri: str) -> str | None:
        """Where a record can be read by anybody; None when the text is no address of a record."""
        return record_address(self.open().settings.pds_url, uri)

    def pictures(self, account: Account, media: MediaType, limit: int, *, pending: bool = False) -> Sequence[Picture]:
        """Some pictures of the account's records; none for a type whose records hold no picture.

        Args:
            pending: Also those that are made and not published yet: they are seen once they are.
        """
        if not media.blobs or account.did is None:
            return ()
        pipeline = self.open()
        entries = pipeline.ledger.find(
            states={State.WRITTEN, State.UNCHANGED, *([State.PENDING] if pending else [])},
            account=account.id,
            types={media.name},
            limit=limit,
        )
        return tuple(islice(self._shown(entries, pipeline.settings.pds_url), limit))

    def kept_renditions(self, account: Account, media: MediaType) -> tuple[int, int]:
        """How many renditions the account's items of a type have, and their bytes."""
        entries = self.open().ledger.find(account=account.id, types={media.name})
        sizes = [made.blob.size for each in entries if each.derived for made in each.derived.renditions.values()]
        return len(sizes), sum(sizes)

    def _outcomes(self, accounts: Sequence[Account], work: Callable[[Account], AccountReport]) -> Iterator[Outcome]:
        return starmap(Outcome, account_reports(accounts, work, self.open().settings.ac_concurrent_users))

    @staticmethod
    def _shown(entries: Iterable[LedgerEntry], pds_url: str) -> Iterator[Picture]:
        for entry in entries:
            blobs = [made.blob for made in entry.derived.renditions.values()] if entry.derived else []
            picture = next((each for each in blobs if each.mime_type.startswith("image/")), None)
            if picture is None or entry.did is None:
                continue
            shown = next((each for each in blobs if each.mime_type.startswith("video/")), picture)
            address = f"{pds_url}/xrpc/com.atproto.sync.getBlob?{urlencode({'did': entry.did, 'cid': shown.cid})}"
            yield Picture(entry.code or entry.document, address, f"{THUMBNAILS}{entry.did}/{picture.cid}")


PIPELINE = "pipeline"
"""Key of the resource; tests put an object of their own in its place."""


def _told(context: dg.InitResourceContext) -> Settings:
    """The settings, once the log of the run says where they lead. The ticks of sensors do not repeat it."""
    settings = load_settings()
    if context.run is not None and context.log is not None:
        context.log.info(f"This run works on {settings.destination}.")
        # What the instance says of its launcher: to make one takes rights that no run has.
        instance = context.instance
        launcher = instance.get_ref().run_launcher_data if instance and instance.is_persistent else None
        warning = launcher and unshared_renditions(settings, launcher.class_name, launcher.config_dict)
        if warning:
            context.log.warning(warning)
    return settings


@dg.resource(description="Accounts, documents, ledger, renditions and PDS, as the environment and .env name them.")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[PipelineResource]:
    """One pipeline for each run or tick, opened when it is first used, closed with the run or tick."""
    with PipelineResource(lambda: _told(context)) as pipeline:
        yield pipeline
