"""Verification: every item that is not as it should be is named, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ac_pipeline.atproto.repository import Repository
from ac_pipeline.errors import SourceMissing
from ac_pipeline.items import Record
from ac_pipeline.sync.verify import Verification, verify, verify_accounts
from ac_pipeline_tests.car_builder import build_repository
from ac_pipeline_tests.unit.sync.world import World, chosen

MANY = 3_000


@pytest.fixture
def world() -> World:
    return World()


class StoredElsewhere:
    """A PDS that shows another repository than the one that was written."""

    def __init__(self, world: World, repository: Repository) -> None:
        self._pds = world.pds
        self._repository = repository

    def read_repository(self, did: str) -> Repository:
        return self._repository

    def __getattr__(self, name: str) -> object:
        return getattr(self._pds, name)


@contextmanager
def showing(world: World, did: str, records: dict[str, Record]) -> Iterator[None]:
    """The PDS shows exactly these records, from a CAR."""
    right = world.engine.server
    world.engine.server = StoredElsewhere(world, build_repository(records, did=did))  # type: ignore[assignment]
    yield
    world.engine.server = right


@pytest.mark.slow
@pytest.mark.parametrize("position", [0, 1_234, MANY - 1])
def test_one_changed_byte_in_one_of_thousands_names_that_item(world: World, position: int) -> None:
    """VERIFY-2: content is compared, read from a CAR as a PDS sends it."""
    user = world.user()
    documents = world.moods(user, MANY)
    world.sync(user)
    records = world.pds.records(user)
    paths = sorted(records)
    with showing(world, str(user.did), records):
        assert verify(world.engine, user, chosen()).complete
    changed = {**records[paths[position]], "mood": f"mood {position}"[:-1] + "!"}
    with showing(world, str(user.did), {**records, paths[position]: changed}):
        found = verify(world.engine, user, chosen())
    assert (found.expected, found.verified, found.different) == (MANY, MANY - 1, 1)
    (item,) = found.items
    assert (item.item, item.state) == (f"mood:{documents[position]}", "different")
    assert item.uri == f"at://{user.did}/{paths[position]}"
    assert item.expected_cid != item.found_cid
    assert not found.complete


def test_each_way_of_being_wrong_has_a_name(world: World) -> None:
    """VERIFY-2, DEL-7: missing, extra, duplicate and wrong-shaped records."""
    user = world.user()
    missing, extra, double, shape, right = world.moods(user, 5)
    world.sync(user)
    keys = {ref: keys[0] for ref, keys in world.by_ref(user, "mood").items() if ref}
    world.drop(user, "mood", keys[missing])
    world.change("mood", extra, deleted=True)
    value = world.records(user, "mood")[keys[double]]
    world.put(user, "mood", "3jzfcijpj2z2a", value)
    world.drop(user, "mood", keys[shape])
    world.put(user, "mood", keys[shape], {"text": "mood 3", "when": "2025-10-15T12:30:48.123Z", "ref": shape})
    world.put(user, "mood", "3jzfcijpj2z2b", {"mood": "whose?", "when": "2025-10-15T12:30:48.123Z"})
    with world.quiet():
        found = verify(world.engine, user, chosen())
    assert {(item.item, item.state) for item in found.items} == {
        (f"mood:{missing}", "missing"),
        (f"mood:{extra}", "extra"),
        (f"mood:{double}", "duplicate"),
        (f"mood:{shape}", "different"),
        ("mood:3jzfcijpj2z2b", "extra"),
    }
    assert (found.expected, found.verified) == (4, 2)
    assert right not in repr(found.items)


def test_wrong_shaped_records_are_listed_with_their_repair(world: World) -> None:
    """VERIFY-3: the reason names what differs; a sync then updates it in place."""
    user = world.user()
    document = world.add("mood", user)
    world.put(user, "mood", "3jzfcijpj2z2a", {"text": "fine", "when": "2025-10-15T12:30:45.123Z", "ref": document})
    (item,) = verify(world.engine, user, chosen()).items
    assert item.reason == "lacks mood; has extra text"
    world.sync(user)
    assert verify(world.engine, user, chosen()).complete


def test_a_blob_the_pds_has_lost_is_found(world: World) -> None:
    """VERIFY-5: the record is right, its picture is gone; only that item is named."""
    user = world.user()
    first, second = (
        world.add("painting", user, code=code, slug=f"2025.10.15.12.30.45.{code}") for code in ("111", "222")
    )
    tape = world.add("tape", user)
    world.sync(user)
    assert verify(world.engine, user, chosen()).to_json()["blobs"] == {"expected": 4, "verified": 4, "missing": 0}
    (key,) = world.by_ref(user, "painting")[second]
    lost = world.records(user, "painting")[key]["thumbnail"]["ref"]["$link"]
    world.pds.lose_blob(user, lost)
    found = verify(world.engine, user, chosen())
    assert [(item.item, item.state, item.reason) for item in found.items] == [
        (f"painting:{second}", "blob-missing", f"its blob {lost} is gone")
    ]
    assert (found.expected, found.verified, found.blobs_expected, found.blobs_verified) == (3, 2, 4, 3)
    assert not found.complete
    assert {first, tape}.isdisjoint({item.item.partition(":")[2] for item in found.items})


def test_what_cannot_be_made_is_quarantined_and_not_missing(world: World) -> None:
    """VERIFY-2, MEDIA-4: known failures are told apart from losses."""
    user = world.user()
    document = world.add("painting", user)
    world.renderer.failures[document] = SourceMissing("gone")
    world.sync(user)
    found = verify(world.engine, user, chosen())
    assert (found.expected, found.missing, found.quarantined) == (0, 0, 1)
    assert [(item.item, item.state) for item in found.items] == [(f"painting:{document}", "quarantined")]


def test_many_accounts_add_up(world: World) -> None:
    """VERIFY-12: each finding names the partition key it is of."""
    users = [world.user(f"user{number}") for number in range(4)]
    for user in users:
        world.moods(user, 3)
        world.sync(user)
    (key, *_) = world.records(users[2], "mood")
    world.drop(users[2], "mood", key)
    world.pds.set_status(users[3], "deactivated")
    total = Verification()
    for found in verify_accounts(world.engine, users, chosen(), 2):
        total.add(found)
    assert (total.users, total.expected, total.verified, total.missing, total.blocked) == (4, 9, 8, 1, 3)
    assert [(item.user, item.state) for item in total.items] == [("user2", "missing")]
