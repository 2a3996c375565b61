"""Keeps one server process as long as its own standard input stays open: `python tether.py ARGV...`.

The pipe to it closes when the process that holds the other end dies, whatever it dies of, so that a killed test run
leaves no server behind. Prints the process id of the server on its standard output, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import threading

_PATIENCE_SECONDS = 20.0


def main(argv: list[str]) -> int:
    """Run `argv` until it ends or our standard input does; the exit code is the server's."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr) as server:
        sys.stdout.write(f"{server.pid}\n")
        sys.stdout.flush()
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
        return server.wait()


def _end_with_input(server: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    server.terminate()
    try:
        server.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
