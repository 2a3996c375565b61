"""The time of a document."""
# ruff: noqa: DTZ001  (pymongo hands out naive datetimes)

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64

from ac_pipeline.media.times import format_when, object_id_time, read_when

MOMENT = 1_760_432_887_006
"""2025-10-14T09:08:07.006Z."""


@pytest.mark.parametrize(
    "stored",
    [
        datetime(2025, 10, 14, 9, 8, 7, 6_000),
        datetime(2025, 10, 14, 9, 8, 7, 6_999),
        datetime(2025, 10, 14, 9, 8, 7, 6_000, tzinfo=UTC),
        datetime(2025, 10, 14, 11, 8, 7, 6_000, tzinfo=timezone(timedelta(hours=2))),
        "2025-10-14T09:08:07.006Z",
        "2025-10-14t09:08:07.006z",
        " 2025-10-14T09:08:07.006000 ",
        "2025-10-14 09:08:07.006",
        "2025-10-14T11:08:07.006+02:00",
        "2025-10-14T04:08:07,006-0500",
        "2025.10.14.09.08.07.006",
        "2025.10.14.9.8.7.006",
        "2025.10.14.9.8.7.6Z",
        "1760432887006",
        MOMENT,
        float(MOMENT),
        Int64(MOMENT),
    ],
)
def test_every_stored_form_of_one_moment_is_that_moment(stored: object) -> None:
    """SRC-1: a `when` stored as a string is parsed; what has no zone means UTC."""
    assert read_when(stored) == MOMENT


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ("Tue Oct 14 2025 09:08:07 GMT+0000 (Coordinated Universal Time)", "2025-10-14T09:08:07.000Z"),
        ("Tue Oct 14 2025 02:08:07 GMT-0700 (Pacific Daylight Time)", "2025-10-14T09:08:07.000Z"),
        ("Tue, 14 Oct 2025 09:08:07 GMT", "2025-10-14T09:08:07.000Z"),
        ("2025-10-14", "2025-10-14T00:00:00.000Z"),
        ("2025-10-14T09:08Z", "2025-10-14T09:08:00.000Z"),
        ("2025-10-14T09:08:07.5Z", "2025-10-14T09:08:07.500Z"),
        (datetime(1969, 12, 31, 23, 59, 59, 999_000), "1969-12-31T23:59:59.999Z"),
        (datetime(1, 1, 1), "0001-01-01T00:00:00.000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_000), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_written_as_javascript_writes_them(stored: object, written: str) -> None:
    """REC-2: UTC, milliseconds padded, four digits of the year."""
    moment = read_when(stored)
    assert moment is not None
    assert format_when(moment) == written


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "yesterday",
        "2025-02-31",
        "2025-10-14T25:00:00Z",
        "14.10.2025",
        "0001-01-01T00:00:00+14:00",
        True,
        0,
        MOMENT // 1000,
        946_684_799_999,
        4_102_444_800_000,
        float("nan"),
        float("inf"),
        {"$date": 5},
        [],
        DatetimeMS(2**62),
    ],
)
def test_what_is_no_time_is_none_and_never_an_error(stored: object) -> None:
    """SRC-1: an item never fails for its `when`."""
    assert read_when(stored) is None


def test_numbers_are_milliseconds_from_2000_to_2100() -> None:
    assert read_when(946_684_800_000) == 946_684_800_000
    assert read_when(4_102_444_799_999) == 4_102_444_799_999


def test_an_object_id_holds_a_time_and_other_ids_do_not() -> None:
    assert object_id_time("65f0c0ff" + "0" * 16) == 0x65F0C0FF * 1000
    assert object_id_time("65f0c0ff") is None
    assert object_id_time("x" * 24) is None
