"""A real Dagster for tests and benchmarks: `dagster dev` on a home of its own, asked through GraphQL, killed by id.

Web server, daemon, code server and run workers are separate processes, as in production. What runs in them is the
project's definitions; which services they reach is in the settings. What is expected of it all belongs to the tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ac_pipeline.defs.assets.catalog import RETRY_SECONDS
from ac_pipeline.defs.home import environment
from ac_pipeline.local.dagster_ui import LOCATION, REPOSITORY, Backfill, DagsterUi
from ac_pipeline.local.services.processes import LOOPBACK, free_port
from ac_pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0
"""Seconds for anything that takes a few. A busy machine may need many more than usual, and nobody waits for nothing."""
TICK = 30.0
"""Seconds between two looks of Dagster's backfill daemon, the first at its start. They are written into 1.13.27: no
setting shortens them."""

_PARTING = 40.0
"""Seconds `ac_pipeline.defs.home` has to stop everything; it takes 26 at most."""

QUICK: Mapping[str, Any] = {
    "run_monitoring": {"poll_interval_seconds": 1},
    "run_coordinator": {"config": {"user_code_failure_retry_delay": 1}},
}
"""Changes to the project's dagster.yaml that make it notice sooner."""
QUICK_ENVIRONMENT = {
    "DAGSTER_CODE_SERVER_AUTO_RESTART_INTERVAL": "1",  # 5 by default
}

_RUNS = """query($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1000) { __typename
  ... on PythonError { message } ... on Runs { results { runId status startTime endTime creationTime
  parentRunId assetSelection { path } tags { key value } } } } }"""
_REEXECUTE = """mutation($what: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $what) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_PARTITIONS = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetPartitionStatuses { ... on DefaultPartitionStatuses {
    materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions } } } } }"""
_TIMES = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  latestMaterializationByPartition { partition timestamp } } } }"""
_ADD_KEY = """mutation($key: String!, $which: RepositorySelector!) { addDynamicPartition(
  partitionsDefName: "users", partitionKey: $key, repositorySelector: $which) {
  __typename ... on PythonError { message } } }"""
_SENSORS = """query($which: RepositorySelector!) {
  sensorsOrError(repositorySelector: $which) { ... on Sensors { results { name sensorState {
  status typeSpecificData { ... on SensorData { lastCursor } }
  ticks(limit: 100) { timestamp status error { message } } } } } } }"""
_JOBS = """query($which: RepositorySelector!) { repositoryOrError(repositorySelector: $which) {
  ... on Repository { jobs { name } } } }"""
_LOGS = """query($id: ID!, $after: String) { logsForRun(runId: $id, afterCursor: $after, limit: 1000) {
  ... on EventConnection { cursor hasMore events { __typename ... on MessageEvent { message } } } } }"""


class Role(StrEnum):
    """What a process of a Dagster is for."""

    KEEPER = "make dev"
    SUPERVISOR = "dagster dev"
    WEB_SERVER = "web server"
    DAEMON = "daemon"
    CODE_SERVER_PROXY = "code server's proxy"
    CODE_SERVER = "code server"
    RUN = "run worker"
    OTHER = "other"


_ROLES = (
    ("-m ac_pipeline.defs.web_server dev", Role.SUPERVISOR),
    ("-m ac_pipeline.defs.web_server", Role.WEB_SERVER),
    ("-m ac_pipeline.defs.daemon", Role.DAEMON),
    ("dagster code-server start", Role.CODE_SERVER_PROXY),
    ("dagster api grpc", Role.CODE_SERVER),
    ("--multiprocessing-fork", Role.RUN),
    ("-m ac_pipeline.defs.home", Role.KEEPER),
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a Dagster."""

    pid: int
    parent: int
    role: Role
    command: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as Dagster's UI shows it. Times are seconds since 1970."""

    id: str
    status: str
    assets: tuple[str, ...]
    tags: Mapping[str, str]
    created: float
    started: float | None
    ended: float | None
    parent: str | None

    @property
    def ended_well(self) -> bool:
        return self.status == "SUCCESS"

    def keys(self, order: Sequence[str]) -> list[str]:
        """The partition keys it is about, given all keys in their order."""
        if "dagster/partition" in self.tags:
            return [self.tags["dagster/partition"]]
        first = order.index(self.tags["dagster/asset_partition_range_start"])
        last = order.index(self.tags["dagster/asset_partition_range_end"])
        return list(order[first : last + 1])


@dataclass(frozen=True, slots=True)
class Partitions:
    """The partitions of one asset by state."""

    materialised: frozenset[str]
    failed: frozenset[str]
    missing: frozenset[str]
    running: frozenset[str]


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor that is on. `ticks`: status of each and what went wrong, newest first."""

    name: str
    cursor: str | None
    ticks: tuple[tuple[str, str], ...]


_REPOSITORY = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}


class Ui(DagsterUi):
    """What tests ask of the web server besides what the demo does."""

    def add_key(self, key: str) -> None:
        """Add a partition key, as `users_sensor` does."""
        self._done(_ADD_KEY, "addDynamicPartition", {"key": key, "which": _REPOSITORY}, "AddDynamicPartitionSuccess")

    def jobs(self) -> list[str]:
        """Names of the jobs of the code location, as the web server knows it; none while that is not there."""
        found = self._ask(_JOBS, {"which": _REPOSITORY})["repositoryOrError"]
        return [each["name"] for each in found.get("jobs", ())]

    def sensors(self) -> dict[str, Sensor]:
        """The sensors that are on, by name."""
        found = {}
        for each in self._ask(_SENSORS, {"which": _REPOSITORY})["sensorsOrError"]["results"]:
            name, state = each["name"], each["sensorState"]
            if state["status"] == "RUNNING":
                ticks = tuple((tick["status"], (tick["error"] or {}).get("message", "")) for tick in state["ticks"])
                found[name] = Sensor(name, (state["typeSpecificData"] or {}).get("lastCursor"), ticks)
        return found

    def runs(self, backfill: str) -> list[Run]:
        """The runs of a backfill, automatic retries included, oldest first."""
        tags = [{"key": "dagster/backfill", "value": backfill}]
        found = self._done(_RUNS, "runsOrError", {"filter": {"tags": tags}}, "Runs")["results"]
        runs = [
            Run(
                id=each["runId"],
                status=each["status"],
                assets=tuple(sorted("/".join(key["path"]) for key in each["assetSelection"] or ())),
                tags={tag["key"]: tag["value"] for tag in each["tags"]},
                created=each["creationTime"],
                started=each["startTime"],
                ended=each["endTime"],
                parent=each["parentRunId"],
            )
            for each in found
        ]
        return sorted(runs, key=lambda run: run.created)

    def unfinished_runs(self) -> list[str]:
        """Ids of the runs that wait or are under way."""
        statuses = ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]
        found = self._done(_RUNS, "runsOrError", {"filter": {"statuses": statuses}}, "Runs")["results"]
        return [each["runId"] for each in found]

    def messages(self, run: str) -> list[str]:
        """The log of a run."""
        said: list[str] = []
        after: str | None = None
        while True:
            page = self._ask(_LOGS, {"id": run, "after": after})["logsForRun"]
            said += [str(event.get("message", "")) for event in page["events"]]
            if not page["hasMore"]:
                return said
            after = page["cursor"]

    def partitions(self, asset: Sequence[str]) -> Partitions:
        answer = self._ask(_PARTITIONS, {"key": {"path": list(asset)}})["assetNodeOrError"]["assetPartitionStatuses"]
        return Partitions(
            materialised=frozenset(answer["materializedPartitions"]),
            failed=frozenset(answer["failedPartitions"]),
            missing=frozenset(answer["unmaterializedPartitions"]),
            running=frozenset(answer["materializingPartitions"]),
        )

    def times(self, asset: Sequence[str]) -> dict[str, float]:
        """Partition key -> when it was materialised last, in seconds since 1970."""
        made = self._ask(_TIMES, {"key": {"path": list(asset)}})["assetNodeOrError"]["latestMaterializationByPartition"]
        return {each["partition"]: float(each["timestamp"]) / 1000 for each in made if each}

    def reexecute_failed(self, backfill: str) -> str:
        """What the button "Re-execute from failure" of a backfill does; the id of the new backfill."""
        what = {"parentRunId": backfill, "strategy": "FROM_FAILURE"}
        answer = self._done(_REEXECUTE, "reexecutePartitionBackfill", {"what": what}, "LaunchBackfillSuccess")
        return str(answer["backfillId"])

    def finish(self, backfill: str) -> Backfill:
        """Wait for the end of a backfill."""
        return self.wait_for_backfill(backfill, lambda _: None, 0.5)


class DagsterHome:
    """One home and, while started, its processes. A context manager that stops them all.

    Args:
        settings: `dagster_home` is its home; the rest names the services.
        retry_seconds: Before the first retry of a step.
        changes: To the project's dagster.yaml, value by value.
        variables: Environment of its processes, on top of ours and the settings.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        retry_seconds: float = RETRY_SECONDS,
        changes: Mapping[str, Any] = {},
        variables: Mapping[str, str] = {},
    ) -> None:
        self.settings = settings
        self.home = settings.dagster_home
        self.log = self.home / "dagster.log"
        self._variables = variables
        self._port = free_port()
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._uis: list[Ui] = []
        self._groups: set[int] = set()
        self.home.mkdir(parents=True, exist_ok=True)
        self._project = self.home / "project"
        self._write_project(retry_seconds, changes)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    def start(self) -> Ui:
        """Start `dagster dev` as `make dev` does, and wait until its code location is loaded. May follow a death."""
        command = [sys.executable, "-m", "ac_pipeline.defs.home", "--project", str(self._project)]
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--port", str(self._port)],
                cwd=self.home,
                env={**environment(self.settings), **self._variables, "DAGSTER_DISABLE_TELEMETRY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._keepers.append(process)
        ui = Ui(self.url, lambda: process.poll() is None)
        self._uis.append(ui)
        ui.wait_until_loaded(PATIENCE)
        return ui

    def processes(self, role: Role | None = None) -> list[Process]:
        """What is alive of everything that was started here, orphans included."""
        rows = _all_processes()
        keepers = {process.pid for process in self._keepers if process.poll() is None}
        # Each keeper gives its `dagster dev` a group of its own, which the orphans of a dead one still belong to.
        self._groups |= {group for _, parent, group, _ in rows if parent in keepers}
        found = [
            Process(pid, parent, _role(command), command)
            for pid, parent, group, command in rows
            if pid in keepers or group in self._groups
        ]
        return [each for each in found if role is None or each.role is role]

    def kill(self, *roles: Role) -> list[int]:
        """SIGKILL every process of these roles; the ids of those there were."""
        pids = [each.pid for each in self.processes() if each.role in roles]
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        return pids

    def kill_all(self) -> None:
        """SIGKILL everything at once, as a power cut does."""
        while pids := [each.pid for each in self.processes()]:
            for pid in pids:
                _signal(pid, signal.SIGKILL)
            for keeper in self._keepers:
                if keeper.pid in pids:
                    keeper.wait()

    def wait_until_down(self) -> None:
        """Wait for Dagster to end by itself, as it does when one of its services died."""
        self._keepers[-1].wait(PATIENCE)

    def terminate(self) -> int:
        """Ask what `make dev` started to end (SIGTERM), and wait for it; its exit code."""
        self._keepers[-1].send_signal(signal.SIGTERM)
        return self._keepers[-1].wait(PATIENCE)

    def stop(self) -> None:
        """End everything that was started here, as Ctrl-C in its terminal would, then by force."""
        self.processes()
        for keeper in self._keepers:
            if keeper.poll() is None:
                keeper.send_signal(signal.SIGINT)
                try:
                    keeper.wait(_PARTING)
                except subprocess.TimeoutExpired:
                    continue
        self.kill_all()
        for ui in self._uis:
            ui.close()

    def __enter__(self) -> DagsterHome:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_project(self, retry_seconds: float, changes: Mapping[str, Any]) -> None:
        self._project.mkdir(exist_ok=True)
        instance = yaml.safe_load((ROOT / "dagster.yaml").read_text())
        (self._project / "dagster.yaml").write_text(yaml.safe_dump(_changed(instance, changes)))
        (self._project / "definitions.py").write_text(
            f"from ac_pipeline.definitions import build_defs\n\ndefs = build_defs(retry_seconds={retry_seconds!r})\n"
        )
        where = {"relative_path": "definitions.py", "attribute": "defs", "location_name": LOCATION}
        (self._project / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_file": where}]}))


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with some of their values changed."""
    inside = {
        name: _changed(values[name], change)
        for name, change in changes.items()
        if isinstance(change, Mapping) and isinstance(values.get(name), Mapping)
    }
    return {**values, **changes, **inside}


def wait_until(happened: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Return as soon as something has happened.

    Raises:
        TimeoutError: It did not in time.
    """
    deadline, pause = time.monotonic() + seconds, 0.05
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still waiting until {what}")
        time.sleep(pause)
        # Whoever asks twenty times a second through a daemon's pause keeps a core busy that others wait for.
        pause = min(1.2 * pause, 0.5)


def _all_processes() -> list[tuple[int, int, int, str]]:
    """Process id, parent, group and command of everything that runs on this machine; dead ones do not count."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,pgid=,stat=,command="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 4) for line in listed.stdout.splitlines()]
    return [
        (int(pid), int(parent), int(group), command)
        for pid, parent, group, state, command in rows
        if not state.startswith("Z")
    ]


def _role(command: str) -> Role:
    return next((role for words, role in _ROLES if words in command), Role.OTHER)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
