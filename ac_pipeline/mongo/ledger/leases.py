"""Leases: one writer of a repository at a time, across threads, runs and machines (WRITE-12).

A lease is a document that expires. Whoever holds it renews it in the background; the lease of a process that certainly
died on this machine is taken at once. A commit is guarded by `swapCommit` besides: a lease that was lost unnoticed
costs work, never data.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from ac_pipeline.errors import LeaseHeld, PipelineError, Transient
from ac_pipeline.mongo.database import mongo_errors

_PROC = Path("/proc")
_MOST_AHEAD = timedelta(hours=1)  # By so much no clock of a machine at work is wrong


def own_mark() -> str | None:
    """The mark of this process, or None where processes cannot be told apart for good: start of the machine, namespace
    of process ids, process id and start of the process, as an id alone is given again.
    """
    try:
        return f"{_here()} {os.getpid()} {_start(os.getpid())}"
    except OSError:
        return None


def is_dead(mark: str) -> bool:
    """True if the process that left this mark has certainly ended."""
    where, _, process = mark.partition(" ")
    pid, _, start = process.partition(" ")
    try:
        if where != _here() or not pid.isdigit():
            return False
        # Not by /proc alone: a system may hide the processes of other users there, and this call never does.
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        return _start(int(pid)) != start
    except OSError:
        return False


def _here() -> str:
    """This start of this machine, and the namespace in which process ids mean what they do here."""
    return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}/{(_PROC / 'self/ns/pid').readlink()}"


def _start(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty for one that is dead and not collected."""
    # The second field, a name in parentheses, may hold anything; the third is the state, the twenty-second the start.
    state, *fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return "" if state in {"Z", "X"} else fields[18]


_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Leases:
    """Leases kept in one collection, whose times have a time zone."""

    collection: Collection[dict[str, Any]]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)  # Counts for expiry; machines may differ by `seconds` / 3
    sleep: Callable[[float], None] = time.sleep
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait  # Paces renewal
    seconds: float = 60.0  # How long a lease lasts without renewal; it is renewed every third of that
    patience: float = 90.0  # How long to wait for one that is held: a retry has to outlast a dead run's lease
    poll: float = 1.0  # Seconds between two tries
    token: Callable[[], str] = lambda: uuid4().hex  # Marks one acquisition: two holders of the same name are two
    process: Callable[[], str | None] = own_mark  # The mark of this process, or None
    dead: Callable[[str], bool] = is_dead  # True if the process of such a mark has certainly ended

    @contextmanager
    def hold(self, did: str, holder: str) -> Iterator[None]:
        """Be the only writer of a repository while the context is open; `holder` says who we are, for people: a run id.
        Raises LeaseHeld when somebody else is for all of `patience`; or, at the end, when the lease was lost in
        between, so that somebody else may have written too.
        """
        token = self._acquire(did, holder)
        ended = threading.Event()
        renewal = threading.Thread(target=self._keep, args=(did, token, ended), name=f"lease {did}", daemon=True)
        renewal.start()
        try:
            yield
        except BaseException:
            self._end(did, token, ended, renewal)
            raise
        if not self._end(did, token, ended, renewal):
            raise LeaseHeld(
                f"The lease on {did} was lost while it was in use, and another run may have written there: "
                "the next attempt reads the repository anew."
            )

    def renew(self, did: str, token: str) -> bool:
        """Make a lease last from now on; False when it is not ours any more."""
        with mongo_errors(f"renew the lease on {did}"):
            renewed = self.collection.update_one({"_id": did, "token": token}, {"$set": {"expires_at": self._expiry()}})
        return renewed.matched_count == 1

    def _acquire(self, did: str, holder: str) -> str:
        token = self.token()
        deadline = self.clock() + timedelta(seconds=self.patience)
        while not self._take(did, holder, token):
            if self._end_of_dead(did):
                continue
            if self.clock() >= deadline:
                raise LeaseHeld(
                    f"Another run ({self._current(did).get('holder', 'ended just now')}) writes to {did} and did not "
                    f"end within {self.patience:.0f} s; the next attempt tries again."
                )
            self.sleep(self.poll)
        return token

    def _take(self, did: str, holder: str, token: str) -> bool:
        """One atomic try: an upsert that meets a lease still running breaks on its `_id`."""
        ours = {"holder": holder, "token": token, "process": self.process(), "expires_at": self._expiry()}
        # One that would run for so long was left behind by a clock that was wrong.
        expired = [{"expires_at": {"$lte": self.clock()}}, {"expires_at": {"$gt": self._expiry() + _MOST_AHEAD}}]
        with mongo_errors(f"take the lease on {did}"):
            try:
                self.collection.find_one_and_update({"_id": did, "$or": expired}, {"$set": ours}, upsert=True)
            except DuplicateKeyError:
                return False
        return True

    def _current(self, did: str) -> dict[str, Any]:
        with mongo_errors(f"look at the lease on {did}"):
            return self.collection.find_one({"_id": did}) or {}

    def _end_of_dead(self, did: str) -> bool:
        """End a lease whose holder died here, for which a killed run's retry would wait up to a minute; True if so."""
        current = self._current(did)
        process = current.get("process")
        if not isinstance(process, str) or not self.dead(process):
            return False
        with mongo_errors(f"end the lease on {did}"):
            ended = self.collection.delete_one({"_id": did, "token": current.get("token")}).deleted_count == 1
        if ended:
            _log.warning("The lease on %s was left behind by %s, which is dead.", did, current.get("holder"))
        return ended

    def _keep(self, did: str, token: str, ended: threading.Event) -> None:
        while not self.wait(ended, self.seconds / 3):
            try:
                if not self.renew(did, token):
                    _log.warning("The lease on %s was taken over by another run.", did)
                    return
            except PipelineError as error:  # it lasts two more thirds: the next try may come through
                _log.warning("%s", error.message)

    def _end(self, did: str, token: str, ended: threading.Event, renewal: threading.Thread) -> bool:
        """Stop renewing and give the lease back; False when it was not ours any more."""
        ended.set()
        renewal.join()
        try:
            with mongo_errors(f"give back the lease on {did}"):
                return self.collection.delete_one({"_id": did, "token": token}).deleted_count == 1
        except Transient as error:  # it expires by itself; what was done under it is done
            _log.warning("%s", error.message)
            return True

    def _expiry(self) -> datetime:
        return self.clock() + timedelta(seconds=self.seconds)
