"""The pace of commits: a limit of our own for the relay, shared by whoever writes to one PDS."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ac_pipeline.atproto.rate_limits import (
    HOUR,
    POLICY,
    Bucket,
    MemoryBudgetStore,
    Pace,
    Window,
    commits_key,
    hour_under_way,
)
from ac_pipeline.atproto.types import Write, erases
from ac_pipeline.errors import OutcomeUnknown, PipelineError, RateLimited, RecordRefused, ServiceUnreachable

START = 1_795_233_892.0
HOST = "pds.test"
ADA, BOB = "did:plc:ada", "did:plc:bob"
LIMIT = 2_500


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


class CountingStore(MemoryBudgetStore):
    """A store that counts its calls, and may not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.silent = False

    def _called(self) -> None:
        self.calls += 1
        if self.silent:
            raise ServiceUnreachable("the database does not answer")

    def read(self, key: str) -> Bucket:
        self._called()
        return super().read(key)

    def take(self, key: str, policies: Collection[str], cost: int) -> Bucket:
        self._called()
        return super().take(key, policies, cost)

    def change(self, key: str, policy: str, known: Window | None, new: Window) -> bool:
        self._called()
        return super().change(key, policy, known, new)

    def spent(self, now: float) -> int:
        """Commits of the hour that is under way."""
        hour = hour_under_way(super().read(commits_key(HOST)), LIMIT, now)
        return 0 if hour is None else LIMIT - hour.remaining


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def open_pace(clock: Clock, store: CountingStore, per_hour: int = LIMIT, max_wait: float = 60.0) -> Pace:
    return Pace(HOST, per_hour, store=store, clock=clock, sleep=clock.sleep, max_wait=max_wait)


def commit(pace: Pace, subject: str = ADA, *, held: bool = True, error: PipelineError | None = None) -> None:
    with pace.commit(subject, held=held):
        if error is not None:
            raise error


def commits(pace: Pace, number: int, *, held: bool = True) -> int:
    """How many of so many commits are made."""
    for done in range(number):
        try:
            commit(pace, held=held)
        except RateLimited:
            return done
    return number


def test_the_first_commit_beyond_the_limit_waits_for_the_next_hour(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9: 2,500 go, the 2,501st is told when it will fit, and then goes."""
    pace = open_pace(clock, store)
    assert commits(pace, LIMIT) == LIMIT
    clock.now += 600
    with pytest.raises(RateLimited, match=r"2500 commits an hour.*pds\.test.*AC_RELAY_COMMITS_PER_HOUR") as caught:
        commit(pace)
    assert caught.value.retry_after == HOUR - 600
    clock.now = START + HOUR - 61
    assert commits(pace, 1) == 0
    clock.now = START + HOUR
    assert commits(pace, LIMIT + 1) == LIMIT
    assert clock.slept == []


def test_the_end_of_an_hour_that_is_near_is_waited_for(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9."""
    pace = open_pace(clock, store, 1, max_wait=60.0)
    commit(pace)
    clock.now += HOUR - 60
    commit(pace)
    assert clock.slept == [60.0]


def test_all_accounts_and_processes_draw_from_one_hour(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9, RUN-8."""
    one, other = (open_pace(clock, store, 100) for _ in range(2))
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: commits((one, other)[number % 2], 20), range(8)))
    assert sum(done) == 100
    assert (commits(one, 1), commits(other, 1)) == (0, 0)


def test_two_processes_that_begin_the_next_hour_begin_it_once(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9, RUN-8: whoever is second takes from the hour of the first."""
    one, other = (open_pace(clock, store, 3) for _ in range(2))
    assert [commits(one, 1), commits(other, 1)] == [1, 1]
    clock.now += HOUR
    assert [commits(one, 2), commits(other, 2)] == [2, 1]
    assert commits(open_pace(clock, store, 3), 1) == 0


def test_what_deletes_is_counted_and_never_held_back(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9, DEL-1: erasure does not wait for a pace of our own, nor does new work go in its place."""
    pace = open_pace(clock, store, 3)
    assert commits(pace, 3) == 3
    assert commits(pace, 5, held=False) == 5
    assert store.spent(clock.now) == 8
    assert commits(pace, 1) == 0
    clock.now += HOUR
    assert commits(pace, 2, held=False) == 2
    assert commits(pace, 2) == 1


def test_a_batch_with_a_delete_in_it_erases() -> None:
    """LIMIT-9."""
    create, update, delete = (Write(action, "test.mood", "a") for action in ("create", "update", "delete"))
    assert erases([create, delete])
    assert not erases([create, update])
    assert not erases([])


@pytest.mark.parametrize(("later", "fit"), [(1, 0), (3, 0), (4, 1), (10, 7)])
def test_a_changed_setting_holds_at_once(clock: Clock, store: CountingStore, later: int, fit: int) -> None:
    """LIMIT-9: what was spent of the hour counts under the new limit, and the next hour is as long as it."""
    assert commits(open_pace(clock, store, 5), 3) == 3
    clock.now += 60
    changed = open_pace(clock, store, later)
    assert commits(changed, 20) == fit
    clock.now += HOUR
    assert commits(changed, 20) == later


def test_without_a_limit_nothing_is_counted_or_asked_for(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9: 0 after another number and before it."""
    assert commits(open_pace(clock, store, 2), 3) == 2
    calls = store.calls
    unpaced = open_pace(clock, store, 0)
    unpaced.reserve(ADA)
    unpaced.release(ADA)
    assert commits(unpaced, LIMIT + 1) == LIMIT + 1
    assert store.calls == calls
    clock.now += 60
    assert commits(open_pace(clock, store, 2), 1) == 0


def test_a_commit_costs_one_call_and_one_that_has_to_wait_none(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9, OPS-6."""
    commit(open_pace(clock, store, 50))
    store.calls = 0
    pace = open_pace(clock, store, 50)  # another run, which knows nothing yet
    assert commits(pace, 49) == 49
    assert store.calls == 49
    assert commits(pace, 1) == 0
    store.calls = 0
    assert [commits(pace, 1) for _ in range(100)] == [0] * 100
    assert store.calls == 0


def test_what_was_reserved_is_used_by_the_next_commit_of_the_account(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9: blobs are uploaded only for a commit that will not be held back."""
    pace = open_pace(clock, store, 2)
    pace.reserve(ADA)
    pace.reserve(ADA)
    assert store.spent(clock.now) == 1
    commit(pace, BOB)
    with pytest.raises(RateLimited):
        pace.reserve(BOB)
    commit(pace, ADA)
    assert (store.spent(clock.now), commits(pace, 1)) == (2, 0)


def test_what_was_reserved_and_not_used_is_given_back(clock: Clock, store: CountingStore) -> None:
    """LIMIT-6, LIMIT-9: an account whose uploads fail leaves the hour to the others."""
    pace = open_pace(clock, store, 2)
    pace.reserve(ADA)
    pace.release(ADA)
    pace.release(ADA)
    assert store.spent(clock.now) == 0
    assert commits(pace, 3) == 2


@pytest.mark.parametrize(
    ("error", "counted"),
    [(RateLimited("points"), 0), (RecordRefused("no"), 0), (OutcomeUnknown("no answer"), 1)],
)
def test_only_what_may_have_happened_is_counted(
    clock: Clock, store: CountingStore, error: PipelineError, counted: int
) -> None:
    """LIMIT-9, WRITE-7: a refused batch is no commit; one without an answer may be."""
    with pytest.raises(type(error)):
        commit(open_pace(clock, store), error=error)
    assert store.spent(clock.now) == counted


def test_a_count_that_cannot_be_given_back_does_not_hide_the_refusal(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9."""
    pace = open_pace(clock, store)

    def refused() -> None:
        with pace.commit(ADA, held=True):
            store.silent = True
            raise RecordRefused("no")

    with pytest.raises(RecordRefused):
        refused()


@pytest.mark.parametrize("held", [True, False])
def test_nothing_is_sent_while_the_count_cannot_be_read(clock: Clock, store: CountingStore, held: bool) -> None:
    """LIMIT-9: a failed read is no empty hour."""
    store.silent = True
    with pytest.raises(ServiceUnreachable):
        commit(open_pace(clock, store), held=held)


@pytest.mark.parametrize(("at", "under_way"), [(HOUR - 1, True), (HOUR, False)])
def test_an_hour_stands_under_the_limit_of_whoever_asks(at: float, under_way: bool) -> None:
    """LIMIT-9: for a plan as for a commit."""
    window = Window(5, HOUR, 2, START + HOUR)
    found = hour_under_way(Bucket({POLICY: window}), 100, START + at)
    assert found == (replace(window, limit=100, remaining=97) if under_way else None)
    assert hour_under_way(Bucket(), 100, START) is None


def test_an_hour_of_a_clock_that_was_wrong_is_over(clock: Clock, store: CountingStore) -> None:
    """LIMIT-9."""
    clock.now += 365 * 86_400.0
    assert commits(open_pace(clock, store, 10), 20) == 10
    clock.now = START
    assert commits(open_pace(clock, store, 10), 20) == 10
