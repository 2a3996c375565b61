"""Commits are paced for the relay, on a real PDS and a real database, and the plan says the same as the sync does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ac_pipeline.atproto.rate_limits import HOUR, POLICY, commits_key
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import RANGE_END, RANGE_START, USERS, records_key
from ac_pipeline.defs.checks import NOTHING_DEFERRED
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.defs.pipeline import PipelineResource
from ac_pipeline.items import State
from ac_pipeline.media.registry import media_type
from ac_pipeline.settings import load_settings
from ac_pipeline_tests.conftest import MongoServer
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.integration.conftest import Run
from ac_pipeline_tests.integration.processes import run_at_once

# One run: commits as long as it may, and says how often that was. Told by a line on stdin when to start.
RUN = """
import sys, time
from ac_pipeline.atproto.rate_limits import Pace
from ac_pipeline.errors import RateLimited
from ac_pipeline.mongo.ledger.collections import MongoBudgetStore
from ac_pipeline.mongo.database import connect

store = MongoBudgetStore(connect(sys.argv[1])[sys.argv[2]]["budgets"])
pace = Pace("pds.test", 200, store=store, clock=time.time, sleep=time.sleep, max_wait=0.0)
made = 0
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        with pace.commit("did:plc:a", held=True):
            made += 1
except RateLimited:
    print(made)
"""


@pytest.fixture
def paced(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line under a limit of three commits an hour."""
    monkeypatch.setenv("AC_RELAY_COMMITS_PER_HOUR", "3")
    return cli


def synced(cli: Run) -> dict[str, int]:
    """What a sync of all moods did."""
    code, out = cli("sync", "--type", "mood", "--json")
    assert code == 0, out
    tally = json.loads(out)["types"]["mood"]
    return {name: tally[name] for name in ("created", "updated", "deleted", "deferred") if tally[name]}


def end_the_hour(slice_: Slice) -> None:
    """As if the hour that is under way had begun an hour earlier."""
    key = commits_key(slice_.pipeline.engine.host)
    window = slice_.pipeline.budgets.read(key).windows[POLICY]
    assert slice_.pipeline.budgets.change(key, POLICY, window, replace(window, reset=window.reset - HOUR))


def test_what_is_beyond_the_relays_hour_is_deferred_and_written_once_in_the_next(paced: Run, slice_: Slice) -> None:
    """LIMIT-9, LIMIT-8, VERIFY-1: three users' commits of five go; the plan named the time before."""
    users = [slice_.user(name) for name in ("ada", "bea", "cyd", "dan", "eve")]
    documents = {user.key: slice_.add("mood", user, mood=f"of {user.key}") for user in users}
    plan = json.loads(paced("plan", "--json")[1])
    assert plan["cost"]["waits_for"] == "commits the relay takes (3 an hour)"
    planned = datetime.fromisoformat(plan["cost"]["finishes_at"])
    assert json.loads(paced("plan", "--relay-events", "0", "--json")[1])["cost"]["waits_for"] == "the speed of the PDS"

    assert synced(paced) == {"created": 3, "deferred": 2}
    entries = [slice_.entry("mood", documents[user.key]) for user in users]
    waiting = [entry for entry in entries if entry.state is State.DEFERRED]
    assert [entry.failure is not None and entry.failure.error_class for entry in waiting] == ["rate-limited"] * 2
    for entry in waiting:
        assert entry.deferred_until is not None
        assert timedelta(0) <= entry.deferred_until - planned < timedelta(minutes=2)
    assert sum(len(slice_.records(user, "mood")) for user in users) == 3

    after = json.loads(paced("plan", "--json")[1])
    assert len(after["operations"]) == 2
    ends = datetime.fromisoformat(after["cost"]["finishes_at"])
    assert abs(ends - max(e.deferred_until for e in waiting if e.deferred_until)) < timedelta(seconds=5)
    assert synced(paced) == {"deferred": 2}

    end_the_hour(slice_)
    assert synced(paced) == {"created": 2}
    assert [len(slice_.records(user, "mood")) for user in users] == [1] * 5
    assert synced(paced) == {}


def test_a_user_in_the_middle_keeps_what_is_written_and_goes_on_where_it_stopped(paced: Run, slice_: Slice) -> None:
    """LIMIT-8, LIMIT-9: three commits of 200 of five."""
    ada = slice_.user("ada")
    slice_.database["moods"].insert_many(
        [{"user": ada.id, "mood": f"mood {n}", "when": datetime(2026, 1, 1, 0, n // 60, n % 60, tzinfo=UTC)}
         for n in range(850)]
    )  # fmt: skip
    assert synced(paced) == {"created": 600, "deferred": 250}
    end_the_hour(slice_)
    assert synced(paced) == {"created": 250}
    assert len(slice_.records(ada, "mood")) == 850


def test_withdrawn_work_goes_while_new_work_waits(paced: Run, slice_: Slice) -> None:
    """LIMIT-9, DEL-1: erasure is counted, and does not wait for a pace of our own."""
    users = [slice_.user(name) for name in ("ada", "bea", "cyd")]
    documents = [slice_.add("mood", user, mood="hello") for user in users]
    assert synced(paced) == {"created": 3}
    for document in documents:
        slice_.change("mood", document, nuked=True)
    slice_.add("mood", users[0], mood="goes in the commit that deletes")
    dan = slice_.user("dan")
    slice_.add("mood", dan, mood="waits")
    assert synced(paced) == {"created": 1, "deleted": 3, "deferred": 1}
    host = slice_.pipeline.engine.host
    assert slice_.pipeline.budgets.read(commits_key(host)).windows[POLICY].remaining == -3
    end_the_hour(slice_)
    assert synced(paced) == {"created": 1}


def test_a_changed_setting_holds_for_the_hour_that_is_under_way(
    paced: Run, slice_: Slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIMIT-9: from 3 to 4 one more goes; with 0 all do, and nothing is counted."""
    for number in range(6):
        slice_.add("mood", slice_.user(f"user{number}"), mood="hello")
    assert synced(paced) == {"created": 3, "deferred": 3}
    monkeypatch.setenv("AC_RELAY_COMMITS_PER_HOUR", "4")
    assert synced(paced) == {"created": 1, "deferred": 2}
    monkeypatch.setenv("AC_RELAY_COMMITS_PER_HOUR", "0")
    assert synced(paced) == {"created": 2}
    window = slice_.pipeline.budgets.read(commits_key(slice_.pipeline.engine.host)).windows[POLICY]
    assert window.limit - window.remaining == 4


def test_partitions_that_wait_are_materialised_and_a_check_says_until_when(
    paced: Run, slice_: Slice, tmp_path: Path
) -> None:
    """LIMIT-9, RUN-7: nothing is red, nothing is run again at once, and the warning names who waits."""
    for name in ("ada", "bea", "cyd", "dan"):
        slice_.add("mood", slice_.user(name), mood=f"of {name}")
    moods = records_key(media_type("mood"))
    with open_instance(tmp_path) as instance, PipelineResource(load_settings) as mirror:
        keys = sorted(account.key for account in slice_.pipeline.accounts.all())
        instance.add_dynamic_partitions(USERS, keys)
        job = build_defs({"pipeline": mirror}, retry_seconds=0).resolve_job_def(SYNC_USERS)
        tags = {RANGE_START: keys[0], RANGE_END: keys[-1]}
        result = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
        assert result.success
        assert set(instance.get_materialized_partitions(moods)) == set(keys)
    (check,) = [
        each
        for each in result.get_asset_check_evaluations()
        if (each.asset_key, each.check_name) == (moods, NOTHING_DEFERRED)
    ]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["deferred"].value == 1
    (hour,) = slice_.pipeline.budgets.read(commits_key(slice_.pipeline.engine.host)).windows.values()
    assert abs(float(str(check.metadata["fits_at"].value)) - hour.reset) < 2


def test_runs_in_parallel_make_as_many_commits_as_one_may(mongo_database: Any, mongo_server: MongoServer) -> None:
    """LIMIT-9, RUN-8: three processes, one hour in the database, none of it left unused."""
    made = run_at_once(RUN, mongo_server.uri, mongo_database.name)
    assert sum(made) == 200
    assert all(made), "they did not run at the same time"
