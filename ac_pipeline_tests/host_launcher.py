"""A run launcher that has the agents of hosts start a process for each run: stands for Docker and Kubernetes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import httpx
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

PROCESS = "host/process"
"""Tag of a run: the address of its process at the agent of its host."""
LOG = "runs.log"
_UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


class HostRunLauncher(RunLauncher, ConfigurableClass):
    """Starts each run on the host that has the fewest, of those that answer.

    Args:
        agents: Their addresses.
    """

    def __init__(self, agents: Sequence[str], inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._agents = agents
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:
        return {"agents": [str]}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> HostRunLauncher:
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        assert context.job_code_origin is not None
        argv = ExecuteRunArgs(context.job_code_origin, run.run_id, self._instance.get_ref()).get_command_args()
        argv = [context.job_code_origin.repository_origin.executable_path, "-m", *argv[argv.index("dagster") :]]
        # As Docker's launcher: the variables of the daemon.
        asked = {"argv": argv, "environment": dict(os.environ), "log": LOG}
        for agent in self._idlest():
            try:
                answer = httpx.post(agent, json=asked, trust_env=False).raise_for_status().json()
            except httpx.TransportError:
                continue
            self._instance.add_run_tags(run.run_id, {PROCESS: f"{agent}/{answer['pid']}"})
            return
        raise dg.DagsterInvariantViolationError("no host answers")

    def _idlest(self) -> Iterator[str]:
        runs = self._instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
        taken = Counter(run.tags.get(PROCESS, "").rpartition("/")[0] for run in runs)
        yield from sorted(self._agents, key=lambda agent: taken[agent])

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return bool(httpx.delete(run.tags[PROCESS], trust_env=False).is_success)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        try:
            alive = httpx.get(run.tags[PROCESS], trust_env=False).json()["alive"]
        except httpx.TransportError:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "Its host does not answer.")
        return CheckRunHealthResult(WorkerStatus.RUNNING if alive else WorkerStatus.FAILED)
