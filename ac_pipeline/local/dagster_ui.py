"""A running Dagster, as the demo drives it: its GraphQL, over HTTP, in a few calls. Starting it is `demo.py`'s."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from ac_pipeline.errors import PipelineError, ServiceUnreachable

LOCATION = "ac_pipeline"
REPOSITORY = "__repository__"

_RUNNING = {"REQUESTED", "CANCELING", "FAILING"}
_ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
SUCCEEDED = "SUCCESS"

_LOADED = """{ workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
_START = """mutation($which: %(Kind)sSelector!) { start%(Kind)s(%(kind)sSelector: $which) {
  __typename ... on Error { message } } }"""
_AUTOMATION = """query($which: RepositorySelector!) { repositoryOrError(repositorySelector: $which) {
  ... on Repository { sensors { name } schedules { name } } } }"""
_KEYS = "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { partitionKeys } } }"
_ASSETS = "{ assetNodes { assetKey { path } isExecutable } }"
_LAUNCH = """mutation($what: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $what) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message } } }"""
_BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  __typename ... on Error { message }
  ... on PartitionBackfill { status error { message } assetBackfillData { assetBackfillStatuses {
    ... on AssetPartitionsStatusCounts { assetKey { path } targeted: numPartitionsTargeted
      running: numPartitionsInProgress done: numPartitionsMaterialized failed: numPartitionsFailed } } } } } }"""
_BACKFILLS = """{ partitionBackfillsOrError(limit: 20) { ... on PartitionBackfills { results { id status } } } }"""
_COUNTS = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  latestMaterializationByPartition { partition metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""

_LAUNCH_JOB = """mutation($what: ExecutionParams!) { launchRun(executionParams: $what) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_RUN = """query($id: ID!, $after: String) { runOrError(runId: $id) {
  __typename ... on Error { message } ... on Run { status } }
  logsForRun(runId: $id, afterCursor: $after, limit: 1000) { ... on EventConnection { cursor events {
    ... on LogMessageEvent { message } } } } }"""
_CHECKS = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { evaluation {
    success severity description metadataEntries { label ... on IntMetadataEntry { intValue } } } } } } } } } }"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is with one asset, in partitions."""

    asset: str
    targeted: int
    running: int
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Backfill:
    status: str
    error: str | None
    assets: tuple[Progress, ...]

    @property
    def running(self) -> bool:
        return self.status in _RUNNING

    @property
    def succeeded(self) -> bool:
        return self.status == "COMPLETED_SUCCESS"


@dataclass(frozen=True, slots=True)
class Check:
    """What an asset's page shows of one of its checks."""

    asset: str  # The asset, `atproto/moods`
    name: str
    passed: bool | None  # True if it passed; None when it was not evaluated since the last materialisation
    severe: bool  # True if it is an error when it does not pass, and no mere warning
    said: str  # Its description of the result
    counts: Mapping[str, int]  # The whole numbers of its metadata


class DagsterUi:
    """One Dagster web server. A context manager that closes its connections. `alive`: True while its process runs;
    asked while waiting."""

    def __init__(self, url: str, alive: Callable[[], bool]) -> None:
        self.url = url
        self.alive = alive
        self._http = httpx.Client(base_url=url, timeout=120.0, trust_env=False)

    def wait_until_loaded(self, seconds: float) -> None:
        """Return when the code location is loaded. Raises ServiceUnreachable (it did not answer in time, or its process
        ended), PipelineError (the code location cannot be loaded; with Dagster's words)."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                entries = self._ask(_LOADED)["workspaceOrError"].get("locationEntries") or []
            except httpx.HTTPError:
                entries = []
            for entry in entries:
                found = entry["locationOrLoadError"] or {}
                if found.get("__typename") == "PythonError":
                    raise PipelineError(f"Dagster cannot load {entry['name']}: {found['message']}")
                if entry["loadStatus"] == "LOADED" and found:
                    return
            self._wait(deadline, "load its code location")

    def start_sensor(self, name: str) -> None:
        self._start("Sensor", name, "Sensor")

    def start_everything(self) -> None:
        which = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
        found = self._ask(_AUTOMATION, {"which": which})["repositoryOrError"]
        for sensor in found["sensors"]:
            self.start_sensor(sensor["name"])
        for schedule in found["schedules"]:
            self._start("Schedule", schedule["name"], "ScheduleStateResult")

    def assets(self, *folders: str) -> list[list[str]]:
        """Keys of the assets that can be made, in these folders."""
        paths = [node["assetKey"]["path"] for node in self._ask(_ASSETS)["assetNodes"] if node["isExecutable"]]
        return sorted(path for path in paths if path[0] in folders)

    def partition_keys(self, asset: Sequence[str]) -> list[str]:
        answer = self._ask(_KEYS, {"key": {"path": list(asset)}})
        return list(answer["assetNodeOrError"]["partitionKeys"])

    def wait_for_keys(self, asset: Sequence[str], keys: set[str], seconds: float) -> list[str]:
        """Return the partition keys of an asset, in their order, as soon as they are these."""
        deadline = time.monotonic() + seconds
        while set(found := self.partition_keys(asset)) != keys:
            self._wait(deadline, f"add {len(keys)} users")
        return found

    def launch_backfill(self, assets: Sequence[Sequence[str]], keys: Sequence[str]) -> str:
        what = {"assetSelection": [{"path": list(path)} for path in assets], "partitionNames": list(keys), "tags": []}
        answer = self._done(_LAUNCH, "launchPartitionBackfill", {"what": what}, "LaunchBackfillSuccess")
        return str(answer["backfillId"])

    def running_backfills(self) -> list[str]:
        results = self._ask(_BACKFILLS)["partitionBackfillsOrError"].get("results") or []
        return [each["id"] for each in results if each["status"] in _RUNNING]

    def backfill(self, id: str) -> Backfill:
        found = self._done(_BACKFILL, "partitionBackfillOrError", {"id": id}, "PartitionBackfill")
        statuses = filter(None, (found["assetBackfillData"] or {}).get("assetBackfillStatuses") or [])
        assets = tuple(Progress("/".join(each.pop("assetKey")["path"]), **each) for each in statuses)
        return Backfill(found["status"], (found["error"] or {}).get("message"), assets)

    def wait_for_backfill(self, id: str, shown: Callable[[Backfill], None], every: float = 1.0) -> Backfill:
        """Watch a backfill to its end, showing each state on the way."""
        while True:
            backfill = self.backfill(id)
            shown(backfill)
            if not backfill.running:
                return backfill
            self._wait(float("inf"), "finish the backfill", every)

    def launch_job(self, name: str, config: Mapping[str, Any] | None = None) -> str:
        """Launch a job as its launchpad does, with this config or the one it has by itself; the run's id."""
        what = {"selector": _selector("jobName", name), "runConfigData": dict(config or {}), "mode": "default"}
        return str(self._done(_LAUNCH_JOB, "launchRun", {"what": what}, "LaunchRunSuccess")["run"]["runId"])

    def wait_for_run(self, id: str, shown: Callable[[str], None]) -> str:
        """Watch a run to its end, showing each line of its log on the way; its status."""
        after: str | None = None
        while True:
            answer = self._ask(_RUN, {"id": id, "after": after})
            found, logs = answer["runOrError"], answer["logsForRun"]
            if found["__typename"] != "Run":
                raise PipelineError(f"Dagster does not know run {id}: {found.get('message', '')}")
            events = logs.get("events") or []
            for message in filter(None, (event.get("message") for event in events)):
                shown(message)
            more = bool(events) and logs.get("cursor") != after
            after = logs.get("cursor") or after
            if found["status"] in _ENDED and not more:
                return str(found["status"])
            if not more:
                self._wait(float("inf"), "finish the run", 0.5)

    def checks(self, asset: Sequence[str]) -> list[Check]:
        """The checks of an asset, in their order, as its page shows them."""
        node = self._ask(_CHECKS, {"key": {"path": list(asset)}})["assetNodeOrError"]
        found = []
        for each in node["assetChecksOrError"].get("checks") or []:
            result = (each["executionForLatestMaterialization"] or {}).get("evaluation") or {}
            severe, said = result.get("severity") == "ERROR", result.get("description") or ""
            passed, counts = result.get("success"), _whole_numbers(result)
            found.append(Check("/".join(asset), each["name"], passed, severe, said, counts))
        return found

    def counts(self, asset: Sequence[str]) -> dict[str, int]:
        """Sums of the whole numbers that the last materialisation of each partition shows."""
        sums: Counter[str] = Counter()
        node = self._ask(_COUNTS, {"key": {"path": list(asset)}})["assetNodeOrError"]
        for event in node["latestMaterializationByPartition"]:
            sums.update(_whole_numbers(event or {}))
        return dict(sums)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> DagsterUi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self._http.post("/graphql", json={"query": query, "variables": dict(variables or {})})
        content = answer.raise_for_status().json()
        if content.get("errors"):
            raise PipelineError(f"Dagster refuses a query: {content['errors'][0].get('message')}")
        return dict(content["data"])

    def _done(self, query: str, field: str, variables: Mapping[str, Any], expected: str) -> dict[str, Any]:
        answer = dict(self._ask(query, variables)[field])
        if answer["__typename"] != expected:
            raise PipelineError(f"Dagster answers {field} with {answer['__typename']}: {answer.get('message', '')}")
        return answer

    def _start(self, kind: str, name: str, expected: str) -> None:
        query = _START % {"Kind": kind, "kind": kind.lower()}
        self._done(query, f"start{kind}", {"which": _selector(f"{kind.lower()}Name", name)}, expected)

    def _wait(self, deadline: float, what: str, seconds: float = 0.25) -> None:
        if not self.alive():
            raise ServiceUnreachable(f"Dagster ended before it could {what}")
        if time.monotonic() > deadline:
            raise ServiceUnreachable(f"Dagster did not {what} in time")
        time.sleep(seconds)


def _selector(name: str, value: str) -> dict[str, str]:
    return {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, name: value}


def _whole_numbers(shown: Mapping[str, Any]) -> dict[str, int]:
    """Those of the metadata of a materialisation or a check, by label."""
    entries = shown.get("metadataEntries") or []
    return {entry["label"]: entry["intValue"] for entry in entries if entry.get("intValue") is not None}
