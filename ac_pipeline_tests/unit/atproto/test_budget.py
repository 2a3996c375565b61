"""Budgets: what a server says about its limits decides what is sent to it, and when."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from ac_pipeline.atproto.rate_limits import (
    LOOK_SECONDS,
    UNNAMED_WAIT,
    Bucket,
    Budget,
    Charge,
    MemoryBudgetStore,
    Window,
)
from ac_pipeline.errors import RateLimited, ServiceUnreachable

START = 1_795_233_892.0
DID = "did:plc:a"
HOST = "pds.test"

HOURLY = "5000;w=3600"
DAILY = "35000;w=86400"
GENERAL = "3000;w=300"


class Clock:
    """Moves only by sleeping, and by hand."""

    def __init__(self) -> None:
        self.now = START
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> Budget:
    return Budget(clock=clock, sleep=clock.sleep, max_wait=60.0)


def headers(policy: str, remaining: int, reset: float) -> dict[str, str]:
    return {
        "ratelimit-limit": policy.split(";", maxsplit=1)[0],
        "ratelimit-remaining": str(remaining),
        "ratelimit-reset": str(int(reset)),
        "ratelimit-policy": policy,
    }


def write(cost: int) -> tuple[Charge, Charge]:
    """What a batch draws from: the points of its DID, and the requests of the host."""
    return Charge(DID, cost, 3600.0), Charge(HOST, 1)


def left(budget: Budget, key: str) -> list[int]:
    """What remains of a bucket's limits, the names of the policies in order."""
    return [window.remaining for _, window in sorted(budget.known(key).items())]


READ = (Charge(HOST, 1),)


def test_nothing_is_held_back_until_a_server_names_a_limit(budget: Budget, clock: Clock) -> None:
    """LIMIT-4: limits are learned, not assumed."""
    for _ in range(10_000):
        budget.reserve(write(600))

    assert clock.slept == []
    assert budget.known(DID) == {}


@pytest.mark.parametrize(("cost", "sent"), [(599, True), (600, True), (601, False)])
def test_what_does_not_fit_is_not_sent(budget: Budget, clock: Clock, cost: int, sent: bool) -> None:
    """LIMIT-5: a batch over the points that are left is deferred, with the time it will fit."""
    budget.learn(headers(HOURLY, 600, START + 1800), write(3))

    if sent:
        budget.reserve(write(cost))
        assert left(budget, DID)[0] == 600 - cost
    else:
        with pytest.raises(RateLimited, match=r"did:plc:a \(5000;w=3600\)") as caught:
            budget.reserve(write(cost))
        assert caught.value.retry_after == 1800.0
        assert left(budget, DID)[0] == 600
    assert clock.slept == []


@pytest.mark.parametrize(("reset", "waits"), [(60, True), (61, False)])
def test_a_near_reset_is_waited_for(budget: Budget, clock: Clock, reset: int, waits: bool) -> None:
    budget.learn(headers(GENERAL, 0, START + reset), READ)

    if waits:
        budget.reserve(READ)
        assert clock.slept == [60.0]
        assert left(budget, HOST)[0] == 2999
    else:
        with pytest.raises(RateLimited) as caught:
            budget.reserve(READ)
        assert caught.value.retry_after == 61.0
        assert clock.slept == []


@pytest.mark.parametrize(
    ("answer", "retry_after", "silent_for"),
    [
        (headers(HOURLY, 0, START + 40), 40.0, 40.0),
        (headers(HOURLY, 0, START + 20), 40.0, 40.0),
        (headers(HOURLY, 0, START + 40), 20.0, 40.0),
        ({}, 33.0, 33.0),
        ({}, None, UNNAMED_WAIT),
        ({"ratelimit-policy": "nonsense", "ratelimit-remaining": "x", "ratelimit-reset": "?"}, None, UNNAMED_WAIT),
    ],
)
def test_after_a_429_nothing_is_sent_before_its_time(
    budget: Budget, clock: Clock, answer: dict[str, str], retry_after: float | None, silent_for: float
) -> None:
    """LIMIT-1: no request goes to that bucket before its reset or `Retry-After`."""
    budget.refused(answer, write(3), retry_after)

    budget.reserve(write(3))

    assert clock.now == START + silent_for


def test_a_429_of_one_account_leaves_the_others_alone(budget: Budget, clock: Clock) -> None:
    """LIMIT-1, LIMIT-6: a spent bucket stops only what draws from it."""
    budget.refused(headers(HOURLY, 0, START + 3000), write(600), 3000.0)

    budget.reserve((Charge("did:plc:b", 600, 3600.0), Charge(HOST, 1)))
    budget.reserve(READ)
    with pytest.raises(RateLimited):
        budget.reserve(write(1))

    assert clock.slept == []


def test_a_429_that_names_no_bucket_silences_all_it_could_mean(budget: Budget, clock: Clock) -> None:
    """LIMIT-1, LIMIT-3"""
    budget.refused({}, write(3), 3000.0)

    with pytest.raises(RateLimited):
        budget.reserve(READ)
    with pytest.raises(RateLimited):
        budget.reserve(write(3))
    assert clock.slept == []


def test_unnamed_headers_of_two_buckets_are_counted_apart(budget: Budget) -> None:
    """LIMIT-3: the tightest bucket is reported, without its name; each policy is a count of its own."""
    budget.learn(headers(GENERAL, 2999, START + 300), READ)
    budget.reserve(write(300))
    budget.learn(headers(GENERAL, 2700, START + 300), write(300))
    budget.learn(headers(HOURLY, 4100, START + 3600), write(300))
    budget.learn(headers(DAILY, 4000, START + 86_400), write(300))

    assert budget.known(HOST) == {GENERAL: Window(3000, 300.0, 2700, START + 300)}
    assert budget.known(DID) == {
        DAILY: Window(35_000, 86_400.0, 4000, START + 86_400),
        HOURLY: Window(5000, 3600.0, 4100, START + 3600),
    }


@pytest.mark.parametrize(("consumed", "key"), [(600, DID), (599, HOST)])
def test_a_bucket_that_lost_less_than_the_request_cost_is_another_one(budget: Budget, consumed: int, key: str) -> None:
    """LIMIT-3: even where two policies have the same window, the arithmetic tells points from requests."""
    budget.learn(headers("9000;w=3600", 9000 - consumed, START + 3600), write(600))

    assert [window.limit for window in budget.known(key).values()] == [9000]


def test_the_shortest_window_tells_requests_from_points(budget: Budget) -> None:
    budget.learn(headers(GENERAL, 100, START + 300), write(3))

    assert budget.known(DID) == {}
    assert len(budget.known(HOST)) == 1


def test_answers_that_overtake_each_other_never_give_back_what_is_spent(budget: Budget) -> None:
    for _ in range(3):
        budget.reserve(READ)
    budget.learn(headers(GENERAL, 2997, START + 300), READ)
    budget.learn(headers(GENERAL, 2999, START + 300), READ)
    budget.learn(headers(GENERAL, 2998, START + 301), READ)

    assert left(budget, HOST)[0] == 2997


def test_what_others_spend_is_seen_in_the_next_answer(budget: Budget) -> None:
    """LIMIT-5: the user's own posts draw from the same points."""
    budget.learn(headers(HOURLY, 4000, START + 3600), write(3))
    budget.reserve(write(3))
    budget.learn(headers(HOURLY, 1000, START + 3600), write(3))

    assert left(budget, DID)[0] == 1000


def test_a_new_window_starts_full_and_is_corrected_by_its_first_answer(budget: Budget, clock: Clock) -> None:
    budget.learn(headers(HOURLY, 0, START + 10), write(3))
    clock.now = START + 10
    budget.reserve(write(600))
    assert left(budget, DID)[0] == 4400

    budget.learn(headers(HOURLY, 3000, START + 2000), write(600))

    assert budget.known(DID) == {HOURLY: Window(5000, 3600.0, 3000, START + 2000)}


def test_a_late_answer_of_the_last_window_changes_nothing(budget: Budget, clock: Clock) -> None:
    budget.learn(headers(HOURLY, 10, START + 10), write(3))
    clock.now = START + 11
    budget.reserve(write(3))

    budget.learn(headers(HOURLY, 4, START + 10), write(3))

    assert left(budget, DID)[0] == 4997


def test_a_share_of_the_points_stays_free_for_the_owner(clock: Clock) -> None:
    """LIMIT-5: a headroom share stays free for the user's own posts; requests of the host have none."""
    budget = Budget(clock=clock, sleep=clock.sleep, max_wait=0.0, headroom=0.1)
    budget.learn(headers(HOURLY, 1100, START + 3600), write(3))
    budget.learn(headers(GENERAL, 2, START + 300), READ)

    budget.reserve(write(600))
    with pytest.raises(RateLimited):
        budget.reserve(write(1))
    budget.reserve(READ)


def test_a_request_that_can_never_fit_goes_out_when_nothing_is_spent(budget: Budget, clock: Clock) -> None:
    budget.learn(headers("100;w=3600", 100, START + 3600), (Charge(DID, 0, 3600.0),))

    budget.reserve(write(600))

    assert clock.slept == []


def test_a_reservation_that_fails_takes_nothing_anywhere(budget: Budget) -> None:
    budget.learn(headers(HOURLY, 1000, START + 3600), write(3))
    budget.learn(headers(GENERAL, 0, START + 300), READ)

    with pytest.raises(RateLimited, match=HOST):
        budget.reserve(write(600))

    assert left(budget, DID)[0] == 1000


def test_a_paced_backfill_is_never_refused_and_wastes_no_window(clock: Clock) -> None:
    """LIMIT-2: under known limits it sees no 429 and ends within 5 % of the theoretical minimum."""
    budget = Budget(clock=clock, sleep=clock.sleep, max_wait=3600.0)
    spent, window_end = 0, START + 3600
    for _ in range(100):
        budget.reserve(write(300))
        if clock.now >= window_end:
            spent, window_end = 0, clock.now + 3600
        spent += 300
        assert spent <= 5000
        budget.learn(headers(HOURLY, 5000 - spent, window_end), write(300))

    assert clock.now - START == 6 * 3600  # 16 batches an hour: the last 4 in the seventh


class Server:
    """A server that counts the uploads of a day, and refuses what is over its limit."""

    def __init__(self, limit: int, reset: float) -> None:
        self.limit, self.reset, self.sent, self.refusals = limit, reset, 0, 0

    def answer(self, budget: Budget, charges: tuple[Charge, ...]) -> None:
        self.sent += 1
        said = headers(f"{self.limit};w=86400", max(self.limit - self.sent, 0), self.reset)
        if self.sent > self.limit:
            self.refusals += 1
            budget.refused(said, charges, self.reset - START)
        else:
            budget.learn(said, charges)


UPLOAD = (Charge(f"{HOST} uploadBlob", 1, 3600.0), Charge(HOST, 1))


def shared(clock: Clock, *, headroom: float = 0.0) -> tuple[Budget, Budget]:
    """The budgets of two runs: processes of their own, one store."""
    store = MemoryBudgetStore()
    made = [Budget(clock=clock, sleep=clock.sleep, max_wait=0.0, headroom=headroom, store=store) for _ in range(2)]
    return made[0], made[1]


def test_two_runs_draw_from_one_budget_to_its_end_and_not_beyond(clock: Clock) -> None:
    """RUN-8, LIMIT-6: none of them meets a 429, and nothing is left unused."""
    server = Server(limit=100, reset=START + 86_400)
    runs = shared(clock)
    server.answer(runs[0], UPLOAD)
    clock.now += LOOK_SECONDS
    for _ in range(60):
        for run in runs:
            try:
                run.reserve(UPLOAD)
            except RateLimited:
                continue
            server.answer(run, UPLOAD)
    assert (server.sent, server.refusals) == (100, 0)


def test_points_spent_by_one_run_are_known_to_the_next(clock: Clock) -> None:
    """LIMIT-5: the owner's share stays free also when every batch is sent by a run of its own."""
    before, after = shared(clock, headroom=0.1)
    before.learn(headers(HOURLY, 1100, START + 3600), write(3))
    before.reserve(write(600))
    with pytest.raises(RateLimited):
        after.reserve(write(1))
    assert left(after, DID)[0] == 500


@pytest.mark.parametrize(("later", "sent"), [(LOOK_SECONDS - 0.001, True), (LOOK_SECONDS, False)])
def test_a_429_of_one_run_silences_the_others_within_seconds(clock: Clock, later: float, sent: bool) -> None:
    """LIMIT-1, RUN-8: also of a bucket without any known limit."""
    one, other = shared(clock)
    other.reserve(READ)
    one.refused({}, READ, 3000.0)
    clock.now += later
    if sent:
        other.reserve(READ)
    else:
        with pytest.raises(RateLimited):
            other.reserve(READ)


def test_two_runs_that_meet_the_end_of_a_window_begin_one_new_one(clock: Clock) -> None:
    one, other = shared(clock)
    for run in (one, other):
        run.learn(headers(HOURLY, 0, START + 10), write(3))
    clock.now = START + 10
    one.reserve(write(600))
    other.reserve(write(300))
    assert left(one, DID)[0] == left(other, DID)[0] == 4100


def test_a_limit_that_another_run_has_learned_is_charged_from_then_on(clock: Clock) -> None:
    one, other = shared(clock)
    other.learn(headers(HOURLY, 4000, START + 3600), write(3))
    one.reserve(write(3))
    other.learn(headers(DAILY, 20_000, START + 86_400), write(3))
    one.reserve(write(100))
    assert left(one, DID) == [19_900, 3897]


def test_requests_of_minutes_are_drawn_ahead_so_that_few_need_the_store(clock: Clock) -> None:
    """A hundredth at a time; what one run has drawn, no other one spends."""

    class Counting(MemoryBudgetStore):
        calls = 0

        def take(self, key: str, policies: Collection[str], cost: int) -> Bucket:
            self.calls += 1
            return super().take(key, policies, cost)

    store = Counting()
    one, other = (Budget(clock=clock, sleep=clock.sleep, max_wait=0.0, store=store) for _ in range(2))
    one.learn(headers(GENERAL, 100, START + 300), READ)
    for _ in range(60):
        one.reserve(READ)
    assert store.calls == 2
    for _ in range(40):
        other.reserve(READ)
    with pytest.raises(RateLimited):
        other.reserve(READ)
    assert left(other, HOST)[0] == 0


def test_what_was_drawn_ahead_does_not_count_in_the_next_window(clock: Clock) -> None:
    one, _ = shared(clock)
    one.learn(headers(GENERAL, 100, START + 300), READ)
    one.reserve(READ)
    clock.now = START + 300
    one.reserve(READ)
    assert left(one, HOST)[0] == 2999


class BrokenStore(MemoryBudgetStore):
    """A store whose database has stopped answering."""

    def change(self, key: str, policy: str, known: Window | None, new: Window) -> bool:
        raise ServiceUnreachable("MongoDB does not answer")

    def silence(self, key: str, until: float) -> None:
        raise ServiceUnreachable("MongoDB does not answer")


def test_a_store_that_fails_never_spoils_an_answer_that_came(clock: Clock) -> None:
    """The answer to a committed batch is not lost for its headers; this process still keeps silent after a 429."""
    budget = Budget(clock=clock, sleep=clock.sleep, max_wait=0.0, store=BrokenStore())
    budget.learn(headers(HOURLY, 600, START + 1800), write(3))
    budget.refused({}, write(3), 30.0)
    with pytest.raises(RateLimited):
        budget.reserve(write(3))


@pytest.mark.parametrize("how", ["spent", "silenced"])
def test_what_a_clock_that_was_wrong_has_learned_holds_nothing_up(clock: Clock, how: str) -> None:
    """LIMIT-1, LIMIT-4: a machine was a year ahead, and its clock was set right."""
    store = MemoryBudgetStore()
    clock.now += 365 * 86_400.0
    ahead = Budget(store=store, clock=clock, sleep=clock.sleep)
    if how == "spent":
        ahead.learn(headers(HOURLY, 0, clock.now + 1800), write(3))
    else:
        ahead.refused({}, READ, 1800.0)
    clock.now = START
    for budget in (ahead, Budget(store=store, clock=clock, sleep=clock.sleep)):
        budget.reserve(write(3))
    budget.learn(headers(HOURLY, 600, START + 1800), write(3))
    assert left(budget, DID) == [600]
    budget.refused({}, READ, 1800.0)
    with pytest.raises(RateLimited) as caught:
        Budget(store=store, clock=clock, sleep=clock.sleep).reserve(READ)
    assert caught.value.retry_after == 1800.0
