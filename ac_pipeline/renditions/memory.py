"""How much memory decoding may take: reservations of bytes that all threads of the process share.

Whoever decodes reserves first what it needs at most. `DECODING` is for one picture or video stream while it is decoded;
nobody who holds a part of it may wait for more of anything. `FRAMES` is for what a tape holds while it is encoded, and
is reserved before `DECODING`. Both, with the files of pictures and the process itself, stay below 1 GiB.
"""

from __future__ import annotations

import ctypes
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ac_pipeline.errors import TooLarge

_LARGE = 16 << 20
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Gives back to the system what the heaps of glibc keep of freed memory, one heap for each thread."""


class MemoryBudget:
    """A number of bytes, given out in the order in which they are asked for."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, size: int, name: str) -> Iterator[None]:
        """Wait for `size` bytes and hold them while the context is open.

        Raises:
            TooLarge: More than there is for the whole process; the message begins with `name`.
        """
        if size > self.total:
            raise TooLarge(f"{name} takes {size >> 20} MiB to decode; at most {self.total >> 20} MiB are used for that")
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and size <= self._free)
                self._free -= size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        except BaseException as error:
            # An error may be kept for long, and with it the pixels that its frames name.
            cause: BaseException | None = error
            while cause is not None:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__cause__
            raise
        finally:
            if size > _LARGE and _trim is not None:
                _trim(0)
            with self._changed:
                self._free += size
                self._changed.notify_all()


DECODING = MemoryBudget(448 << 20)
FRAMES = MemoryBudget(256 << 20)
FRAME_COST = 12
"""Bytes for each pixel of a tape's frames: the frame under way, the next one and the raw pixels for the encoder."""
