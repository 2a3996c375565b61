"""The plan: limits that were learned, and plans of many users."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.atproto.rate_limits import POLICY, Bucket, Window
from ac_pipeline.errors import NoCredentials
from ac_pipeline.items import PlannedOperation
from ac_pipeline.operations.plan import (
    DryRun,
    PlanParameters,
    apply_part,
    dry_run,
    kept_lines,
    learned_limits,
    plan_report,
    selection_of,
    selection_to_json,
)
from ac_pipeline.sync.costs import USUAL, Ceiling, Limits
from ac_pipeline.sync.selection import PlanHash, Selection, planned
from ac_pipeline_tests.unit.sync.world import World, totals

NOW = 1_000_000.0
HOURLY, DAILY = "5000;w=3600", "35000;w=86400"


def window(limit: int, length: float, remaining: int, ends: float) -> Window:
    return Window(limit, length, remaining, NOW + ends)


def test_limits_are_those_the_answers_named_and_nothing_else() -> None:
    """LIMIT-3, LIMIT-4: one user's policies hold for all; what is spent is that user's alone."""
    buckets = [
        ("did:plc:old", Bucket({"100;w=3600": window(100, 3_600, 0, -90_000)})),
        ("did:plc:ada", Bucket({HOURLY: window(5_000, 3_600, 700, 60), DAILY: window(35_000, 86_400, 9, 600)})),
        ("did:plc:bob", Bucket({HOURLY: window(5_000, 3_600, 4_000, -1)})),
        ("pds.test uploadBlob", Bucket({"1000;w=86400": window(1_000, 86_400, 3, 60)})),
        ("pds.test", Bucket({"3000;w=300": window(3_000, 300, 10, -5)})),
        ("other.test", Bucket({"7;w=300": window(7, 300, 1, 5)})),
        ("pds.test getRepo", Bucket({"6000;w=300": window(6_000, 300, 1, 5)})),
    ]
    limits = learned_limits(buckets, "pds.test", NOW, headroom=0.1, relay=2_500)
    assert set(limits.points) == {Ceiling(5_000, 3_600), Ceiling(35_000, 86_400)}
    assert set(limits.spent) == {"did:plc:ada"}
    assert set(limits.spent["did:plc:ada"]) == {Ceiling(5_000, 3_600, 700, 60), Ceiling(35_000, 86_400, 9, 600)}
    assert limits.uploads == (Ceiling(1_000, 86_400, 3, 60),)
    assert limits.requests == (Ceiling(3_000, 300),)
    assert limits.events == (Ceiling(2_500, 3_600),)
    assert learned_limits([], "pds.test", NOW, headroom=0.1) == Limits(headroom=0.1)


@pytest.mark.parametrize(
    ("relay", "ends", "expected"),
    [
        (2_500, 60, (Ceiling(2_500, 3_600, 2_490, 60),)),
        (3, 60, (Ceiling(3, 3_600, -7, 60),)),
        (2_500, 0, (Ceiling(2_500, 3_600),)),
        (0, 60, ()),
    ],
)
def test_the_relays_hour_is_reckoned_as_it_stands(relay: int, ends: float, expected: tuple[Ceiling, ...]) -> None:
    """LIMIT-9: ten commits of this hour are spent, whatever the limit was when it began."""
    buckets = [("pds.test commits", Bucket({POLICY: window(5_000, 3_600, 4_990, ends)}))]
    assert learned_limits(buckets, "pds.test", NOW, headroom=0.1, relay=relay).events == expected
    assert learned_limits(buckets, "other.test", NOW, headroom=0.1, relay=7).events == (Ceiling(7, 3_600),)


def test_a_plan_of_many_users_is_the_sum_of_their_plans_and_holds_none_of_them() -> None:
    """PLAN-1, LIMIT-8: operations go out as they come; the hash is that of all of them."""
    world = World()
    users = sorted((world.user() for _ in range(5)), key=lambda user: user.key)
    for number, user in enumerate(users):
        world.moods(user, number)
    with world.quiet():
        made = dry_run(world.engine, users, Selection(), limits=USUAL, workers=2)
    out = [PlannedOperation(**row) for row in made.operations]
    again = planned([world.survey(user)[0] for user in users])
    assert made.hash == PlanHash(out).hexdigest() == PlanHash(again).hexdigest()
    assert (made.users, made.counts, made.cost.points, made.saved) == (4, {"create": 10}, 30, False)
    assert [bill.cost.user for bill in made.slowest] == [user.key for user in reversed(users[1:])]


def test_a_selection_is_kept_with_its_plan() -> None:
    """PLAN-2."""
    chosen = Selection(since=1, until=2, items=frozenset({("mood", "a")}), limit=3, sweep=0)
    assert selection_of(selection_to_json(chosen, None)) == chosen
    assert selection_of(selection_to_json(Selection(), [Account("auth0|a", "a")])) == Selection()


def test_the_command_that_sweeps_has_the_selection_of_the_plan_and_no_option_of_the_plan_alone() -> None:
    lines = kept_lines({"mood": 2, "tape": 0}, PlanParameters(users=["ada"], sweep=True, relay_events=7))
    assert "  ac-pipeline sync --type mood --user ada --sweep 2" in lines
    assert kept_lines({"mood": 0}, PlanParameters()) == []


def drawn(world: World, *users: Account) -> DryRun:
    with world.quiet():
        return dry_run(world.engine, users, Selection(), limits=USUAL, workers=1)


def test_items_that_cannot_be_published_are_counted_and_not_said_to_be_in_order() -> None:
    """PLAN-1, OPS-4: nothing has tried them yet, so that only a plan can tell beforehand."""
    world = World()
    user = world.user()
    world.add("mood", user, mood="  ")
    made = drawn(world, user)
    assert (made.quarantined, made.counts) == ({"invalid-document": 1}, {})
    report = plan_report(made)
    assert report.headline == "Nothing to do."
    assert any("as they are: invalid-document 1." in line for line in report.lines)
    assert report.json["quarantined"] == {"invalid-document": 1}


def test_users_known_to_be_blocked_are_apart_from_operations_hash_and_cost() -> None:
    """SEEN-2: also what came after the refusal, deletions and renditions; a user who works is not touched by it."""
    world = World()
    ada, bob = world.user("ada"), world.user("bob")
    gone = world.add("mood", ada)
    world.sync(ada)
    for user in (ada, bob):
        world.add("mood", user, mood="new")
        world.add("painting", user)
    wrong = replace(ada, password="wrong")
    world.sync(wrong)
    world.change("mood", gone, nuked=True)
    world.add("mood", ada, mood="newer")
    world.add("tape", ada)

    alone, both = drawn(world, bob), drawn(world, wrong, bob)
    assert set(both.blocked) == {ada.key}
    assert (both.hash, both.cost, both.counts, both.users) == (alone.hash, alone.cost, alone.counts, 1)
    lacking = replace(ada, password=None, blocked=NoCredentials("no password"))
    assert (drawn(world, lacking, bob).hash, set(drawn(world, lacking, bob).blocked)) == (alone.hash, {ada.key})
    world.pds.set_status(ada, "deactivated")
    assert (drawn(world, ada, bob).hash, set(drawn(world, ada, bob).blocked)) == (alone.hash, {ada.key})


def test_a_blocked_user_is_picked_up_by_itself_once_credentials_change() -> None:
    """SEEN-2, ACCT-2: the plan sees other credentials in Mongo; a sync tries in any case, and then the plan knows."""
    world = World()
    ada = world.user()
    world.moods(ada, 3)
    wrong = replace(ada, password="wrong")
    world.sync(wrong)
    assert (drawn(world, wrong).counts, len(drawn(world, wrong).blocked)) == ({}, 1)
    assert (drawn(world, ada).counts, drawn(world, ada).blocked) == ({"create": 3}, {})
    assert totals(world.sync(ada)) == {"created": 3}
    assert drawn(world, ada).blocked == {}


def test_a_saved_plan_does_not_take_the_work_of_a_blocked_user_for_news() -> None:
    """SEEN-2."""
    world = World()
    wrong = replace(world.user(), password="wrong")
    world.moods(wrong, 3)
    world.sync(wrong)
    assert apply_part(world.engine, wrong, Selection(), [], "run", dry=True).moved == []
