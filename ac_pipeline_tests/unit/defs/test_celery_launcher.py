"""The launcher of runs on Celery's workers, with a broker in memory and no worker: which runs it takes for dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import WorkerStatus
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from ac_pipeline.defs import celery_launcher
from ac_pipeline.defs.celery_launcher import CeleryRunLauncher
from ac_pipeline_tests.dagster_instance import open_instance

LAUNCHER = {
    "module": "ac_pipeline.defs.celery_launcher",
    "class": "CeleryRunLauncher",
    "config": {"broker": "memory://", "backend": "cache+memory://", "silence_seconds": 20},
}
WORKER = "runs@two"


@dg.job
def something() -> None:
    pass


class Clock:
    """A clock that stands still until it is set, in place of the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Inspected:
    """What the workers answer, in place of Celery's own question to them."""

    def __init__(self) -> None:
        self.answer: dict[str, dict[str, Any]] | None = None
        self.asked: list[Any] = []

    def __call__(self, destination: list[str], timeout: float) -> Inspected:
        self.asked.append(destination)
        return self

    def query_task(self, task: str) -> dict[str, dict[str, Any]] | None:
        return self.answer


@pytest.fixture
def task() -> str:
    """Celery's backend in memory is one for all of a process."""
    return uuid4().hex


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(celery_launcher, "time", made)
    return made


@pytest.fixture
def workers() -> Inspected:
    return Inspected()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    settings = {"run_launcher": LAUNCHER, "telemetry": {"enabled": False}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with open_instance(tmp_path) as made:
        yield made


@pytest.fixture
def launcher(
    instance: dg.DagsterInstance, task: str, workers: Inspected, monkeypatch: pytest.MonkeyPatch
) -> CeleryRunLauncher:
    """Whose task is at work, as was last written of it."""
    made = instance.run_launcher
    assert isinstance(made, CeleryRunLauncher)
    made.celery.backend.store_result(task, {"pid": 1, "hostname": WORKER}, "STARTED")
    monkeypatch.setattr(made.celery.control, "inspect", workers)
    return made


@pytest.fixture
def run(instance: dg.DagsterInstance, task: str) -> dg.DagsterRun:
    tags = {DAGSTER_CELERY_TASK_ID_TAG: task}
    return instance.create_run_for_job(something, tags=tags, status=dg.DagsterRunStatus.STARTED)


def test_a_run_whose_worker_is_at_it_is_alive_for_ever(
    launcher: CeleryRunLauncher, run: dg.DagsterRun, task: str, workers: Inspected, clock: Clock
) -> None:
    """GUARD-3."""
    workers.answer = {WORKER: {task: ["active", {}]}}
    for clock.now in (0.0, 10.0, 10_000.0):
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert workers.asked == [[WORKER]] * 3


@pytest.mark.parametrize("answer", [None, {}, {WORKER: {}}, {WORKER: {"another": ["active", {}]}}])
def test_a_run_of_which_its_worker_says_nothing_for_long_is_dead(
    answer: Any, launcher: CeleryRunLauncher, run: dg.DagsterRun, workers: Inspected, clock: Clock
) -> None:
    """PROD-2: its machine is gone, or the worker was started anew; and not at the first lost answer."""
    task, found = run.tags[DAGSTER_CELERY_TASK_ID_TAG], []
    for clock.now, workers.answer in (
        (0.0, answer),
        (19.0, answer),
        (19.5, {WORKER: {task: ["active", {}]}}),
        (25.0, answer),
        (44.0, answer),
        (45.0, answer),
    ):
        found.append(launcher.check_run_worker_health(run))
    assert [each.status for each in found] == [*[WorkerStatus.RUNNING] * 5, WorkerStatus.FAILED]
    assert found[-1].msg == "For 20 seconds no Celery worker has said that it is at this run."


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
def test_a_run_whose_task_has_ended_and_that_did_not_is_dead_and_nobody_is_asked(
    state: str, launcher: CeleryRunLauncher, run: dg.DagsterRun, workers: Inspected
) -> None:
    """PROD-2: it could not write how it ended, for want of a connection; it would be under way for ever."""
    task = run.tags[DAGSTER_CELERY_TASK_ID_TAG]
    launcher.celery.backend.store_result(task, OSError("lost") if state == "FAILURE" else 0, state)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
    assert workers.asked == []


def test_a_run_that_is_terminated_is_canceled_and_not_failed(
    launcher: CeleryRunLauncher, run: dg.DagsterRun, instance: dg.DagsterInstance
) -> None:
    """Or Dagster would repeat it."""
    assert launcher.terminate(run.run_id)
    now = instance.get_run_by_id(run.run_id)
    assert now is not None
    assert now.status is dg.DagsterRunStatus.CANCELING
    instance.report_run_canceled(now)
    assert not launcher.terminate(run.run_id)
    assert not launcher.terminate("no-such-run")
