"""What may still be sent to a PDS, learned from its `RateLimit-*` headers and asked before each request.

Holds no limit of its own: until a server has named one, everything may be sent (LIMIT-4). What is learned and spent is
kept in a store of buckets, so that all threads, runs and machines draw from one budget (RUN-8). A server reports one
bucket per answer, the tightest, without its name (LIMIT-3). So a request names the buckets it draws from, most specific
first, and an answer's policy (`5000;w=3600`) is filed under the one it fits; each policy is counted by itself.

Commits are paced for the relay besides (LIMIT-9): about 2,500 an hour of one PDS. That limit is a setting and never
learned; it is one bucket for all accounts in the same store. An hour begins with its first commit, and whether one more
fits is decided by the limit of whoever asks, so that a changed setting holds at once.
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import itemgetter
from threading import Lock
from typing import Final, Protocol

from ac_pipeline.atproto.xrpc_errors import LONGEST, reset_time
from ac_pipeline.errors import OutcomeUnknown, PipelineError, RateLimited

# Seconds by which the reset of one window may differ between two answers: it is rounded to whole seconds
_SAME_WINDOW: Final = 2.0


@dataclass(frozen=True, slots=True)
class Window:
    """One policy of one bucket, as it stands."""

    limit: int  # Points or requests per window
    length: float  # Seconds
    remaining: int  # What is left, everything that was taken off; below 0 while a request that does not fit is tried
    reset: float  # Epoch seconds at which it ends
    guessed: bool = False  # True if no answer has named `reset` yet: it is our own reckoning

    def at(self, now: float) -> Window:
        """It, or when it is over the next one: full, and taken to last its length from now."""
        under_way = _to_come(self.reset, now)
        return self if under_way else Window(self.limit, self.length, self.limit, now + self.length, True)

    def after(self, reported: Window, now: float) -> Window:
        """It, once an answer has reported the same policy."""
        window = self.at(now)
        if window.guessed and reported.reset > now:
            window = replace(window, reset=reported.reset, guessed=False)
        if reported.reset > window.reset + _SAME_WINDOW:
            return reported
        if reported.reset < window.reset - _SAME_WINDOW:
            return window
        # Answers overtake each other; the smaller number has what is still on its way taken off.
        remaining = min(window.remaining, reported.remaining)
        return replace(window, remaining=remaining, reset=max(window.reset, reported.reset))


@dataclass(frozen=True, slots=True)
class Bucket:
    # By policy, such as `5000;w=3600`; none where the server has named no limit
    windows: Mapping[str, Window] = field(default_factory=dict)
    silent_until: float = 0.0  # Epoch seconds before which nothing may be sent, after a 429

    def silenced(self, until: float) -> Bucket:
        return replace(
            self, silent_until=max(self.silent_until, until) if self.silent_until < until + LONGEST else until
        )

    def silent_at(self, now: float) -> bool:
        return _to_come(self.silent_until, now)


def _to_come(moment: float, now: float) -> bool:
    """True if it is to come. Whatever lies further ahead than any limit lasts is of a clock that was wrong."""
    return now < moment <= now + LONGEST + _SAME_WINDOW


class BudgetStore(Protocol):
    """Where buckets are kept. Each call is atomic, whoever else uses the store."""

    def read(self, key: str) -> Bucket:
        """A bucket as it is now; an empty one when nothing is known."""

    def take(self, key: str, policies: Collection[str], cost: int) -> Bucket:
        """Take `cost` off what remains of these policies, or give it back when it is below 0; the bucket afterwards.

        Windows that are over are neither noticed nor renewed. When the bucket lacks one of the policies, nothing is
        taken of any.
        """

    def change(self, key: str, policy: str, known: Window | None, new: Window) -> bool:
        """Put `new` in place of `known` (None: nothing), unless somebody else has changed it meanwhile."""

    def silence(self, key: str, until: float) -> None:
        """Let nothing be sent before `until`; an earlier moment than is known changes nothing."""


class MemoryBudgetStore:
    """Buckets for the life of the process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._buckets: defaultdict[str, Bucket] = defaultdict(Bucket)

    def read(self, key: str) -> Bucket:
        with self._lock:
            return self._buckets[key]

    def take(self, key: str, policies: Collection[str], cost: int) -> Bucket:
        with self._lock:
            bucket = self._buckets[key]
            if bucket.windows.keys() >= set(policies):
                windows = ((policy, bucket.windows[policy]) for policy in policies)
                taken = {policy: replace(window, remaining=window.remaining - cost) for policy, window in windows}
                bucket = self._buckets[key] = replace(bucket, windows={**bucket.windows, **taken})
            return bucket

    def change(self, key: str, policy: str, known: Window | None, new: Window) -> bool:
        with self._lock:
            bucket = self._buckets[key]
            unchanged = bucket.windows.get(policy) == known
            if unchanged:
                self._buckets[key] = replace(bucket, windows={**bucket.windows, policy: new})
            return unchanged

    def silence(self, key: str, until: float) -> None:
        with self._lock:
            self._buckets[key] = self._buckets[key].silenced(until)


UNNAMED_WAIT: Final = 60.0  # Seconds of silence after a 429 that names no time

# How long what was read of a bucket is good enough: one small read a batch at most, one in 5 s for what is asked at
# every request. It bounds how long another run's 429 or first report of a limit goes unnoticed.
LOOK_SECONDS: Final = 5.0

# Of a limit in a window this short or shorter, a hundredth is drawn from the store at once and spent from memory: what
# a process leaves of it unspent comes back minutes later. Points and uploads (hours and days) are drawn exactly.
AHEAD_WINDOW: Final = 600.0
AHEAD_SHARE: Final = 100

_ATTEMPTS: Final = 5  # Tries to change what others keep changing; the next answer puts right what is missed

_POLICY: Final = re.compile(r"\s*([0-9]{1,9})\s*;\s*w=([0-9]{1,9})\b")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request takes from one bucket."""

    key: str  # The bucket: a DID for write points, a host, or a host and a call
    cost: int  # Points or requests
    # Seconds; a policy with a shorter window is not this bucket's. Write points and uploads are limited per hour and
    # day, requests in general per five minutes (atproto facts, Limits).
    shortest_window: float = 0.0


_Obstacle = tuple[float, str]  # Until when a charge does not fit, in epoch seconds, and what it does not fit into


def _last(obstacles: Iterable[_Obstacle | None]) -> _Obstacle | None:
    return max(filter(None, obstacles), key=itemgetter(0), default=None)


@dataclass(kw_only=True, eq=False)
class _Limiter:
    """Whoever draws from a store of buckets, and waits where that helps; safe to share between threads, and between
    processes through the store."""

    store: BudgetStore | None = None  # Where buckets are kept; in memory when None
    max_wait: float = 60.0  # Longest wait in seconds; beyond it the caller is told to come back
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._store = self.store or MemoryBudgetStore()
        self._lock = Lock()

    def _wait(self, draw: Callable[[float], _Obstacle | None]) -> None:
        """Draw, after waiting where that helps. Raises RateLimited if it would take over `max_wait` seconds in all."""
        waited = 0.0
        while (obstacle := draw(now := self.clock())) is not None:
            until, what = obstacle
            pause = until - now
            if waited + pause > self.max_wait:
                said = f"The {what} spent for another {pause:.0f} s; nothing was sent. Continue then."
                raise RateLimited(said, retry_after=pause)
            self.sleep(pause)
            waited += pause


@dataclass(slots=True)
class _Slot:
    """What this process knows of one bucket; guarded by its lock."""

    lock: Lock = field(default_factory=Lock)
    view: Bucket = field(default_factory=Bucket)  # The bucket as the store last showed it
    looked: float | None = None  # When that was
    ahead: int = 0  # Drawn from the store and not spent yet
    ahead_until: float = 0.0  # When the window ends that `ahead` was drawn from


@dataclass(kw_only=True, eq=False)
class Budget(_Limiter):
    """The budgets of one PDS. Raises Transient where the store did not answer; nothing was sent then."""

    headroom: float = 0.0  # Share of each write budget (bucket key `did:...`) left to the account's owner (LIMIT-5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._slots: dict[str, _Slot] = {}

    def reserve(self, charges: Sequence[Charge]) -> None:
        """Take the charges of one request from all its buckets, or from none.

        Returns at once when they fit, waits up to `max_wait` seconds in all when they will fit by then. Raises
        RateLimited (a bucket is empty for longer; `retry_after` says for how long. Nothing was sent).
        """
        self._wait(lambda now: self._draw_all(charges, now))

    def learn(self, headers: Mapping[str, str], charges: Sequence[Charge]) -> str | None:
        """Take note of the limit an answer reports; the key of the bucket it was filed under, None when it reports
        nothing usable. Never fails: the answer is worth more than its headers (by lower-case name)."""
        try:
            return self._learn(headers, charges)
        except PipelineError as error:
            _log.warning("What an answer said about a limit is lost: %s", error.message)
            return None

    def refused(self, headers: Mapping[str, str], charges: Sequence[Charge], retry_after: float | None) -> None:
        """Take note of a 429: nothing goes to that bucket before its reset or `Retry-After` (LIMIT-1).

        A refusal that does not name its policy silences all buckets of the request: any of them could be meant.
        `retry_after`: seconds the server asked for, where it did."""
        until = self.clock() + (UNNAMED_WAIT if retry_after is None else retry_after)
        named = self.learn(headers, charges)
        for key in [charge.key for charge in charges] if named is None else [named]:
            slot = self._slot(key)
            with slot.lock:
                slot.view = slot.view.silenced(until)
            try:
                self._store.silence(key, until)
            except PipelineError as error:
                _log.warning("Other runs do not hear of a refusal: %s", error.message)

    def known(self, key: str) -> dict[str, Window]:
        """What is known of a bucket now, by policy; empty where the server has named no limit."""
        slot, now = self._slot(key), self.clock()
        with slot.lock:
            self._look(key, slot, now, always=True)
            ahead = self._ahead(slot, now)
            windows = {policy: window.at(now) for policy, window in slot.view.windows.items()}
        return {policy: replace(each, remaining=max(each.remaining + ahead, 0)) for policy, each in windows.items()}

    def _draw_all(self, charges: Sequence[Charge], now: float) -> _Obstacle | None:
        """Draw all charges, or none and say what is in the way for longest."""
        outcomes = [(charge, self._draw(charge, now)) for charge in charges]
        obstacle = _last(found for _, found in outcomes)
        if obstacle is not None:
            for charge, found in outcomes:
                if found is None:
                    self._give_back(charge)
        return obstacle

    def _draw(self, charge: Charge, now: float) -> _Obstacle | None:
        slot = self._slot(charge.key)
        with slot.lock:
            self._look(charge.key, slot, now)
            if slot.view.silent_at(now):
                return slot.view.silent_until, f"budget {charge.key} is"
            if not slot.view.windows:
                return None
            if charge.cost <= self._ahead(slot, now):
                slot.ahead -= charge.cost
                return None
            for amount in self._amounts(slot.view, charge.cost):
                if self._in_the_way(charge.key, slot.view, amount, now) is None:
                    after = self._take(charge.key, slot, amount, now)
                    obstacle = self._in_the_way(charge.key, after, amount, now, taken=amount)
                    if obstacle is None:
                        slot.ahead = self._ahead(slot, now) + amount - charge.cost
                        slot.ahead_until = min(window.reset for window in after.windows.values())
                        return None
                    slot.view = self._store.take(charge.key, tuple(after.windows), -amount)
            slot.view = self._store.read(charge.key)
            return self._in_the_way(charge.key, slot.view, charge.cost, now)

    @staticmethod
    def _amounts(bucket: Bucket, cost: int) -> list[int]:
        """What to draw: some ahead where that is harmless, else exactly what is needed."""
        short = [window.limit // AHEAD_SHARE for window in bucket.windows.values() if window.length <= AHEAD_WINDOW]
        ahead = min(short) if len(short) == len(bucket.windows) else 0
        return [ahead, cost] if ahead > cost else [cost]

    def _take(self, key: str, slot: _Slot, amount: int, now: float) -> Bucket:
        """Take an amount off every window, the ones that have just begun too."""
        pending = set(slot.view.windows)
        bucket = slot.view
        for _ in range(_ATTEMPTS):
            bucket = self._store.take(key, tuple(pending), amount)
            pending = set()
            renewed = dict(bucket.windows)
            for policy, window in bucket.windows.items():
                full = window.at(now)
                if full is window:
                    if policy not in slot.view.windows:  # learned by another process meanwhile, and not charged yet
                        pending.add(policy)
                    continue
                begun = replace(full, remaining=full.remaining - amount)
                if self._store.change(key, policy, window, begun):
                    renewed[policy] = begun
                else:  # another process began the next window or took something: ours may be lost with the old one
                    pending.add(policy)
            bucket = replace(bucket, windows=renewed)
            slot.view, slot.looked = bucket, now
            if not pending:
                break
        return bucket

    def _in_the_way(self, key: str, bucket: Bucket, cost: int, now: float, *, taken: int = 0) -> _Obstacle | None:
        """The window that ends last of those into which a cost does not fit. `taken`: already taken off for it."""
        headroom = self.headroom if key.startswith("did:") else 0.0

        def fits(window: Window) -> bool:
            remaining = window.remaining + taken
            # A cost above the whole limit is let through when nothing is spent: waiting would never make it fit.
            return remaining >= window.limit or cost <= remaining - int(window.limit * headroom)

        windows = {policy: window.at(now) for policy, window in bucket.windows.items()}
        full = [(each.reset, f"budget {key} ({policy}) is") for policy, each in windows.items() if not fits(each)]
        silent = (bucket.silent_until, f"budget {key} is") if bucket.silent_at(now) else None
        return _last([silent, *full])

    def _give_back(self, charge: Charge) -> None:
        slot = self._slot(charge.key)
        with slot.lock:
            if not slot.view.windows:
                return
            if charge.cost < max(self._amounts(slot.view, charge.cost)):
                slot.ahead += charge.cost
            else:
                slot.view = self._store.take(charge.key, tuple(slot.view.windows), -charge.cost)

    @staticmethod
    def _ahead(slot: _Slot, now: float) -> int:
        """What was drawn ahead and is still good."""
        if now >= slot.ahead_until:
            slot.ahead = 0
        return slot.ahead

    def _learn(self, headers: Mapping[str, str], charges: Sequence[Charge]) -> str | None:
        now = self.clock()
        reset = reset_time(headers.get("ratelimit-reset"), now)
        remaining = headers.get("ratelimit-remaining", "").strip()
        match = _POLICY.match(headers.get("ratelimit-policy", ""))
        if reset is None or match is None or not _COUNT.fullmatch(remaining) or not charges:
            return None
        limit, length = int(match[1]), int(match[2])
        policy = f"{limit};w={length}"
        key = self._bucket_of(policy, limit - int(remaining), length, charges, now)
        self._file(key, policy, Window(limit, float(length), int(remaining), reset), now)
        return key

    def _file(self, key: str, policy: str, reported: Window, now: float) -> None:
        slot = self._slot(key)
        with slot.lock:
            for _ in range(_ATTEMPTS):
                known = slot.view.windows.get(policy)
                # What was drawn ahead was not sent: the server has not counted it, the store has.
                ours = replace(reported, remaining=max(reported.remaining - self._ahead(slot, now), 0))
                new = ours if known is None else known.after(ours, now)
                if new == known:
                    return
                if self._store.change(key, policy, known, new):
                    slot.view = replace(slot.view, windows={**slot.view.windows, policy: new})
                    return
                self._look(key, slot, now, always=True)

    def _bucket_of(self, policy: str, consumed: int, length: float, charges: Sequence[Charge], now: float) -> str:
        for charge in charges:
            slot = self._slot(charge.key)
            with slot.lock:
                self._look(charge.key, slot, now)
                if policy in slot.view.windows:
                    return charge.key
        for charge in charges:
            # Whatever this request took is part of what its bucket has lost.
            if length >= charge.shortest_window and consumed >= charge.cost:
                return charge.key
        return charges[-1].key

    def _slot(self, key: str) -> _Slot:
        with self._lock:
            return self._slots.setdefault(key, _Slot())

    def _look(self, key: str, slot: _Slot, now: float, *, always: bool = False) -> None:
        """Read the bucket when the last look is too long ago; the slot's lock is held."""
        if always or slot.looked is None or not 0 <= now - slot.looked < LOOK_SECONDS:
            slot.view, slot.looked = self._store.read(key), now


HOUR: Final = 3_600.0  # Seconds of a window: a relay counts by the hour

# Name of the one window of the bucket; without the limit, which may change while the window is under way
POLICY: Final = "relay;w=3600"


def commits_key(host: str) -> str:
    return f"{host} commits"


def hour_under_way(bucket: Bucket, per_hour: int, now: float) -> Window | None:
    """The hour that is under way, as it stands under this limit; None when the next commit begins one. `per_hour`:
    commits in an hour, whatever the limit was when the hour began."""
    window = bucket.windows.get(POLICY)
    if window is None or not now < window.reset <= now + HOUR + _SAME_WINDOW:
        return None
    return replace(window, limit=per_hour, remaining=per_hour - (window.limit - window.remaining))


@dataclass(eq=False)
class Pace(_Limiter):
    """The pace of one PDS: a commit costs one call of the store. Without a limit nothing is counted and the store is
    not asked."""

    host: str
    per_hour: int  # Commits in an hour; 0 for no limit

    def __post_init__(self) -> None:
        super().__post_init__()
        self._reserved: set[str] = set()
        self._full_until = 0.0
        self._renew_at: float | None = None

    def reserve(self, subject: str) -> None:
        """Count the next commit of an account now, before blobs are uploaded for it; a second time changes nothing.
        Raises RateLimited (the hour is spent; `retry_after` says when the next one begins), Transient (the store did
        not answer)."""
        if self.per_hour and subject not in self._reserved:
            self._take(held=True)
            with self._lock:
                self._reserved.add(subject)

    def release(self, subject: str) -> None:
        """Give back what was reserved for an account and not used."""
        if self._use(subject):
            self._give_back()

    @contextmanager
    def commit(self, subject: str, *, held: bool) -> Iterator[None]:
        """Send one commit of `subject` inside, with what was reserved for it; what certainly did not happen is not
        counted. One that is not `held` does not wait when the hour is spent, and is counted all the same. Raises as
        `reserve`; nothing was sent then."""
        if not self.per_hour:
            yield
            return
        if not self._use(subject):
            self._take(held=held)
        try:
            yield
        except OutcomeUnknown:
            raise
        except PipelineError:
            self._give_back()
            raise

    def _use(self, subject: str) -> bool:
        with self._lock:
            reserved = subject in self._reserved
            self._reserved.discard(subject)
        return reserved

    def _take(self, *, held: bool) -> None:
        self._wait(lambda now: self._draw(now, held=held))

    def _draw(self, now: float, *, held: bool) -> _Obstacle | None:
        """Count one commit; or none of it, and what is in the way until the next hour begins."""
        what = f"{self.per_hour} commits an hour that the relay of {self.host} takes (AC_RELAY_COMMITS_PER_HOUR) are"
        if held and now < self._full_until:
            return self._full_until, what
        key = commits_key(self.host)
        for _ in range(_ATTEMPTS):
            over = self._renew_at is not None and now >= self._renew_at
            bucket = self._store.read(key) if over else self._store.take(key, (POLICY,), 1)
            window = hour_under_way(bucket, self.per_hour, now)
            if window is None:
                begun = Window(self.per_hour, HOUR, self.per_hour - 1, now + HOUR)
                known = bucket.windows.get(POLICY)
                if self._store.change(key, POLICY, known, begun):
                    self._renew_at = begun.reset
                    return None
                self._renew_at = known.reset if known is not None else None  # look first, and disturb nobody
                continue
            self._renew_at = window.reset
            if over:  # somebody else has begun the hour: take from it
                continue
            if not held or window.remaining >= 0:
                return None
            self._full_until = window.reset
            self._store.take(key, (POLICY,), -1)
            return window.reset, what
        return None  # one commit too many is less of a harm than an hour of waiting for nothing

    def _give_back(self) -> None:
        try:
            self._store.take(commits_key(self.host), (POLICY,), -1)
        except PipelineError as error:
            _log.warning("A commit that was not made stays counted for the relay: %s", error.message)
