"""What a video file is found to be, and which ones are let through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from ac_pipeline.errors import EncoderTimedOut, EncodingFailed, TooLarge, UnreadableMedia
from ac_pipeline.local.seed.artwork import tape_mp4, tape_zip
from ac_pipeline.renditions.video_check import (
    VideoFacts,
    check_encoded,
    check_finished,
    check_smaller,
    middle_frame,
    read_facts,
    why_not_as_it_is,
)
from ac_pipeline_tests import media_samples as samples

FACTS = VideoFacts(
    mime_type="video/mp4",
    codec="h264",
    pixel_format="yuv420p",
    width=64,
    height=48,
    times=(0.0, 20.0, 40.0),
    duration=60.0,
    declared=3,
    indexed=60.0,
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


@pytest.mark.slow
def test_a_finished_tape_is_read(finished: Path) -> None:
    facts = read_facts(finished)
    assert (facts.mime_type, facts.codec, facts.sound) == ("video/mp4", "h264", "aac")
    assert (facts.width, facts.height, facts.declared) == (96, 64, 31)
    assert facts.times == pytest.approx([i * 1000 / 30 for i in range(31)], abs=0.1)
    assert facts.duration == pytest.approx(31 * 1000 / 30, abs=0.1)
    assert facts.indexed == pytest.approx(facts.duration, abs=0.1)
    assert facts.faststart
    check_finished(facts)
    assert why_not_as_it_is(facts) == []


def test_the_middle_frame_is_the_one_shown_halfway(finished: Path) -> None:
    """The poster: frame 15 of 31, the same pixels that decoding from the start gives."""
    facts = read_facts(finished)
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
        read_facts(tmp_path / "x.mp4")


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_cut_mp4_is_known_for_one(keep: float, finished: Path, tmp_path: Path) -> None:
    """MEDIA-18: never taken for whole, however much of it decodes."""
    data = finished.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * keep)])
    facts = read_facts(tmp_path / "cut.mp4")
    assert facts.cut is not None
    assert "bytes are missing at its end" in facts.cut
    assert any(facts.cut in reason for reason in why_not_as_it_is(facts))
    assert facts.declared == 31
    assert len(facts.times) <= 31


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 20, 200])
def test_a_cut_anywhere_in_the_last_fragment_is_known(after: int, tmp_path: Path) -> None:
    """MEDIA-18: in the size of its first box, in that box, or in its media."""
    data = samples.mp4(fragmented=True)
    (tmp_path / "x.mp4").write_bytes(data[: data.rindex(b"moof") - 4 + after])
    facts = read_facts(tmp_path / "x.mp4")
    assert facts.cut is not None
    assert 0 < len(facts.times) < samples.MP4_FRAMES


@pytest.mark.slow
def test_an_index_behind_the_media_that_is_cut_off_is_named(tmp_path: Path) -> None:
    """MEDIA-18: without it nothing decodes."""
    data = samples.mp4(late_index=True)
    (tmp_path / "x.mp4").write_bytes(data[: data.rindex(b"moov") + 50])
    with pytest.raises(UnreadableMedia, match="bytes are missing at its end"):
        read_facts(tmp_path / "x.mp4")


@pytest.mark.slow
@pytest.mark.parametrize("sound", [None, "aac"])
@pytest.mark.parametrize("fragmented", [False, True])
def test_length_and_frames_are_those_that_decode(fragmented: bool, sound: str | None, tmp_path: Path) -> None:
    """MEDIA-18: a track header in the wrong time scale, and fragments whose index names nothing."""
    data = samples.mp4(fragmented=fragmented, sound=sound)
    (tmp_path / "x.mp4").write_bytes(data if fragmented else samples.with_track_length(data, 400))
    facts = read_facts(tmp_path / "x.mp4")
    assert len(facts.times) == samples.MP4_FRAMES
    assert facts.duration == pytest.approx(1000, abs=0.1)
    assert facts.declared == (0 if fragmented else samples.MP4_FRAMES)
    assert facts.indexed != pytest.approx(1000, abs=100) or fragmented
    assert why_not_as_it_is(facts) == []


@pytest.mark.slow
def test_what_an_edit_list_leaves_out_is_no_cut(tmp_path: Path) -> None:
    """MEDIA-18: a trimmed MP4 holds more frames than it shows."""
    (tmp_path / "whole.mp4").write_bytes(samples.mp4(sound="aac"))
    trim = ["-ss", "0.4", "-i", str(tmp_path / "whole.mp4"), "-t", "0.4", "-c", "copy", "-f", "mp4"]
    (tmp_path / "x.mp4").write_bytes(samples.ffmpeg(*trim))
    facts = read_facts(tmp_path / "x.mp4")
    assert len(facts.times) < facts.declared
    assert facts.cut is None


def test_codecs_that_nobody_knows_are_named(tmp_path: Path) -> None:
    """MEDIA-18: without a picture there is nothing to publish."""
    (tmp_path / "x.mp4").write_bytes(samples.mp4().replace(b"avc1", b"zzzz"))
    with pytest.raises(UnreadableMedia, match="codec that libav does not know"):
        read_facts(tmp_path / "x.mp4")


def test_damage_in_the_middle_is_known(tmp_path: Path) -> None:
    """MEDIA-18."""
    data = bytearray(samples.mp4(video="mpeg4"))
    start = data.index(b"mdat") + 4
    data[start + 2000 : -2000] = bytes(len(data) - start - 4000)
    (tmp_path / "x.mp4").write_bytes(data)
    facts = read_facts(tmp_path / "x.mp4")
    assert facts.cut is not None
    assert "broken" in facts.cut


def test_junk_behind_the_last_box_is_no_cut(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(samples.mp4() + b"\0" * 37)
    assert read_facts(tmp_path / "x.mp4").cut is None


@pytest.mark.slow
def test_the_limit_of_length_is_one_of_what_decodes(tmp_path: Path) -> None:
    """MEDIA-18: 301 s whose header claims 0.4 s."""
    data = samples.mp4("-r", "1", seconds=302)
    (tmp_path / "x.mp4").write_bytes(samples.with_track_length(data, 400))
    with pytest.raises(UnreadableMedia, match="at most 300"):
        check_finished(read_facts(tmp_path / "x.mp4"))


def test_what_is_decoded_is_limited(finished: Path) -> None:
    """MEDIA-18: pixels and time, both named."""
    with pytest.raises(TooLarge, match=r"4 frames of 96x64 and more; at most 0 million"):
        read_facts(finished, most_pixels=3 * 96 * 64)
    with pytest.raises(EncoderTimedOut, match=r"longer than 0 s.*AC_ENCODE_TIMEOUT_SECONDS"):
        read_facts(finished, timeout=0)


@pytest.mark.slow
@pytest.mark.parametrize("matrix", samples.MATRICES)
def test_a_poster_is_upright(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    """MEDIA-18: turned and mirrored as ffmpeg, which players follow, turns and mirrors it."""
    path = tmp_path / "x.mp4"
    path.write_bytes(samples.with_matrix(samples.mp4(), matrix))
    facts = read_facts(path)
    poster = np.asarray(middle_frame(path, facts)).astype(int)
    assert poster.shape == (facts.height, facts.width, 3)
    middle = ["-vf", f"select=eq(n\\,{samples.MP4_FRAMES // 2})", "-frames:v", "1"]
    shown = samples.ffmpeg("-i", str(path), *middle, "-f", "rawvideo", "-pix_fmt", "rgb24")
    due = np.frombuffer(shown, np.uint8).reshape(poster.shape).astype(int)
    assert np.abs(poster - due).mean() < 3


@pytest.mark.slow
def test_a_poster_has_square_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(samples.mp4("-vf", "setsar=2"))
    assert middle_frame(path, read_facts(path)).size == (2 * samples.MP4_SIZE[0], samples.MP4_SIZE[1])


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, times=(0.0, 20.9, 40.0)),
        replace(FACTS, indexed=76.9),
        replace(FACTS, indexed=43.1),
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
        (replace(FACTS, indexed=77.1), "lasts 77"),
        (replace(FACTS, indexed=42.9), "lasts 42"),
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
        replace(FACTS, sound="aac", sound_duration=60.0),
        replace(FACTS, duration=300_000.0),
        replace(FACTS, width=4096, height=4096),
        replace(FACTS, faststart=False, colour=(2, 2, 2, 0)),
        replace(FACTS, declared=0, indexed=0.0),
        replace(FACTS, pixel_format="yuvj420p", profile="High"),
    ],
)
def test_a_sound_mp4_of_somebody_else_is_taken_as_it_is(facts: VideoFacts) -> None:
    """MEDIA-13: it only has to be H.264 and AAC, whole, and within the limits."""
    check_finished(facts)
    assert why_not_as_it_is(facts) == []


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(FACTS, codec="hevc"), "picture is hevc"),
        (replace(FACTS, pixel_format="yuv444p", profile="High 4:4:4 Predictive"), "High 4:4:4 Predictive in yuv444p"),
        (replace(FACTS, profile="High 4:4:4 Predictive"), "High 4:4:4"),
        (replace(FACTS, sound="opus", sound_duration=60.0), "sound is opus"),
        (replace(FACTS, sound="aac"), "nothing of its sound"),
        (replace(FACTS, mime_type="video/quicktime"), "video/quicktime"),
        (replace(FACTS, cut="3 of 4 frames are there"), "3 of 4 frames"),
    ],
)
def test_an_mp4_that_not_every_browser_plays_whole_is_encoded_again(facts: VideoFacts, reason: str) -> None:
    """MEDIA-18."""
    check_finished(facts)
    (said,) = why_not_as_it_is(facts)
    assert reason in said


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(FACTS, times=(), duration=0.0), "no frames"),
        (replace(FACTS, duration=300_000.1), "300"),
        (replace(FACTS, sound="aac", sound_duration=300_000.1), "300"),
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
        (replace(FACTS, indexed=90.0), "90 of 60 ms"),
        (replace(FACTS, sound="aac"), "was None"),
        (replace(FACTS, pixel_format="yuv444p"), "yuv444p"),
    ],
)
def test_an_mp4_encoded_again_must_still_be_whole(facts: VideoFacts, reason: str) -> None:
    """MEDIA-14."""
    check_smaller(FACTS, FACTS)
    with pytest.raises(EncodingFailed, match=reason):
        check_smaller(facts, FACTS)
