"""When each frame of a tape is shown: the rules that turn `timing.json` and the frames at hand into a timeline.

Pure: names and numbers in, a timeline or a refusal out. Reading the ZIP is `tape_archive.py`.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ac_pipeline.errors import TooLarge, UnreadableMedia

FRAME = re.compile(r"frame-(\d{1,7})\.png")
"""Posted tapes pad to five digits, the early layout does not (aesthetic-computer facts, section 10.1)."""

FALLBACK_MS = 16.67
"""The producer's own default: one frame at 60 Hz."""
PRODUCER_FLOOR_MS = 10.0
"""The producer raises shorter durations to this; the timestamps beside them stay true."""

SHORTEST_MS, LONGEST_MS = 1.0, 10_000.0
MOST_SECONDS = 300.0
"""Ten times the 30 s the platform allows."""
HELD_SHARE = 100
"""One frame in this many may be missing before the tape is refused (media facts, decisions)."""


@dataclass(frozen=True, slots=True)
class Showing:
    """One frame: its member in the ZIP, and from when for how long it is shown, in milliseconds."""

    member: str
    start: float
    duration: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """All frames in order, back to back from 0, and what was repaired."""

    showings: tuple[Showing, ...]
    warnings: tuple[str, ...]

    @property
    def milliseconds(self) -> float:
        last = self.showings[-1]
        return last.start + last.duration


@dataclass(frozen=True, slots=True)
class Entry:
    """One usable line of `timing.json`: frame number, duration and timestamp in milliseconds where they are sound."""

    index: int
    duration: float | None
    timestamp: float | None


def parse_timing(text: bytes | None) -> tuple[list[Entry], list[str]]:
    """The entries of `timing.json`, as an array or as `{"frames": [...]}`; none, with a warning, if it is unusable."""
    if text is None:
        return [], ["timing.json is missing"]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return [], ["timing.json is not JSON"]
    if isinstance(value, dict):
        value = value.get("frames")
    if not isinstance(value, list):
        return [], ["timing.json holds no list of frames"]
    entries: dict[int, Entry] = {}
    warnings: list[str] = []
    for position, item in enumerate(value):
        if not isinstance(item, dict):
            warnings.append(f"timing.json: entry {position} is not an object")
            continue
        index = _index(item, position)
        if index in entries:
            warnings.append(f"timing.json: frame {index} is named twice; the first counts")
            continue
        duration, timestamp = _number(item.get("duration")), _number(item.get("timestamp"))
        sound = duration is not None and SHORTEST_MS <= duration <= LONGEST_MS
        entries[index] = Entry(index, duration if sound else None, timestamp)
    return [entries[index] for index in sorted(entries)], warnings


def make_timeline(
    frames: Mapping[int, str], entries: Sequence[Entry], warnings: Sequence[str] = (), *, sound: float | None = None
) -> Timeline:
    """When each of `frames` is shown.

    A frame that timing names and the ZIP lacks is bridged by holding the one before it (the first: by showing the
    next one earlier), up to 1 % of the frames named. Durations that are missing or unusable become the median of
    the good ones; without a good one, all frames together last as long as the sound (MEDIA-20), else 16.67 ms each.

    Args:
        frames: Number -> member name of every frame in the ZIP.
        entries: As `parse_timing` returns them.
        warnings: What was repaired before.
        sound: Length of the tape's sound in milliseconds, where it has one.

    Raises:
        UnreadableMedia: Too many frames are missing, or some are and timing does not tell which.
        TooLarge: The tape is longer than 300 s.
    """
    notes = list(warnings)
    named = {entry.index: entry for entry in entries}
    missing = [index for index in sorted(named) if index not in frames]
    if missing and len(missing) * HELD_SHARE > len(named):
        raise UnreadableMedia(
            f"The tape lacks {len(missing)} of the {len(named)} frames its timing names "
            f"({_numbers(missing)}); at most 1 % can be bridged: post the tape again"
        )
    unexplained = (index for index in range(max(frames)) if index not in frames and index not in named)
    gaps = list(islice(unexplained, 6))
    if gaps and any(index not in named for index in frames):
        raise UnreadableMedia(
            f"The tape lacks frames ({_numbers(gaps)}) and its timing does not tell how long they were: post it again"
        )
    if missing:
        notes.append(
            f"{len(missing)} of {len(named)} frames are missing ({_numbers(missing)}); the previous one is held"
        )

    order = sorted({*frames, *named})
    pace = sound / len(order) if sound is not None and SHORTEST_MS <= sound / len(order) <= LONGEST_MS else None
    durations, bad = _durations(order, named, pace or FALLBACK_MS)
    if bad:
        usual = durations[bad[0]]
        why = ", so that the frames last as long as the sound" if pace is not None and len(bad) == len(order) else ""
        notes.append(
            f"{len(bad)} of {len(order)} durations are missing or unusable ({_numbers(bad)}); "
            f"{usual:.2f} ms is used{why}"
        )
    return Timeline(_showings(order, frames, durations), tuple(notes))


def _durations(order: Sequence[int], named: Mapping[int, Entry], pace: float) -> tuple[dict[int, float], list[int]]:
    """Frame number -> duration, and the numbers that had to be given one: the median of the others, else `pace`."""
    good: dict[int, float] = {}
    for index, following in zip(order, [*order[1:], None], strict=True):
        entry = named.get(index)
        if entry is None or entry.duration is None:
            continue
        duration = entry.duration
        after = named.get(following) if following is not None else None
        if duration == PRODUCER_FLOOR_MS and after and after.timestamp is not None and entry.timestamp is not None:
            step = after.timestamp - entry.timestamp
            if SHORTEST_MS <= step < PRODUCER_FLOOR_MS:
                duration = step
        good[index] = duration
    bad = [index for index in order if index not in good]
    usual = statistics.median(good.values()) if good else pace
    return {**good, **dict.fromkeys(bad, usual)}, bad


def _showings(order: Sequence[int], frames: Mapping[int, str], durations: Mapping[int, float]) -> tuple[Showing, ...]:
    starts: list[tuple[str, float]] = []
    clock = 0.0
    for index in order:
        if index in frames:
            # Frames missing at the very start leave a hole that the first one at hand fills from 0.
            starts.append((frames[index], clock if starts else 0.0))
        clock += durations[index]
    if clock > MOST_SECONDS * 1000:
        raise TooLarge(f"The tape lasts {clock / 1000:.1f} s; at most {MOST_SECONDS:.0f} s are taken")
    ends = [start for _, start in starts[1:]] + [clock]
    return tuple(Showing(member, start, end - start) for (member, start), end in zip(starts, ends, strict=True))


def _index(item: Mapping[str, object], position: int) -> int:
    """Which frame an entry means: by file name, else by number, else by its place in the list."""
    name = item.get("filename")
    if isinstance(name, str) and (match := FRAME.fullmatch(name)):
        return int(match[1])
    for key in ("frame", "index"):
        value = item.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000_000:
            return value
    return position


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _numbers(indices: Sequence[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return f"{shown}, ..." if len(indices) > 5 else shown
