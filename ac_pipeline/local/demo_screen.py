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
from rich.table import Table
from rich.text import Text

from ac_pipeline.local.dagster_ui import Backfill, Check
from ac_pipeline.progress import Listener, progress

_COUNTS = ("documents", "eligible", "records", "written", "unchanged", "deleted", "quarantined", "blocked", "deferred")


class Screen:
    """Writes to standard output."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._console = Console(width=None if self._terminal else 140, highlight=False)
        self._taken: list[tuple[str, float]] = []
        self._failed = 0
        self.progress: Listener = lambda what, done, total: None
        """Of the step under way."""

    def say(self, text: str) -> None:
        """A line or more, addresses unbroken so that they can be clicked and copied."""
        self._console.print(text, soft_wrap=not self._terminal or "://" in text, markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Something that takes a while, with its progress; its seconds are in the summary."""
        started = time.monotonic()
        self.say(f"==> {name}")
        with progress(self._console, lambda line: self.say(f"    {line}")) as self.progress:
            yield
        self._taken.append((name, time.monotonic() - started))

    def backfill(self, backfill: Backfill) -> None:
        """How far a backfill is, in all and by asset; what has failed as it fails."""
        assets = backfill.assets
        failed = sum(each.failed for each in assets)
        if failed > self._failed:
            self.say(f"    {failed} partitions have failed")
        self._failed = failed
        self.progress("partitions", sum(each.done for each in assets) + failed, sum(each.targeted for each in assets))
        for each in assets:
            self.progress(each.asset, each.done + each.failed, each.targeted)

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


def _type(asset: str) -> str:
    return asset.rpartition("/")[2]


def _word(check: Check) -> str:
    if check.passed is None:
        return "unknown"
    return "passed" if check.passed else "failed" if check.severe else "warning"
