"""The dry run: the same plan, its cost and its hash, and not a single write."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.errors import NoCredentials, ServiceUnreachable, SourceMissing
from ac_pipeline.media.registry import MEDIA_TYPES
from ac_pipeline.sync.costs import Ceiling, Limits, user_cost
from ac_pipeline.sync.planning.plan import AccountPlan
from ac_pipeline.sync.selection import PlanHash, Selection, planned
from ac_pipeline_tests.unit.sync.world import World, at_second, cost, totals

KEYS = [f"3jzfcijpj2z2{letter}" for letter in "abcdef"]
WHEN_TEXT = "2025-10-15T12:30:45.123Z"


@pytest.fixture
def world() -> World:
    return World()


def a_bit_of_everything(world: World, user: Account) -> dict[str, str]:
    """One item for each kind of operation; its name -> its document."""
    made = {
        name: world.add("mood", user, mood=name) for name in ("create", "update", "adopt", "heal", "keep", "unlink")
    }
    made["delete"] = world.add("mood", user, deleted=True)
    made["invalid"] = world.add("mood", user, mood="")
    made["orphan"] = "f" * 24
    made["duplicate"] = world.add("mood", user, mood="duplicate")
    made["render"] = world.add("painting", user)
    for name, key in zip(("update", "adopt", "heal", "delete", "orphan", "keep"), KEYS, strict=True):
        text = "old" if name == "update" else name
        world.put(user, "mood", key, {"mood": text, "when": WHEN_TEXT, "ref": made[name]})
    for key in ("3jzfcijpj2z2g", "3jzfcijpj2z2h"):
        world.put(user, "mood", key, {"mood": "duplicate", "when": WHEN_TEXT, "ref": made["duplicate"]})
    world.change("mood", made["heal"], atproto={"rkey": "3jzfcijpj2z2z"})
    world.change("mood", made["unlink"], atproto={"rkey": "3jzfcijpj2z2y"}, deleted=True)
    return made


def test_every_item_is_listed_with_operation_and_reason_and_nothing_is_written(world: World) -> None:
    """PLAN-1: neither to the PDS, nor to Mongo, the ledger or the store; no rendition is made."""
    user = world.user()
    made = a_bit_of_everything(world, user)
    with world.quiet():
        plan, report = world.survey(user)
    assert world.renderer.derived == []
    lines = planned([plan])
    assert Counter(line.operation for line in lines) == {
        "create": 1, "update": 1, "delete": 1, "delete-orphan": 1, "delete-duplicate": 1,
        "render": 1, "adopt": 3, "heal": 1, "unlink": 1,
    }  # fmt: skip
    assert all(line.reason and line.rkey and line.user == user.key for line in lines)
    assert {line.item for line in lines} == {
        f"{'painting' if name == 'render' else 'mood'}:{id}" for name, id in made.items() if name != "invalid"
    }
    assert [failure.item for failure in report.failures] == [f"mood:{made['invalid']}"]


@pytest.mark.parametrize("media", MEDIA_TYPES, ids=lambda media: media.name)
def test_a_dry_run_of_any_type_writes_nothing(world: World, media: Any) -> None:
    """PLAN-1: before the first sync, after it, and after a change."""
    user = world.user()
    document = world.add(media.name, user)
    with world.quiet():
        plan, _ = world.survey(user)
    assert len(plan.operations()) == 1
    world.sync(user)
    with world.quiet():
        plan, report = world.survey(user)
    assert plan.operations() == []
    assert report.types[media.name].unchanged == 1
    world.change(media.name, document, nuked=True)
    with world.quiet():
        plan, _ = world.survey(user)
    assert [operation.kind.value for operation in plan.operations()] == ["delete"]


def test_a_sync_does_what_was_foreseen(world: World) -> None:
    """PLAN-1, VERIFY-1: counts of the dry run and of the sync agree."""
    user = world.user()
    a_bit_of_everything(world, user)
    world.engine.render(user, MEDIA_TYPES[0], Selection(), "run-0")
    _, foreseen = world.survey(user)
    done = world.sync(user)
    for name, tally in done.types.items():
        expected = foreseen.types[name].to_json()
        assert tally.to_json() == {**expected, "pending": 0}
    assert totals(world.sync(user)) == {"unchanged": 6, "quarantined": 1}


def test_the_same_plan_has_the_same_hash_and_another_one_has_not(world: World) -> None:
    """PLAN-1: what was looked at is what is carried out, or the hash tells."""
    user = world.user()
    documents = world.moods(user, 3)
    first, second = (PlanHash(planned([world.survey(user)[0]])).hexdigest() for _ in range(2))
    world.change("mood", documents[1], mood="other")
    third = PlanHash(planned([world.survey(user)[0]])).hexdigest()
    assert first == second != third


def test_the_cost_is_what_the_sync_then_takes(world: World) -> None:
    """LIMIT-8: operations, points, uploads and commits."""
    user = world.user()
    world.moods(user, 250)
    world.add("painting", user)
    world.add("tape", user)
    plan, _ = world.survey(user)
    expected = cost(plan, world.clock.now)
    assert (expected.operations, expected.points, expected.blob_uploads, expected.commits) == (252, 756, 3, 2)
    assert expected.sessions == 1
    assert expected.finishes_at > world.clock.now
    world.sync(user)
    assert len(world.pds.batches(user)) == expected.commits
    assert world.pds.count("upload_blob") == expected.blob_uploads
    after = cost(world.survey(user)[0], world.clock.now)
    assert (after.operations, after.points, after.bytes, after.sessions) == (0, 0, 0, 0)
    assert after.finishes_at == world.clock.now


@pytest.mark.parametrize(
    ("moods", "paintings", "commits"), [(0, 1, 1), (199, 1, 1), (200, 1, 2), (150, 60, 2), (0, 201, 2)]
)
def test_records_whose_renditions_are_still_to_be_made_take_their_commits(
    world: World, moods: int, paintings: int, commits: int
) -> None:
    """LIMIT-8: as many as the sync then sends."""
    user = world.user()
    world.moods(user, moods)
    for number in range(paintings):
        world.add("painting", user, code=f"p{number:03}", when=at_second(number))
    plan = world.survey(user)[0]
    price = user_cost(plan)
    assert (price.operations, price.commits) == (moods + paintings, commits)
    assert cost(plan, world.clock.now).commits == commits
    world.sync(user)
    assert len(world.pds.batches(user)) == commits


@pytest.mark.parametrize(("count", "hours"), [(1_666, 0), (1_667, 1), (3_266, 1), (3_267, 2)])
def test_points_decide_when_a_limited_pds_is_done(world: World, count: int, hours: int) -> None:
    """LIMIT-8: 5,000 points an hour are 1,666 creates, in commits of at most 200 that are not cut in two."""
    user = world.user()
    world.moods(user, count)
    expected = cost(world.survey(user)[0], world.clock.now)
    limited = expected.finishes_limited - world.clock.now
    assert abs(limited - timedelta(hours=hours)) < timedelta(minutes=1)


@pytest.mark.parametrize(("count", "hours"), [(400, 0), (401, 1)])
def test_the_relays_hour_decides_when_many_commits_are_done(world: World, count: int, hours: int) -> None:
    """LIMIT-9: two commits an hour, under the limits that are known as under the usual ones of a PDS."""
    user = world.user()
    world.moods(user, count)
    expected = cost(world.survey(user)[0], world.clock.now, Limits(events=(Ceiling(2, 3_600.0),)))
    for end in (expected.finishes_at, expected.finishes_limited):
        assert abs(end - world.clock.now - timedelta(hours=hours)) < timedelta(minutes=1)


def test_commits_that_delete_do_not_wait_for_the_relays_hour(world: World) -> None:
    """LIMIT-9: neither those of withdrawn work, nor one in which something new goes with them."""
    user = world.user()
    documents = world.moods(user, 300)
    world.sync(user)
    for document in documents[:250]:
        world.change("mood", document, nuked=True)
    world.moods(user, 10, first=300)
    spent = Limits(events=(Ceiling(2, 3_600.0, left=0, resets_in=1_800.0),))
    plan = world.survey(user)[0]
    price = user_cost(plan)
    assert (price.commits, price.erasing) == (2, 2)
    assert cost(plan, world.clock.now, spent).finishes_at - world.clock.now < timedelta(minutes=1)


def test_a_blocked_account_has_an_empty_plan_and_a_reason(world: World) -> None:
    """PLAN-1, ACCT-1."""
    user = world.user()
    world.pds.set_status(user, "deactivated")
    world.moods(user, 2)
    with world.quiet():
        plan, report = world.survey(user)
    assert plan.operations() == []
    assert report.blocked is not None
    assert report.types["mood"].blocked == 2
    plan, report = world.survey(Account(id=user.id, key="nobody", blocked=NoCredentials("none")))
    assert isinstance(plan, AccountPlan)
    assert report.types["mood"].blocked == 2


def test_a_dry_run_that_cannot_read_says_so(world: World) -> None:
    """DEL-5: it never shows an empty plan instead."""
    user = world.user()
    world.moods(user, 2)
    world.documents.fail_next("stream", ServiceUnreachable("MongoDB does not answer"))
    with pytest.raises(ServiceUnreachable):
        world.survey(user)


def test_a_known_failure_is_shown_and_not_tried(world: World) -> None:
    """PLAN-1, MEDIA-4: the dry run knows what the ledger knows."""
    user = world.user()
    document = world.add("painting", user)
    world.renderer.failures[document] = SourceMissing("gone")
    world.sync(user)
    with world.quiet():
        plan, report = world.survey(user)
    assert plan.operations() == []
    assert [failure.error_class for failure in report.failures] == ["source-missing"]
