"""Buckets: what is known of one limit of a PDS, and where that is kept so that threads, runs and machines share it.

Values, the rules by which they age and meet a newer report, and the port of their store with its in-memory
implementation. When to ask and what to do about it is `budget.py`; the store of production is `mongo/budgets.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final, Protocol

_SAME_WINDOW: Final = 2.0
"""Seconds by which the reset of one window may differ between two answers: it is rounded to whole seconds."""


@dataclass(frozen=True, slots=True)
class Window:
    """One policy of one bucket, as it stands.

    Args:
        limit: Points or requests per window.
        length: Seconds.
        remaining: What is left, everything that was taken off; below 0 while a request that does not fit is tried.
        reset: Epoch seconds at which it ends.
        guessed: Whether `reset` is our own reckoning, because no answer has named it yet.
    """

    limit: int
    length: float
    remaining: int
    reset: float
    guessed: bool = False

    def at(self, now: float) -> Window:
        """It, or when it is over the next one: full, and taken to last its length from now."""
        return self if now < self.reset else Window(self.limit, self.length, self.limit, now + self.length, True)

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
        return replace(
            window,
            remaining=min(window.remaining, reported.remaining),
            reset=max(window.reset, reported.reset),
        )


@dataclass(frozen=True, slots=True)
class Bucket:
    """Everything known of one bucket.

    Args:
        windows: By policy, such as `5000;w=3600`; none where the server has named no limit.
        silent_until: Epoch seconds before which nothing may be sent, after a 429.
    """

    windows: Mapping[str, Window] = field(default_factory=dict)
    silent_until: float = 0.0


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
        self._buckets: dict[str, Bucket] = {}

    def read(self, key: str) -> Bucket:
        with self._lock:
            return self._buckets.get(key, Bucket())

    def take(self, key: str, policies: Collection[str], cost: int) -> Bucket:
        with self._lock:
            bucket = self._buckets.get(key, Bucket())
            if not bucket.windows.keys() >= set(policies):
                return bucket
            taken = {
                policy: replace(window, remaining=window.remaining - cost) if policy in policies else window
                for policy, window in bucket.windows.items()
            }
            self._buckets[key] = replace(bucket, windows=taken)
            return self._buckets[key]

    def change(self, key: str, policy: str, known: Window | None, new: Window) -> bool:
        with self._lock:
            bucket = self._buckets.get(key, Bucket())
            if bucket.windows.get(policy) != known:
                return False
            self._buckets[key] = replace(bucket, windows={**bucket.windows, policy: new})
            return True

    def silence(self, key: str, until: float) -> None:
        with self._lock:
            bucket = self._buckets.get(key, Bucket())
            self._buckets[key] = replace(bucket, silent_until=max(bucket.silent_until, until))
