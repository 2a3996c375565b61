"""Which cron lines the settings take."""

from __future__ import annotations

import pytest

from ac_pipeline.crons import cron_line


@pytest.mark.parametrize(
    "line",
    [
        "0 * * * *",
        "59 23 31 12 7",
        "0 0 1 1 0",
        "*/15 * * * *",
        "0,30 8-18/2 * * 1-5",
        "5/20 * * * *",
        "0 0 29 2 *",
        "0 0 31 2 1",
        "0 0 31 2,3 *",
        "0 0 30 4 *",
    ],
)
def test_a_line_of_five_fields_is_taken(line: str) -> None:
    assert cron_line(f" {line.replace(' ', '  ')} ") == line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "five fields"),
        ("0 * * *", "five fields"),
        ("0 0 * * * *", "five fields"),
        ("@daily", "five fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of the month"),
        ("* * 32 * *", "day of the month"),
        ("* * * 0 *", "month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of the week"),
        ("*/0 * * * *", "minute"),
        ("30-10 * * * *", "minute"),
        ("1, * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("a * * * *", "minute"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6,9,11,2 *", "never comes"),
    ],
)
def test_anything_else_is_refused_with_the_field_at_fault(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cron_line(line)
