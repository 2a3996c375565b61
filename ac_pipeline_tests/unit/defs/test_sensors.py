"""The users sensor and the hourly schedule, evaluated by a real Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.defs.partitions import PARTITION, RANGE_END, RANGE_START, USERS
from ac_pipeline.defs.schedules import ranges, sync_every_hour
from ac_pipeline.defs.sensors.users import users_sensor
from ac_pipeline.errors import ServiceUnreachable
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def stored_instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """On disk: a schedule opens the instance by itself."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


class Ticks:
    """Ticks of the users sensor one after another, their requests carried out."""

    def __init__(self, instance: dg.DagsterInstance, mirror: ScriptedMirror) -> None:
        self.instance, self.mirror, self.cursor = instance, mirror, None
        self.definitions = build_defs({"mirror": mirror})

    def tick(self) -> dg.SensorResult:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=self.definitions)
        result = users_sensor(context, mirror=self.mirror)
        assert isinstance(result, dg.SensorResult)
        for request in result.dynamic_partitions_requests or ():
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(USERS, request.partition_keys)
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(USERS, key)
        self.cursor = result.cursor
        return result

    @property
    def keys(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(USERS))

    def queued_run(self, tags: dict[str, str]) -> dg.DagsterRun:
        return self.instance.create_run_for_job(self.definitions.resolve_job_def(SYNC_USERS), tags=tags)


@pytest.fixture
def ticks(instance: dg.DagsterInstance) -> Ticks:
    return Ticks(instance, ScriptedMirror("ada", "art-guest", "bea"))


def test_the_sensor_adds_new_users_removes_vanished_ones_and_then_rests(ticks: Ticks) -> None:
    """RUN-4, RUN-11."""
    ticks.tick()
    assert ticks.keys == ["ada", "art-guest", "bea"]
    assert not ticks.tick().dynamic_partitions_requests
    del ticks.mirror.known["ada"]
    ticks.mirror.known["cyd"] = Account("auth0|cyd", "cyd")
    ticks.tick()
    assert ticks.keys == ["art-guest", "bea", "cyd"]


def test_a_key_that_passed_to_another_user_is_run_once_at_once(ticks: Ticks) -> None:
    ticks.tick()
    ticks.mirror.known["bea"] = Account("auth0|another", "bea")
    requests = ticks.tick().run_requests or []
    assert [(request.partition_key, request.run_key) for request in requests] == [("bea", None)]
    assert not ticks.tick().run_requests


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        ({PARTITION: "bea"}, {"bea"}),
        ({RANGE_START: "ada", RANGE_END: "bea"}, {"ada", "art-guest", "bea"}),
        ({RANGE_START: "ada", RANGE_END: "ada"}, {"ada"}),
        ({}, set()),
    ],
    ids=["one", "range", "another", "none"],
)
def test_a_user_whose_run_waits_keeps_the_key_until_it_is_done(
    ticks: Ticks, tags: dict[str, str], kept: set[str]
) -> None:
    """RUN-4: deleting a partition under a run fails that run."""
    ticks.tick()
    run = ticks.queued_run(tags)
    ticks.mirror.known.clear()
    ticks.tick()
    assert set(ticks.keys) == kept
    ticks.instance.report_run_canceled(run)
    ticks.tick()
    assert ticks.keys == []


def test_a_failed_read_of_the_accounts_changes_no_key(ticks: Ticks) -> None:
    """DEL-5."""
    ticks.tick()
    ticks.mirror.broken = ServiceUnreachable("MongoDB does not answer")
    with pytest.raises(ServiceUnreachable):
        ticks.tick()
    assert len(ticks.keys) == 3


def test_the_schedule_requests_all_known_keys_in_ranges_and_adds_none(stored_instance: dg.DagsterInstance) -> None:
    """RUN-10, RUN-11: what the requests name, Dagster can run; the next hour's requests are others."""
    keys = [f"u{number}" for number in range(130)]
    stored_instance.add_dynamic_partitions(USERS, keys)
    mirror = ScriptedMirror(*keys)
    definitions = build_defs({"mirror": mirror})

    def tick(hour: int) -> list[dg.RunRequest]:
        context = dg.build_schedule_context(
            instance=stored_instance,
            repository_def=definitions.get_repository_def(),
            scheduled_execution_time=datetime(2026, 1, 2, hour, tzinfo=UTC),
        )
        return list(sync_every_hour.evaluate_tick(context).run_requests or [])

    requests = tick(3)
    assert [(each.tags[RANGE_START], each.tags[RANGE_END]) for each in requests] == [("u0", "u119"), ("u120", "u129")]
    assert not {each.run_key for each in requests} & {each.run_key for each in tick(4)}
    assert stored_instance.get_dynamic_partitions(USERS) == keys
    job = definitions.resolve_job_def(SYNC_USERS)
    assert job.execute_in_process(instance=stored_instance, tags=requests[1].tags).success
    assert sorted(mirror.turns) == sorted(keys[120:])


def test_the_schedule_waits_for_the_runs_of_its_last_tick(stored_instance: dg.DagsterInstance) -> None:
    stored_instance.add_dynamic_partitions(USERS, ["ada"])
    definitions = build_defs({"mirror": ScriptedMirror("ada")})
    job = definitions.resolve_job_def(SYNC_USERS)
    stored_instance.create_run_for_job(job, tags={"dagster/schedule_name": "sync_every_hour"})
    context = dg.build_schedule_context(instance=stored_instance, repository_def=definitions.get_repository_def())
    (answer,) = sync_every_hour(context)
    assert isinstance(answer, dg.SkipReason)


@pytest.mark.parametrize(
    ("keys", "runs"), [(0, 0), (1, 1), (120, 1), (121, 2), (4_201, 36), (12_000, 100), (12_001, 100)]
)
def test_a_tick_requests_at_most_a_hundred_runs_for_any_number_of_users(keys: int, runs: int) -> None:
    """RUN-3, RUN-10."""
    named = [str(number) for number in range(keys)]
    found = list(ranges(named))
    assert len(found) == runs
    assert [key for first, last in found for key in named[int(first) : int(last) + 1]] == named
