"""Tape ZIPs: both layouts are read, everything odd is named, everything hostile is refused."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ac_pipeline.errors import PipelineError, TooLarge, UnreadableMedia
from ac_pipeline.local.seed.artwork import photo_like, tape_zip
from ac_pipeline.renditions.tape_archive import ArchiveLimits, Sound, TapeArchive
from ac_pipeline_tests import media_samples as samples
from ac_pipeline_tests.media_samples import FRAME, OTHER_SIZE, archive, frame_name, tape, timing, wav


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tape.zip"


def read_all(path: Path, limits: ArchiveLimits | None) -> None:
    with TapeArchive(path, limits) as opened:
        for index in range(len(opened.frames)):
            opened.picture(index)


def refusal(path: Path, data: bytes, limits: ArchiveLimits | None = None) -> PipelineError:
    """The error for a tape, read to its last frame."""
    path.write_bytes(data)
    with pytest.raises((UnreadableMedia, TooLarge)) as error:
        read_all(path, limits)
    return error.value


def test_a_posted_tape_is_read(path: Path, tmp_path: Path) -> None:
    path.write_bytes(tape_zip(6, 32, 20, durations=[20, 30, 40, 50, 60, 16.67], sound=True))
    with TapeArchive(path) as opened:
        assert [showing.member for showing in opened.frames] == [frame_name(i) for i in range(6)]
        assert opened.size == (32, 20)
        assert opened.seconds == pytest.approx(0.21667)
        assert opened.picture(5).mode == "RGB"
        sound = opened.soundtrack(tmp_path / "pcm")
        assert sound is not None
        assert (sound.rate, sound.channels) == (48_000, 2)
        assert (tmp_path / "pcm").stat().st_size % (4096 * 4) == 0
        assert opened.warnings == ()


def test_the_early_layout_is_read(path: Path) -> None:
    """MEDIA-12: unpadded names in the order of their numbers, timing as an object."""
    path.write_bytes(tape_zip(12, 20, 20, layout="early", durations=[20.0 + i for i in range(12)]))
    with TapeArchive(path) as opened:
        assert [showing.member for showing in opened.frames] == [f"frame-{i}.png" for i in range(12)]
        assert [round(showing.duration) for showing in opened.frames] == [20 + i for i in range(12)]
        assert opened.size == (120, 120)
        assert opened.warnings == ()


@pytest.mark.parametrize("name", ["frame_0000.png", "frame_2025.10.23.12.30.00.123.png"])
def test_the_download_export_is_refused_by_name(name: str, path: Path) -> None:
    """MEDIA-12."""
    error = refusal(path, archive({name: FRAME}))
    assert isinstance(error, UnreadableMedia)
    assert name in error.message
    assert "frames download" in error.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a ZIP"),
        (b"<html>404</html>", "not a ZIP"),
        (tape(3)[: len(tape(3)) * 2 // 3], "not a ZIP"),
        (tape(3)[40:], "cannot be read|not a readable ZIP|before its start"),
        (archive({}), "no frames"),
        (archive({"readme.txt": b"x"}), "no frames"),
        (archive({"sub/frame-00000.png": FRAME}), "no frames"),
        (archive({"../frame-00000.png": FRAME, frame_name(0): FRAME}), "leaves its folder"),
        (archive({"a/../../b.txt": b"x", frame_name(0): FRAME}), "leaves its folder"),
        (archive({"/etc/passwd": b"x", frame_name(0): FRAME}), "leaves its folder"),
        (archive({"..\\b.png": b"x", frame_name(0): FRAME}), "leaves its folder"),
        (archive({"C:/b.png": b"x", frame_name(0): FRAME}), "leaves its folder"),
        (samples.symlink(), "symbolic link"),
        (samples.duplicate(), "two members named"),
        (archive({"frame-0.png": FRAME, frame_name(0): FRAME}), "two members for frame 0"),
        (samples.encrypted(), "encrypted"),
        (samples.claims_zip64(), "no ZIP64 end record"),
        (b"moved" + samples.zip64_end(tape(1)), "no ZIP64 end record"),
        (samples.wrong_checksum(), "CRC"),
        (archive({frame_name(0): b"<html>"}), "is not a readable picture (UnidentifiedImageError: no known format)"),
        (archive({frame_name(0): FRAME, frame_name(1): FRAME[:60]}), "frame-00001.png is not a readable picture"),
        (archive({frame_name(0): b""}), "frame-00000.png is not a readable picture"),
    ],
)
def test_what_is_no_tape_is_refused_by_name(data: bytes, reason: str, path: Path) -> None:
    """MEDIA-12: path escapes, links and doubles are refused, and so is whatever cannot be read."""
    error = refusal(path, data)
    assert isinstance(error, UnreadableMedia)
    assert any(part in error.message for part in reason.split("|")), error.message


@pytest.mark.parametrize(
    "data",
    [
        samples.deflate_bomb(),
        samples.claims_entries(20_001),
        samples.claims_entries(65_535),
        samples.zip64_end(tape(1), entries=20_001),
        samples.zip64_end(tape(1), entries=1 << 60),
        archive({frame_name(0): samples.huge_header(60_000)}),
        archive({frame_name(0): samples.blank(4097, 8)}),
    ],
    ids=["unpacks without end", "entries", "most entries", "ZIP64", "ZIP64 without end", "claims huge", "too wide"],
)
def test_excess_is_refused_before_it_costs_anything(data: bytes, path: Path) -> None:
    """MEDIA-12: excess entries or bytes are refused."""
    assert isinstance(refusal(path, data), TooLarge)


def test_more_entries_than_the_end_record_admits_are_counted(path: Path) -> None:
    data = bytearray(archive({f"{i}.txt": b"" for i in range(30)} | {frame_name(0): FRAME}))
    data[-22 + 8 : -22 + 12] = b"\1\0\1\0"
    assert isinstance(refusal(path, bytes(data), ArchiveLimits(entries=20)), TooLarge)


_SIZE = len(tape(4))


@pytest.mark.parametrize(
    ("just_enough", "too_little"),
    [
        (ArchiveLimits(archive=_SIZE), ArchiveLimits(archive=_SIZE - 1)),
        (ArchiveLimits(entries=4), ArchiveLimits(entries=3)),
        (ArchiveLimits(frames=4), ArchiveLimits(frames=3)),
        (ArchiveLimits(frame=len(FRAME)), ArchiveLimits(frame=len(FRAME) - 1)),
        (ArchiveLimits(unpacked=4 * len(FRAME)), ArchiveLimits(unpacked=4 * len(FRAME) - 1)),
        (ArchiveLimits(ratio=1), ArchiveLimits(ratio=0)),
        (ArchiveLimits(side=24), ArchiveLimits(side=23)),
        (ArchiveLimits(pixels=24 * 16), ArchiveLimits(pixels=24 * 16 - 1)),
    ],
)
def test_each_limit_is_inclusive(just_enough: ArchiveLimits, too_little: ArchiveLimits, path: Path) -> None:
    assert isinstance(refusal(path, tape(4), too_little), TooLarge)
    path.write_bytes(tape(4))
    with TapeArchive(path, just_enough) as opened:
        assert opened.picture(3).size == (24, 16)


def test_timing_over_its_limit_is_refused(path: Path) -> None:
    assert isinstance(refusal(path, tape(2, timing=timing(2)), ArchiveLimits(json=50)), TooLarge)


@pytest.mark.parametrize(("missing", "taken"), [([40], True), ([40, 41], False)])
def test_missing_frames_are_held_or_refused(missing: list[int], taken: bool, path: Path) -> None:
    """MEDIA-8: one of a hundred is bridged with a warning, two are not."""
    data = tape(100, without=missing, timing=timing(100))
    if not taken:
        assert "lacks 2 of the 100 frames" in refusal(path, data).message
        return
    path.write_bytes(data)
    with TapeArchive(path) as opened:
        assert (len(opened.frames), opened.seconds) == (99, pytest.approx(2.0))
        assert "held" in opened.warnings[0]


def test_a_frame_of_another_size_is_cropped_and_padded_never_rescaled(path: Path) -> None:
    """MEDIA-11: with a warning on the item."""
    path.write_bytes(archive({frame_name(0): FRAME, frame_name(1): OTHER_SIZE}, timing(2)))
    with TapeArchive(path) as opened:
        shown = opened.picture(1)
        original = Image.open(io.BytesIO(OTHER_SIZE)).convert("RGB")
        assert shown.size == (24, 16)
        assert shown.crop((0, 0, 24, 10)).tobytes() == original.crop((0, 0, 24, 10)).tobytes()
        assert shown.crop((0, 10, 24, 16)).getextrema() == ((0, 0),) * 3
        opened.picture(1)
        assert len(opened.warnings) == 1, "reading a frame twice does not repeat its warning"
        assert "frame-00001.png is 40x10" in opened.warnings[0]


def test_a_jpeg_named_png_is_read(path: Path) -> None:
    path.write_bytes(archive({frame_name(0): photo_like(30, 20, format="JPEG")}, timing(1)))
    with TapeArchive(path) as opened:
        assert opened.size == (30, 20)


def test_transparent_pixels_show_black(path: Path) -> None:
    clear = samples.png_of(Image.new("RGBA", (16, 16), (200, 0, 0, 0)))
    path.write_bytes(archive({frame_name(0): clear}, timing(1)))
    with TapeArchive(path) as opened:
        assert opened.picture(0).getextrema() == ((0, 0),) * 3


def test_unknown_members_are_ignored_with_a_warning(path: Path) -> None:
    path.write_bytes(archive({frame_name(0): FRAME, "notes.txt": b"x"}, timing(1)))
    with TapeArchive(path) as opened:
        assert "notes.txt" in opened.warnings[0]


TONE = b"".join(struct.pack("<hh", 1000 + i, -i) for i in range(1, 101))
"""100 samples of two channels."""


def heard(path: Path, into: Path, sound: bytes, limits: ArchiveLimits | None = None) -> tuple[Sound | None, str]:
    """The sound of a tape, and the warnings."""
    path.write_bytes(archive({frame_name(0): FRAME, "soundtrack.wav": sound}, timing(1)))
    with TapeArchive(path, limits) as opened:
        return opened.soundtrack(into), "; ".join(opened.warnings)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (b"RIFFxxxxWAVEgarbage", "no samples"),
        (b"", "no WAV"),
        (b"RIFX" + wav(TONE)[4:], "no WAV"),
        (wav(TONE, tag=0x55), "format 85"),
        (wav(TONE, channels=9), "9 channels"),
        (wav(TONE, rate=7_999), "7999 Hz"),
        (wav(TONE, rate=192_001), "192001 Hz"),
        (wav(b""), "no samples"),
        (wav(TONE)[:12] + samples.riff(b"data", TONE), "format is missing"),
    ],
)
def test_broken_sound_leaves_a_silent_tape_with_a_warning(
    sound: bytes, reason: str, path: Path, tmp_path: Path
) -> None:
    taken, warnings = heard(path, tmp_path / "pcm", sound)
    assert taken is None
    assert "soundtrack.wav is left out" in warnings
    assert reason in warnings
    assert not (tmp_path / "pcm").exists()


FLOATS = struct.pack("<4f", 0.5, float("nan"), float("inf"), -3.0)
_SIZES = struct.pack("<QQQI", 0, len(TONE), 100, 0)


@pytest.mark.parametrize(
    ("sound", "format", "due"),
    [
        (wav(TONE), "s16le", TONE),
        (wav(TONE, channels=1), "s16le", TONE),
        (wav(TONE, rate=8_000), "s16le", TONE),
        (wav(TONE, rate=192_000), "s16le", TONE),
        (wav(TONE)[:-3], "s16le", TONE[:-4]),
        (wav(TONE, extensible=True), "s16le", TONE),
        (wav(TONE, before=samples.riff(b"LIST", b"odd") + samples.riff(b"fact", b"1234")), "s16le", TONE),
        (wav(TONE, before=samples.riff(b"bext", b"odd", filled=False)), "s16le", TONE),
        (wav(TONE, after=samples.riff(b"LIST", b"INFO")), "s16le", TONE),
        (wav(TONE, length=0), "s16le", TONE),
        (wav(TONE, length=0xFFFFFFFF), "s16le", TONE),
        (wav(TONE, length=1 << 30), "s16le", TONE),
        (wav(TONE + b"\1" * 8, kind=b"RF64", length=0xFFFFFFFF, before=samples.riff(b"ds64", _SIZES)), "s16le", TONE),
        (wav(TONE, bits=8), "u8", TONE),
        (wav(TONE[:396], bits=24), "s24le", TONE[:396]),
        (wav(TONE[:396], bits=20, extensible=True), "s24le", TONE[:396]),
        (wav(TONE, bits=32), "s32le", TONE),
        (wav(FLOATS, tag=3, bits=32), "f32le", struct.pack("<4f", 0.5, 0, 1, -1)),
        (wav(FLOATS, tag=3, bits=32, extensible=True), "f32le", struct.pack("<4f", 0.5, 0, 1, -1)),
        (wav(TONE, tag=7, bits=8), "mulaw", TONE),
        (wav(TONE[:396], channels=6), "s16le", TONE[:396]),
    ],
)
def test_every_common_header_of_sound_is_read(
    sound: bytes, format: str, due: bytes, path: Path, tmp_path: Path
) -> None:
    """MEDIA-20: by a reader of our own, so that no format is left to the version of Python."""
    taken, warnings = heard(path, tmp_path / "pcm", sound)
    assert taken is not None
    assert (taken.format, (tmp_path / "pcm").read_bytes()) == (format, due)
    assert warnings == ""


def test_sound_that_is_cut_is_a_warning_and_the_filling_up_of_its_last_block_is_none(
    path: Path, tmp_path: Path
) -> None:
    """MEDIA-20: the frame lasts 20 ms."""
    second = TONE * 480
    assert heard(path, tmp_path / "pcm", wav(second[: 960 * 4] + bytes(3_136 * 4)))[1] == ""
    assert heard(path, tmp_path / "pcm", wav(second[: 1_900 * 4]))[1] == ""
    assert "lasts 1.00 s and the frames 0.02 s" in heard(path, tmp_path / "pcm", wav(second))[1]
    assert "rest of the sound is cut" in heard(path, tmp_path / "pcm", wav(bytes(len(second))))[1]


@pytest.mark.parametrize("timing", [None, "{", [{"frame": 0}]])
def test_without_timing_the_sound_gives_the_pace(timing: object, path: Path, tmp_path: Path) -> None:
    """MEDIA-20: with a warning; a hopeless pace is not taken."""
    frames = {frame_name(i): FRAME for i in range(10)}
    path.write_bytes(archive({**frames, "soundtrack.wav": wav(TONE * 480)}, timing))
    with TapeArchive(path) as opened:
        assert opened.seconds == pytest.approx(1.0)
        assert {round(showing.duration, 6) for showing in opened.frames} == {100}
        assert opened.soundtrack(tmp_path / "pcm") is not None
        assert any("last as long as the sound" in warning for warning in opened.warnings)
    path.write_bytes(archive({**frames, "soundtrack.wav": wav(TONE[:8])}, timing))
    with TapeArchive(path) as opened:
        assert opened.seconds == pytest.approx(0.1667)


def test_zip64_is_read(path: Path) -> None:
    """MEDIA-20: end record, lengths of members and lengths behind members in ZIP64 form."""
    for data in (samples.zip64_end(tape(12)), samples.zip64_stream({frame_name(i): FRAME for i in range(12)})):
        path.write_bytes(data)
        with TapeArchive(path) as opened:
            assert len(opened.frames) == 12
            assert opened.picture(11).size == (24, 16)


def test_sound_over_its_limit_is_left_out(path: Path, tmp_path: Path) -> None:
    taken, warnings = heard(path, tmp_path / "pcm", wav(TONE), ArchiveLimits(soundtrack=100))
    assert taken is None
    assert "left out" in warnings


def test_deflated_members_are_read(path: Path) -> None:
    path.write_bytes(archive({frame_name(0): FRAME}, timing(1), compression=zipfile.ZIP_DEFLATED))
    with TapeArchive(path) as opened:
        assert opened.size == (24, 16)


def test_a_zip_with_a_comment_is_read(path: Path) -> None:
    path.write_bytes(tape(1))
    with zipfile.ZipFile(path, "a") as out:
        out.comment = b"made by hand"
    with TapeArchive(path) as opened:
        assert len(opened.frames) == 1


def test_nothing_is_unpacked_beside_the_archive(path: Path, tmp_path: Path) -> None:
    """MEDIA-12: members are read in place."""
    path.write_bytes(tape_zip(3, 16, 16, sound=True))
    with TapeArchive(path) as opened:
        opened.picture(2)
    assert list(tmp_path.iterdir()) == [path]
