"""Snapshots: what a repository held at one commit, kept so that it can be brought back byte by byte.

A snapshot is the CAR as the PDS sent it and every blob that records of the chosen types refer to. It counts only when
everything was read back and verified.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from uuid import uuid4

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.client import PdsClient
from ac_pipeline.atproto.repository import Repository, read_repository
from ac_pipeline.errors import BlobMissing, HeldBack, InvalidRecord, RepositoryUnreadable, SourceMissing
from ac_pipeline.items import BlobRef, Record
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.ledger.audit import MongoAudit
from ac_pipeline.mongo.ledger.collections import MongoSnapshots, Snapshot
from ac_pipeline.renditions.store import SnapshotFiles
from ac_pipeline.sync.engine import Engine
from ac_pipeline.sync.planning.copies import copies_of
from ac_pipeline.wiring import Pipeline

BLOBS_AT_ONCE = 4  # Blobs in memory at a time: they hide the round trips, and a tape's video has at most 50 MB

_NAMED = 5  # Records a message names

Progress = Callable[[str, int, int], None]  # Is given what is being done, how many of it are done, and of how many


def quiet(what: str, done: int, total: int) -> None:
    """A listener to progress that does not care."""


@dataclass(frozen=True, slots=True)
class Vault:
    """All that snapshots, wipes and restores work with; takes, checks and opens snapshots."""

    engine: Engine
    server: PdsClient
    files: SnapshotFiles  # Where repositories and blobs are kept
    index: MongoSnapshots  # Which snapshots there are
    audit: MongoAudit
    spare: Callable[[str], bytes]  # Another place for a blob that the PDS has lost: its bytes, or SourceMissing
    progress: Progress = quiet

    def read(self, did: str) -> tuple[bytes, Repository]:
        """The repository as it is now, as bytes and verified."""
        car = self.server.download_repository(did)
        return car, _verified(car, did)

    def take(
        self,
        account: Account,
        types: Sequence[MediaType],
        read: tuple[bytes, Repository],
        *,
        previous: str | None = None,
        wipe: int | None = None,
    ) -> Snapshot:
        """Keep a repository and the blobs of its records of these types, and read everything back.

        Args:
            read: The repository, as `read` gave it.
            previous, wipe: See `Snapshot`.

        Raises:
            BlobMissing: Nobody has the bytes of a blob. The snapshot stays marked as incomplete.
            Transient: Something could not be read or kept.
        """
        (car, repository), when = read, self.engine.now()
        needed = needed_blobs(repository, types)
        snapshot = Snapshot(
            id=f"{when:%Y%m%dT%H%M%S}-{uuid4().hex[:8]}",
            account=account.id,
            user=account.key,
            did=repository.did,
            when=when,
            types=tuple(media.name for media in types),
            commit=repository.commit,
            repository=self.files.put_repository(car),
            records={media.name: repository.count(media.nsid) for media in types},
            blobs=len(needed),
            bytes=len(car),
            previous=previous,
            wipe=wipe,
            open=wipe is not None,
        )
        self.index.save(snapshot)
        size = self._keep_blobs(repository.did, needed)
        done = replace(snapshot, bytes=len(car) + size, complete=True)
        self.files.put_manifest(done.id, {**done.to_json(), "format": 1, "cids": sorted(needed)})
        self.contents(done)
        self.index.save(done)
        return done

    def contents(self, snapshot: Snapshot) -> Repository:
        """The repository of a snapshot, verified block by block.

        Raises:
            SourceMissing, RepositoryUnreadable: It is gone or damaged.
            HeldBack: It never became complete.
        """
        if not snapshot.complete:
            raise HeldBack(f"Snapshot {snapshot.id} of {snapshot.user} never became complete: it is not used.")
        return self.repository(snapshot)

    def repository(self, snapshot: Snapshot) -> Repository:
        """The same of a snapshot that is to be deleted, complete or not; it is not to be restored from."""
        return _verified(self.files.repository(snapshot.repository), snapshot.did)

    def check(self, snapshot: Snapshot, types: Sequence[MediaType]) -> Repository:
        """Read a whole snapshot back, every blob of these types included; errors as for `contents`."""
        repository = self.contents(snapshot)
        cids = sorted(needed_blobs(repository, [media for media in types if media.name in snapshot.types]))
        with ThreadPoolExecutor(BLOBS_AT_ONCE, thread_name_prefix="snapshot") as pool:
            for done, _ in enumerate(pool.map(lambda cid: len(self.files.blob(cid)), cids), start=1):
                self.progress("Checking the snapshot's blobs", done, len(cids))
        return repository

    def chain(self, snapshot: Snapshot) -> list[Snapshot]:
        """A snapshot and the earlier ones of the same wipe, newest first."""
        found = [snapshot]
        while (previous := found[-1].previous) is not None:
            found.append(self.index.get(previous))
        return found

    def unfinished(self, account: Account) -> Snapshot | None:
        """The newest complete snapshot of a wipe of this account's repository that has not come to its end."""
        found = self.index.find(account=account.id)
        return next((each for each in found if each.open and each.complete and each.did == account.did), None)

    def latest(self, account: Account, types: Sequence[MediaType]) -> Snapshot | None:
        """The newest complete snapshot of this account's repository that holds a record of any of these types."""
        found = (each for each in self.index.find(account=account.id) if each.complete and each.did == account.did)
        return next((each for each in found if any(each.records.get(media.name) for media in types)), None)

    def close(self, account: Account, types: Sequence[MediaType]) -> None:
        """No wipe of these types of this account goes on any more; one of others, too, does for those."""
        names = {media.name for media in types}
        for snapshot in self.index.find(account=account.id):
            ended = tuple(name for name in snapshot.types if name in names or name in snapshot.ended)
            if snapshot.open and ended != snapshot.ended:
                self.index.save(replace(snapshot, ended=ended, open=ended != snapshot.types))

    def _keep_blobs(self, did: str, needed: dict[str, list[str]]) -> int:
        """Copy blobs, a few at a time; their bytes together."""

        def keep(cid: str) -> int | None:
            try:
                data = self.server.get_blob(did, cid)
            except BlobMissing:
                try:
                    data = self.spare(cid)
                except SourceMissing:
                    return None
            self.files.put_blob(cid, data)
            return len(data)

        size, lost, cids = 0, [], sorted(needed)
        with ThreadPoolExecutor(BLOBS_AT_ONCE, thread_name_prefix="snapshot") as pool:
            for done, (cid, kept) in enumerate(zip(cids, pool.map(keep, cids), strict=True), start=1):
                size += kept or 0
                if kept is None:
                    lost.append(cid)
                self.progress("Keeping blobs", done, len(cids))
        if lost:
            paths = sorted({path for cid in lost for path in needed[cid]})
            shown = ", ".join(paths[:_NAMED]) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")
            raise BlobMissing(
                f"{len(lost)} blobs of {did} are kept neither by the PDS nor by the rendition store, so that its "
                f"snapshot cannot be complete: they belong to {shown}. `ac-pipeline verify` names their items."
            )
        return size


def open_vault(pipeline: Pipeline, progress: Progress = quiet) -> Vault:
    files, spare = SnapshotFiles(pipeline.store), pipeline.store.open
    return Vault(pipeline.engine, pipeline.server, files, pipeline.snapshots, pipeline.audit, spare, progress)


def take_snapshot(vault: Vault, account: Account, types: Sequence[MediaType]) -> Snapshot:
    """Keep what the account's repository holds of these types, whatever becomes of it; nothing else is changed.

    Raises:
        Blocked: The account has no repository that can be read.
        BlobMissing, Transient: It did not become complete.
    """
    if account.did is None:
        raise HeldBack(f"{account.key} has no repository: there is nothing to take a snapshot of.")
    return vault.take(account, types, vault.read(account.did))


def blobs_of(record: Record) -> tuple[BlobRef, ...]:
    """Every blob that a record refers to, wherever it stands, each once."""
    return tuple({blob.cid: blob for blob in _blobs(record)}.values())


def _blobs(value: object) -> Iterator[BlobRef]:
    if isinstance(value, dict):
        ref = value.get("ref")
        if value.get("$type") == "blob" and isinstance(ref, dict) and isinstance(ref.get("$link"), str):
            size = value.get("size")
            yield BlobRef(ref["$link"], str(value.get("mimeType")), size if isinstance(size, int) else 0)
            return
        for each in value.values():
            yield from _blobs(each)
    elif isinstance(value, list):
        for each in value:
            yield from _blobs(each)


def needed_blobs(repository: Repository, types: Sequence[MediaType]) -> dict[str, list[str]]:
    """CID of each blob that records of these types, or their copies, refer to -> paths of those records."""
    needed: dict[str, list[str]] = defaultdict(list)
    paths = [f"{media.nsid}/{rkey}" for media in types for rkey, _ in repository.collection(media.nsid)]
    for path in [*paths, *(copy.path for copy in copies_of(repository, types))]:
        try:
            record = repository.value(path)
        except InvalidRecord:  # it has no JSON form: its own bytes are in the CAR
            continue
        for blob in blobs_of(record):
            needed[blob.cid].append(path)
    return dict(needed)


def _verified(car: bytes, did: str) -> Repository:
    repository = read_repository(car)
    if repository.did != did:
        raise RepositoryUnreadable(f"The repository of {repository.did} came for that of {did}. Try again.")
    return repository
