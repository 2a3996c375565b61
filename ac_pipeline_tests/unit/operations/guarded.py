"""A world with a vault: snapshots, wipes and restores over ports in memory, and kills at any of their calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import SourceMissing
from ac_pipeline.media.base import MediaType
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.removal.restore import Restore, RestoreReport, find_snapshot, restore_from_mongo
from ac_pipeline.operations.removal.snapshot import Vault
from ac_pipeline.operations.removal.wipe import Wipe, WipePlan, WipeReport
from ac_pipeline.renditions.store import RenditionStore, SnapshotFiles
from ac_pipeline_tests.memory_vault import MemoryAudit, MemorySnapshots
from ac_pipeline_tests.unit.sync.world import World

_stores = itertools.count()


class Killed(BaseException):
    """SIGKILL as a test can have it: nothing that handles errors sees it."""


class Guarded(World):
    """A world and its vault."""

    def __init__(self) -> None:
        super().__init__()
        self.index = MemorySnapshots()
        self.audit = MemoryAudit(self.clock)
        self.store_url = f"memory://guarded-{next(_stores)}"
        self.store = RenditionStore(self.store_url)
        self.files = SnapshotFiles(self.store)
        self.vault = Vault(self.engine, self.pds, self.files, self.index, self.audit, self._spare)
        self.spared: dict[str, bytes] = {}

    def _spare(self, cid: str) -> bytes:
        if cid not in self.spared:
            raise SourceMissing(cid)
        return self.spared[cid]

    def one_of_each(self, user: Account) -> dict[str, str]:
        """A document of every type that the account can have, synchronised; type -> its id."""
        ids = {media.name: self.add(media.name, user) for media in MEDIA_TYPES if media.anonymous or not user.is_guest}
        self.sync(user)
        return ids

    def contents(self, account: Account) -> dict[str, str]:
        """Path -> CID of every record."""
        return dict(self.pds.read_repository(str(account.did)).records)

    def plan(self, account: Account, *types: str) -> WipePlan:
        return Wipe(self.vault, account, medias(types)).plan()

    def wipe(self, account: Account, *types: str, **options: Any) -> WipeReport:
        """A wipe that confirms the number its plan names, unless told otherwise."""
        options.setdefault("confirm", None)
        if options["confirm"] is None:
            options["confirm"] = self.plan(account, *types).total
        self.clock.advance(1)
        return Wipe(self.vault, account, medias(types), "wipe-1", **options).run()

    def restore(self, account: Account, *types: str, source: str = "latest", **options: Any) -> RestoreReport:
        self.clock.advance(1)
        if source == "mongo":
            return restore_from_mongo(self.vault, account, medias(types), run_id="restore-1", **options)
        snapshot = find_snapshot(self.vault, account, medias(types), source)
        return Restore(self.vault, account, medias(types), "restore-1", snapshot=snapshot, **options).run()

    def holds(self, account: Account) -> set[str]:
        return set(self.ledger.holds(account))

    def snapshots(self) -> list[Snapshot]:
        return self.index.find()


def medias(names: Sequence[str]) -> tuple[MediaType, ...]:
    return tuple(media_type(name) for name in names) or MEDIA_TYPES


_CALLS = (
    ("pds", "download_repository"),
    ("pds", "read_repository"),
    ("pds", "get_blob"),
    ("pds", "apply_writes"),
    ("pds", "upload_blob"),
    ("documents", "write_links"),
    ("ledger", "save"),
    ("ledger", "hold"),
    ("ledger", "release"),
    ("index", "save"),
    ("index", "remove"),
    ("files", "remove"),
    ("files", "put_repository"),
    ("files", "put_blob"),
    ("files", "put_manifest"),
)


def killed_at(world: Guarded, call: int, act: Callable[[], object], *, after: bool) -> bool:
    """Do something, killed at its `call`-th call of a port, before the call takes effect or after; whether it came to
    that call at all."""
    count = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _CALLS:
            port = getattr(world, owner)
            patch.setattr(port, name, _deadly(getattr(port, name), count, call, after))
        try:
            act()
        except Killed:
            world.ledger.leases.clear()  # they would expire
            return True
    return False


def _deadly(method: Callable[..., Any], count: Any, call: int, after: bool) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        due = next(count) == call
        if due and not after:
            raise Killed
        answer = method(*args, **kwargs)
        if due:
            raise Killed
        return answer

    return called
