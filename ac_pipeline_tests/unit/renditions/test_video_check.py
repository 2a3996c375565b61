"""What a video file is found to be, and which ones are let through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from ac_pipeline.errors import EncodingFailed, UnreadableMedia
from ac_pipeline.local.artwork import tape_mp4, tape_zip
from ac_pipeline.renditions.video_check import (
    VideoFacts,
    check_encoded,
    check_finished,
    check_smaller,
    middle_frame,
    read_facts,
)

FACTS = VideoFacts(
    mime_type="video/mp4",
    codec="h264",
    pixel_format="yuv420p",
    width=64,
    height=48,
    times=(0.0, 20.0, 40.0),
    duration=60.0,
    declared=3,
    colour=(1, 1, 1, 1),
    faststart=True,
    sound=None,
    sound_duration=0.0,
)
STARTS = (0.0, 20.0, 40.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "tape.mp4"
    path.write_bytes(tape_mp4(31, 96, 64, sound=True))
    return path


@pytest.mark.parametrize("decode", [True, False])
def test_a_finished_tape_is_read(finished: Path, decode: bool) -> None:
    facts = read_facts(finished, decode=decode)
    assert (facts.mime_type, facts.codec, facts.sound) == ("video/mp4", "h264", "aac")
    assert (facts.width, facts.height, facts.declared) == (96, 64, 31)
    assert facts.times == pytest.approx([i * 1000 / 30 for i in range(31)], abs=0.1)
    assert facts.duration == pytest.approx(31 * 1000 / 30, abs=0.1)
    assert facts.faststart
    check_finished(facts)


def test_the_middle_frame_is_the_one_shown_halfway(finished: Path) -> None:
    """The poster: frame 15 of 31, the same pixels that decoding from the start gives."""
    facts = read_facts(finished, decode=False)
    with av.open(str(finished)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])]
    assert (np.asarray(middle_frame(finished, facts)) == frames[15]).all()


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>404</html>", tape_zip(1, 8, 8), b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + b"\0" * 100],
    ids=["empty", "html", "a ZIP", "only a brand"],
)
def test_what_is_no_mp4_is_unreadable(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(UnreadableMedia):
        read_facts(tmp_path / "x.mp4", decode=False)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_cut_mp4_is_unusable(keep: float, finished: Path, tmp_path: Path) -> None:
    data = finished.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UnreadableMedia, match=r"cut off|cannot be read|no frames"):
        check_finished(read_facts(tmp_path / "cut.mp4", decode=False))


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, times=(0.0, 20.9, 40.0)),
        replace(FACTS, duration=76.9),
        replace(FACTS, duration=43.1),
    ],
)
def test_an_encoding_within_its_tolerances_passes(facts: VideoFacts) -> None:
    check_encoded(facts, STARTS, 60.0, sound=False)
    check_encoded(replace(facts, sound="aac", sound_duration=109.0), STARTS, 60.0, sound=True)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(FACTS, times=(0.0, 20.0)), "2 frames, the tape has 3"),
        (replace(FACTS, times=()), "0 frames, the tape has 3"),
        (replace(FACTS, times=(0.0, 21.1, 40.0)), r"frame 1 is 1\.1 ms off"),
        (replace(FACTS, duration=77.1), "lasts 77"),
        (replace(FACTS, duration=42.9), "lasts 42"),
        (replace(FACTS, codec="mpeg4"), "mpeg4"),
        (replace(FACTS, pixel_format="yuv444p"), "yuv444p"),
        (replace(FACTS, width=65), "odd size"),
        (replace(FACTS, faststart=False), "index behind the media"),
        (replace(FACTS, colour=(2, 2, 2, 0)), "colour tags"),
        (replace(FACTS, mime_type="video/quicktime"), "quicktime"),
        (replace(FACTS, sound="aac"), "sound where the tape has none"),
    ],
)
def test_an_encoding_that_is_not_its_tape_fails_by_name(facts: VideoFacts, reason: str) -> None:
    """MEDIA-8, MEDIA-9: ffmpeg's exit code proves nothing."""
    with pytest.raises(EncodingFailed, match=reason):
        check_encoded(facts, STARTS, 60.0, sound=False)


@pytest.mark.parametrize(
    "facts", [FACTS, replace(FACTS, sound="mp3", sound_duration=60), replace(FACTS, sound="aac", sound_duration=111)]
)
def test_missing_wrong_or_short_sound_fails(facts: VideoFacts) -> None:
    with pytest.raises(EncodingFailed, match="sound is"):
        check_encoded(facts, STARTS, 60.0, sound=True)


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, sound="aac"),
        replace(FACTS, duration=300_000.0),
        replace(FACTS, width=4096, height=4096),
        replace(FACTS, faststart=False, colour=(2, 2, 2, 0)),
        replace(FACTS, declared=0),
    ],
)
def test_a_sound_mp4_of_somebody_else_is_let_through(facts: VideoFacts) -> None:
    """MEDIA-13: it only has to be H.264 and AAC, whole, and within the limits."""
    check_finished(facts)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(FACTS, codec="hevc"), "hevc"),
        (replace(FACTS, sound="opus"), "opus"),
        (replace(FACTS, times=()), "no frames"),
        (replace(FACTS, declared=4), "3 of 4 frames"),
        (replace(FACTS, duration=300_000.1), "300"),
        (replace(FACTS, duration=0.0), "lasts"),
        (replace(FACTS, width=4097), "4097x48"),
    ],
)
def test_an_mp4_that_cannot_be_published_is_refused_by_name(facts: VideoFacts, reason: str) -> None:
    """MEDIA-13."""
    with pytest.raises(UnreadableMedia, match=reason):
        check_finished(facts)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(FACTS, times=(0.0, 20.0)), "2 of 3 frames"),
        (replace(FACTS, duration=90.0), "90 of 60 ms"),
        (replace(FACTS, sound="aac"), "was None"),
        (replace(FACTS, pixel_format="yuv444p"), "yuv444p"),
    ],
)
def test_an_mp4_encoded_again_must_still_be_whole(facts: VideoFacts, reason: str) -> None:
    """MEDIA-14."""
    check_smaller(FACTS, FACTS)
    with pytest.raises(EncodingFailed, match=reason):
        check_smaller(facts, FACTS)
