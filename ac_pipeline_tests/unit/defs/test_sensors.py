"""The users sensor, evaluated by a real Dagster."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from ac_pipeline.accounts import Account
from ac_pipeline.definitions import build_defs
from ac_pipeline.defs.assets.catalog import PARTITION, RANGE_END, RANGE_START, USERS
from ac_pipeline.defs.jobs import SYNC_USERS
from ac_pipeline.defs.sensors.users import users_sensor
from ac_pipeline.errors import Misconfigured, PipelineError, ServiceUnreachable
from ac_pipeline_tests.dagster_instance import open_instance
from ac_pipeline_tests.unit.defs.scripted_mirror import ScriptedMirror


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with open_instance() as made:
        yield made


class Ticks:
    """Ticks of the users sensor one after another, their requests carried out."""

    def __init__(self, instance: dg.DagsterInstance, mirror: ScriptedMirror) -> None:
        self.instance, self.mirror, self.cursor = instance, mirror, None
        self.definitions = build_defs({"pipeline": mirror})

    def tick(self) -> dg.SensorResult:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=self.definitions)
        result = users_sensor(context, pipeline=self.mirror)
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


@pytest.mark.parametrize("error", [ServiceUnreachable("MongoDB does not answer"), Misconfigured("another database")])
def test_a_failed_read_of_the_accounts_changes_no_key(ticks: Ticks, error: PipelineError) -> None:
    """DEL-5, GUARD-2."""
    ticks.tick()
    ticks.mirror.broken = error
    with pytest.raises(type(error)):
        ticks.tick()
    assert len(ticks.keys) == 3
