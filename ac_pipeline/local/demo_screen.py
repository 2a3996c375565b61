"""What the demo shows: steps with their seconds, bars on a terminal and lines elsewhere, tables and links.

Says nothing by itself: what is said when is `demo.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ac_pipeline.local.dagster_ui import Backfill, Check

_LINE_EVERY = 10.0  # Seconds between lines of progress where there is no terminal to draw on
_COUNTS = ("documents", "eligible", "records", "written", "unchanged", "deleted", "quarantined", "blocked", "deferred")


class Screen:
    """Writes to standard output."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._console = Console(width=None if self._terminal else 140, highlight=False)
        self._taken: list[tuple[str, float]] = []
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """A line or more, addresses unbroken so that they can be clicked and copied."""
        self._console.print(text, soft_wrap=not self._terminal or "://" in text, markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something that takes a while; its seconds are in the summary."""
        started = self._last_line = time.monotonic()
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
        rows = {name: {count: counts.get(count, 0) for count in _COUNTS} for name, counts in types.items()}
        rows["all"] = {count: sum(row[count] for row in rows.values()) for count in _COUNTS}
        self._table("Records, all users", rows, _COUNTS, lambda name, count: str(rows[name][count]), "right")

    def checks(self, checks: Sequence[Check]) -> None:
        """What each check says of each type, and the first sentence of each that did not pass; the UI has the rest."""
        words = {(each.asset, each.name): _word(each) for each in checks}
        assets, names = dict.fromkeys(each.asset for each in checks), dict.fromkeys(each.name for each in checks)
        self._table("Checks, all users", assets, names, lambda asset, name: words.get((asset, name), ""))
        said: dict[str, list[str]] = {}
        for each in sorted(checks, key=lambda check: check.name):
            if each.passed is False:
                sentence = each.said.partition(". ")[0].partition("; ")[0]
                said.setdefault(f"{each.name}: {sentence}", []).append(_type(each.asset))
        for text, types in said.items():
            self._console.print(Padding(Text(f"{text} ({', '.join(types)})"), (0, 0, 0, 4)))

    def _table(
        self,
        title: str,
        types: Iterable[str],
        rows: Iterable[str],
        cell: Callable[[str, str], str],
        justify: Literal["left", "right"] = "left",
    ) -> None:
        """A column for each type: that fits into 80 columns, a column for each count or check does not."""
        table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
        table.add_column("")
        for type in types:
            table.add_column(_type(type), justify=justify)
        for row in rows:
            table.add_row(row, *(cell(type, row) for type in types))
        self._console.print(table)

    def links(self, links: Mapping[str, str]) -> None:
        """Names and addresses."""
        width = max(map(len, links))
        for name, address in links.items():
            self.say(f"    {name:<{width}}  {address}")

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


def _type(asset: str) -> str:
    return asset.rpartition("/")[2]


def _word(check: Check) -> str:
    if check.passed is None:
        return "unknown"
    return "passed" if check.passed else "failed" if check.severe else "warning"
