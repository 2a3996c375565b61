"""What a video file really is, read back with libav (PyAV), and whether that is what it has to be.

ffmpeg's exit code proves nothing (MEDIA-8): every encoding is checked here, and so is every finished MP4 before it is
used as it is. Nothing is encoded here.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import cast

import av
import av.error
from av import AudioFrame, AudioStream, VideoFrame, VideoStream
from av.buffer import Buffer
from av.container import InputContainer
from PIL import Image

from ac_pipeline.errors import EncoderTimedOut, EncodingFailed, TooLarge, UnreadableMedia
from ac_pipeline.renditions.ffmpeg_process import TIMEOUT
from ac_pipeline.renditions.pictures import DECODING, HEAD, sniff
from ac_pipeline.renditions.tape_archive import MOST_SECONDS

PTS_TOLERANCE = 1.0  # Milliseconds; measured errors stay below 0.02 (media facts, section 2.1)
# One frame at 60 Hz, rounded up to 17 ms: how much the whole may last too long or too short
FRAME_MS = 1000 / 60 + 0.34
SOUND_TOLERANCE = 50.0
MOST_SIDE = 4096
_MOST_BOXES = 100_000  # Three times the fragments of 300 s at 60 a second, with one frame in each
# Frames x width x height that are decoded to judge one file; decoding is some ten times as fast as encoding
MOST_DECODED = 60_000_000_000
_PLAYED_FORMATS = frozenset({"yuv420p", "yuvj420p"})
_UNPLAYED_PROFILES = ("High 10", "High 4", "CAVLC 4", "Extended")
_MOST_WAITING_BLOCKS = 696_320
_FRAMES_UNDER_WAY = 8

_AS_IT_IS = (1, 0, 0, 1)
# Signs of a, b, c and d of a display matrix (ISO/IEC 14496-12, 6.2.2: x' = ax + cy, y' = bx + dy) -> what brings the
# decoded picture upright
_UPRIGHT: dict[tuple[int, int, int, int], Image.Transpose | None] = {
    _AS_IT_IS: None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What is in a video file, as it decodes; times in milliseconds."""

    mime_type: str
    codec: str
    pixel_format: str
    width: int  # Of the upright picture, in pixels
    height: int
    times: tuple[float, ...]  # Presentation time of every frame that decodes, in order
    duration: float  # From the first frame to the end of the last one
    declared: int  # Frames of the picture track that the file's index names; 0 where it names none
    indexed: float  # Length of that track; 0 likewise
    colour: tuple[int, int, int, int]  # Numbers of primaries, transfer, matrix and range; all 1 for BT.709 in TV range
    faststart: bool  # True if the index precedes the media, so that playing can begin before the download ends
    sound: str | None  # Codec of the sound track, None without one
    sound_duration: float  # Of what decodes of it; 0 when nothing does
    profile: str = ""
    cut: str | None = None  # Why not all of the file is there, or None
    stream: int = 0  # Number of the picture track in the file
    sound_stream: int = 1


def read_facts(path: Path, *, most_pixels: int = MOST_DECODED, timeout: float = TIMEOUT) -> VideoFacts:
    """Read a video file by decoding all of it. `most_pixels`: frames x width x height that are decoded. Raises
    UnreadableMedia (not an MP4, a broken one, or longer than 300 s), TooLarge (it has more pixels), EncoderTimedOut (it
    takes longer)."""
    mime_type, faststart, cut = _boxes(path)
    shown: list[tuple[int, int]] = []
    lost, left = 0, most_pixels
    with _opened(path, cut) as (container, video):
        _check_size(video.width, video.height)
        base, size = float(video.time_base or 1), (video.width, video.height)
        for frames in _decoded(container, video, timeout):
            lost += frames is None
            for frame in frames or ():
                if not isinstance(frame, VideoFrame) or frame.pts is None:
                    raise UnreadableMedia("The MP4 has frames without a time")
                if not shown:
                    size = (frame.width, frame.height) if _signs(frame)[0] else (frame.height, frame.width)
                shown.append((frame.pts, frame.duration or 0))
                left -= frame.width * frame.height
                if left < 0:
                    raise TooLarge(
                        f"The MP4 has {len(shown)} frames of {frame.width}x{frame.height} and more; at most "
                        f"{most_pixels / 1e6:.0f} million pixels are decoded"
                    )
            if shown and (shown[-1][0] - shown[0][0]) * base > MOST_SECONDS:
                break  # its length is refused; the rest of it costs nothing
        shown.sort()
        context = video.codec_context
        colour = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        facts = VideoFacts(
            mime_type=mime_type,
            codec=context.name,
            pixel_format=context.pix_fmt or "",
            width=size[0],
            height=size[1],
            times=tuple(pts * base * 1000 for pts, _ in shown),
            duration=_length(shown, base) * 1000,
            declared=video.frames,
            indexed=float(video.duration or 0) * base * 1000,
            colour=cast("tuple[int, int, int, int]", tuple(map(int, colour))),
            faststart=faststart,
            sound=None,
            sound_duration=0.0,
            profile=video.profile or "",
            cut=cut or (f"{lost} of its frames are broken" if lost else _missing(path, len(shown), video.frames)),
            stream=video.index,
        )
    heard, codec = 0.0, "unknown"
    with _opened(path) as (container, _):  # by itself: where one track ends early, the other may go on
        sound = container.streams.best("audio")
        if not isinstance(sound, AudioStream):
            return facts
        if not _is_unknown(sound):
            codec = sound.codec_context.codec.canonical_name
            for frames in _decoded(container, sound, timeout):
                heard += sum(each.samples / each.sample_rate for each in frames or () if isinstance(each, AudioFrame))
                if heard > MOST_SECONDS:
                    break
        return replace(facts, sound=codec, sound_duration=heard * 1000, sound_stream=sound.index)


@contextmanager
def _opened(path: Path, cut: str | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its picture track: every decoding of a video in this process goes on in here."""
    also = f"; {cut}" if cut else ""
    try:
        with av.open(str(path), format="mp4") as container:
            video = container.streams.best("video")
            if not isinstance(video, VideoStream):
                raise UnreadableMedia(f"The MP4 has no video track{also}")
            if _is_unknown(video):
                raise UnreadableMedia("The MP4's picture is of a codec that libav does not know")
            with _decoding(video):
                yield container, video
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        reason = (getattr(error, "strerror", None) or str(error))[:120]
        raise UnreadableMedia(f"The MP4 cannot be read ({reason}{also})") from error


def _is_unknown(stream: VideoStream | AudioStream) -> bool:
    return getattr(stream, "codec_context", None) is None


def _decoded(
    container: InputContainer, stream: VideoStream | AudioStream, timeout: float = TIMEOUT
) -> Iterator[Sequence[object] | None]:
    """The frames of each packet of a track; None for one that cannot be decoded, or that the file's end cuts off."""
    end = time.monotonic() + timeout
    for packet in container.demux(stream):
        try:
            yield None if packet.is_corrupt else packet.decode()
        except av.error.FFmpegError:
            yield None
        if time.monotonic() > end:
            said = f"Decoding the MP4 took longer than {timeout:g} s and was ended"
            raise EncoderTimedOut(f"{said} (AC_ENCODE_TIMEOUT_SECONDS)")


def _missing(path: Path, shown: int, declared: int) -> str | None:
    """What is not there of the frames that the index names; what an edit list leaves out is not missing."""
    if shown >= declared:
        return None
    with av.open(str(path), format="mp4", options={"ignore_editlist": "1"}) as container:
        there = sum(1 for packet in container.demux(container.streams.best("video")) if packet.size)
    return f"{there} of {declared} frames are there" if there < declared else None


def _check_size(width: int, height: int) -> None:
    if not 0 < max(width, height) <= MOST_SIDE:
        why = f"{width}x{height} pixels, at most {MOST_SIDE} a side are taken"
        raise UnreadableMedia(f"The finished MP4 cannot be used: {why}")


def _signs(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Signs of a, b, c and d of its display matrix; those of none where it has none, or one for another angle."""
    sides = cast("Mapping[str, Buffer]", frame.side_data)  # its declared type does not know this key
    if "DISPLAYMATRIX" not in sides:
        return _AS_IT_IS
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(sides["DISPLAYMATRIX"]))
    signs = ((a > 0) - (a < 0), (b > 0) - (b < 0), (c > 0) - (c < 0), (d > 0) - (d < 0))
    return signs if signs in _UPRIGHT else _AS_IT_IS


def check_encoded(facts: VideoFacts, starts: Sequence[float], end: float, *, sound: bool) -> None:
    """Check that an encoding has every frame at its time, lasts as long as its tape, and plays everywhere. `starts`:
    when each frame of the tape begins, in milliseconds; `end`: when the last one ends. Raises EncodingFailed, naming
    everything that is wrong."""
    wrong = [*_wrong_form(facts), *_wrong_times(facts, starts, end)]
    if facts.colour != (1, 1, 1, 1):
        wrong.append(f"colour tags {facts.colour}")
    if sound and (facts.sound != "aac" or abs(facts.sound_duration - end) > SOUND_TOLERANCE):
        wrong.append(f"sound is {facts.sound or 'missing'}, {facts.sound_duration:.0f} of {end:.0f} ms")
    if not sound and facts.sound is not None:
        wrong.append("sound where the tape has none")
    _pass(wrong, "encoded")


def check_finished(facts: VideoFacts) -> None:
    """Check that somebody else's MP4 can be published, as it is or encoded again: some frames, at most 300 s and 4096
    pixels a side. Raises UnreadableMedia, naming what is wrong."""
    _check_size(facts.width, facts.height)
    wrong: list[str] = []
    if not facts.times:
        wrong.append(f"no frames can be decoded ({facts.codec}{f', {facts.cut}' if facts.cut else ''})")
    elif not 0 < facts.duration <= MOST_SECONDS * 1000:
        wrong.append(f"lasts {facts.duration / 1000:.1f} s or more, at most {MOST_SECONDS:.0f} are taken")
    if facts.sound_duration > MOST_SECONDS * 1000:
        wrong.append(f"its sound lasts more than {MOST_SECONDS:.0f} s")
    if wrong:
        raise UnreadableMedia(f"The finished MP4 cannot be used: {'; '.join(wrong)}")


def why_not_as_it_is(facts: VideoFacts) -> list[str]:
    """Why a finished MP4 has to be encoded again; nothing when every browser plays it whole (MEDIA-13, MEDIA-18)."""
    reasons: list[str] = []
    if facts.codec != "h264":
        reasons.append(f"its picture is {facts.codec}, not H.264, which every browser plays")
    elif facts.pixel_format not in _PLAYED_FORMATS or facts.profile.startswith(_UNPLAYED_PROFILES):
        reasons.append(f"its H.264 is {facts.profile} in {facts.pixel_format}, which not every browser plays")
    if facts.sound is not None and not facts.sound_duration:
        reasons.append(f"nothing of its sound ({facts.sound}) can be decoded, and it is left out")
    elif facts.sound not in (None, "aac"):
        reasons.append(f"its sound is {facts.sound}, not AAC, which every browser plays")
    if facts.mime_type != "video/mp4":
        reasons.append(f"its brand makes it {facts.mime_type}")
    if facts.cut:
        reasons.append(f"it ends early or is damaged: {facts.cut}")
    return reasons


def check_smaller(facts: VideoFacts, source: VideoFacts) -> None:
    """Check that a re-encoded MP4 still has all frames, the length and the sound of its source. Raises EncodingFailed,
    naming what is wrong."""
    wrong = _wrong_form(facts)
    frames, due = len(facts.times), len(source.times)
    slack = max(FRAME_MS, source.duration / max(1, due))
    whole = frames == due and abs(facts.indexed - source.duration) <= slack
    if not whole and not (source.cut and frames * 10 >= due * 9):  # decoders differ in what they show of damaged frames
        wrong.append(f"{frames} of {due} frames, {facts.indexed:.0f} of {source.duration:.0f} ms")
    if (facts.sound is None) != (not source.sound_duration):
        wrong.append(f"sound is {facts.sound}, was {source.sound}")
    _pass(wrong, "re-encoded")


def _pass(wrong: Sequence[str], how: str) -> None:
    if wrong:
        raise EncodingFailed(f"The {how} video fails its checks: {'; '.join(wrong)}")


def middle_frame(path: Path, facts: VideoFacts) -> Image.Image:
    """The middle frame of a video, in RGB, upright and with square pixels. Raises UnreadableMedia if it cannot be
    decoded."""
    target = facts.times[len(facts.times) // 2] - PTS_TOLERANCE
    with _opened(path) as (container, video):
        for frame in chain.from_iterable(frames or () for frames in _decoded(container, video)):
            if not isinstance(frame, VideoFrame) or frame.pts is None:
                continue
            if float(frame.pts * (video.time_base or 1)) * 1000 >= target:
                picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
                aspect = float(video.sample_aspect_ratio or 1)
                if 0.1 < aspect < 10 and aspect != 1:
                    picture = picture.resize((max(1, round(picture.width * aspect)), picture.height))
                turn = _UPRIGHT[_signs(frame)]
                return picture if turn is None else picture.transpose(turn)
    raise UnreadableMedia("The MP4 ends before its middle frame")


def _length(shown: Sequence[tuple[int, int]], base: float) -> float:
    """Seconds from the first time to the end of the last frame; it lasts as long as the mean where nothing is said."""
    if not shown:
        return 0.0
    first, (last, lasting) = shown[0][0], shown[-1]
    if not lasting and len(shown) > 1:
        return (last - first) * base * len(shown) / (len(shown) - 1)
    return (last - first + lasting) * base or FRAME_MS / 1000


def _wrong_form(facts: VideoFacts) -> list[str]:
    wrong: list[str] = []
    if facts.mime_type != "video/mp4":
        wrong.append(f"type {facts.mime_type}")
    if (facts.codec, facts.pixel_format) != ("h264", "yuv420p"):
        wrong.append(f"{facts.codec} in {facts.pixel_format}")
    if facts.width % 2 or facts.height % 2:
        wrong.append(f"odd size {facts.width}x{facts.height}")
    if not facts.faststart:
        wrong.append("index behind the media")
    return wrong


def _wrong_times(facts: VideoFacts, starts: Sequence[float], end: float) -> list[str]:
    if len(facts.times) != len(starts):
        return [f"{len(facts.times)} frames, the tape has {len(starts)}"]
    wrong: list[str] = []
    off, at = max((abs(found - due), index) for index, (found, due) in enumerate(zip(facts.times, starts, strict=True)))
    if off > PTS_TOLERANCE:
        wrong.append(f"frame {at} is {off:.1f} ms off")
    if abs(facts.indexed - end) > FRAME_MS:
        wrong.append(f"lasts {facts.indexed:.1f} ms, the tape {end:.1f}")
    return wrong


def _boxes(path: Path) -> tuple[str, bool, str | None]:
    """What the outermost boxes tell (ISO/IEC 14496-12, 4.2: size, type, optional 64-bit size): the MIME type, True if
    `moov` precedes `mdat`, and where the file ends early."""
    end = path.stat().st_size
    kinds: list[bytes] = []
    cut = None
    with path.open("rb") as file:
        mime_type = sniff(file.read(HEAD))
        at = 0
        while at < end and cut is None and len(kinds) < _MOST_BOXES:
            file.seek(at)
            size, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            step = {0: end - at, 1: long}.get(size, size)
            if step < 8 or not kind.isalnum():
                break  # what follows is no box: nobody reads it
            kinds.append(kind)
            at += step
            if at > end and kind in (b"moov", b"moof", b"mdat"):
                cut = f"{at - end} bytes are missing at its end"
    if cut is None and (kinds[-1:] == [b"moof"] or (b"moof" in kinds and 0 < end - at < 8)):
        cut = "its last fragment is missing"
    index, media = (kinds.index(kind) if kind in kinds else len(kinds) for kind in (b"moov", b"mdat"))
    return mime_type, index < media, cut


def _decoding(video: VideoStream) -> AbstractContextManager[None]:
    """Memory for decoding a video: as many frames as its size may have waiting (H.264, table A-1), and those under way;
    raises TooLarge where the process has not as much."""
    pixels = max(1, video.width * video.height)
    frames = min(16, _MOST_WAITING_BLOCKS * 256 // pixels) + _FRAMES_UNDER_WAY
    bits = av.VideoFormat(video.codec_context.pix_fmt or "yuv420p").padded_bits_per_pixel
    return DECODING.reserve(pixels * frames * bits // 8, f"The MP4 ({video.width}x{video.height} pixels)")
