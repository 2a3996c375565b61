"""Nothing is kept of erased work: its renditions leave the store, and its failures wait for nobody (DEL-7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ac_pipeline.accounts import LEAVING, Account
from ac_pipeline.errors import PipelineError, RecordRefused, ServiceUnreachable, UnreadableMedia
from ac_pipeline.items import State
from ac_pipeline.media.registry import media_type
from ac_pipeline_tests.unit.sync.world import World, chosen, totals


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ada(world: World) -> Account:
    return world.user()


def blobs(world: World, type: str, id: str) -> set[str]:
    derived = world.entry(type, id).derived
    assert derived is not None
    return {made.blob.cid for made in derived.renditions.values()}


Gone = Callable[[World, Account, str, str], Account]


def nuked(world: World, user: Account, type: str, id: str) -> Account:
    world.change(type, id, nuked=True)
    return user


def dropped(world: World, user: Account, type: str, id: str) -> Account:
    world.documents.remove(media_type(type), id)
    world.add(type, world.user(), code="other", slug="another")  # so that the collection holds something
    return user


def left(world: World, user: Account, type: str, id: str) -> Account:
    world.change(type, id, user=user.id)
    return replace(user, pending_deletion=LEAVING)


@pytest.mark.parametrize("type", ["painting", "tape"])
@pytest.mark.parametrize("go", [nuked, dropped, left])
def test_the_renditions_of_erased_work_go_with_its_record(go: Gone, type: str, world: World, ada: Account) -> None:
    """DEL-1, DEL-4, DEL-7, DEL-9: thumbnails, videos and posters; of work that is withdrawn, whose document is gone,
    or whose owner leaves."""
    id = world.add(type, ada)
    world.sync(ada)
    own = blobs(world, type, id)
    assert len(own) == len(media_type(type).blobs)
    assert own <= world.renderer.store.keys()
    user = go(world, ada, type, id)
    if user.pending_deletion is not None:  # as Mongo's documents are read of an account that is being deleted
        world.change(type, id, nuked=True)
    report = world.sync(user)
    assert totals(report, type) == {"deleted": 1}
    assert world.renderer.store == {}
    entry = world.entry(type, id)
    assert (entry.state, entry.derived, set(entry.past_blobs)) == (State.DELETED, None, own)
    with world.quiet():
        world.sync(user)


def test_a_second_sync_after_an_erasure_does_not_even_read_the_repository(world: World, ada: Account) -> None:
    """DEL-7, VERIFY-11: and a user without erasures never costs a look-up of blobs."""
    first, second = (world.add("painting", ada, code=code, slug=code) for code in ("one", "two"))
    world.sync(ada)
    assert "used_blobs" not in world.ledger.calls
    world.change("painting", second, nuked=True)
    world.sync(ada)
    assert world.ledger.calls.count("used_blobs") == 1
    reads = world.pds.count("read_repository")
    with world.quiet():
        assert world.sync(ada).types["painting"].unchanged == 1
    assert world.pds.count("read_repository") == reads
    assert blobs(world, "painting", first) == set(world.renderer.store)


def test_what_is_wanted_again_returns_once_with_its_rendition_made_again(world: World, ada: Account) -> None:
    """DEL-2, DEL-7: under its old key; another encoder may have other bytes by now."""
    id = world.add("painting", ada)
    world.sync(ada)
    (key,) = world.records(ada, "painting")
    world.change("painting", id, nuked=True)
    world.sync(ada)
    world.change("painting", id, nuked=False)
    world.renderer.version = "2"
    world.renderer.derived.clear()
    tally = world.sync(ada).types["painting"]
    assert (tally.created, tally.planned) == (1, 1)
    assert list(world.records(ada, "painting")) == [key]
    assert world.renderer.derived == [id]
    entry = world.entry("painting", id)
    assert (entry.state, entry.past_blobs) == (State.WRITTEN, ())
    assert blobs(world, "painting", id) == set(world.renderer.store)
    with world.quiet():
        world.sync(ada)


@pytest.mark.parametrize("shared_by", ["the same user", "another user"])
def test_a_rendition_that_other_work_uses_stays_until_the_last_of_it_goes(
    shared_by: str, world: World, ada: Account
) -> None:
    """DEL-7, VERIFY-6: and nothing of the others is written or uploaded anew."""
    other = ada if shared_by == "the same user" else world.user()
    one = world.add("painting", ada, code="one", slug="one")
    two = world.add("painting", other, code="two", slug="two")
    world.renderer.same = {one: "same", two: "same"}
    users = [ada] if other is ada else [ada, other]
    for user in users:
        world.sync(user)
    (shared,) = blobs(world, "painting", one)
    assert blobs(world, "painting", two) == {shared}
    before = world.entry("painting", two)
    world.change("painting", one, nuked=True)
    uploads, batches = world.pds.count("upload_blob"), world.pds.count("apply_writes")
    world.sync(ada)
    assert set(world.renderer.store) == {shared}
    assert world.entry("painting", one).derived is None, "it is not asked about again"
    assert world.entry("painting", two) == before
    for user in users:
        with world.quiet():
            world.sync(user)
    assert (world.pds.count("upload_blob"), world.pds.count("apply_writes")) == (uploads, batches + 1)
    world.change("painting", two, nuked=True)
    world.sync(other)
    assert world.renderer.store == {}


def test_two_that_share_a_rendition_and_go_together_keep_nothing(world: World, ada: Account) -> None:
    """DEL-7: neither is kept for the other's sake, in one account or in two at the same moment."""
    bea = world.user()
    ids = [
        world.add("painting", user, code=code, slug=code) for user, code in ((ada, "one"), (ada, "two"), (bea, "tre"))
    ]
    world.renderer.same = dict.fromkeys(ids, "same")
    world.sync(ada)
    world.sync(bea)
    for id in ids:
        world.change("painting", id, nuked=True)
    # The other account's sync has deleted its record and not looked at the store yet when this one looks.
    world.ledger.before["used_blobs"] = lambda: (world.sync(bea), None)[1]
    world.sync(ada)
    assert world.renderer.store == {}
    for user in (ada, bea):
        with world.quiet():
            world.sync(user)


@pytest.mark.parametrize("go", [nuked, dropped, left])
@pytest.mark.parametrize("problem", [UnreadableMedia("no picture"), ServiceUnreachable("503")])
def test_a_failure_of_work_that_is_withdrawn_waits_for_nobody(
    problem: PipelineError, go: Gone, world: World, ada: Account
) -> None:
    """OPS-2, VERIFY-11: it leaves the lists of failed items, its last attempt stays, and the user is left in peace."""
    id = world.add("painting", ada)
    world.renderer.failures[id] = problem
    world.sync(ada)
    assert world.entry("painting", id).state in {State.QUARANTINED, State.DEFERRED}
    user = go(world, ada, "painting", id)
    if user.pending_deletion is not None:
        world.change("painting", id, nuked=True)
    report = world.sync(user)
    assert (totals(report, "painting"), report.failures) == ({}, [])
    entry = world.entry("painting", id)
    assert (entry.state, entry.failure) == (State.DELETED, None)
    assert [attempt.error_class for attempt in entry.history] == [problem.code, None]
    reads = world.pds.count("read_repository")
    with world.quiet():
        world.sync(user)
    assert (world.pds.count("read_repository"), len(world.entry("painting", id).history)) == (reads, 2)


def test_withdrawn_failed_work_that_is_wanted_again_is_tried_again(world: World, ada: Account) -> None:
    """DEL-2: and written once."""
    id = world.add("painting", ada)
    world.renderer.failures[id] = UnreadableMedia("no picture")
    world.sync(ada)
    world.change("painting", id, nuked=True)
    world.sync(ada)
    del world.renderer.failures[id]
    world.change("painting", id, nuked=False)
    assert world.sync(ada).types["painting"].created == 1
    with world.quiet():
        world.sync(ada)


@pytest.mark.parametrize("who", ["store", "ledger"])
def test_a_store_that_gives_nothing_up_costs_neither_the_item_nor_the_erasure(
    who: str, world: World, ada: Account
) -> None:
    """DEL-7, FAIL-1: it is in the notes, and the next sync lets go what is left."""
    id = world.add("tape", ada)
    world.sync(ada)
    own = blobs(world, "tape", id)
    world.change("tape", id, nuked=True)
    error = ServiceUnreachable("the bucket does not answer")
    if who == "store":
        world.renderer.keeps = error
    else:
        world.ledger.fail_next("used_blobs", error)
    report = world.sync(ada)
    assert (totals(report, "tape"), report.error, report.failures) == ({"deleted": 1}, None, [])
    assert world.records(ada, "tape") == {}
    assert [note for note in report.notes if "the bucket does not answer" in note]
    assert set(world.renderer.store) == own == blobs(world, "tape", id)
    world.renderer.keeps = None
    assert world.sync(ada).notes == []
    assert world.renderer.store == {}
    with world.quiet():
        world.sync(ada)


def test_work_that_was_withdrawn_before_it_was_published_leaves_nothing_either(world: World, ada: Account) -> None:
    """DEL-7: a rendition may be made ahead of its record."""
    id = world.add("painting", ada)
    world.engine.render(ada, media_type("painting"), chosen(), "run-1")
    assert len(world.renderer.store) == 1
    world.change("painting", id, nuked=True)
    world.sync(ada)
    assert world.renderer.store == {}


def test_a_rendition_stays_while_its_record_does(world: World, ada: Account) -> None:
    """DEL-6: what the PDS refused to delete is not erased yet."""
    id = world.add("painting", ada)
    world.sync(ada)
    ((key, _),) = world.records(ada, "painting").items()
    world.change("painting", id, nuked=True)
    world.pds.refusals[media_type("painting").nsid, key] = RecordRefused("no", status=400)
    world.sync(ada)
    assert len(world.renderer.store) == 1
    world.pds.heal()
    world.sync(ada, retry=True)
    assert (world.records(ada, "painting"), world.renderer.store) == ({}, {})


def test_a_document_that_belongs_to_another_account_now_keeps_its_rendition(world: World, ada: Account) -> None:
    """DEL-4, DEL-7: a guest's work that is claimed has moved; it is not erased."""
    bea = world.user()
    id = world.add("painting", ada)
    world.sync(ada)
    world.change("painting", id, user=bea.id)
    world.sync(ada)
    assert (world.records(ada, "painting"), len(world.renderer.store)) == ({}, 1)
    world.sync(bea)
    assert len(world.records(bea, "painting")) == 1


def test_a_collection_that_holds_nothing_erases_no_rendition(world: World, ada: Account) -> None:
    """DEL-5."""
    id = world.add("painting", ada)
    world.sync(ada)
    world.documents.remove(media_type("painting"), id)
    world.sync(ada)
    assert (len(world.records(ada, "painting")), len(world.renderer.store)) == (1, 1)


@pytest.mark.parametrize(("selected", "kept"), [(True, 1), (False, 2)])
def test_only_what_is_selected_is_looked_at(selected: bool, kept: int, world: World, ada: Account) -> None:
    """PLAN-2: a sync of one item leaves the other's renditions alone, as it does its record."""
    one, two = (world.add("painting", ada, code=code, slug=code) for code in ("one", "two"))
    world.sync(ada)
    world.change("painting", one, nuked=True)
    world.sync(ada, items=frozenset({("painting", one if selected else two)}))
    assert len(world.renderer.store) == kept
    assert len(world.records(ada, "painting")) == kept


def test_a_dry_run_lets_nothing_go(world: World, ada: Account) -> None:
    """PLAN-1."""
    id = world.add("painting", ada)
    world.sync(ada)
    world.change("painting", id, nuked=True)
    with world.quiet():
        world.survey(ada)


def test_renditions_of_earlier_media_go_with_the_erased_work(world: World, ada: Account) -> None:
    """DEL-7, SEEN-4: as the guide says; what is the same again is not given up while it is in use."""
    id = world.add("painting", ada)
    world.sync(ada)
    first, derive = blobs(world, "painting", id), world.renderer.derive
    world.renderer.derive = lambda media, document, known, **_: derive(media, document, None)  # type: ignore[method-assign]
    world.renderer.version = "2"
    world.change("painting", id, slug="2025.10.15.12.30.45.124")
    world.sync(ada)
    second = blobs(world, "painting", id)
    assert first.isdisjoint(second)
    assert set(world.entry("painting", id).past_blobs) == first
    world.change("painting", id, nuked=True)
    world.sync(ada)
    assert set(world.renderer.forgotten) == first | second
    assert world.renderer.store == {}
