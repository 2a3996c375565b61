"""When a plan can be done at the earliest: its costs spent over the windows of the limits, without any clock.

Pure. A limit is a number of things in a window that begins with the first of them, as the reference PDS counts; several
windows of one bucket hold at once. What a plan costs is `costs.py`; where limits are learned is `atproto/budget.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RECORDS_PER_SECOND = 1_000
BLOBS_PER_SECOND = 150
"""What a PDS on a disk takes without limits, rounded down (ATProto facts, "Writing")."""

_HOUR, _DAY = 3_600.0, 86_400.0
_UNITS = ((_DAY, "day", "a"), (_HOUR, "hour", "an"), (60.0, "minute", "a"), (1.0, "second", "a"))


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One limit of one bucket.

    Args:
        limit: Points, uploads, requests or events in a window.
        seconds: Length of the window.
        left: What is left of the window that is under way; None when none is.
        resets_in: Seconds until that one ends.
    """

    limit: int
    seconds: float
    left: int | None = None
    resets_in: float = 0.0

    def __str__(self) -> str:
        length, unit, article = next(each for each in _UNITS if self.seconds >= each[0] or each[0] == 1.0)
        number = self.seconds / length
        return f"{self.limit:,} {f'{article} {unit}' if number == 1 else f'in {number:g} {unit}s'}"


@dataclass(frozen=True, slots=True)
class Limits:
    """All that is known of what one PDS, and the relay that reads it, let through; empty where nothing is known.

    Args:
        points: Write points of any one DID.
        spent: DID -> the same, for those of which something is spent already.
        uploads: `uploadBlob`, of all users together.
        requests: Requests to the host, of all users together.
        events: Commits an hour that the relay takes from this PDS, which we keep to.
        headroom: Share of each DID's points left to its owner (LIMIT-5), 0 to 1.
    """

    points: tuple[Ceiling, ...] = ()
    spent: Mapping[str, tuple[Ceiling, ...]] = field(default_factory=dict)
    uploads: tuple[Ceiling, ...] = ()
    requests: tuple[Ceiling, ...] = ()
    events: tuple[Ceiling, ...] = ()
    headroom: float = 0.0

    def named(self) -> list[tuple[str, Ceiling]]:
        """Every limit with what it is about."""
        listed = [(POINTS, self.points), (UPLOADS, self.uploads), (REQUESTS, self.requests), (EVENTS, self.events)]
        return [(name, ceiling) for name, ceilings in listed for ceiling in ceilings]


POINTS, UPLOADS, REQUESTS, EVENTS = "write points of one user", "blob uploads", "requests", "commits the relay takes"
SPEED = "the speed of the PDS"

USUAL = Limits(
    points=(Ceiling(5_000, _HOUR), Ceiling(35_000, _DAY)),
    uploads=(Ceiling(1_000, _DAY),),
    requests=(Ceiling(3_000, 300.0),),
)
"""What the reference PDS limits when its limits are on (ATProto facts, "Limits")."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one user's operations take of the limits.

    Args:
        did: The repository.
        points: Write points in all.
        largest: Points of the largest commit, which fits into a window as a whole or not at all.
        events: Commits that wait for the relay's hour.
        counted: Commits that count in it and do not wait: those that delete.
        seconds: What the PDS needs for it without any limit.
    """

    did: str
    points: int = 0
    largest: int = 0
    uploads: int = 0
    requests: int = 0
    events: int = 0
    counted: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ending:
    """When something is done: seconds from now, and what it waits for until then."""

    seconds: float = 0.0
    waits_for: str = SPEED

    @staticmethod
    def latest(*endings: Ending) -> Ending:
        return max(endings, key=lambda each: each.seconds)


@dataclass(slots=True)
class _Window:
    ceiling: Ceiling
    usable: int
    left: int
    ends: float | None


class Timeline:
    """One bucket, spent as fast as its ceilings allow.

    Args:
        ceilings: Those that hold at once; without any, nothing ever waits.
        headroom: Share of each that stays unspent, 0 to 1.
    """

    def __init__(self, ceilings: Sequence[Ceiling], headroom: float = 0.0) -> None:
        self._now = 0.0
        self._waited: Ceiling | None = None
        self._windows = []
        for each in ceilings:
            kept = int(each.limit * headroom)
            running = each.left is not None and each.resets_in > 0
            left = each.limit if each.left is None or not running else each.left
            ends = each.resets_in if running else None
            self._windows.append(_Window(each, max(each.limit - kept, 1), left - kept, ends))

    def spend(self, amount: int, unit: int = 1) -> None:
        """Spend so much, in parts of `unit` (the last one smaller) that each fit into a window as a whole."""
        if not self._windows:
            return
        unit = max(1, min([unit, *(window.usable for window in self._windows)]))
        while amount > 0:
            room = min(window.left for window in self._windows)
            taken = amount if room >= amount else max(room, 0) // unit * unit
            if not taken:
                self._wait(min(unit, amount))
                continue
            for window in self._windows:
                window.left -= taken
                window.ends = self._now + window.ceiling.seconds if window.ends is None else window.ends
            amount -= taken

    def count(self, amount: int) -> None:
        """Spend so much now, whether it fits or not."""
        for window in self._windows if amount else ():
            window.left -= amount
            window.ends = self._now + window.ceiling.seconds if window.ends is None else window.ends

    def ending(self, name: str) -> Ending:
        """When everything that was spent so far is spent."""
        return Ending(self._now, f"{name} ({self._waited})" if self._waited is not None else name)

    def _wait(self, needed: int) -> None:
        """Until the last window has ended into which not even the next part fits."""
        full = [window for window in self._windows if window.left < needed and window.ends is not None]
        last = max(full, key=lambda window: window.ends or 0.0)
        self._now, self._waited = last.ends or self._now, last.ceiling
        for window in self._windows:
            if window.ends is not None and window.ends <= self._now:
                window.left, window.ends = window.usable, None


class Forecast:
    """Adds users up in the order of their turns: points are each user's own, everything else is shared."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._uploads = Timeline(limits.uploads)
        self._requests = Timeline(limits.requests)
        self._events = Timeline(limits.events)
        self._seconds = 0.0
        self.end = Ending()

    def add(self, demand: Demand) -> Ending:
        """When this user, whose turn comes after those added before, is done."""
        limits = self._limits
        points = Timeline(limits.spent.get(demand.did, limits.points), limits.headroom)
        points.spend(demand.points, demand.largest)
        self._uploads.spend(demand.uploads)
        self._requests.spend(demand.requests)
        self._events.count(demand.counted)
        self._events.spend(demand.events)
        self._seconds += demand.seconds
        shared = [(demand.uploads, self._uploads, UPLOADS), (demand.requests, self._requests, REQUESTS)]
        shared.append((demand.events, self._events, EVENTS))
        waits = [timeline.ending(name) for number, timeline, name in shared if number]
        ending = Ending.latest(Ending(self._seconds), points.ending(POINTS), *waits)
        self.end = Ending.latest(self.end, ending)
        return ending
