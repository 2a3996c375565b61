"""A pipeline in memory for the definitions: accounts, and what shall happen to each, readable afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, starmap
from types import SimpleNamespace
from typing import Any

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.types import RepositoryStatus
from ac_pipeline.defs.pipeline import Outcome
from ac_pipeline.errors import Blocked, PipelineError, Transient
from ac_pipeline.items import (
    Attempt,
    BlobRef,
    Derived,
    Failure,
    LastLook,
    LedgerEntry,
    Rendition,
    RepositoryCheckpoint,
    Stage,
    State,
)
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.changes.pending import Changes, Work
from ac_pipeline.mongo.ledger.items import Standing
from ac_pipeline.mongo.ledger.receipts import Aspect, Part, Receipt
from ac_pipeline.operations.sync import AccountRetry
from ac_pipeline.settings import Allowance
from ac_pipeline.sync.for_accounts import account_reports
from ac_pipeline.sync.planning.plan import Versions
from ac_pipeline.sync.report import AccountReport, ItemFailure
from ac_pipeline.sync.selection import Selection
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.memory_receipts import MemoryReceipts

RUN = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
"""The run that quarantined what is quarantined."""


class ScriptedMirror:
    """A `PipelineResource`. Every account has two items of each type, which are written at its first turn."""

    def __init__(self, *keys: str) -> None:
        self.known = {key: Account(id=f"auth0|{key}", key=key, did=f"did:plc:{key}") for key in keys}
        self.turns: list[str] = []
        self.types: list[tuple[str, ...]] = []
        self.full: list[bool] = []
        self.blobs: list[bool] = []
        self.sweeps: list[int | None] = []
        self.seen: dict[str, tuple[LastLook, str | None, str | None]] = {}
        self.anew: list[bool] = []
        self.run_ids: set[str] = set()
        self.reads = 0
        self.troubles: dict[str, list[Exception]] = {}
        self.blocked: dict[str, Blocked] = {}
        self.ledger: dict[str, LedgerEntry] = {}
        self.broken: PipelineError | None = None
        self.stubborn: set[str] = set()
        self.retried: list[str] = []
        self.surveyed: list[str] = []
        self.unreadable: Transient | None = None
        self.pds = MemoryPds()
        self.left: dict[str, RepositoryCheckpoint] = {}
        self.works: list[Work] = []
        self.looks: list[frozenset[str]] = []
        self.fallback: str | None = None
        self.slow: str | None = None
        self.synchronised: set[str] = set()
        self.served: set[str] = set()
        self.allowed, self.blocked_allowed = Allowance(), Allowance(percent=10)
        self.items_in_ledger = 0
        self.receipts = MemoryReceipts()
        self.wrong: dict[tuple[str, str, Aspect], Part] = {}
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.documents: dict[str, str] = {}
        self.renditions: dict[str, str] = {}

    def trouble(self, key: str, *errors: Exception) -> None:
        """Let the next turns of this account end so: a transient error in its report, any other as a crash."""
        self.troubles.setdefault(key, []).extend(errors)

    def quarantine(self, key: str, media: MediaType, message: str, error_class: str = "source-missing") -> str:
        """Let one item of this account be quarantined; its id."""
        item = f"{media.name}:{len(self.ledger):024x}"
        failure = Failure(Stage.RENDITION, error_class, message)
        self.ledger[item] = LedgerEntry(
            item, media.name, item.partition(":")[2], f"auth0|{key}", key, State.QUARANTINED, Stage.RENDITION,
            code="abc", attempts=3, failure=failure, uri=f"at://did:plc:{key}/{media.nsid}/1",
            run_id=RUN, history=(Attempt(self.now, RUN, Stage.RENDITION, State.QUARANTINED, error_class, message),),
        )  # fmt: skip
        return item

    def accounts(self) -> Mapping[str, Account]:
        self.reads += 1
        if self.broken is not None:
            raise self.broken
        return self.known

    def open(self) -> _Opened:
        return _Opened(self)

    def sync(self, accounts: Sequence[Account], selection: Selection, run_id: str) -> Iterator[Outcome]:
        self.full.append(selection.full)
        self.sweeps.append(selection.sweep)
        self.blobs.append(selection.blobs)
        self.anew.append(selection.renditions)
        self.types.append(tuple(media.name for media in selection.types))
        self.run_ids.add(run_id)
        return starmap(
            Outcome, account_reports(accounts, lambda account: self._turn(account, selection.types), workers=2)
        )

    def render(self, accounts: Sequence[Account], media: MediaType, run_id: str) -> Iterator[Outcome]:
        return self.sync(accounts, Selection(types=(media,)), run_id)

    def retry(self, turns: Sequence[AccountRetry], run_id: str) -> Iterator[Outcome]:
        """Every item of a turn is well afterwards, unless it stands in `stubborn`."""
        self.run_ids.add(run_id)
        selections = {turn.account.id: turn.selection for turn in turns}

        def again(account: Account) -> AccountReport:
            selection = selections[account.id]
            for type_, document in sorted(selection.items or ()):
                self.retried.append(f"{type_}:{document}")
                if f"{type_}:{document}" not in self.stubborn:
                    del self.ledger[f"{type_}:{document}"]
            return self._turn(account, selection.types)

        return starmap(Outcome, account_reports([turn.account for turn in turns], again, workers=2))

    def survey(self, account: Account, types: Sequence[MediaType]) -> AccountReport:
        """As written twice: two items of each type that are as they should be, and those that are quarantined."""
        self.surveyed.append(account.key)
        if self.unreadable is not None:
            raise self.unreadable
        report = self._turn(account, types)
        for tally in report.types.values():
            tally.created, tally.unchanged = 0, tally.created
        return report

    def verify(
        self, accounts: Sequence[Account], types: Sequence[MediaType], *, blobs: bool, run_id: str
    ) -> Iterator[tuple[Account, Receipt | PipelineError]]:
        """What is scripted in `wrong`, else two sound items of each type and aspect."""
        self.run_ids.add(run_id)
        for account in accounts:
            error = next(iter(self.troubles.get(account.key, ())), None)
            if error is not None:
                yield account, error
                continue
            made = {
                (media.name, aspect): self.wrong.get((account.key, media.name, aspect), Part(2, 2))
                for media in types
                for aspect in Aspect
                if aspect is not Aspect.BLOBS or (blobs and media.blobs)
            }
            blocked = self.blocked.get(account.key)
            receipt = Receipt(
                account.id,
                account.key,
                account.did,
                self.now,
                run_id,
                made if blocked is None else {},
                blocked.message if blocked else None,
            )
            self.receipts.save(receipt)
            yield account, receipt

    def _turn(self, account: Account, types: Sequence[MediaType]) -> AccountReport:
        self.turns.append(account.key)
        report = AccountReport(account.key)
        waiting = self.troubles.get(account.key)
        error = waiting.pop(0) if waiting else None
        if error is not None and not isinstance(error, Transient):
            raise error
        report.error = error
        report.blocked = self.blocked.get(account.key)
        for media in types:
            tally = report.tally(media.name)
            tally.documents = tally.eligible = 2
            if report.blocked is not None:
                tally.blocked = 2
            elif error is None:
                tally.created = 2
            well = error is None and report.blocked is None
            report.versions[media.name] = Versions(
                self.documents.get(account.key, "documents"),
                self.renditions.get(account.key, "renditions") if well else None,
                self.documents.get(account.key, "documents") + "-records" if well else None,
            )
            for entry in self.open().ledger.find(states={State.QUARANTINED}, account=account.id, types={media.name}):
                if entry.failure is not None:
                    tally.quarantined += 1
                    report.failures.append(
                        ItemFailure(
                            entry.item,
                            account.key,
                            entry.stage,
                            State.QUARANTINED,
                            entry.failure.error_class,
                            entry.failure.message,
                            code=entry.code,
                        )
                    )
        return report


class _Opened:
    """The pipeline of a scripted mirror, as far as definitions look at it."""

    def __init__(self, mirror: ScriptedMirror) -> None:
        self.settings = SimpleNamespace(
            ac_quarantine_threshold=mirror.allowed,
            ac_blocked_threshold=mirror.blocked_allowed,
            pds_url="https://pds.example",
        )
        self.server, self.receipts, self.ledger = _Server(mirror), mirror.receipts, _Ledger(mirror)
        self.changes, self.safeguard = _Changes(mirror), _Safeguard(mirror)
        self.engine = SimpleNamespace(survey=lambda account, wanted: (None, mirror.survey(account, wanted.types)))
        self.accounts = SimpleNamespace(
            all=lambda: list(mirror.accounts().values()),
            select=lambda users: [mirror.accounts()[user] for user in users],
        )


class _Server:
    def __init__(self, mirror: ScriptedMirror) -> None:
        self.mirror = mirror

    def list_repositories(self) -> list[RepositoryStatus]:
        if self.mirror.broken is not None:
            raise self.mirror.broken
        return list(self.mirror.pds.list_repositories())


class _Ledger:
    def __init__(self, mirror: ScriptedMirror) -> None:
        self.mirror, self.get = mirror, mirror.ledger.get
        self.checkpoints, self.checkpoint = (lambda: mirror.left), mirror.left.get

    def find(
        self,
        *,
        states: Collection[State] | None = None,
        error_class: str | None = None,
        account: str | None = None,
        types: Collection[str],
        limit: int | None = None,
    ) -> Iterator[LedgerEntry]:
        """What is scripted; and of each account one item of each type that is written, of which two renditions are
        kept, of 50 bytes each."""
        if self.mirror.broken is not None:
            raise self.mirror.broken
        found = [
            entry
            for entry in self.mirror.ledger.values()
            if entry.type in types
            and (states is None or entry.state in states)
            and account in {None, entry.account}
            and error_class in {None, _class(entry)}
        ]
        if account is not None and (states is None or State.WRITTEN in states):
            found += [_written(type_, account) for type_ in types]
        return islice(found, limit)

    def standing(self, state: State, type: str) -> list[Standing]:
        found: dict[tuple[str, str | None], list[LedgerEntry]] = {}
        for entry in self.find(states={state}, types={type}):
            found.setdefault((entry.partition, _class(entry)), []).append(entry)
        return [
            Standing(
                user,
                error_class,
                len(entries),
                max((e.deferred_until for e in entries if e.deferred_until), default=None),
                min((e.updated_at for e in entries if e.updated_at), default=None),
                any(e.cid for e in entries),
                max((e.failure.message for e in entries if e.failure), default=""),
            )
            for (user, error_class), entries in sorted(found.items())
        ]

    def counts(self) -> Mapping[str, Mapping[State, int]]:
        return {"painting": {State.WRITTEN: self.mirror.items_in_ledger}}


class _Changes:
    def __init__(self, mirror: ScriptedMirror) -> None:
        self.mirror = mirror

    def look(self, position: str | None, watched: Collection[str], accounts: Callable[[], Any]) -> Changes:
        """All of `works`, whatever is watched; the position counts the looks."""
        if self.mirror.broken is not None:
            raise self.mirror.broken
        self.mirror.looks.append(frozenset(watched))
        works = tuple(self.mirror.works)
        return Changes(works, str(int(position or 0) + 1), fallback=self.mirror.fallback)

    def look_at_everybody(
        self, accounts: Iterable[Account], synchronised: Collection[str], served: Collection[str], seconds: float
    ) -> Changes:
        """All of `works`, unless the look is too slow (`slow`)."""
        self.mirror.synchronised, self.mirror.served = set(synchronised), set(served)
        return Changes(tuple(self.mirror.works), "", compared="compared all documents", failed=self.mirror.slow)


class _Safeguard:
    def __init__(self, mirror: ScriptedMirror) -> None:
        self.mirror = mirror

    def check_platform(self, accounts: Sequence[Account]) -> None:
        """They are all there."""

    def look(self, media: MediaType, within: Any) -> LastLook:
        return self.mirror.seen.get(media.name, (LastLook(media.name, at=self.mirror.now),))[0]

    def problems(self, look: LastLook) -> tuple[str | None, str | None]:
        _, doubt, silence = self.mirror.seen.get(look.type, (look, None, None))
        return doubt, silence


def _written(type: str, account: str) -> LedgerEntry:
    picture, video = BlobRef("bafy", "image/png", 50), BlobRef("bafyvideo", "text/plain", 50)
    derived = Derived({"picture": Rendition(picture, "", ""), "other": Rendition(video, "", "")})
    user = account.removeprefix("auth0|")
    return LedgerEntry(
        f"{type}:1", type, "1", account, user, State.WRITTEN, Stage.WRITE,
        code="abc", did=f"did:plc:{user}", derived=derived,
    )  # fmt: skip


def _class(entry: LedgerEntry) -> str | None:
    return entry.failure.error_class if entry.failure is not None else None
