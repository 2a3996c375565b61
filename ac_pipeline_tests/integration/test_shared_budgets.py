"""Budgets in several processes at once, as the runs of one Dagster are."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from ac_pipeline.atproto.rate_limits import Budget, Charge
from ac_pipeline.mongo.ledger.collections import MongoBudgetStore
from ac_pipeline_tests.conftest import MongoServer

UPLOADS = "pds.test uploadBlob"
LIMIT = 200

# One run: uploads as long as it may, and says how often that was. Told by a line on stdin when to start.
RUN = f"""
import sys, time
from ac_pipeline.atproto.rate_limits import Budget, Charge
from ac_pipeline.errors import RateLimited
from ac_pipeline.mongo.ledger.collections import MongoBudgetStore
from ac_pipeline.mongo.database import connect

store = MongoBudgetStore(connect(sys.argv[1])[sys.argv[2]]["budgets"])
budget = Budget(clock=time.time, sleep=time.sleep, max_wait=0.0, store=store)
sent = 0
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        budget.reserve((Charge("{UPLOADS}", 1, 3600.0),))
        sent += 1
except RateLimited:
    print(sent)
"""


def test_runs_in_parallel_never_send_more_than_the_server_allows_and_use_all_of_it(
    mongo_database: Any, mongo_server: MongoServer
) -> None:
    """RUN-8, LIMIT-6: three processes, one budget in the database; an earlier run has learned the limit."""
    answer = {
        "ratelimit-limit": str(LIMIT),
        "ratelimit-remaining": str(LIMIT),
        "ratelimit-reset": str(int(time.time()) + 86_400),
        "ratelimit-policy": f"{LIMIT};w=86400",
    }
    earlier = Budget(clock=time.time, sleep=time.sleep, store=MongoBudgetStore(mongo_database["budgets"]))
    earlier.learn(answer, (Charge(UPLOADS, 0, 3600.0),))
    command = [sys.executable, "-c", RUN, mongo_server.uri, mongo_database.name]
    runs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    sent = [int(run.communicate(timeout=120)[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sum(sent) == LIMIT
    assert all(sent), "they did not run at the same time"
    assert [window.remaining for window in earlier.known(UPLOADS).values()] == [0]
