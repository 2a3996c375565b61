"""The port of `mirror.py` on a real pipeline, which is opened at the first question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, starmap
from urllib.parse import urlencode

from ac_pipeline.accounts import Account
from ac_pipeline.allowance import Allowance
from ac_pipeline.atproto.messages import RepositoryStatus
from ac_pipeline.atproto.syntax import record_address
from ac_pipeline.defs.mirror import CollectionState, Outcome, Picture
from ac_pipeline.defs.opening import OpensPipeline
from ac_pipeline.items import LedgerEntry, RepositoryMark, State
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger import Standing
from ac_pipeline.mongo.pending import Changes
from ac_pipeline.operations.choice import chosen_accounts, confirm_sweep
from ac_pipeline.operations.receipts import Findings, Taken, findings, take_receipts
from ac_pipeline.operations.retry import FailedItems, RetryPlan, Turn, plan_retry, run_turns
from ac_pipeline.settings import Settings
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection

_JUST_NOW = timedelta(seconds=2)
"""A look at a collection reads every id of it: the checks of one run share it."""


class PipelineMirror(OpensPipeline):
    """The port `Mirror` on a real pipeline. Accounts are read once.

    Args:
        settings: Reads the settings, at the first question.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        super().__init__(settings)
        self._reading = threading.Lock()
        self._accounts: dict[str, Account] | None = None

    def accounts(self) -> Mapping[str, Account]:
        pipeline = self._open()
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
        pipeline = self._open()
        selection = Selection(types=tuple(types), full=full, blobs=blobs, renditions=renditions, sweep=sweep)
        confirm_sweep(pipeline, accounts, selection, run_id)
        return self._outcomes(accounts, lambda account: pipeline.engine.sync(account, selection, run_id))

    def render(self, accounts: Sequence[Account], media: MediaType, run_id: str) -> Iterator[Outcome]:
        pipeline = self._open()
        selection = Selection(types=(media,))
        return self._outcomes(accounts, lambda account: pipeline.engine.render(account, media, selection, run_id))

    def plan_retry(self, wanted: FailedItems) -> RetryPlan:
        return plan_retry(self._open(), wanted)

    def retry(self, turns: Sequence[Turn], run_id: str) -> Iterator[Outcome]:
        pipeline = self._open()
        return starmap(Outcome, run_turns(pipeline.engine, turns, run_id, pipeline.settings.ac_concurrent_users))

    def survey(self, account: Account, types: Sequence[MediaType]) -> AccountReport:
        _, report = self._open().engine.survey(account, Selection(types=tuple(types)))
        return report

    def repositories(self) -> Iterable[RepositoryStatus]:
        return self._open().server.list_repositories()

    def marks(self) -> Mapping[str, RepositoryMark]:
        return self._open().ledger.marks()

    def changed(self, position: str | None, watched: Collection[str]) -> Changes:
        pipeline = self._open()
        return pipeline.changes.look(position, watched, lambda: self.accounts().values())

    def entry(self, item: str) -> LedgerEntry | None:
        return self._open().ledger.get(item)

    def items(
        self, media: MediaType, state: State, limit: int, error_class: str | None = None
    ) -> Iterable[LedgerEntry]:
        return self._open().ledger.find(states={state}, error_class=error_class, types={media.name}, limit=limit)

    def standing(self, media: MediaType, state: State) -> Sequence[Standing]:
        return self._open().ledger.standing(state, media.name)

    def known_items(self, media: MediaType) -> int:
        return sum(self._open().ledger.counts().get(media.name, {}).values())

    def last_look(self, media: MediaType) -> CollectionState:
        safeguard = self._open().safeguard
        look = safeguard.look(media, within=_JUST_NOW)
        return CollectionState(look, *safeguard.problems(look))

    def allowance(self) -> Allowance:
        return self._open().settings.ac_quarantine_threshold

    def blocked_allowance(self) -> Allowance:
        return self._open().settings.ac_blocked_threshold

    def verify(
        self, accounts: Sequence[Account], types: Sequence[MediaType], *, blobs: bool, run_id: str
    ) -> Iterator[Taken]:
        pipeline = self._open()
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
        pipeline = self._open()
        return findings(pipeline.receipts, pipeline.ledger, types)

    def record_address(self, uri: str) -> str | None:
        return record_address(self._open().settings.pds_url, uri)

    def pictures(self, account: Account, media: MediaType, limit: int) -> Sequence[Picture]:
        if not media.blobs or account.did is None:
            return ()
        pipeline = self._open()
        entries = pipeline.ledger.find(
            states={State.WRITTEN, State.UNCHANGED}, account=account.id, types={media.name}, limit=limit
        )
        return tuple(islice(self._shown(entries, media, pipeline.settings.pds_url), limit))

    def _outcomes(self, accounts: Sequence[Account], work: Callable[[Account], AccountReport]) -> Iterator[Outcome]:
        return starmap(Outcome, account_reports(accounts, work, self._open().settings.ac_concurrent_users))

    @staticmethod
    def _shown(entries: Iterable[LedgerEntry], media: MediaType, pds_url: str) -> Iterator[Picture]:
        for entry in entries:
            for field in media.blobs:
                made = entry.derived.renditions.get(field.name) if entry.derived else None
                if made is not None and made.blob.mime_type.startswith("image/") and entry.did is not None:
                    query = urlencode({"did": entry.did, "cid": made.blob.cid})
                    yield Picture(entry.code or entry.document, f"{pds_url}/xrpc/com.atproto.sync.getBlob?{query}")
