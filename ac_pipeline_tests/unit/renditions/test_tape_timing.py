"""When frames are shown: the producer's numbers where they are sound, and named repairs where they are not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ac_pipeline.errors import TooLarge, UnreadableMedia
from ac_pipeline.renditions.tape_archive import FALLBACK_MS, Timeline, make_timeline, parse_timing
from ac_pipeline_tests.media_samples import frame_name, timing


def frames(*indices: int) -> dict[int, str]:
    return {index: frame_name(index) for index in indices}


def timeline(count_or_frames: int | dict[int, str], value: object) -> Timeline:
    at_hand = frames(*range(count_or_frames)) if isinstance(count_or_frames, int) else count_or_frames
    text = None if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
    return make_timeline(at_hand, *parse_timing(text))


def durations(made: Timeline) -> list[float]:
    return [round(showing.duration, 3) for showing in made.showings]


def test_uneven_durations_are_kept_frame_by_frame_the_last_included() -> None:
    """MEDIA-9."""
    given_ = [20.0, 333.0, 16.67, 1500.5, 41.0]
    entries = timing(5)
    for entry, duration in zip(entries, given_, strict=True):
        entry["duration"] = duration
    made = timeline(5, entries)
    assert durations(made) == given_
    assert made.milliseconds == pytest.approx(sum(given_))
    assert [showing.start for showing in made.showings] == pytest.approx([0, 20, 353, 369.67, 1870.17])
    assert made.warnings == ()


def test_above_100_hz_the_timestamps_are_the_truth() -> None:
    """The producer raises durations to 10 ms; the timestamps beside them stay right."""
    entries = [
        {"frame": i, "filename": frame_name(i), "duration": max(10.0, 8.333), "timestamp": 4000 + i * 8.333}
        for i in range(100)
    ]
    entries[-1]["duration"] = 16.67
    made = timeline(100, entries)
    assert made.milliseconds == pytest.approx(99 * 8.333 + 16.67)
    assert made.warnings == ()


def test_a_true_duration_of_ten_milliseconds_stays() -> None:
    assert durations(timeline(3, timing(3, 10.0))) == [10.0] * 3


@pytest.mark.parametrize(
    "bad", [0, -5, -0.0, "16", None, True, [], {}, float("nan"), float("inf"), 1e12, 10**400, 0.99, 10_000.1]
)
def test_a_duration_that_is_none_becomes_the_median_of_the_good_ones(bad: Any) -> None:
    """MEDIA-10: with a warning on the item."""
    entries = timing(5)
    for entry, duration in zip(entries, [10.5, 20.0, 30.0, 0.0, 40.0], strict=True):
        entry["duration"] = duration
    entries[3]["duration"] = bad
    made = timeline(5, entries)
    assert durations(made) == [10.5, 20.0, 30.0, 25.0, 40.0]
    assert made.warnings == ("1 of 5 durations are missing or unusable (3); 25.00 ms is used",)


@pytest.mark.parametrize("good", [1.0, 10_000.0])
def test_durations_at_the_limits_are_taken(good: float) -> None:
    assert durations(timeline(2, timing(2, good))) == [good] * 2


def test_an_absent_duration_counts_as_bad() -> None:
    entries = timing(3)
    del entries[1]["duration"]
    made = timeline(3, entries)
    assert durations(made) == [20.0] * 3
    assert len(made.warnings) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing"),
        (b"not json{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"42", "no list"),
        (b'{"frames": 3}', "no list"),
        (b"{}", "no list"),
    ],
)
def test_without_usable_timing_every_frame_lasts_16_67_ms(value: bytes | None, reason: str) -> None:
    """MEDIA-10: with a warning that says why; no rate of 0 or NaN can come of it."""
    made = timeline(3, value)
    assert durations(made) == [FALLBACK_MS] * 3
    assert reason in made.warnings[0]


def test_the_early_object_shape_is_read() -> None:
    """MEDIA-12: `{"frames": [{"index", "duration", "timestamp"}]}`."""
    value = {"frames": [{"index": i, "duration": 30 + i, "timestamp": 0} for i in range(3)], "totalDuration": 93}
    assert durations(timeline(3, value)) == [30, 31, 32]


def test_entries_may_come_in_any_order_and_with_unpadded_names() -> None:
    value = [{"filename": f"frame-{i}.png", "duration": 30 + i} for i in (2, 0, 1)]
    assert durations(timeline(3, value)) == [30, 31, 32]


def test_entries_without_name_or_number_count_by_their_place() -> None:
    assert durations(timeline(3, [{"duration": 30 + i} for i in range(3)])) == [30, 31, 32]


def test_a_frame_named_twice_keeps_its_first_duration() -> None:
    value = [*timing(2), {"filename": frame_name(1), "duration": 999}]
    made = timeline(2, value)
    assert durations(made) == [20, 20]
    assert "twice" in made.warnings[0]


def test_entries_that_are_no_objects_are_passed_over() -> None:
    made = timeline(2, ["x", *timing(2)])
    assert durations(made) == [20, 20]
    assert "entry 0" in made.warnings[0]


@pytest.mark.parametrize(
    ("named", "missing", "taken"),
    [
        (100, [50], True),
        (99, [50], False),
        (100, [50, 51], False),
        (200, [50, 150], True),
        (200, [50, 51, 52], False),
        (100, [99], True),
        (100, [0], True),
        (5, [2], False),
    ],
)
def test_up_to_one_percent_of_the_frames_may_be_missing(named: int, missing: list[int], taken: bool) -> None:
    """MEDIA-8: the previous frame is held and the item warned; beyond that the tape is refused."""
    at_hand = frames(*(index for index in range(named) if index not in missing))
    if not taken:
        with pytest.raises(UnreadableMedia, match=f"lacks {len(missing)} of the {named} frames"):
            timeline(at_hand, timing(named))
        return
    made = timeline(at_hand, timing(named))
    assert made.milliseconds == pytest.approx(named * 20)
    assert len(made.showings) == named - len(missing)
    assert "the previous one is held" in made.warnings[0]
    assert made.showings[0].start == 0


def test_a_held_frame_lasts_for_the_one_that_is_missing() -> None:
    """MEDIA-8: nothing after it is shown early."""
    entries = timing(100, at_50={"duration": 70.0})
    made = timeline(frames(*(i for i in range(100) if i != 50)), entries)
    assert made.showings[49].duration == pytest.approx(90.0)
    assert made.showings[50].start == pytest.approx(50 * 20 + 70)


def test_gaps_without_timing_are_refused() -> None:
    """MEDIA-8: nobody can tell how long the missing frames were."""
    with pytest.raises(UnreadableMedia, match="does not tell"):
        timeline(frames(0, 1, 3), None)
    with pytest.raises(UnreadableMedia, match="does not tell"):
        timeline(frames(1, 2), b"broken")
    with pytest.raises(UnreadableMedia, match="does not tell"):
        timeline(frames(0, 1, 3), timing(2))


def test_numbers_that_timing_skips_too_are_no_gap() -> None:
    value = [entry for entry in timing(4) if entry["frame"] != 2]
    made = timeline(frames(0, 1, 3), value)
    assert durations(made) == [20, 20, 20]
    assert made.warnings == ()


def test_frames_that_timing_does_not_name_last_as_long_as_the_others() -> None:
    made = timeline(4, timing(2, 30.0))
    assert durations(made) == [30] * 4
    assert "2 of 4 durations" in made.warnings[0]


def test_a_huge_frame_number_costs_nothing() -> None:
    with pytest.raises(UnreadableMedia, match="does not tell"):
        timeline(frames(0, 9_999_999), None)


@pytest.mark.parametrize(("count", "taken"), [(30, True), (31, False)])
def test_tapes_of_up_to_300_seconds_are_taken(count: int, taken: bool) -> None:
    if taken:
        assert timeline(count, timing(count, 10_000.0)).milliseconds == 300_000
    else:
        with pytest.raises(TooLarge, match=r"310\.0 s"):
            timeline(count, timing(count, 10_000.0))


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_ENTRY = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("frame", "index", "filename", "duration", "timestamp"), _ANYTHING)
)


@given(value=st.lists(_ENTRY | _ANYTHING, max_size=6) | _ANYTHING, count=st.integers(1, 5))
def test_whatever_timing_says_frames_follow_each_other_without_gap_and_last(value: object, count: int) -> None:
    """MEDIA-10: no duration of 0 or NaN reaches ffmpeg, or the tape is refused by name."""
    try:
        made = timeline(count, value)
    except (UnreadableMedia, TooLarge):
        return
    clock = 0.0
    for showing in made.showings:
        assert showing.start == pytest.approx(clock)
        assert showing.duration >= 1.0 or showing.duration == pytest.approx(1.0)
        clock = showing.start + showing.duration
    assert [showing.member for showing in made.showings] == [frame_name(i) for i in range(count)]
