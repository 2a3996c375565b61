"""Runs that nobody works at any more, told from those that somebody does."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import consume_new_runs_for_automatic_reexecution

from ac_pipeline.defs.jobs import RETRIED_AS, WILL_RETRY
from ac_pipeline.defs.sensors.abandoned import (
    RUN_PROCESS,
    abandoned_runs_sensor,
    fail_abandoned_runs,
    process_is_dead,
    remind_of_retries,
)
from ac_pipeline_tests.dagster_instance import open_instance

_JOB = """
import os, sys
import dagster as dg
from ac_pipeline.defs.sensors.abandoned import marked_in_process_executor

said = os.dup(1)

@dg.op
def wait(context):
    os.write(said, context.run_id.encode() + b"\\n")
    sys.stdin.readline()

@dg.job(executor_def=marked_in_process_executor)
def waiting():
    wait()

if __name__ == "__main__":
    from pathlib import Path
    from ac_pipeline_tests.dagster_instance import open_instance
    with open_instance(Path(sys.argv[1])) as instance:
        dg.execute_job(dg.reconstructable(waiting), instance)
"""
_APART = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path) as made:
        yield made


class Worker:
    """A run in a process of its own that waits until it is told to go on.

    Args:
        instance: Where it runs, on disk.
        apart: In a namespace of process ids of its own, as a container has one. Where the machine allows none, in ours,
            under a mark that names another one.
    """

    def __init__(self, instance: dg.DagsterInstance, *, apart: bool = False) -> None:
        self._instance = instance
        job = Path(instance.root_directory) / "job.py"
        job.write_text(_JOB)
        allowed = apart and subprocess.run([*_APART, "true"], capture_output=True, check=False).returncode == 0
        self.process = subprocess.Popen(
            [*(_APART if allowed else []), sys.executable, str(job), instance.root_directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.run_id = self.process.stdout.readline().strip()
        if apart and not allowed:
            mark = self.run.tags[RUN_PROCESS].replace("/pid:[", "/pid:[9")
            instance.add_run_tags(self.run_id, {RUN_PROCESS: mark})

    @property
    def run(self) -> dg.DagsterRun:
        found = self._instance.get_run_by_id(self.run_id)
        assert found is not None
        return found

    @property
    def status(self) -> dg.DagsterRunStatus:
        return self.run.status

    def finish(self) -> None:
        self.process.communicate("go on\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def worker(instance: dg.DagsterInstance, *, apart: bool = False) -> Iterator[Worker]:
    made = Worker(instance, apart=apart)
    try:
        yield made
    finally:
        made.kill()


@pytest.mark.parametrize("apart", [False, True], ids=["beside us", "in another container"])
def test_a_run_is_left_alone_while_its_process_may_be_alive(instance: dg.DagsterInstance, apart: bool) -> None:
    """GUARD-3: the number of a process means another one, or none, in another container."""
    with worker(instance, apart=apart) as living:
        assert list(fail_abandoned_runs(instance, None)) == []
        assert living.status is dg.DagsterRunStatus.STARTED
        living.finish()
        assert living.status is dg.DagsterRunStatus.SUCCESS
    assert list(fail_abandoned_runs(instance, None)) == []


@pytest.mark.parametrize("apart", [False, True], ids=["beside us", "in another container"])
def test_a_run_without_its_process_has_failed_where_that_can_be_known(
    instance: dg.DagsterInstance, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GUARD-3, RUN-6: Dagster retries what is reported as failed; of another container nothing can be known."""
    with worker(instance, apart=apart) as dead:
        dead.kill()
        assert list(fail_abandoned_runs(instance, "another location")) == []
        with open_instance() as elsewhere, monkeypatch.context() as patch:
            patch.setattr(type(instance), "run_launcher", elsewhere.run_launcher)
            assert list(fail_abandoned_runs(instance, None)) == []
        assert dead.status is dg.DagsterRunStatus.STARTED
        assert list(fail_abandoned_runs(instance, None)) == ([] if apart else [dead.run_id])
        assert dead.status is (dg.DagsterRunStatus.STARTED if apart else dg.DagsterRunStatus.FAILURE)


def test_only_a_mark_of_its_own_from_here_tells_that_a_run_is_abandoned(instance: dg.DagsterInstance) -> None:
    """GUARD-3; RUN-6 after a power cut. In a container, whose names may be those of another one, nothing is known."""
    with worker(instance) as dead:
        dead.kill()
        ours = dead.run.tags[RUN_PROCESS]
        run_id, machine, process = ours.split(" ", 2)
        before = f"earlier/{process.partition('/')[2]}"
        marks = {
            ours: True,
            "": False,
            f"another-run {machine} {process}": False,
            ours.replace("/pid:[", "/pid:[9"): False,
            f"{run_id} another-machine {before}": False,
            f"{run_id} {machine} {before}": machine != "-",
        }
        found = {}
        for mark in marks:
            instance.add_run_tags(dead.run_id, {RUN_PROCESS: mark})
            found[mark] = process_is_dead(dead.run)
        assert found == marks


@pytest.mark.parametrize(
    ("tags", "seconds", "asked"),
    [
        ({WILL_RETRY: "true"}, 25, 1),
        ({WILL_RETRY: "true"}, 15, 0),
        ({WILL_RETRY: "true"}, 86_400 + 10, 0),
        ({WILL_RETRY: "true", RETRIED_AS: "another"}, 25, 0),
        ({WILL_RETRY: "false"}, 25, 0),
        ({}, 25, 0),
    ],
    ids=["forgotten", "not yet", "long ago", "retried", "not to be retried", "nothing promised"],
)
def test_a_retry_that_does_not_come_is_asked_for_once(
    instance: dg.DagsterInstance, tags: dict[str, str], seconds: float, asked: int
) -> None:
    """RUN-6: the daemon looked between the failure's being written and the run's saying so."""

    @dg.op
    def fails() -> None:
        raise dg.Failure("as intended", allow_retries=False)

    @dg.job
    def failing() -> None:
        fails()

    failed = failing.execute_in_process(instance=instance, raise_on_error=False)
    instance.add_run_tags(failed.run_id, tags)
    failures = dg.DagsterEventType.RUN_FAILURE
    before = len(instance.get_records_for_run(failed.run_id, of_type=failures).records)
    assert list(remind_of_retries(instance, "another location", lambda: time.time() + seconds)) == []
    found = [list(remind_of_retries(instance, None, lambda: time.time() + seconds)) for _ in range(2)]
    assert found == [[failed.run_id] * asked, []]
    assert len(instance.get_records_for_run(failed.run_id, of_type=failures).records) == before + asked


@pytest.mark.parametrize(("reason", "asked"), [("RUN_EXCEPTION", 1), ("STEP_FAILURE", 0)])
def test_a_retry_that_the_daemon_could_not_ask_for_is_asked_for_once(
    instance: dg.DagsterInstance, reason: str, asked: int
) -> None:
    """RUN-6: it looked while the code server restarted, and took its promise back."""

    @dg.job
    def nothing() -> None:
        pass

    class Unreachable:
        """Dagster's daemon while the code server is away."""

        def __init__(self, instance: dg.DagsterInstance) -> None:
            self.instance = instance

        def create_request_context(self) -> None:
            raise DagsterUserCodeUnreachableError("no code server")

    run = instance.create_run_for_job(nothing)
    instance.report_run_failed(run)
    instance.add_run_tags(run.run_id, {WILL_RETRY: "true", "dagster/failure_reason": reason})
    records = instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
    daemon: Any = Unreachable(instance)
    list(consume_new_runs_for_automatic_reexecution(daemon, records, logging.getLogger("daemon")))
    (now,) = instance.get_runs(dg.RunsFilter(run_ids=[run.run_id]))
    assert now.tags[WILL_RETRY] == "false"
    found = [list(remind_of_retries(instance, None, lambda: time.time() + 25)) for _ in range(2)]
    assert found == [[run.run_id] * asked, []]


def test_the_sensor_is_on_from_the_start_and_has_nothing_to_say(instance: dg.DagsterInstance) -> None:
    assert abandoned_runs_sensor.default_status is dg.DefaultSensorStatus.RUNNING
    said = abandoned_runs_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "No run of this code location is known to be abandoned."
