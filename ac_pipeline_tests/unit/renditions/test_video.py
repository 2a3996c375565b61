"""Tapes as MP4, made by the real ffmpeg: every frame, at its time, in its colours, within its size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ac_pipeline.errors import EncoderFailed, EncoderTimedOut, EncodingFailed, TooLarge, UnreadableMedia
from ac_pipeline.local.seed.artwork import tape_mp4, tape_zip
from ac_pipeline.renditions.ffmpeg_process import TIMEOUT
from ac_pipeline.renditions.pictures import sniff
from ac_pipeline.renditions.tape_archive import TapeArchive
from ac_pipeline.renditions.video import (
    MOST_PIXELS,
    VIDEO_CAP,
    Encoder,
    Job,
    Video,
    encode_tape,
    enlargement,
    shrink_video,
)
from ac_pipeline.renditions.video_check import read_facts
from ac_pipeline_tests import media_samples as samples
from ac_pipeline_tests.media_samples import archive, frame_name, timing
from ac_pipeline_tests.unit.renditions.fake_ffmpeg import runs, script

pytestmark = pytest.mark.slow

UNEVEN = [20.0, 333.0, 16.67, 700.5, 41.0, 16.67]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = tmp_path / "job"
    folder.mkdir()
    return Job(folder, Encoder(), VIDEO_CAP)


def encode(data: bytes, job: Job) -> Video:
    path = job.folder.parent / "tape.zip"
    path.write_bytes(data)
    with TapeArchive(path) as opened:
        return encode_tape(opened, job)


def pictures(path: Path) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            yield frame.to_ndarray(format="rgb24").astype(int)


def colours(frames: int, width: int = 48, height: int = 32) -> dict[str, bytes]:
    """Plain frames, each of its own colour."""
    return {
        frame_name(i): samples.png_of(Image.new("RGB", (width, height), (40 * i % 256, 255 - 30 * i, 90)))
        for i in range(frames)
    }


TAPES = {
    "posted, uneven": (tape_zip(6, 48, 32, durations=UNEVEN), UNEVEN),
    "with sound": (tape_zip(6, 48, 32, durations=UNEVEN, sound=True), UNEVEN),
    "six channels of 24 bits": (
        archive(
            {frame_name(0): samples.FRAME, "soundtrack.wav": samples.wav(b"\1\2\3" * 6 * 960, bits=24, channels=6)},
            timing(1),
        ),
        [20.0],
    ),
    "sound in floats": (
        archive(
            {frame_name(0): samples.FRAME, "soundtrack.wav": samples.wav(b"\0\0\xc0\x7f" * 1920, tag=3, bits=32)},
            timing(1),
        ),
        [20.0],
    ),
    "sound in mu-law": (
        archive({frame_name(0): samples.FRAME, "soundtrack.wav": samples.wav(b"\1" * 1920, tag=7, bits=8)}, timing(1)),
        [20.0],
    ),
    "early layout": (tape_zip(4, 40, 30, durations=[50.0] * 4, layout="early"), [50.0] * 4),
    "one frame": (tape_zip(1, 20, 20, durations=[16.67]), [16.67]),
    "two frames, one long": (tape_zip(2, 33, 21, durations=[9000.0, 16.67], sound=True), [9000.0, 16.67]),
    "odd size": (tape_zip(3, 37, 19, durations=[20.0] * 3), [20.0] * 3),
    "single pixel": (archive({frame_name(0): samples.png_of(Image.new("RGB", (1, 1)))}, timing(1)), [20.0]),
    "120 Hz": (tape_zip(30, 32, 24, durations=[8.333] * 30), [8.333] * 30),
    "larger than enlarged": (tape_zip(2, 1001, 33, durations=[20.0] * 2), [20.0] * 2),
}


@pytest.mark.parametrize("name", TAPES)
def test_the_mp4_lasts_as_long_as_its_timing_and_each_frame_keeps_its_share(name: str, job: Job) -> None:
    """MEDIA-8, MEDIA-9: frame count, each start within 1 ms, the whole within one frame; read back independently."""
    data, durations = TAPES[name]
    video = encode(data, job)
    with av.open(str(video.path)) as container:
        stream = container.streams.video[0]
        starts = [float(frame.pts * frame.time_base) * 1000 for frame in container.decode(stream)]
        length = float(stream.duration * stream.time_base) * 1000
    assert starts == pytest.approx([sum(durations[:i]) for i in range(len(durations))], abs=1.0)
    assert length == pytest.approx(sum(durations), abs=17)
    facts = read_facts(video.path)
    assert (facts.codec, facts.pixel_format, facts.colour) == ("h264", "yuv420p", (1, 1, 1, 1))
    assert facts.faststart
    assert facts.width % 2 == facts.height % 2 == 0
    assert (facts.sound is not None) == any(word in name for word in ("sound", "channels", "one long"))
    if facts.sound:
        assert facts.sound == "aac"
        assert facts.sound_duration == pytest.approx(sum(durations), abs=50)
    assert sniff(video.path.read_bytes()) == "video/mp4"
    assert video.size == video.path.stat().st_size <= VIDEO_CAP


def test_the_same_tape_gives_the_same_bytes(job: Job, tmp_path: Path) -> None:
    data = tape_zip(20, 48, 32, sound=True)
    other = tmp_path / "other"
    other.mkdir()
    first = encode(data, job).path.read_bytes()
    assert encode(data, replace(job, folder=other)).path.read_bytes() == first
    assert b" threads=1 " in first, "x264 writes its settings into the file; a count of the machine's would differ"


def test_frames_come_in_their_order_and_colours(job: Job) -> None:
    """Unpadded names sort by number: 10 comes after 9."""
    members = {f"frame-{i}.png": data for i, data in enumerate(reversed(colours(12).values()))}
    video = encode(archive(dict(sorted(members.items())), None), job)
    shown = [picture.mean(axis=(0, 1)) for picture in pictures(video.path)]
    expected = [(40 * i % 256, 255 - 30 * i if 30 * i <= 255 else 0, 90) for i in reversed(range(12))]
    assert len(shown) == 12
    for found, due in zip(shown[4:], expected[4:], strict=True):  # frames 8 to 11 wrap around
        assert found == pytest.approx(due, abs=4)


def test_one_pixel_art_keeps_its_pixels(job: Job) -> None:
    """Enlarged by an even factor, each pixel owns whole chroma samples."""
    board = np.random.default_rng(3).choice(np.array([(255, 0, 77), (41, 173, 255), (0, 135, 81)], np.uint8), (24, 40))
    data = archive({frame_name(0): samples.png_of(Image.fromarray(board))}, timing(1))
    video = encode(data, job)
    factor = int(video.details["scale"])
    shown = next(pictures(video.path))[factor // 2 :: factor, factor // 2 :: factor]
    assert np.abs(shown - board.astype(int)).mean() < 4


def test_early_tapes_are_taken_back_to_their_own_pixels(job: Job) -> None:
    video = encode(tape_zip(3, 40, 30, layout="early"), job)
    assert (video.details["block"], video.details["source_width"]) == (6, 240)
    assert (video.details["width"], video.details["height"]) == (320, 240)


def test_a_finer_frame_in_the_middle_of_an_enlarged_tape_keeps_its_detail(job: Job) -> None:
    """Only three frames are sampled for their block size; every other one is checked while it is written."""
    coarse = samples.pixel_art(24, 20, scale=6)
    fine = samples.noise(144, 120, colours=2)
    members = {frame_name(i): fine if i == 1 else coarse for i in range(8)}
    video = encode(archive(members, timing(8)), job)
    assert video.details["block"] == 1
    factor = int(video.details["scale"])
    shown = list(pictures(video.path))[1][factor // 2 :: factor, factor // 2 :: factor, 0]
    due = np.asarray(Image.open(io.BytesIO(fine))).astype(int)
    assert np.corrcoef(shown.ravel(), due.ravel())[0, 1] > 0.95


def test_b_frames_are_left_out_only_where_they_would_falsify_the_length(job: Job) -> None:
    """MEDIA-9: with them the file is a third smaller; with first and last durations that differ, its track says
    another length than it has."""
    even = encode(tape_zip(6, 48, 32), job)
    assert even.details["b_frames"] is True
    uneven = encode(tape_zip(6, 48, 32, durations=UNEVEN), job)
    assert uneven.details["b_frames"] is False
    assert uneven.details["seconds"] == pytest.approx(sum(UNEVEN) / 1000, abs=0.001)


@pytest.mark.parametrize(
    ("width", "height", "factor"),
    [
        (1, 1, 8),
        (90, 20, 8),
        (91, 20, 6),
        (120, 120, 6),
        (121, 9, 4),
        (180, 320, 2),
        (360, 1, 2),
        (960, 540, 2),
        (961, 540, 1),
        (4096, 4096, 1),
    ],
)
def test_pictures_are_enlarged_by_an_even_factor(width: int, height: int, factor: int) -> None:
    assert enlargement(width, height) == factor


def test_other_frame_sizes_and_missing_frames_are_warned_of(job: Job) -> None:
    """MEDIA-8, MEDIA-11: the result still has every frame at hand and the full length."""
    members = colours(100)
    del members[frame_name(50)]
    members[frame_name(10)] = samples.OTHER_SIZE
    path = job.folder.parent / "tape.zip"
    path.write_bytes(archive(members, timing(100)))
    with TapeArchive(path) as opened:
        video = encode_tape(opened, job)
        warnings = opened.warnings
    facts = read_facts(video.path)
    assert len(facts.times) == 99
    assert facts.times[50] == pytest.approx(51 * 20, abs=1)
    assert facts.duration == pytest.approx(2000, abs=17)
    assert len(warnings) == 2


def test_an_unreadable_frame_anywhere_stops_the_encoding(job: Job) -> None:
    """MEDIA-8: named, not bridged; nothing half-made is handed on."""
    members = {**colours(20), frame_name(13): b"<html>"}
    with pytest.raises(UnreadableMedia, match=r"frame-00013\.png"):
        encode(archive(members, timing(20)), job)
    assert not (job.folder / "video.mp4").exists()


def test_a_tape_over_the_cap_is_encoded_smaller(job: Job) -> None:
    """MEDIA-14: coarser, and if need be smaller; never over the cap."""
    members = {frame_name(i): samples.noise(120, 90, colours=8, seed=i) for i in range(12)}
    data = archive(members, timing(12))
    full = encode(data, job)
    small = encode(data, replace(job, cap=full.size // 3))
    assert full.details["crf"] == 18
    assert small.size <= full.size // 3
    assert int(small.details["encodes"]) > 1
    assert small.details["frames"] == 12


def test_a_tape_that_cannot_fit_is_refused_with_size_and_limit(job: Job) -> None:
    """MEDIA-14."""
    members = {frame_name(i): samples.noise(40, 30, seed=i) for i in range(8)}
    with pytest.raises(TooLarge, match=r"does not fit 700 bytes.*about \d{3,}"):
        encode(archive(members, timing(8)), replace(job, cap=700))


def test_an_ffmpeg_that_refuses_twice_quarantines_with_its_last_words(job: Job, tmp_path: Path) -> None:
    """MEDIA-7: the tail of ffmpeg's output is in the message."""
    binary = script(tmp_path, "echo 'Unknown encoder libx264' >&2; exit 8")
    with pytest.raises(EncodingFailed, match=r"exit code 8.*Unknown encoder libx264"):
        encode(tape_zip(2, 16, 16), replace(job, encoder=Encoder(binary)))
    assert runs(tmp_path) == 2


def test_an_ffmpeg_that_fails_once_is_given_another_chance(job: Job, tmp_path: Path) -> None:
    """MEDIA-7."""
    good = encode(tape_zip(2, 16, 16), job).path.read_bytes()
    (tmp_path / "good.mp4").write_bytes(good)
    body = f'[ $(wc -l < "$runs") = 1 ] && exit 1; cat > /dev/null; cp {tmp_path}/good.mp4 "$out"'
    video = encode(tape_zip(2, 16, 16), replace(job, encoder=Encoder(script(tmp_path, body))))
    assert video.path.read_bytes() == good


def test_an_exit_code_of_zero_proves_nothing(job: Job, tmp_path: Path) -> None:
    """MEDIA-8: fewer frames than the tape has, from an ffmpeg that reports success."""
    (tmp_path / "short.mp4").write_bytes(encode(tape_zip(5, 16, 16), job).path.read_bytes())
    binary = script(tmp_path, f'cat > /dev/null; cp {tmp_path}/short.mp4 "$out"')
    with pytest.raises(EncodingFailed, match="5 frames, the tape has 6"):
        encode(tape_zip(6, 16, 16), replace(job, encoder=Encoder(binary)))


def test_success_without_a_file_is_no_success(job: Job, tmp_path: Path) -> None:
    with pytest.raises(EncodingFailed, match="wrote nothing"):
        encode(tape_zip(2, 16, 16), replace(job, encoder=Encoder(script(tmp_path, "cat > /dev/null; exit 0"))))


def limited(job: Job, pixels: int) -> Job:
    return replace(job, encoder=replace(job.encoder, most_pixels=pixels))


def test_pixels_are_limited_as_they_are_encoded_and_the_limit_is_named(job: Job) -> None:
    """MEDIA-23: our own enlargement gives way first, it is no reason to refuse."""
    data = tape_zip(3, 40, 30)
    assert encode(data, limited(job, 3 * 40 * 30 * 64)).details["scale"] == 8
    assert encode(data, limited(job, 3 * 40 * 30 * 64 - 1)).details["scale"] == 6
    assert encode(data, limited(job, 3 * 40 * 30)).details["scale"] == 1
    with pytest.raises(TooLarge, match=r"3 frames of 40x30, 0 million pixels.*AC_ENCODE_MEGAPIXELS"):
        encode(data, limited(job, 3 * 40 * 30 - 1))


def test_by_default_the_limit_of_pixels_is_met_in_the_time_of_one_encoding() -> None:
    """MEDIA-23: at the 22 million pixels a second of one thread, two at a time on one core."""
    assert MOST_PIXELS / 22e6 * 2 < TIMEOUT
    assert Encoder().scale(1, 1, (300, 4096, 4096), "The tape") == 1
    with pytest.raises(TooLarge, match=r"18000 frames of 4096x4096, 301990 million pixels; at most 6000 million"):
        Encoder().scale(1, 1, (18_000, 4096, 4096), "The tape")


def test_a_finished_mp4_with_too_many_pixels_is_encoded_smaller(job: Job, tmp_path: Path) -> None:
    """MEDIA-23."""
    source = tmp_path / "source.mp4"
    source.write_bytes(samples.mp4(video="mpeg4"))
    facts = read_facts(source)
    pixels = samples.MP4_FRAMES * samples.MP4_SIZE[0] * samples.MP4_SIZE[1]
    video = shrink_video(source, facts, limited(job, pixels - 1))
    assert (video.details["scale"], video.details["width"], video.details["frames"]) == (0.5, 48, samples.MP4_FRAMES)
    with pytest.raises(TooLarge, match="The MP4 has 24 frames"):
        shrink_video(source, facts, limited(job, pixels // 16 - 1))


def test_an_encoding_that_takes_too_long_names_its_limit(job: Job, tmp_path: Path) -> None:
    """MEDIA-23."""
    encoder = Encoder(script(tmp_path, "exec sleep 600"), timeout=0.3)
    with pytest.raises(EncoderTimedOut, match=r"longer than 0\.3 s.*AC_ENCODE_TIMEOUT_SECONDS"):
        encode(tape_zip(2, 16, 16), replace(job, encoder=encoder))


@pytest.mark.parametrize("trouble", ["missing", "slow", "killed"])
def test_an_ffmpeg_that_did_not_get_to_work_is_transient(trouble: str, job: Job, tmp_path: Path) -> None:
    encoders = {
        "missing": lambda: Encoder(str(tmp_path / "nowhere")),
        "slow": lambda: Encoder(script(tmp_path, "exec sleep 600"), timeout=0.3),
        "killed": lambda: Encoder(script(tmp_path, "kill -9 $$")),
    }
    with pytest.raises(EncoderFailed):
        encode(tape_zip(2, 16, 16), replace(job, encoder=encoders[trouble]()))


def test_a_finished_mp4_is_encoded_again_to_fit(job: Job, tmp_path: Path) -> None:
    """MEDIA-14: all frames, the whole length and the sound stay."""
    source = tmp_path / "source.mp4"
    source.write_bytes(tape_mp4(45, 160, 120, sound=True, quality=8))
    before = read_facts(source)
    cap = source.stat().st_size // 2
    video = shrink_video(source, before, replace(job, cap=cap))
    after = read_facts(video.path)
    assert video.size <= cap
    assert after.times == pytest.approx(before.times, abs=1)
    assert after.sound == "aac"
    assert after.duration == pytest.approx(before.duration, abs=40)


def test_a_finished_mp4_that_cannot_fit_is_refused_with_size_and_limit(job: Job, tmp_path: Path) -> None:
    """MEDIA-14."""
    source = tmp_path / "source.mp4"
    source.write_bytes(tape_mp4(10, 64, 48))
    size = source.stat().st_size
    with pytest.raises(TooLarge, match=rf"{size} bytes and does not fit 500 bytes"):
        shrink_video(source, read_facts(source), replace(job, cap=500))


def test_the_spec_names_all_that_decides_the_bytes() -> None:
    spec = Encoder().spec(1234)
    assert "1234" in spec
    assert "ffmpeg" in spec
    assert spec != Encoder().spec(1235)
