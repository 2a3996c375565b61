"""How commands talk: tables and progress for people on stderr or stdout, one JSON document on stdout for scripts.

All that is printed goes through here: what stands in a text from outside is shown, and is neither markup nor obeyed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

SHOWN = 40
"""Rows a table shows; JSON and CSV have all."""
LINE_EVERY = 10.0
"""Seconds between lines of progress where there is no terminal."""
_NAMED = 5
"""Users that are named of those of whom the same is to be said."""
_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""What a terminal would obey, what changes the direction or the lines of a text, and halves of surrogate pairs."""
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""How a cell begins that spreadsheets take for a formula."""


def visible(text: str) -> str:
    """A text from anywhere as one line that a terminal shows and does not obey: `\\x1b` in place of an escape."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people, whatever they are made of."""
    for line in lines:
        click.echo(visible(line), err=err)


def json_text(value: object) -> str:
    """A value as JSON, of which a terminal obeys nothing either."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return _CONTROLS.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def print_json(value: object) -> None:
    """The one JSON document of a command."""
    click.echo(json_text(value))


def csv_row(values: Iterable[object]) -> list[object]:
    """Cells of CSV that no spreadsheet takes for a formula and no terminal obeys; numbers stay numbers."""
    return [_csv_cell(visible(value)) if isinstance(value, str) else value for value in values]


def _csv_cell(text: str) -> str:
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


_SPARE = (
    "warnings", "uri", "uris", "until", "problems", "held", "cid", "rkey", "attempts", "stage", "pds handle", "did",
    "run", "cause", "commits", "who", "bytes", "otherwise", "email",
)  # fmt: skip
"""Columns that are left out where there is no room for all, the first ones first; JSON has them."""
_NARROWEST, _WIDEST_WORD = 28, 44
"""Letters that a column of sentences has at least, and the longest word that it is made wider for."""
_GAP = 3
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::(\d\d))?(?:\.\d+)?(?:Z|\+00:00)")


def console() -> Console:
    """Standard output, as wide as the terminal or as `COLUMNS` says; 140 where neither does."""
    told = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(file=sys.stdout, width=None if told else 140, highlight=False, markup=False, emoji=False)


def one_form(text: str) -> str:
    """A text in which a moment of ISO 8601 stands as people read it; all are UTC."""
    found = _ISO.fullmatch(text)
    return f"{found[1]} {found[2]}:{found[3] or '00'}" if found else text


@dataclass(slots=True)
class _Column:
    """One column: its name, its cells, and the letters it needs at least."""

    name: str
    cells: list[str]
    numeric: bool
    least: int = 0
    sentences: bool = False

    def __post_init__(self) -> None:
        words = [len(word) for cell in self.cells for word in cell.split()]
        whole = max((cell_len(cell) for cell in self.cells), default=0)
        self.sentences = whole > _NARROWEST and any(" " in cell for cell in self.cells)
        if self.sentences:
            whole = max(_NARROWEST, min(max(words), _WIDEST_WORD))
        self.least = max([whole, *(len(word) for word in self.name.split())])


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout, whatever fits the width: identifiers are never broken, sentences stand last and are wrapped.

    Where there is no room, counts by type stand on their side; else columns of little importance are left out; else
    sentences stand below their row.
    """
    given = [list(row) for row in rows]
    made = []
    for index, name in enumerate(columns):
        cells = ["" if row[index] is None else visible(one_form(str(row[index]))) for row in given]
        numeric = bool(given) and all(isinstance(row[index], int) for row in given)
        made.append(_Column(name, cells, numeric))
    kept = [each for each in made if not given or any(each.cells)]
    kept.sort(key=lambda each: each.sentences)
    screen = console()

    def fits(some: Sequence[_Column]) -> bool:
        return sum(each.least + _GAP for each in some) < screen.width

    screen.print(f"\n{visible(title)}", soft_wrap=True)
    if not fits(kept) and all(each.numeric for each in kept[1:]):
        names, *counts = ([each.name, *each.cells] for each in kept)
        turned = [
            _Column(name, list(cells), bool(place))
            for place, (name, *cells) in enumerate(zip(names, *counts, strict=True))
        ]
        if fits(turned):
            kept = turned
    left_out: list[str] = []
    for name in _SPARE:
        spare = next((each for each in kept if each.name == name), None)
        if spare is not None and not fits(kept):
            kept.remove(spare)
            left_out.append(name)
    head = list(kept)
    while not fits(head):
        head.pop()
    below = kept[len(head) :]
    for first in range(0, len(given) if below else 1):
        _print_table(screen, head, slice(first, first + 1) if below else slice(None), with_names=not first)
        for each in below:
            if each.cells[first]:
                label = "" if len(below) == 1 else f"{each.name}: "
                shown = textwrap.fill(
                    f"{label}{each.cells[first]}",
                    screen.width,
                    initial_indent="    ",
                    subsequent_indent="    ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                screen.print(shown, soft_wrap=True)
    if left_out:
        screen.print(f"Not shown for want of room: {', '.join(left_out)}.", soft_wrap=True)


def _print_table(screen: Console, columns: Sequence[_Column], rows: slice, *, with_names: bool) -> None:
    made = Table(box=box.SIMPLE if rows == slice(None) else None, pad_edge=False, show_header=with_names)
    for each in columns:
        made.add_column(
            Text(each.name),
            justify="right" if each.numeric else "left",
            overflow="fold",
            width=None if each.sentences else each.least,
            min_width=each.least,
        )
    for row in zip(*(each.cells[rows] for each in columns), strict=True):
        made.add_row(*map(Text, row))
    screen.print(made)


def about_users(lines: Iterable[tuple[str, str]]) -> None:
    """Print what is to be said of users, once for all of whom it is the same."""
    users: dict[str, list[str]] = {}
    for user, message in lines:
        users.setdefault(message, []).append(user)
    for message, named in users.items():
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        say(f"{', '.join(named[:_NAMED])}{more}: {message}")


class _Rate(ProgressColumn):
    """Things a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def bars(screen: Console) -> Progress:
    """Bars with count, rate and the time that is left."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _Rate()
    return Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=screen, transient=True)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A listener to an operation that tells what it does, how much of it is done, and of how much: bars on stderr when
    that is a terminal, else a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with bars(Console(file=sys.stderr)) as shown:
        tasks: dict[str, TaskID] = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(visible(what))
            shown.update(tasks[what], completed=done, total=total)

        yield draw


class _Lines:
    """Lines of progress on stderr, flushed, with rate and the time that is left."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        started = self.started.setdefault(what, now)
        if now - self.last < LINE_EVERY:
            return
        self.last = now
        rate = done / (now - started) if now > started else 0.0
        left = f", {rate:.1f}/s, {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        say(f"{what}: {done} of {total}{left}", err=True)
