"""How a benchmark ends when it is told to: in order, with everything stopped that it started.

Only that. What is started is each benchmark's, and so is stopping it in a `finally` or a context manager.
"""

from __future__ import annotations

import signal
from types import FrameType

ENDED = 128 + signal.SIGTERM
"""The exit code of a program that SIGTERM has ended, as shells count it."""


def end_in_order() -> None:
    """Let SIGTERM raise SystemExit in the main thread; what it ends is not interrupted again."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(ENDED)
