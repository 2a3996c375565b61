"""Whom a run is asked for: new work at once, unfinished work once more and alone, then not before an hour."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest

from ac_pipeline.defs.jobs import USERS_A_RUN
from ac_pipeline.defs.sensors.content import (
    ALONE_A_TICK,
    ASK_AGAIN,
    CHECK,
    GROUPS_A_TICK,
    ITEMS_A_USER,
    UNFINISHED_AT_MOST,
    USERS_REMEMBERED,
    Asked,
    ContentPlan,
    Memory,
    plan_content,
)
from ac_pipeline.mongo.changes.pending import Cause, Work

NOW = 1_000_000.0


def work(key: str, item: str = "1", mark: str = "m", *, touched: bool = False) -> Work:
    return Work(key, f"mood:{key}-{item}", Cause.NEW, mark, touched)


class Ticks:
    """Ticks one after another; nothing is busy and all keys exist unless a test says so."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = NOW
        self.existing: Collection[str] | None = None
        self.busy: set[str] = set()
        self.unfinished = (0, 0)
        self.others_run = False

    def tick(self, works: Iterable[Work], *, after: float = 5.0) -> ContentPlan:
        """One tick that sees these works; the memory goes through text, as a cursor does."""
        self.now += after
        found = list(works)
        memory = Memory.of(self.memory.to_text())
        keys, _ = memory.watched(self.busy, self.now)
        plan = plan_content(
            found,
            memory,
            keys,
            existing=self.existing if self.existing is not None else {each.key for each in found},
            busy=self.busy,
            now=self.now,
            unfinished=self.unfinished,
            others_run=self.others_run,
        )
        self.memory = plan.memory
        return plan


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


def test_one_user_with_something_new_gets_a_run_of_the_partition(ticks: Ticks) -> None:
    plan = ticks.tick([work("ada"), work("ada", "2")])
    assert (plan.alone, plan.together) == (("ada",), ())


def test_an_item_whose_id_is_no_text_of_utf_8_is_remembered_like_any_other(ticks: Ticks) -> None:
    """BORDER-1."""
    odd = work("ada", "\udce9")
    assert ticks.tick([odd]).asked == ticks.tick([odd]).asked == ("ada",)
    assert ticks.tick([odd]).resting == ("ada",)


def test_several_users_go_into_one_run(ticks: Ticks) -> None:
    plan = ticks.tick([work("ada"), work("bea"), work("cyd")])
    assert (plan.alone, plan.together) == ((), (("ada", "bea", "cyd"),))


def test_beside_other_runs_one_user_goes_into_a_run_that_does_not_wait_for_their_pool(ticks: Ticks) -> None:
    ticks.others_run = True
    plan = ticks.tick([work("ada")])
    assert (plan.alone, plan.together) == ((), (("ada",),))


@pytest.mark.parametrize(
    ("users", "sizes", "waiting"),
    [
        (0, [], 0),
        (2, [2], 0),
        (USERS_A_RUN, [USERS_A_RUN], 0),
        (USERS_A_RUN + 1, [USERS_A_RUN, 1], 0),
        (GROUPS_A_TICK * USERS_A_RUN, [USERS_A_RUN] * GROUPS_A_TICK, 0),
        (GROUPS_A_TICK * USERS_A_RUN + 1, [USERS_A_RUN] * GROUPS_A_TICK, 1),
        (700, [USERS_A_RUN] * GROUPS_A_TICK, 700 - GROUPS_A_TICK * USERS_A_RUN),
    ],
)
def test_a_tick_asks_for_few_runs_however_many_users_changed(
    ticks: Ticks, users: int, sizes: list[int], waiting: int
) -> None:
    """RUN-10."""
    plan = ticks.tick(work(f"u{number}") for number in range(users))
    assert [len(group) for group in plan.together] == sizes
    assert len(plan.waiting) == waiting


def test_those_who_wait_are_asked_for_at_the_next_ticks_and_nobody_twice(ticks: Ticks) -> None:
    everyone = [f"u{number}" for number in range(300)]
    asked: list[str] = []
    for _ in range(5):
        plan = ticks.tick([work(key) for key in everyone if key not in asked])
        asked += plan.asked
    assert sorted(asked) == sorted(everyone)


@pytest.mark.parametrize(("unfinished", "runs"), [(0, 2), (UNFINISHED_AT_MOST - 1, 1), (UNFINISHED_AT_MOST, 0)])
def test_runs_are_not_piled_up(ticks: Ticks, unfinished: int, runs: int) -> None:
    ticks.unfinished = (unfinished, 99)
    plan = ticks.tick(work(f"u{number}") for number in range(200))
    assert len(plan.together) == runs


def test_work_that_is_done_is_forgotten_so_that_the_same_again_is_new(ticks: Ticks) -> None:
    """DEL-2: an item that is un-nuked is the work it was when it was made."""
    ticks.tick([work("ada")])
    ticks.tick([])
    assert not ticks.memory.users
    assert ticks.tick([work("ada")]).asked == ("ada",)


def test_unfinished_work_gets_one_run_of_its_own_and_then_rests_for_an_hour(ticks: Ticks) -> None:
    """RUN-10, DEL-6: no endless requests, and none given up."""
    works = [work("ada"), work("bea")]
    assert ticks.tick(works).together == (("ada", "bea"),)
    second = ticks.tick(works)
    assert (second.together, second.alone) == ((), ("ada", "bea"))
    for _ in range(20):
        plan = ticks.tick(works)
        assert (plan.asked, set(plan.resting)) == ((), {"ada", "bea"})
    assert ticks.tick(works, after=ASK_AGAIN - 101).asked == ()
    assert ticks.tick(works, after=2).alone == ("ada", "bea")
    assert ticks.tick(works).asked == ()


def test_a_clock_that_was_wrong_lets_nobody_rest_for_longer(ticks: Ticks) -> None:
    """RUN-10: a machine was a year ahead, and its clock was set right."""
    ticks.now += 365 * 86_400
    for _ in range(3):
        ticks.tick([work("ada")])
    ticks.now -= 365 * 86_400
    assert ticks.memory.watched(set(), ticks.now) == ({"ada"}, {"mood:ada-1"})
    assert ticks.tick([work("ada")]).alone == ("ada",)
    assert ticks.tick([work("ada")]).resting == ("ada",)


def test_something_new_of_a_resting_user_is_asked_for_at_once(ticks: Ticks) -> None:
    for _ in range(3):
        ticks.tick([work("ada")])
    assert ticks.tick([work("ada"), work("ada", "2", touched=True)]).asked == ("ada",)
    ticks.tick([work("ada"), work("ada", "2")])
    assert ticks.tick([work("ada"), work("ada", "2")]).asked == ()
    assert ticks.tick([work("ada", mark="edited"), work("ada", "2")]).asked == ("ada",)


def test_a_part_of_the_work_that_is_left_over_is_nothing_new(ticks: Ticks) -> None:
    ticks.tick([work("ada"), work("ada", "2"), work("bea")])
    assert ticks.tick([work("ada", "2")]).alone == ("ada",)
    assert ticks.tick([work("ada", "2")]).resting == ("ada",)


def test_many_unfinished_items_of_one_user_are_no_reason_to_ask_again_and_again(ticks: Ticks) -> None:
    many = [work("ada", str(number)) for number in range(3 * ITEMS_A_USER)]
    ticks.tick(many)
    ticks.tick(many)
    for _ in range(5):
        assert ticks.tick(reversed(many)).asked == ()
    assert ticks.tick([*many, work("ada", "new", touched=True)]).asked == ("ada",)


def test_a_user_whose_run_is_not_done_is_left_alone_and_what_came_meanwhile_is_asked_for_afterwards(
    ticks: Ticks,
) -> None:
    """DEL-3: what happens during a run is not lost."""
    ticks.tick([work("ada"), work("bea")])
    ticks.busy = {"ada", "bea"}
    plan = ticks.tick([work("ada", "2", touched=True)])
    assert (plan.asked, plan.busy) == ((), ("ada",))
    keys, items = ticks.memory.watched({"ada"}, ticks.now)
    assert (keys, items) == ({"bea"}, {"mood:bea-1"})
    ticks.busy = set()
    keys, items = ticks.memory.watched(set(), ticks.now)
    assert items == {"mood:ada-1", "mood:ada-2", "mood:bea-1"}
    assert ticks.tick([work("ada", "2")]).asked == ("ada",)


def test_a_key_that_does_not_exist_yet_is_left_to_the_users_sensor_and_remembered(ticks: Ticks) -> None:
    """RUN-11."""
    ticks.existing = {"ada"}
    plan = ticks.tick([work("new", touched=True)])
    assert (plan.asked, plan.unknown) == ((), ("new",))
    ticks.existing = {"ada", "new"}
    assert ticks.tick([work("new")]).asked == ("new",)


def test_runs_of_partitions_that_wait_behind_a_backfill_do_not_keep_new_work_waiting(ticks: Ticks) -> None:
    old = [work(f"old{number}") for number in range(50)]
    ticks.tick(old)
    ticks.unfinished = (0, UNFINISHED_AT_MOST)
    plan = ticks.tick([*old, work("new"), work("newer")])
    assert (plan.together, plan.alone) == ((("new", "newer"),), ())
    ticks.unfinished = (0, 0)
    assert len(ticks.tick(old).alone) == ALONE_A_TICK


def test_the_work_of_resting_users_is_looked_at_once_a_minute(ticks: Ticks) -> None:
    for _ in range(3):
        ticks.tick([work("ada")])
    ticks.memory = Memory(None, ticks.memory.users, ticks.now)
    assert ticks.memory.watched(set(), ticks.now + CHECK - 1) == (frozenset(), frozenset())
    assert ticks.memory.watched(set(), ticks.now + CHECK) == ({"ada"}, {"mood:ada-1"})


def test_the_memory_is_bounded_and_keeps_whom_it_asked_for_last(ticks: Ticks) -> None:
    users = {f"old{number}": Asked(2, NOW - 100, {"mood:1": "m"}) for number in range(USERS_REMEMBERED)}
    ticks.memory = Memory("here", users, NOW)
    plan = ticks.tick([work("ada")])
    assert len(plan.memory.users) == USERS_REMEMBERED
    assert "ada" in plan.memory.users
    assert len(plan.memory.to_text()) < 60_000


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"users": {"ada": 3}}', '"x"', '{"users": {"a": [1, 2]}}'])
def test_a_cursor_nobody_can_read_is_an_empty_memory(text: str | None) -> None:
    assert Memory.of(text) == Memory()
