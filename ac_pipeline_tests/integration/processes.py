"""Several processes of a test's program that begin at the same moment."""

from __future__ import annotations

import subprocess
import sys


def run_at_once(program: str, *arguments: str, processes: int = 3) -> list[int]:
    """The number that each process prints in the end.

    Args:
        program: Python that prints `ready`, waits for a line, and prints its number.
    """
    command = [sys.executable, "-c", program, *arguments]
    runs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    numbers = [int(run.communicate(timeout=120)[0]) for run in runs]
    assert [run.returncode for run in runs] == [0] * processes
    return numbers
