"""What may still be sent to a PDS, learned from its `RateLimit-*` headers and asked before each request.

Holds no limit of its own: until a server has named one, everything may be sent (LIMIT-4). What is learned and spent is
kept in a store (`buckets.py`), so that all threads, runs and machines draw from one budget (RUN-8).

A server reports one bucket per answer, the tightest, without its name (LIMIT-3). So a request names the buckets it
draws from, most specific first, and an answer's policy (`5000;w=3600`) is filed under the one it fits; each policy of a
bucket is counted by itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final

from ac_pipeline.atproto.buckets import Bucket, BudgetStore, MemoryBudgetStore, Window
from ac_pipeline.atproto.waits import reset_time
from ac_pipeline.errors import PipelineError, RateLimited

UNNAMED_WAIT: Final = 60.0
"""Seconds of silence after a 429 that names no time."""

LOOK_SECONDS: Final = 5.0
"""How long what was read of a bucket is good enough: one small read a batch at most, one in 5 s for what is asked
at every request. It bounds how long another run's 429 or first report of a limit goes unnoticed."""

AHEAD_WINDOW: Final = 600.0
AHEAD_SHARE: Final = 100
"""Of a limit in a window this short or shorter, a hundredth is drawn from the store at once and spent from memory: what
a process leaves of it unspent comes back minutes later. Points and uploads, with their hours and days, are drawn
exactly."""

_ATTEMPTS: Final = 5
"""Tries to change what others keep changing; the next answer puts right what is missed."""

_POLICY: Final = re.compile(r"\s*([0-9]{1,9})\s*;\s*w=([0-9]{1,9})\b")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request takes from one bucket.

    Args:
        key: The bucket: a DID for write points, a host, or a host and a call.
        cost: Points or requests.
        shortest_window: Seconds; a policy with a shorter window is not this bucket's. Write points and uploads are
            limited per hour and day, requests in general per five minutes (atproto facts, Limits).
    """

    key: str
    cost: int
    shortest_window: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is known of one policy of one bucket.

    Args:
        key: The bucket.
        policy: Limit and seconds, e.g. `5000;w=3600`.
        limit: Points or requests per window.
        remaining: What is left now, what is on its way to the server taken off.
        reset: Epoch seconds at which the window ends.
    """

    key: str
    policy: str
    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why a charge does not fit, and until when."""

    what: str
    until: float


@dataclass(slots=True)
class _Slot:
    """What this process knows of one bucket; guarded by its lock.

    Args:
        view: The bucket as the store last showed it.
        looked: When that was.
        ahead: Drawn from the store and not spent yet.
        ahead_until: When the window ends that `ahead` was drawn from.
    """

    lock: Lock = field(default_factory=Lock)
    view: Bucket = field(default_factory=Bucket)
    looked: float | None = None
    ahead: int = 0
    ahead_until: float = 0.0


class Budget:
    """The budgets of one PDS; safe to share between threads, and between processes through the store.

    Args:
        clock: Epoch seconds.
        sleep: Waits that many seconds.
        max_wait: Longest wait in seconds inside `reserve`; beyond it the caller is told to come back.
        headroom: Share of each write budget (bucket key `did:...`) left to the account's owner (LIMIT-5), 0 to 1.
        store: Where buckets are kept; in memory when None.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        max_wait: float = 60.0,
        headroom: float = 0.0,
        store: BudgetStore | None = None,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._max_wait = max_wait
        self._headroom = headroom
        self._store = store or MemoryBudgetStore()
        self._lock = Lock()
        self._slots: dict[str, _Slot] = {}

    def reserve(self, charges: Sequence[Charge]) -> None:
        """Take the charges of one request from all its buckets, or from none.

        Returns at once when they fit, waits up to `max_wait` seconds in all when they will fit by then.

        Raises:
            RateLimited: A bucket is empty for longer; `retry_after` says for how long. Nothing was sent.
            Transient: The store did not answer. Nothing was sent.
        """
        waited = 0.0
        while True:
            now = self._clock()
            obstacle = self._draw_all(charges, now)
            if obstacle is None:
                return
            pause = obstacle.until - now
            if waited + pause > self._max_wait:
                raise RateLimited(
                    f"The budget {obstacle.what} is spent for another {pause:.0f} s; nothing was sent. Continue then.",
                    retry_after=pause,
                )
            self._sleep(pause)
            waited += pause

    def learn(self, headers: Mapping[str, str], charges: Sequence[Charge]) -> None:
        """Take note of the limit an answer reports. Never fails: the answer is worth more than its headers.

        Args:
            headers: Response headers, by lower-case name.
            charges: What was reserved for the request.
        """
        try:
            self._learn(headers, charges)
        except PipelineError as error:
            _log.warning("What an answer said about a limit is lost: %s", error.message)

    def refused(self, headers: Mapping[str, str], charges: Sequence[Charge], retry_after: float | None) -> None:
        """Take note of a 429: nothing goes to that bucket before its reset or `Retry-After` (LIMIT-1).

        A refusal that does not name its policy silences all buckets of the request: any of them could be meant.

        Args:
            headers: Response headers, by lower-case name.
            charges: What was reserved for the request.
            retry_after: Seconds the server asked for, where it did.
        """
        until = self._clock() + (UNNAMED_WAIT if retry_after is None else retry_after)
        try:
            named = self._learn(headers, charges)
        except PipelineError as error:
            _log.warning("What a refusal said about a limit is lost: %s", error.message)
            named = None
        for key in [charge.key for charge in charges] if named is None else [named]:
            slot = self._slot(key)
            with slot.lock:
                slot.view = replace(slot.view, silent_until=max(slot.view.silent_until, until))
            try:
                self._store.silence(key, until)
            except PipelineError as error:
                _log.warning("Other runs do not hear of a refusal: %s", error.message)

    def known(self, key: str) -> tuple[Allowance, ...]:
        """What is known of a bucket: one entry per policy, none where the server has named no limit.

        Raises:
            Transient: The store did not answer.
        """
        slot, now = self._slot(key), self._clock()
        with slot.lock:
            slot.view, slot.looked = self._store.read(key), now
            ahead = self._ahead(slot, now)
            windows = {policy: window.at(now) for policy, window in slot.view.windows.items()}
        return tuple(
            Allowance(key, policy, window.limit, max(window.remaining + ahead, 0), window.reset)
            for policy, window in sorted(windows.items())
        )

    # ------------------------------------------------------------------------------------------------------- drawing

    def _draw_all(self, charges: Sequence[Charge], now: float) -> _Obstacle | None:
        """Draw all charges, or none and say what is in the way for longest."""
        drawn: list[Charge] = []
        worst: _Obstacle | None = None
        for charge in charges:
            obstacle = self._draw(charge, now)
            if obstacle is None:
                drawn.append(charge)
            elif worst is None or obstacle.until > worst.until:
                worst = obstacle
        if worst is not None:
            for charge in drawn:
                self._give_back(charge)
        return worst

    def _draw(self, charge: Charge, now: float) -> _Obstacle | None:
        slot = self._slot(charge.key)
        with slot.lock:
            self._look(charge.key, slot, now)
            if slot.view.silent_until > now:
                return _Obstacle(charge.key, slot.view.silent_until)
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
                if now < window.reset:
                    if policy not in slot.view.windows:  # learned by another process meanwhile, and not charged yet
                        pending.add(policy)
                    continue
                full = window.at(now)
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
        """The window that ends last of those into which a cost does not fit.

        Args:
            taken: What was already taken off for it.
        """
        headroom = self._headroom if key.startswith("did:") else 0.0
        worst: _Obstacle | None = None
        if bucket.silent_until > now:
            worst = _Obstacle(key, bucket.silent_until)
        for policy, known in bucket.windows.items():
            window = known.at(now)
            remaining = window.remaining + taken
            # A cost above the whole limit is let through when nothing is spent: waiting would never make it fit.
            fits = remaining >= window.limit or cost <= remaining - int(window.limit * headroom)
            if not fits and (worst is None or window.reset > worst.until):
                worst = _Obstacle(f"{key} ({policy})", window.reset)
        return worst

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

    # ------------------------------------------------------------------------------------------------------ learning

    def _learn(self, headers: Mapping[str, str], charges: Sequence[Charge]) -> str | None:
        """Returns the key of the bucket the headers were filed under, None when they report nothing usable."""
        now = self._clock()
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
                slot.view, slot.looked = self._store.read(key), now

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

    # --------------------------------------------------------------------------------------------------------- slots

    def _slot(self, key: str) -> _Slot:
        with self._lock:
            return self._slots.setdefault(key, _Slot())

    def _look(self, key: str, slot: _Slot, now: float) -> None:
        """Read the bucket when the last look is too long ago; the slot's lock is held."""
        if slot.looked is None or now - slot.looked >= LOOK_SECONDS:
            slot.view, slot.looked = self._store.read(key), now
