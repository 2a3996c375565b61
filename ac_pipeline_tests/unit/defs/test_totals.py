"""When the mirror is counted: once an hour, and after schedules and backfills."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from ac_pipeline.definitions import defs
from ac_pipeline.defs.assets.totals import COUNT_MIRROR, totals_sensor
from ac_pipeline_tests.dagster_instance import open_instance


class Clockwork:
    """Ticks of the sensor, each with the cursor of the one before."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self.sync = defs.resolve_job_def("sync_users")

    def asked(self) -> bool:
        result = totals_sensor(dg.build_sensor_context(instance=self.instance, cursor=self.cursor))
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor or self.cursor
        return bool(result.run_requests)

    def run(self, **tags: str) -> dg.DagsterRun:
        named = {f"dagster/{name}": value for name, value in tags.items()}
        return self.instance.create_run_for_job(self.sync, tags={"dagster/partition": "ada", **named})


@pytest.fixture
def clockwork() -> Iterator[Clockwork]:
    with open_instance() as instance:
        instance.add_dynamic_partitions("users", ["ada"])
        yield Clockwork(instance)


def test_it_is_counted_once_an_hour(clockwork: Clockwork) -> None:
    """OPER-4."""
    assert clockwork.asked()
    assert not clockwork.asked()
    clockwork.cursor = str(float(clockwork.cursor or 0) - 3_601)
    assert clockwork.asked()


@pytest.mark.parametrize("tag", ["schedule_name", "backfill"])
def test_it_is_counted_when_the_last_run_of_a_schedule_or_backfill_has_ended(clockwork: Clockwork, tag: str) -> None:
    """OPER-4."""
    clockwork.asked()
    first, second = (clockwork.run(**{tag: "it"}) for _ in range(2))
    clockwork.instance.report_run_failed(first)
    assert not clockwork.asked(), "one goes on"
    clockwork.instance.report_run_failed(second)
    assert clockwork.asked()
    assert not clockwork.asked()


def test_runs_of_a_person_are_no_reason(clockwork: Clockwork) -> None:
    clockwork.asked()
    clockwork.instance.report_run_failed(clockwork.run())
    assert not clockwork.asked()


def test_nothing_is_asked_for_while_it_is_being_counted(clockwork: Clockwork) -> None:
    clockwork.instance.create_run_for_job(defs.resolve_job_def(COUNT_MIRROR))
    assert not clockwork.asked()
