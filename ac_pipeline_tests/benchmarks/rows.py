"""The rows of the benchmark table: both sides of a ratio are measured in one run, in turn, and the median counts.

Absolute figures are of one machine under one load; ratios of rounds that alternate survive both.
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Timed:
    """What one side did in one round: so many items, in so many seconds of the clock and of the cores, by process."""

    items: int = 0
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.items / self.seconds

    def cpu_ms(self, process: str) -> float:
        """Milliseconds of the cores for each item."""
        return 1000 * self.cpu[process] / self.items


@contextmanager
def timed(items: int, services: Mapping[str, int]) -> Iterator[Timed]:
    """Time what is done in the context. `services`: process ids of those that work for it, by name."""
    done, before, started = Timed(items), _cpu(services), time.perf_counter()
    yield done
    done.seconds = time.perf_counter() - started
    done.cpu = {name: spent - before[name] for name, spent in _cpu(services).items()}


def _cpu(services: Mapping[str, int]) -> dict[str, float]:
    """Seconds of the cores so far: of this process, of those it has waited for, and of the services."""
    own, children = (sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    spent = {"client": own, "children": children}
    for name, pid in services.items():
        # The name, in parentheses, may hold anything; what is spent is the fourteenth and fifteenth field.
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        spent[name] = (int(fields[11]) + int(fields[12])) / TICKS
    return spent


Arm = Callable[[random.Random], Mapping[str, Timed]]
"""Does its work once, on new accounts, and returns what was timed, by side; one may time two."""


@dataclass(frozen=True, slots=True)
class Row:
    """One ratio: `ours` and `theirs` name the sides, as the arms return them."""

    key: str  # What it is called in the JSON, and on the command line
    what: str
    against: str  # What the other side is
    unit: str
    ours: str
    theirs: str
    aim: float


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share arms; every round runs each arm once."""

    rows: Sequence[Row]
    arms: Sequence[Arm]
    facts: Callable[[], Mapping[str, object]] = dict  # What does not change from round to round, asked for at the end
    skipped: str = ""  # Why it cannot be measured here; no arm is run then


@dataclass(slots=True)
class Measured:
    """A row with what was found; the ratios are those of the rounds."""

    row: Row
    ours: Sequence[Timed] = ()
    theirs: Sequence[Timed] = ()
    load: tuple[float, float] = (0.0, 0.0)  # Of the machine, before the first round and after the last one
    facts: Mapping[str, object] = field(default_factory=dict)
    skipped: str = ""

    @property
    def ratios(self) -> list[float]:
        return [mine.rate / other.rate for mine, other in zip(self.ours, self.theirs, strict=True)]

    def to_json(self) -> dict[str, object]:
        row = self.row
        said: dict[str, object] = {"row": row.key, "what": row.what, "against": row.against, "unit": row.unit}
        said |= {"aim": row.aim, "load": self.load, "facts": dict(self.facts)}
        if self.skipped:
            return said | {"skipped": self.skipped}
        return said | {
            "ours": _median(self.ours),
            "theirs": _median(self.theirs),
            "ratio": round(statistics.median(self.ratios), 2),
            "least": round(min(self.ratios), 2),
            "most": round(max(self.ratios), 2),
            "cpu_ms_each": {"ours": _cores(self.ours), "theirs": _cores(self.theirs)},
            "rounds": {"ours": _rates(self.ours), "theirs": _rates(self.theirs)},
        }

    def lines(self) -> list[str]:
        """Of the table, 80 columns wide: the figures, what they are of, what the other side is, and the facts."""
        row = self.row
        if self.skipped:
            return [f"{row.what}: skipped", f"  {self.skipped}"]
        digits = 2 if max(self.ratios) < 9.995 else 1
        spread = f"{min(self.ratios):.{digits}f} to {max(self.ratios):.{digits}f}"
        figures = f"{_median(self.ours):8.1f} {_median(self.theirs):8.1f} {statistics.median(self.ratios):6.{digits}f}"
        lines = [f"{row.what:31}{figures}  {spread:12} {row.aim:4g} {self.load[1]:5.1f}", f"  {row.unit}"]
        lines += [
            f"  against {row.against}",
            f"  CPU ms each: {_said(self.ours)}",
            f"       theirs: {_said(self.theirs)}",
        ]
        return lines + [f"  {name}: {value}" for name, value in self.facts.items()]


HEAD = f"{'':31}{'ours':>8} {'theirs':>8} {'ratio':>6}  {'spread':12} {'aim':>4} {'load':>5}"


def _median(side: Sequence[Timed]) -> float:
    return round(statistics.median(each.rate for each in side), 1)


def _rates(side: Sequence[Timed]) -> list[float]:
    return [round(each.rate, 1) for each in side]


def _cores(side: Sequence[Timed]) -> dict[str, float]:
    return {name: round(statistics.median(each.cpu_ms(name) for each in side), 2) for name in side[0].cpu}


def _said(side: Sequence[Timed]) -> str:
    return ", ".join(f"{value:.1f} {name}" for name, value in _cores(side).items() if value >= 0.05)


def measure(group: Group, rounds: int, report: Callable[[str], object]) -> list[Measured]:
    """Run the arms in turn, the order reversed from round to round; what each round found is reported as a line."""
    if group.skipped:
        return [Measured(row, skipped=group.skipped) for row in group.rows]
    found: dict[str, list[Timed]] = defaultdict(list)
    before = os.getloadavg()[0]
    for number in range(rounds):
        made: dict[str, Timed] = {}
        for arm in group.arms[:: -1 if number % 2 else 1]:
            made |= arm(random.Random(number))
        for side, each in made.items():
            found[side].append(each)
        report(f"round {number + 1}: " + ", ".join(f"{side} {each.rate:.1f}/s" for side, each in sorted(made.items())))
    load = (round(before, 1), round(os.getloadavg()[0], 1))
    facts = group.facts()
    return [Measured(row, found[row.ours], found[row.theirs], load, facts) for row in group.rows]
