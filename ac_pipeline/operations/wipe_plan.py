"""What a wipe would do, said before it is done: records, addresses that break, and what it takes (PLAN-5).

Reading and deciding only; carrying it out is `wipe.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import HeldBack, NoCredentials, SourceMissing
from ac_pipeline.media.base import MediaType
from ac_pipeline.mongo.stores import Snapshot
from ac_pipeline.operations.price import Price, price
from ac_pipeline.operations.removals import Records, Removals
from ac_pipeline.operations.snapshot import Vault
from ac_pipeline.sync.copies import COPIED, copies_of, deletion, of_records
from ac_pipeline.sync.plan import Existing, Kind, Operation, existing_records


@dataclass(frozen=True, slots=True)
class WipePlan:
    """What a wipe would do. Nothing was written.

    Args:
        user: Partition key.
        records: Type name -> records that would be deleted; `copies`: those of them in `site.standard.document`.
        undocumented: How many of them no document of the account stands behind: only the snapshot would have them.
        addresses: How many public addresses hold the key of one of them, and break.
        price: What it takes of the PDS.
        unfinished: The snapshot of a wipe of this account that has not come to its end.
        confirmed: What that wipe was told to delete, when it is this one: its number is good for the rest as well.
        hash: sha-256 (hex) of keys and CIDs of all of these records.
    """

    user: str
    records: Mapping[str, int]
    undocumented: int
    addresses: int
    price: Price
    unfinished: str | None
    confirmed: int | None
    hash: str

    @property
    def total(self) -> int:
        return sum(self.records.values())

    def accepts(self, confirm: int | None) -> bool:
        """Whether this number agrees to this plan."""
        return confirm is not None and confirm in (self.total, self.confirmed)

    def to_json(self) -> dict[str, object]:
        values: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return values | {"records": dict(self.records), "total": self.total, "price": self.price.to_json()}


def plan_wipe(vault: Vault, account: Account, types: Sequence[MediaType]) -> WipePlan:
    """What a wipe would do; reads only.

    Raises:
        Blocked: The account cannot be used.
        Transient: Something could not be read.
    """
    _, repository = vault.archive.read(usable(account))
    return decide(vault, account, types, repository, Removals(vault.engine, account, types, ""))


def decide(
    vault: Vault, account: Account, types: Sequence[MediaType], repository: Repository, removals: Removals
) -> WipePlan:
    present = records_of(repository, types)
    copies = copy_deletions(vault, repository, types, present, "wipe")
    operations = [
        Operation(Kind.DELETE, media, record.rkey, "wipe") for media in types for record in present[media.name]
    ] + copies
    unfinished = vault.archive.unfinished(account)
    digest = sha256()
    for media in types:
        for record in present[media.name]:
            digest.update(f"{path_of(media, record)} {record.cid}\n".encode())
    for each in copies:
        digest.update(f"{each.path} {repository.records[each.path]}\n".encode())
    return WipePlan(
        user=account.key,
        records={name: len(records) for name, records in present.items()} | ({COPIED: len(copies)} if copies else {}),
        undocumented=sum(not removals.documented(media, record) for media in types for record in present[media.name]),
        addresses=sum(len(present[media.name]) for media in types if media.addressed_by_key),
        price=price(operations),
        unfinished=unfinished.id if unfinished is not None else None,
        confirmed=_confirmed(vault, unfinished, repository, types),
        hash=digest.hexdigest(),
    )


def _confirmed(
    vault: Vault, unfinished: Snapshot | None, repository: Repository, types: Sequence[MediaType]
) -> int | None:
    """The number an unfinished wipe was started with, while nothing but its own work has changed since."""
    if unfinished is None:
        return None
    try:
        contents = vault.archive.contents(unfinished)
    except (SourceMissing, HeldBack):
        return None
    kept, present = records_of(contents, types), records_of(repository, types)
    whole = holds_all(kept, present, unfinished, types) and holds_copies(contents, repository, types)
    return unfinished.wipe if whole else None


def holds_all(kept: Records, present: Records, snapshot: Snapshot, types: Sequence[MediaType]) -> bool:
    """Whether a snapshot is of these types, and holds every record that is present, byte by byte."""
    if any(media.name not in snapshot.types for media in types):
        return False
    return all(
        {(record.rkey, record.cid) for record in present[media.name]}
        <= {(record.rkey, record.cid) for record in kept[media.name]}
        for media in types
    )


def holds_copies(contents: Repository, repository: Repository, types: Sequence[MediaType]) -> bool:
    """Whether a snapshot holds every copy of records of these types that is present, byte by byte."""
    return all(contents.records.get(copy.path) == copy.cid for copy in copies_of(repository, types))


def copy_deletions(
    vault: Vault, repository: Repository, types: Sequence[MediaType], present: Records, reason: str
) -> list[Operation]:
    """The deletions of all copies of records of these types, unless copies are left alone (AC_ERASE_COPIES)."""
    copies = copies_of(repository, types) if vault.engine.erase_copies else []
    return [
        deletion(media, copy, reason, copy.ref or copy.source or copy.rkey)
        for media in types
        for copy in of_records(copies, media, present[media.name])
    ]


def records_of(repository: Repository, types: Sequence[MediaType]) -> dict[str, list[Existing]]:
    return {media.name: existing_records(repository, media) for media in types}


def path_of(media: MediaType, record: Existing) -> str:
    return f"{media.nsid}/{record.rkey}"


def usable(account: Account) -> str:
    """The account's DID.

    Raises:
        Blocked: It cannot be written to.
    """
    if account.blocked is not None:
        raise account.blocked
    if account.did is None:
        raise NoCredentials(f"{account.key} has no account on the PDS: there is nothing to wipe.")
    return account.did
