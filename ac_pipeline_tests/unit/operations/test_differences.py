"""Differences in memory: exactly what others touched, and nothing else."""

from __future__ import annotations

import pytest

from ac_pipeline.atproto.types import Write
from ac_pipeline.errors import AccountInactive, ServiceUnreachable
from ac_pipeline.media.registry import media_type
from ac_pipeline.operations.inspection.differences import find_differences, push_ours
from ac_pipeline_tests.memory_pds import MemoryPds
from ac_pipeline_tests.unit.sync.world import World, chosen

MOOD = media_type("mood")


@pytest.fixture
def world() -> World:
    return World()


def test_one_changed_byte_in_one_of_a_thousand_records_names_that_item_and_no_other(world: World) -> None:
    """VERIFY-2."""
    user = world.user()
    ids = world.moods(user, 1_000)
    world.sync(user, types=["mood"])
    key = world.entry("mood", ids[777]).rkey or ""
    record = world.records(user, "mood")[key] | {"mood": "mood 778"}
    MemoryPds.apply_writes(world.pds, user, [Write("update", MOOD.nsid, key, record)], swap_commit=None)
    (found,) = find_differences(world.engine, user, chosen(types=["mood"]))
    assert (found.item, found.state) == (f"mood:{ids[777]}", "changed")
    assert found.fields == {"mood": ("mood 777", "mood 778")}
    push_ours(world.engine, user, chosen(types=["mood"]), [found], "run-2")
    assert find_differences(world.engine, user, chosen(types=["mood"])) == []
    assert [len(batch) for batch in world.pds.batches(user)[-1:]] == [1]


def test_a_record_that_was_moved_to_another_key_is_not_taken_for_deleted(world: World) -> None:
    user = world.user()
    document = world.add("mood", user)
    world.sync(user)
    ((key, record),) = world.records(user, "mood").items()
    world.drop(user, "mood", key)
    world.put(user, "mood", "3jzfcijpj2z2a", record)
    assert find_differences(world.engine, user, chosen()) == []
    world.drop(user, "mood", "3jzfcijpj2z2a")
    world.put(user, "mood", "3jzfcijpj2z2a", record | {"mood": "moved and changed"})
    (found,) = find_differences(world.engine, user, chosen())
    assert (found.item, found.state) == (f"mood:{document}", "changed")


def test_a_lost_entry_of_the_ledger_is_no_difference(world: World) -> None:
    """A kill between links and ledger: what the link says we wrote, we wrote."""
    user = world.user()
    document = world.add("mood", user)
    world.sync(user)
    before = world.entry("mood", document)
    world.change("mood", document, mood="edited")
    world.sync(user)
    world.ledger.entries[before.item] = before
    world.change("mood", document, mood="edited again")
    assert find_differences(world.engine, user, chosen()) == []
    world.ledger.entries.clear()
    assert find_differences(world.engine, user, chosen()) == []


def test_what_cannot_be_read_is_an_error_and_no_difference(world: World) -> None:
    """DEL-5: nothing is taken for deleted by others because a read failed."""
    user = world.user()
    world.add("mood", user)
    world.sync(user)
    world.pds.fail("read_repository", ServiceUnreachable("no answer"))
    with pytest.raises(ServiceUnreachable):
        find_differences(world.engine, user, chosen())
    world.pds.set_status(user, "deactivated")
    with pytest.raises(AccountInactive):
        find_differences(world.engine, user, chosen())
