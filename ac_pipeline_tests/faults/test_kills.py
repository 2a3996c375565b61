"""Kills at any moment: what was committed is linked, and a restart does the rest, once."""

from __future__ import annotations

import pytest

from ac_pipeline.media.base import LinkUpdate, MediaType
from ac_pipeline_tests.unit.sync.world import World, totals


class Killed(BaseException):
    """SIGKILL as a test can have it: nothing that handles errors sees it."""


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_a_kill_before_a_batch_leaves_all_before_it_linked(world: World, batch: int) -> None:
    """WRITE-13, WRITE-14, RUN-5: links and ledger up to the last batch are stored, the restart writes only the rest."""
    user = world.user()
    documents = world.moods(user, 1_000)

    def kill(number: int) -> None:
        if number == batch - 1:
            raise Killed

    world.pds.between = kill
    with pytest.raises(Killed):
        world.sync(user)
    done = (batch - 1) * 200
    assert [world.link("mood", document) is not None for document in documents] == [True] * done + [False] * (
        1_000 - done
    )
    assert len(world.ledger.entries) == done
    world.pds.between = lambda number: None
    sent = len(world.pds.batches(user))
    assert totals(world.sync(user)) == {k: v for k, v in {"unchanged": done, "created": 1_000 - done}.items() if v}
    assert sum(len(each) for each in world.pds.batches(user)[sent:]) == 1_000 - done
    assert len(world.records(user, "mood")) == 1_000


@pytest.mark.parametrize("lost", ["links", "ledger"])
def test_a_kill_between_commit_and_bookkeeping_is_healed_by_adoption(world: World, lost: str) -> None:
    """WRITE-13, LINK-1: at most one batch of bookkeeping is lost, no record is written twice."""
    user = world.user()
    documents = world.moods(user, 500)
    write_links, save = world.documents.write_links, world.ledger.save
    calls = iter(range(10))

    def killed_links(media: MediaType, updates: list[LinkUpdate]) -> None:
        if next(calls) == 1:
            raise Killed
        write_links(media, updates)

    def killed_save(entries: object) -> None:
        if next(calls) == 1:
            raise Killed
        save(entries)  # type: ignore[arg-type]

    if lost == "links":
        world.documents.write_links = killed_links  # type: ignore[assignment,method-assign]
    else:
        world.ledger.save = killed_save  # type: ignore[method-assign]
    with pytest.raises(Killed):
        world.sync(user)
    assert len(world.records(user, "mood")) == 400
    world.documents.write_links, world.ledger.save = write_links, save  # type: ignore[method-assign]
    expected = {"unchanged": 400, "created": 100} | ({"healed": 200} if lost == "links" else {})
    assert totals(world.sync(user)) == expected
    assert all(world.link("mood", document) for document in documents)
    assert len(world.ledger.entries) == 500
    with world.quiet():
        assert totals(world.sync(user)) == {"unchanged": 500}


def test_a_kill_among_uploads_costs_nothing_but_uploads(world: World) -> None:
    """WRITE-13, MEDIA-15: no record without its blob, no item twice."""
    user = world.user()
    for number in range(30):
        world.add("painting", user, code=f"p{number:03}", slug=f"2025.10.15.12.30.45.{number:03}")
    world.pds.between = lambda number: (_ for _ in ()).throw(Killed())
    with pytest.raises(Killed):
        world.sync(user)
    assert world.records(user, "painting") == {}
    world.pds.between = lambda number: None
    assert world.sync(user).types["painting"].created == 30
    assert len(world.renderer.derived) == 60


def test_a_killed_run_leaves_no_lease_behind_for_longer_than_it_lasts(world: World) -> None:
    """WRITE-12, WRITE-13: a killed process renews nothing; the next one waits and goes on."""
    user = world.user()
    world.moods(user, 3)
    world.ledger.leases[str(user.did)] = (object(), world.clock.now.replace(minute=world.clock.now.minute + 1))
    assert totals(world.sync(user)) == {"created": 3}
    assert sum(world.clock.slept) == 60
