"""What the operators' jobs ask of the pipeline: a small port. Its implementation is `pipeline_operator.py`.

No Dagster here. How answers become tables is `operators/`; what an operation does is `ac_pipeline/operations/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.snapshots import Snapshot
from ac_pipeline.operations.differences import Difference
from ac_pipeline.operations.documents import Lost
from ac_pipeline.operations.erasure import Erasure
from ac_pipeline.operations.flight_plan import FlightPlan
from ac_pipeline.operations.forget import Forgetting
from ac_pipeline.operations.lexicons import LexiconCheck, Publication
from ac_pipeline.operations.links import Examination
from ac_pipeline.operations.restore_plan import RestorePlan
from ac_pipeline.operations.restore_report import RestoreReport
from ac_pipeline.operations.rounds import LeftOut
from ac_pipeline.operations.settling import Accepted
from ac_pipeline.operations.wipe import WipeReport
from ac_pipeline.operations.wipe_plan import WipePlan
from ac_pipeline.sync.agreement import PlannedOperation
from ac_pipeline.sync.report import AccountReport
from ac_pipeline.sync.selection import Selection

Types = Sequence[MediaType]
Users = Sequence[str]
"""Keys, handles, codes, DIDs or Mongo ids; empty for all users."""

Take = Callable[[PlannedOperation], None]
"""Told every operation of a plan."""


class Operator(Protocol):
    """The operations as the jobs see them. Every method raises Misconfigured for a name that fits nobody, Blocked for
    an account that cannot be used, and Transient when something could not be read."""

    def plan(self, users: Users, selection: Selection, relay: int | None, take: Take) -> FlightPlan:
        """The dry run, kept under its hash."""

    def plan_wipe(self, user: str, types: Types) -> WipePlan:
        """What a wipe would delete."""

    def wipe(self, user: str, types: Types, confirm: int, why: str, run_id: str) -> WipeReport:
        """Empty these types of a user after a snapshot; raises Misconfigured when `confirm` is another number."""

    def plan_restore(
        self, user: str, types: Types, source: str, take: Take, *, overwrite: bool = False
    ) -> RestorePlan | FlightPlan:
        """What a restore would bring back: from a snapshot, or as a sync makes it (`mongo`)."""

    def restore(
        self, user: str, types: Types, source: str, why: str, run_id: str, *, overwrite: bool = False
    ) -> RestoreReport:
        """Bring a user's records back, and let them be mirrored again."""

    def snapshot(self, user: str, types: Types) -> Snapshot:
        """Keep what a user's repository holds."""

    def examine(self, users: Users, types: Types) -> Iterator[Examination]:
        """The state of every link and record, user by user."""

    def heal(self, users: Users, types: Types, run_id: str, why: str) -> Iterator[AccountReport]:
        """Carry out the repairs, in the audit before the first."""

    def lost_documents(self, users: Users, types: Types) -> Iterator[Lost | LeftOut]:
        """Documents that Mongo lacks and records have."""

    def restore_documents(self, users: Users, types: Types, confirm: int, why: str) -> Iterator[Lost | LeftOut]:
        """Insert them; raises Misconfigured when `confirm` is another number than can be rebuilt."""

    def erasures(self, users: Users, types: Types) -> Iterator[Erasure | LeftOut]:
        """What was to be erased, and what is left of it."""

    def plan_forgetting(self, user: str, ids: Sequence[str]) -> Forgetting:
        """What deleting these snapshots, or all of a user, would delete; raises HeldBack when they are needed."""

    def forget(self, user: str, ids: Sequence[str], confirm: int, why: str) -> Forgetting:
        """Delete them, in the audit before the first; raises Misconfigured when `confirm` is another number."""

    def differences(self, users: Users, selection: Selection) -> Iterator[Difference | LeftOut]:
        """Records that others changed or deleted; without users, those of the owners of the selected items."""

    def push_ours(
        self, users: Users, selection: Selection, confirm: int, why: str, run_id: str
    ) -> Iterator[AccountReport | LeftOut]:
        """Write ours again; raises Misconfigured when `confirm` is another number than there are differences."""

    def accept_theirs(self, users: Users, selection: Selection, confirm: int, why: str) -> Iterator[Accepted | LeftOut]:
        """Change the documents; raises Misconfigured when `confirm` is another number than can be taken over."""

    def check_lexicons(self, *, records: bool) -> LexiconCheck:
        """Our lexicons beside the published ones, and existing records beside ours."""

    def publish_lexicons(self, *, dry_run: bool, why: str) -> Publication:
        """Lexicons that differ from the published ones, published unless it is a dry run; and the DNS records."""
