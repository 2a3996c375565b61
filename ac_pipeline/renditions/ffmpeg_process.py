"""One run of ffmpeg under control: fed through a pipe, watched, bounded in time and size, and gone afterwards.

ffmpeg-python builds commands; it cannot stop a run, bound its memory or read its progress (media facts, section 2.7).
"""

from __future__ import annotations

import functools
import os
import platform
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO

import ffmpeg
import imageio_ffmpeg

from ac_pipeline.errors import EncoderFailed, EncoderTimedOut

# Seconds; twice what the most pixels that are encoded took at 22 million a second, one thread (`video.py`)
TIMEOUT = 600.0
TAIL_LINES = 40
TAIL_CHARACTERS = 800

Feed = Callable[[Callable[[bytes], object]], None]  # Given a function that writes to ffmpeg's input, writes all of it


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int  # ffmpeg's exit code
    tail: str  # The last lines it wrote to its error output
    # Expected size of the whole in bytes, where the run was ended for passing `stop_above`; else None
    estimate: int | None = None


def default_binary() -> str:
    """The ffmpeg that imageio-ffmpeg brings along. Raises EncoderFailed if there is none for this machine."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise EncoderFailed(f"No ffmpeg for this machine ({error}); set AC_FFMPEG to one with libx264") from error


@functools.cache
def binary_version(binary: str) -> str:
    """ffmpeg's version as it names itself, e.g. `n9.0.2-17-g2a571b6068-20260930`. Raises EncoderFailed if it does not
    start."""
    try:
        answer = subprocess.run(  # noqa: S603  (an operator's setting or the packaged binary)
            [binary, "-hide_banner", "-version"], capture_output=True, timeout=30, check=True, env=_environment()
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _does_not_start(binary, error) from error
    words = answer.stdout.decode(errors="replace").split()
    return words[2] if len(words) > 2 else "unknown"


@dataclass(slots=True)
class _Run:
    """A process, and what the threads around it look for and find out."""

    process: subprocess.Popen[bytes]
    stop_above: int | None
    seconds: float
    tail: deque[bytes] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    estimate: int | None = None
    feed_error: BaseException | None = None

    def kill(self) -> None:
        """End the process and whatever it started; nothing happens once it has been waited for."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def keep_tail(self, lines: IO[bytes]) -> None:
        with lines:
            self.tail.extend(lines)

    def supply(self, pipe: IO[bytes], feed: Feed) -> None:
        try:
            with pipe:
                feed(pipe.write)
        except BrokenPipeError:
            return  # ffmpeg ended first; its exit code says why
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            self.feed_error = error
            self.kill()

    def follow(self, lines: IO[bytes]) -> None:
        """Read `-progress`: blocks of `key=value` lines, each ended by `progress=continue` or `progress=end`."""
        state: dict[str, str] = {}
        with lines:
            for line in lines:
                key, _, value = line.decode(errors="replace").strip().partition("=")
                state[key] = value
                size, done = state.get("total_size", ""), state.get("out_time_us", "")
                over = self.stop_above is not None and size.isdigit() and int(size) > self.stop_above
                if key == "progress" and value != "end" and over:
                    share = int(done) / 1e6 / self.seconds if done.isdigit() and self.seconds > 0 else 1.0
                    self.estimate = int(int(size) / min(1.0, max(0.05, share)))
                    self.kill()


def run_ffmpeg(
    stream: object,
    binary: str,
    *,
    feed: Feed | None = None,  # Writes ffmpeg's input; whatever it raises ends the run and is raised here
    timeout: float = TIMEOUT,  # Seconds after which it is killed
    stop_above: int | None = None,  # Output size in bytes above which it is killed and the whole estimated
    seconds: float = 0.0,  # Length of the result, for the estimate
) -> Outcome:
    """Run one ffmpeg-python stream (what `ffmpeg.output(...)` returned) to its end. Raises EncoderFailed (it did not
    start, or was killed), EncoderTimedOut (it ran out of time)."""
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
        raise _does_not_start(binary, error) from error
    finally:
        os.close(writing)
    run = _Run(process, stop_above, seconds)
    work: list[Callable[[], None]] = [partial(run.follow, os.fdopen(reading, "rb"))]
    if process.stderr is not None:
        work.append(partial(run.keep_tail, process.stderr))
    if feed is not None and process.stdin is not None:
        work.append(partial(run.supply, process.stdin, feed))
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        said = f"ffmpeg took longer than {timeout:g} s and was ended (AC_ENCODE_TIMEOUT_SECONDS)"
        raise EncoderTimedOut(said) from None
    finally:
        run.kill()
        process.wait()
        for thread in threads:
            thread.join()
    if run.feed_error is not None:
        raise run.feed_error
    tail = b"".join(run.tail).decode(errors="replace").strip()[-TAIL_CHARACTERS:]
    if run.estimate is None and code < 0:
        raise EncoderFailed(f"ffmpeg was killed by signal {-code}; try again. Its last words: {tail or 'none'}")
    return Outcome(code, tail, run.estimate)


def _does_not_start(binary: str, error: Exception) -> EncoderFailed:
    return EncoderFailed(f"{binary} does not start ({error}); set AC_FFMPEG to an ffmpeg with libx264")


def _cpu_options() -> list[str]:
    """SSE2 only: ffmpeg's AAC differs between machines with and without AVX2, at no measurable gain (section 5)."""
    return ["-cpuflags", "sse2"] if platform.machine() in ("x86_64", "AMD64") else []


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
