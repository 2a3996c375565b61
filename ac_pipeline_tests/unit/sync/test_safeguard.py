"""What may be deleted because its document is gone, by everybody together; and whether this is the platform we know."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.accounts import Account
from ac_pipeline.errors import Misconfigured, ServiceUnreachable
from ac_pipeline.items import State
from ac_pipeline.media.mood import MOOD
from ac_pipeline_tests.unit.sync.world import World, chosen

DAY = timedelta(days=1)


@pytest.fixture
def world() -> World:
    return World()


def people(world: World, number: int, each: int) -> tuple[list[Account], list[str]]:
    """Users with a few moods each, all published; the moods' ids."""
    users = [world.user() for _ in range(number)]
    moods = [mood for user in users for mood in world.moods(user, each)]
    for user in users:
        world.sync(user)
    world.safeguard.look(MOOD)
    return users, moods


def lose(world: World, moods: list[str]) -> None:
    for mood in moods:
        world.documents.remove(MOOD, mood)


def sync_all(world: World, users: list[Account], **selection: object) -> tuple[int, int]:
    """Records deleted and kept."""
    tallies = [world.sync(user, **selection).tally("mood") for user in users]
    return sum(tally.deleted for tally in tallies), sum(tally.orphans_kept for tally in tallies)


def records(world: World, users: list[Account]) -> int:
    return sum(len(world.records(user, "mood")) for user in users)


def test_a_user_with_three_items_is_served(world: World) -> None:
    """GUARD-1: the floor."""
    users, moods = people(world, 3, 3)
    lose(world, moods[:3])
    assert sync_all(world, users) == (3, 0)


@pytest.mark.parametrize(("lost", "deleted"), [(12, 12), (13, 0)])
def test_more_than_half_of_what_a_user_has_waits_for_a_person(world: World, lost: int, deleted: int) -> None:
    """GUARD-1: one mood over the half of 24; everybody's share of the day would let both go."""
    people(world, 10, 12)
    (user,), moods = people(world, 1, 24)
    lose(world, moods[:lost])
    assert sync_all(world, [user]) == (deleted, lost - deleted)


@pytest.mark.parametrize("memory", ["as it is", "no look before", "ledger lost"])
@pytest.mark.parametrize("instead", [False, True], ids=["gone", "imported anew under other ids"])
def test_a_collection_lost_from_many_users_with_few_items_each_loses_no_record(
    world: World, memory: str, instead: bool
) -> None:
    """GUARD-1: run after run, day after day; a ledger that knew nothing of it lets the floor go, and no more."""
    users, moods = people(world, 20, 3)
    lose(world, moods[:54])
    if instead:
        for user in users[:18]:
            world.moods(user, 3, first=10)
    if memory != "as it is":
        world.ledger.looks.clear()
    if memory == "ledger lost":
        world.ledger.entries.clear()
        world.ledger.repositories.clear()
    deleted = 0
    for _ in range(4):
        for _ in range(3):
            deleted += sync_all(world, users)[0]
        world.clock.advance(DAY.total_seconds())
    limit = 0 if memory != "ledger lost" else world.safeguard.allowed(60 if instead else 6)
    assert deleted <= limit
    assert sync_all(world, users)[1] >= 54 - limit
    assert world.safeguard.problems(world.safeguard.look(MOOD))[0] is not None


def test_the_look_that_sees_the_loss_does_not_take_it_for_right(world: World) -> None:
    """GUARD-1: it stays doubted until the collection recovers."""
    users, moods = people(world, 20, 3)
    kept = {mood: world.documents.raw(MOOD, mood) for mood in moods[:40]}
    lose(world, moods[:40])
    for _ in range(30):
        look = world.safeguard.look(MOOD)
        assert (look.documents, look.expected) == (20, 60)
        world.clock.advance(DAY.total_seconds())
    for raw in kept.values():
        world.documents.add(MOOD, raw)
    assert world.safeguard.problems(world.safeguard.look(MOOD))[0] is None
    lose(world, moods[:2])
    assert sync_all(world, users) == (2, 0)


def test_a_slow_shrink_goes_on(world: World) -> None:
    """GUARD-1: a few users a day may remove all they have, for as long as they like."""
    users, moods = people(world, 20, 3)
    for day in range(15):
        lose(world, moods[day * 3 : day * 3 + 3])
        assert sync_all(world, users) == (3, 0), day
        world.clock.advance(DAY.total_seconds() + 1)
    assert records(world, users) == 15


def test_the_share_of_a_day_is_one_for_all_runs(world: World) -> None:
    """GUARD-1: also where the collection grows meanwhile, so that its size tells nothing."""
    users, moods = people(world, 20, 3)
    deleted = 0
    for number, user in enumerate(users):
        lose(world, moods[number * 3 : number * 3 + 1])
        world.moods(user, 1, first=20)
        deleted += sync_all(world, [user])[0]
        world.clock.advance(600)
    assert deleted == world.safeguard.allowed(60) == 6


def test_the_number_lets_as_many_go_and_no_more(world: World) -> None:
    """GUARD-1: a sweep is of one run; more than its number stay, and asked again the same ones count once."""
    users, moods = people(world, 20, 3)
    lose(world, moods[:54])
    assert sync_all(world, users, sweep=5) == (3, 51)
    assert sync_all(world, users, sweep=5) == (0, 51)
    report = world.engine.sync(users[1], chosen(types=["mood"], sweep=3), "another run")
    assert report.tally("mood").deleted == 3
    look = world.safeguard.look(MOOD)
    assert look.expected == 54


def test_a_crash_between_asking_and_deleting_opens_no_hole(world: World) -> None:
    """GUARD-1: what was asked for counts, deleted or not, and counts once."""
    users, moods = people(world, 20, 3)
    lose(world, moods[:5])
    for _ in range(5):
        world.pds.fail("apply_writes", ServiceUnreachable("it dies here"))
        assert world.sync(users[0]).run_again
    assert len(world.safeguard.look(MOOD).orphans) == 3
    assert sync_all(world, users) == (5, 0)
    lose(world, moods[6:9])
    assert sync_all(world, users) == (0, 3)


def test_records_that_went_with_their_documents_are_no_loss(world: World) -> None:
    """GUARD-1, DEL-6: the platform removes both; the ledger learns it, and the others are served."""
    users, moods = people(world, 20, 3)
    for user in users[:5]:
        (mood, [key]) = next(iter(world.by_ref(user, "mood").items()))
        world.drop(user, "mood", key)
        lose(world, [str(mood)])
        moods.remove(str(mood))
    assert world.safeguard.look(MOOD).lost == 5
    assert sync_all(world, users) == (0, 0)
    assert world.safeguard.look(MOOD).lost == 0
    assert [entry.state for entry in world.ledger.entries.values()].count(State.DELETED) == 5


def test_a_loss_the_ledger_knew_nothing_of_is_forgotten_once_the_documents_are_back(world: World) -> None:
    """GUARD-1: what waits is known by its document."""
    users, moods = people(world, 20, 3)
    kept = {mood: world.documents.raw(MOOD, mood) for mood in moods[:50]}
    lose(world, moods[:50])
    world.ledger.looks.clear()
    world.ledger.entries.clear()
    assert sync_all(world, users)[0] <= 5
    assert sync_all(world, users)[0] == 0
    for raw in kept.values():
        world.documents.add(MOOD, raw)
    sync_all(world, users)
    world.clock.advance(DAY.total_seconds())
    assert world.safeguard.problems(world.safeguard.look(MOOD))[0] is None


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**16),
    steps=st.lists(st.tuples(st.sampled_from(["lose", "sync", "add", "wait", "plan"]), st.integers(0, 9)), max_size=25),
)
def test_whatever_happens_no_day_takes_more_than_the_share(seed: int, steps: list[tuple[str, int]]) -> None:
    """GUARD-1: losses, new documents, plans and syncs of any users in any order, over days."""
    world, choose = World(), random.Random(seed)
    users, moods = people(world, 10, 3)
    gone: list[float] = []
    largest, begun, added = len(moods), world.clock.now, 100
    for step, number in [*steps, ("sync", 9)]:
        match step:
            case "lose":
                for _ in range(number):
                    if moods:
                        lose(world, [moods.pop(choose.randrange(len(moods)))])
            case "add":
                moods += world.moods(users[number], number, first=(added := added + 10))
                largest = max(largest, len(moods))
            case "wait":
                world.clock.advance(number * 7_200)
            case "plan":
                world.survey(users[number])
            case _:
                for user in choose.sample(users, number + 1):
                    deleted = world.sync(user).tally("mood").deleted
                    gone += [(world.clock.now - begun).total_seconds()] * deleted
    for end in gone:
        assert sum(end - DAY.total_seconds() < each <= end for each in gone) <= world.safeguard.allowed(largest)


def test_nothing_new_for_the_set_days_is_said_where_some_used_to_come(world: World) -> None:
    """SEEN-3: also when the newest ones are lost afterwards, and not of a type that hardly ever gets one."""
    user = world.user()
    moods = world.moods(user, 5)
    newest = world.safeguard.look(MOOD)
    assert "No new mood has come for 78 days" in str(world.safeguard.problems(newest)[1])
    lose(world, moods[3:])
    assert world.safeguard.look(MOOD).newest == newest.newest
    assert world.safeguard.problems(replace(newest, arrivals=2)) == (None, None)
    world.safeguard.silent_days = 0
    assert world.safeguard.problems(newest) == (None, None)


def test_after_a_plan_no_sync_removes_what_the_first_look_let_go(world: World) -> None:
    """GUARD-1, PLAN-1: of a platform that no run has seen before, as at a cut-over."""
    users, moods = people(world, 10, 3)
    lose(world, moods[:24])
    world.ledger.looks.clear()
    world.ledger.entries.clear()
    world.ledger.repositories.clear()
    plans = [sum(world.survey(user)[1].orphans_kept for user in users) for _ in range(2)]
    assert plans == [21, 24]
    assert sync_all(world, users) == (0, 24)


def test_one_user_with_records_of_any_names_holds_up_nobody(world: World) -> None:
    """GUARD-1: what is written into one's own repository is one's own matter."""
    users, moods = people(world, 40, 3)
    for number, (one, two) in enumerate(product("abcdefgh", repeat=2)):
        ref = f"{number:024x}" if number % 2 else f"$x.{number}\n"
        world.put(users[0], "mood", f"3jzfcijpj2z{one}{two}", {"ref": ref})
    assert world.sync(users[0]).orphans_kept > 10
    lose(world, [moods[3], moods[6]])
    assert sync_all(world, users[1:]) == (2, 0)


def test_a_date_in_the_future_hides_no_silence(world: World) -> None:
    """SEEN-3."""
    user = world.user()
    world.moods(user, 5)
    world.add("mood", user, when=world.clock.now + timedelta(days=365), _id=ObjectId())
    assert world.safeguard.problems(world.safeguard.look(MOOD))[1] is not None


@pytest.mark.parametrize(
    ("known", "named", "refused"),
    [(2, 0, False), (3, 0, True), (3, 1, False), (30, 14, True), (30, 15, False), (12, 3, False)],
)
def test_a_database_is_refused_that_names_almost_none_of_the_known_accounts(
    world: World, known: int, named: int, refused: bool
) -> None:
    """GUARD-2: a few accounts less are everyday life."""
    users = [world.user() for _ in range(known)]
    for user in users:
        world.sync(user)
    left = [*users[:named], *(replace(user, did=None) for user in users[named:])]
    if refused:
        with pytest.raises(Misconfigured, match=f"names {named} of the {known} accounts"):
            world.safeguard.check_accounts(left)
    else:
        world.safeguard.check_accounts(left)


def test_a_fresh_platform_begins(world: World) -> None:
    """GUARD-2: users without accounts on the PDS, or only a guest with work; a database without anything is none."""
    user, guest = replace(world.user(), did=None), replace(world.guest(), did=None)
    world.safeguard.check_platform([user, guest])
    with pytest.raises(Misconfigured, match="holds no users and no documents"):
        world.safeguard.check_platform([guest])
    world.moods(guest, 1)
    world.safeguard.check_platform([guest])


def test_a_pds_that_hosts_none_stops_a_sync_before_anybody_is_blocked(world: World) -> None:
    """GUARD-2: one account that it does not host is blocked alone."""
    users = [world.user() for _ in range(4)]
    for user in users:
        world.moods(user, 1)
    world.accounts = {user.id: replace(user, did=f"did:plc:elsewhere{user.key}") for user in users}
    for user in world.accounts.values():
        with pytest.raises(Misconfigured, match="hosts 0 of the 4 accounts"):
            world.engine.sync(user, chosen(types=["mood"]), "run-1")
        with pytest.raises(Misconfigured):
            world.survey(user)
    assert world.ledger.entries == {}


def test_a_look_of_a_clock_that_was_wrong_is_not_taken_for_a_fresh_one(world: World) -> None:
    """GUARD-1: what was there a year from now says nothing."""
    users, moods = people(world, 20, 3)
    world.clock.advance(365 * DAY.total_seconds())
    world.safeguard.look(MOOD)
    world.clock.advance(-365 * DAY.total_seconds())
    lose(world, moods[:40])
    assert world.safeguard.look(MOOD, within=DAY).documents == 20
    assert sync_all(world, users) == (0, 40)
