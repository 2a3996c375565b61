"""The pipeline as Dagster sees it: accounts and media types in, outcomes out. One for each run or tick, opened at the
first question: a missing setting fails the step that needs it, with its sentence, and not the loading of the
definitions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import starmap

import dagster as dg

from ac_pipeline.accounts import Account
from ac_pipeline.defs.home import unshared_renditions
from ac_pipeline.errors import PipelineError
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger.receipts import Receipt
from ac_pipeline.operations.inspection.verification import take_receipts
from ac_pipeline.operations.parameters import chosen_accounts
from ac_pipeline.operations.sync import AccountRetry, confirm_sweep, retry_accounts
from ac_pipeline.settings import Settings, load_settings
from ac_pipeline.sync.engine import sync_accounts
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, open_pipeline


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one account's turn ended."""

    account: Account
    report: AccountReport


class PipelineResource(ExitStack):
    """A pipeline that is opened when `open` is first called, by whatever thread, and closed by `close`. `settings`:
    reads the settings, at the first question."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        super().__init__()
        self._settings = settings
        self._lock = threading.RLock()
        self._pipeline: Pipeline | None = None
        self._accounts: dict[str, Account] | None = None

    def open(self) -> Pipeline:
        """The pipeline. Raises Misconfigured (a setting or a lexicon cannot be used), ServiceUnreachable (MongoDB does
        not answer)."""
        with self._lock:
            if self._pipeline is None:
                self._pipeline = self.enter_context(open_pipeline(self._settings()))
            return self._pipeline

    def accounts(self) -> Mapping[str, Account]:
        """All accounts by partition key; read once, however often it is asked. Raises Transient, Misconfigured: they
        could not be read."""
        with self._lock:
            if self._accounts is None:
                self._accounts = {account.key: account for account in chosen_accounts(self.open(), ())}
            return self._accounts

    def sync(self, accounts: Sequence[Account], selection: Selection, run_id: str) -> Iterator[Outcome]:
        """Mirror these accounts, several at once; outcomes as they come. Raises Misconfigured: of these accounts
        another number than `sweep` is kept."""
        pipeline = self.open()
        confirm_sweep(pipeline, accounts, selection, run_id)
        return starmap(Outcome, sync_accounts(pipeline.engine, accounts, selection, run_id, self._workers))

    def render(self, accounts: Sequence[Account], media: MediaType, run_id: str) -> Iterator[Outcome]:
        """Make the renditions of one type for these accounts; outcomes as they come."""
        engine, selection, workers = self.open().engine, Selection(types=(media,)), self._workers
        made = account_reports(accounts, lambda account: engine.render(account, media, selection, run_id), workers)
        return starmap(Outcome, made)

    def retry(self, retries: Sequence[AccountRetry], run_id: str) -> Iterator[Outcome]:
        """Run exactly these items, several accounts at once; outcomes as they come."""
        return starmap(Outcome, retry_accounts(self.open().engine, retries, run_id, self._workers))

    def verify(
        self, accounts: Sequence[Account], types: Sequence[MediaType], *, blobs: bool, run_id: str
    ) -> Iterator[tuple[Account, Receipt | PipelineError]]:
        """Verify these accounts against their repositories, several at once, and keep what was found. `blobs`: ask the
        PDS for every blob as well."""
        pipeline = self.open()
        pipeline.receipts.forget([account.id for account in self.accounts().values()])
        return take_receipts(
            pipeline.engine,
            pipeline.receipts,
            accounts,
            types,
            blobs=blobs,
            run_id=run_id,
            workers=self._workers,
            now=lambda: datetime.now(UTC),
        )

    @property
    def _workers(self) -> int:
        return self.open().settings.ac_concurrent_users


PIPELINE = "pipeline"  # Key of the resource; tests put an object of their own in its place


@dg.resource(description="Accounts, documents, ledger, renditions and PDS, as the environment and .env name them.")
def pipeline_resource(context: dg.InitResourceContext) -> Iterator[PipelineResource]:
    """One pipeline for each run or tick, opened when it is first used, closed with the run or tick."""

    def settings() -> Settings:
        """The log of a run says where they lead; the ticks of sensors do not repeat it."""
        loaded = load_settings()
        if context.run is not None and context.log is not None:
            context.log.info(f"This run works on {loaded.destination}.")
            # What the instance says of its launcher: to make one takes rights that no run has.
            instance = context.instance
            launcher = instance.get_ref().run_launcher_data if instance and instance.is_persistent else None
            warning = launcher and unshared_renditions(loaded, launcher.class_name, launcher.config_dict)
            if warning:
                context.log.warning(warning)
        return loaded

    with PipelineResource(settings) as pipeline:
        yield pipeline
