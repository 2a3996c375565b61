"""Processes are ended only when they are ours, and really ended when they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ac_pipeline.errors import ServiceUnreachable
from ac_pipeline.local.services.processes import (
    Service,
    command_line,
    spawn_detached,
    stop_processes,
    wait_until_healthy,
)
from ac_pipeline_tests.tethered import Tethered

pytestmark = pytest.mark.slow

_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def _service(code: str, *, healthy: bool = True) -> Service:
    return Service(name="the test server", argv=(sys.executable, "-c", code), healthy=lambda: healthy)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[int]:
    pid = spawn_detached(_service("import time; time.sleep(60)"), tmp_path / "sleeper.log")
    yield pid
    stop_processes({pid: command_line(pid) or ""})


def test_a_process_with_another_command_line_is_left_alone(sleeper: int) -> None:
    """A process id that was noted before a restart of the machine may belong to somebody else now."""
    assert stop_processes({sleeper: "python -m something.else"}) == set()
    assert command_line(sleeper) is not None


def test_a_stopped_process_is_gone_when_the_call_returns(sleeper: int) -> None:
    command = command_line(sleeper)
    assert command is not None
    assert command.endswith("import time; time.sleep(60)")
    assert stop_processes({sleeper: command}) == {sleeper}
    assert command_line(sleeper) is None
    assert stop_processes({sleeper: command}) == set()


def test_a_process_that_ignores_the_polite_signal_is_killed_after_the_patience(tmp_path: Path) -> None:
    log = tmp_path / "stubborn.log"
    pid = spawn_detached(_service(_STUBBORN), log)
    command = command_line(pid) or ""
    while "ready" not in log.read_text():
        assert command_line(pid) == command
    assert stop_processes({pid: command}, patience=0.1) == {pid}
    assert command_line(pid) is None


def test_a_detached_process_has_a_session_of_its_own_and_its_words_in_the_log(tmp_path: Path) -> None:
    """Ctrl-C in the terminal of the demo must not reach the servers."""
    log = tmp_path / "logs" / "session.log"
    pid = spawn_detached(_service("import os, sys; print(os.getsid(0) == os.getpid(), file=sys.stderr)"), log)
    while command_line(pid) is not None:
        pass
    assert log.read_text() == "True\n"


def test_a_server_that_dies_or_stays_silent_is_told_from_one_that_answers(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("".join(f"line {number}\n" for number in range(30)))
    wait_until_healthy(_service(""), lambda: True, log)
    with pytest.raises(
        ServiceUnreachable, match=r"ended while it started; the end of .*\nline 10\n(.*\n)*line 29"
    ) as died:
        wait_until_healthy(_service("", healthy=False), lambda: False, log)
    assert "line 9\n" not in died.value.message
    with pytest.raises(ServiceUnreachable, match="does not answer after 0 seconds"):
        wait_until_healthy(_service("", healthy=False), lambda: True, log, patience=0.0)


def test_a_tethered_server_ends_when_its_holder_is_killed(tmp_path: Path) -> None:
    """A test run that is killed leaves no server behind."""
    holder = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from ac_pipeline.local.services.processes import Service\n"
        "from ac_pipeline_tests.tethered import Tethered\n"
        "held = Tethered(Service('held', (sys.executable, '-c', 'import time; time.sleep(60)'), lambda: True),"
        f" Path({str(tmp_path / 'held.log')!r}))\n"
        "print(held.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert command_line(pid) is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while command_line(pid) is not None:
            assert time.monotonic() < deadline


def test_a_tethered_server_can_be_stopped_twice_and_its_password_stays_out_of_sight(tmp_path: Path) -> None:
    """ACCT-5: what a server needs to know in secret is in its environment, not on its command line."""
    service = Service(
        name="held",
        argv=(sys.executable, "-c", "import os, time; print(os.environ['SECRET'], flush=True); time.sleep(60)"),
        healthy=lambda: True,
        environment={"SECRET": "hidden-word"},
    )
    held = Tethered(service, tmp_path / "held.log")
    assert "hidden-word" not in (command_line(held.pid) or "") + repr(service)
    held.stop()
    held.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(held.pid, 0)
