"""The port of `operator.py` on a real pipeline, which is opened at the first question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType

from ac_pipeline.accounts import Account
from ac_pipeline.defs.operator import Take, Types, Users
from ac_pipeline.errors import Misconfigured
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.documents import Lost, LostCount, find_all_lost, restore_all
from ac_pipeline.operations.erasure import Erasure
from ac_pipeline.operations.erasure_search import ErasureSearch
from ac_pipeline.operations.flight_plan import FlightPlan, draw_up, known_limits
from ac_pipeline.operations.forget import Forgetting, chosen_snapshots, forget, plan_forgetting
from ac_pipeline.operations.lexicons import Publication, publish_ours
from ac_pipeline.operations.links import Diagnosis, Examination, examine_all, heal_all
from ac_pipeline.operations.restore import (
    MONGO,
    find_snapshot,
    plan_from_snapshot,
    restore_from_mongo,
    restore_from_snapshot,
    without_holds,
)
from ac_pipeline.operations.restore_plan import RestorePlan
from ac_pipeline.operations.restore_report import RestoreReport
from ac_pipeline.operations.rounds import LeftOut
from ac_pipeline.operations.snapshot import Vault, open_vault, take_snapshot
from ac_pipeline.operations.wipe import WipeReport, wipe
from ac_pipeline.operations.wipe_plan import WipePlan, plan_wipe
from ac_pipeline.settings import Settings
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection
from ac_pipeline.wiring import Pipeline, open_pipeline


class PipelineOperator:
    """The port on a real pipeline, which is opened at the first question and closed by `close`.

    Args:
        settings: Reads the settings, at the first question.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None

    def plan(self, users: Users, selection: Selection, relay: int | None, take: Take) -> FlightPlan:
        pipeline = self._open()
        accounts = self._accounts(users)
        return draw_up(
            pipeline.engine,
            accounts,
            selection,
            limits=known_limits(pipeline, relay),
            workers=self._workers,
            plans=pipeline.plans,
            chosen=accounts if users else None,
            take=lambda operation, _: take(operation),
        )

    def plan_wipe(self, user: str, types: Types) -> WipePlan:
        return plan_wipe(self._vault, self._account(user), types)

    def wipe(self, user: str, types: Types, confirm: int, why: str, run_id: str) -> WipeReport:
        return wipe(self._vault, self._account(user), types, confirm=confirm, run_id=run_id, why=why)

    def plan_restore(self, user: str, types: Types, source: str, take: Take) -> RestorePlan | FlightPlan:
        vault, account = self._vault, self._account(user)
        if source != MONGO:
            return plan_from_snapshot(vault, account, types, find_snapshot(vault, account, types, source))
        return draw_up(
            without_holds(vault.engine),
            [account],
            Selection(types=tuple(types)),
            limits=known_limits(self._open()),
            workers=1,
            take=lambda operation, _: take(operation),
        )

    def restore(self, user: str, types: Types, source: str, why: str, run_id: str) -> RestoreReport:
        vault, account = self._vault, self._account(user)
        if source == MONGO:
            return restore_from_mongo(vault, account, types, run_id=run_id, why=why)
        found = find_snapshot(vault, account, types, source)
        return restore_from_snapshot(vault, account, types, found, run_id=run_id, why=why)

    def snapshot(self, user: str, types: Types) -> Snapshot:
        return take_snapshot(self._vault, self._account(user), types)

    def examine(self, users: Users, types: Types) -> Iterator[Examination]:
        return examine_all(self._open(), self._accounts(users), Selection(types=tuple(types)))

    def heal(self, users: Users, types: Types, run_id: str, why: str) -> Iterator[AccountReport]:
        before = Diagnosis()
        for found in self.examine(users, types):
            before.add(found)
        return heal_all(self._open(), before, Selection(types=tuple(types)), run_id, why=why)

    def lost_documents(self, users: Users, types: Types) -> Iterator[Lost | LeftOut]:
        return find_all_lost(self._open(), self._accounts(users), Selection(types=tuple(types)))

    def restore_documents(self, users: Users, types: Types, confirm: int, why: str) -> Iterator[Lost | LeftOut]:
        pipeline, accounts, selection = self._open(), self._accounts(users), Selection(types=tuple(types))
        found = LostCount()
        for each in find_all_lost(pipeline, accounts, selection):
            found.add(each)
        yield from found.left_out
        yield from restore_all(pipeline, accounts, selection, found, confirm, why=why)

    def erasures(self, users: Users, types: Types) -> Iterator[Erasure | LeftOut]:
        selection, accounts = Selection(types=tuple(types)), self._accounts(users)
        return ErasureSearch(self._open(), accounts, selection, everybody=not users).found()

    def plan_forgetting(self, user: str, ids: Sequence[str]) -> Forgetting:
        return plan_forgetting(self._vault, self._snapshots(user, ids), self._open().accounts.all())

    def forget(self, user: str, ids: Sequence[str], confirm: int, why: str) -> Forgetting:
        chosen = self._snapshots(user, ids)
        if confirm != len(chosen):
            raise Misconfigured(f"{len(chosen)} snapshots would be deleted, not {confirm}: nothing was deleted.")
        return forget(self._vault, chosen, self._open().accounts.all, why=why)

    def publish_lexicons(self, *, dry_run: bool, why: str) -> Publication:
        return publish_ours(self._open(), dry_run=dry_run, why=why)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> PipelineOperator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Pipeline:
        with self._lock:
            if self._pipeline is None:
                self._pipeline = self._stack.enter_context(open_pipeline(self._settings()))
            return self._pipeline

    @property
    def _vault(self) -> Vault:
        return open_vault(self._open())

    @property
    def _workers(self) -> int:
        return self._open().settings.ac_concurrent_users

    def _account(self, user: str) -> Account:
        return self._open().accounts.find(user)

    def _accounts(self, users: Users) -> Sequence[Account]:
        accounts = self._open().accounts
        return accounts.select(users) if users else accounts.all()

    def _snapshots(self, user: str, ids: Sequence[str]) -> list[Snapshot]:
        pipeline = self._open()
        return chosen_snapshots(pipeline.snapshots, pipeline.accounts, ids=ids, user=user or None)
