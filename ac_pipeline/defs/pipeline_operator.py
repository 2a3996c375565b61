"""The port of `operator.py` on a real pipeline, which is opened at the first question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ac_pipeline.accounts import Account
from ac_pipeline.defs.opening import OpensPipeline
from ac_pipeline.defs.operator import Take, Types, Users
from ac_pipeline.errors import Misconfigured
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.choice import chosen_accounts
from ac_pipeline.operations.differences import Difference
from ac_pipeline.operations.documents import Lost, LostCount, find_all_lost, restore_all
from ac_pipeline.operations.erasure import Erasure
from ac_pipeline.operations.erasure_search import ErasureSearch
from ac_pipeline.operations.flight_plan import FlightPlan, draw_up, known_limits
from ac_pipeline.operations.forget import Forgetting, chosen_snapshots, forget, plan_forgetting
from ac_pipeline.operations.lexicons import LexiconCheck, Publication, check_ours, publish_ours
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
from ac_pipeline.operations.settling import Accepted, DifferenceCount, accept_all, find_all_differences, push_all
from ac_pipeline.operations.snapshot import Vault, open_vault, take_snapshot
from ac_pipeline.operations.wipe import WipeReport, wipe
from ac_pipeline.operations.wipe_plan import WipePlan, plan_wipe
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection


class PipelineOperator(OpensPipeline):
    """The port `Operator` on a real pipeline."""

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

    def plan_restore(
        self, user: str, types: Types, source: str, take: Take, *, overwrite: bool = False
    ) -> RestorePlan | FlightPlan:
        vault, account = self._vault, self._account(user)
        if source != MONGO:
            return plan_from_snapshot(
                vault, account, types, find_snapshot(vault, account, types, source), overwrite=overwrite
            )
        return draw_up(
            without_holds(vault.engine),
            [account],
            Selection(types=tuple(types)),
            limits=known_limits(self._open()),
            workers=1,
            take=lambda operation, _: take(operation),
        )

    def restore(
        self, user: str, types: Types, source: str, why: str, run_id: str, *, overwrite: bool = False
    ) -> RestoreReport:
        vault, account = self._vault, self._account(user)
        if source == MONGO:
            return restore_from_mongo(vault, account, types, run_id=run_id, why=why)
        found = find_snapshot(vault, account, types, source)
        return restore_from_snapshot(vault, account, types, found, run_id=run_id, overwrite=overwrite, why=why)

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

    def differences(self, users: Users, selection: Selection) -> Iterator[Difference | LeftOut]:
        pipeline = self._open()
        return find_all_differences(pipeline, chosen_accounts(pipeline, users, selection.items), selection)

    def push_ours(
        self, users: Users, selection: Selection, confirm: int, why: str, run_id: str
    ) -> Iterator[AccountReport | LeftOut]:
        pipeline = self._open()
        accounts = chosen_accounts(pipeline, users, selection.items)
        found = self._counted(accounts, selection)
        yield from found.left_out
        yield from push_all(pipeline, accounts, selection, found, confirm, run_id=run_id, why=why)

    def accept_theirs(self, users: Users, selection: Selection, confirm: int, why: str) -> Iterator[Accepted | LeftOut]:
        pipeline = self._open()
        accounts = chosen_accounts(pipeline, users, selection.items)
        found = self._counted(accounts, selection)
        yield from found.left_out
        yield from accept_all(pipeline, accounts, selection, found, confirm, why=why)

    def check_lexicons(self, *, records: bool) -> LexiconCheck:
        return check_ours(self._open(), records=records)

    def publish_lexicons(self, *, dry_run: bool, why: str) -> Publication:
        return publish_ours(self._open(), dry_run=dry_run, why=why)

    @property
    def _vault(self) -> Vault:
        return open_vault(self._open())

    @property
    def _workers(self) -> int:
        return self._open().settings.ac_concurrent_users

    def _account(self, user: str) -> Account:
        return self._open().accounts.find(user)

    def _accounts(self, users: Users) -> Sequence[Account]:
        return chosen_accounts(self._open(), users)

    def _counted(self, accounts: Sequence[Account], selection: Selection) -> DifferenceCount:
        found = DifferenceCount()
        for each in find_all_differences(self._open(), accounts, selection):
            found.add(each)
        return found

    def _snapshots(self, user: str, ids: Sequence[str]) -> list[Snapshot]:
        pipeline = self._open()
        return chosen_snapshots(pipeline.snapshots, pipeline.accounts, ids=ids, user=user or None)
