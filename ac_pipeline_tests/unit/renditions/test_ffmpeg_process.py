"""Running ffmpeg: it is fed, watched and ended, and nothing of it stays behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ffmpeg
import pytest

from ac_pipeline.errors import EncoderFailed, UnreadableMedia
from ac_pipeline.renditions.ffmpeg_process import TAIL_CHARACTERS, binary_version, default_binary, run_ffmpeg
from ac_pipeline_tests.unit.renditions.fake_ffmpeg import script

pytestmark = pytest.mark.slow


def stream(out: Path) -> object:
    raw = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="gray", s="64x64", r=30)
    return ffmpeg.output(raw, str(out), vcodec="libx264", threads=1, g=1, crf=0)


def gray(frames: int) -> Callable[[Callable[[bytes], object]], None]:
    def feed(write: Callable[[bytes], object]) -> None:
        for index in range(frames):
            write(bytes((index * 7 + spot * spot * 13) % 256 for spot in range(64 * 64)))

    return feed


def test_what_is_fed_is_encoded(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    outcome = run_ffmpeg(stream(out), default_binary(), feed=gray(30), seconds=1.0)
    assert (outcome.code, outcome.estimate) == (0, None)
    assert out.stat().st_size > 0


def test_a_result_that_grows_over_its_limit_is_ended_and_estimated(tmp_path: Path) -> None:
    whole = run_ffmpeg(stream(tmp_path / "a.mp4"), default_binary(), feed=gray(300), seconds=10.0)
    size = (tmp_path / "a.mp4").stat().st_size
    assert whole.estimate is None

    def endless(write: Callable[[bytes], object]) -> None:
        while True:
            gray(30)(write)

    stopped = run_ffmpeg(
        stream(tmp_path / "b.mp4"), default_binary(), feed=endless, seconds=1000.0, stop_above=size // 10
    )
    assert stopped.estimate is not None
    assert stopped.estimate > size // 10


def test_the_exit_code_comes_with_the_last_words(tmp_path: Path) -> None:
    binary = script(tmp_path, "cat > /dev/null; seq 1 2000 >&2; echo 'no such codec' >&2; exit 3")
    outcome = run_ffmpeg(stream(tmp_path / "out.mp4"), binary, feed=gray(1))
    assert outcome.code == 3
    assert outcome.tail.endswith("no such codec")
    assert len(outcome.tail) <= TAIL_CHARACTERS


def test_an_ffmpeg_that_stops_reading_does_not_block(tmp_path: Path) -> None:
    outcome = run_ffmpeg(stream(tmp_path / "out.mp4"), script(tmp_path, "exit 1"), feed=gray(500))
    assert outcome.code == 1


def test_what_the_feed_raises_is_raised_and_ends_the_run(tmp_path: Path) -> None:
    def feed(write: Callable[[bytes], object]) -> None:
        write(b"\0" * 64 * 64)
        raise UnreadableMedia("frame 1 is broken")

    with pytest.raises(UnreadableMedia, match="frame 1 is broken"):
        run_ffmpeg(stream(tmp_path / "out.mp4"), default_binary(), feed=feed)


def _process_of(folder: Path) -> int:
    return int((folder / "pid").read_text())


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_run_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    binary = script(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(EncoderFailed, match=r"longer than 0\.5 s"):
        run_ffmpeg(stream(tmp_path / "out.mp4"), binary, feed=gray(1), timeout=0.5)
    assert _is_gone(_process_of(tmp_path))


def test_a_killed_run_may_be_tried_again(tmp_path: Path) -> None:
    """Killed from outside, as by the system when memory runs out: transient."""
    with pytest.raises(EncoderFailed, match="signal 9"):
        run_ffmpeg(stream(tmp_path / "out.mp4"), script(tmp_path, "kill -9 $$"), feed=gray(1))


def test_a_missing_binary_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(EncoderFailed, match="AC_FFMPEG"):
        run_ffmpeg(stream(tmp_path / "out.mp4"), missing, feed=gray(1))
    with pytest.raises(EncoderFailed, match="AC_FFMPEG"):
        binary_version(missing)


def test_the_version_is_the_binary_s_own() -> None:
    assert binary_version(default_binary())[:1] in {"n", "N", *"0123456789"}


def test_no_open_file_stays_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run_ffmpeg(stream(tmp_path / "out.mp4"), default_binary(), feed=gray(2))
        with pytest.raises(EncoderFailed):
            run_ffmpeg(stream(tmp_path / "out.mp4"), str(tmp_path / "nowhere"), feed=gray(2))
    assert len(os.listdir("/proc/self/fd")) == before
