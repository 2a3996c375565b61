"""Budgets: what a server says about its limits decides what is sent to it, and when."""

from __future__ import annotations

import pytest

from ac_pipeline.atproto.budget import UNNAMED_WAIT, Allowance, Budget, Charge
from ac_pipeline.errors import RateLimited

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


READ = (Charge(HOST, 1),)


def test_nothing_is_held_back_until_a_server_names_a_limit(budget: Budget, clock: Clock) -> None:
    """LIMIT-4: limits are learned, not assumed."""
    for _ in range(10_000):
        budget.reserve(write(600))

    assert clock.slept == []
    assert budget.known(DID) == ()


@pytest.mark.parametrize(("cost", "sent"), [(599, True), (600, True), (601, False)])
def test_what_does_not_fit_is_not_sent(budget: Budget, clock: Clock, cost: int, sent: bool) -> None:
    """LIMIT-5: a batch over the points that are left is deferred, with the time it will fit."""
    budget.learn(headers(HOURLY, 600, START + 1800), write(3))

    if sent:
        budget.reserve(write(cost))
        assert budget.known(DID)[0].remaining == 600 - cost
    else:
        with pytest.raises(RateLimited, match=r"did:plc:a \(5000;w=3600\)") as caught:
            budget.reserve(write(cost))
        assert caught.value.retry_after == 1800.0
        assert budget.known(DID)[0].remaining == 600
    assert clock.slept == []


@pytest.mark.parametrize(("reset", "waits"), [(60, True), (61, False)])
def test_a_near_reset_is_waited_for(budget: Budget, clock: Clock, reset: int, waits: bool) -> None:
    budget.learn(headers(GENERAL, 0, START + reset), READ)

    if waits:
        budget.reserve(READ)
        assert clock.slept == [60.0]
        assert budget.known(HOST)[0].remaining == 2999
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

    assert budget.known(HOST) == (Allowance(HOST, GENERAL, 3000, 2700, START + 300),)
    assert budget.known(DID) == (
        Allowance(DID, DAILY, 35_000, 4000, START + 86_400),
        Allowance(DID, HOURLY, 5000, 4100, START + 3600),
    )


@pytest.mark.parametrize(("consumed", "key"), [(600, DID), (599, HOST)])
def test_a_bucket_that_lost_less_than_the_request_cost_is_another_one(budget: Budget, consumed: int, key: str) -> None:
    """LIMIT-3: even where two policies have the same window, the arithmetic tells points from requests."""
    budget.learn(headers("9000;w=3600", 9000 - consumed, START + 3600), write(600))

    assert [allowance.limit for allowance in budget.known(key)] == [9000]


def test_the_shortest_window_tells_requests_from_points(budget: Budget) -> None:
    budget.learn(headers(GENERAL, 100, START + 300), write(3))

    assert budget.known(DID) == ()
    assert len(budget.known(HOST)) == 1


def test_answers_that_overtake_each_other_never_give_back_what_is_spent(budget: Budget) -> None:
    for _ in range(3):
        budget.reserve(READ)
    budget.learn(headers(GENERAL, 2997, START + 300), READ)
    budget.learn(headers(GENERAL, 2999, START + 300), READ)
    budget.learn(headers(GENERAL, 2998, START + 301), READ)

    assert budget.known(HOST)[0].remaining == 2997


def test_what_others_spend_is_seen_in_the_next_answer(budget: Budget) -> None:
    """LIMIT-5: the user's own posts draw from the same points."""
    budget.learn(headers(HOURLY, 4000, START + 3600), write(3))
    budget.reserve(write(3))
    budget.learn(headers(HOURLY, 1000, START + 3600), write(3))

    assert budget.known(DID)[0].remaining == 1000


def test_a_new_window_starts_full_and_is_corrected_by_its_first_answer(budget: Budget, clock: Clock) -> None:
    budget.learn(headers(HOURLY, 0, START + 10), write(3))
    clock.now = START + 10
    budget.reserve(write(600))
    assert budget.known(DID)[0].remaining == 4400

    budget.learn(headers(HOURLY, 3000, START + 2000), write(600))

    assert budget.known(DID) == (Allowance(DID, HOURLY, 5000, 3000, START + 2000),)


def test_a_late_answer_of_the_last_window_changes_nothing(budget: Budget, clock: Clock) -> None:
    budget.learn(headers(HOURLY, 10, START + 10), write(3))
    clock.now = START + 11
    budget.reserve(write(3))

    budget.learn(headers(HOURLY, 4, START + 10), write(3))

    assert budget.known(DID)[0].remaining == 4997


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

    assert budget.known(DID)[0].remaining == 1000


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
