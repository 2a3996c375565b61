"""Long answers: one JSON document, CSV or a table of the first rows, from a file and not from memory."""

from __future__ import annotations

import csv
import io
import json

import pytest

from ac_pipeline.cli.from_operations import print_csv, print_report
from ac_pipeline.cli.output import SHOWN, about_users
from ac_pipeline.operations.declare import Report, Table


@pytest.mark.parametrize("count", [0, 1, 2, SHOWN + 1])
@pytest.mark.parametrize("rest", [{}, {"total": 3, "nested": {"a": [1]}}])
def test_rows_and_the_rest_make_one_json_document(
    count: int, rest: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"item": f"mood:{n}", "text": 'a "quoted"\nline \u2713', "list": [n]} for n in range(count)]
    table = Table("items", ("item",)).extend(rows)
    print_report(Report("Said.", {**rest, "items": table}), as_json=True)
    assert json.loads(capsys.readouterr().out) == {**rest, "items": rows}
    print_report(Report("Said.", table), as_json=True)
    assert json.loads(capsys.readouterr().out) == rows


def test_csv_has_all_rows_with_lists_in_one_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(
        Table("items", ("item", "uris")).extend(
            {"item": f"mood:{n}", "uris": ["a", "b"], "more": 1} for n in range(SHOWN + 5)
        )
    )
    read = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert read[0] == ["item", "uris"]
    assert len(read) == SHOWN + 6
    assert read[-1] == [f"mood:{SHOWN + 4}", "a; b"]


@pytest.mark.parametrize(("count", "more"), [(0, None), (SHOWN, None), (SHOWN + 1, "1 more")])
def test_a_table_shows_the_first_rows_and_how_many_there_are(
    count: int, more: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table("items", ("item",)).extend({"item": f"mood:{n:04}"} for n in range(count))
    print_report(Report("Said.", table, [table]), as_json=False)
    out = capsys.readouterr().out
    assert out.count("mood:") == min(count, SHOWN)
    assert ("and 1 more" in out) == (more is not None)


def test_what_is_the_same_for_many_users_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    about_users([(f"user{n}", "no account") for n in range(7)] + [("ada", "wrong password")])
    assert capsys.readouterr().out.splitlines() == [
        "user0, user1, user2, user3, user4 and 2 more: no account",
        "ada: wrong password",
    ]


def test_a_limit_is_kept_to_by_items_and_shows_more_of_other_rows(capsys: pytest.CaptureFixture[str]) -> None:
    items = Table("items", ("item",)).extend({"item": f"mood:{n:04}"} for n in range(9))
    counts = Table("counts", ("type", "number")).extend({"type": f"t{n:03}", "number": n} for n in range(SHOWN + 5))
    for limit, seen in ((3, (3, SHOWN)), (SHOWN + 5, (9, SHOWN + 5)), (0, (9, SHOWN))):
        print_report(Report("Said.", {}, [items, counts]), as_json=False, limit=limit)
        out = capsys.readouterr().out
        assert (out.count("mood:"), out.count(" t0")) == seen


def test_every_answer_names_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    report, where = Report("Said.", {"total": 1}, confirm=1), "PDS pds.example and database platform"
    print_report(report, "ac-pipeline wipe ada --confirm 1", as_json=False, target=where)
    assert f"To do it on {where}:" in capsys.readouterr().out
    print_report(report, as_json=False, target=where)
    assert capsys.readouterr().out.endswith(f"On {where}.\n")
    print_report(report, as_json=True, target=where)
    assert json.loads(capsys.readouterr().out) == {"target": where, "total": 1}
