"""What the demo shows: steps with their seconds, bars on a terminal and lines elsewhere, tables and links.

Says nothing by itself: what is said when is `demo.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ac_pipeline.local.dagster_ui import Backfill, Check

_LINE_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal to draw on."""
_COLUMNS = ("documents", "eligible", "records", "written", "unchanged", "deleted", "quarantined", "blocked", "deferred")


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    address: str


class Screen:
    """Writes to standard output."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._console = Console(width=None if self._terminal else 140, highlight=False)
        self._taken: list[tuple[str, float]] = []
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """One line, addresses unbroken so that they can be clicked and copied."""
        self._console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something that takes a while; its seconds are in the summary."""
        started = time.monotonic()
        self.say(f"==> {name}")
        yield
        self._taken.append((name, time.monotonic() - started))

    def progress(self, what: str, done: int, total: int) -> None:
        """How far something is, now and then."""
        if self._is_time(done >= total):
            self.say(f"    {what}: {done} of {total}")

    @contextmanager
    def backfill(self) -> Iterator[Callable[[Backfill], None]]:
        """A place for the progress of a backfill: a bar for each asset, or lines."""
        if not self._terminal:
            yield self._backfill_line
            return
        columns = (TextColumn("    {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bars:
            tasks: dict[str, TaskID] = {}

            def draw(backfill: Backfill) -> None:
                for each in backfill.assets:
                    if each.asset not in tasks:
                        tasks[each.asset] = bars.add_task(each.asset, total=each.targeted)
                    bars.update(tasks[each.asset], completed=each.done + each.failed)

            yield draw

    def counts(self, types: Mapping[str, Mapping[str, int]]) -> None:
        """Per type: what the materialisations of all users add up to."""
        table = Table(title="Records, all users", title_justify="left", box=box.SIMPLE, pad_edge=False)
        table.add_column("type")
        for column in _COLUMNS:
            table.add_column(column, justify="right")
        rows = {name: self._after(counts) for name, counts in types.items()}
        for name, row in rows.items():
            table.add_row(name, *(str(row[column]) for column in _COLUMNS))
        table.add_row("all", *(str(sum(row[column] for row in rows.values())) for column in _COLUMNS))
        self._console.print(table)

    def checks(self, checks: Sequence[Check]) -> None:
        """What each check says of each type, and the first sentence of each that did not pass; the UI has the rest."""
        names = list(dict.fromkeys(each.name for each in checks))
        table = Table(title="Checks, all users", title_justify="left", box=box.SIMPLE, pad_edge=False)
        for column in ("type", *names):
            table.add_column(column)
        for asset in dict.fromkeys(each.asset for each in checks):
            own = {each.name: _word(each) for each in checks if each.asset == asset}
            table.add_row(asset.rpartition("/")[2], *(own.get(name, "") for name in names))
        self._console.print(table)
        for each in checks:
            if each.passed is False:
                self.say(f"    {each.asset} {each.name}: {each.said.partition('. ')[0]}")

    def links(self, links: Sequence[Link]) -> None:
        width = max(len(link.name) for link in links)
        for link in links:
            self.say(f"    {link.name:<{width}}  {link.address}")

    def seconds(self) -> None:
        """How long each step took."""
        for name, seconds in self._taken:
            self.say(f"    {seconds:7.1f} s  {name}")
        self.say(f"    {sum(seconds for _, seconds in self._taken):7.1f} s  in all")

    def _backfill_line(self, backfill: Backfill) -> None:
        if self._is_time(not backfill.running):
            done, targeted = sum(each.done for each in backfill.assets), sum(each.targeted for each in backfill.assets)
            running, failed = (
                sum(each.running for each in backfill.assets),
                sum(each.failed for each in backfill.assets),
            )
            self.say(f"    {done} of {targeted} partitions done, {running} requested, {failed} failed")

    def _is_time(self, last: bool) -> bool:
        now = time.monotonic()
        if not last and now - self._last_line < _LINE_EVERY:
            return False
        self._last_line = now
        return True

    @staticmethod
    def _after(counts: Mapping[str, int]) -> dict[str, int]:
        """The counts with the records as they are now: a materialisation has those from before the run."""
        row = {column: counts.get(column, 0) for column in _COLUMNS}
        row["records"] += counts.get("created", 0) - counts.get("deleted", 0) - counts.get("duplicates_removed", 0)
        return row


def _word(check: Check) -> str:
    if check.passed is None:
        return "not evaluated"
    return "passed" if check.passed else "failed" if check.severe else "warning"
