"""Everything that was read of one account, and what shall happen to it: what the parts of the engine hand around.

Values only. Filled by `reading.py`, decided by `planner.py`, carried out by `engine.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import AccountInactive, AccountUnknown
from ac_pipeline.items import BlobRef, Derived, Failure, LedgerEntry, RepositoryMark, State
from ac_pipeline.media.base import Document, MediaType
from ac_pipeline.sync.plan import Existing, Operation, TypePlan, Wanted, existing_records
from ac_pipeline.sync.render import Made

_SEEN_BY_READING = frozenset({AccountInactive.code, AccountUnknown.code})
"""Reasons to be blocked that are over where the repository can be read."""


@dataclass(slots=True)
class AccountPlan:
    """Everything that was read of one account, and what shall happen to it.

    Args:
        made: What came of asking the renderer, which is not asked again; None to ask it as the account is read.
        mark: How the last sync left the repository, or None.
        types: The types it is about.
        base: Revision of the repository when it was last read as a whole.
        existing: Its records as they were read, decoded once; given up as soon as the plan is made.
        refused: Paths of operations that did not happen in this run and are not sent again.
        unsettled: Items of which a write was refused, so that no copy of their records is given up.
        changed: Names of the types this run has written to.
        remade: Path -> what was derived anew in this run because the store had lost its bytes.
        uploaded: CIDs of blobs this run has uploaded.
        stand_ins: CID of a blob that stands in for a lost one in one commit -> the lost one.
        aside: Operations that were not agreed to and are not done in this run, by kind and path.
        erase_copies: Whether copies of erased work in `site.standard.document` go too.
    """

    account: Account
    made: Made | None = None
    mark: RepositoryMark | None = None
    repository: Repository | None = None
    types: tuple[MediaType, ...] = ()
    base: str = ""
    documents: dict[str, list[Document]] = field(default_factory=dict)
    selected: dict[str, set[str]] = field(default_factory=dict)
    entries: dict[str, dict[str, LedgerEntry]] = field(default_factory=dict)
    wanted: dict[str, list[Wanted]] = field(default_factory=dict)
    gone: dict[str, Mapping[str, str]] = field(default_factory=dict)
    plans: list[TypePlan] = field(default_factory=list)
    existing: dict[str, list[Existing]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unsettled: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    remade: dict[str, Derived] = field(default_factory=dict)
    uploaded: set[str] = field(default_factory=set)
    stand_ins: dict[str, BlobRef] = field(default_factory=dict)
    aside: dict[tuple[str, str], Operation] = field(default_factory=dict)
    erase_copies: bool = True

    def take(self, repository: Repository) -> None:
        """The repository was read as a whole."""
        self.repository, self.base = repository, repository.rev

    def records(self, media: MediaType) -> list[Existing]:
        """The records of one type; none when no repository was read."""
        if media.name not in self.existing and self.repository is not None:
            self.existing[media.name] = existing_records(self.repository, media)
        return self.existing.get(media.name, [])

    def operations(self) -> list[Operation]:
        return [operation for plan in self.plans for operation in plan.operations]

    def refusal(self) -> Failure | None:
        """Why the PDS refused the account's last writes, which reading it cannot tell; None once its credentials are
        others than those that were refused."""
        found = (entry for entries in self.entries.values() for entry in entries.values())
        return next(
            (
                entry.failure
                for entry in sorted(found, key=lambda each: each.item)
                if entry.state is State.BLOCKED
                and entry.failure is not None
                and entry.failure.payload_hash == self.account.credentials
                and entry.failure.error_class not in _SEEN_BY_READING
            ),
            None,
        )
