"""Servers that end with the process that started them, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from ac_pipeline.errors import ServiceUnreachable
from ac_pipeline.local.services.processes import Service, wait_until_healthy

_KEEPER = str(Path(__file__).with_name("tether.py"))


class Tethered:
    """A server that ends with us: a small keeper process holds it and notices when we are gone, even by kill -9."""

    def __init__(self, service: Service, log: Path) -> None:
        """Start it and wait until it answers.

        Raises:
            ServiceUnreachable: It died or does not answer.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, _KEEPER, *service.argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**os.environ, **service.environment},
                start_new_session=True,
            )
        try:
            self.pid = self._read_pid(log)
            wait_until_healthy(service, lambda: self._keeper.poll() is None, log)
        except ServiceUnreachable:
            self.stop()
            raise

    def _read_pid(self, log: Path) -> int:
        if self._keeper.stdout is None:
            raise ServiceUnreachable("the keeper of a local server has no output; this is an error in its start")
        line = self._keeper.stdout.readline()
        if not line.strip():
            raise ServiceUnreachable(f"a local server could not be started; see {log}")
        return int(line)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End the server and wait for it; may be repeated."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()
