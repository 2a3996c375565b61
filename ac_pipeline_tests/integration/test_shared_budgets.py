"""Budgets in several processes at once, as the runs of one Dagster are."""

from __future__ import annotations

import time
from typing import Any

from ac_pipeline.atproto.rate_limits import Budget, Charge
from ac_pipeline.mongo.ledger.collections import MongoBudgetStore
from ac_pipeline_tests.conftest import MongoServer
from ac_pipeline_tests.integration.processes import run_at_once

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
    sent = run_at_once(RUN, mongo_server.uri, mongo_database.name)
    assert sum(sent) == LIMIT
    assert all(sent), "they did not run at the same time"
    assert [window.remaining for window in earlier.known(UPLOADS).values()] == [0]
