"""Printing: text from anywhere is shown as text, in tables, messages, progress, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from contextlib import redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ac_pipeline.accounts import Account
from ac_pipeline.cli.from_operations import print_csv, print_report
from ac_pipeline.cli.main import run
from ac_pipeline.cli.output import csv_row, print_json, say, table, visible
from ac_pipeline.defs.metadata import coded, escaped
from ac_pipeline.errors import Unforeseen
from ac_pipeline.items import Stage, State
from ac_pipeline.operations.declare import Table
from ac_pipeline.operations.sync import sync_answer
from ac_pipeline.progress import LINE_EVERY, progress
from ac_pipeline.sync.report import AccountReport, ItemFailure, SyncReport

MARKUP = ["[/x]", "[bold red]x[/]", "[link=https://x]y[/link]", "[/]", "[", "\\[", ":smile:", "[@click=x]a[/]"]
CONTROLS = {
    "\x1b[2J\x1b]0;title\x07": "\\x1b[2J\\x1b]0;title\\x07",
    "\x9b31m": "\\x9b31m",
    "a\u202eb": "a\\u202eb",
    "a\nb\r\tc": "a\\nb\\r\\tc",
    "caf\udce9": "caf\\udce9",
    "\0": "\\x00",
}
texts = st.text(st.characters(), max_size=30)


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """SEEN-5: a code `[/x]` used to end sync, items, item and retry, and lost the report."""
    table(f"Items of {text}", ["code"], [[text]])
    failure = ItemFailure("mood:1", text, Stage.RECORD, State.QUARANTINED, "invalid-document", f"odd {text}", code=text)
    report = AccountReport(text, failures=[failure], error=Unforeseen(text), notes=[text])
    print_report(sync_answer(SyncReport("run", [report])), as_json=False)
    drawn = io.StringIO()
    with progress(Console(file=drawn, force_terminal=True, width=200), say) as told:
        told(visible(text), 1, 1)
    assert text in drawn.getvalue()
    out = capsys.readouterr().out
    assert out.count(text) >= 6


@pytest.mark.parametrize(("text", "shown"), CONTROLS.items())
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """SEEN-5: escape sequences, C1 controls, overrides of direction, lines inside of a cell."""
    say(f"user: {text}")
    table(text, ["code"], [[text]])
    out = capsys.readouterr().out
    assert out.count(shown) == 3
    assert all(unicodedata.category(letter) != "Cc" for letter in out.replace("\n", ""))


def printed(value: object) -> str:
    with redirect_stdout(io.StringIO()) as out:
        print_json(value)
    return out.getvalue()


@given(texts)
def test_no_text_makes_printing_fail_or_is_obeyed(text: str) -> None:
    """SEEN-5: and emoji with their joiners stay what they are."""
    said = visible(text)
    assert said.encode() is not None
    assert not any(unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} for letter in said)
    assert visible("👩‍👩‍👧 ✓ ä") == "👩‍👩‍👧 ✓ ä"
    assert json.loads(printed({"text": text})) == {"text": text}
    assert printed([text]).encode()


@pytest.mark.parametrize("start", list("=+-@＝＋－＠"))  # noqa: RUF001
def test_no_cell_of_csv_is_a_formula(start: str, capsys: pytest.CaptureFixture[str]) -> None:
    """SEEN-5: spreadsheets run what begins so; numbers stay numbers."""
    text = f'{start}HYPERLINK("http://x";"y")'
    rows = Table("rows", ("item", "number"))
    rows.add({"item": text, "number": -5})
    rows.add({"item": f" {text}", "number": 1})
    rows.add({"item": [text, "b"], "number": 1})
    print_csv(rows)
    _, *read = csv.reader(io.StringIO(capsys.readouterr().out))
    assert [row[0][0] for row in read] == ["'"] * 3
    assert read[0] == [f"'{text}", "-5"]


@given(texts)
def test_a_cell_of_csv_is_one_line_without_controls(text: str) -> None:
    """SEEN-5: also those that begin with a tab or a carriage return."""
    (cell,) = csv_row([text])
    assert isinstance(cell, str)
    assert cell[:1] not in set("=+-@\t\r")
    assert cell.isprintable() or visible(cell) == cell


def test_what_a_wrong_argument_holds_is_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """SEEN-5."""
    assert run(["sync", "--since", "\x1b[2J\u202e"]) == 2
    assert run(["sync", "--item", "[/x]\x1b"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\\x1b" in err
    assert "[/x]" in err


def test_json_of_half_a_surrogate_pair_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"mood": "caf\udce9 \x9b31m"})
    assert json.loads(capsys.readouterr().out) == {"mood": "caf\udce9 \x9b31m"}


@given(texts)
def test_markdown_of_dagster_shows_text_as_text(text: str) -> None:
    """SEEN-5: one line, no code that ends early, no link and no picture."""
    assert "`" not in coded(text)[1:-1]
    assert "\n" not in coded(text) + escaped(text)
    plain = escaped(text).replace("\\\\", "")
    for special in "[]`<*_#!":
        assert plain.count(special) == plain.count(f"\\{special}")


def test_the_account_named_in_a_message_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    report = AccountReport(Account("1", "[/x]").key)
    report.note("\x1b]8;;https://x\x07link")
    print_report(sync_answer(SyncReport("run", [report])), as_json=False)
    assert "[/x]: \\x1b]8;;https://x\\x07link" in capsys.readouterr().out


def test_without_a_terminal_progress_is_a_line_every_ten_seconds() -> None:
    said: list[str] = []
    seconds = iter([0.0, 0.0, LINE_EVERY / 2, LINE_EVERY, LINE_EVERY + 1])
    with progress(Console(file=io.StringIO()), said.append, lambda: next(seconds)) as told:
        for done in range(0, 80, 20):
            told("Planning", done, 100)
    assert said == ["Planning: 40 of 100, 4.0/s, 0:00:15 left"]
