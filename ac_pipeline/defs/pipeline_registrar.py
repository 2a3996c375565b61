"""The port of `registrar.py` on a real pipeline, which is opened at the first question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ac_pipeline.defs.opening import OpensPipeline
from ac_pipeline.errors import Misconfigured
from ac_pipeline.operations.accounts import AccountLine, list_accounts
from ac_pipeline.operations.handles import REPAIRABLE, Handle
from ac_pipeline.operations.provision_plan import Planned, ProvisionPlan
from ac_pipeline.operations.provisioning import ProvisionReport
from ac_pipeline.operations.registration import (
    Guest,
    Rotation,
    Told,
    find_guest,
    look_at_handles,
    make_accounts,
    make_guest,
    plan_accounts,
    plan_guest,
    plan_rotation,
    rotate_password,
)
from ac_pipeline.operations.rotation import Rotated
from ac_pipeline.operations.sign_ins import SignedIn, sign_in_as_each
from ac_pipeline.operations.visibility import Visibility, look_from_relay


class PipelineRegistrar(OpensPipeline):
    """The port `Registrar` on a real pipeline."""

    def accounts(self, users: Sequence[str]) -> list[AccountLine]:
        return list_accounts(self._open(), users)

    def sign_ins(self, users: Sequence[str]) -> Iterator[SignedIn]:
        return sign_in_as_each(self._open(), users)

    def visibility(self, *, by_list: bool) -> Visibility:
        return look_from_relay(self._open(), by_list=by_list)

    def plan_accounts(self, users: Sequence[str], limit: int | None) -> ProvisionPlan:
        return plan_accounts(self._open(), users, limit)

    def make_accounts(
        self, users: Sequence[str], limit: int | None, confirm: int, why: str, told: Told
    ) -> ProvisionReport:
        pipeline = self._open()
        return make_accounts(pipeline, plan_accounts(pipeline, users, limit), confirm, why=why, told=told)

    def guest(self) -> Guest:
        return find_guest(self._open())

    def plan_guest(self) -> Planned:
        return plan_guest(self._open())

    def make_guest(self, why: str) -> Guest | ProvisionReport:
        return make_guest(self._open(), why=why)

    def handles(self, users: Sequence[str]) -> list[Handle]:
        return look_at_handles(self._open(), users)

    def repair_handles(self, users: Sequence[str], confirm: int, why: str) -> list[Handle]:
        number = sum(each.state in REPAIRABLE for each in self.handles(users))
        if confirm != number:
            raise Misconfigured(f"{number} handles would be repaired, not {confirm}: nothing was changed.")
        return look_at_handles(self._open(), users, repair=True, why=why)

    def plan_rotation(self, user: str) -> Rotation:
        return plan_rotation(self._open(), user)

    def rotate(self, user: str, why: str) -> Rotated:
        pipeline = self._open()
        return rotate_password(pipeline, plan_rotation(pipeline, user), why=why)
