"""How many connections of PostgreSQL one Dagster takes while many runs are under way, and what comes of too few.

Web server, daemon and code server are processes of their own, and so is Celery's worker, with a process for each run;
with `--kind process` runs are processes of the code server. Every run writes records of one user into the PDS, and is
held there until all are: so all are under way at once, and write their events at once when they are let go. Connections
are counted by the server's log (`postgres_connections.py`), and as pg_stat_activity shows them meanwhile. Then users
make more, and while these runs write their events Dagster's role may have a few connections only. Says what it saw and
what it expected; the exit code is 1 when they differ.

Run it with `make bench-connections`; `RUNS=20` takes a third of the time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from bson import ObjectId
from sqlalchemy import create_engine, text

from ac_pipeline.local.services.pds_accounts import PdsAccounts
from ac_pipeline.local.services.stack import HANDLE_DOMAIN, LocalServices
from ac_pipeline.mongo.database import connect
from ac_pipeline.settings import Settings
from ac_pipeline.wiring import open_pipeline
from ac_pipeline_tests.benchmarks.backfill import ACCOUNTS_AT_ONCE, PATIENCE, Findings, say, timed
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.dagster_home import Ui
from ac_pipeline_tests.dagster_services import CODE_SERVER, DAEMON, WEB_SERVER, WORKER, DagsterServices
from ac_pipeline_tests.hosts import Redis, celery_launcher
from ac_pipeline_tests.pds_gate import Held, PdsGate
from ac_pipeline_tests.postgres_connections import ALL, Connection, connections, held, log_connections, opened, peaks
from ac_pipeline_tests.postgres_server import PostgresServer, postgres_server_in

MOODS = ["atproto", "moods"]
ROLE = "dagster"
MAX_CONNECTIONS = 500
"""More than can be needed, so that none is refused while they are counted."""
QUESTIONS = 40
"""How many pages ask the web server at once."""
REST_SECONDS = 5.0
SHORTAGE_SECONDS = 30.0
"""Longer than a run tries to get a connection: 11 seconds, for each event that has to be written."""
_PAGE = """{ runsOrError(limit: 50) { ... on Runs { results { id status tags { key value }
  stats { ... on RunStatsSnapshot { stepsSucceeded } } } } }
  assetNodes { id assetKey { path } assetMaterializations(limit: 1) { runId } } }"""


@dataclass(slots=True)
class Phase:
    """What was seen between two moments."""

    name: str
    begin: float
    end: float = 0.0
    shown: Counter[str] = field(default_factory=Counter)  # The most that pg_stat_activity showed at once


class Watch:
    """Looks at pg_stat_activity all the time, as long as the context lasts."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server, self._database = server, database
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append(Phase(name, time.time()))
        try:
            with timed(name):
                yield
        finally:
            self.phases[-1].end = time.time()

    def _look(self) -> None:
        asked = text(
            "SELECT application_name, count(*) FROM pg_stat_activity"
            f" WHERE datname = '{self._database}' AND usename = '{ROLE}' GROUP BY 1"
        )
        engine = create_engine(self._server.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            while not self._over.wait(0.01):
                seen = Counter({str(name): int(count) for name, count in connection.execute(asked)})
                seen[ALL] = seen.total()
                if self.phases and not self.phases[-1].end:
                    self.phases[-1].shown |= seen
        engine.dispose()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Bench:
    """One Dagster, and users of whom each is a run of its own."""

    def __init__(self, stack: ExitStack, folder: Path, runs: int, kind: str) -> None:
        self.stack, self.runs, self.kind = stack, runs, kind
        services = LocalServices(folder)
        stack.callback(services.down)
        addresses = services.up()
        self.gate = stack.enter_context(PdsGate(addresses.pds))
        self.database = connect(addresses.mongo)["bench"]
        with postgres_server_in(folder / "postgres") as server:
            server.execute(f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}")
        self.server = stack.enter_context(postgres_server_in(folder / "postgres"))
        self.server.execute(f"CREATE ROLE {ROLE} LOGIN")
        self.name = self.server.create_database()
        self.server.execute(f"ALTER DATABASE {self.name} OWNER TO {ROLE}")
        with PdsAccounts(addresses.pds, addresses.pds_admin_password) as accounts, timed(f"{runs} users"):
            self.users = self._settle(accounts)
        settings = Settings.model_validate(
            {
                "mongodb_connection_string": addresses.mongo,
                "mongodb_name": "bench",
                "pds_url": self.gate.url,
                "dagster_home": folder / "dagster",
                "dagster_postgres_url": self.server.url(self.name).replace("postgres:@", f"{ROLE}:@"),
                "ac_pool_limits": f"encoding={runs},pds={runs},changed={runs}",
                "ac_relay_commits_per_hour": 0,
                "ac_pds_timeout_seconds": 10 * PATIENCE,
                "ac_answer_seconds": 10 * PATIENCE,
            }
        )
        self.pipeline = stack.enter_context(open_pipeline(settings))
        runs_at_once = {
            "max_concurrent_runs": runs,
            "tag_concurrency_limits": [{"key": "dagster/backfill", "limit": runs}],
        }
        variables = {}
        launcher: dict[str, Any] = {}
        if kind == "celery":
            url = stack.enter_context(Redis(folder / "redis")).url
            variables = {"CELERY_BROKER_URL": f"{url}/0", "CELERY_RESULT_BACKEND": f"{url}/1"}
            launcher = celery_launcher()
        changes = {**launcher, "concurrency": {"runs": runs_at_once}}
        self.home = stack.enter_context(DagsterServices(settings, changes=changes, variables=variables))

    def _settle(self, accounts: PdsAccounts) -> dict[str, str]:
        """Users, and between each two somebody without an account, so that no two are in one run; key -> DID."""
        names = [f"user-{number:04}" for number in range(2 * self.runs)]
        real = names[::2]
        with ThreadPoolExecutor(ACCOUNTS_AT_ONCE) as pool:
            made = dict(
                zip(real, pool.map(lambda name: accounts.create(f"{name}{HANDLE_DOMAIN}", "x" * 20), real), strict=True)
            )
        login = {name: {"atproto": {"did": one.did, "password": one.password}} for name, one in made.items()}
        self.database["users"].insert_many(
            [{"_id": name, "code": f"ac{name}", **login.get(name, {})} for name in names]
        )
        self.database["@handles"].insert_many([{"_id": name, "handle": name} for name in names])
        return {name: one.did for name, one in made.items()}

    def start(self) -> Ui:
        log_connections(self.server)
        for part in (CODE_SERVER, DAEMON, WEB_SERVER):
            self.home.start_part(part)
        if self.kind == "celery":
            self.home.start_part(WORKER, CELERY_WORKER_CONCURRENCY=str(self.runs))
        ui = self.home.ui()
        ui.start_sensor("users_sensor")
        ui.wait_for_keys(MOODS, {account.key for account in self.pipeline.accounts.all()}, PATIENCE)
        return ui

    def hold(self, ui: Ui, users: dict[str, str]) -> tuple[str, list[Held]]:
        """Give users something to publish, and launch a backfill; its id, and the answers that are kept back."""
        document = {"mood": "many at once", "when": datetime.now(UTC)}
        self.database["moods"].insert_many([{"_id": ObjectId(), "user": name, **document} for name in users])
        kept = [self.gate.keep_back(did, 1) for did in users.values()]
        return ui.launch_backfill([MOODS], list(users)), kept


def ask_pages(url: str, questions: int) -> None:
    """As many people as that look at runs and assets at once, three times each."""

    def look(_: int) -> None:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
            for _ in range(3):
                http.post("/graphql", json={"query": _PAGE}).raise_for_status()

    with ThreadPoolExecutor(questions) as pool:
        list(pool.map(look, range(questions)))


def measure(bench: Bench, findings: Findings) -> None:
    watch = bench.stack.enter_context(Watch(bench.server, bench.name))
    with timed("Dagster, and its sensor adds the users"):
        ui = bench.start()
    with watch.phase("services at rest"):
        time.sleep(REST_SECONDS)
    rest = time.time()
    with watch.phase(f"{QUESTIONS} pages at once"):
        ask_pages(bench.home.url, QUESTIONS)
    first = dict([next(iter(bench.users.items()))])
    with watch.phase("one run alone"):
        backfill, kept = bench.hold(ui, first)
        for each in kept:
            each.release()
        ui.finish(backfill)
    with watch.phase(f"{bench.runs} runs begin"):
        backfill, kept = bench.hold(ui, bench.users)
        for each in kept:
            each.wait(PATIENCE)
    with watch.phase(f"{bench.runs} runs are under way"):
        time.sleep(REST_SECONDS)
        under_way = sum(run.status == "STARTED" for run in ui.runs(backfill))
    with watch.phase(f"{bench.runs} runs write their events and end"):
        for each in kept:
            each.release()
        ui.finish(backfill)
    found = connections(bench.server, bench.name)
    show(watch.phases, found)
    say(f"    held at rest: {dict(held(found, rest))}")
    findings.expect("runs under way at once", under_way, bench.runs)
    judge(bench, ui, backfill, findings, Counter({name: 1 + (name in first) for name in bench.users}))


def judge(bench: Bench, ui: Ui, backfill: str, findings: Findings, created: Counter[str]) -> None:
    """Wait for the end. Every record was written once, and is linked."""
    findings.expect("the backfill has ended", ui.finish(backfill).status, "COMPLETED_SUCCESS")
    runs = ui.runs(backfill)
    kinds = Counter("first" if run.parent is None else "repeated" for run in runs)
    failed = sum(not run.ended_well for run in runs)
    say(f"    runs: {dict(kinds)}, {failed} of them failed")
    findings.expect("users with other writes than one for each document", [
        name for name, did in bench.users.items() if bench.gate.operations(did) != Counter(create=created[name])
    ], [])  # fmt: skip
    linked = bench.database["moods"].count_documents({"atproto.rkey": {"$exists": True}})
    findings.expect("documents with a link", linked, created.total())


def shortage(bench: Bench, limit: int, findings: Findings) -> None:
    """The same once more, with too few connections while the runs write their events."""
    ui = bench.home.ui()
    backfill, kept = bench.hold(ui, bench.users)
    with timed(f"{bench.runs} runs begin once more"):
        for each in kept:
            each.wait(PATIENCE)
    with timed(f"{SHORTAGE_SECONDS:.0f} seconds with {limit} connections for all"):
        bench.server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {limit}")
        for each in kept:
            each.release()
        time.sleep(SHORTAGE_SECONDS)
        bench.server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
    with timed("and then as many as they want"):
        ui.finish(backfill)
    first = next(iter(bench.users))
    refused = (bench.server.folder / "log").read_text(errors="replace").count("too many connections for role")
    say(f"    {refused} connections were refused")
    findings.expect("connections were refused", refused > 0, True)
    judge(bench, ui, backfill, findings, Counter({name: 2 + (name == first) for name in bench.users}))


def show(phases: list[Phase], found: list[Connection]) -> None:
    """The most connections at once of each phase, by application: by the log, and by pg_stat_activity."""
    most = [peaks(found, phase.begin, phase.end) for phase in phases]
    names = [ALL, *sorted({name for each in most for name in each if each[name]} - {ALL})]
    say()
    say("| at once at most | " + " | ".join(names) + " | all, as pg_stat_activity shows them | opened |")
    say("| --- |" + " --- |" * (len(names) + 2))
    for phase, each in zip(phases, most, strict=True):
        cells = " | ".join(str(each[name]) for name in names)
        say(f"| {phase.name} | {cells} | {phase.shown[ALL]} | {opened(found, phase.begin, phase.end)[ALL]} |")
    say()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="at once")
    parser.add_argument("--kind", choices=["celery", "process"], default="celery", help="what executes them")
    parser.add_argument("--limit", type=int, default=10, help="connections in the shortage; 0 for none")
    options = parser.parse_args()
    findings = Findings()
    say(f"load before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="ac-conn-") as folder, ExitStack() as stack:
        bench = Bench(stack, Path(folder), options.runs, options.kind)
        measure(bench, findings)
        if options.limit:
            shortage(bench, options.limit, findings)
        say(f"load after: {os.getloadavg()[0]:.1f}")
    say(f"{len(findings.wrong)} expectations failed: {findings.wrong}" if findings.wrong else "All as expected.")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
