"""The same backfill on one host with SQLite and on two hosts with PostgreSQL, one of which dies in the middle.

The two are those of `hosts.py`: whole runs on the warm workers of Celery, and a process for each run by a launcher of
the kind of Docker's and Kubernetes's. Each has services of its own with the same documents. Says how long each took,
and whether records, keys and links are those of one host; the exit code is 1 when they are not.

Run it with `make bench-hosts`; `USERS=500` takes half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ac_pipeline.local.seed.values import COLLECTIONS
from ac_pipeline.local.services.pds_accounts import PdsAccounts
from ac_pipeline.local.services.stack import LocalServices
from ac_pipeline.mongo.database import connect
from ac_pipeline.settings import Settings
from ac_pipeline.wiring import open_pipeline
from ac_pipeline_tests.benchmarks.backfill import PATIENCE, STAGES, Findings, heal, populate, say, settle, timed
from ac_pipeline_tests.benchmarks.ending import end_in_order
from ac_pipeline_tests.dagster_home import DagsterHome, Run, Ui
from ac_pipeline_tests.harness import Slice
from ac_pipeline_tests.hosts import Hosts, Redis, TwoHostDagster, celery_launcher, host_of, process_launcher
from ac_pipeline_tests.postgres_server import PostgresServer, postgres_server_in
from ac_pipeline_tests.s3_server import S3Server
from ac_pipeline_tests.scripted_storage import ObjectServer

KINDS = {"one": "one host, SQLite", "celery": "two hosts, Celery", "process": "two hosts, a process for each run"}
PROCESSES = 4
"""Of each worker: as many as dagster.yaml allows at once, for two workers."""
POOLS = "encoding=2,pds=4,changed=2"
"""Those of one host for each of two."""
MIDDLE_SECONDS = 2.0
"""So long a run was under way when its host dies."""


@dataclass(slots=True)
class Seen:
    """What came of one backfill.

    Attributes:
        seconds: From its launch to its end.
        cut: From its launch to the power cut; None where there was none.
        noticed: From the power cut until the last run that died was reported as failed.
        served: From the power cut until the last user of these runs was served.
        records: (user, type) -> key -> CID and value; links: item -> link, without the DID.
    """

    status: str = ""
    seconds: float = 0
    runs: int = 0
    cut: float | None = None
    dead: int = 0
    noticed: float = 0
    served: float = 0
    records: dict[tuple[str, str], dict[str, tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


class PowerCut:
    """Watches for a run of records on host two, and cuts its power while that is under way."""

    def __init__(self, hosts: Hosts, server: PostgresServer, database: str) -> None:
        self.hosts, self.server, self.database = hosts, server, database
        self.at: float | None = None
        self.dead: set[str] = set()

    def look(self, ui: Ui, backfill: str) -> None:
        """One look at the runs."""
        if self.at is not None:
            return
        running = [run for run in ui.runs(backfill) if run.status == "STARTED" and run.started]
        there = [run for run in running if self._where(run.id) is self.hosts.two]
        records = [run for run in there if run.assets[0].startswith("atproto/")]
        if any(time.time() - (run.started or 0) > MIDDLE_SECONDS for run in records):
            self.hosts.two.cut_power()
            self.at = time.time()
            self.dead = {run.id for run in there}
            say(f"    host two is dead, and with it {len(self.dead)} of {len(running)} runs under way")

    def _where(self, run: str) -> object:
        return host_of(run, self.hosts, self.server, self.database)

    def judge(self, seen: Seen, ui: Ui, runs: list[Run], keys: list[str], launched: float) -> None:
        """Note how long it took until the dead were noticed and their users served."""
        if self.at is None:
            return
        dead = [run for run in runs if run.id in self.dead and not run.ended_well]
        seen.cut, seen.dead = self.at - launched, len(dead)
        for run in dead:
            seen.noticed = max(seen.noticed, (run.ended or 0) - self.at)
            for asset in run.assets:
                times = ui.times(asset.split("/"))
                seen.served = max(seen.served, *(times[key] - self.at for key in run.keys(keys) if key in times))


def measure(kind: str, users: int, heavy: int, folder: Path, cut: bool) -> Seen:
    """One backfill on services of its own."""
    population, seen = populate(users, heavy), Seen()
    services = LocalServices(folder)
    with ExitStack() as stack:
        stack.callback(services.down)
        addresses = services.up()
        storage = stack.enter_context(ObjectServer())
        s3 = S3Server()
        stack.callback(s3.close)
        accounts = stack.enter_context(PdsAccounts(addresses.pds, addresses.pds_admin_password))
        settings = Settings.model_validate(
            {
                "mongodb_connection_string": addresses.mongo,
                "mongodb_name": "bench",
                "pds_url": addresses.pds,
                "ac_media_url": storage.url_template,
                "ac_renditions_url": s3.make_bucket(),
                **{name.lower(): value for name, value in s3.settings.items()},
                "dagster_home": folder / "dagster",
                "ac_relay_commits_per_hour": 0,  # no relay reads this PDS, and its speed is what is measured
                **({} if kind == "one" else {"ac_pool_limits": POOLS}),
            }
        )
        database = connect(addresses.mongo)["bench"]
        with timed(f"{KINDS[kind]}: {users} users, {len(population.items)} documents"):
            settle(population, database, accounts, storage)
            heal(population, storage)
        pipeline = stack.enter_context(open_pipeline(settings))
        power: PowerCut | None = None
        home = DagsterHome(settings, retry_seconds=5)
        if kind != "one":
            hosts = stack.enter_context(Hosts(folder))
            say(f"    hosts are {'namespaces' if hosts.apart else 'trees of processes at one address'}")
            postgres = stack.enter_context(postgres_server_in(folder / "postgres"))
            name = postgres.create_database()
            power = PowerCut(hosts, postgres, name) if cut else None
            home = two_hosts(kind, stack, hosts, settings, hosts.shared_postgres(postgres, name))
        stack.enter_context(home)
        with timed("Dagster, and its sensor adds the users"):
            ui = home.start()
            ui.start_sensor("users_sensor")
            assets = ui.assets(*STAGES)
            keys = ui.wait_for_keys(assets[0], {account.key for account in pipeline.accounts.all()}, PATIENCE)
        with timed("The backfill"):
            launched = time.time()
            backfill = ui.launch_backfill(assets, keys)
            ended = ui.wait_for_backfill(backfill, lambda _: power.look(ui, backfill) if power else None, 0.5)
            seen.seconds = time.time() - launched
        runs = ui.runs(backfill)
        seen.status, seen.runs = ended.status, len(runs)
        if power is not None:
            power.judge(seen, ui, runs, keys, launched)
        with timed("Every record, key and link"):
            look(seen, Slice(pipeline, database, SimpleNamespace(url=addresses.pds)))
    return seen


def two_hosts(kind: str, stack: ExitStack, hosts: Hosts, settings: Settings, database: str) -> DagsterHome:
    """A Dagster on both, its workers started."""
    if kind == "process":
        return TwoHostDagster(hosts, settings, database, process_launcher(hosts), retry_seconds=5)
    url = hosts.shared(stack.enter_context(Redis(settings.dagster_home.parent / "redis")).url)
    variables = {"CELERY_BROKER_URL": f"{url}/0", "CELERY_RESULT_BACKEND": f"{url}/1"}
    home = TwoHostDagster(hosts, settings, database, celery_launcher(), variables=variables, retry_seconds=5)
    for host in (hosts.two, hosts.one):
        home.start_worker(host, PROCESSES)
    return home


def look(seen: Seen, slice_: Slice) -> None:
    """What a client that is not ours reads, and the links in the documents."""
    for account in slice_.pipeline.accounts.all():
        if account.did is None:
            continue
        for type, collection in COLLECTIONS.items():
            seen.records[account.key, type] = slice_.listed(account, type)
            for document in slice_.database[collection].find({"user": account.id}, {"_id": 1}):
                link = slice_.link(type, str(document["_id"]))
                seen.links[f"{type}:{document['_id']}"] = repr(link).replace(str(account.did), "DID")


def compare(found: dict[str, Seen], findings: Findings) -> None:
    """Print them side by side, and what of it is not as expected."""
    say()
    say("| | " + " | ".join(KINDS[kind] for kind in found) + " |")
    say("| --- |" + " --- |" * len(found))
    one = found.get("one")

    def row(what: str, *values: object) -> None:
        say(f"| {what} | " + " | ".join(str(value) for value in values) + " |")

    def seconds(name: str) -> list[str]:
        return [f"{getattr(seen, name):.0f}" if seen.cut is not None else "" for seen in found.values()]

    row("backfill, seconds", *(f"{seen.seconds:.0f}" for seen in found.values()))
    row("runs", *(seen.runs for seen in found.values()))
    row("one host dies after, seconds", *seconds("cut"))
    row("runs that died with it", *(seen.dead if seen.cut is not None else "" for seen in found.values()))
    row("noticed after, seconds", *seconds("noticed"))
    row("all users of these runs served after, seconds", *seconds("served"))
    row("records", *(sum(map(len, seen.records.values())) for seen in found.values()))
    row("links", *(sum(link != "None" for link in seen.links.values()) for seen in found.values()))
    if one is not None:
        for what in ("records", "links"):
            row(f"{what} as on one host", *(getattr(seen, what) == getattr(one, what) for seen in found.values()))
    say()
    for kind, seen in found.items():
        findings.expect(f"{KINDS[kind]}: status", seen.status, "COMPLETED_SUCCESS")
        if one is not None and seen is not one:
            findings.expect(f"{KINDS[kind]}: records and keys equal", seen.records == one.records, True)
            findings.expect(f"{KINDS[kind]}: links equal", seen.links == one.links, True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=60, help="20 at least")
    parser.add_argument("--heavy", type=int, default=200, help="documents of the heavy user")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of these")
    parser.add_argument("--no-cut", action="store_true", help="nobody dies")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # the S3 server's
    found: dict[str, Seen] = {}
    for kind in options.kinds.split(","):
        with tempfile.TemporaryDirectory(prefix="ac-hosts-") as folder:
            found[kind] = measure(kind, options.users, options.heavy, Path(folder), not options.no_cut)
    findings = Findings()
    compare(found, findings)
    say(f"{len(findings.wrong)} expectations failed: {findings.wrong}" if findings.wrong else "All as expected.")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
