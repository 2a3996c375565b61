"""Dagster's Celery launcher of runs, which tells a run whose worker is gone from one that is at work.

That of dagster-celery 0.29.27 believes what was last written of a task. Of a machine that lost its power that is
"started" for ever, and the backfill never ends; so it is of a run that could not say how it ended. And a run that
somebody terminates counts as failed there, and is repeated.
"""

import time
from typing import Any

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus  # where launchers are extended; no public name
from dagster_celery import launcher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

_ANSWER_SECONDS = 2.0


class CeleryRunLauncher(launcher.CeleryRunLauncher):
    """Starts runs as Celery tasks, and asks their workers for them. `silence_seconds`: how long a worker that does not
    answer, or does not know the run, counts as alive."""

    def __init__(self, silence_seconds: int, **others: Any) -> None:
        super().__init__(**others)
        self._silence_seconds = silence_seconds
        self._silent_since: dict[str, float] = {}

    @classmethod
    def config_type(cls) -> Any:
        inherited: Any = super().config_type()
        return {**inherited, "silence_seconds": dg.Field(int, default_value=30)}

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        found = super().check_run_worker_health(run)
        if found.status is WorkerStatus.SUCCESS:
            # Asked of a run that has not ended; whoever asks looks at the run once more.
            return CheckRunHealthResult(WorkerStatus.FAILED, "Its task ended, and the run could not say how.")
        if found.status is not WorkerStatus.RUNNING or self._is_at_work(run):
            self._silent_since.pop(run.run_id, None)
            return found
        since = self._silent_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < self._silence_seconds:
            return found
        del self._silent_since[run.run_id]
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"For {self._silence_seconds} seconds no Celery worker has said that it is at this run.",
        )

    def _is_at_work(self, run: dg.DagsterRun) -> bool:
        """True if the worker that began with a run answers that it is still at it."""
        task = self.celery.AsyncResult(run.tags[DAGSTER_CELERY_TASK_ID_TAG])
        worker = task.info["hostname"] if isinstance(task.info, dict) else ""
        asked = self.celery.control.inspect(destination=[worker], timeout=_ANSWER_SECONDS)
        return task.id in (asked.query_task(task.id) or {}).get(worker, {})

    def terminate(self, run_id: str) -> bool:
        """Have the process of a run ended; run monitoring says some time later that it was canceled."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)
