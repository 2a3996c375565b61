"""The end of what `make dev` starts: whatever asks it to stop, nothing it started stays behind.

That of a real Dagster is in `test_dagster_backfill.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS = 300.0


class Family:
    """A process and all that descend from it, as they are seen while it runs."""

    def __init__(self, *command: str, folder: Path) -> None:
        self.log = folder / "log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._seen = {self.process.pid}

    def descendants(self) -> set[int]:
        """Ids of running processes that descend from the first one, whoever is their parent by now."""
        parents = {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if state != "Z":
                    parents[int(path.name)] = int(parent)
        while more := {pid for pid, parent in parents.items() if parent in self._seen} - self._seen:
            self._seen |= more
        return (self._seen & set(parents)) - {self.process.pid}

    def wait_for_log(self, word: str) -> None:
        self.wait_until(lambda: word in self.log.read_text(errors="replace"))

    def wait_until(self, true: object) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():  # type: ignore[operator]
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            self.descendants()
            time.sleep(0.05)

    def close(self) -> None:
        for pid in {self.process.pid} | self.descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@pytest.fixture
def families() -> Iterator[list[Family]]:
    started: list[Family] = []
    yield started
    for family in started:
        family.close()


# A program that starts two children, of which one is deaf to everything, and ends well at SIGINT.
PROGRAM = """
import signal, subprocess, sys, time
hearing = "import signal, time; print('ready', flush=True); time.sleep(99)"
deaf = hearing.replace("time;", "time; [signal.signal(number, signal.SIG_IGN) for number in (2, 15)];")
for code in sys.argv[1:]:
    subprocess.Popen([sys.executable, "-c", {"deaf": deaf, "hearing": hearing}[code]])
try:
    print("ready", flush=True)
    time.sleep(99)
except KeyboardInterrupt:
    print("well", flush=True)
    sys.exit(0)
"""
KEEPER = f"""
import os, sys
from pathlib import Path
from ac_pipeline.defs.home import run_group
patience = tuple(float(word) for word in sys.argv[1].split(","))
sys.exit(run_group([sys.executable, "-c", {PROGRAM!r}, *sys.argv[2:]], os.environ, Path("."), patience))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("children", [[], ["hearing"], ["deaf"]], ids=["none", "hearing", "deaf"])
def test_whatever_asks_to_stop_nobody_stays_behind(
    families: list[Family], tmp_path: Path, number: signal.Signals, children: list[str]
) -> None:
    family = Family(
        sys.executable, "-c", KEEPER, "60,60,9" if not children else "0.2,0.2,9", *children, folder=tmp_path
    )
    families.append(family)
    family.wait_until(lambda: family.log.read_text().count("ready") == 1 + len(children))
    family.process.send_signal(number)
    assert family.process.wait(SECONDS) == 0
    assert family.descendants() == set()
    assert children or "well" in family.log.read_text()


def test_a_program_that_ends_by_itself_leaves_nobody_and_its_exit_code(families: list[Family], tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen(['sleep', '99']); sys.exit(7)"
    keeper = f"import os, sys; from pathlib import Path; from ac_pipeline.defs.home import run_group; \
sys.exit(run_group([sys.executable, '-c', {code!r}], os.environ, Path('.'), (0.1, 5.0, 1.0)))"
    family = Family(sys.executable, "-c", keeper, folder=tmp_path)
    families.append(family)
    assert family.process.wait(SECONDS) == 7
    assert family.descendants() == set()


def test_who_asks_again_later_waits_no_longer(families: list[Family], tmp_path: Path) -> None:
    family = Family(sys.executable, "-c", KEEPER, "600,600,9", "deaf", folder=tmp_path)
    families.append(family)
    family.wait_until(lambda: family.log.read_text().count("ready") == 2)
    family.process.send_signal(signal.SIGTERM)
    family.wait_for_log("well")
    deadline = time.monotonic() + SECONDS
    while family.process.poll() is None:  # the first second's signals are one wish, so ask until it is heard
        assert time.monotonic() < deadline
        family.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert family.descendants() == set()
