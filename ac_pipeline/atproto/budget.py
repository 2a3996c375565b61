"""What may still be sent to a PDS, learned from its `RateLimit-*` headers and asked before each request.

Holds no limit of its own: until a server has named one, everything may be sent (LIMIT-4). Kept in memory; one that is
kept in the database takes the place of `Budget` with the same three calls.

A server reports one bucket per answer, the tightest, without its name (LIMIT-3). So a request names the buckets it
draws from, most specific first, and an answer's policy (`5000;w=3600`) is filed under the one it fits; each policy of a
bucket is counted by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from ac_pipeline.atproto.answers import reset_time
from ac_pipeline.errors import RateLimited

UNNAMED_WAIT: Final = 60.0
"""Seconds of silence after a 429 that names no time."""

_SAME_WINDOW: Final = 2.0
"""Seconds by which the reset of one window may differ between two answers: it is rounded to whole seconds."""

_POLICY: Final = re.compile(r"\s*(\d+)\s*;\s*w=(\d+)")


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
        policy: As the server wrote it, e.g. `5000;w=3600`.
        limit: Points or requests per window.
        remaining: What is left now, what is on its way to the server taken off.
        reset: Epoch seconds at which the window ends.
    """

    key: str
    policy: str
    limit: int
    remaining: int
    reset: float


@dataclass(slots=True)
class _Window:
    """The live counterpart of an `Allowance`; guarded by the budget's lock."""

    limit: int
    length: float
    remaining: int
    reset: float
    guessed: bool = False

    def roll(self, now: float) -> None:
        """Start the next window when this one is over: full, and taken to last its length from now."""
        if now >= self.reset:
            self.remaining = self.limit
            self.reset = now + self.length
            self.guessed = True


class Budget:
    """The budgets of one PDS, shared by all threads of a process.

    Args:
        clock: Epoch seconds.
        sleep: Waits that many seconds.
        max_wait: Longest wait in seconds inside `reserve`; beyond it the caller is told to come back.
        headroom: Share of each write budget (bucket key `did:...`) left to the account's owner (LIMIT-5), 0 to 1.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        max_wait: float = 60.0,
        headroom: float = 0.0,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._max_wait = max_wait
        self._headroom = headroom
        self._lock = Lock()
        self._windows: dict[str, dict[str, _Window]] = {}
        self._silent_until: dict[str, float] = {}

    def reserve(self, charges: Sequence[Charge]) -> None:
        """Take the charges of one request from all its buckets, or from none.

        Returns at once when they fit, waits up to `max_wait` seconds in all when they will fit by then.

        Raises:
            RateLimited: A bucket is empty for longer; `retry_after` says for how long. Nothing was sent.
        """
        waited = 0.0
        while True:
            with self._lock:
                now = self._clock()
                full, until = self._latest_obstacle(charges, now)
                if full is None:
                    self._take(charges)
                    return
            pause = until - now
            if waited + pause > self._max_wait:
                raise RateLimited(
                    f"The budget {full} is spent for another {pause:.0f} s; nothing was sent. Continue then.",
                    retry_after=pause,
                )
            self._sleep(pause)
            waited += pause

    def learn(self, headers: Mapping[str, str], charges: Sequence[Charge]) -> None:
        """Take note of the limit an answer reports.

        Args:
            headers: Response headers, by lower-case name.
            charges: What was reserved for the request.
        """
        with self._lock:
            self._learn(headers, charges)

    def refused(self, headers: Mapping[str, str], charges: Sequence[Charge], retry_after: float | None) -> None:
        """Take note of a 429: nothing goes to that bucket before its reset or `Retry-After` (LIMIT-1).

        A refusal that does not name its policy silences all buckets of the request: any of them could be meant.

        Args:
            headers: Response headers, by lower-case name.
            charges: What was reserved for the request.
            retry_after: Seconds the server asked for, where it did.
        """
        with self._lock:
            now = self._clock()
            named = self._learn(headers, charges)
            keys = [charge.key for charge in charges] if named is None else [named]
            until = now + (UNNAMED_WAIT if retry_after is None else retry_after)
            for key in keys:
                self._silent_until[key] = max(self._silent_until.get(key, 0.0), until)

    def known(self, key: str) -> tuple[Allowance, ...]:
        """What is known of a bucket: one entry per policy, none where the server has named no limit."""
        with self._lock:
            now = self._clock()
            windows = self._windows.get(key, {})
            for window in windows.values():
                window.roll(now)
            return tuple(
                Allowance(key, policy, window.limit, window.remaining, window.reset)
                for policy, window in sorted(windows.items())
            )

    def _latest_obstacle(self, charges: Sequence[Charge], now: float) -> tuple[str | None, float]:
        full: str | None = None
        until = now
        for charge in charges:
            silent = self._silent_until.get(charge.key, 0.0)
            if silent > until:
                full, until = charge.key, silent
            headroom = self._headroom if charge.key.startswith("did:") else 0.0
            for policy, window in self._windows.get(charge.key, {}).items():
                window.roll(now)
                # A cost above the whole limit is let through when nothing is spent: waiting would never make it fit.
                untouched = window.remaining >= window.limit
                fits = untouched or charge.cost <= window.remaining - int(window.limit * headroom)
                if not fits and window.reset > until:
                    full, until = f"{charge.key} ({policy})", window.reset
        return full, until

    def _take(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            for window in self._windows.get(charge.key, {}).values():
                window.remaining = max(window.remaining - charge.cost, 0)

    def _learn(self, headers: Mapping[str, str], charges: Sequence[Charge]) -> str | None:
        """Returns the key of the bucket the headers were filed under, None when they report nothing usable."""
        now = self._clock()
        reset = reset_time(headers.get("ratelimit-reset"), now)
        remaining = headers.get("ratelimit-remaining", "").strip()
        policy = headers.get("ratelimit-policy", "").strip()
        match = _POLICY.match(policy)
        if reset is None or match is None or not remaining.isdecimal() or not charges:
            return None
        limit, length = int(match[1]), float(match[2])
        key = self._bucket_of(policy, limit - int(remaining), length, charges)
        self._file(key, policy, _Window(limit, length, int(remaining), reset), now)
        return key

    def _file(self, key: str, policy: str, reported: _Window, now: float) -> None:
        windows = self._windows.setdefault(key, {})
        window = windows.get(policy)
        if window is None:
            windows[policy] = reported
            return
        window.roll(now)
        if window.guessed and reported.reset > now:
            window.reset, window.guessed = reported.reset, False
        if reported.reset > window.reset + _SAME_WINDOW:
            windows[policy] = reported
        elif reported.reset >= window.reset - _SAME_WINDOW:
            # Answers overtake each other; the smaller number has what is still on its way taken off.
            window.remaining = min(window.remaining, reported.remaining)
            window.reset = max(window.reset, reported.reset)

    def _bucket_of(self, policy: str, consumed: int, length: float, charges: Sequence[Charge]) -> str:
        for charge in charges:
            if policy in self._windows.get(charge.key, {}):
                return charge.key
        for charge in charges:
            # Whatever this request took is part of what its bucket has lost.
            if length >= charge.shortest_window and consumed >= charge.cost:
                return charge.key
        return charges[-1].key
