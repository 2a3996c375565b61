"""Forgetting snapshots: what goes with them, what stays for others, and what a kill leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import fsspec
import pytest

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.errors import HeldBack, Misconfigured, ServiceUnreachable, SourceMissing
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.collections import Snapshot
from ac_pipeline.operations.inspection.erasure import kept_in_snapshots
from ac_pipeline.operations.removal.prune import FORGET, Forgetting, forget, of_person, plan_forgetting
from ac_pipeline.operations.removal.snapshot import take_snapshot
from ac_pipeline.renditions.store import Kind
from ac_pipeline_tests.unit.operations.guarded import Guarded, killed_at

WHEN_TEXT = "2025-10-15T12:30:45.123Z"


class Desk(Guarded):
    """A world whose snapshots can be forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.people: list[Account] = []

    def person(self) -> Account:
        made = self.user()
        self.people.append(made)
        return made

    def keep(self, account: Account) -> Snapshot:
        self.clock.advance(1)
        return take_snapshot(self.vault, account, MEDIA_TYPES)

    def planned(self, *snapshots: Snapshot) -> Forgetting:
        return plan_forgetting(self.vault, snapshots, self.people)

    def forget(self, *snapshots: Snapshot, why: str = "") -> Forgetting:
        self.clock.advance(1)
        return forget(self.vault, snapshots, lambda: self.people, why=why)

    def whole(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot could be restored, every blob of it."""
        try:
            self.vault.check(self.index.get(snapshot.id), MEDIA_TYPES)
        except (SourceMissing, HeldBack, Misconfigured):
            return False
        return True

    def kept(self) -> set[str]:
        """Names of all files of snapshots."""
        files, root = fsspec.core.url_to_fs(self.store_url)
        return set(files.find(f"{root}/snapshots"))

    def cids(self, snapshot: Snapshot) -> set[str]:
        return set(self.files.manifest(snapshot.id)["cids"])


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_forgotten_snapshot_leaves_nothing_of_its_own(desk: Desk) -> None:
    """DEL-7, PLAN-5: index entry, manifest, repository and blobs go; the audit tells."""
    ada = desk.person()
    desk.one_of_each(ada)
    snapshot = desk.keep(ada)
    assert snapshot.blobs == 3

    done = desk.forget(snapshot, why="ada asked")

    assert (done.blobs, done.shared, done.last_copies) == (3, 0, 0)
    assert desk.kept() == set()
    assert desk.snapshots() == []
    started, ended = desk.audit.lines
    assert (started.action, started.users, started.why) == (FORGET, (ada.key, str(ada.did)), "ada asked")
    assert ended.outcome == "done"
    assert ended.counts == {"snapshots": 1, "blobs": 3, "last_copies": 0}


def test_blobs_that_another_snapshot_needs_stay(desk: Desk) -> None:
    """PLAN-5: of the same user and of another one, complete or not."""
    ada, bob = desk.person(), desk.person()
    desk.one_of_each(ada)
    first = desk.keep(ada)
    painting = desk.add("painting", ada, slug="another", code="abd")
    desk.renderer.same[painting] = "one picture"
    desk.sync(ada)
    twin = desk.add("painting", bob, slug="twin", code="abe")
    desk.renderer.same[twin] = "one picture"
    desk.sync(bob)
    second, of_bob = desk.keep(ada), desk.keep(bob)

    assert (desk.planned(second).blobs, desk.planned(second).shared) == (0, 4)
    desk.forget(second)
    assert (desk.whole(first), desk.whole(of_bob)) == (True, True)
    desk.index.save(replace(of_bob, complete=False))
    desk.files.remove("manifests", of_bob.id)
    assert desk.forget(first).blobs == 3
    desk.index.save(of_bob)
    assert desk.whole(of_bob)


def test_two_snapshots_of_one_unchanged_repository_share_it(desk: Desk) -> None:
    ada = desk.person()
    desk.one_of_each(ada)
    first, second = desk.keep(ada), desk.keep(ada)
    assert first.repository == second.repository
    desk.forget(second)
    assert desk.whole(first)
    desk.forget(first)
    assert desk.kept() == set()


def test_nothing_is_forgotten_while_a_wipe_is_unfinished(desk: Desk) -> None:
    """PLAN-5: it goes on with its snapshot; neither that nor an older one is touched."""
    ada = desk.person()
    desk.moods(ada, 210)
    desk.one_of_each(ada)
    older = desk.keep(ada)
    assert killed_at(desk, 16, lambda: desk.wipe(ada, confirm=215), after=True)
    (own,) = [each for each in desk.snapshots() if each.open]
    for each in (own, older):
        with pytest.raises(HeldBack, match="unfinished"):
            desk.forget(each)
    assert desk.whole(own)
    assert desk.wipe(ada, confirm=215).clean
    assert desk.forget(older).blobs == 0
    assert desk.whole(own)


def test_the_first_part_of_a_wipe_goes_with_the_second_only(desk: Desk) -> None:
    ada = desk.person()
    desk.one_of_each(ada)
    first = desk.keep(ada)
    second = replace(desk.keep(ada), previous=first.id)
    desk.index.save(second)
    with pytest.raises(HeldBack, match="forget both"):
        desk.planned(first)
    desk.forget(first, second)
    assert desk.kept() == set()


def test_last_copies_are_counted_before_they_go(desk: Desk) -> None:
    """PLAN-5: records that are neither on the PDS nor in another snapshot, and have no document."""
    ada = desk.person()
    desk.one_of_each(ada)
    desk.put(ada, "mood", "3jzfcijpj2z2a", {"mood": "nobody's", "when": WHEN_TEXT})
    first, second = desk.keep(ada), desk.keep(ada)
    assert desk.planned(first, second).last_copies == 0
    desk.wipe(ada)
    assert desk.planned(first, second).last_copies == 0, "the wipe's own snapshot has it"
    assert desk.planned(*desk.snapshots()).last_copies == 1


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_anywhere_is_made_good_by_the_same_call(after: bool) -> None:
    """PLAN-5: what is half gone is never restored from; what stays is whole after each step."""
    for call in range(1, 100):
        desk = Desk()
        ada = desk.person()
        desk.one_of_each(ada)
        stays = desk.keep(ada)
        desk.add("painting", ada, slug="another", code="abd")
        desk.sync(ada)
        goes = desk.keep(ada)
        killed = killed_at(desk, call, partial(desk.forget, goes), after=after)
        assert desk.whole(stays), f"call {call}"
        if any(each.id == goes.id for each in desk.snapshots()):
            assert desk.index.get(goes.id) == goes or not desk.index.get(goes.id).complete
            desk.forget(goes)
        assert desk.snapshots() == [stays]
        assert desk.whole(stays)
        assert len(desk.kept()) == 3 + 2, f"call {call}: three blobs, a repository and a manifest"
        if not killed:
            break
    assert call > 3


def test_a_snapshot_that_is_taken_meanwhile_keeps_its_blobs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """PLAN-5: it had found them there."""
    ada, bob = desk.person(), desk.person()
    for user in (ada, bob):
        same = desk.add("painting", user, slug=f"of-{user.key}")
        desk.renderer.same[same] = "one picture"
        desk.sync(user)
    of_ada = desk.keep(ada)
    taken: list[Snapshot] = []
    remove = desk.files.remove

    def meanwhile(kind: Kind, name: str) -> None:
        if kind == "blobs" and not taken:
            taken.append(desk.keep(bob))
        remove(kind, name)

    monkeypatch.setattr(desk.files, "remove", meanwhile)
    done = desk.forget(of_ada)
    assert (done.blobs, done.shared) == (0, 1)
    assert desk.whole(taken[0])


def test_a_damaged_snapshot_that_stays_keeps_everything(desk: Desk) -> None:
    """PLAN-5: which blobs it needs is not known, so that none is taken for superfluous."""
    ada = desk.person()
    desk.one_of_each(ada)
    damaged, other = desk.keep(ada), desk.keep(ada)
    desk.files.remove("manifests", damaged.id)
    assert desk.planned(other).blobs == 0, "its repository tells as well"
    desk.files.remove("repositories", damaged.repository)
    with pytest.raises(SourceMissing, match=f"snapshot {damaged.id}"):
        desk.forget(other)
    assert len(desk.snapshots()) == 2
    done = desk.forget(damaged)
    assert (done.lost, done.blobs) == ((damaged.id,), 0)
    assert desk.cids(other)


def test_one_that_never_became_complete_can_be_forgotten(desk: Desk) -> None:
    ada = desk.person()
    desk.one_of_each(ada)
    snapshot = desk.keep(ada)
    desk.index.save(replace(snapshot, complete=False))
    desk.files.remove("manifests", snapshot.id)
    assert desk.forget(snapshot).blobs == 3
    assert desk.kept() == set()


def test_when_the_store_is_away_the_audit_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = desk.person()
    desk.one_of_each(ada)
    snapshot = desk.keep(ada)

    def away(kind: Kind, name: str) -> None:
        raise ServiceUnreachable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(desk.files, "remove", away)
        with pytest.raises(ServiceUnreachable):
            desk.forget(snapshot)
    assert desk.audit.lines[-1].outcome == "failed: the store is away"
    assert [each.complete for each in desk.snapshots()] == [False]
    desk.forget(desk.snapshots()[0])
    assert desk.kept() == set()


# ------------------------------------------------------------------------------------------------------------ whose


def of(id: str, account: str, user: str = "ada", **fields: Any) -> Snapshot:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    return Snapshot(id, account, user, f"did:plc:{account}", when, ("mood",), "c", "r", {"mood": 2}, **fields)


def test_a_purged_users_snapshots_are_found_by_what_they_were_called() -> None:
    """DEL-7: by key, DID or Mongo id; a key that several people had is refused."""
    kept = [of("a", "one"), of("b", "one"), of("c", "two", "bob")]
    for name in ("ada", "ADA", "did:plc:one", "one"):
        assert [each.id for each in of_person(kept, name, None)] == ["a", "b"]
    with pytest.raises(Misconfigured, match="'eve'"):
        of_person(kept, "eve", None)
    with pytest.raises(Misconfigured, match="did:plc:one, did:plc:three"):
        of_person([*kept, of("d", "three")], "ada", None)
    namesake = Account("new", "ada", did="did:plc:new")
    assert of_person(kept, "ada", namesake) == [], "who has the key now is somebody else"


@pytest.mark.parametrize(
    ("accounts", "everybody", "pending"),
    [
        ([Account("one", "ada")], True, ["snapshot:c"]),
        ([Account("one", "ada", pending_deletion=LEAVING)], True, ["snapshot:a", "snapshot:c"]),
        ([Account("one", "ada", pending_deletion=LEAVING)], False, ["snapshot:a"]),
        ([Account("one", "ada"), Account("two", "bob")], True, []),
    ],
)
def test_snapshots_of_whoever_leaves_or_has_gone_are_pending_erasures(
    accounts: Sequence[Account], everybody: bool, pending: list[str]
) -> None:
    """DEL-7: with the command that ends it."""
    found = list(kept_in_snapshots([of("a", "one"), of("c", "two", "bob")], accounts, everybody=everybody))
    assert [each.item for each in found] == pending
    assert all(each.pending and "2 records" in each.reason and "snapshots --forget" in each.reason for each in found)
