"""Tape ZIPs: what is in one and when each frame is shown, read in place and within limits, never unpacked to disk.

Knows the layouts (aesthetic-computer facts, section 10.1) and every refusal (media facts, section 6).
"""

from __future__ import annotations

import json
import math
import re
import statistics
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import IO, BinaryIO, Final, Literal

from PIL import Image

from ac_pipeline.errors import TooLarge, UnreadableMedia
from ac_pipeline.renditions.pictures import FRAME_COST, open_picture

FRAME = re.compile(r"frame-(\d{1,7})\.png")  # Posted tapes pad to five digits, the early layout does not

FALLBACK_MS = 16.67  # The producer's own default: one frame at 60 Hz
PRODUCER_FLOOR_MS = 10.0  # The producer raises shorter durations to this; the timestamps beside them stay true

SHORTEST_MS, LONGEST_MS = 1.0, 10_000.0
MOST_SECONDS = 300.0  # Ten times the 30 s the platform allows
HELD_SHARE = 100  # One frame in this many may be missing before the tape is refused (media facts, decisions)


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
        elif (index := _index(item, position)) in entries:
            warnings.append(f"timing.json: frame {index} is named twice; the first counts")
        else:
            duration = _number(item.get("duration"), SHORTEST_MS, LONGEST_MS)
            entries[index] = Entry(index, duration, _number(item.get("timestamp")))
    return [entries[index] for index in sorted(entries)], warnings


def make_timeline(
    frames: Mapping[int, str], entries: Sequence[Entry], warnings: Sequence[str] = (), *, sound: float | None = None
) -> Timeline:
    """When each of `frames` is shown.

    A frame that timing names and the ZIP lacks is bridged by holding the one before it (the first: by showing the
    next one earlier), up to 1 % of the frames named. Durations that are missing or unusable become the median of
    the good ones; without a good one, all frames together last as long as the sound (MEDIA-20), else 16.67 ms each.

    `frames`: number -> member name of every frame in the ZIP; `warnings`: what was repaired before; `sound`: its length
    in milliseconds, if any. Raises UnreadableMedia (too many frames are missing, or some are and timing does not tell
    which), TooLarge (the tape is longer than 300 s).
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
        why = "its timing does not tell how long they were"
        raise UnreadableMedia(f"The tape lacks frames ({_numbers(gaps)}) and {why}: post it again")
    if missing:
        lacking = f"{len(missing)} of {len(named)} frames are missing ({_numbers(missing)})"
        notes.append(f"{lacking}; the previous one is held")

    order = sorted({*frames, *named})
    pace = sound / len(order) if sound is not None and SHORTEST_MS <= sound / len(order) <= LONGEST_MS else None
    durations, bad = _durations(order, named, pace or FALLBACK_MS)
    if bad:
        usual = durations[bad[0]]
        why = ", so that the frames last as long as the sound" if pace is not None and len(bad) == len(order) else ""
        lacking = f"{len(bad)} of {len(order)} durations are missing or unusable ({_numbers(bad)})"
        notes.append(f"{lacking}; {usual:.2f} ms is used{why}")
    return Timeline(_showings(order, frames, durations), tuple(notes))


def _durations(order: Sequence[int], named: Mapping[int, Entry], pace: float) -> tuple[dict[int, float], list[int]]:
    """Frame number -> duration, and the numbers that had to be given one: the median of the others, else `pace`."""
    good: dict[int, float] = {}
    entries = [named.get(index) for index in order]
    for entry, after in zip(entries, [*entries[1:], None], strict=True):
        if entry is None or entry.duration is None:
            continue
        good[entry.index] = entry.duration
        if entry.duration == PRODUCER_FLOOR_MS and after and None not in (after.timestamp, entry.timestamp):
            step = (after.timestamp or 0.0) - (entry.timestamp or 0.0)
            if SHORTEST_MS <= step < PRODUCER_FLOOR_MS:
                good[entry.index] = step
    bad = [index for index in order if index not in good]
    usual = statistics.median(good.values()) if good else pace
    return {**good, **dict.fromkeys(bad, usual)}, bad


def _showings(order: Sequence[int], frames: Mapping[int, str], durations: Mapping[int, float]) -> tuple[Showing, ...]:
    *clocks, end = accumulate((durations[index] for index in order), initial=0.0)
    if end > MOST_SECONDS * 1000:
        raise TooLarge(f"The tape lasts {end / 1000:.1f} s; at most {MOST_SECONDS:.0f} s are taken")
    # Frames missing at the very start leave a hole that the first one at hand fills from 0.
    starts = [0.0, *[clock for index, clock in zip(order, clocks, strict=True) if index in frames][1:], end]
    members = [frames[index] for index in order if index in frames]
    return tuple(Showing(member, at, until - at) for member, (at, until) in zip(members, pairwise(starts), strict=True))


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


def _number(value: object, least: float = -math.inf, most: float = math.inf) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) and least <= value <= most else None
    except OverflowError:
        return None


def _numbers(indices: Sequence[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return f"{shown}, ..." if len(indices) > 5 else shown


ARCHIVE_BYTES = 512 << 20
_FORMATS = ("PNG", "JPEG", "WEBP")
BACKGROUND = (0, 0, 0)  # Behind transparent pixels and around frames that are smaller than the first
PADDING = 4096  # Samples to a multiple of which the producer fills up the sound with silence (facts, 10.1)

_END, _ZIP64_LOCATOR, _ZIP64_END = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_DIRECTORY_BYTES_PER_ENTRY = 256
_EXPORT = re.compile(r"frame_[^/]*\.png")
_KNOWN = frozenset({"timing.json", "metadata.json", "soundtrack.wav"})
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much of a tape is taken (media facts, section 6): sizes in bytes, pictures in pixels."""

    archive: int = ARCHIVE_BYTES
    entries: int = 20_000
    unpacked: int = 2 << 30
    frame: int = 32 << 20
    ratio: int = 200
    json: int = 8 << 20
    soundtrack: int = 128 << 20
    frames: int = 18_000
    side: int = 4096
    pixels: int = 4096 * 4096


class _BrokenSound(ValueError):
    """A WAV that cannot be read, with the reason."""


# Format tag and bits of a sample -> ffmpeg's name (Microsoft's `mmreg.h`)
_SAMPLES = {(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le"}
_SAMPLES |= {(3, 32): "f32le", (3, 64): "f64le", (6, 8): "alaw", (7, 8): "mulaw"}
_FLOATS: Final[Mapping[str, Literal["f", "d"]]] = {"f32le": "f", "f64le": "d"}
_EXTENSIBLE = 0xFFFE
# What follows the tag in the GUID that WAVE_FORMAT_EXTENSIBLE names the format by
_SUBFORMAT = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
_UNTOLD = (0, 0xFFFFFFFF)  # Lengths of a data chunk whose writer could not go back and fill them in


@dataclass(frozen=True, slots=True)
class Sound:
    format: str  # What ffmpeg calls samples of this kind, e.g. `s16le`.
    rate: int  # Hz
    channels: int
    width: int  # Bytes of one sample of all channels
    start: int  # Where they are, in bytes
    length: int

    @property
    def seconds(self) -> float:
        return self.length / self.width / self.rate


class TapeArchive:
    """One open tape ZIP; a context manager. Raises UnreadableMedia (not a ZIP, a broken or hostile one, or not a tape),
    TooLarge (over a limit)."""

    def __init__(self, path: Path, limits: ArchiveLimits | None = None) -> None:
        self._limits = limits or ArchiveLimits()
        self._odd: dict[str, tuple[int, int]] = {}
        self._notes: list[str] = []
        self.size: tuple[int, int] = (0, 0)
        self._file = path.open("rb")
        try:
            self._zip = self._open(path.stat().st_size)
            frames = self._inspect()
            timing = self._read("timing.json", self._limits.json) if "timing.json" in self._members else None
            self._wave = self._sound_header()
            sound = self._wave.seconds * 1000 if self._wave is not None else None
            timeline = make_timeline(frames, *parse_timing(timing), sound=sound)
            self.frames: tuple[Showing, ...] = timeline.showings
            self.seconds: float = timeline.milliseconds / 1000
            self._notes.extend(timeline.warnings)
            self.size = self._decode(self.frames[0].member).size
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TapeArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Oddities found so far; those of frames are known once they have been read."""
        if not self._odd:
            return tuple(self._notes)
        member, (width, height) = min(self._odd.items())
        odd = f"{len(self._odd)} of {len(self.frames)} frames are not {self.size[0]}x{self.size[1]} like the first"
        return (*self._notes, f"{odd} ({member} is {width}x{height}); cropped or padded")

    @property
    def memory(self) -> int:
        """Bytes that frames of this tape take at most while it is encoded."""
        largest = max(self._members[showing.member].file_size for showing in self.frames)
        return largest + self.size[0] * self.size[1] * FRAME_COST

    def picture(self, index: int) -> Image.Image:
        """One frame in RGB at the size of the first; another size is cropped or padded, never rescaled (MEDIA-11).
        Raises UnreadableMedia, TooLarge: the frame cannot be read; so cannot the tape."""
        return self._decode(self.frames[index].member)

    def soundtrack(self, into: Path) -> Sound | None:
        """Write the sound to the file `into` as raw samples. None without sound; if it is broken, with a warning."""
        if self._wave is None:
            return None
        try:
            with self._zip.open("soundtrack.wav") as member, into.open("wb") as out:
                heard = _copy_samples(member, self._wave, out)
        except _ZIP_ERRORS as error:
            into.unlink(missing_ok=True)
            self._leave_out(error)
            return None
        if heard - self.seconds > statistics.median(showing.duration for showing in self.frames) / 1000:
            said = f"the sound lasts {heard:.2f} s and the frames {self.seconds:.2f} s"
            self._notes.append(f"{said}: the rest of the sound is cut")
        return self._wave

    def _sound_header(self) -> Sound | None:
        """How the sound is stored; None without any, or with a warning if it is of no use."""
        info = self._members.get("soundtrack.wav")
        if info is None:
            return None
        if info.file_size > (most := self._limits.soundtrack):
            self._notes.append(f"soundtrack.wav is left out ({info.file_size} bytes are over {most})")
            return None
        try:
            with self._zip.open(info) as member:
                return _read_header(member, info.file_size)
        except _ZIP_ERRORS as error:
            self._leave_out(error)
            return None

    def _leave_out(self, error: Exception) -> None:
        kind = type(error).__name__.lstrip("_")
        self._notes.append(f"soundtrack.wav is left out ({kind}: {str(error)[:80]})")

    def _open(self, size: int) -> zipfile.ZipFile:
        """The ZIP, once its end record is believable: `zipfile` would build a list of any length first."""
        if size > self._limits.archive:
            raise TooLarge(f"The tape's ZIP has {size} bytes; at most {self._limits.archive} are read")
        entries, directory = _end_record(self._file, size)
        if directory > (most := self._limits.entries) * _DIRECTORY_BYTES_PER_ENTRY or entries > most:
            raise TooLarge(f"The tape's ZIP names {entries} members; at most {most} are read")
        try:
            self._file.seek(0)
            opened = zipfile.ZipFile(self._file)
        except (OSError, *_ZIP_ERRORS) as error:  # OSError: an offset before the start of the file
            raise UnreadableMedia(f"The tape is not a readable ZIP ({error}); post it again") from error
        if (there := len(opened.infolist())) > most:
            raise TooLarge(f"The tape's ZIP has {there} members; at most {most} are read")
        return opened

    def _inspect(self) -> dict[int, str]:
        """Check every member's name and size; number -> name of the frames."""
        self._members: dict[str, zipfile.ZipInfo] = {}
        frames: dict[int, str] = {}
        others: list[str] = []
        for info in self._zip.infolist():
            name = info.filename
            _check_member(info, self._members)
            self._members[name] = info
            if match := FRAME.fullmatch(name):
                self._check_frame(info)
                index = int(match[1])
                if index in frames:
                    raise UnreadableMedia(f"The tape has two members for frame {index}: {frames[index]!r} and {name!r}")
                frames[index] = name
            elif name not in _KNOWN:
                others.append(name)
        unpacked = sum(info.file_size for info in self._members.values())
        if unpacked > self._limits.unpacked:
            raise TooLarge(f"The tape unpacks to {unpacked} bytes; at most {self._limits.unpacked} are taken")
        if not frames:
            raise _no_frames(others)
        if len(frames) > self._limits.frames:
            raise TooLarge(f"The tape has {len(frames)} frames; at most {self._limits.frames} are taken")
        if others:
            self._notes.append(f"{len(others)} unknown members are ignored, such as {others[0][:60]!r}")
        return frames

    def _check_frame(self, info: zipfile.ZipInfo) -> None:
        if info.file_size > self._limits.frame or info.file_size > max(1, info.compress_size) * self._limits.ratio:
            raise TooLarge(
                f"{info.filename} unpacks from {info.compress_size} to {info.file_size} bytes; at most "
                f"{self._limits.frame} bytes and {self._limits.ratio} times are taken"
            )

    def _read(self, member: str, most: int) -> bytes:
        """A member's bytes; one more than allowed is asked for, whatever its header says."""
        try:
            with self._zip.open(self._members[member]) as file:
                data = file.read(most + 1)
        except _ZIP_ERRORS as error:
            raise UnreadableMedia(f"{member} cannot be read from the tape's ZIP ({error}); post it again") from error
        if len(data) > most:
            raise TooLarge(f"{member} has more than {most} bytes")
        return data

    def _decode(self, member: str) -> Image.Image:
        """A frame; the first one that is decoded gives the tape its size."""
        data = self._read(member, self._limits.frame)
        most = {"max_side": self._limits.side, "max_pixels": self._limits.pixels}
        with open_picture(data, member, formats=_FORMATS, background=BACKGROUND, **most) as picture:
            image = picture.image
            if image.size == self.size or not any(self.size):
                return image.copy()
            self._odd[member] = image.size
            canvas = Image.new("RGB", self.size, BACKGROUND)
            canvas.paste(image)
            return canvas


def _read_header(member: IO[bytes], size: int) -> Sound:
    """Find the samples of a WAV of so many bytes (RIFF, or RF64 of EBU Tech 3306), past all other chunks; raises
    _BrokenSound without any, or any of a kind that ffmpeg takes.

    One reader of our own: which headers the standard library's takes depends on the version of Python.
    """
    head = member.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise _BrokenSound("it is no WAV")
    at, layout, long = 12, b"", 0
    while len(chunk := member.read(8)) == 8:
        kind, length = struct.unpack("<4sI", chunk)
        at += 8
        if kind == b"data":
            length = long if long and length in _UNTOLD else length
            return _layout(layout, at, size - at if length in _UNTOLD else min(length, size - at))
        body = member.read(min(length, 40))
        if kind == b"fmt ":
            layout = body
        elif kind == b"ds64" and len(body) >= 16:
            (long,) = struct.unpack_from("<Q", body, 8)
        at += length
        member.seek(at)
        if length % 2:  # chunks are filled up to even lengths, though not by every writer
            filled = member.read(1) == b"\0"
            at += filled
            member.seek(at)
    raise _BrokenSound("it has no samples")


def _layout(header: bytes, start: int, length: int) -> Sound:
    """What the header of a WAV says of its samples; raises _BrokenSound if it is nothing that ffmpeg takes."""
    if len(header) < 16:
        raise _BrokenSound("its format is missing")
    tag, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", header)
    if tag == _EXTENSIBLE and header[26:] == _SUBFORMAT:
        (tag,) = struct.unpack_from("<H", header, 24)
    if channels and align and align % channels == 0 and align // channels * 8 >= bits:
        bits = align // channels * 8  # 20 bits are stored in the upper ones of 24
    name = _SAMPLES.get((tag, bits))
    if name is None or not 1 <= channels <= 8 or not 8_000 <= rate <= 192_000:
        raise _BrokenSound(f"format {tag}, {bits} bits, {channels} channels, {rate} Hz")
    width = bits // 8 * channels
    if length < width:
        raise _BrokenSound("it has no samples")
    return Sound(name, rate, channels, width, start, length // width * width)


def _copy_samples(member: IO[bytes], wave: Sound, out: BinaryIO) -> float:
    """Copy the samples of a WAV; how many seconds they last without the silence that only fills up the last block."""
    member.seek(wave.start)
    left, silent = wave.length, 0
    while left and (samples := member.read(min(left, wave.width << 14))):
        left -= len(samples)
        sounding = len(samples.rstrip(b"\0"))
        silent = len(samples) - sounding + (0 if sounding else silent)
        out.write(_within_range(samples, _FLOATS[wave.format]) if wave.format in _FLOATS else samples)
    return (wave.length - left - min(silent, PADDING * wave.width)) / wave.width / wave.rate


def _within_range(samples: bytes, kind: Literal["f", "d"]) -> bytes:
    """Samples in floating point, each from -1 to 1 and 0 for what is no number: ffmpeg refuses to encode others."""
    form = f"<{len(samples) // struct.calcsize(kind)}{kind}"
    values = struct.unpack(form, samples)
    if math.isfinite(sum(values)) and min(values) >= -1.0 and max(values) <= 1.0:
        return samples  # as usual; told ten times as fast as the others are made
    return struct.pack(form, *(0.0 if math.isnan(value) else max(-1.0, min(1.0, value)) for value in values))


def _end_record(file: BinaryIO, size: int) -> tuple[int, int]:
    """Members and directory bytes that a ZIP's end record names, in its ZIP64 form where it has one; found where
    `zipfile` finds it: at the very end, else the last one before a comment of up to 65,535 bytes. Raises
    UnreadableMedia if there is none, or not where every version of `zipfile` looks for it."""
    start = max(0, size - 22 - 65_535 - 20 - 56)
    file.seek(start)
    tail = file.read()
    at = len(tail) - 22
    if at < 0 or tail[at : at + 4] != _END or tail[-2:] != b"\0\0":
        at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        raise UnreadableMedia("The tape is not a ZIP, or its end is cut off; post it again")
    entries, directory = struct.unpack_from("<HI", tail, at + 10)
    if not tail[max(0, at - 20) : at].startswith(_ZIP64_LOCATOR):
        return entries, directory
    (stated,) = struct.unpack_from("<Q", tail, at - 20 + 8)
    if at < 76 or tail[at - 76 : at - 72] != _ZIP64_END or stated != start + at - 76:
        raise UnreadableMedia("The tape's ZIP has no ZIP64 end record where it says; post it again")
    return struct.unpack_from("<QQ", tail, at - 76 + 32)


def _check_member(info: zipfile.ZipInfo, seen: dict[str, zipfile.ZipInfo]) -> None:
    """Refuse names that would escape a folder, links, secrets and doubles, even though nothing is ever unpacked."""
    name = info.orig_filename
    parts = name.replace("\\", "/").split("/")
    leaves = "\\" in name or "\0" in name or not parts[0] or ".." in parts or ":" in parts[0]
    faults = {
        "has a member that leaves its folder:": leaves,
        "has a symbolic link:": (info.external_attr >> 16) & 0o170000 == 0o120000,
        "has an encrypted member:": info.flag_bits & 1,
        "places a member before its start:": info.header_offset < 0,
        "has two members named": info.filename in seen,
    }
    for fault, found in faults.items():
        if found:
            raise UnreadableMedia(f"The tape's ZIP {fault} {name[:80]!r}")


def _no_frames(others: Sequence[str]) -> UnreadableMedia:
    if export := next(filter(_EXPORT.fullmatch, others), None):
        what = "the layout of the frames download, which is no tape"
        return UnreadableMedia(f"{export[:60]!r} is {what}; post the tape itself")
    return UnreadableMedia(f"The ZIP has no frames (frame-00000.png, ...) among its {len(others)} other members")
