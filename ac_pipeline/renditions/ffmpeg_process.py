"""One run of ffmpeg under control: fed through a pipe, watched, bounded in time and size, and gone afterwards.

ffmpeg-python builds commands; it cannot stop a run, bound its memory or read its progress (media facts, section
2.7), so the process is run here. What to encode is `video.py`.
"""

from __future__ import annotations

import functools
import os
import platform
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ffmpeg
import imageio_ffmpeg

from ac_pipeline.errors import EncoderFailed, EncoderTimedOut

TIMEOUT = 600.0
"""Seconds; twice what the most pixels that are encoded took at 22 million a second, one thread (`video.py`)."""
TAIL_LINES = 40
TAIL_CHARACTERS = 800

Feed = Callable[[Callable[[bytes], object]], None]  # Given a function that writes to ffmpeg's input, writes all of it


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    code: int  # ffmpeg's exit code
    tail: str  # The last lines it wrote to its error output
    # Expected size of the whole in bytes, where the run was ended for passing `stop_above`; else None
    estimate: int | None = None


def default_binary() -> str:
    """The ffmpeg that imageio-ffmpeg brings along.

    Raises:
        EncoderFailed: There is none for this machine.
    """
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise EncoderFailed(f"No ffmpeg for this machine ({error}); set AC_FFMPEG to one with libx264") from error


@functools.cache
def binary_version(binary: str) -> str:
    """ffmpeg's version as it names itself, e.g. `n9.0.2-17-g2a571b6068-20260930`.

    Raises:
        EncoderFailed: It does not start.
    """
    try:
        answer = subprocess.run(  # noqa: S603  (an operator's setting or the packaged binary)
            [binary, "-hide_banner", "-version"], capture_output=True, timeout=30, check=True, env=_environment()
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EncoderFailed(f"{binary} does not start ({error}); set AC_FFMPEG to an ffmpeg with libx264") from error
    words = answer.stdout.decode(errors="replace").split()
    return words[2] if len(words) > 2 else "unknown"


@dataclass(slots=True)
class _Watch:
    """What the threads around one process look for, and what they find out."""

    stop_above: int | None
    seconds: float
    tail: deque[bytes] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    estimate: int | None = None
    feed_error: BaseException | None = None


def run_ffmpeg(
    stream: object,
    binary: str,
    *,
    feed: Feed | None = None,
    timeout: float = TIMEOUT,
    stop_above: int | None = None,
    seconds: float = 0.0,
) -> Outcome:
    """Run one ffmpeg-python stream to its end.

    Args:
        stream: What `ffmpeg.output(...)` returned.
        feed: Writes ffmpeg's input; whatever it raises ends the run and is raised here.
        timeout: Seconds after which it is killed.
        stop_above: Output size in bytes above which it is killed and the whole estimated.
        seconds: Length of the result, for the estimate.

    Raises:
        EncoderFailed: It did not start, or was killed.
        EncoderTimedOut: It ran out of time.
    """
    reading, writing = os.pipe()
    options = ["-hide_banner", *_cpu_options(), "-nostats", "-loglevel", "error"]
    options += ["-progress", f"pipe:{writing}", "-stats_period", "0.2", "-filter_threads", "1"]
    if feed is None:
        options.append("-nostdin")
    command: list[str] = ffmpeg.compile(stream, cmd=[binary, *options], overwrite_output=True)
    try:
        process = subprocess.Popen(  # noqa: S603  (built from numbers and our own paths)
            command,
            stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(writing,),
            start_new_session=True,
            env=_environment(),
        )
    except OSError as error:
        os.close(reading)
        raise EncoderFailed(f"{binary} does not start ({error}); set AC_FFMPEG to an ffmpeg with libx264") from error
    finally:
        os.close(writing)
    watch = _Watch(stop_above, seconds)
    threads = [
        threading.Thread(target=_keep_tail, args=(process, watch), daemon=True),
        threading.Thread(target=_follow, args=(process, reading, watch), daemon=True),
    ]
    if feed is not None:
        threads.append(threading.Thread(target=_supply, args=(process, feed, watch), daemon=True))
    for thread in threads:
        thread.start()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise EncoderTimedOut(
            f"ffmpeg took longer than {timeout:g} s and was ended (AC_ENCODE_TIMEOUT_SECONDS)"
        ) from None
    finally:
        _kill(process)
        process.wait()
        for thread in threads:
            thread.join()
    if watch.feed_error is not None:
        raise watch.feed_error
    tail = b"".join(watch.tail).decode(errors="replace").strip()[-TAIL_CHARACTERS:]
    if watch.estimate is None and code < 0:
        raise EncoderFailed(f"ffmpeg was killed by signal {-code}; try again. Its last words: {tail or 'none'}")
    return Outcome(code, tail, watch.estimate)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started; nothing happens once it has been waited for."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _keep_tail(process: subprocess.Popen[bytes], watch: _Watch) -> None:
    if process.stderr is not None:
        with process.stderr as lines:
            watch.tail.extend(lines)


def _supply(process: subprocess.Popen[bytes], feed: Feed, watch: _Watch) -> None:
    if process.stdin is None:
        return
    try:
        with process.stdin as pipe:
            feed(pipe.write)
    except BrokenPipeError:
        return  # ffmpeg ended first; its exit code says why
    except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
        watch.feed_error = error
        _kill(process)


def _follow(process: subprocess.Popen[bytes], reading: int, watch: _Watch) -> None:
    """Read `-progress`: blocks of `key=value` lines, each ended by `progress=continue` or `progress=end`."""
    state: dict[str, str] = {}
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            key, _, value = line.decode(errors="replace").strip().partition("=")
            state[key] = value
            if key != "progress":
                continue
            size = state.get("total_size", "")
            if watch.stop_above is not None and value != "end" and size.isdigit() and int(size) > watch.stop_above:
                watch.estimate = int(int(size) / max(0.05, _share(state, watch.seconds)))
                _kill(process)


def _share(state: Mapping[str, str], seconds: float) -> float:
    done = state.get("out_time_us", "")
    return min(1.0, int(done) / 1e6 / seconds) if done.isdigit() and seconds > 0 else 1.0


def _cpu_options() -> list[str]:
    """SSE2 only: ffmpeg's AAC differs between machines with and without AVX2, at no measurable gain (section 5)."""
    return ["-cpuflags", "sse2"] if platform.machine() in ("x86_64", "AMD64") else []


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
