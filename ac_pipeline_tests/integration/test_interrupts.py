"""Ctrl-C of commands over many users, in a process of their own; and codes that look like markup in every command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run

USERS = 12
SECONDS = 120.0
# The engine tells when a user's turn begins, and the third one holds all others until Ctrl-C was pressed.
PROGRAM = """
import faulthandler, os, sys, threading
faulthandler.enable()
from ac_pipeline.cli.main import main
from ac_pipeline.sync.engine import Engine

begun, go_on, lock, sync = [], threading.Event(), threading.Lock(), Engine.sync

def held(engine, account, *rest):
    with lock:
        begun.append(account.key)
        if len(begun) == 3:
            print("under way", file=sys.stderr, flush=True)
            threading.Thread(target=lambda: (sys.stdin.readline(), go_on.set()), daemon=True).start()
    if len(begun) >= 3:
        go_on.wait()
    return sync(engine, account, *rest)

Engine.sync = held
sys.argv = ["ac-pipeline", *sys.argv[1:]]
main()
"""


def interrupted(*arguments: str, presses: int = 1) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that is interrupted while its third user is under way."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "AC_CONCURRENT_USERS": "2"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(SECONDS, process.send_signal, [signal.SIGABRT])  # whoever hangs says where
    watchdog.start()
    with process:
        assert process.stderr is not None
        for word in ("under way", *["Another interrupt stops at once"] * presses):
            while word not in (line := process.stderr.readline()):
                assert line, process.stdout and process.stdout.read()
            if word == "under way" or presses == 2:
                process.send_signal(signal.SIGINT)
            if presses == 2 and word != "under way":
                break
        out, err = process.communicate("go on\n" if presses == 1 else None)
    watchdog.cancel()
    assert process.returncode != -signal.SIGABRT, err
    return process.returncode, out, err


@pytest.fixture
def moods(slice_: Slice) -> Slice:
    for number in range(USERS):
        slice_.add("mood", slice_.user(f"user{number}"), mood="fine")
    return slice_


def test_ctrl_c_of_a_sync_prints_the_report_of_all_that_was_done(moods: Slice, cli: Run) -> None:
    """GUARD-8: it ends with 130, says how many users were not reached, and the next run does the rest."""
    code, out, _ = interrupted("sync", "--json")
    report = json.loads(out)
    assert code == 130
    assert 3 <= report["users"] <= 5
    assert report["not_reached"] == USERS + 1 - report["users"]  # and the guest
    code, out = cli("sync", "--json")
    assert code == 0
    assert json.loads(out)["types"]["mood"]["created"] == USERS - report["types"]["mood"]["created"]


def test_ctrl_c_of_a_retry_says_who_was_not_reached(moods: Slice, cli: Run, mongo_database: Any) -> None:
    """GUARD-8."""
    mongo_database["moods"].update_many({}, {"$set": {"mood": ""}})
    assert cli("sync")[0] == 1
    mongo_database["moods"].update_many({}, {"$set": {"mood": "fine"}})
    code, out, _ = interrupted("retry")
    assert code == 130
    found = re.search(r"Interrupted: (\d+) users were not reached", out)
    assert found is not None
    assert USERS - 5 <= int(found[1]) <= USERS - 3


def test_a_second_ctrl_c_ends_the_process_at_once(moods: Slice, cli: Run) -> None:
    """GUARD-8: although users are under way who never end."""
    code, out, _ = interrupted("sync", presses=2)
    assert code == 130
    assert "What was committed is kept" in out


@pytest.mark.parametrize("code", ["[/x]", "\x1b[31m[bold]", "=1+1"])
def test_a_code_that_looks_like_something_else_ends_no_command(slice_: Slice, cli: Run, code: str) -> None:
    """SEEN-5: `[/x]` used to crash sync, items, item and retry, and to lose the report of all users."""
    ada, bob = slice_.user("ada"), slice_.user("bob")
    item = slice_.add("kidlisp", ada, code=code, source="(wipe blue)")
    slice_.add("mood", bob, mood="fine")
    shown = code.replace("\x1b", "\\x1b")
    for command in (["sync"], ["items"], ["item", f"kidlisp:{item}"], ["retry"], ["plan"], ["status"], ["verify"]):
        ended, out = cli(*command)
        assert ended in {0, 1}
        assert "\x1b" not in out
        if command[0] != "items":  # its table has too many columns for whole words
            assert (shown in out) == (command[0] in {"sync", "item", "retry"}), command
    assert len(slice_.records(bob, "mood")) == 1
    _, out = cli("items", "--csv")
    assert shown in out
    assert ("'=1+1" in out) == (code == "=1+1")
