"""Server processes on this machine: start them, wait until they answer, stop them by process id.

What the servers are, and what is remembered of them, is in `stack.py`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ac_pipeline.errors import ServiceUnreachable

LOOPBACK = "127.0.0.1"

_POLL_SECONDS = 0.02
_RELEASE_SECONDS = 2.0
_LOG_TAIL_LINES = 20
_READS = 50


@dataclass(frozen=True, slots=True)
class Service:
    name: str  # What messages and log files call it
    argv: tuple[str, ...]  # Command line, program first
    healthy: Callable[[], bool]  # True if it answers; never raises, never waits longer than about a second
    # Variables on top of ours. The command line is visible to everybody on the machine, so passwords belong here.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock `path`, waiting as long as another process (or another thread's context) holds it.

    The operating system lets go of it when the holder dies, so no stale lock can remain. The file itself stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:  # closing it lets go of the lock
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


PORTS = range(10_000, 32_000)
"""Below those that systems give to outgoing connections (from 32,768 on Linux, 49,152 elsewhere): a server that comes
back on its port must not find a client's connection there."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at this moment."""
    while not is_free(port := secrets.choice(PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """True if nobody listens on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def gets_free(port: int) -> bool:
    """True if a port is free, or becomes so soon: a process that dies is listed no more before it gives up its port."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def spawn_detached(service: Service, log: Path) -> int:
    """Start a server in a session of its own, its output appended to `log`, and return its process id.

    It outlives us and hears neither our terminal's Ctrl-C nor its closing.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        service.argv[0],
        list(service.argv),
        {**os.environ, **service.environment},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def command_line(pid: int) -> str | None:
    """The command line of a running process; None when there is none, or it has ended already."""
    with suppress(ChildProcessError):  # a child that has ended is collected: until then the system keeps its id
        os.waitpid(pid, os.WNOHANG)
    if Path("/proc/self/stat").exists():
        return _command_line_from_proc(Path("/proc") / str(pid))
    listed = subprocess.run(  # noqa: S603 - a number is all that varies
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    found = listed.stdout.strip()
    return found if found and "<defunct>" not in found else None


def _command_line_from_proc(process: Path) -> str | None:
    for _ in range(_READS):
        try:
            state = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return None
        if state in {"Z", "X"}:
            return None
        if any(words):
            return " ".join(word.decode(errors="replace") for word in words if word)
        time.sleep(_POLL_SECONDS)  # the kernel shows no words for a moment while a program is being started
    return None  # a thread of the kernel never has any


def stop_processes(commands: Mapping[int, str], *, patience: float = 20.0) -> set[int]:
    """End processes together, first with SIGTERM, after `patience` seconds with SIGKILL, and wait until they are gone.
    `commands`: process id -> its command line, both as they were noted. A process with another command line got its
    number later: it is not ours and is left alone. Returns the ids of those that were running and ours."""
    ours = {pid for pid, command in commands.items() if command_line(pid) == command}
    for pid in ours:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while left := [pid for pid in ours if command_line(pid) == commands[pid]]:
        if time.monotonic() > deadline:
            for pid in left:
                _signal(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return ours


def wait_until_healthy(service: Service, alive: Callable[[], bool], log: Path, *, patience: float = 60.0) -> None:
    """Return as soon as the server answers. Raises ServiceUnreachable if it died, or does not answer after `patience`
    seconds; with the end of its log."""
    deadline = time.monotonic() + patience
    while True:
        if not alive():
            raise ServiceUnreachable(f"{service.name} ended while it started; {_tail(log)}")
        if service.healthy():
            return
        if time.monotonic() > deadline:
            raise ServiceUnreachable(f"{service.name} does not answer after {patience:.0f} seconds; {_tail(log)}")
        time.sleep(_POLL_SECONDS)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return f"it wrote no log ({log})"
    shown = "\n".join(lines[-_LOG_TAIL_LINES:]) or "(empty)"
    return f"the end of {log}:\n{shown}"
