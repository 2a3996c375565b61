"""What a video file really is, read back with libav (PyAV), and whether that is what it has to be.

ffmpeg's exit code proves nothing (MEDIA-8): every encoding is checked here, and so is every finished MP4 before it is
used as it is. Nothing is encoded here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
from PIL import Image

from ac_pipeline.errors import EncodingFailed, UnreadableMedia
from ac_pipeline.renditions.memory import DECODING
from ac_pipeline.renditions.sniffing import HEAD, sniff
from ac_pipeline.renditions.tape_timing import MOST_SECONDS

PTS_TOLERANCE = 1.0
"""Milliseconds; measured errors stay below 0.02 (media facts, section 2.1)."""
FRAME_MS = 1000 / 60 + 0.34
"""One frame at 60 Hz, rounded up to 17 ms: how much the whole may last too long or too short."""
SOUND_TOLERANCE = 50.0
MOST_SIDE = 4096
_BT709 = 1
_MOST_WAITING_BLOCKS = 696_320
_FRAMES_UNDER_WAY = 8


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What is in a video file; times in milliseconds.

    Args:
        times: Presentation time of every frame, in order.
        duration: Length of the video track.
        colour: Numbers of primaries, transfer, matrix and range; all 1 for BT.709 in TV range.
        declared: Frames the file's index names.
        faststart: Whether the index precedes the media, so that playing can begin before the download ends.
        sound: Codec of the first sound track, None without one.
    """

    mime_type: str
    codec: str
    pixel_format: str
    width: int
    height: int
    times: tuple[float, ...]
    duration: float
    declared: int
    colour: tuple[int, int, int, int]
    faststart: bool
    sound: str | None
    sound_duration: float


def read_facts(path: Path, *, decode: bool) -> VideoFacts:
    """Read a video file.

    Args:
        path: The file.
        decode: Decode every frame; else only the packets are read, which still finds a cut file.

    Raises:
        UnreadableMedia: Not an MP4, or a broken one.
    """
    mime_type, faststart = _boxes(path)
    try:
        with av.open(str(path), format="mp4") as container:
            if not container.streams.video:
                raise UnreadableMedia("The MP4 has no video track")
            video = container.streams.video[0]
            base = video.time_base
            context = video.codec_context
            if decode:
                with _decoding(video):
                    stamps = [frame.pts for frame in container.decode(video)]
            else:
                stamps = [packet.pts for packet in container.demux(video) if packet.size]
            if base is None or any(stamp is None for stamp in stamps):
                raise UnreadableMedia("The MP4 has frames without a time")
            times = sorted(float(stamp * base) * 1000 for stamp in stamps if stamp is not None)
            sound = next(iter(container.streams.audio), None)
            return VideoFacts(
                mime_type=mime_type,
                codec=context.name,
                pixel_format=context.pix_fmt or "",
                width=video.width,
                height=video.height,
                times=tuple(times),
                duration=float(video.duration * base) * 1000 if video.duration else _length(times),
                declared=video.frames,
                colour=(
                    int(context.color_primaries),
                    int(context.color_trc),
                    int(context.colorspace),
                    int(context.color_range),
                ),
                faststart=faststart,
                sound=sound.codec_context.name if sound else None,
                sound_duration=float((sound.duration or 0) * (sound.time_base or 0)) * 1000 if sound else 0.0,
            )
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        raise UnreadableMedia(f"The MP4 cannot be read ({type(error).__name__}: {str(error)[:120]})") from error


def check_encoded(facts: VideoFacts, starts: Sequence[float], end: float, *, sound: bool) -> None:
    """Whether an encoding has every frame at its time, lasts as long as its tape, and plays everywhere.

    Args:
        facts: Of the encoding.
        starts: When each frame of the tape begins, in milliseconds.
        end: When the last one ends.
        sound: Whether the tape has sound.

    Raises:
        EncodingFailed: Naming everything that is wrong.
    """
    wrong = [
        *_wrong_form(facts),
        *_wrong_times(facts, starts, end),
        *([] if facts.colour == (_BT709,) * 4 else [f"colour tags {facts.colour}"]),
    ]
    if sound and (facts.sound != "aac" or abs(facts.sound_duration - end) > SOUND_TOLERANCE):
        wrong.append(f"sound is {facts.sound or 'missing'}, {facts.sound_duration:.0f} of {end:.0f} ms")
    if not sound and facts.sound is not None:
        wrong.append("sound where the tape has none")
    if wrong:
        raise EncodingFailed(f"The encoded video fails its checks: {'; '.join(wrong)}")


def check_finished(facts: VideoFacts) -> None:
    """Whether somebody else's MP4 can be published: H.264 with AAC or no sound, whole, at most 300 s and 4096 pixels.

    Raises:
        UnreadableMedia: Naming what is wrong.
    """
    wrong: list[str] = []
    if facts.codec != "h264":
        wrong.append(f"video codec {facts.codec}, not h264")
    if facts.sound not in (None, "aac"):
        wrong.append(f"sound codec {facts.sound}, not aac")
    if not facts.times:
        wrong.append("no frames")
    elif len(facts.times) < facts.declared:
        wrong.append(f"{len(facts.times)} of {facts.declared} frames: cut off")
    if not 0 < facts.duration <= MOST_SECONDS * 1000:
        wrong.append(f"lasts {facts.duration / 1000:.1f} s, at most {MOST_SECONDS:.0f} are taken")
    if not 0 < max(facts.width, facts.height) <= MOST_SIDE:
        wrong.append(f"{facts.width}x{facts.height} pixels, at most {MOST_SIDE} a side")
    if wrong:
        raise UnreadableMedia(f"The finished MP4 cannot be used: {'; '.join(wrong)}")


def check_smaller(facts: VideoFacts, source: VideoFacts) -> None:
    """Whether a re-encoded MP4 still has all frames, the length and the sound of its source.

    Raises:
        EncodingFailed: Naming what is wrong.
    """
    wrong = _wrong_form(facts)
    if len(facts.times) != len(source.times):
        wrong.append(f"{len(facts.times)} of {len(source.times)} frames")
    slack = max(FRAME_MS, source.duration / max(1, len(source.times)))
    if abs(facts.duration - source.duration) > slack:
        wrong.append(f"{facts.duration:.0f} of {source.duration:.0f} ms")
    if (facts.sound is None) != (source.sound is None):
        wrong.append(f"sound is {facts.sound}, was {source.sound}")
    if wrong:
        raise EncodingFailed(f"The re-encoded video fails its checks: {'; '.join(wrong)}")


def middle_frame(path: Path, facts: VideoFacts) -> Image.Image:
    """The middle frame of a video, in RGB.

    Raises:
        UnreadableMedia: It cannot be decoded.
    """
    target = facts.times[len(facts.times) // 2]
    try:
        with av.open(str(path), format="mp4") as container:
            video = container.streams.video[0]
            base = float(video.time_base or 1)
            container.seek(int(target / 1000 / base), stream=video, backward=True)
            with _decoding(video):
                for frame in container.decode(video):
                    if frame.pts is not None and frame.pts * base * 1000 >= target - PTS_TOLERANCE:
                        return Image.fromarray(frame.to_ndarray(format="rgb24"))
    except (av.error.FFmpegError, ValueError) as error:
        raise UnreadableMedia(f"The MP4's middle frame cannot be decoded ({str(error)[:120]})") from error
    raise UnreadableMedia("The MP4 ends before its middle frame")


def _decoding(video: av.VideoStream) -> AbstractContextManager[None]:
    """Memory for decoding a video: as many frames as its size may have waiting (H.264, table A-1), and those under way.

    Raises:
        TooLarge: The process has not as much.
    """
    pixels = max(1, video.width * video.height)
    frames = min(16, _MOST_WAITING_BLOCKS * 256 // pixels) + _FRAMES_UNDER_WAY
    bits = av.VideoFormat(video.codec_context.pix_fmt or "yuv420p").padded_bits_per_pixel
    return DECODING.reserve(pixels * frames * bits // 8, f"The MP4 ({video.width}x{video.height} pixels)")


def _length(times: Sequence[float]) -> float:
    """Length of a fragmented file, whose index names none: up to the last frame, which lasts as long as the mean."""
    return (times[-1] - times[0]) * len(times) / (len(times) - 1) if len(times) > 1 else FRAME_MS


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
    if abs(facts.duration - end) > FRAME_MS:
        wrong.append(f"lasts {facts.duration:.1f} ms, the tape {end:.1f}")
    return wrong


def _boxes(path: Path) -> tuple[str, bool]:
    """MIME type, and whether `moov` precedes `mdat` (ISO/IEC 14496-12, 4.2: size, type, optional 64-bit size)."""
    end = path.stat().st_size
    with path.open("rb") as file:
        mime_type = sniff(file.read(HEAD))
        at = 0
        while at + 16 <= end:
            file.seek(at)
            size, kind, long = struct.unpack(">I4sQ", file.read(16))
            if kind in (b"moov", b"mdat"):
                return mime_type, bool(kind == b"moov")
            step = long if size == 1 else size
            if step < 8:
                break
            at += step
    return mime_type, False
