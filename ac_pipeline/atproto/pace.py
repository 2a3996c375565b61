"""Commits to one PDS, paced for the relay that reads it (LIMIT-9): a limit of our own, counted by us alone.

A relay takes about 2,500 commits an hour of one PDS (atproto facts, Limits), and the PDS knows nothing of it. So unlike
the limits of `budget.py` this one is a setting and never learned, and no answer says how much of it is spent. It is one
bucket for all accounts in the same store (`buckets.py`), so that all runs and machines share it.

An hour begins with its first commit. What is kept of it is how many there were; whether one more fits is decided by the
limit of whoever asks, so that a changed setting holds at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Final

from ac_pipeline.atproto.buckets import Bucket, BudgetStore, Window
from ac_pipeline.atproto.messages import Write
from ac_pipeline.errors import OutcomeUnknown, PipelineError, RateLimited

HOUR: Final = 3_600.0
"""Seconds of a window: a relay counts by the hour."""

POLICY: Final = "relay;w=3600"
"""Name of the one window of the bucket; without the limit, which may change while the window is under way."""

_ATTEMPTS: Final = 5
"""Tries to begin an hour that others begin at the same time; the first to lose finds it begun."""

_log = logging.getLogger(__name__)


def commits_key(host: str) -> str:
    """The bucket of the commits to one PDS."""
    return f"{host} commits"


def hour_under_way(bucket: Bucket, per_hour: int, now: float) -> Window | None:
    """The hour that is under way, as it stands under this limit; None when the next commit begins one.

    Args:
        per_hour: Commits in an hour, whatever the limit was when the hour began.
        now: Epoch seconds.
    """
    window = bucket.windows.get(POLICY)
    if window is None or now >= window.reset:
        return None
    return replace(window, limit=per_hour, remaining=per_hour - (window.limit - window.remaining))


def erases(writes: Iterable[Write]) -> bool:
    """Whether a batch deletes something. Such a commit counts and is never held back: erasure does not wait for us."""
    return any(write.action == "delete" for write in writes)


class Pace:
    """The pace of one PDS; safe to share between threads, and between processes through the store.

    A commit costs one call of the store. Without a limit nothing is counted and the store is not asked.

    Args:
        host: Of the PDS.
        per_hour: Commits in an hour; 0 for no limit.
        store: Where the count is kept.
        clock: Epoch seconds.
        sleep: Waits that many seconds.
        max_wait: Longest wait in seconds for the next hour; beyond it the caller is told to come back.
    """

    def __init__(
        self,
        host: str,
        per_hour: int,
        *,
        store: BudgetStore,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        max_wait: float = 60.0,
    ) -> None:
        self._host = host
        self._per_hour = per_hour
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._max_wait = max_wait
        self._lock = Lock()
        self._reserved: set[str] = set()
        self._full_until = 0.0
        self._renew_at: float | None = None

    def reserve(self, subject: str) -> None:
        """Count the next commit of an account now, before blobs are uploaded for it; a second time changes nothing.

        Raises:
            RateLimited: The hour is spent; `retry_after` says when the next one begins.
            Transient: The store did not answer.
        """
        with self._lock:
            reserved = subject in self._reserved
        if self._per_hour and not reserved:
            self._take(held=True)
            with self._lock:
                self._reserved.add(subject)

    def release(self, subject: str) -> None:
        """Give back what was reserved for an account and not used."""
        if self._use(subject):
            self._give_back()

    @contextmanager
    def commit(self, subject: str, *, held: bool) -> Iterator[None]:
        """Send one commit inside; what certainly did not happen is not counted.

        Args:
            subject: Whose it is; what was reserved for it is used.
            held: Whether it waits when the hour is spent. One that does not is counted all the same.

        Raises:
            RateLimited, Transient: As `reserve`; nothing was sent.
        """
        if not self._per_hour:
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
        waited = 0.0
        while True:
            now = self._clock()
            until = self._draw(now, held=held)
            if until is None:
                return
            pause = until - now
            if waited + pause > self._max_wait:
                raise RateLimited(
                    f"The {self._per_hour} commits an hour that the relay of {self._host} takes "
                    f"(AC_RELAY_COMMITS_PER_HOUR) are spent for another {pause:.0f} s; nothing was sent. "
                    "Continue then.",
                    retry_after=pause,
                )
            self._sleep(pause)
            waited += pause

    def _draw(self, now: float, *, held: bool) -> float | None:
        """Count one commit; or None of it, and when the next hour begins."""
        if held and now < self._full_until:
            return self._full_until
        key = commits_key(self._host)
        for _ in range(_ATTEMPTS):
            over = self._renew_at is not None and now >= self._renew_at
            bucket = self._store.read(key) if over else self._store.take(key, (POLICY,), 1)
            window = hour_under_way(bucket, self._per_hour, now)
            if window is None:
                begun = Window(self._per_hour, HOUR, self._per_hour - 1, now + HOUR)
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
            return window.reset
        return None  # one commit too many is less of a harm than an hour of waiting for nothing

    def _give_back(self) -> None:
        try:
            self._store.take(commits_key(self._host), (POLICY,), -1)
        except PipelineError as error:
            _log.warning("A commit that was not made stays counted for the relay: %s", error.message)
