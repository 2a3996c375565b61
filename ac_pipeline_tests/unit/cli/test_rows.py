"""Long answers: one JSON document, CSV or a table of the first rows, from a file and not from memory."""

from __future__ import annotations

import csv
import io
import json

import pytest

from ac_pipeline.cli.rows import SHOWN, about_users, open_rows


@pytest.mark.parametrize("count", [0, 1, 2, SHOWN + 1])
@pytest.mark.parametrize("rest", [{}, {"total": 3, "nested": {"a": [1]}}])
def test_rows_and_the_rest_make_one_json_document(
    count: int, rest: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    rows_ = [{"item": f"mood:{n}", "text": 'a "quoted"\nline \u2713', "list": [n]} for n in range(count)]
    with open_rows(("item",), as_json=True) as rows:
        for row in rows_:
            rows.add(row)
        rows.print_json("items", rest)
    assert json.loads(capsys.readouterr().out) == {**rest, "items": rows_}


def test_csv_has_all_rows_with_lists_in_one_cell(capsys: pytest.CaptureFixture[str]) -> None:
    with open_rows(("item", "uris"), as_json=False, as_csv=True) as rows:
        for n in range(SHOWN + 5):
            rows.add({"item": f"mood:{n}", "uris": ["a", "b"], "more": 1})
        rows.print_csv()
    read = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert read[0] == ["item", "uris"]
    assert len(read) == SHOWN + 6
    assert read[-1] == [f"mood:{SHOWN + 4}", "a; b"]


@pytest.mark.parametrize(("count", "more"), [(0, None), (SHOWN, None), (SHOWN + 1, "1 more")])
def test_a_table_shows_the_first_rows_and_how_many_there_are(
    count: int, more: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_rows(("item",), as_json=False) as rows:
        for n in range(count):
            rows.add({"item": f"mood:{n:04}"})
        rows.print_table("Found")
    out = capsys.readouterr().out
    assert out.count("mood:") == min(count, SHOWN)
    assert ("and 1 more" in out) == (more is not None)


def test_what_is_the_same_for_many_users_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    about_users([(f"user{n}", "no account") for n in range(7)] + [("ada", "wrong password")])
    assert capsys.readouterr().out.splitlines() == [
        "user0, user1, user2, user3, user4 and 2 more: no account",
        "ada: wrong password",
    ]
