"""Which users have unfinished work."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import dagster as dg
import pytest

from ac_pipeline.defs.assets.catalog import PARTITION, RANGE_END, RANGE_START
from ac_pipeline.defs.jobs import busy_keys
from ac_pipeline_tests.dagster_instance import open_instance

KEYS = ["ada", "bea", "cyd", "dan"]


@dg.op(config_schema={"users": dg.Field([str], is_required=False), "limit": dg.Field(int, is_required=False)})
def work() -> None: ...


@dg.job
def some_users() -> None:
    work()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with open_instance() as made:
        yield made


def queue(
    instance: dg.DagsterInstance, tags: dict[str, str] | None = None, config: dict[str, Any] | None = None
) -> dg.DagsterRun:
    run_config = {"ops": {"work": {"config": config}}} if config is not None else {}
    return instance.create_run_for_job(some_users, tags=tags or {}, run_config=run_config)


@pytest.mark.parametrize(
    ("tags", "config", "busy"),
    [
        ({PARTITION: "bea"}, None, {"bea"}),
        ({RANGE_START: "bea", RANGE_END: "cyd"}, None, {"bea", "cyd"}),
        ({RANGE_START: "cyd", RANGE_END: "cyd"}, None, {"cyd"}),
        ({RANGE_START: "bea", RANGE_END: "gone"}, None, set()),
        ({}, {"users": ["ada", "dan"]}, {"ada", "dan"}),
        ({}, {"users": []}, set()),
        ({}, {"limit": 3}, set()),
        ({}, None, set()),
    ],
    ids=["one", "range", "range of one", "unknown end", "listed", "none listed", "other config", "no users"],
)
def test_users_of_a_queued_run_are_busy_until_it_is_done(
    instance: dg.DagsterInstance, tags: dict[str, str], config: dict[str, Any] | None, busy: set[str]
) -> None:
    """RUN-4: by tag, by range, or by the config of a run that lists its users."""
    run = queue(instance, tags, config)
    assert busy_keys(instance, KEYS).ahead == busy
    instance.report_run_canceled(run)
    assert busy_keys(instance, KEYS).keys == set()


def test_runs_of_a_job_that_writes_nothing_can_be_left_out(instance: dg.DagsterInstance) -> None:
    queue(instance, {PARTITION: "bea"})
    assert busy_keys(instance, KEYS, apart_from={"some_users"}).keys == set()
    assert busy_keys(instance, KEYS, apart_from={"verify_users"}).keys == {"bea"}


class Subset(NamedTuple):
    """Partitions of assets, as a backfill's data has them."""

    partitions_subsets_by_asset_key: dict[dg.AssetKey, Any]


def subset(**keys: set[str]) -> Subset:
    return Subset({dg.AssetKey(name): SimpleNamespace(get_partition_keys=lambda k=k: k) for name, k in keys.items()})


def test_a_user_whom_a_backfill_is_through_with_in_every_asset_may_be_asked_for_again() -> None:
    """DEL-1: the end of a backfill of thousands is not waited for."""
    data = SimpleNamespace(
        target_subset=subset(moods={"ada", "bea", "cyd"}, tapes={"ada", "bea", "cyd"}),
        materialized_subset=subset(moods={"ada", "bea"}, tapes={"ada"}),
        failed_and_downstream_subset=subset(tapes={"bea"}),
    )
    running = SimpleNamespace(status=SimpleNamespace(value="REQUESTED"), asset_backfill_data=data)
    ended = SimpleNamespace(status=SimpleNamespace(value="COMPLETED_SUCCESS"), asset_backfill_data=data)
    unknown = SimpleNamespace(
        status=SimpleNamespace(value="REQUESTED"), asset_backfill_data=None, partition_names=["dan"]
    )
    for backfills, targeted, ahead in (
        ([running, ended], {"ada", "bea", "cyd"}, {"cyd"}),
        ([ended], set(), set()),
        ([running, unknown], set(KEYS), {"cyd", "dan"}),
    ):
        instance: Any = SimpleNamespace(get_runs=lambda _: [], get_backfills=lambda limit, b=backfills: b)
        busy = busy_keys(instance, KEYS)
        assert (busy.keys, busy.ahead) == (targeted, ahead)
