"""Receipts: each user verified in four aspects, each finding with its item, reason, record and repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, ServerFailed
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.mongo.ledger.receipts import Aspect, Part, Receipt
from ac_pipeline.operations.inspection.verification import LISTED, take_receipt, take_receipts
from ac_pipeline_tests.memory_receipts import MemoryReceipts
from ac_pipeline_tests.unit.sync.world import World

WHEN = "2025-10-15T12:30:48.123Z"


@pytest.fixture
def world() -> World:
    return World()


def receipt(world: World, user: Account, *, blobs: bool = True) -> Receipt:
    with world.quiet():
        return take_receipt(world.engine, user, MEDIA_TYPES, blobs=blobs, run_id="run-1", now=world.clock())


def taken(world: World, users: Sequence[Account], receipts: MemoryReceipts, *, workers: int = 2) -> list[Any]:
    return list(
        take_receipts(
            world.engine, receipts, users, MEDIA_TYPES, blobs=True, run_id="run-1", workers=workers, now=world.clock
        )
    )


def wrong(part: Part) -> list[tuple[str, str]]:
    return [(each.item, each.state) for each in part.wrong]


def test_of_a_user_whose_mirror_is_right_everything_is_sound(world: World) -> None:
    user = world.user()
    for media in MEDIA_TYPES:
        world.add(media.name, user)
    world.sync(user)
    made = receipt(world, user)
    assert (made.account, made.user, made.did, made.run_id, made.blocked) == (
        user.id,
        user.key,
        user.did,
        "run-1",
        None,
    )
    assert {cell for cell, part in made.parts.items() if part.unsound or part.warnings} == set()
    assert {cell: part.expected for cell, part in made.parts.items() if cell[1] is Aspect.RECORDS} == {
        (media.name, Aspect.RECORDS): 1 for media in MEDIA_TYPES
    }
    assert all(part.sound == part.expected for part in made.parts.values())
    assert {type_ for type_, aspect in made.parts if aspect is Aspect.BLOBS} == {"painting", "tape"}


def test_each_way_of_being_wrong_is_counted_where_it_belongs(world: World) -> None:
    """VERIFY-2: missing, different, extra and duplicate records; one finding for each, and no other item is named."""
    user = world.user()
    missing, changed, extra, double, right = world.moods(user, 5)
    world.sync(user)
    keys = {ref: keys[0] for ref, keys in world.by_ref(user, "mood").items() if ref}
    world.drop(user, "mood", keys[missing])
    world.change("mood", changed, mood="another mood")
    world.change("mood", extra, deleted=True)
    world.put(user, "mood", "3jzfcijpj2z2a", world.records(user, "mood")[keys[double]])
    part = receipt(world, user).parts["mood", Aspect.RECORDS]
    assert part.states == {"missing": 1, "different": 1, "extra": 1, "duplicates": 1}
    assert (part.expected, part.sound) == (4, 2)
    assert set(wrong(part)) == {
        (f"mood:{missing}", "missing"),
        (f"mood:{changed}", "different"),
        (f"mood:{extra}", "extra"),
        (f"mood:{double}", "duplicate"),
    }
    assert all(each.uri and each.reason and each.repair for each in part.wrong)
    assert right not in repr(part)


def test_wrong_shaped_records_are_listed_with_a_repair_and_undeclared_fields_are_only_counted(world: World) -> None:
    """VERIFY-3, REC-5."""
    user = world.user()
    old, odd, _ = world.moods(user, 3)
    world.sync(user)
    keys = {ref: keys[0] for ref, keys in world.by_ref(user, "mood").items() if ref}
    world.drop(user, "mood", keys[old])
    world.put(user, "mood", keys[old], {"text": "mood 0", "when": WHEN, "ref": old})
    unclaimed = world.put(
        user, "mood", "3jzfcijpj2z2b", {"mood": "whose?", "when": WHEN, "ref": "0" * 24, "sparkle": True}
    )
    part = receipt(world, user).parts["mood", Aspect.LEXICON]
    assert (part.expected, part.sound, dict(part.states)) == (4, 3, {"breaks-lexicon": 1})
    (found,) = part.wrong
    assert (found.item, found.repair) == (f"mood:{old}", "update the record under its key")
    assert "mood" in found.reason
    assert found.uri == f"at://{user.did}/computer.aesthetic.mood/{keys[old]}"
    assert part.warnings == 1
    assert unclaimed not in repr(part.wrong)
    assert odd not in repr(part.wrong)


def test_links_that_are_missing_or_lead_elsewhere_are_found(world: World) -> None:
    """LINK-1, LINK-5, LINK-6; a document that was never published has no link to mend."""
    user = world.user()
    unlinked, dangling, crossed, right = world.moods(user, 4)
    world.sync(user)
    keys = {ref: keys[0] for ref, keys in world.by_ref(user, "mood").items() if ref}
    world.documents.collections["moods"][
        next(id for id in world.documents.collections["moods"] if str(id) == unlinked)
    ].pop("atproto")
    world.drop(user, "mood", keys[dangling])
    world.change("mood", crossed, atproto={"rkey": keys[right], "did": user.did})
    world.moods(user, 1, first=9)
    part = receipt(world, user).parts["mood", Aspect.LINKS]
    assert dict(part.states) == {"unlinked": 1, "dangling": 1, "crossed": 1}
    assert (part.expected, part.sound) == (5, 2)
    assert {(each.item.partition(":")[2], each.repair) for each in part.wrong} == {
        (unlinked, "write the link"),
        (dangling, "create the record again under the stored key"),
        (crossed, "rewrite the link"),
    }


def test_a_blob_the_pds_has_lost_is_found_unless_blobs_are_left_out(world: World) -> None:
    """VERIFY-5: the item is named with its record."""
    user = world.user()
    painting = world.add("painting", user)
    world.sync(user)
    (record,) = world.records(user, "painting").values()
    world.pds.lose_blob(user, record["thumbnail"]["ref"]["$link"])
    part = receipt(world, user).parts["painting", Aspect.BLOBS]
    assert (part.expected, part.sound, dict(part.states)) == (1, 0, {"missing": 1})
    assert wrong(part) == [(f"painting:{painting}", "blob-missing")]
    assert receipt(world, user).parts["painting", Aspect.RECORDS].unsound == 0
    assert ("painting", Aspect.BLOBS) not in receipt(world, user, blobs=False).parts


@pytest.mark.parametrize("count", [LISTED, LISTED + 1])
def test_a_receipt_counts_all_and_lists_the_first(world: World, count: int) -> None:
    """OPS-6: a repository that lost everything makes no receipt of a hundred thousand lines."""
    user = world.user()
    world.moods(user, count)
    part = receipt(world, user).parts["mood", Aspect.RECORDS]
    assert (part.unsound, len(part.wrong)) == (count, LISTED)


def test_of_a_blocked_account_a_receipt_says_why(world: World) -> None:
    user = world.user()
    world.moods(user, 1)
    world.pds.set_status(user, "deactivated")
    made = receipt(world, user)
    assert made.parts == {}
    assert made.blocked


def test_an_account_that_cannot_be_read_costs_nobody_else_the_receipt(world: World) -> None:
    """DEL-5, OPS-1: nothing is said of it, neither good nor bad."""
    users = [world.user(f"user{number}") for number in range(4)]
    for user in users:
        world.moods(user, 1)
        world.sync(user)
    world.pds.fail("read_repository", ServerFailed("502"), call=2)
    receipts = MemoryReceipts()
    ends = taken(world, users, receipts, workers=1)
    assert [type(ended) for _, ended in ends] == [Receipt, ServerFailed, Receipt, Receipt]
    assert [account for account, _ in ends] == users
    assert [each.user for each in receipts.saved] == ["user0", "user2", "user3"]


def test_a_wrong_setting_stops_all(world: World) -> None:
    user = world.user()
    world.documents.fail_next("stream", Misconfigured("MONGODB_NAME names no database"))
    with pytest.raises(Misconfigured):
        taken(world, [user, world.user()], MemoryReceipts())


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_accounts_are_under_way_than_there_are_workers(world: World, workers: int) -> None:
    """OPS-6: whoever is slow to listen does not let repositories pile up."""
    users = [world.user() for _ in range(8)]
    coming: Any = take_receipts(
        world.engine, MemoryReceipts(), users, MEDIA_TYPES, blobs=True, run_id="r", workers=workers, now=world.clock
    )
    next(coming)
    assert world.pds.count("read_repository") <= workers
    coming.close()
    assert world.pds.count("read_repository") <= workers


def test_a_refused_account_turns_nothing_right_that_was_wrong(world: World) -> None:
    """SEEN-1: what is missing waits for the account; what was found missing before is still said."""
    user = world.user()
    world.moods(user, 3)
    world.sync(user)
    (key, *_) = world.records(user, "mood")
    receipts = MemoryReceipts()
    world.drop(user, "mood", key)
    taken(world, [user], receipts, workers=1)
    wrong = replace(user, password="wrong")
    world.sync(wrong)
    taken(world, [wrong], receipts, workers=1)
    states = {found.aspect: found.part.states for found in receipts.unsound(["mood"])}
    assert states == {Aspect.RECORDS: {"missing": 1}, Aspect.LINKS: {"dangling": 1}}
