"""Answers that may be long: rows go to a file as they come, and out as one JSON document, as CSV, or as a table.

Memory holds one row at a time, and the first few for the table. Nothing is printed before the work is done, so that an
answer that ends in an error is never half a document.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

import click

from ac_pipeline.cli.output import csv_row, json_text, say, table

SHOWN = 40
"""Rows a table shows; JSON and CSV have all."""

_NAMED = 5
"""Users that are named of those of whom the same is to be said."""

_IN_MEMORY = 4_000_000
"""Bytes of rows that are kept in memory before they go to a temporary file."""


class Rows:
    """Rows of one answer. Made by `open_rows`.

    Args:
        columns: Names of the values a row has as CSV and in the table, in their order.
        as_json, as_csv: How it will be printed; as a table when both are false.
    """

    def __init__(self, columns: Sequence[str], file: IO[str], *, as_json: bool, as_csv: bool) -> None:
        self.count = 0
        self._columns = columns
        self._file = file
        self._json = as_json
        self._csv = csv.writer(file) if as_csv else None
        self._first: list[list[object]] = []
        if self._csv:
            self._csv.writerow(columns)

    def add(self, row: Mapping[str, object]) -> None:
        """One more row; values that are no column are in the JSON only."""
        if self._json:
            text = json_text(row)
            self._file.write(("," if self.count else "") + "\n" + _indented(text, 4))
        elif self._csv:
            self._csv.writerow(csv_row(_cell(row.get(name)) for name in self._columns))
        elif self.count < SHOWN:
            self._first.append([_cell(row.get(name)) for name in self._columns])
        self.count += 1

    def print_json(self, name: str, rest: Mapping[str, object]) -> None:
        """The one JSON document: `rest`, and the rows under `name`."""
        head = json_text(dict(rest))[:-1].rstrip("\n")
        click.echo(head + ("," if rest else "") + f'\n  "{name}": [', nl=False)
        self._copy()
        click.echo(("\n  " if self.count else "") + "]\n}")

    def print_csv(self) -> None:
        self._copy()

    def print_table(self, title: str) -> None:
        """The first rows as a table; nothing when there are none."""
        if not self.count:
            return
        table(title, self._columns, self._first)
        if self.count > SHOWN:
            say(f"... and {self.count - SHOWN} more: --json lists all of them.", "")

    def _copy(self) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, sys.stdout)
        sys.stdout.flush()


@contextmanager
def open_rows(columns: Sequence[str], *, as_json: bool, as_csv: bool = False) -> Iterator[Rows]:
    """Rows that are kept until they are printed, and gone afterwards."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, mode="w+", encoding="utf-8", newline="") as file:
        yield Rows(columns, file, as_json=as_json, as_csv=as_csv)


def about_users(lines: Iterable[tuple[str, str]]) -> None:
    """Print what is to be said of users, once for all of whom it is the same."""
    users: dict[str, list[str]] = {}
    for user, message in lines:
        users.setdefault(message, []).append(user)
    for message, named in users.items():
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        say(f"{', '.join(named[:_NAMED])}{more}: {message}")


def _indented(text: str, by: int) -> str:
    margin = " " * by
    return margin + text.replace("\n", "\n" + margin)


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
