"""One program and all it starts: run it, hand on the wish to stop, and leave nothing behind.

`dagster dev` alone is not enough for that: it ends before its code server does, a second signal while it stops makes it
leave its children, and the runs of the moment are nobody's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

_POLL_SECONDS = 0.1
_SAME_WISH_SECONDS = 1.0
"""A second signal within this time is the first one: a `make` or a service manager sends it to everybody."""

PATIENCE = (18.0, 6.0, 2.0)
"""Seconds everybody has to go after SIGINT, SIGTERM and SIGKILL. SIGINT goes to the program alone, which knows the
order in which its children stop (10 s were measured on a busy machine); the others go to all. Together less than the 30
seconds that service managers and `make demo` wait."""
_SENT = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class _Wishes:
    """Counts the signals that ask us to stop: Ctrl-C, SIGTERM, the closing of the terminal.

    They are counted and nothing is raised: between a start and its being noted, an exception would lose a process.
    """

    def __init__(self) -> None:
        self.count = 0
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # Also SIGINT: a shell starts background commands deaf to it, and what we start would inherit that.
        self._before = {number: signal.signal(number, self._asked) for number in numbers}

    def forget(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def run_group(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    patience: tuple[float, float, float] = PATIENCE,
) -> int:
    """Run a program in a session of its own until it ends or we are asked to stop; then nothing of it is left.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP ask us to stop. Another one while we do loses patience with the present step.

    Args:
        command: Program first.
        environment: All of it.
        folder: Where it runs.
        patience: Seconds to wait after each of the three ways to stop it.

    Returns:
        0 when we were asked to stop, else the program's exit code.
    """
    wishes = _Wishes()
    try:
        process = subprocess.Popen(command, env=dict(environment), cwd=folder, start_new_session=True)  # noqa: S603
        while process.poll() is None and not wishes.count:
            time.sleep(_POLL_SECONDS)
        code = process.poll()
        _stop(process, wishes, patience)
        return 0 if code is None else code
    finally:
        wishes.forget()


def _stop(process: subprocess.Popen[bytes], wishes: _Wishes, patience: tuple[float, float, float]) -> None:
    for number, seconds in zip(_SENT, patience, strict=True):
        try:
            if number is not signal.SIGINT:
                os.killpg(process.pid, number)
            elif process.poll() is None:
                process.send_signal(number)
        except ProcessLookupError:
            return
        if _gone(process, seconds, wishes):
            return


def _gone(process: subprocess.Popen[bytes], seconds: float, wishes: _Wishes) -> bool:
    """Whether everybody of the group is gone, within so many seconds and before we are asked again."""
    begun, asked = time.monotonic(), wishes.count
    while process.poll() is None or _anybody(process.pid):
        passed = time.monotonic() - begun
        if passed < _SAME_WISH_SECONDS:
            asked = wishes.count
        if passed > seconds or wishes.count > asked:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _anybody(group: int) -> bool:
    """Whether a process of the group runs. Dead ones that nobody collects (a container without init) do not count."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True
    return any(_of_group(path, group) for path in Path("/proc").iterdir() if path.name.isdigit())


def _of_group(process: Path, group: int) -> bool:
    try:
        state, _, number = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(number) == group and state not in {"Z", "X"}
