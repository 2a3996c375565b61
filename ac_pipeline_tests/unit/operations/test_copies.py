"""Copies of erased work in `site.standard.document`: they go with it, and nothing else does (ERASE-1)."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import RecordRefused, RepositoryUnreadable
from ac_pipeline.items import RepositoryCheckpoint
from ac_pipeline.media.registry import MEDIA_TYPES, media_type
from ac_pipeline.operations.inspection.erasure import Erasure, Erasures
from ac_pipeline.operations.plan import apply_part
from ac_pipeline.sync.costs import user_cost
from ac_pipeline.sync.planning.plan import COPIES
from ac_pipeline.sync.selection import Selection, planned
from ac_pipeline.sync.verify import verify
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.unit.operations.guarded import Guarded


class Copied(Guarded):
    """A world in which another program copies records."""

    def copy(self, account: Account, type: str, document: str | None, rkey: str, **changes: Any) -> str:
        """A copy as the platform's script makes one, of the record of a document; a change to `...` leaves a field
        out. Its key."""
        nsid = media_type(type).nsid
        link = self.link(type, document) if document is not None else None
        text = self.document(type, document).fields.get("mood") if document is not None else "text"
        value = {
            "$type": COPIES,
            "site": "https://aesthetic.computer",
            "path": f"/mood/{link.rkey if link else 'none'}",
            "title": text,
            "textContent": text,
            "publishedAt": "2026-01-02T03:04:05.000Z",
            "sourceAtUri": link.uri if link else ...,
            "sourceCollection": nsid,
            "sourceRef": document if document is not None else ...,
            **changes,
        }
        record = {name: field for name, field in value.items() if field is not ...}
        MemoryPds.apply_writes(self.pds, account, [Write("create", COPIES, rkey, record)], swap_commit=None)
        return rkey

    def copies(self, account: Account) -> set[str]:
        return {path.removeprefix(f"{COPIES}/") for path in self.pds.records(account) if path.startswith(COPIES)}

    def nuke(self, type: str, document: str) -> None:
        self.change(type, document, nuked=True)

    def erasure(self, account: Account, **selection: Any) -> list[Erasure]:
        """What is still there."""
        look = Erasures(self.documents, self.pds, self.ledger, self.store)
        return [each for each in look.of(account, Selection(**selection)) if each.pending]


@pytest.fixture
def world() -> Copied:
    return Copied()


def two_moods(world: Copied) -> tuple[Account, str, str]:
    user = world.user()
    erased, live = world.moods(user, 2)
    world.sync(user)
    return user, erased, live


def test_a_copy_goes_with_its_record_and_nothing_else_does(world: Copied) -> None:
    """ERASE-1: in the same commit; copies of live items, of other repositories and foreign documents stay."""
    user, erased, live = two_moods(world)
    other = world.user()
    link = world.link("mood", erased)
    assert link is not None
    world.copy(user, "mood", erased, "erased1")
    world.copy(user, "mood", erased, "erased2")
    world.copy(user, "mood", live, "live")
    world.copy(user, "mood", erased, "elsewhere", sourceAtUri=str(link.uri).replace(str(user.did), str(other.did)))
    world.copy(user, "mood", None, "paper", sourceAtUri=f"at://{user.did}/computer.aesthetic.paper/x")
    world.copy(user, "mood", None, "own", sourceCollection=..., textContent="mood 0")
    world.nuke("mood", erased)
    uris = {f"at://{user.did}/{COPIES}/{rkey}" for rkey in ("erased1", "erased2")}
    (found,) = world.erasure(user)
    assert (found.item, set(found.copies), len(found.records)) == (f"mood:{erased}", uris, 1)
    assert set(found.to_json()["copies"]) == uris  # type: ignore[call-overload]

    batches = len(world.pds.batches(user))
    report = world.sync(user)
    assert (report.tally("mood").deleted, report.tally("mood").copies_removed, report.failures) == (1, 2, [])
    assert len(world.pds.batches(user)) == batches + 1
    assert world.copies(user) == {"live", "elsewhere", "paper", "own"}
    assert world.erasure(user) == []
    with world.quiet():
        assert world.sync(user).tally("mood").unchanged == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"sourceRef": ...},
        {"sourceRef": ..., "sourceCollection": ...},
        {"sourceAtUri": ...},
        {"sourceAtUri": ..., "sourceCollection": ...},
        {"sourceCollection": "org.example.wrong"},
    ],
    ids=["uri", "uri alone", "document", "document alone", "wrong collection beside the uri"],
)
@pytest.mark.parametrize("when", ["before", "after", "long after"])
@pytest.mark.parametrize("how", ["nuked", "deleted"])
def test_a_copy_is_recognised_by_whatever_it_names(world: Copied, how: str, when: str, changes: dict[str, Any]) -> None:
    """ERASE-1: with the record, after a deletion that left it, and when nothing else has to be done."""
    user, erased, live = two_moods(world)
    world.copy(user, "mood", erased, "copy", **changes)
    world.copy(user, "mood", live, "live", **changes)
    world.engine.erase_copies = when == "before"
    if how == "nuked":
        world.nuke("mood", erased)
    else:
        world.documents.remove(media_type("mood"), erased)
    world.sync(user)
    if when == "long after":
        world.sync(user)
    if when != "before":
        assert world.copies(user) == {"copy", "live"}
        assert [each.copies for each in world.erasure(user)] == [(f"at://{user.did}/{COPIES}/copy",)]
        world.engine.erase_copies = True
        assert world.sync(user).tally("mood").copies_removed == 1
    assert world.copies(user) == {"live"}
    assert world.erasure(user) == []


def test_a_repository_that_an_earlier_version_left_in_order_is_read_once(world: Copied) -> None:
    """ERASE-1, VERIFY-11: a copy of work erased long ago is seen by a sync that has nothing else to do."""
    user = world.user()
    (erased,) = world.moods(user, 1)
    world.sync(user)
    world.copy(user, "mood", erased, "copy")
    world.engine.erase_copies = False
    world.nuke("mood", erased)
    world.sync(user)
    mark = world.ledger.checkpoint(str(user.did))
    assert mark is not None
    withdrawn = json.dumps([erased, "withdrawn"]).encode()
    earlier = {name: sha256(b"1" + (withdrawn if name == "mood" else b"")).hexdigest() for name in mark.settled}
    world.ledger.keep_checkpoint(RepositoryCheckpoint(mark.did, mark.rev, mark.at, earlier, mark.counts))
    world.engine.erase_copies = True
    world.sync(user)
    assert world.copies(user) == set()
    read = world.pds.count("read_repository")
    world.sync(user)
    assert world.pds.count("read_repository") == read


def test_a_copy_of_a_live_item_stays_whatever_became_of_its_record(world: Copied) -> None:
    """ERASE-1: its record was a duplicate, or has another key by now, or names its document otherwise."""
    user, _, live = two_moods(world)
    record = {"mood": "mood 1", "when": "2025-10-15T12:30:46.000Z", "mongoId": live}
    duplicate = world.put(user, "mood", "3kaaaaaaaaaa2", record)
    uri = f"at://{user.did}/computer.aesthetic.mood/{duplicate}"
    world.copy(user, "mood", live, "of-the-duplicate", sourceAtUri=uri, sourceRef=...)
    world.copy(user, "mood", live, "old-id", sourceRef="65f0c0ffee65f0c0ffee65f0")
    assert world.sync(user).tally("mood").duplicates_removed == 1
    for _ in range(2):
        assert world.sync(user, full=True).tally("mood").copies_removed == 0
    assert world.copies(user) == {"of-the-duplicate", "old-id"}
    assert world.erasure(user) == []


def test_a_program_that_came_back_under_another_id_keeps_its_copy(world: Copied) -> None:
    """ERASE-1: rows of KidLisp are made anew; its code tells the program."""
    user = world.user()
    old = world.add("kidlisp", user)
    world.sync(user)
    world.copy(user, "kidlisp", old, "copy", path="/$cow", title="KidLisp cow", textContent="(wipe blue)")
    world.documents.remove(media_type("kidlisp"), old)
    world.add("kidlisp", user)
    world.add("kidlisp", user, code="dog", source="(wipe red)")
    world.sync(user)
    world.sync(user, full=True)
    assert world.copies(user) == {"copy"}


def test_copies_stay_while_the_database_is_doubted(world: Copied) -> None:
    """ERASE-1, DEL-5: where records without a document are held back, or the collection is empty."""
    user = world.user()
    moods = world.moods(user, 15)
    world.sync(user)
    for number in (0, 14):
        world.copy(user, "mood", moods[number], f"copy{number}")
    world.drop(user, "mood", str(world.entry("mood", moods[14]).rkey))  # its original is gone already
    for document in moods[:13] + moods[14:]:
        world.documents.remove(media_type("mood"), document)
    world.sync(user)
    assert world.copies(user) == {"copy0", "copy14"}
    world.documents.remove(media_type("mood"), moods[13])
    world.sync(user)
    assert world.copies(user) == {"copy0", "copy14"}


def test_every_copy_of_an_account_that_is_leaving_goes(world: Copied) -> None:
    """ERASE-1, DEL-7."""
    user, erased, live = two_moods(world)
    world.copy(user, "mood", erased, "a")
    world.copy(user, "mood", live, "b", sourceRef=...)
    world.copy(user, "mood", None, "c", sourceAtUri=f"at://{user.did}/computer.aesthetic.mood/3kaaaaaaaaaa2")
    world.copy(user, "mood", None, "paper", sourceAtUri=f"at://{user.did}/computer.aesthetic.paper/x")
    leaving = replace(user, pending_deletion=LEAVING)
    assert sum(len(each.copies) for each in world.erasure(leaving)) == 3
    report = world.engine.sync(leaving, Selection(), "run-1")
    assert report.tally("mood").copies_removed == 3
    assert world.copies(user) == {"paper"}
    assert world.erasure(leaving) == []


def test_a_purged_accounts_copies_are_listed(world: Copied) -> None:
    """ERASE-1: Mongo does not know the account any more."""
    user, erased, _ = two_moods(world)
    world.copy(user, "mood", erased, "copy")
    look = Erasures(world.documents, world.pds, world.ledger, world.store)
    found = look.of_purged(str(user.did), MEDIA_TYPES)
    assert (found.copies, found.pending) == ((f"at://{user.did}/{COPIES}/copy",), True)


def test_a_purged_accounts_unreadable_repository_is_named_and_stops_nothing(world: Copied) -> None:
    """BORDER-2: it may still hold everything."""
    user, *_ = two_moods(world)
    world.pds.fail("read_repository", RepositoryUnreadable("the CAR is cut"))
    found = Erasures(world.documents, world.pds, world.ledger, world.store).of_purged(str(user.did), MEDIA_TYPES)
    assert (found.records, found.pending) == ((f"at://{user.did}",), True)
    assert "the CAR is cut" in found.reason


def test_only_what_was_chosen_is_touched(world: Copied) -> None:
    """ERASE-1: types and items."""
    user, first, second = two_moods(world)
    for document in (first, second):
        world.copy(user, "mood", document, f"of-{document}")
        world.nuke("mood", document)
    world.sync(user, types=["piece"])
    assert world.copies(user) == {f"of-{first}", f"of-{second}"}
    world.sync(user, types=["mood"], items=frozenset({("mood", first)}))
    assert world.copies(user) == {f"of-{second}"}
    assert len(world.erasure(user, types=(media_type("piece"),))) == 0


def test_a_copy_that_cannot_be_deleted_is_listed_and_tried_again(world: Copied) -> None:
    """ERASE-1: the record goes all the same."""
    user, erased, _ = two_moods(world)
    world.copy(user, "mood", erased, "copy")
    world.nuke("mood", erased)
    world.pds.refusals[COPIES, "copy"] = RecordRefused("no")
    report = world.sync(user)
    assert (report.tally("mood").deleted, len(report.failures), len(report.notes)) == (1, 1, 1)
    assert [each.item for each in world.erasure(user)] == [f"mood:{erased}"]
    world.pds.heal()
    assert world.sync(user).tally("mood").copies_removed == 1


def test_a_plan_counts_copies_and_is_carried_out_as_agreed(world: Copied) -> None:
    """ERASE-1: in the plan, its cost, verification, and a sync that is held to the plan."""
    user, erased, _ = two_moods(world)
    world.copy(user, "mood", erased, "copy")
    gone, _ = world.add("piece", user), world.add("piece", user, slug="other")
    world.sync(user)
    world.copy(user, "piece", gone, "piece", title="wand")
    world.nuke("mood", erased)
    world.documents.remove(media_type("piece"), gone)
    plan, report = world.survey(user)
    lines = planned([plan])
    found = sorted((each.item, each.operation, each.rkey) for each in lines if each.operation == "delete-copy")
    assert found == [(f"mood:{erased}", "delete-copy", "copy"), (f"piece:{gone}", "delete-copy", "piece")]
    assert (user_cost(plan).operations, user_cost(plan).points) == (4, 4)
    assert sum(tally.copies_removed for tally in report.types.values()) == 2
    extra = [each.uri for each in verify(world.engine, user, Selection()).items if each.state == "extra"]
    assert f"at://{user.did}/{COPIES}/copy" in extra
    taken = apply_part(world.engine, user, Selection(), lines, "run-1", dry=False)
    assert (taken.same, taken.moved, world.copies(user)) == (4, [], set())


def test_a_wipe_counts_deletes_and_keeps_copies_and_a_restore_brings_them_back(world: Copied) -> None:
    """ERASE-1: those of the wiped types; but none of what was erased since."""
    user, first, second = two_moods(world)
    piece = world.add("piece", user)
    world.sync(user)
    for type, document in (("mood", first), ("mood", second), ("piece", piece)):
        world.copy(user, type, document, f"of-{document}", title="t")
    before = world.contents(user)
    plan = world.plan(user, "mood")
    assert (plan.records, plan.total, plan.price.operations) == ({"mood": 2, "copies": 2}, 4, 4)
    report = world.wipe(user, "mood")
    assert (report.deleted, report.left, report.clean) == ({"mood": 2, "copies": 2}, 0, True)
    assert world.copies(user) == {f"of-{piece}"}

    world.nuke("mood", first)
    restored = world.restore(user, "mood")
    assert restored.restored == {"mood": 1, "copies": 1}
    assert world.copies(user) == {f"of-{piece}", f"of-{second}"}
    after = world.contents(user)
    assert after.items() <= before.items()
    again = world.restore(user, "mood")
    assert (again.restored, again.present) == ({}, 2)
    assert world.sync(user).tally("mood").copies_removed == 0


def test_a_wipe_with_only_copies_left_deletes_them(world: Copied) -> None:
    """ERASE-1: what an earlier wipe, or another program, left."""
    user, erased, live = two_moods(world)
    for document in (erased, live):
        world.copy(user, "mood", document, f"of-{document}", sourceRef=...)
    world.engine.erase_copies = False
    assert world.wipe(user, "mood").deleted == {"mood": 2}
    world.engine.erase_copies = True
    assert world.wipe(user, "mood").deleted == {"copies": 2}
    assert world.copies(user) == set()


def test_an_unfinished_wipe_keeps_a_copy_that_came_since(world: Copied) -> None:
    """ERASE-1: its own snapshot does not hold it, so another one is taken."""
    user, first, second = two_moods(world)
    world.pds.refusals["computer.aesthetic.mood", str(world.entry("mood", second).rkey)] = RecordRefused("no")
    assert world.wipe(user, "mood").left == 1
    world.copy(user, "mood", second, "late", sourceAtUri=f"at://{user.did}/computer.aesthetic.mood/x")
    world.pds.heal()
    report = world.wipe(user, "mood")
    assert (report.deleted, len(report.snapshots)) == ({"mood": 1, "copies": 1}, 2)
    world.restore(user, "mood", source=report.snapshots[0])
    assert world.copies(user) == {"late"}
    assert set(world.records(user, "mood")) == {world.entry("mood", each).rkey for each in (first, second)}


def test_nothing_is_touched_where_it_is_turned_off(world: Copied) -> None:
    """ERASE-1: then copies are listed only."""
    world.engine.erase_copies = False
    user, erased, _ = two_moods(world)
    world.copy(user, "mood", erased, "copy")
    world.nuke("mood", erased)
    plan, _ = world.survey(user)
    assert [each.operation for each in planned([plan])] == ["delete"]
    world.sync(user)
    with world.quiet():
        read = world.pds.count("read_repository")
        world.sync(user)
        assert world.pds.count("read_repository") == read
    assert world.plan(user, "mood").records == {"mood": 1}
    assert [each.copies for each in world.erasure(user)] == [(f"at://{user.did}/{COPIES}/copy",)]
