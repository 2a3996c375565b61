"""What the account jobs ask of the pipeline: a small port. Its implementation is `pipeline_registrar.py`.

No Dagster here, and no password in any answer (ACCT-5). How answers become tables is `operators/accounts.py` and
`operators/registrations.py`; what is done is `ac_pipeline/operations/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ac_pipeline.operations.accounts import AccountLine
from ac_pipeline.operations.handles import Handle
from ac_pipeline.operations.provision_plan import Planned, ProvisionPlan
from ac_pipeline.operations.provisioning import ProvisionReport
from ac_pipeline.operations.registration import Guest, Rotation, Told
from ac_pipeline.operations.rotation import Rotated
from ac_pipeline.operations.sign_ins import SignedIn
from ac_pipeline.operations.visibility import Visibility


class Registrar(Protocol):
    """Accounts as the jobs see them. `users` are keys, handles, codes, DIDs or Mongo ids; empty for all. Every method
    raises Misconfigured for a name that fits nobody and for settings that are missing or wrong, and Transient when
    something could not be read."""

    def accounts(self, users: Sequence[str]) -> list[AccountLine]:
        """Every account with its state and reason."""

    def sign_ins(self, users: Sequence[str]) -> Iterator[SignedIn]:
        """How a sign-in as each account ends."""

    def visibility(self, *, by_list: bool) -> Visibility:
        """What the PDS and the relay of AC_RELAY_URL say of every account."""

    def plan_accounts(self, users: Sequence[str], limit: int | None) -> ProvisionPlan:
        """Who would get an account."""

    def make_accounts(
        self, users: Sequence[str], limit: int | None, confirm: int, why: str, told: Told
    ) -> ProvisionReport:
        """Make them, in the audit before the first; raises Misconfigured when `confirm` is another number."""

    def guest(self) -> Guest:
        """Whether there is a guest account."""

    def plan_guest(self) -> Planned:
        """What it would be called."""

    def make_guest(self, why: str) -> Guest | ProvisionReport:
        """Make it where there is none."""

    def handles(self, users: Sequence[str]) -> list[Handle]:
        """The handles of accounts on platform, PDS and in Mongo."""

    def repair_handles(self, users: Sequence[str], confirm: int, why: str) -> list[Handle]:
        """Repair them, in the audit before; raises Misconfigured when `confirm` is not the number that differ."""

    def plan_rotation(self, user: str) -> Rotation:
        """Whose password would be changed."""

    def rotate(self, user: str, why: str) -> Rotated:
        """Change it, in the audit before; raises what `operations/rotation.py` says."""
