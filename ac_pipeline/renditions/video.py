"""Tapes as MP4: the picture, the timing and the sound that ffmpeg is asked for, and how often until it fits.

Pillow decodes the frames, ffmpeg only ever sees raw pixels and samples, ffmpeg-python only builds commands.
"""

from __future__ import annotations

import functools
import math
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import ffmpeg
from PIL import Image

from ac_pipeline.errors import EncodingFailed, TooLarge
from ac_pipeline.renditions.ffmpeg_process import TIMEOUT, Feed, Outcome, binary_version, default_binary, run_ffmpeg
from ac_pipeline.renditions.pictures import block_size, shrunk_exactly
from ac_pipeline.renditions.tape_archive import Sound, TapeArchive
from ac_pipeline.renditions.video_check import VideoFacts, check_encoded, check_smaller, read_facts

TICK_NS = 10_000  # One tick is 10 microseconds: a frame's time is right to 0.005 ms

_UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
_EBML, _SEGMENT, _INFO, _TRACKS, _CLUSTER = "1A45DFA3", "18538067", "1549A966", "1654AE6B", "1F43B675"


def _element(id: str, body: bytes) -> bytes:
    return bytes.fromhex(id) + _size(len(body)) + body


def _size(length: int) -> bytes:
    return (length | 1 << 56).to_bytes(8, "big")


def _integer(id: str, value: int) -> bytes:
    return _element(id, value.to_bytes(8, "big"))


def stream_header(width: int, height: int) -> bytes:
    """What precedes the first frame: one track of uncompressed 24-bit RGB of this size in pixels."""
    ebml = (
        _integer("4286", 1)  # EBMLVersion
        + _integer("42F7", 1)  # EBMLReadVersion
        + _integer("42F2", 4)  # EBMLMaxIDLength
        + _integer("42F3", 8)  # EBMLMaxSizeLength
        + _element("4282", b"matroska")  # DocType
        + _integer("4287", 4)  # DocTypeVersion
        + _integer("4285", 2)  # DocTypeReadVersion
    )
    info = _integer("2AD7B1", TICK_NS) + _element("4D80", b"t") + _element("5741", b"t")  # scale, apps
    video = _integer("B0", width) + _integer("BA", height) + _element("2EB524", b"RGB\x18")  # UncompressedFourCC
    track = (
        _integer("D7", 1)  # TrackNumber
        + _integer("73C5", 1)  # TrackUID
        + _integer("83", 1)  # TrackType: video
        + _integer("9C", 0)  # FlagLacing
        + _element("86", b"V_UNCOMPRESSED")
        + _integer("23E383", round(1e9 / 60))  # DefaultDuration; every block carries its own
        + _element("E0", video)
    )
    head = _element(_EBML, ebml) + bytes.fromhex(_SEGMENT) + _UNKNOWN_SIZE
    return head + _element(_INFO, info) + _element(_TRACKS, _element("AE", track))


def frame_header(start: float, duration: float, length: int) -> bytes:
    """What precedes the `length` raw bytes of one frame, shown from `start` for `duration` milliseconds."""
    begin, end = round(start * 1e6 / TICK_NS), round((start + duration) * 1e6 / TICK_NS)
    lasting = _integer("9B", max(1, end - begin))  # BlockDuration
    block = b"\xa1" + _size(length + 4) + b"\x81" + struct.pack(">hB", 0, 0)
    group = b"\xa0" + _size(len(lasting) + len(block) + length) + lasting + block
    time = _integer("E7", begin)
    return bytes.fromhex(_CLUSTER) + _size(len(time) + len(group) + length) + time + group


VIDEO_CAP = 52_428_800  # Bytes; `maxSize` of the tape lexicon's `video`

PRESET = "medium"
# Fixed, since the count changes the bytes. Two encodings with one thread each take 7.5 s where one after the other with
# two threads takes 8.9 (media facts, section 2.4).
THREADS = 1

# Frames x width x height, as they are encoded: 300 frames of 4096x4096 (5.0 thousand million) took 222 s
MOST_PIXELS = 6_000_000_000

LEAST_TRUE_SIDE = 16
OVERSHOOT = 1.02  # An encoding is ended once it is this far over the cap; ffmpeg's count of bytes runs a little ahead


@dataclass(frozen=True, slots=True)
class Video:
    """A finished MP4 on disk; `details` tells people how it was made."""

    path: Path
    size: int
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoder:
    binary: str = field(default_factory=default_binary)  # Path of an ffmpeg with libx264; by default imageio-ffmpeg's
    timeout: float = TIMEOUT  # Seconds one run may take
    most_pixels: int = MOST_PIXELS  # Frames x width x height of what is encoded
    spent: list[float] = field(default_factory=list, compare=False, repr=False)  # Seconds of each run so far

    def spec(self, cap: int) -> str:
        """Names everything that decides the bytes of a video of at most `cap` bytes."""
        how = f"libx264 {PRESET} crf {BEST_CRF} threads {THREADS}"
        return f"tape-video/2 ffmpeg {binary_version(self.binary)} {how} max {cap}"

    def run(self, stream: object, feed: Feed | None, *, stop_above: int, seconds: float) -> Outcome:
        """Run a stream of so many seconds, a failing one twice; ended early above so many bytes. Raises EncodingFailed
        (ffmpeg refused it both times; the message ends with its last words (MEDIA-7)), EncoderFailed (it could not
        start or was killed), EncoderTimedOut (it took too long)."""
        limits = {"timeout": self.timeout, "seconds": seconds}
        for _ in range(2):
            begun = time.monotonic()
            try:
                outcome = run_ffmpeg(stream, self.binary, feed=feed, stop_above=stop_above, **limits)
            finally:
                self.spent.append(time.monotonic() - begun)
            if outcome.code == 0 or outcome.estimate is not None:
                return outcome
        said = f"ffmpeg ended twice with exit code {outcome.code}. Its last words: {outcome.tail or 'none'}"
        raise EncodingFailed(said, answer=outcome.tail)

    def scale(self, best: float, least: float, size: tuple[int, int, int], name: str) -> float:
        """The largest scale from `best` to `least` at which frames x width x height are within `most_pixels`. Raises
        TooLarge if there is none."""
        frames, width, height = size
        pixels = frames * width * height
        for scale in (8.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.25):
            if least <= scale <= best and pixels * scale**2 <= self.most_pixels:
                return scale
        raise TooLarge(
            f"{name} has {frames} frames of {width}x{height}, {pixels / 1e6:.0f} million pixels; at most "
            f"{self.most_pixels / 1e6:.0f} million are encoded (AC_ENCODE_MEGAPIXELS)"
        )


@dataclass(frozen=True, slots=True)
class Job:
    """Where one encoding works, with which ffmpeg, and how many bytes its result may have."""

    folder: Path
    encoder: Encoder
    cap: int


@dataclass(frozen=True, slots=True)
class _Encoding:
    """What is encoded, and how: until it fits, and checked."""

    job: Job
    stream: Callable[[Attempt, Path, bool], object]  # The ffmpeg stream of an attempt
    feed: Feed | None  # What feeds it
    seconds: float
    scale: float  # The one to begin with
    check: Callable[[VideoFacts], None]  # What its result has to pass
    name: str

    def run(self) -> Video:
        """Encode until it fits, and check the result.

        A file with B-frames is a third smaller but lists its frames in another order than it shows them, and where the
        first durations differ from the last ones the length that its track declares is wrong by the difference. Such a
        tape is encoded again without them.
        """
        video, facts = self._best(reorder=True)
        try:
            self.check(facts)
        except EncodingFailed:
            video, facts = self._best(reorder=False)
            self.check(facts)
        return video

    def _best(self, *, reorder: bool) -> tuple[Video, VideoFacts]:
        """The best that fits, with or without B-frames, and what is in it; not checked yet."""
        search, cap = SizeSearch(self.job.cap, self.scale), self.job.cap
        attempt_path, best_path = self.job.folder / "attempt.mp4", self.job.folder / "video.mp4"
        while (attempt := search.next_attempt()) is not None:
            stream = self.stream(attempt, attempt_path, reorder)
            outcome = self.job.encoder.run(stream, self.feed, stop_above=int(cap * OVERSHOOT), seconds=self.seconds)
            complete = outcome.estimate is None
            size = attempt_path.stat().st_size if complete and attempt_path.exists() else outcome.estimate or 0
            if complete and not size:
                words = outcome.tail or "none"
                raise EncodingFailed(f"ffmpeg reported success and wrote nothing. Its last words: {words}")
            if search.record(attempt, size, complete=complete):
                attempt_path.replace(best_path)
            attempt_path.unlink(missing_ok=True)
        if search.best is None:
            least = f"about {search.smallest} at the lowest"
            raise TooLarge(f"{self.name} does not fit {cap} bytes at any quality ({least})")
        facts = read_facts(best_path)
        details: dict[str, str | int | float | bool] = {
            "width": facts.width,
            "height": facts.height,
            "seconds": round(facts.indexed / 1000, 3),
            "frames": len(facts.times),
            "sound": facts.sound is not None,
            "scale": search.best.scale,
            "crf": search.best.crf,
            "encodes": search.attempts,
            "b_frames": reorder,
        }
        return Video(best_path, best_path.stat().st_size, details), facts


_SAMPLES = "sound.pcm"  # Name of the file with the raw samples of a tape's sound, in the folder of its job


class _NotEnlarged(Exception):
    """A frame in the middle is finer than the blocks seen in the sampled ones."""


def encode_tape(archive: TapeArchive, job: Job) -> Video:
    """Encode a tape: every frame at its own time, whole-pixel enlarged, with its sound. Raises UnreadableMedia (a frame
    cannot be read), TooLarge (no quality or picture size fits the cap, or it has more pixels than are encoded),
    EncodingFailed (ffmpeg refuses the tape, or its result fails the checks), EncoderFailed (it did not run to its end).
    """
    last = len(archive.frames) - 1
    sampled = (archive.picture(index) for index in sorted({0, (last + 1) // 2, last}))
    block = math.gcd(*(block_size(picture, least=LEAST_TRUE_SIDE) for picture in sampled))
    sound = archive.soundtrack(job.folder / _SAMPLES)
    try:
        return _encode_blocks(archive, block, sound, job)
    except _NotEnlarged:
        return _encode_blocks(archive, 1, sound, job)


def shrink_video(source: Path, facts: VideoFacts, job: Job) -> Video:
    """Encode a finished MP4, with these facts, again: as H.264 and AAC, upright, and so that it fits (MEDIA-14). Raises
    TooLarge (it does not fit at any quality, or has too many pixels; the message has its size and the limit),
    EncodingFailed, EncoderFailed (as in `encode_tape`)."""
    has_sound = facts.sound_duration > 0

    def stream(attempt: Attempt, out: Path, reorder: bool) -> object:
        # The demuxer is named, so that a file that claims to be a playlist is not followed anywhere.
        # Each track is read by itself, as `read_facts` does: where one ends early, the other goes on.
        options = {"format": "mov", "protocol_whitelist": "file,pipe,fd", "fflags": "+discardcorrupt"}
        picture = ffmpeg.input(str(source), **options)[str(facts.stream)]
        tracks = [_picture(picture, facts.width, facts.height, attempt.scale)]
        if has_sound:
            tracks.append(ffmpeg.input(str(source), thread_queue_size=512, **options)[str(facts.sound_stream)])
        return ffmpeg.output(*tracks, str(out), **_output_options(attempt.crf, reorder, sound=has_sound))

    scale = job.encoder.scale(1, SMALLEST_SCALE, (len(facts.times), facts.width, facts.height), "The MP4")
    name = f"The MP4 has {source.stat().st_size} bytes and"
    check = functools.partial(check_smaller, source=facts)
    return _Encoding(job, stream, None, facts.duration / 1000, scale, check, name).run()


def enlargement(width: int, height: int) -> int:
    """Whole factor by which a picture is enlarged: even, so that each pixel owns whole chroma samples.

    One-pixel art loses its colours at 1x (PSNR 19.8 against 38.7 dB at 2x, media facts, section 2.3); pictures of
    more than 960 pixels a side stay as they are.
    """
    longest = max(width, height)
    return 1 if longest > 960 else min(8, max(2, 720 // longest // 2 * 2))


def _encode_blocks(archive: TapeArchive, block: int, sound: Sound | None, job: Job) -> Video:
    """Encode with every `block` x `block` square as one pixel. Raises _NotEnlarged if a frame is finer than that."""
    width, height = archive.size[0] // block, archive.size[1] // block

    def stream(attempt: Attempt, out: Path, reorder: bool) -> object:
        pixels = ffmpeg.input("pipe:0", format="matroska", protocol_whitelist="pipe")
        tracks = [_picture(pixels, width, height, attempt.scale)]
        if sound is not None:
            kind = {"format": sound.format, "ar": sound.rate, "ac": sound.channels}
            samples = ffmpeg.input(str(job.folder / _SAMPLES), protocol_whitelist="file", **kind)
            if sound.channels > 2:
                samples = samples.filter("aformat", channel_layouts="stereo")
            # The producer pads the sound to 4,096 samples: the picture decides how long the tape is.
            tracks.append(samples.filter("apad").filter("atrim", end=f"{archive.seconds:.6f}"))
        return ffmpeg.output(*tracks, str(out), **_output_options(attempt.crf, reorder, sound=sound is not None))

    def check(result: VideoFacts) -> None:
        starts = [showing.start for showing in archive.frames]
        check_encoded(result, starts, archive.seconds * 1000, sound=sound is not None)

    name = f"The tape ({len(archive.frames)} frames of {archive.size[0]}x{archive.size[1]})"
    scale = job.encoder.scale(enlargement(width, height), 1, (len(archive.frames), width, height), "The tape")
    feed = functools.partial(_feed, archive, block)
    video = _Encoding(job, stream, feed, archive.seconds, scale, check, name).run()
    source = {"source_width": archive.size[0], "source_height": archive.size[1], "block": block}
    return replace(video, details={**video.details, **source})


def _feed(archive: TapeArchive, block: int, write: Callable[[bytes], object]) -> None:
    """Write the whole tape as Matroska, one frame in memory at a time."""
    width, height = archive.size[0] // block, archive.size[1] // block
    write(stream_header(width, height))
    for index, showing in enumerate(archive.frames):
        picture: Image.Image | None = archive.picture(index)
        if block > 1 and picture is not None:
            picture = shrunk_exactly(picture, block)
        if picture is None:
            raise _NotEnlarged
        pixels = picture.tobytes()
        write(frame_header(showing.start, showing.duration, len(pixels)))
        write(pixels)


def _picture(stream: ffmpeg.Stream, width: int, height: int, scale: float) -> ffmpeg.Stream:
    """Scaled, in BT.709; the tags are set by a filter because ffmpeg 7 and later lose the output options."""
    size: list[int] = []
    if scale == 1:
        stream = stream.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2")
    else:
        size = [side * int(scale) if scale > 1 else max(2, int(side * scale) // 2 * 2) for side in (width, height)]
    flags = f"{'area' if scale < 1 else 'neighbor'}+accurate_rnd+full_chroma_int+bitexact"
    stream = stream.filter("scale", *size, flags=flags, out_color_matrix="bt709", out_range="tv")
    tags = dict.fromkeys(("color_primaries", "color_trc", "colorspace"), "bt709")
    return stream.filter("format", "yuv420p").filter("setparams", **tags, range="tv")


def _output_options(crf: int, reorder: bool, *, sound: bool) -> dict[str, str | int]:
    """Variable frame times to 1/90000 s, index first, no version strings and no dependence on the CPU."""
    options: dict[str, str | int] = {
        "format": "mp4",
        "movflags": "+faststart",
        "vcodec": "libx264",
        "preset": PRESET,
        "crf": crf,
        "threads": THREADS,
        "pix_fmt": "yuv420p",
        "g": 300,
        "x264-params": "cpu-independent=1",
        "fps_mode": "vfr",
        "enc_time_base": "1:90000",
        "video_track_timescale": 90_000,
        "map_metadata": -1,
        "fflags": "+bitexact",
        "flags:v": "+bitexact",
    }
    if not reorder:
        options["bf"] = 0
    if sound:
        options |= {"acodec": "aac", "b:a": "128k", "ar": 48_000, "flags:a": "+bitexact"}
    return options


BEST_CRF = 18
WORST_CRF = 36  # Past this a smaller picture looks better than a coarser one
SMALLER_CRF = 28
SMALLEST_SCALE = 0.25
AIM = 0.93
GOOD_ENOUGH = 0.85
MOST_FITTING = 6
MOST_ATTEMPTS = 16  # Enough for two at each of the seven picture sizes, from eightfold down to a quarter
_CRF_PER_OCTAVE = 8


@dataclass(frozen=True, slots=True)
class Attempt:
    """One encoding to try: constant rate factor, and the factor by which the picture is scaled."""

    crf: int
    scale: float


@dataclass(slots=True)
class SizeSearch:
    """The search for one video; ask `next_attempt`, encode, tell `record`, until it answers None."""

    cap: int  # Bytes
    scale: float  # Factor to begin with
    best: Attempt | None = None
    attempts: int = 0
    _fitting: dict[int, int] = field(default_factory=dict)
    _over: dict[int, int] = field(default_factory=dict)
    _start: int = BEST_CRF

    def record(self, attempt: Attempt, size: int, *, complete: bool) -> bool:
        """Note a size in bytes, estimated where the encoding was stopped for being too large (not `complete`); True if
        it is the best so far."""
        self.attempts += 1
        if complete and size <= self.cap:
            self._fitting[attempt.crf] = size
            better = self.best is None or attempt.crf < self.best.crf
            self.best = attempt if better else self.best
            return better
        self._over[attempt.crf] = max(size, self.cap + 1)
        return False

    @property
    def smallest(self) -> int:
        """The smallest size seen at the present scale, in bytes."""
        return min([*self._fitting.values(), *self._over.values()], default=0)

    def next_attempt(self) -> Attempt | None:
        """What to encode next, or None: `best` is final, or nothing fits."""
        if not self._fitting and not self._over:
            return Attempt(self._start, self.scale)
        if self._fitting:
            crf = self._refined()
        elif self.attempts >= MOST_ATTEMPTS:
            return None
        else:
            crf = self._coarser()
        if crf is not None:
            return Attempt(crf, self.scale)
        return None if self._fitting else self._smaller()

    def _refined(self) -> int | None:
        """Between the coarsest that was too large and the finest that fits, by secant on the logarithm of the size."""
        fits = min(self._fitting)
        if not self._over or self._fitting[fits] >= GOOD_ENOUGH * self.cap or self.attempts >= MOST_FITTING:
            return None
        over = max(self._over)
        if fits - over <= 1:
            return None
        slope = (_log(self._fitting[fits]) - _log(self._over[over])) / (fits - over)
        guess = round(over + (self._aim - _log(self._over[over])) / min(slope, -0.02))
        return min(fits - 1, max(over + 1, guess))

    def _coarser(self) -> int | None:
        crfs = sorted(self._over)
        last = crfs[-1]
        if last >= WORST_CRF:
            return None
        excess = _log(self._over[last]) - self._aim
        if len(crfs) == 1:
            return min(WORST_CRF, last + max(1, math.ceil(excess * _CRF_PER_OCTAVE)))
        before = crfs[-2]
        slope = (_log(self._over[last]) - _log(self._over[before])) / (last - before)
        return min(WORST_CRF, max(last + 1, round(last - excess / min(slope, -0.02))))

    def _smaller(self) -> Attempt | None:
        """The next smaller picture: whole even factors, then the source's own size, a half, a quarter."""
        if self.scale > 1:
            self.scale = max(1.0, self.scale - 2)
        elif self.scale > SMALLEST_SCALE:
            self.scale /= 2
        else:
            return None
        self._over.clear()
        self._start = SMALLER_CRF
        return Attempt(self._start, self.scale)

    @property
    def _aim(self) -> float:
        return _log(self.cap * AIM)


def _log(size: float) -> float:
    return math.log2(max(1.0, size))
