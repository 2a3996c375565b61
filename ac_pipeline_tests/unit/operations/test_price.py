"""What a wipe or a restore takes: packed and reckoned as a plan is."""

from __future__ import annotations

import pytest

from ac_pipeline.items import BlobRef
from ac_pipeline.media.registry import media_type
from ac_pipeline.sync.costs import SPEED, UPLOADS, WRITE_POINTS, Price, price
from ac_pipeline.sync.planning.plan import Kind, Operation

MOOD, PAINTING = media_type("mood"), media_type("painting")
HOURLY, DAILY = f"{WRITE_POINTS} (5,000 an hour)", f"{WRITE_POINTS} (35,000 a day)"


def deletes(number: int) -> list[Operation]:
    return [Operation(Kind.DELETE, MOOD, f"key{each:06}", "wipe") for each in range(number)]


def creates(number: int, blobs: int = 0, size: int = 10) -> list[Operation]:
    record = {"$type": MOOD.nsid, "mood": "x" * size}
    pictures = [BlobRef(f"bafkrei{each:06}", "image/png", 1_000) for each in range(blobs)]
    return [
        Operation(Kind.CREATE, MOOD, f"key{each:06}", "new", record=record, blobs=tuple(pictures[each : each + 1]))
        for each in range(number)
    ]


@pytest.mark.parametrize(
    ("number", "hours", "waits_for"),
    [(0, 0, SPEED), (5_000, 0, SPEED), (5_001, 1, HOURLY), (10_000, 1, HOURLY), (35_000, 6, HOURLY),
     (35_001, 24, DAILY), (40_001, 25, HOURLY)],
)  # fmt: skip
def test_a_wipe_waits_for_points_by_the_hour_and_by_the_day(number: int, hours: int, waits_for: str) -> None:
    """LIMIT-5, LIMIT-8: 5,000 points an hour and 35,000 a day; a delete is one."""
    found = price(deletes(number))
    assert (found.operations, found.points, found.commits) == (number, number, -(-number // 200))
    assert (found.hours, found.waits_for) == (hours, waits_for)


@pytest.mark.parametrize(
    ("number", "hours", "waits_for"), [(1_666, 0, SPEED), (1_667, 1, HOURLY), (11_666, 7, HOURLY), (11_667, 24, DAILY)]
)
def test_a_restore_waits_for_points_in_commits_that_are_not_cut(number: int, hours: int, waits_for: str) -> None:
    """LIMIT-8: a create is three points, and 200 of them go at once or not at all."""
    found = price(creates(number))
    assert (found.points, found.hours, found.waits_for) == (3 * number, hours, waits_for)


@pytest.mark.parametrize(("blobs", "hours", "waits_for"), [(1_000, 0, SPEED), (1_001, 24, f"{UPLOADS} (1,000 a day)")])
def test_a_restore_waits_for_uploads(blobs: int, hours: int, waits_for: str) -> None:
    """LIMIT-6, LIMIT-8."""
    found = price(creates(1_001, blobs))
    assert (found.blob_uploads, found.hours, found.waits_for) == (blobs, hours, waits_for)


def test_large_records_take_more_commits() -> None:
    """LIMIT-8: a body of 1,000,000 bytes."""
    found = price(creates(3, size=400_000))
    assert found.commits == 2
    assert 1_200_000 < found.bytes < 1_201_000


def test_its_counts_are_what_scripts_read() -> None:
    assert price(deletes(2)).to_json().keys() == {"operations", "commits", "points", "blobs", "bytes"}
    assert Price().to_json() == dict.fromkeys(("operations", "commits", "points", "blobs", "bytes"), 0)
