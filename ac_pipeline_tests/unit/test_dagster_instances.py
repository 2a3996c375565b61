"""What one test leaves behind in Dagster does not reach the next."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ac_pipeline_tests.dagster_instance import open_instance

SET = ContextVar("SET", default="by nobody")
OPENS_ONE = re.compile(r"DagsterInstance\.(ephemeral|from_config|local_temp)\(")
BUILDS_ONE = re.compile(r"^(?!\s*with ).*build_schedule_context\(", re.MULTILINE)


@dg.asset
def one() -> None:
    return


def definitions() -> dg.Definitions:
    job = dg.define_asset_job("job", selection=[one])
    return dg.Definitions([one], jobs=[job], schedules=[dg.ScheduleDefinition(job=job, cron_schedule="@daily")])


def forget_a_context(home: Path) -> None:
    """What a test may do by mistake: the context enters an instance of its own and is never left."""
    with open_instance(home) as instance:
        context = dg.build_schedule_context(
            instance, datetime(2026, 1, 2, tzinfo=UTC), repository_def=definitions().get_repository_def()
        )
        assert context.instance.get_runs_count() == 0
        cycle = [context, instance]
        cycle.append(cycle)  # type: ignore[arg-type]


@contextlib.contextmanager
def nothing_is_collected() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def seen_afterwards() -> Iterator[None]:
    yield
    assert SET.get() == "by nobody"


def test_what_a_test_sets_in_context_variables_ends_with_it(seen_afterwards: None) -> None:
    SET.set("by this test")


@pytest.mark.slow
def test_a_context_that_an_earlier_test_forgot_takes_no_instance_away_when_it_is_collected(tmp_path: Path) -> None:
    """Else the job fails with "Attempted to resolve undefined DagsterInstance weakref"."""
    with nothing_is_collected():
        copy_context().run(forget_a_context, tmp_path / "earlier")
        with open_instance(tmp_path / "later") as instance:
            gc.collect()
            assert definitions().resolve_job_def("job").execute_in_process(instance=instance).success


def test_instances_are_opened_in_one_place_and_schedule_contexts_left() -> None:
    tests = Path(__file__).parents[1]
    texts = {path.relative_to(tests): path.read_text() for path in tests.rglob("*.py") if path != Path(__file__)}
    assert [str(path) for path, text in texts.items() if OPENS_ONE.search(text)] == ["dagster_instance.py"]
    assert [str(path) for path, text in texts.items() if BUILDS_ONE.search(text)] == []
