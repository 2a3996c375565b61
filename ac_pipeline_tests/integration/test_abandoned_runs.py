"""Runs that nobody works at any more, told from those that somebody does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from ac_pipeline.defs.sensors.abandoned import (
    LAUNCHED,
    RETRIED_AS,
    WILL_RETRY,
    abandoned_runs_sensor,
    fail_abandoned_runs,
    process_start,
    remind_of_retries,
)
from ac_pipeline_tests.dagster_instance import open_instance

Look = Callable[[int], float | None]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path) as made:
        yield made


def seen_in_the_middle(
    instance: dg.DagsterInstance, look: Look, *, launched: bool = True
) -> tuple[list[int], dg.DagsterRunStatus]:
    """What is found while a run is under way, and what the instance says of the run then."""
    found: list[int] = []
    statuses: list[dg.DagsterRunStatus] = []

    @dg.op
    def middle(context) -> None:  # type: ignore[no-untyped-def]
        found.extend(pid for _, pid in fail_abandoned_runs(context.instance, look))
        run = context.instance.get_run_by_id(context.run_id)
        assert run is not None
        statuses.append(run.status)

    @dg.job
    def one() -> None:
        middle()

    one.execute_in_process(instance=instance, tags={LAUNCHED: "{}"} if launched else {})
    return found, statuses[0]


def test_a_run_whose_process_lives_is_left_alone(instance: dg.DagsterInstance) -> None:
    assert seen_in_the_middle(instance, process_start) == ([], dg.DagsterRunStatus.STARTED)


@pytest.mark.parametrize(
    ("look", "gone"),
    [
        (lambda pid: None, True),
        (lambda pid: time.time() + 60, True),
        (lambda pid: time.time() + 3, False),
        (lambda pid: 0.0, False),
    ],
    ids=["no such process", "the number was given again", "clocks differ a little", "the system does not tell"],
)
def test_a_run_without_its_process_has_failed(instance: dg.DagsterInstance, look: Look, gone: bool) -> None:
    """RUN-6: Dagster retries what is reported as failed, and nothing else."""
    found, status = seen_in_the_middle(instance, look)
    assert found == ([os.getpid()] if gone else [])
    assert status is (dg.DagsterRunStatus.FAILURE if gone else dg.DagsterRunStatus.STARTED)


def test_a_run_that_somebody_executes_elsewhere_is_left_alone(instance: dg.DagsterInstance) -> None:
    """Its process may be on another machine, which shares the instance."""
    assert seen_in_the_middle(instance, lambda pid: None, launched=False) == ([], dg.DagsterRunStatus.STARTED)


def test_runs_of_another_launcher_are_not_looked_at() -> None:
    """Their processes are on other machines."""
    with open_instance() as elsewhere:
        assert not isinstance(elsewhere.run_launcher, dg.DefaultRunLauncher)
        assert seen_in_the_middle(elsewhere, lambda pid: None) == ([], dg.DagsterRunStatus.STARTED)


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
    found = [list(remind_of_retries(instance, lambda: time.time() + seconds)) for _ in range(2)]
    assert found == [[failed.run_id] * asked, []]
    assert len(instance.get_records_for_run(failed.run_id, of_type=failures).records) == before + asked


def test_the_sensor_is_on_from_the_start_and_has_nothing_to_say(instance: dg.DagsterInstance) -> None:
    assert abandoned_runs_sensor.default_status is dg.DefaultSensorStatus.RUNNING
    said = abandoned_runs_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "Every run is alive or retried."


def test_a_process_tells_when_it_was_started() -> None:
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = process_start(process.pid)
        assert start is not None
        assert before - 1 < start < time.time() + 1
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_start(process.pid) is None
    assert process_start(process.pid) is None
