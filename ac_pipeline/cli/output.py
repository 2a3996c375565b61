"""How commands talk: tables and progress for people, one JSON document on stdout for scripts. All that is printed goes
through here: what stands in a text from outside is shown, and is neither markup nor obeyed."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import click
from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ac_pipeline.logs import in_form

SHOWN = 40  # Rows a table shows; JSON and CSV have all
_NAMED = 5  # Users that are named of those of whom the same is to be said
_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""What a terminal would obey, what changes the direction or the lines of a text, and halves of surrogate pairs."""
_PIECES = 10_000  # Of a JSON document that are printed at once: names, values, brackets
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # How a cell begins that spreadsheets take for a formula


def visible(text: str) -> str:
    """A text from anywhere as one line that a terminal shows and does not obey: `\\x1b` in place of an escape."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people, whatever they are made of; those on stderr may be read by programs (`AC_LOG_FORMAT`)."""
    for line in lines:
        click.echo(in_form(visible(line)) if err else visible(line), err=err)


class Rows(list[object]):
    """So many things, of which one at a time is in memory while they are printed as JSON (OPS-6)."""

    def __init__(self, things: Iterable[object], number: int) -> None:
        super().__init__()
        self.things, self.number = things, number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[object]:
        return iter(self.things)


def print_json(value: object) -> None:
    """Print the one JSON document of a command, part by part; a terminal obeys nothing of it either."""
    pieces = json.JSONEncoder(indent=2, ensure_ascii=False, default=str).iterencode(value)
    while part := "".join(islice(pieces, _PIECES)):
        shown = _CONTROLS.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", part)
        click.echo(shown, nl=False)
    click.echo()


def csv_row(values: Iterable[object]) -> list[object]:
    """Cells of CSV that no spreadsheet takes for a formula and no terminal obeys; numbers stay numbers."""
    shown = [visible(value) if isinstance(value, str) else value for value in values]
    return [f"'{each}" if isinstance(each, str) and each.lstrip().startswith(_FORMULA) else each for each in shown]


_SPARE = (
    "warnings", "uri", "uris", "until", "problems", "held", "cid", "rkey", "attempts", "stage", "pds handle", "did",
    "run", "cause", "commits", "bytes", "otherwise", "email",
)  # fmt: skip
"""Columns that are left out where there is no room for all, the first ones first; JSON has them."""
_NARROWEST = 28  # Letters that a column of sentences has at least
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::(\d\d))?(?:\.\d+)?(?:Z|\+00:00)")


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
    """One column: its name, its cells, and the letters it needs so that no word of it is broken."""

    name: str
    cells: list[str]
    numeric: bool
    first: bool = False
    sentences: bool = False
    least: int = 0

    def __post_init__(self) -> None:
        whole = max(map(cell_len, self.cells), default=0)
        self.sentences = not self.first and whole > _NARROWEST and any(" " in cell for cell in self.cells)
        if self.sentences:
            whole = max(_NARROWEST, *(cell_len(word) for cell in self.cells for word in cell.split()))
        self.least = max([whole, *map(cell_len, self.name.split())])

    def padded(self, text: str) -> str:
        return text.rjust(self.least) if self.numeric else set_cell_size(text, max(self.least, cell_len(self.name)))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout that fits its width: no identifier is broken, sentences stand last and are wrapped.

    Where there is no room, counts by type stand on their side; else columns of little importance are left out; else
    what does not fit stands below its row.
    """
    given, screen = [list(row) for row in rows], console()
    made = [_column(name, [row[index] for row in given], first=not index) for index, name in enumerate(columns)]
    made = sorted((each for each in made if each.first or any(each.cells)), key=lambda each: each.sentences)
    screen.print(f"\n{visible(title)}", soft_wrap=True)
    if not _room(made, screen, 3) and all(each.numeric for each in made[1:]):
        names, *counts = ([each.name, *each.cells] for each in made)
        turned = [
            _Column(name, list(cells), numeric=bool(place), first=not place)
            for place, (name, *cells) in enumerate(zip(names, *counts, strict=True))
        ]
        made = turned if _room(turned, screen, 3) else made
    shown = _without_spare(made, screen, 3)
    if _room(shown, screen, 3):
        _print_table(screen, shown)
    else:
        head = _without_spare([each for each in made if not each.sentences], screen, 2) or made[:1]
        while len(head) > 1 and not _room(head, screen, 2):
            head.pop()
        below = [each for each in made if each not in head and (each.sentences or each.name not in _SPARE)]
        _print_list(screen, head, below)
        shown = [*head, *below]
    left_out = [each.name for each in made if each not in shown]
    if left_out:
        screen.print(f"Not shown for want of room: {', '.join(left_out)}.", soft_wrap=True)


def _column(name: str, values: Sequence[object], *, first: bool) -> _Column:
    numeric = bool(values) and all(isinstance(value, int) for value in values)
    cells = ["" if value is None else visible(one_form(str(value))) for value in values]
    return _Column(name, cells, numeric, first)


def _room(columns: Sequence[_Column], screen: Console, gap: int) -> bool:
    return sum(each.least + gap for each in columns) < screen.width


def _without_spare(columns: Sequence[_Column], screen: Console, gap: int) -> list[_Column]:
    kept = list(columns)
    for name in _SPARE:
        kept = [each for each in kept if each.name != name or _room(kept, screen, gap)]
    return kept


def _print_table(screen: Console, columns: Sequence[_Column]) -> None:
    made = Table(box=box.SIMPLE, pad_edge=False)
    for each in columns:
        justify: Literal["left", "right"] = "right" if each.numeric else "left"
        width = None if each.sentences else each.least
        made.add_column(Text(each.name), justify=justify, overflow="fold", width=width, min_width=each.least)
    for row in zip(*(each.cells for each in columns), strict=True):
        made.add_row(*map(Text, row))
    screen.print(made)


def _print_list(screen: Console, head: Sequence[_Column], below: Sequence[_Column]) -> None:
    """Row by row, what does not fit below it; beside it where the row is short. No word is broken."""
    beside = len(below) == 1 and 2 * sum(each.least for each in head) < screen.width
    names = [*head, *below] if beside else head
    screen.print("  ".join(each.padded(each.name) for each in names).rstrip(), soft_wrap=True, style="bold")
    for number in range(len(head[0].cells)):
        row, margin = "  ".join(each.padded(each.cells[number]) for each in head), "    "
        if beside:
            margin, row = " " * (cell_len(row) + 2), f"{row}  "
        else:
            screen.print(row.rstrip(), soft_wrap=True)
        for each in below:
            if each.cells[number] or beside:
                label = "" if len(below) == 1 else f"{each.name}: "
                text = textwrap.fill(
                    label + each.cells[number],
                    screen.width,
                    initial_indent=row if beside else margin,
                    subsequent_indent=margin,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
                screen.print(text or row, soft_wrap=True)


def about_users(lines: Iterable[tuple[str, str]]) -> None:
    """Print what is to be said of users, once for all of whom it is the same."""
    users: dict[str, list[str]] = {}
    for user, message in lines:
        users.setdefault(message, []).append(user)
    for message, named in users.items():
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        say(f"{', '.join(named[:_NAMED])}{more}: {message}")
