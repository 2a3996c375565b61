"""One process at a time: a lock on a file, held while a context is open. Waiting for it is all it does."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock `path`, waiting as long as another process (or another thread's context) holds it.

    The operating system lets go of it when the holder dies, so no stale lock can remain. The file itself stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
