"""Marks of processes: whether the one that left a mark is certainly dead. Used by `leases.py`; nothing is stored here.

Only what the kernel of this very machine says counts. Of a process on another machine, in another container, or of an
earlier start of this machine, nothing is known, and the same holds on systems without `/proc`.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def own_mark() -> str | None:
    """The mark of this process, or None where processes cannot be told apart for good.

    Start of the machine, namespace of process ids, process id and start of the process: an id alone is given again.
    """
    try:
        return f"{_here()} {os.getpid()} {_start(os.getpid())}"
    except OSError:
        return None


def is_dead(mark: str) -> bool:
    """Whether the process that left this mark has certainly ended."""
    where, _, process = mark.partition(" ")
    pid, _, start = process.partition(" ")
    try:
        if where != _here() or not pid.isdigit():
            return False
        # Not by /proc alone: a system may hide the processes of other users there, and this call never does.
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    except OSError:
        return False
    try:
        return _start(int(pid)) != start
    except OSError:
        return False


def _here() -> str:
    """This start of this machine, and the namespace in which process ids mean what they do here."""
    return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}/{(_PROC / 'self/ns/pid').readlink()}"


def _start(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty for one that is dead and not collected."""
    # The second field, a name in parentheses, may hold anything; the third is the state, the twenty-second the start.
    state, *fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return "" if state in {"Z", "X"} else fields[18]
