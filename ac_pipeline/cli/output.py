"""How commands talk: tables and progress for people on stderr or stdout, one JSON document on stdout for scripts.

All that is printed goes through here: what stands in a text from outside is shown, and is neither markup nor obeyed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

SHOWN = 40
"""Rows a table shows; JSON and CSV have all."""
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


_NAMES = frozenset({"item", "code", "user", "snapshot", "plan"})


def console() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; numbers are set to the right."""
    made = Table(title=Text(visible(title)), title_justify="left", box=box.SIMPLE, pad_edge=False)
    given = [list(row) for row in rows]
    listed = [["" if cell is None else visible(str(cell)) for cell in row] for row in given]
    for index, name in enumerate(columns):
        numeric = bool(given) and all(isinstance(row[index], int) for row in given)
        # A name that another command takes is copied from here: it is never broken over lines (OPER-2).
        whole = max((len(row[index]) for row in listed), default=0) if name in _NAMES else None
        made.add_column(name, justify="right" if numeric else "left", overflow="fold", min_width=whole)
    for row in listed:
        made.add_row(*map(Text, row))
    console().print(made)


def about_users(lines: Iterable[tuple[str, str]]) -> None:
    """Print what is to be said of users, once for all of whom it is the same."""
    users: dict[str, list[str]] = {}
    for user, message in lines:
        users.setdefault(message, []).append(user)
    for message, named in users.items():
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        say(f"{', '.join(named[:_NAMED])}{more}: {message}")


def _bar() -> Progress:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(file=sys.stderr), transient=True)


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A listener to an operation that tells what it does, how much of it is done, and of how much: a bar on stderr when
    that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    with _bar() as bar:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(visible(what))
            bar.update(tasks[what], completed=done, total=total)

        yield told


def progress(title: str, things: Iterable[Any], total: int) -> Iterator[Any]:
    """Pass things on, with a progress bar on stderr when that is a terminal."""
    if not sys.stderr.isatty():
        yield from things
        return
    with _bar() as bar:
        task = bar.add_task(visible(title), total=total)
        for thing in things:
            yield thing
            bar.advance(task)
