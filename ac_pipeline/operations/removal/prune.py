"""Forgetting snapshots: index entry, manifest, repository and the blobs that no other snapshot needs (DEL-7).

What is deleted is said beforehand. A kill in between leaves a snapshot that no restore uses, and the same command does
the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from ac_pipeline.accounts import Account
from ac_pipeline.errors import AccountInactive, AccountUnknown, HeldBack, Misconfigured, SourceMissing
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.declare import Report, Table, Work, declared
from ac_pipeline.operations.parameters import OfOneUser, OfTypes, Parameters, confirm_option, option, why_option
from ac_pipeline.operations.removal.snapshot import Vault, needed_blobs, open_vault, take_snapshot
from ac_pipeline.operations.removal.wipe import Removals, path_of
from ac_pipeline.sync.planning.plan import existing_records

FORGET = "forget-snapshots"  # The action, in the audit

_AT_ONCE = 4
"""Blobs deleted between two looks at the index; a tape's video has at most 50 MB, and they are in memory meanwhile."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What forgetting some snapshots would delete, or has deleted."""

    snapshots: tuple[Snapshot, ...]  # The snapshots, newest first
    blobs: int  # How many blobs go with them
    shared: int  # How many of their blobs stay, because other snapshots need them
    # Records of theirs that neither the PDS nor another snapshot has, and that no document in Mongo stands behind: with
    # the snapshots they are gone for good
    last_copies: int
    # Snapshots that are so damaged that nobody knows which blobs were theirs; such blobs stay
    lost: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "snapshots": [each.to_json() for each in self.snapshots],
            "blobs": self.blobs,
            "shared_blobs": self.shared,
            "last_copies": self.last_copies,
            "lost": list(self.lost),
        }


def of_person(snapshots: Iterable[Snapshot], name: str, account: Account | None) -> list[Snapshot]:
    """Every snapshot of a user, of a purged one too: where the platform does not know them any more (`account` is
    None), `name` has to be the partition key they had, their DID or their Mongo id. Raises Misconfigured where there is
    none, or several people had this key."""
    if account is not None:
        return [each for each in snapshots if each.account == account.id]
    found = [each for each in snapshots if name.lower() in (each.user, each.did) or name == each.account]
    if not found:
        raise Misconfigured(f"No account and no snapshot is {name!r}'s; `ac-pipeline snapshots` lists whose there are.")
    if len({each.account for each in found}) > 1:
        dids = ", ".join(sorted({each.did for each in found}))
        raise Misconfigured(f"Several people had the key {name!r}: say which of {dids}.")
    return found


def plan_forgetting(vault: Vault, snapshots: Sequence[Snapshot], accounts: Sequence[Account]) -> Forgetting:
    """What forgetting these snapshots would delete, where these are all accounts; reads only. Raises HeldBack where a
    wipe, or a later snapshot of the same wipe, needs one of them; SourceMissing where a snapshot that stays is damaged:
    which blobs it needs is not known."""
    chosen, owners = tuple(snapshots), {account.id: account for account in accounts}
    _refuse(vault, chosen, owners)
    needs, lost = _needs(vault, chosen)
    kept = _kept(vault, {each.id for each in chosen})
    return Forgetting(
        chosen,
        len(needs - kept),
        len(needs & kept),
        sum(
            _last_copies(vault, owners[id], [each for each in chosen if each.account == id])
            for id in {each.account for each in chosen} & owners.keys()
        ),
        lost,
    )


def forget(
    vault: Vault, snapshots: Sequence[Snapshot], accounts: Callable[[], Sequence[Account]], *, why: str = ""
) -> Forgetting:
    """Delete snapshots with everything that only they need, in the audit before it starts; `accounts` reads all
    accounts of the platform. Errors as for `plan_forgetting`: nothing was deleted, or the same call does the rest."""
    if not snapshots:
        return Forgetting((), 0, 0, 0)
    with ExitStack() as stack:
        for did in sorted({each.did for each in snapshots}):
            stack.enter_context(vault.engine.ledger.lease(did, vault.engine.holder))
        current = tuple(vault.index.get(each.id) for each in snapshots)
        plan = plan_forgetting(vault, current, accounts())
        owners = {each.account: Account(each.account, each.user, did=each.did) for each in current}
        counts = {"snapshots": len(current), "blobs": plan.blobs, "last_copies": plan.last_copies}
        types = [media.name for media in MEDIA_TYPES if any(media.name in each.types for each in current)]
        with vault.audit.during(FORGET, list(owners.values()), types, why=why, counts=counts) as audited:
            for each in current:
                vault.index.save(replace(each, complete=False, open=False))  # from now on no restore uses it
            needs, _ = _needs(vault, current)
            going = {each.id for each in current}
            gone = _delete_blobs(vault, needs, going)
            # CARs that only these are; a snapshot that is being taken reads its own back in the end.
            used = {each.repository for each in vault.index.find() if each.id not in going}
            for digest in sorted({each.repository for each in current} - used):
                vault.files.remove("repositories", digest)
            for each in current:
                vault.files.remove("manifests", each.id)
                vault.index.remove(each.id)
            audited.counts.update(counts, blobs=gone)
    return replace(plan, blobs=gone, shared=plan.shared + plan.blobs - gone)


def _refuse(vault: Vault, chosen: Sequence[Snapshot], accounts: dict[str, Account]) -> None:
    ids = {each.id for each in chosen}
    for each in chosen:
        owner = accounts.get(each.account)
        unfinished = vault.unfinished(owner) if owner is not None and owner.did is not None else None
        if unfinished is not None:
            raise HeldBack(
                f"A wipe of {each.user} is unfinished and goes on with snapshot {unfinished.id}: end it with "
                f"`ac-pipeline wipe {each.user}`, which names the number to confirm, or undo it with "
                f"`ac-pipeline restore {each.user} --from {unfinished.id}`. Nothing was forgotten."
            )
        for other in vault.index.find(account=each.account):
            if other.previous == each.id and other.id not in ids:
                raise HeldBack(
                    f"Snapshot {other.id} is a later part of the same wipe and cannot be restored without {each.id}: "
                    "forget both. Nothing was forgotten."
                )


def _needs(vault: Vault, snapshots: Iterable[Snapshot]) -> tuple[set[str], tuple[str, ...]]:
    """CIDs of the blobs of snapshots that are to go, and those of which nobody can say."""
    found, lost = set[str](), list[str]()
    for each in snapshots:
        try:
            found |= _cids(vault, each)
        except SourceMissing:
            lost.append(each.id)
    return found, tuple(lost)


def _kept(vault: Vault, without: Collection[str]) -> set[str]:
    """CIDs of the blobs that all other snapshots need, unfinished ones included."""
    found: set[str] = set()
    for each in vault.index.find():
        if each.id not in without:
            try:
                found |= _cids(vault, each)
            except SourceMissing as error:
                raise SourceMissing(
                    f"Which blobs snapshot {each.id} of {each.user} needs cannot be read, so none can be deleted: "
                    f"{error.message} If it is of no use, forget it first or together with the others."
                ) from error
    return found


def _cids(vault: Vault, snapshot: Snapshot) -> set[str]:
    """From the manifest; a snapshot that never became complete has none, but its repository."""
    try:
        listed = vault.files.manifest(snapshot.id).get("cids")
    except SourceMissing:
        listed = None
    if isinstance(listed, list):
        return {str(cid) for cid in listed}
    types = [media for media in MEDIA_TYPES if media.name in snapshot.types]
    return set(needed_blobs(vault.repository(snapshot), types))


def _delete_blobs(vault: Vault, needs: set[str], going: set[str]) -> int:
    """Delete what no other snapshot needs; how many that were.

    A snapshot that is being taken enters the index before it looks for its blobs. So after each few deletions the
    index is asked once more, and what a new one needs is put back: it had found it there.
    """
    known = {each.id for each in vault.index.find()}
    doomed = sorted(needs - _kept(vault, going))
    gone = 0
    for first in range(0, len(doomed), _AT_ONCE):
        held: dict[str, bytes] = {}
        for cid in doomed[first : first + _AT_ONCE]:
            with suppress(SourceMissing):  # gone already, or damaged: of no use to anybody
                held[cid] = vault.files.blob(cid)
            vault.files.remove("blobs", cid)
            gone += 1
        if {each.id for each in vault.index.find()} - known:
            for cid in _kept(vault, going) & held.keys():
                vault.files.put_blob(cid, held[cid])
                gone -= 1
        vault.progress("Deleting blobs", min(first + _AT_ONCE, len(doomed)), len(doomed))
    return gone


def _last_copies(vault: Vault, account: Account, snapshots: Sequence[Snapshot]) -> int:
    """Records of these snapshots of an account that would be gone for good."""
    elsewhere: set[tuple[str, str]] = set()
    if account.did is not None:
        with suppress(AccountUnknown, AccountInactive):
            elsewhere = set(vault.engine.server.read_repository(account.did).records.items())
    ids = {each.id for each in snapshots}
    for other in vault.index.find(account=account.id):
        if other.id not in ids and other.complete:
            try:
                elsewhere |= set(vault.contents(other).records.items())
            except SourceMissing:  # a damaged one is no other copy
                continue
    removals = Removals(vault.engine, account, MEDIA_TYPES, "")
    alone: set[tuple[str, str]] = set()
    for each in snapshots:
        try:
            repository = vault.repository(each)
        except SourceMissing:
            continue
        for media in MEDIA_TYPES:
            for record in existing_records(repository, media) if media.name in each.types else ():
                path = path_of(media, record)
                if removals.document(media, record) is None and (path, record.cid) not in elsewhere:
                    alone.add((f"{media.name} {path}", record.cid))
    return len(alone)


def snapshots_table(name: str, found: Iterable[Snapshot]) -> Table:
    table = Table(name, ("snapshot", "user", "taken", "records", "blobs", "bytes", "for", "usable"))
    for each in found:
        purpose = "" if each.wipe is None else "a wipe, unfinished" if each.open else "a wipe"
        shown = {
            "snapshot": each.id,
            "taken": f"{each.when:%Y-%m-%d %H:%M:%S}",
            "for": purpose,
            "usable": "yes" if each.complete else "no: incomplete",
        }
        table.add({**each.to_json(), **shown, "records": sum(each.records.values())})
    return table


class TakeParameters(OfOneUser, OfTypes):
    """Whose repository to keep."""


@declared("snapshot", "take_snapshot", "take_one_snapshot")
def run_take(work: Work, parameters: TakeParameters) -> Report:
    """Keep what a user's repository holds, records and blobs, and verify it by reading it back.

    Nothing else is changed. `ac-pipeline restore USER --from SNAPSHOT` brings it back.
    """
    account = parameters.account(work.pipeline)
    taken = take_snapshot(open_vault(work.pipeline, work.progress), account, parameters.media)
    return Report(
        f"Snapshot {taken.id} of {taken.user}: {sum(taken.records.values())} records, {taken.blobs} blobs, "
        f"{taken.bytes} bytes.",
        taken.to_json(),
        [snapshots_table("snapshot", [taken])],
        {"snapshot": taken.id, "user": taken.user, "blobs": taken.blobs, "bytes": taken.bytes},
    )


class SnapshotsParameters(Parameters):
    user: str = option("", "List only those of this user.", metavar="KEY")
    limit: int = option(0, "List the newest so many only; 0 for all.", metavar="N", ge=0)
    snapshots: list[str] = option([], "Delete this snapshot.", name="--forget", metavar="ID")
    forget_user: str = option("", "Delete every snapshot of this user, or of a purged one's DID.", metavar="KEY")
    confirm: int | None = confirm_option("snapshots")
    why: str = why_option()


@declared("snapshots", "forget_snapshots", "forget_some_snapshots")
def run_snapshots(work: Work, parameters: SnapshotsParameters) -> Report:
    """List the snapshots, newest first; or delete some for good, with the records and blobs that no other snapshot
    needs: the last step of an erasure.

    Without a confirmation it only says what would be deleted.
    """
    pipeline, ids, user = work.pipeline, parameters.snapshots, parameters.forget_user.strip()
    if ids and user:
        raise Misconfigured("Nothing was deleted: name either snapshots or the user whose snapshots shall go.")
    if not (ids or user):
        if parameters.confirm is not None:
            raise Misconfigured("Nothing was deleted: name the snapshots, or the user whose snapshots shall go.")
        whose = pipeline.accounts.find(parameters.user).id if parameters.user else None
        found = pipeline.snapshots.find(account=whose, limit=parameters.limit or None)
        return Report(
            f"{len(found)} snapshots.", [each.to_json() for each in found], [snapshots_table("snapshots", found)]
        )
    vault = open_vault(pipeline, work.progress)
    if user:
        try:
            account = pipeline.accounts.find(user)
        except Misconfigured:  # as after a purge
            account = None
        chosen = of_person(pipeline.snapshots.find(), user, account)
    else:
        chosen = [pipeline.snapshots.get(id) for id in dict.fromkeys(ids)]
    if not parameters.confirms(len(chosen)):
        plan = plan_forgetting(vault, chosen, pipeline.accounts.all())
        return _forgetting(f"{len(chosen)} snapshots would be deleted.", plan, confirm=len(chosen), exit_code=2)
    done = forget(vault, chosen, pipeline.accounts.all, why=parameters.why)
    return _forgetting(f"{len(done.snapshots)} snapshots were deleted.", done)


def _forgetting(headline: str, found: Forgetting, *, confirm: int | None = None, exit_code: int = 0) -> Report:
    lines = [f"{found.blobs} blobs go with them; {found.shared} stay, because other snapshots need them."]
    if found.last_copies:
        lines.append(
            f"{found.last_copies} records are neither on the PDS nor in another snapshot, and have no document in "
            "Mongo: these are their last copies."
        )
    lines += [
        f"Which blobs snapshot {id} had cannot be read any more: blobs that were only its stay in the store."
        for id in found.lost
    ]
    facts = {"blobs": found.blobs, "shared_blobs": found.shared, "last_copies": found.last_copies}
    tables = [snapshots_table("snapshots", found.snapshots)]
    return Report(headline, found.to_json(), tables, facts, lines, confirm=confirm, exit_code=exit_code)
