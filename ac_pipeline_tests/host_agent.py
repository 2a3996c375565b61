"""Process 1 of a host of the tests: starts what it is told over HTTP, says what is alive, and ends with its maker.

It stands for what starts processes on a real machine: a service manager, or the agent of a cluster. Only the standard
library is used, for it has to be there at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_alive: set[int] = set()
_born = threading.Condition()


class _Handler(BaseHTTPRequestHandler):
    """POST / with argv, environment and log starts a process; GET and DELETE of its id ask for it and end it."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, asked["log"], append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        with _born:
            pid = os.posix_spawn(
                asked["argv"][0], asked["argv"], asked["environment"], file_actions=actions, setsid=True
            )
            _alive.add(pid)
            _born.notify()
        self._answer({"pid": pid})

    def do_GET(self) -> None:
        self._answer({"alive": int(self.path[1:]) in _alive})

    def do_DELETE(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(int(self.path[1:]), signal.SIGTERM)
        self.do_GET()

    def _answer(self, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No access log."""


def _collect() -> None:
    """Collect the dead, orphans included, as process 1 has to."""
    while True:
        try:
            pid, _ = os.waitpid(-1, 0)
        except ChildProcessError:
            with _born:
                _born.wait_for(lambda: _alive)
            continue
        with _born:
            _alive.discard(pid)


def main(name: str, own: str, seen: str) -> None:
    """Serve until standard input ends.

    Args:
        name: Of the host.
        own: Its folder.
        seen: Where it sees it; another place than `own` in namespaces of its own, which are then furnished.
    """
    if own != seen:
        subprocess.run(["mount", "--bind", own, seen], check=True)
        socket.sethostname(name)
    os.chdir(seen)
    sys.stdout.write("made\n")
    sys.stdout.flush()
    address = sys.stdin.readline().strip()  # it has one from now on
    server = ThreadingHTTPServer((address, 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=_collect, daemon=True).start()
    sys.stdout.write(f"http://{address}:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
